"""The command line: `luigid` as Luigi's users know it, and `luigi-spanner` with what comes on top.

Exit codes: 0 done, 1 `verify` found a difference or a server failed for good, 2 it cannot be done as asked, with one sentence
on stderr that says why.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from luigi_spanner._version import __version__
from luigi_spanner.config import (
    NAMESPACE,
    SETTINGS,
    STORE,
    InvalidOption,
    Setting,
    check_luigi,
    luigi_config,
    namespace_of,
    resolve,
    sentence,
    store_of,
)

Command = Callable[[argparse.Namespace], int]


def luigid(argv: Sequence[str] | None = None) -> int:
    """The console script `luigid`: every flag of stock, and ours. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="luigid", description="Central luigi server, its task graph kept in a store")
    _add_serve(parser)
    return _run(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `luigi-spanner`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="luigi-spanner", description="A luigid whose task graph outlives its replicas")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve workers and the visualiser; the same as luigid"))
    _add_db(commands.add_parser("db", help="the database's schema"))
    verify = commands.add_parser("verify", help="compare tables, journal and digests; report the first difference")
    _add_settings(verify, (STORE, NAMESPACE))
    verify.set_defaults(command=_verify)
    return _run(parser, argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    arguments = parser.parse_args(argv)
    command: Command = arguments.command
    try:
        # imported by the commands alone: importing Luigi already reads its configuration, which may be broken
        luigi_config()
        from luigi_spanner.server.serving import CannotListen
        from luigi_spanner.stores import StoreError
    except InvalidOption as error:
        return _complain(error)
    try:
        return command(arguments)
    except (InvalidOption, CannotListen, StoreError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 130


def _complain(error: Exception) -> int:
    print(sentence(error), file=sys.stderr)
    return 2


def _add_serve(parser: argparse.ArgumentParser) -> None:
    if parser.prog == "luigid":
        parser.add_argument("--version", action="version", version=_version())
    _add_settings(parser, SETTINGS)
    parser.set_defaults(command=_serve)


def _add_db(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    known: tuple[tuple[str, Command, str], ...] = (
        ("upgrade", _upgrade, "bring the schema up to date; on the emulator make instance and database, too"),
        ("current", _current, "print the revision of the schema"),
        ("check", _check, "say whether this release can use the schema"),
        ("downgrade", _downgrade, "take the schema back to an earlier revision"),
    )
    for name, command, text in known:
        sub = commands.add_parser(name, help=text)
        _add_settings(sub, (STORE,))
        sub.set_defaults(command=command)
        if name == "downgrade":
            sub.add_argument("revision", help="the revision to go back to")


def _add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    for setting in settings:
        flag = "--" + setting.name.replace("_", "-")
        if setting.name == "background":
            parser.add_argument(flag, action="store_const", const="true", help=setting.help)
        else:
            parser.add_argument(flag, metavar=setting.metavar, help=setting.help)


def _store(arguments: argparse.Namespace) -> str:
    return store_of(vars(arguments), os.environ, luigi_config())


def _serve(arguments: argparse.Namespace) -> int:
    from luigi_spanner.daemon import run

    config = luigi_config()
    options = resolve(vars(arguments), os.environ, config)
    check_luigi(config)
    return run(options)


def _upgrade(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.upgrade(_store(arguments))
    return _current(arguments)


def _current(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    print(migrate.current(_store(arguments)) or "no schema")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.check(_store(arguments))
    print("The schema fits this release.")
    return 0


def _downgrade(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.downgrade(_store(arguments), arguments.revision)
    return _current(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate
    from luigi_spanner.verify import verify

    store = _store(arguments)
    namespace = namespace_of(vars(arguments), os.environ, luigi_config())
    migrate.check(store)  # opening would create or upgrade what a check must leave alone
    report = verify(store, namespace)
    for line in report.lines():
        print(line)
    return 0 if report.clean else 1


def _version() -> str:
    from importlib.metadata import version

    return f"luigi-spanner {__version__} (luigi {version('luigi')})"
