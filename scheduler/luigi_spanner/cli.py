"""The command line: `luigid` as Luigi's users know it, and `luigi-spanner` with what comes on top.

Exit codes are in `commands`; whatever is not 0 comes with one sentence that says why. A server that failed for good ends with 1,
and with a traceback where nobody has thought of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from luigi_spanner._version import __version__
from luigi_spanner.commands import (
    BUG,
    DONE,
    EXIT_CODES,
    IMPOSSIBLE,
    PROBLEM,
    Failed,
    deployment,
    export,
    importing,
    journal,
    namespaces,
    output,
    parsing,
    resources,
    tasks,
    why,
    workers,
)
from luigi_spanner.config import (
    PREFIX,
    SETTINGS,
    STORE,
    InvalidOption,
    Setting,
    check_luigi,
    luigi_config,
    resolve,
    sentence,
)
from luigi_spanner.stores import StoreError

Command = Callable[[argparse.Namespace], int]

TRACEBACK = f"{PREFIX}TRACEBACK"
"""The environment variable with which a bug in a command comes with its traceback."""


def luigid(argv: Sequence[str] | None = None) -> int:
    """The console script `luigid`: every flag of stock, and ours. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="luigid", description="Central luigi server, its task graph kept in a store")
    _add_serve(parser)
    return _run(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `luigi-spanner`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="luigi-spanner",
        description="A luigid whose task graph outlives its replicas",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve workers and the visualiser; the same as luigid"))
    _add_db(commands.add_parser("db", help="the database's schema"))
    example = "luigi-spanner verify --store sqlite:///luigi.db"
    parsing.add_stored(commands, "verify", _verify, "compare tables, journal and digests; report the first difference", example)
    for group in (deployment, tasks, workers, resources, why, namespaces, export, importing, journal):
        group.add(commands)
    return _run(parser, argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    arguments = parser.parse_args(argv)
    command: Command = arguments.command
    output.set_up()
    try:
        code = command(arguments)
        output.flush()
        return code
    except Failed as error:
        return _complain(error, error.code)
    except (InvalidOption, StoreError) as error:
        return _complain(error)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does.
        output.give_up()
        return DONE
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # whatever a bug raises, whoever called gets a sentence
        if command is _serve:
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        return _complain(RuntimeError(f"A bug of luigi-spanner: {error!r}; {TRACEBACK}=1 shows where"), BUG)


def _complain(error: Exception, code: int = IMPOSSIBLE) -> int:
    print(output.shown(sentence(error)), file=sys.stderr)
    return code


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
        if setting.name == "background":
            parser.add_argument("--background", action="store_const", const="true", help=setting.help)
        else:
            parsing.add_setting(parser, setting)


def _serve(arguments: argparse.Namespace) -> int:
    # first of all: importing Luigi already reads its configuration, which may be broken
    config = luigi_config()
    options = resolve(vars(arguments), os.environ, config)
    check_luigi(config)
    from luigi_spanner.daemon import run
    from luigi_spanner.server import CannotListen

    try:
        return run(options)
    except CannotListen as error:
        raise InvalidOption(str(error)) from error


def _upgrade(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.upgrade(parsing.store(arguments))
    return _current(arguments)


def _current(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    print(migrate.current(parsing.store(arguments)) or "no schema")
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.check(parsing.store(arguments))
    print("The schema fits this release.")
    return DONE


def _downgrade(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    migrate.downgrade(parsing.store(arguments), arguments.revision)
    return _current(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate
    from luigi_spanner.verify import verify

    store = parsing.store(arguments)
    namespace = parsing.namespace(arguments)
    migrate.check(store)  # opening would create or upgrade what a check must leave alone
    report = verify(store, namespace)
    for line in report.lines():
        output.say(line)
    return DONE if report.clean else PROBLEM


def _version() -> str:
    from importlib.metadata import version

    return f"luigi-spanner {__version__} (luigi {version('luigi')})"
