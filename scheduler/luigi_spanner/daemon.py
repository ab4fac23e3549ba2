"""The process: logging, and the background. Everything that a fork would break is opened after it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import stat
import sys
from contextlib import suppress
from functools import partial

import luigi.process

from luigi_spanner._version import __version__
from luigi_spanner.calls import Scheduling
from luigi_spanner.config import InvalidOption, Options, sentence
from luigi_spanner.ids import random_id, replica_name
from luigi_spanner.logs import Log, stray
from luigi_spanner.server import CannotListen, serve
from luigi_spanner.stores import StoreError
from luigi_spanner.tracing import NO_TRACING, Tracing, open_tracing

logger = logging.getLogger(__name__)

UMASK = 0o022
"""Of a process in the background, where python-daemon leaves none: nobody else may write what it creates."""

DEFAULT_LOGDIR = "/var/log/luigi"
"""Where Luigi writes the log of a background server that names no directory (`luigi.process.daemonize`)."""


def run(options: Options) -> int:
    """Serve in the foreground or the background; the exit code. Raises InvalidOption, CannotListen, StoreError."""
    log = Log(options)
    log.set_up()
    if not options.background:
        return asyncio.run(_serve(options, log))
    running = luigi.process.check_pid(options.pidfile)
    if running:
        print(f"luigid is already running as process {running}.", file=sys.stderr)
        return 0
    _detach(options, log)
    return 0


async def _serve(options: Options, log: Log) -> int:
    """Serve as a new replica; as `serve`."""
    replica = replica_name(random_id)
    log.introduce(replica)
    asyncio.get_running_loop().set_exception_handler(stray)
    logger.info("luigi-spanner %s starts as replica %s", __version__, replica)
    tracing = open_tracing(os.environ, namespace=options.namespace, replica=replica)
    try:
        return await serve(options, partial(open_service, replica=replica, tracing=tracing), tracing=tracing)
    finally:
        tracing.close()


async def open_service(options: Options, *, replica: str | None = None, tracing: Tracing = NO_TRACING) -> Scheduling:
    """The service that the options describe, not yet started. Raises StoreError."""
    from luigi_spanner.collector import Freezer
    from luigi_spanner.metrics.page import Bounds
    from luigi_spanner.service import Service  # after the fork: with it comes the store's client

    return await Service.open(
        options.store,
        options.namespace,
        hold=options.hold,
        rules_mismatch=options.rules_mismatch,
        journal_keep=options.journal_keep,
        history_keep=options.history_days * 86_400.0 or math.inf,
        each_second=Freezer().look,
        bounds=Bounds(resources=options.metrics_resources, task_series=options.metrics_task_series or None),
        name=replica,
        tracing=tracing,
    )


def _detach(options: Options, log: Log) -> None:
    """Luigi's own way into the background, so that pid file, log file and fork are as its users know them."""

    def main(**_stock: object) -> None:
        os.umask(UMASK)
        _close_to_others(options)
        try:
            code = asyncio.run(_serve(options, log))
        except (InvalidOption, CannotListen, StoreError) as error:
            logger.error("%s", sentence(error))
            code = 2
        raise SystemExit(code)

    try:
        luigi.process.daemonize(main, pidfile=options.pidfile, logdir=options.logdir)
        log.release()  # another process was quicker with the pid file
    except OSError as error:
        raise InvalidOption(f"Cannot go into the background: {error}.") from error


def _close_to_others(options: Options) -> None:
    """Take from others the right to write what was created while there was no umask."""
    for path in (options.pidfile, os.path.join(options.logdir or DEFAULT_LOGDIR, "luigi-server.log")):
        with suppress(FileNotFoundError, PermissionError):  # PermissionError: it was there before us, and is another's
            if path is not None:
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~UMASK)
