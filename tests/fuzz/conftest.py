"""The fuzz plays the differential tests' scenes, against processes as the end-to-end runs start them."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

for directory in ("differential", "endtoend"):
    if str(TESTS / directory) not in sys.path:
        sys.path.append(str(TESTS / directory))
