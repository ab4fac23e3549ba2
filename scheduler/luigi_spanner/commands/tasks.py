"""`tasks` and `task`: find tasks, look at one, and change what the scheduler thinks of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from luigi_spanner.commands import DONE, PROBLEM, NotFound
from luigi_spanner.commands.output import ago, counted, print_fields, print_json, print_table, say, say_lines, say_nothing
from luigi_spanner.commands.parsing import Parsers, Run, add_live, replica

STATUSES = ("PENDING", "RUNNING", "BATCH_RUNNING", "DONE", "FAILED", "DISABLED", "UNKNOWN")
"""What tasks can be in. Luigi's SUSPENDED is asked for by workers and becomes PENDING."""

PAGE = 1000
"""Tasks that one call shows at most."""


def add(commands: Parsers) -> None:
    _add_tasks(commands)
    parser = commands.add_parser("task", help="look at one task, or change what the scheduler thinks of it")
    acts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_task(acts, "show", _show, "show all that is known of a task")
    fail = _add_task(acts, "fail", _fail, "take a task that waits or runs for failed; it is tried again after retry_delay")
    fail.add_argument("--reason", metavar="TEXT", help="what the task's page shows as its error")
    _add_task(acts, "retry", _retry, "let a failed, disabled or cancelled task run again at once, its failures forgotten")
    _add_task(acts, "forgive", _forgive, "as the visualiser does: a failed task waits to run again, a disabled one is re-enabled")
    _add_task(acts, "done", _done, "take a task that runs, has failed or is disabled for done")
    cancel = _add_task(acts, "cancel", _cancel, "let no worker have a task; a running one is told, if it takes messages")
    cancel.add_argument("--force", action="store_true", help="disable a task that runs, too, although nothing ends its process")


def _add_tasks(commands: Parsers) -> None:
    parser = add_live(
        commands,
        "tasks",
        _tasks,
        "list tasks, in the order in which they were added, or with --status in that in which they took it",
        "luigi-spanner tasks --status FAILED",
    )
    parser.add_argument(
        "--status",
        choices=STATUSES,
        type=str.upper,
        default="",
        help="in this status; the one that has been so for longest is the first",
    )
    parser.add_argument("--family", metavar="NAME", help="of this family")
    parser.add_argument("--worker", metavar="WORKER", help="that this worker runs or may run")
    parser.add_argument("--search", metavar="WORDS", help="with all of these words in what they are called")
    parser.add_argument("--limit", metavar="N", type=_positive, default=50, help="at most so many (default: 50)")
    parser.add_argument("--after", metavar="PLACE", type=int, help="go on where an earlier list ended, which said so")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("is less than one")
    return value


def _add_task(acts: Parsers, name: str, run: Run, text: str) -> Any:
    parser = add_live(acts, name, run, text, f"luigi-spanner task {name} Sales_harbour_2026_01_01_a1b2c3d4e5")
    parser.add_argument("task", metavar="TASK", help="the task's id, as `luigi-spanner tasks` shows it")
    return parser


# Lists


def _tasks(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    wanted = {name: getattr(arguments, name) for name in ("status", "family", "worker", "search")}
    found: list[dict[str, Any]] = []
    after = arguments.after
    while True:
        page = remote.read("find_tasks", **wanted, limit=min(PAGE, arguments.limit - len(found)), after=after)
        found += page["tasks"]
        after = page["next"]
        if after is None or len(found) == arguments.limit:
            break
    if arguments.json:
        print_json({"tasks": found, "next": after})
        return DONE
    if found:
        print_table(
            ("status", "task", "worker", "updated"),
            ((task["status"], task["task_id"], task["worker_running"], ago(task["last_updated"])) for task in found),
        )
    more = "" if after is None else f"; there may be more: --after {after}"
    say(f"{counted(len(found), 'task')}{more}")
    return DONE


# One task


def _show(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    task = remote.read("show_task", task_id=arguments.task)
    if task is None:
        raise unknown(arguments.task)
    if arguments.json:
        print_json(task)
        return DONE
    dependencies, dependents = task["dependencies"], task["dependents"]
    fields: list[tuple[str, object]] = [
        ("task", task["task_id"]),
        ("status", task["status"]),
        ("called", task["display_name"]),
        ("module", task["module"]),
        ("priority", task["priority"]),
        ("added", ago(task["start_time"])),
        ("updated", ago(task["last_updated"])),
        ("runs on", task["worker_running"] if task["status"] in ("RUNNING", "BATCH_RUNNING") else None),
        ("workers able to run it", ", ".join(task["workers"])),
        ("resources", _json_or_none(task["resources"])),
        ("failures", task["failures"]),
        ("tried again", ago(task["retry_at"])),
        ("enabled again", ago(task["enabled_again_at"])),
        ("removed", ago(task["remove_at"])),
        ("batch", task["batch_id"]),
        ("depends on", _neighbours(dependencies)),
        ("is needed by", _neighbours(dependents)),
        ("message", task["status_message"]),
        ("tracking url", task["tracking_url"]),
    ]
    print_fields((name, value) for name, value in fields if value not in (None, "", []))
    if dependencies["unfinished"]:
        say_nothing()
        print_table(("not done", "depends on"), ((row["status"], row["task_id"]) for row in dependencies["unfinished"]))
    if task["error"]:
        say_nothing()
        say("error:")
        say_lines(_decoded(task["error"]))
    return DONE


def _neighbours(neighbours: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in neighbours["by_status"].items())
    return f"{counted(neighbours['total'], 'task')}: {counts}" if counts else "nothing"


def _json_or_none(value: Any) -> str | None:
    return json.dumps(value) if value else None


def _decoded(error: Any) -> Any:
    """Workers send the text of an error as JSON."""
    try:
        return json.loads(error) if isinstance(error, str) else error
    except ValueError:
        return error


def _fail(arguments: argparse.Namespace) -> int:
    outcome = replica(arguments).call("fail_task", task_id=arguments.task, reason=arguments.reason)
    runs = outcome["before"] in ("RUNNING", "BATCH_RUNNING")
    still = " Its process runs on; if that reports it done after all, it is done." if runs else ""
    again = (
        "It has failed too often and is disabled." if outcome["status"] == "DISABLED" else "It is tried again after retry_delay."
    )
    return _told(arguments, outcome, ("PENDING", "RUNNING", "BATCH_RUNNING"), f"Taken for failed. {again}{still}")


def _retry(arguments: argparse.Namespace) -> int:
    outcome = replica(arguments).call("retry_task", task_id=arguments.task)
    able = outcome["workers"]
    who = f"{counted(able, 'worker')} may run it" if able else "no worker is there to run it until one schedules it"
    return _told(arguments, outcome, ("FAILED", "DISABLED"), f"It waits to run; {who}.")


def _forgive(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    task = remote.read("show_task", task_id=arguments.task)
    if task is None:
        raise unknown(arguments.task)
    if task["status"] == "DISABLED":
        enabled = remote.call("re_enable_task", task_id=arguments.task)
        status, sentence = enabled.get("status", "DISABLED"), "It is enabled again, and waits for its next try after retry_delay."
    else:
        status, sentence = remote.call("forgive_failures", task_id=arguments.task)["status"], "It waits to run again."
    outcome = {"task_id": arguments.task, "before": task["status"], "status": status}
    if task["status"] == "DISABLED" == status:
        return _not_so(arguments, outcome, "a worker disabled it; use retry")
    return _told(arguments, outcome, ("FAILED", "DISABLED"), sentence)


def _done(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    task = remote.read("show_task", task_id=arguments.task)
    if task is None:
        raise unknown(arguments.task)
    status = remote.call("mark_as_done", task_id=arguments.task)["status"]
    outcome = {"task_id": arguments.task, "before": task["status"], "status": status}
    return _told(arguments, outcome, ("RUNNING", "FAILED", "DISABLED", "DONE"), "It is done.")


def _cancel(arguments: argparse.Namespace) -> int:
    outcome = replica(arguments).call("cancel_task", task_id=arguments.task, force=arguments.force)
    if outcome["before"] == "DONE":
        return _not_so(arguments, outcome, "there is nothing left to cancel")
    if outcome["message_id"] is not None:
        return _told(
            arguments, outcome, ("RUNNING",), f"It runs on {outcome['worker']} and is told to end; whether it does is up to it."
        )
    if outcome["status"] in ("RUNNING", "BATCH_RUNNING"):
        why = f"it runs on {outcome['worker']}, and Luigi's workers have no message that ends a task"
        return _not_so(arguments, outcome, f"{why}; --force disables it, so that it is not run again")
    runs = outcome["before"] in ("RUNNING", "BATCH_RUNNING")
    still = f" Its process on {outcome['worker']} runs on, and its resources count as free." if runs else ""
    sentence = f"Cancelled: no worker gets it until `task retry`, `task forgive`, or disable_persist has passed.{still}"
    return _told(arguments, outcome, (outcome["before"] or "",), sentence)


# Outcomes


def unknown(task_id: str) -> NotFound:
    """There is no such task, and how to find one."""
    return NotFound(f"There is no task {task_id!r}; `luigi-spanner tasks --search WORDS` looks for one")


def _told(arguments: argparse.Namespace, outcome: dict[str, Any], allowed: tuple[str, ...], sentence: str) -> int:
    """Tell of a change, or why there was none: it is made to tasks in `allowed` statuses alone."""
    if outcome["before"] is None:
        raise unknown(arguments.task)
    if outcome["before"] not in allowed:
        return _not_so(arguments, outcome, f"that is for tasks that are {', '.join(allowed)}")
    if arguments.json:
        print_json(outcome)
    else:
        say(f"{outcome['task_id']}: {outcome['before']} -> {outcome['status']}. {sentence}")
    return DONE


def _not_so(arguments: argparse.Namespace, outcome: dict[str, Any], why: str) -> int:
    if arguments.json:
        print_json(outcome)
    else:
        say(f"{outcome['task_id']} is {outcome['status']} and stays so: {why}.")
    return PROBLEM
