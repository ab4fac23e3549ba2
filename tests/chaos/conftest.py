"""Chaos runs the end-to-end tests' pipeline, record, checker and processes."""

from __future__ import annotations

import sys
from pathlib import Path

ENDTOEND = str(Path(__file__).parents[1] / "endtoend")

if ENDTOEND not in sys.path:
    sys.path.append(ENDTOEND)
