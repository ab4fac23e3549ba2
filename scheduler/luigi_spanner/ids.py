"""Random ids. Whoever needs them takes a function that makes them; this is the one for real life."""

from __future__ import annotations

import uuid


def random_id() -> str:
    """32 hexadecimal digits, 122 bits of them from the system's source of randomness."""
    return uuid.uuid4().hex
