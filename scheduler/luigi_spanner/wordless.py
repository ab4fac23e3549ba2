"""Exceptions for the log: their kinds and where they were raised, without what they say.

What Luigi's rules and libraries raise may quote what they were given, and with it a parameter that its task declares hidden or
private. Which text is one cannot be told any more, so none of it is logged.
"""

from __future__ import annotations

from luigi_spanner.calls import CallError
from luigi_spanner.stores import StoreError

OURS = (CallError, StoreError)
"""What is worded in this package, and quotes names of arguments and never their values."""


def without_words(error: BaseException, seen: frozenset[int] = frozenset()) -> BaseException:
    """A copy of `error`, and of what led to it, whose traceback says all but the words. `seen`: ids of what it has led to, for
    exceptions may lead to one another in a circle."""
    if isinstance(error, OURS):
        return error
    kind = type(error)
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": None}
    copy: BaseException = type(kind.__name__, (Exception,), named)()
    seen |= {id(error)}
    copy.__cause__ = _copied(error.__cause__, seen)
    copy.__context__ = _copied(error.__context__, seen)
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def _copied(error: BaseException | None, seen: frozenset[int]) -> BaseException | None:
    return None if error is None or id(error) in seen else without_words(error, seen)
