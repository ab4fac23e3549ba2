"""The parsers of subcommands: what a command about a deployment takes, and one about a store."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from luigi_spanner.commands import EXIT_CODES
from luigi_spanner.config import NAMESPACE, PREFIX, SECTION, STORE, Setting, luigi_config, namespace_of, store_of, value_of

if TYPE_CHECKING:
    from luigi_spanner.commands.remote import Remote

Parsers = Any
"""What `add_subparsers` gives: argparse keeps the type to itself."""

Run = Callable[[argparse.Namespace], int]

URL = Setting(name="url", metavar="URL", help="any replica of the deployment (default: Luigi's own scheduler-url, host and port)")

DEFAULT_PORT = 8082

URL_PLACES = f"--url, {PREFIX}URL or url in [{SECTION}]"


def add_parser(commands: Parsers, name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
    """A parser of a command, with an example in its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


# About a live deployment


def add_live(commands: Parsers, name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
    """A parser of a command that asks a replica."""
    parser = add_parser(commands, name, run, text, example)
    parser.add_argument("--url", metavar=URL.metavar, help=URL.help)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return parser


def replica(arguments: argparse.Namespace) -> Remote:
    """The replica that the command line, the environment or the configuration names. Raises Impossible, InvalidOption."""
    from luigi_spanner.commands.remote import Remote

    return Remote(url_of(arguments.url, os.environ.get(f"{PREFIX}URL"), luigi_config))


def url_of(flag: str | None, variable: str | None, config: Callable[[], Any]) -> str:
    """Where to ask: a flag beats the environment, that the key in our section, that Luigi's own `[core]`."""
    if flag is not None:
        return flag
    if variable:
        # Luigi takes a quarter of a second to load, so its configuration is read only where it counts.
        return variable
    parser = config()
    url: str | None = value_of(URL, {}, {}, parser)
    return url or _core(parser, "url") or f"http://{_core(parser, 'host') or 'localhost'}:{_core(parser, 'port') or DEFAULT_PORT}"


def _core(parser: Any, name: str) -> str | None:
    """What Luigi's workers read of `[core]`. Its parser looks for dashes where there are no underscores."""
    for key in (f"scheduler_{name}", f"default_scheduler_{name}"):
        value = parser.get("core", key, None)
        if value:
            return str(value)
    return None


# About a store


def add_stored(commands: Parsers, name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
    """A parser of a command that opens a namespace of a store."""
    parser = add_parser(commands, name, run, text, example)
    add_setting(parser, STORE)
    add_setting(parser, NAMESPACE)
    return parser


def add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """An option as the server has it."""
    parser.add_argument("--" + setting.name.replace("_", "-"), metavar=setting.metavar, help=setting.help)


def store(arguments: argparse.Namespace) -> str:
    """The store's URL. Raises InvalidOption, InvalidStore."""
    return store_of(vars(arguments), os.environ, luigi_config())


def namespace(arguments: argparse.Namespace) -> str:
    """The namespace. Raises InvalidOption, InvalidStore."""
    return namespace_of(vars(arguments), os.environ, luigi_config())
