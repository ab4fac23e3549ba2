"""Random ids. Whoever needs them takes a function that makes them; this is the one for real life."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def random_id() -> str:
    """32 hexadecimal digits, 128 bits from the system's source of randomness."""
    return os.urandom(16).hex()


def replica_name(ids: Callable[[], str]) -> str:
    """A new name for a replica in this process: its machine, its process, and eight digits of the next of `ids`."""
    return f"{socket.gethostname()}/{os.getpid()}/{ids()[:8]}"
