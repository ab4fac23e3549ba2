"""`workers` and `worker`: who is there, and who shall not be."""

from __future__ import annotations

import argparse
from typing import Any

from luigi_spanner.commands import DONE, NotFound
from luigi_spanner.commands.output import ago, counted, print_json, print_table, say
from luigi_spanner.commands.parsing import Parsers, add_live, replica


def add(commands: Parsers) -> None:
    add_live(commands, "workers", _workers, "list workers, the youngest first", "luigi-spanner workers --json")
    parser = commands.add_parser("worker", help="let go of a worker")
    acts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, run, text in (
        ("evict", _evict, "take a worker for dead: what it runs has failed and is tried again after retry_delay"),
        ("disable", _disable, "give a worker no more work; what it runs goes on"),
    ):
        act = add_live(acts, name, run, text, f"luigi-spanner worker {name} 'Worker(salt=123, workers=1, host=a, pid=7)'")
        act.add_argument("worker", metavar="WORKER", help="the worker's id, as `luigi-spanner workers` shows it")


def _workers(arguments: argparse.Namespace) -> int:
    found = [{**worker, "running": sorted(worker["running"])} for worker in replica(arguments).read("worker_list")]
    if arguments.json:
        print_json({"workers": found})
        return DONE
    if found:
        print_table(("worker", "state", "last active", "runs", "may run", "only it may"), map(_row, found))
    say(counted(len(found), "worker"))
    return DONE


def _row(worker: dict[str, Any]) -> tuple[object, ...]:
    counts = (worker["num_running"], worker["num_pending"], worker["num_uniques"])
    return worker["name"], worker["state"], ago(worker["last_active"]), *counts


def _evict(arguments: argparse.Namespace) -> int:
    outcome = replica(arguments).call("evict_worker", worker=arguments.worker)
    if not outcome["known"]:
        raise _unknown(arguments.worker)
    if arguments.json:
        print_json(outcome)
    else:
        failed = f"{counted(len(outcome['running']), 'task')} that it ran failed"
        say(f"{outcome['worker']} is taken for dead; {failed}. If it lives, it comes back as a new worker without tasks.")
    return DONE


def _disable(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    # Luigi's rule would make a worker of that name.
    if arguments.worker not in {worker["name"] for worker in remote.read("worker_list", include_running=False)}:
        raise _unknown(arguments.worker)
    remote.call("disable_worker", worker=arguments.worker)
    if arguments.json:
        print_json({"worker": arguments.worker, "state": "disabled"})
    else:
        say(f"{arguments.worker} is disabled: it gets no more work, and cannot be enabled again. What it runs goes on.")
    return DONE


def _unknown(worker: str) -> NotFound:
    return NotFound(f"There is no worker {worker!r}; `luigi-spanner workers` lists them")
