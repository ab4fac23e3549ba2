"""A campaign: requests of every kind, one after the other, until something that must hold does not; it prints what to repeat."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for directory in ("differential", "endtoend"):
    sys.path.append(str(Path(__file__).parents[1] / directory))

import requests  # noqa: E402
import session  # noqa: E402
from described import Described, shown  # noqa: E402
from processes import tail  # noqa: E402
from scene import Scene, Seeded, setting  # noqa: E402
from steps import batch, often  # noqa: E402
from target import Broken, Target, target  # noqa: E402
from texts import form, plain, spoiled  # noqa: E402
from twins import Step  # noqa: E402
from wire import Request, answered, exchange, mangled, request  # noqa: E402

CALLS = 20_000
"""How many requests a campaign sends unless told otherwise: some five minutes."""

TELL_SECONDS = 10.0
"""How often a campaign says how far it is."""

LIFE = 2500
"""How many requests a daemon gets before it is started again, with other rules now and then."""

SESSION_EVERY = 40
"""How many turns, of some three requests, there are between two sessions of a real worker, which take about 0.3 s."""

LOOK_EVERY = 20
"""How many turns there are between two looks at the log and pings, which take some milliseconds."""

OPEN = -1
"""Stands for the status of a request whose reply nobody has waited for."""


@dataclass(frozen=True)
class Found:
    """What did not hold, at which request, and the request."""

    number: int
    request: str
    what: str

    def __str__(self) -> str:
        return f"request {self.number}: {self.what}\n{self.request}"


class Campaign:
    """Requests to one daemon after another. What is sent follows from the seed, and from the ids that the daemons give.

    `statuses` counts the replies by kind of request.
    """

    def __init__(self, seed: str, directory: Path) -> None:
        self.seed = seed
        self.directory = directory
        self.number = 0
        self.statuses: Counter[str] = Counter()
        self._sessions = 0
        self._sent = ""
        self._accepted: set[str] = set()
        self._unnamed = False

    def run(self, calls: int, until: float, say: Callable[[str], object] = lambda line: None) -> Found | None:
        """Send `calls` requests, or as many as come before the monotonic time `until`."""
        told = time.monotonic()
        try:
            while self.number < calls and time.monotonic() < until:
                self._life(min(calls, self.number + LIFE), until)
                if time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    say(f"{self.number} requests: {dict(sorted(self.statuses.items()))}")
        except Broken as error:
            return Found(self.number, self._sent, str(error))
        return None

    def _life(self, calls: int, until: float) -> None:
        """A daemon from its start to its end; it starts once more from what it has kept."""
        dice = Seeded(self._rng("scene"))
        setup, scene = setting(dice)
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        with target(directory, _configuration(setup)) as aim, _telling(aim):
            described = Described(aim.description(), [*scene.tasks, *scene.workers, "r", "s", "lock0"])
            names = often(dice)
            while self.number < calls and time.monotonic() < until:
                self._send_some(aim, scene, dice, names, described)
            self._hold_session(aim)
            aim.restart()
            self._hold_session(aim)
            aim.stop()
            aim.verify()

    def _send_some(self, aim: Target, scene: Scene, dice: Seeded, names: Any, described: Described) -> None:
        rng = self._rng("kind")
        kind = rng.choice(("described", "text", "text", "wire", "valid", "valid"))
        if kind == "described":
            self._send_described(aim, described, rng)
        else:
            for step in batch(dice, scene, names, 1):
                self._send_step(aim, scene, step, kind)
        if rng.random() < 1 / LOOK_EVERY:
            aim.check_alive()
            aim.check_log()
        if rng.random() < 1 / SESSION_EVERY:
            self._hold_session(aim)

    def _send_described(self, aim: Target, described: Described, rng: random.Random) -> None:
        with requests.Session() as connection:
            for case in described.cases(rng):
                name = self._next()
                self._sent = shown(case, aim.url, name)
                self.settle(aim, "described", [described.send(aim, case, name, connection)], {name})

    def _send_step(self, aim: Target, scene: Scene, step: Step, kind: str) -> None:
        rng, name = self._rng("request"), self._next()
        if kind == "valid":
            made = request(rng, step.method, plain(json.dumps(step.arguments)), name)
            status, body = self._answered(aim, made)
            scene.learn(step, json.loads(body)["response"] if status == 200 else None)
            self.settle(aim, kind, [status], {name})
        elif kind == "text":
            made = request(rng, step.method, form(rng, spoiled(rng, step.arguments)), name)
            self.settle(aim, kind, [self._answered(aim, made)[0]], {name})
        else:
            names = [name, f"{name}-b", f"{name}-c"][: rng.choice((1, 1, 2, 3))]
            data = mangled(rng, [request(rng, step.method, form(rng, json.dumps(step.arguments)), one) for one in names])
            self._sent = repr(data)
            statuses = exchange(rng, aim.port, data)
            self.settle(aim, kind, statuses if len(statuses) >= len(names) else [*statuses, OPEN], set(names))

    def _answered(self, aim: Target, made: Request) -> tuple[int, bytes]:
        self._sent = repr(made.written())
        return answered(aim.port, made)

    def settle(self, aim: Target, kind: str, statuses: list[int], names: set[str]) -> None:
        """What must hold after the requests of these names: none met a bug, and what was refused has changed nothing."""
        self.statuses.update(f"{kind} {'open' if status == OPEN else status}" for status in statuses)
        if any(status >= 500 for status in statuses):
            raise Broken(f"it was answered {statuses}")
        if any(status < 400 for status in statuses):
            self._accepted |= names
            self._unnamed = self._unnamed or kind == "wire"  # whose name may have got lost
        changed = aim.changed_by() - self._accepted
        refused = {name for name in changed if name in names or not self._unnamed}
        if refused:
            raise Broken(f"the journal has {sorted(refused)}, and the replies were {statuses}")

    def _hold_session(self, aim: Target) -> None:
        self._sessions += 1
        session.hold(aim.url, f"session-{self.seed}-{self._sessions}")
        aim.changed_by()
        self._accepted.clear()
        self._unnamed = False

    def _next(self) -> str:
        self.number += 1
        return f"r{self.number}"

    def _rng(self, what: str) -> random.Random:
        """Randomness for one purpose, of its own for each request, so that one does not depend on how many another draws."""
        return random.Random(f"{self.seed}:{what} {self.number}")


@contextmanager
def _telling(aim: Target) -> Iterator[None]:
    """What is found broken inside comes with the end of the daemon's log."""
    try:
        yield
    except Broken as error:
        raise Broken(f"{error}\n{tail(aim.server.log)}") from error


def _configuration(setup: Any) -> dict[str, dict[str, Any]]:
    """The scene's rules. Lists are never too long, so that sessions find their own tasks; no mail leaves."""
    rules = {**setup.rules, "max_shown_tasks": 100_000, "max_graph_nodes": 100_000}
    return {
        "core": {"autoload_range": "false"},
        "scheduler": rules,
        "resources": setup.limits,
        "email": {"format": "none"},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--calls", type=int, default=None, help=f"how many requests to send (default: {CALLS}, or as many as come)"
    )
    parser.add_argument("--minutes", type=float, default=None, help="for how long at most (default: until all are sent)")
    parser.add_argument("--seed", default=None, help="seed of the campaign (default: random)")
    options = parser.parse_args()
    calls = options.calls or (CALLS if options.minutes is None else sys.maxsize)
    seed = options.seed or str(random.SystemRandom().randrange(2**32))
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        campaign = Campaign(seed, Path(directory))
        found = campaign.run(calls, began + 60 * (options.minutes or math.inf), lambda line: print(line, flush=True))
    seconds = time.monotonic() - began
    print(f"{campaign.number} requests in {seconds:.0f} s: {dict(sorted(campaign.statuses.items()))}")
    if found is None:
        print("everything held")
        return 0
    print(found)
    print(f"repeat with: make fuzz SEED={seed} CALLS={found.number}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
