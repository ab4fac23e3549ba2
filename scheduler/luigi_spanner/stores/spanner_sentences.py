"""What is wrong with a Spanner database, in one sentence for whoever runs it: the same from a replica and from a command."""

from __future__ import annotations

import os
from collections.abc import Mapping

from google.auth.exceptions import GoogleAuthError

from luigi_spanner.stores import InvalidStore

EMULATOR = "SPANNER_EMULATOR_HOST"
"""Environment variable that sends Google's clients to an emulator, as HOST:PORT."""


def emulator(environ: Mapping[str, str] = os.environ) -> str | None:
    """The emulator's HOST:PORT, None for Cloud Spanner. Raises InvalidStore if it is none."""
    host = environ.get(EMULATOR)
    if not host:
        return None
    name, _, port = host.rpartition(":")
    if not name or "/" in name or not port.isdecimal():
        raise InvalidStore(f"{EMULATOR} is {host!r}, which is no HOST:PORT.")
    return host


def url(database: str) -> str:
    """The store URL of a database."""
    return f"spanner:///{database}"


def missing(database: str) -> str:
    """There is no such database, or no such instance or project."""
    upgrade = f"run `luigi-spanner db upgrade --store {url(database)}`"
    host = emulator()
    if host:
        return f"There is no Spanner database {database} on the emulator at {host}: {upgrade}, which creates it there."
    return f"There is no Spanner database {database}: correct --store, or create the database and then {upgrade}."


def barred(database: str, reason: str) -> str:
    """The server knows the caller and does not let it."""
    return (
        f"Spanner does not let this process use {database} ({_inside(reason)}): give its account "
        "roles/spanner.databaseUser there, and whoever runs `luigi-spanner db` roles/spanner.databaseAdmin."
    )


def credentials(error: GoogleAuthError) -> str:
    """This process has no credentials, or none that work."""
    return (
        f"No credentials for Spanner ({_inside(str(error.args[0] if error.args else error))}): set up Application Default "
        f"Credentials, or set {EMULATOR} to use an emulator."
    )


def silent(database: str, reason: str) -> str:
    """No answer, or none that says more than that it does not go just now."""
    host = emulator()
    remedy = f"start the emulator at {host}, or correct {EMULATOR}" if host else "look at the network and at Spanner's status"
    return f"Spanner does not serve {database} just now ({_inside(reason)}): {remedy}."


def refused(database: str, reason: str) -> str:
    """What was asked for can never be done."""
    return f"Spanner refuses what was asked of {database}: {_inside(reason)}."


def _inside(reason: str) -> str:
    """Somebody else's words, made part of a sentence."""
    return " ".join(reason.split()).rstrip(".")
