"""`status`, `pause` and `resume`: the deployment as a whole."""

from __future__ import annotations

import argparse
from typing import Any

from luigi_spanner.commands import DONE, PROBLEM, Impossible
from luigi_spanner.commands.output import ago, print_fields, print_json, print_table, say, say_nothing, span
from luigi_spanner.commands.parsing import Parsers, add_live, replica


def add(commands: Parsers) -> None:
    add_live(
        commands,
        "status",
        _status,
        "show replicas, journal, tasks by status, workers and resources",
        "luigi-spanner status --url http://127.0.0.1:8082",
    )
    add_live(
        commands,
        "pause",
        lambda arguments: _set_paused(arguments, True),
        "give no worker any work; what runs goes on",
        "luigi-spanner pause",
    )
    add_live(commands, "resume", lambda arguments: _set_paused(arguments, False), "give work again", "luigi-spanner resume")


def _status(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    ready = remote.ready()
    overview = remote.read("overview") if ready["ready"] else {}
    if arguments.json:
        print_json({"url": remote.url, "ready": ready["ready"], "reasons": ready.get("reasons", []), **_asked(ready), **overview})
    else:
        _print_status(remote.url, ready, overview)
    return DONE if ready["ready"] and not overview["importing"] else PROBLEM


def _asked(ready: dict[str, Any]) -> dict[str, Any]:
    """Who answered, as far as it says."""
    return {name: ready[name] for name in ("namespace", "replica") if name in ready}


def _print_status(url: str, ready: dict[str, Any], overview: dict[str, Any]) -> None:
    fields: list[tuple[str, object]] = [("url", url), *_asked(ready).items()]
    if not overview:
        print_fields([*fields, ("ready", f"no: {'; '.join(ready.get('reasons', []))}")])
        return
    behind = overview["head"] - overview["watermark"]
    tables = f"{behind} {'entry' if behind == 1 else 'entries'} behind" if behind else "up to date"
    print_fields(
        [
            *fields,
            ("ready", "yes"),
            ("work", "paused: nobody is given any" if overview["paused"] else "is given out"),
            ("journal", f"head {overview['head']}; the tables are {tables}"),
            ("tasks", _counted(overview["tasks"])),
            ("workers", _counted(overview["workers"])),
            ("resources", _resources_in_short(overview["resources"])),
        ]
    )
    if overview["importing"]:
        say_nothing()
        say("An import is under way or was interrupted, tasks are missing: let it end, or run it again with --replace.")
    say_nothing()
    now = overview["time"]
    print_table(
        ("replica", "release", "up for", "last said so"),
        (
            (row["replica"], row["release"], span(max(0.0, now - row["started_at"])), ago(row["seen_at"], now))
            for row in overview["replicas"]
        ),
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _resources_in_short(resources: list[dict[str, Any]]) -> str:
    full = [row["resource"] for row in resources if row["used"] and row["used"] >= row["total"]]
    return f"{len(resources)}, used up: {', '.join(full) or 'none'}"


def _set_paused(arguments: argparse.Namespace, paused: bool) -> int:
    remote = replica(arguments)
    if not remote.read("is_pause_enabled")["enabled"]:
        raise Impossible("The deployment cannot be paused: pause_enabled is off in [scheduler] of its luigi.cfg")
    remote.call("pause" if paused else "unpause")
    if arguments.json:
        print_json({"paused": paused})
    else:
        say("Paused: workers are given no work, what runs goes on." if paused else "Work is given out again.")
    return DONE
