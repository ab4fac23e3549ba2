"""Another release of this package, made of a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from luigi_spanner import migrate

PACKAGE = Path(migrate.__file__).parent

LATER = """
from alembic import op
import sqlalchemy as sa

revision = "{later}"
down_revision = "{head}"


def upgrade():
    {statements}


def downgrade():
    op.drop_table("later")
"""

TABLE = 'op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))'


def later_release(directory: Path, *, fails: bool = False) -> tuple[Path, str]:
    """A source root with the package of a release that has one more revision, which adds a table or `fails` after that; and the
    revision."""
    root = directory / "later"
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = root / PACKAGE.name / "migrations"
    if not scripts.exists():  # a checkout has them elsewhere
        shutil.copytree(migrate.scripts(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    later = f"{int(migrate.head()) + 1:04}"
    statements = [TABLE, 'op.execute("INSERT INTO nowhere VALUES (1)")'] if fails else [TABLE]
    text = LATER.format(later=later, head=migrate.head(), statements="\n    ".join(statements))
    (scripts / "versions" / f"{later}_later.py").write_text(text)
    return root, later
