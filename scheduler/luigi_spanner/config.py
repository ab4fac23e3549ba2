"""Options: a flag beats the environment, the environment beats luigi.cfg or luigi.toml, and that beats the default.

Every option is a flag `--name-with-dashes`, an environment variable `LUIGI_SPANNER_NAME` and a key `name` of the
section [luigi_spanner], which Luigi's own parser reads from wherever Luigi looks for its configuration.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spanner.stores.location import check_namespace, default_url, parse

SECTION = "luigi_spanner"
PREFIX = "LUIGI_SPANNER_"


class InvalidOption(Exception):
    """An option or Luigi's configuration cannot be used. The message is one sentence for the person who set it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How one replica runs. Times are seconds, sizes bytes."""

    store: str
    namespace: str
    address: str | None
    port: int
    unix_socket: str | None
    pidfile: str | None
    logdir: str | None
    background: bool
    state_path: str | None
    hold: float
    max_body_bytes: int
    rules_mismatch: str
    journal_keep: int
    history_days: int
    metrics_resources: int
    metrics_task_series: int
    drain: float
    log_format: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One option as people write it. `read` turns its text into a value and raises ValueError, worded to follow a name."""

    name: str
    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    metavar: str | None = None


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads an integer from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low} and {high}")
        return value

    return read


def seconds(low: float) -> Callable[[str], float]:
    """Reads a time from `low` seconds to an hour."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("is not a number of seconds") from None
        if not low <= value <= 3600:  # nor is NaN
            raise ValueError(f"is not between {low:g} and 3600 seconds")
        return value

    return read


def one_of(*choices: str) -> Callable[[str], str]:
    """Reads one of `choices`."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return text

    return read


def switch(text: str) -> bool:
    """Reads a yes or no, in the words that Luigi's configuration knows."""
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
    except KeyError:
        raise ValueError("is neither true nor false") from None


STORE = Setting(
    name="store",
    metavar="URL",
    help="where the task graph lives: sqlite:///relative.db, sqlite:////absolute.db, "
    "spanner:///projects/P/instances/I/databases/D or memory:// (default: a SQLite file in the user's state directory)",
)
NAMESPACE = Setting(
    name="namespace",
    metavar="NAME",
    default="default",
    help="which of the task graphs that share the store (default: default)",
)
SETTINGS: tuple[Setting, ...] = (
    STORE,
    NAMESPACE,
    Setting(name="background", read=switch, default=False, help="detach from the terminal and write luigi-server.log"),
    Setting(name="pidfile", metavar="FILE", help="where a background server writes its process id"),
    Setting(name="logdir", metavar="DIR", help="directory of luigi-server.log"),
    Setting(name="state_path", metavar="FILE", help="accepted for compatibility; the state lives in the store"),
    Setting(name="address", metavar="HOST", help="interface to listen on (default: all of them)"),
    Setting(name="unix_socket", metavar="FILE", help="listen on this unix socket instead of a port"),
    Setting(name="port", metavar="N", read=whole(0, 65535), default=8082, help="port to listen on (default: 8082)"),
    Setting(
        name="hold",
        metavar="SECONDS",
        read=seconds(0.1),
        default=8.0,  # workers give up after their rpc-connect-timeout, by default 10 s
        help="longest time that a call is held while the store does not answer (default: 8)",
    ),
    Setting(
        name="max_body_bytes",
        metavar="N",
        read=whole(1024, 2**31),
        default=16 * 1024 * 1024,
        help="largest body of a call (default: 16777216)",
    ),
    Setting(
        name="rules_mismatch",
        metavar="refuse|warn",
        read=one_of("refuse", "warn"),
        default="refuse",
        help="what to do when another replica of the namespace runs other scheduling rules (default: refuse)",
    ),
    Setting(
        name="journal_keep",
        metavar="N",
        read=whole(1, 2**40),
        default=100_000,
        help="how many entries of the journal are kept at least (default: 100000)",
    ),
    Setting(
        name="history_days",
        metavar="N",
        read=whole(0, 36_500),
        default=90,
        help="for how many days what has happened to tasks is kept, 0 for ever, with record_task_history (default: 90)",
    ),
    Setting(
        name="metrics_resources",
        metavar="N",
        read=whole(0, 10_000),
        default=50,
        help="how many resources have series of their own in /metrics (default: 50)",
    ),
    Setting(
        name="metrics_task_series",
        metavar="N",
        read=whole(0, 10**6),
        default=0,
        help="most label combinations of Luigi's own metrics of tasks, 0 for no bound (default: 0)",
    ),
    Setting(
        name="drain",
        metavar="SECONDS",
        read=seconds(0),
        default=0.0,
        help="how long calls are still answered after a signal, while /readyz says that it is shutting down (default: 0)",
    ),
    Setting(
        name="log_format",
        metavar="text|json",
        read=one_of("text", "json"),
        default="text",
        help="lines of the log as stock luigid writes them, or a JSON object each (default: text)",
    ),
)


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str], config: Any) -> Options:
    """The options of a run. `flags` are texts by option name (None: not given), `config` is Luigi's parser.

    Raises InvalidOption, InvalidStore.
    """
    values = {setting.name: value_of(setting, flags, environ, config) for setting in SETTINGS}
    values["store"] = store_of(flags, environ, config)
    values["namespace"] = namespace_of(flags, environ, config)
    if values["state_path"] is None:
        values["state_path"] = _from_file(config, "scheduler", "state_path") or None  # Luigi's own place for it
    return Options(**values)


def store_of(flags: Mapping[str, Any], environ: Mapping[str, str], config: Any) -> str:
    """The store's URL alone, for commands that need no more. Raises InvalidOption, InvalidStore."""
    store: str = value_of(STORE, flags, environ, config) or _default_store(environ)
    parse(store)
    return store


def namespace_of(flags: Mapping[str, Any], environ: Mapping[str, str], config: Any) -> str:
    """The namespace alone. Raises InvalidOption, InvalidStore."""
    namespace: str = value_of(NAMESPACE, flags, environ, config)
    check_namespace(namespace)
    return namespace


def value_of(setting: Setting, flags: Mapping[str, Any], environ: Mapping[str, str], config: Any) -> Any:
    """What one option is set to. Raises InvalidOption naming the place that sets it."""
    for place, text in _places(setting.name, flags, environ, config):
        if text is None or text == "":
            continue
        try:
            return setting.read(str(text))
        except ValueError as error:
            raise InvalidOption(f"{place} is {str(text)!r}, which {error}.") from None
    return setting.default


def luigi_config() -> Any:
    """Luigi's own parser with its files read. Raises InvalidOption when a file cannot be read."""
    try:
        from luigi.configuration import get_config

        return get_config()
    except (configparser.Error, ValueError, OSError, ImportError) as error:
        # ValueError: what the TOML parser raises, and text that is not UTF-8. ImportError: no TOML parser installed
        raise InvalidOption(f"Luigi's configuration cannot be read: {sentence(error)}") from error


def check_luigi(config: Any) -> None:
    """Read the sections of Luigi that the server depends on, so that a bad value is told of before anything starts.

    Raises InvalidOption naming the section.
    """
    import luigi.parameter
    import luigi.scheduler
    import luigi.server

    readers: dict[str, Callable[[], object]] = {
        "scheduler": luigi.scheduler.scheduler,
        "cors": luigi.server.cors,
        "resources": lambda: _limits(config),
        "task_history": lambda: _no_other_history(config),
        "prometheus": lambda: _task_metrics(config),
    }
    for section, read in readers.items():
        try:
            read()
        except (ValueError, TypeError, AttributeError, configparser.Error, luigi.parameter.ParameterException) as error:
            # TypeError and AttributeError: what Luigi's parameters raise for a TOML value of another type
            raise InvalidOption(f"Section [{section}] of Luigi's configuration: {sentence(error)}") from error


def _default_store(environ: Mapping[str, str]) -> str:
    try:
        return default_url(environ)
    except RuntimeError:  # pathlib's word for a user without a home directory
        raise InvalidOption("There is no home directory to keep a SQLite file in; name a store with --store.") from None


def _places(name: str, flags: Mapping[str, Any], environ: Mapping[str, str], config: Any) -> list[tuple[str, Any]]:
    variable = PREFIX + name.upper()
    return [
        (f"--{name.replace('_', '-')}", flags.get(name)),
        (variable, _from_environment(environ, variable)),
        (f"{name} in [{SECTION}]", _from_file(config, SECTION, name)),
    ]


def _from_environment(environ: Mapping[str, str], variable: str) -> str | None:
    """The variable, unless it is Kubernetes' own: a Service named luigi-spanner puts tcp://ADDRESS:PORT into every pod."""
    text = environ.get(variable)
    injected = variable == f"{PREFIX}PORT" and text is not None and text.startswith("tcp://")
    return None if injected else text


def _from_file(config: Any, section: str, name: str) -> Any:
    try:
        value = config.get(section, name, None)
        return config.get(section, name.replace("_", "-"), None) if value is None else value
    except configparser.Error as error:  # interpolation: a ${VARIABLE} that is not set
        raise InvalidOption(f"{name} in [{section}] cannot be read: {sentence(error)}") from error


def _limits(config: Any) -> None:
    for name, limit in config.getintdict("resources").items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 0:
            raise ValueError(f"{name} is {limit!r}, which is no amount")


def _no_other_history(config: Any) -> None:
    import luigi.scheduler

    if luigi.scheduler.scheduler().record_task_history and _from_file(config, "task_history", "db_connection"):
        raise ValueError(
            "db_connection is not used, the history of tasks lives in the store beside their state; remove the key, or set "
            "record_task_history in [scheduler] to false"
        )


def _task_metrics(config: Any) -> None:
    import luigi.scheduler

    from luigi_spanner.metrics.tasks import TaskFamilies, is_ours

    if is_ours(luigi.scheduler.scheduler().metrics_collector, config):
        TaskFamilies()


def sentence(error: Exception) -> str:
    """What the error says, as one sentence on one line."""
    return " ".join(str(error).split()).rstrip(".") + "."
