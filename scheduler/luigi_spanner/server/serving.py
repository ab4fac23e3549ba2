"""The life of one server: bind, start the scheduler, answer, and at the end finish what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

import luigi
import tornado.netutil

from luigi_spanner._version import __version__
from luigi_spanner.calls import Scheduling
from luigi_spanner.config import Options
from luigi_spanner.server.application import BODY_SECONDS, app
from luigi_spanner.server.door import Door
from luigi_spanner.server.listener import Listener
from luigi_spanner.stores.location import absolute
from luigi_spanner.tracing import NO_TRACING, Tracing

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""What ends the server in good order, as stock luigid has it."""

LINGER_SECONDS = 2.0
"""How long shutting down waits beyond the longest time that a call may be held."""

BACKLOG = socket.SOMAXCONN
"""How many connections may wait to be accepted: as many as the system allows. When all workers come at once, one that finds no
place asks again a second later, and with Tornado's 128 places 2,000 took ten seconds."""

SWITCH_SECONDS = 0.0002
"""How long a thread keeps the interpreter while another wants it, instead of Python's 5 ms. Threads render listings and read
large bodies, and the event loop must ask for the interpreter back after each of the three system calls that a call takes.
Beside a thread that renders all the time the p99 of pings is 2 ms, with 0.5 ms it is 3, with 5 ms it is 10 to 14."""


class CannotListen(Exception):
    """The address cannot be bound. The message is one sentence for the person who configured it."""


async def serve(options: Options, opening: Callable[[Options], Awaitable[Scheduling]], *, tracing: Tracing = NO_TRACING) -> int:
    """Serve until a signal or until the replica can serve no more, then answer everything accepted and release the store.

    After a signal it goes on for `options.drain` seconds in which it says that it is not ready; a second one ends these.
    The exit code: 0 after a signal, 1 after a failure, so that whoever supervises the process starts another. `opening` makes
    the scheduler; it is called after the address is ours, so that a second server on the same port touches no store. Raises
    CannotListen, StoreError.
    """
    stopping = _stop_event()
    sockets = bind(options)
    code = 0
    try:
        scheduling = await _unless(stopping, _started(options, opening))
        if scheduling is not None:
            code = await _answer(options, scheduling, sockets, stopping, tracing)
    finally:
        for listening in sockets:
            listening.close()
    logger.info("luigi-spanner has stopped")
    return code


def bind(options: Options) -> list[socket.socket]:
    """The listening sockets of the options. Raises CannotListen."""
    where = f"{options.address or 'every interface'}, port {options.port}"
    try:
        if options.unix_socket is not None:
            where = options.unix_socket
            return [tornado.netutil.bind_unix_socket(options.unix_socket, backlog=BACKLOG)]
        return tornado.netutil.bind_sockets(options.port, address=options.address, backlog=BACKLOG)
    except (OSError, ValueError) as error:
        # ValueError: tornado's word for a path that is there and no socket
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotListen(f"Cannot listen on {where}: {reason}.") from error


async def _started(options: Options, opening: Callable[[Options], Awaitable[Scheduling]]) -> Scheduling:
    scheduling = await opening(options)
    try:
        await scheduling.start()
    except BaseException:  # cancelled by a signal, too: what was opened is closed
        await scheduling.stop()
        raise
    return scheduling


async def _answer(
    options: Options, scheduling: Scheduling, sockets: list[socket.socket], stopping: asyncio.Event, tracing: Tracing
) -> int:
    sys.setswitchinterval(SWITCH_SECONDS)
    door = Door()
    front = app(scheduling, max_body_bytes=options.max_body_bytes, door=door, body_seconds=BODY_SECONDS, tracing=tracing)
    server = Listener(front)
    server.add_sockets(sockets)
    _announce(options, sockets)
    try:
        failure = await _end(scheduling, stopping)
        if failure is None and options.drain:
            failure = await _drain(options, scheduling, door, stopping)
        if failure is not None:
            logger.critical("This replica can serve no more: %s", failure)
        logger.info("luigi-spanner stops: no new calls, those accepted are answered")
    finally:
        server.stop()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(door.close(), options.hold + LINGER_SECONDS)
        await scheduling.stop()
        await server.close_all_connections()
    return 0 if failure is None else 1


async def _drain(options: Options, scheduling: Scheduling, door: Door, stopping: asyncio.Event) -> str | None:
    """Go on answering until those who send calls here have seen that they shall no more; as `_end`."""
    stopping.clear()
    door.announce()
    logger.info(
        "luigi-spanner drains: it answers calls for %g s more, and /readyz says no; another signal ends that", options.drain
    )
    try:
        return await asyncio.wait_for(_end(scheduling, stopping), options.drain)
    except asyncio.TimeoutError:
        return None


async def _end(scheduling: Scheduling, stopping: asyncio.Event) -> str | None:
    """Waits for the end; why the replica can serve no more, None after a signal."""
    ended = asyncio.ensure_future(scheduling.ended())
    signalled = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None
    finally:
        ended.cancel()
        signalled.cancel()


def _announce(options: Options, sockets: list[socket.socket]) -> None:
    store = absolute(options.store)
    logger.info(
        "luigi-spanner %s (luigi %s) serves namespace %s of %s on %s",
        __version__,
        luigi.__version__,
        options.namespace,
        store,
        " ".join(_address(listening) for listening in sockets),
    )
    if options.state_path is not None:
        logger.info("The state path %s is not used: the state lives in %s", options.state_path, store)
    if any(_open_to_others(listening) for listening in sockets):
        logger.warning("Whoever reaches this address may change the task graph: nothing authenticates callers")


def _address(listening: socket.socket) -> str:
    name = listening.getsockname()
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"http://{host}:{name[1]}/"
    return f"unix socket {name}"


def _open_to_others(listening: socket.socket) -> bool:
    name = listening.getsockname()
    return isinstance(name, tuple) and not ipaddress.ip_address(name[0].partition("%")[0]).is_loopback


def _stop_event() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _unless(stopping: asyncio.Event, work: Awaitable[Scheduling]) -> Scheduling | None:
    """What `work` gives, or None when the signal came first and `work` was called off."""
    task = asyncio.ensure_future(work)
    signalled = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    return None
