"""The simulation plays the differential tests' scenes, and looks at replicas as their tests do."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

for directory in ("differential", "replicas"):
    if str(TESTS / directory) not in sys.path:
        sys.path.append(str(TESTS / directory))
