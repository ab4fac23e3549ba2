"""Writes what the comments of a chart's values.yaml say into its values.schema.json and its README.md. Run by `make chart-docs`.

A comment that begins with `# --` describes the key below it. A key without one is described by its parts.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "luigi-spanner"

BEGIN, END = "<!-- values: written by make chart-docs -->", "<!-- end of values -->"

UNUSED = ("enabled", "global")
"""Keys of the schema alone: a parent chart sets them."""

_KEY = re.compile(r"( *)([A-Za-z]\w*):")
_COMMENT = re.compile(r" *# -- (.*)")


def descriptions(text: str) -> dict[str, str]:
    """Descriptions in a values.yaml by path, as in `image.tag`."""
    found: dict[str, str] = {}
    path: list[str] = []
    said = ""
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            said = comment[1]
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if said:
                found[".".join(path)] = said
            said = ""
    return found


def described(schema: dict[str, Any], found: dict[str, str], path: str = "") -> dict[str, Any]:
    """The schema with a description at each key that has one."""
    parts = {name: described(part, found, f"{path}.{name}".lstrip(".")) for name, part in schema.get("properties", {}).items()}
    if path in found:
        schema = {"description": found[path], **{name: value for name, value in schema.items() if name != "description"}}
    elif path not in UNUSED:
        schema = {name: value for name, value in schema.items() if name != "description"}
    return {**schema, **({"properties": parts} if parts else {})}


def table(values: dict[str, Any], found: dict[str, str]) -> str:
    """The values as a Markdown table."""
    rows = [f"| `{path}` | {_shown(_at(values, path))} | {said.replace('|', chr(92) + '|')} |" for path, said in found.items()]
    return "\n".join(["| value | default | what it says |", "|---|---|---|", *rows])


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return f"`{shown}`" if len(shown) <= 60 else "see values.yaml"


def outputs() -> dict[Path, str]:
    """What each file should be."""
    text = (CHART / "values.yaml").read_text()
    found = descriptions(text)
    schema, readme = CHART / "values.schema.json", CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        schema: json.dumps(described(json.loads(schema.read_text()), found), indent=2) + "\n",
        readme: f"{before}{BEGIN}\n{table(yaml.safe_load(text), found)}\n{END}{after}",
    }


def main() -> int:
    """Write the files."""
    for path, text in outputs().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
