"""The log of the process: set up as stock luigid does, for people or in JSON, and without what callers keep to themselves.

Formatters and filters are the process's: whoever embeds the scheduler or the server has a log of his own, and none of this.
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

from luigi.setup_logging import DaemonLogging
from pythonjsonlogger.json import JsonFormatter
from tornado.httputil import HTTPServerRequest

from luigi_spanner.calls import REQUEST_ID
from luigi_spanner.config import InvalidOption, Options
from luigi_spanner.times import rfc3339
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

QUIETER = {
    "alembic": logging.WARNING,  # the start-up line says what a person needs
    "google.auth": logging.ERROR,  # and our sentence, that there are no credentials
    "opentelemetry.exporter": logging.CRITICAL,  # `spans` tells once that a collector is away, they tell it every second or two
}
"""Loggers of libraries that say too much, unless the configuration names a level for them."""

BEFORE = ("luigi", "luigi.server")
"""Loggers in which Luigi tells how it sets up logging and goes into the background, before we can have lines in JSON."""

TORNADO = ("tornado.application", "tornado.general")
"""Loggers in which Tornado quotes requests."""


class JsonLines(JsonFormatter):
    """A line of the log as one JSON object: `time`, `level`, `logger`, `message`, `request_id` where it is about a call,
    `namespace`, `replica`, and `exception`, a traceback, where there is one."""

    namespace: str | None = None
    replica: str | None = None

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        fields = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None) or REQUEST_ID.get(),
            "namespace": self.namespace,
            "replica": self.replica,
            "exception": message_dict.get("exc_info"),
        }
        log_data.update((name, value) for name, value in fields.items() if value is not None)


class Log:
    """What is done about the log of a process that serves: `set_up` at once, `introduce` after any fork."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._held = _Held()

    def set_up(self) -> None:
        """Do as stock does, with `[core]` logging keys and `[logging]`. Raises InvalidOption."""
        options = self._options
        for name in BEFORE:
            logging.getLogger(name).addFilter(self._held)
        try:
            if options.logdir is not None:
                os.makedirs(options.logdir, exist_ok=True)
            DaemonLogging.setup(SimpleNamespace(background=options.background, logdir=options.logdir))
        except (OSError, ValueError, TypeError, AttributeError, ImportError, LookupError, RuntimeError) as error:
            # all but the first: what Python raises for a configuration of logging that it cannot use
            raise InvalidOption(f"Logging cannot be set up: {_reason(error)}.") from error
        for name, level in QUIETER.items():
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(level)
        for name in TORNADO:
            logging.getLogger(name).addFilter(without_queries)
        # A configuration of logging silences every logger made before it that it does not name.
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] == "luigi_spanner":
                logging.getLogger(name).disabled = False

    def introduce(self, replica: str) -> None:
        """Say whose lines these are, and from now on have them in the format that is asked for."""
        options = self._options
        lines = JsonLines()
        handlers = _handlers()
        if options.log_format == "json":
            logging.captureWarnings(True)
            for handler in handlers:
                if _is_stocks(handler.formatter):
                    handler.setFormatter(lines)
        formatters = [handler.formatter for handler in handlers if isinstance(handler.formatter, JsonLines)]
        for formatter in formatters:
            formatter.namespace, formatter.replica = options.namespace, replica
        self.release()
        if options.log_format == "json" and not formatters:
            name = f"{JsonLines.__module__}.{JsonLines.__qualname__}"
            logger.warning("log_format json is not used: the log is configured otherwise, where formatters may be %s", name)

    def release(self) -> None:
        """Log what was held back. Again is harmless."""
        for name in BEFORE:
            logging.getLogger(name).removeFilter(self._held)
        self._held.release()


class _Held(logging.Filter):
    """Keeps lines back until they can be written in the format that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self._records.append(record)
        return False

    def release(self) -> None:
        records, self._records = self._records, []
        for record in records:
            logging.getLogger(record.name).handle(record)


def without_queries(record: logging.LogRecord) -> bool:
    """A filter that takes the query out of what a line quotes of a request: it may hold parameters that nobody shall see."""
    if isinstance(record.args, tuple):
        record.args = tuple(_without_query(argument) for argument in record.args)
    if record.exc_info and record.exc_info[1] is not None:
        error = without_words(record.exc_info[1])
        record.exc_info = (type(error), error, error.__traceback__)
    return True


def stray(_: object, context: dict[str, Any]) -> None:
    """An event loop's handler for exceptions that nobody awaits: as asyncio's own, which quotes what they say."""
    error = context.get("exception")
    logger.error("%s", context["message"], exc_info=without_words(error) if error is not None else None)


def _without_query(argument: object) -> object:
    if isinstance(argument, HTTPServerRequest):
        return f"{argument.method} {argument.path}"
    if isinstance(argument, str) and "?" in argument:
        return " ".join(word.partition("?")[0] for word in argument.split(" "))
    return argument


def _handlers() -> list[logging.Handler]:
    loggers = [logging.root, *(known for known in logging.root.manager.loggerDict.values() if isinstance(known, logging.Logger))]
    return [handler for known in loggers for handler in known.handlers]


def _is_stocks(formatter: logging.Formatter | None) -> bool:
    """Whether the format is the one that luigid has where nobody configures another."""
    return formatter is not None and type(formatter) is logging.Formatter and formatter._fmt == DaemonLogging._log_format


def _reason(error: Exception) -> str:
    cause = error.__cause__
    return f"{error}: {cause}".rstrip(".") if cause is not None else str(error).rstrip(".") or type(error).__name__
