"""Servers are started as the HTTP tests start them."""

from __future__ import annotations

import sys
from pathlib import Path

HTTP = str(Path(__file__).parents[1] / "http")

if HTTP not in sys.path:
    sys.path.append(HTTP)
