"""Run `luigi-spanner` inside the test's process, as its console script does, against what runs in others."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from luigi_spanner import cli


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in (0, 1), self
        return json.loads(self.out)


def command(*arguments: str) -> Ran:
    """`luigi-spanner` with these arguments, to its end."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())
