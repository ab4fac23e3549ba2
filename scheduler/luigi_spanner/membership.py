"""Membership: a replica enters its namespace, says now and then that it is there, and leaves."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from luigi_spanner._version import __version__
from luigi_spanner.calls import BadRequest, CallError
from luigi_spanner.graph.graph import Graph
from luigi_spanner.journal import canonical
from luigi_spanner.replica import Replica

logger = logging.getLogger(__name__)

BEAT_SECONDS = 30.0
"""How often a replica says in the state that it is still there."""

GONE_SECONDS = 3 * BEAT_SECONDS
"""A replica that has said nothing for so long is gone."""

JOIN_HOLD = 60.0
"""How long entering the namespace may take while the store is away."""

_NOT_RULES = frozenset({"state_path", "metrics_collector", "metrics_custom_import", "record_task_history"})


class Membership:
    """One replica's. `call(rule, **arguments)` runs a rule of the graph like any call; `rules` is the hash of its rules, `refuse`
    whether it may not be beside others with other rules; `clock()` gives seconds since the epoch."""

    def __init__(
        self,
        *,
        replica: Replica,
        graph: Graph,
        call: Callable[..., Awaitable[bytes]],
        rules: str,
        refuse: bool,
        clock: Callable[[], float],
    ) -> None:
        self._replica = replica
        self._graph = graph
        self._call = call
        self._rules = rules
        self._refuse = refuse
        self._clock = clock
        self._process = process_id()
        self._beaten = clock()

    async def enter(self) -> None:
        """Enter the namespace. Raises CallError."""
        await self._bury_predecessors()
        await self._join()
        while not self._replica.offset.known:
            # The journal told that it has joined, not the commit, whose reply was lost. By a clock that may be wrong nobody may
            # be declared dead.
            if self._is_present():
                await self._call(self._graph.beat, hold=JOIN_HOLD, replica=self._replica.name)
            else:  # others have taken it for gone meanwhile
                await self._join()

    async def stay(self) -> None:
        """Say that the replica is there, if that is due. Raises CallError."""
        if not self._is_present():
            # We were silent for so long that others took us for gone: our rules may no longer be those of the namespace.
            await self._join()
        now = self._clock()
        if now - self._beaten >= BEAT_SECONDS or self._replica.writes_lost:
            # Where the last write is in doubt and nobody waits for it any more, this one tells.
            self._beaten = now
            await self._call(self._graph.beat, replica=self._replica.name)

    async def leave(self) -> None:
        """Leave, if the store lets us."""
        with suppress(CallError):
            await self._call(self._graph.leave, replica=self._replica.name)

    def _is_present(self) -> bool:
        return self._graph.is_present(self._replica.name)

    async def _join(self) -> None:
        """A replica that finds others with other rules comes to its end."""
        try:
            await self._call(
                self._graph.join,
                hold=JOIN_HOLD,
                replica=self._replica.name,
                rules=self._rules,
                release=__version__,
                process=self._process,
                grace=GONE_SECONDS,
                refuse=self._refuse,
            )
        except BadRequest as error:
            self._replica.fail(error)
            raise
        applied = self._graph.ledger.applied
        logger.info("Replica %s has joined namespace %s at entry %d", self._replica.name, self._replica.namespace, applied)

    async def _bury_predecessors(self) -> None:
        """A replica whose process is known to be gone need not be waited for."""
        place, _, pid = self._process.rpartition("/")
        for key, row in list(self._graph._state.replicas.items()):
            its_place, _, its_pid = str(row.get("process")).rpartition("/")
            if its_place == place and (its_pid == pid or not is_alive(its_pid)):
                await self._call(self._graph.leave, hold=JOIN_HOLD, replica=str(key[0]))


def hash_of_rules(config: Any, limits: dict[str, Any]) -> str:
    """Hash of everything in the configuration that decides how calls are answered (I12)."""
    rules = {name: value for name, value in config.to_str_params().items() if name not in _NOT_RULES}
    return hashlib.sha256(canonical([rules, limits]).encode("ascii")).hexdigest()[:32]


def process_id() -> str:
    """This process's id, qualified by what makes it unique: the machine's boot and the namespace of process ids (Linux)."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            place = f"{boot_id.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        place = socket.gethostname()
    return f"{place}/{os.getpid()}"


def is_alive(pid: str) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
