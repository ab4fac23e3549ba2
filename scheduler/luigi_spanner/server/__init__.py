"""HTTP: Luigi's routes in front of whoever answers the calls."""

from luigi_spanner.server.application import MAX_BODY_BYTES, app
from luigi_spanner.server.serving import CannotListen, serve

__all__ = ["MAX_BODY_BYTES", "CannotListen", "app", "serve"]
