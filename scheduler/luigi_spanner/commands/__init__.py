"""The subcommands of `luigi-spanner` that look after a deployment, one module a group.

Those about a live deployment ask any of its replicas over HTTP (`remote`); those about a store open it themselves. A module adds
its parsers when asked to and imports what is slow to load only when it runs: `luigi-spanner --help` must not wait for Luigi.
"""

from __future__ import annotations

DONE = 0
"""What was asked for is done, or was so already."""

PROBLEM = 1
"""It was looked at, and something is not as it should be; or the state does not allow what was asked for. Nothing was changed."""

IMPOSSIBLE = 2
"""It cannot be done as asked: the command line, the configuration, the store or the replica."""

NOT_FOUND = 3
"""What was named is not there: task, worker, resource, entry of the journal. Nothing was changed."""

UNCLEAR = 4
"""A change was asked for, and no answer came in time: it may have been made or not."""

BUG = 5
"""Luigi Spanner itself is at fault: it met what nobody has thought of."""

EXIT_CODES = """\
exit codes: 0 done; 1 looked at, and there is a problem, or the state does not allow it; 2 cannot be done as asked;
3 what was named is not there; 4 no answer came to a change in time, it may have been made or not; 5 a bug of luigi-spanner,
with LUIGI_SPANNER_TRACEBACK=1 it shows where; 130 interrupted
"""


class Failed(Exception):
    """A command that ends with a sentence on stderr and an exit code of its own."""

    code = IMPOSSIBLE


class Impossible(Failed):
    code = IMPOSSIBLE


class Problem(Failed):
    code = PROBLEM


class NotFound(Failed):
    code = NOT_FOUND


class Unclear(Failed):
    code = UNCLEAR
