"""The build: what setup.cfg says, and `migrations/` shipped inside the wheel as `luigi_spanner/migrations`."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MIGRATIONS = Path("migrations")


class BuildWithMigrations(build_py):
    """Adds the Alembic scripts as package data. An editable install reads them where they are, beside `scheduler/`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, target in self._migrations():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target), preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else outputs + [str(target) for _, target in self._migrations()]

    def _migrations(self) -> list[tuple[Path, Path]]:
        package = Path(self.build_lib) / "luigi_spanner"
        sources = (path for path in sorted(MIGRATIONS.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
        return [(path, package / path) for path in sources]


setup(cmdclass={"build_py": BuildWithMigrations})
