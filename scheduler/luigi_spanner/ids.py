"""Random ids. Whoever needs them takes a function that makes them; this is the one for real life."""

from __future__ import annotations

import os


def random_id() -> str:
    """32 hexadecimal digits, 128 bits from the system's source of randomness."""
    return os.urandom(16).hex()
