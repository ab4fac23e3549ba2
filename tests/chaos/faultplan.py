"""What goes wrong when, drawn from a seed. The same seed and tempo give the same plan; how processes interleave they do not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

REPLICAS = 3

SKEW_SECONDS = 2.0
"""Most that a replica's clock is wrong, either way: two of them differ by less than the 5 s from which on a replica corrects its
clock by the store's (`service.CLOCK_BOUND`)."""


RESTART_SECONDS = 3.0
"""What a replica takes at least from SIGTERM until it serves again, on two busy cores."""


class Kind(Enum):
    """A fault, in words for the report."""

    KILL = "kill -9 of a replica"
    RESTART = "SIGTERM to one replica after the other"
    FREEZE = "SIGSTOP of a replica"
    CLOCK_STEP = "a replica's clock is set"
    FRONT_REFUSED = "balancer to replica: refused"
    FRONT_CUT = "balancer to replica: connections cut"
    FRONT_REQUESTS_LOST = "balancer to replica: requests black-holed"
    FRONT_REPLIES_LOST = "balancer to replica: replies black-holed"
    FRONT_STALLED = "balancer to replica: everything arrives late"
    FRONT_SLOW = "balancer to replica: slow"
    STORE_REFUSED = "replica to store: refused"
    STORE_CUT = "replica to store: connections cut"
    STORE_REQUESTS_LOST = "replica to store: requests black-holed"
    STORE_REPLIES_LOST = "replica to store: replies black-holed"
    STORE_STALLED = "replica to store: everything arrives late"
    STORE_STRANDED = "replica to store: connections forgotten"
    STORE_SLOW = "replica to store: slow"
    STORE_GONE = "the store refuses all replicas"
    STORE_FROZEN = "SIGSTOP of the store"
    WORKER_KILL = "kill -9 of a worker"
    WORKER_FREEZE = "SIGSTOP of a worker"
    WORKER_OUTLIVED = "SIGSTOP of a worker until it is declared dead"


INSTANT = frozenset({Kind.CLOCK_STEP, Kind.FRONT_CUT, Kind.STORE_CUT})
FOR_ALL = frozenset({Kind.STORE_GONE, Kind.STORE_FROZEN})
OF_WORKERS = frozenset({Kind.WORKER_KILL, Kind.WORKER_FREEZE, Kind.WORKER_OUTLIVED})
OF_THE_FRONT = frozenset(kind for kind in Kind if kind.name.startswith("FRONT_"))
OF_THE_STORE = frozenset(kind for kind in Kind if kind.name.startswith("STORE_"))
SLOW = frozenset({Kind.FRONT_SLOW, Kind.STORE_SLOW})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. `at` and `seconds` in seconds, from the beginning of the run; `target` is a replica or a place in the crew, -1
    for all replicas. `amount`: of a clock its error, of a slow connection the delay of each piece of data, in seconds."""

    at: float
    kind: Kind
    target: int
    seconds: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        target = "" if self.target < 0 else f" {self.target}"
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        amount = f" ({self.amount:+.2f} s)" if self.amount else ""
        return f"{self.at:7.1f} {self.kind.name}{target}{lasting}{amount}"


@dataclass(frozen=True, kw_only=True)
class Tempo:
    """How fast and how long. Ranges in seconds: `pause` between two faults, `freeze` of a process, `outage` of a connection or
    of the store, `down` between a death and the next start. `disconnect_delay` is Luigi's `worker_disconnect_delay`."""

    seconds: float
    pause: tuple[float, float]
    freeze: tuple[float, float]
    outage: tuple[float, float]
    down: tuple[float, float]
    disconnect_delay: int

    @property
    def silence(self) -> float:
        """After how long without a word a worker is declared dead: half of the delay is the grain of what replicas know."""
        return 1.5 * self.disconnect_delay

    @property
    def store_outage(self) -> tuple[float, float]:
        """The store comes back before the first worker would be declared dead."""
        return (self.outage[0], min(self.outage[1], self.silence / 3))


def long_run(minutes: float) -> Tempo:
    """The tempo of `make chaos`."""
    return Tempo(seconds=60 * minutes, pause=(2, 6), freeze=(5, 90), outage=(2, 20), down=(0.5, 5), disconnect_delay=60)


SMOKE = Tempo(seconds=60, pause=(0.5, 1.5), freeze=(2, 6), outage=(1, 4), down=(0.5, 1.5), disconnect_delay=10)
"""All kinds in a minute, each short."""


def skews(seed: int) -> list[float]:
    """By how much each replica's clock is wrong from the start."""
    rng = random.Random(f"skew {seed}")
    return [round(rng.uniform(-SKEW_SECONDS, SKEW_SECONDS), 3) for _ in range(REPLICAS)]


def plan(seed: int, tempo: Tempo, places: int) -> list[Fault]:
    """The faults of a run with so many places in its crew, in the order in which they begin; all are over by the end."""
    return sorted(_Drawing(seed, tempo, places).faults(), key=lambda fault: fault.at)


class _Drawing:
    """Draws faults so that they hit but never all replicas' own connections or processes at once: the store as a whole is what
    goes for everybody, and not for long."""

    def __init__(self, seed: int, tempo: Tempo, places: int) -> None:
        self._rng = random.Random(f"faults {seed}")
        self._tempo = tempo
        self._free = [0.0] * REPLICAS
        self._crew = [0.0] * places
        self._store = 0.0

    def faults(self) -> Iterator[Fault]:
        moment = self._tempo.pause[1]
        deck = [*self._shuffled(), Kind.WORKER_OUTLIVED]  # the longest first, so that it fits
        while moment < self._tempo.seconds:
            if not deck:
                deck = self._shuffled()
            kind = deck.pop()
            moment = self._when(kind, moment)
            drawn = list(self._draw(kind, moment))
            if all(fault.at + fault.seconds <= self._tempo.seconds for fault in drawn):
                yield from drawn
                moment += self._rng.uniform(*self._tempo.pause)

    def _shuffled(self) -> list[Kind]:
        """Every kind once, so that each comes before any comes again."""
        return self._rng.sample(list(Kind), len(Kind))

    def _when(self, kind: Kind, moment: float) -> float:
        """The first time from `moment` on at which there is something left to hit."""
        if kind in OF_WORKERS:
            return max(moment, min(self._crew))
        if kind in FOR_ALL:
            return max(moment, self._store)
        # One replica must be free of faults, and another one to be hit.
        return max(moment, sorted(self._free)[1])

    def _draw(self, kind: Kind, at: float) -> Iterator[Fault]:
        seconds = self._seconds(kind)
        amount = 0.0
        if kind is Kind.CLOCK_STEP:
            amount = round(self._rng.uniform(-SKEW_SECONDS, SKEW_SECONDS), 3)
        elif kind in SLOW:
            amount = round(self._rng.uniform(0.02, 0.5), 3)
        if kind is Kind.RESTART:
            for target in self._rng.sample(range(REPLICAS), REPLICAS):
                at = max(at, self._free[target])
                yield self._hit(Fault(at=at, kind=kind, target=target, seconds=seconds))
                at += seconds
        elif kind in FOR_ALL:
            self._store = at + 2 * seconds + self._tempo.outage[1]
            yield Fault(at=at, kind=kind, target=-1, seconds=seconds)
        elif kind in OF_WORKERS:
            target = self._rng.choice([place for place, free in enumerate(self._crew) if free <= at])
            self._crew[target] = at + seconds + self._tempo.silence
            yield Fault(at=at, kind=kind, target=target, seconds=seconds)
        else:
            target = self._rng.choice([target for target in range(REPLICAS) if self._free[target] <= at])
            yield self._hit(Fault(at=at, kind=kind, target=target, seconds=seconds, amount=amount))

    def _hit(self, fault: Fault) -> Fault:
        self._free[fault.target] = fault.at + fault.seconds + self._tempo.pause[0]
        return fault

    def _seconds(self, kind: Kind) -> float:
        tempo = self._tempo
        if kind in INSTANT:
            return 0.0
        if kind is Kind.WORKER_OUTLIVED:
            bounds = (1.2 * tempo.silence, 1.5 * tempo.silence)
        elif kind is Kind.WORKER_FREEZE:
            bounds = (tempo.freeze[0], tempo.silence / 2)
        elif kind in (Kind.KILL, Kind.WORKER_KILL):
            bounds = tempo.down
        elif kind is Kind.RESTART:
            bounds = (RESTART_SECONDS, RESTART_SECONDS + tempo.down[1])
        elif kind in FOR_ALL:
            bounds = tempo.store_outage
        else:
            bounds = tempo.freeze if kind is Kind.FREEZE else tempo.outage
        return round(self._rng.uniform(*bounds), 1)
