"""Store URLs that name nothing: one sentence, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from starting import COMMANDS, told

pytestmark = pytest.mark.slow

FORM = "A store URL looks like sqlite:///file.db, spanner:///projects/... or memory://."
NO_FILE = "A SQLite store needs a file, as in sqlite:///luigi.db; for one that forgets use memory://."
SPANNER = "A Spanner store URL is spanner:///projects/PROJECT/instances/INSTANCE/databases/DATABASE."

URLS = {
    "luigi.db": FORM,
    "sqlite:/luigi.db": FORM,
    "SQLite:///luigi.db": FORM,
    "postgresql://user:secret@host/luigi": "A store URL begins with sqlite, spanner or memory, not with postgresql.",
    "sqlite://luigi.db": "A sqlite store URL has three slashes after the colon and no host.",
    "sqlite://": NO_FILE,
    "sqlite:///:memory:": NO_FILE,
    "sqlite:///luigi.db?mode=ro": "A SQLite store URL is a path and nothing more: it takes no options after a question mark.",
    "sqlite:///a%00b": "A SQLite store URL names no file: a path has no zero byte (%00).",
    "spanner://user:secret@host/projects/p": "A spanner store URL has three slashes after the colon and no host.",
    "spanner:///p/i/d": SPANNER,
    "spanner:///projects/p/instances/i/databases/d?role=r": SPANNER,
    "memory:///luigi.db": "A memory store URL is memory:// or memory://NAME and nothing more.",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_names_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(url, tmp_path, COMMANDS) == URLS[url]
    assert list(tmp_path.iterdir()) == []
