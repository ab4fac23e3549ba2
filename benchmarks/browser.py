"""A browser in a process of its own: `python -m benchmarks.browser PORT SECONDS` reloads the visualiser's lists meanwhile.

It prints how many lists it got.
"""

from __future__ import annotations

import sys

from benchmarks.client import play
from benchmarks.sessions import browse


def main(port: str, seconds: str) -> None:
    played = play([int(port)], [browse()], seconds=float(seconds))
    print(played.calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
