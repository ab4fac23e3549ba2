"""Servers are started as the HTTP and the end-to-end tests start them."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

for directory in ("http", "endtoend"):
    if str(TESTS / directory) not in sys.path:
        sys.path.append(str(TESTS / directory))
