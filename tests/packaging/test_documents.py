"""What the documents point at exists: files, make targets, command-line options, locked dependencies."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from luigi_spanner.cli import luigid, main
from luigi_spanner.config import PREFIX, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()


def documents() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(path for room in ("docs", "examples", "helm") for path in (ROOT / room).rglob("*.md"))]
    return sorted(path.relative_to(ROOT) for path in found)


def anchors(document: Path) -> set[str]:
    """Names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links(text: str) -> Iterator[str]:
    """Targets of Markdown links outside code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return (match.group(1) for match in re.finditer(r"\]\(([^)\s]+)\)", prose))


@pytest.mark.parametrize("document", documents(), ids=str)
def test_relative_links_resolve(document: Path) -> None:
    path = ROOT / document
    broken = []
    for link in links(path.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_help_lists_every_make_target() -> None:
    shown = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    assert {line.split()[0] for line in shown.splitlines()} == targets()


@pytest.mark.parametrize("document", documents(), ids=str)
def test_make_targets_in_documents_exist(document: Path) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= targets()


def test_readme_has_a_row_for_every_setting() -> None:
    rows = set(re.findall(r"^\| `--([a-z-]+)[^`]*` \| `([A-Z_]+)` \| `([a-z_]+)` \|", README, re.MULTILINE))
    assert rows == {(setting.name.replace("_", "-"), PREFIX + setting.name.upper(), setting.name) for setting in SETTINGS}


OURS = re.compile(r"luigid|luigi-spanner (?:(?:db|task|worker|resource|journal) [a-z]+|[a-z][a-z-]+)")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each use of our commands with an option, on one line of a document, as (command, option)."""
    for line in text.splitlines():
        for part in re.split(r"[`&;]| && ", line):
            found = OURS.search(part)
            if found:
                yield from ((found.group(), option) for option in re.findall(r" (--[a-z-]+)", part[found.end() :]))


USES = sorted({use for path in documents() for use in commands((ROOT / path).read_text())})


@pytest.mark.parametrize(("command", "option"), USES)
def test_options_in_documents_exist(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, arguments = (luigid, []) if command == "luigid" else (main, command.split()[1:])
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--help"])
    assert ended.value.code == 0
    assert re.search(rf"{option}\b", capsys.readouterr().out)


def test_every_dependency_is_locked_within_its_bounds() -> None:
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    extras = configuration["options.extras_require"]
    declared = configuration["options"]["install_requires"] + "".join(extras[name] for name in extras)
    locked = [Requirement(line) for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    for requirement in map(Requirement, declared.strip().splitlines()):
        versions = [str(lock.specifier)[2:] for lock in locked if lock.name.lower() == requirement.name.lower()]
        assert versions, requirement
        assert any(bound.operator in ("<", "==") for bound in requirement.specifier), requirement
        assert all(requirement.specifier.contains(version) for version in versions), requirement
