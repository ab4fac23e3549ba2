"""Chaos with real processes: replicas on the emulator, a balancer, unmodified workers, and a fault every few seconds.

The plan of faults comes from a seed, so it can be repeated; how real processes interleave cannot.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "endtoend")]

import balancer  # noqa: E402
import scenario  # noqa: E402
import skew  # noqa: E402
from crew import Crew  # noqa: E402
from faultplan import Fault, Tempo, long_run, plan, skews  # noqa: E402
from fleet import Fleet  # noqa: E402
from outcome import Outcome, Size  # noqa: E402
from processes import Processes, TimedOut  # noqa: E402
from storm import Storm  # noqa: E402
from verdict import judge  # noqa: E402

from emulator import HOW_TO_GET_IT, Emulator, find_emulator  # noqa: E402

HOW_TO_GET_TOOLS = "needs haproxy and libfaketime: `.ci/tools` installs them on Debian and Ubuntu (packages haproxy and faketime)"

LOOK_SECONDS = 0.02
"""How often the run looks at its processes and its agenda."""

SETTLE_SECONDS = 240.0
"""How long workers may take, after the last fault, to finish what they have begun, and the last fault to be over."""

TELL_SECONDS = 10.0
"""How often a run says how far it is."""

SETTINGS = {"rpc-retry-wait": "1", "rpc-retry-attempts": "120"}
"""Of [core]: a worker asks again after a second, for two minutes at least. The timeout of a call is Luigi's, 10 s."""


POLLING = {"wait_interval": "0.3"}
"""Of [worker]: dozens of idle workers ask for work some three times a second each."""

RULES = {"stable_done_cooldown_secs": "3600", "record_task_history": "true"}
"""Of [scheduler]. A worker that stood still, or asked again and again, adds a task as pending that others have done meanwhile;
after this time Luigi takes it for a wish to run the task again. With a history `verify` has more to compare."""


LARGE = Size(gangs=4, members=6, pace=25)
"""24 workers, with 42 task processes at most."""

SMALL = Size(gangs=2, members=3, pace=6)


class Calm:
    """No weather at all."""

    def __init__(self) -> None:
        self.happened: list[tuple[Fault, float, float]] = []
        self.over = True

    def look(self) -> None:
        """Nothing is due."""


class Weather(Protocol):
    """What happens to a fleet while a crew works. `happened`: each fault, when it began and ended."""

    happened: list[tuple[Fault, float, float]]

    def look(self) -> None:
        """Do what is due."""

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""


def missing() -> str | None:
    """What a run needs and this machine has not, in a sentence."""
    found = find_emulator()
    if found is None:
        return HOW_TO_GET_IT
    if found.kind != "binary":
        return f"needs an emulator that it can stop and start, and not the {found.kind} {found.place}: set LUIGI_SPANNER_EMULATOR"
    return None if balancer.find() and skew.find() else HOW_TO_GET_TOOLS


def play(seed: int, tempo: Tempo, size: Size, directory: Path, say: Callable[[str], object] = print) -> Outcome:
    """One run, in `directory`, which must not exist. It ends by itself and leaves no process behind. Raises TimedOut."""
    faults = plan(seed, tempo, size.gangs * size.members)
    clocks = skews(seed)
    fleet = Fleet(
        directory=directory, environment=prepare(directory, tempo), emulator=Emulator(fault_injection=True), skews=clocks
    )
    return run(fleet, lambda crew, began: Storm(fleet, crew, faults, began, tempo.silence), tempo, size, say, seed=seed)


def run(
    fleet: Fleet,
    weather: Callable[[Crew, float], Weather],
    tempo: Tempo,
    size: Size,
    say: Callable[[str], object] = print,
    *,
    seed: int = 0,
) -> Outcome:
    """Let a crew work with a fleet in the weather that `weather` makes, to the end, and judge. Raises TimedOut."""
    with fleet, Processes() as processes:
        crew = Crew(
            directory=fleet.directory,
            environment=fleet.environment,
            processes=processes,
            url=fleet.balancer.url,
            gangs=size.gangs,
            members=size.members,
            pace=size.pace,
        )
        began = time.monotonic()
        made = weather(crew, began)
        _last(fleet, crew, made, began + tempo.seconds, say)
        ended = time.monotonic()
        fleet.await_ready()
        fleet.stop()
        verdict = judge(fleet, crew, tempo.disconnect_delay, made.happened)
    return Outcome(
        seed=seed,
        tempo=tempo,
        size=size,
        skews=[seconds or 0.0 for seconds in fleet.skews],
        began=began,
        ended=ended,
        happened=made.happened,
        shifts=crew.shifts,
        failed_starts=len(fleet.failed_starts),
        verdict=verdict,
    )


def prepare(directory: Path, tempo: Tempo) -> dict[str, str]:
    """Write the configuration; the environment of replicas and workers."""
    environment = scenario.prepare(directory)
    configuration = Path(environment["LUIGI_CONFIG_PATH"])
    text = configuration.read_text()
    for name, value in {**SETTINGS, **POLLING}.items():
        text = _with(text, name, value)
    added = "".join(f"{name} = {value}\n" for name, value in rules(tempo).items())
    configuration.write_text(text.replace("[scheduler]\n", f"[scheduler]\n{added}"))
    return environment


def rules(tempo: Tempo) -> dict[str, str]:
    """What of [scheduler] the outcome depends on."""
    return {**RULES, "worker_disconnect_delay": str(tempo.disconnect_delay)}


def _with(text: str, name: str, value: str) -> str:
    """The configuration with one of its lines changed."""
    lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in text.splitlines()]
    assert f"{name} = {value}" in lines, name
    return "\n".join(lines) + "\n"


def _last(fleet: Fleet, crew: Crew, weather: Weather, least: float, say: Callable[[str], object]) -> None:
    """Let it go on until `least`, until nothing more is to come and the workers have finished. Raises TimedOut."""
    began = told = time.monotonic()
    calm = None
    while calm is None or not crew.idle:
        weather.look()
        fleet.look()
        crew.look()
        now = time.monotonic()
        if calm is None and now > least and weather.over:
            calm = now
            crew.close()
        if calm is None and now > least + SETTLE_SECONDS:
            raise TimedOut(f"what was to happen has not happened {SETTLE_SECONDS:.0f} s after it was to be over")
        if calm is not None and now > calm + SETTLE_SECONDS:
            raise TimedOut(f"the workers have not finished {SETTLE_SECONDS:.0f} s after the last fault")
        if now - told > TELL_SECONDS:
            told = now
            done, rounds = sum(shift.exit_code == 0 for shift in crew.shifts), len(crew.rounds())
            say(f"{now - began:6.0f} s: {len(weather.happened)} faults, {rounds} rounds, {done} workers have finished")
        time.sleep(LOOK_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults happen (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the plan (default: random)")
    parser.add_argument("--report", type=Path, default=None, help="directory for the report (default: none)")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves every block, so that nothing outlives the run
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    directory = Path(tempfile.mkdtemp(prefix="chaos-")) / "run"
    print(f"seed {seed}, logs in {directory}", flush=True)
    try:
        outcome = play(seed, long_run(options.minutes), LARGE, directory, lambda line: print(line, flush=True))
    except TimedOut as error:
        print(f"{error}\nlogs are kept in {directory}")
        return 1
    for violation in outcome.verdict.violations:
        print(violation, flush=True)
    if options.report is not None:
        # After the verdict: a report that cannot be drawn must not hide it.
        import chaosreport

        print(f"report in {chaosreport.write(outcome, options.report, {**SETTINGS, **rules(outcome.tempo)})}", flush=True)
    if outcome.verdict.violations:
        print(f"{len(outcome.verdict.violations)} promises were broken; logs are kept in {directory}")
        return 1
    shutil.rmtree(directory.parent)
    print("every promise was kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
