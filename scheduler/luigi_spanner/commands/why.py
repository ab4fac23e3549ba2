"""`why`: what keeps a task from running, as the scheduler itself sees it."""

from __future__ import annotations

import argparse

from luigi_spanner.commands import DONE, NotFound
from luigi_spanner.commands.output import print_json, say
from luigi_spanner.commands.parsing import Parsers, add_live, replica
from luigi_spanner.commands.tasks import unknown


def add(commands: Parsers) -> None:
    parser = add_live(
        commands, "why", _why, "say why a task is not running", "luigi-spanner why Sales_harbour_2026_01_01_a1b2c3d4e5"
    )
    parser.add_argument("task", metavar="TASK", help="the task's id, as `luigi-spanner tasks` shows it")
    parser.add_argument("--worker", metavar="WORKER", help="why this worker does not get it")


def _why(arguments: argparse.Namespace) -> int:
    asked = {"task_id": arguments.task, **({"worker": arguments.worker} if arguments.worker else {})}
    try:
        answer = replica(arguments).read("why", **asked)
    except NotFound:
        raise unknown(arguments.task) from None
    if arguments.json:
        print_json(answer)
        return DONE
    say(f"{answer['task_id']} is {answer['status']}. {answer['summary']}")
    for reason in answer["reasons"]:
        if reason["sentence"] not in answer["summary"]:
            say(f"- {reason['sentence']}")
    return DONE
