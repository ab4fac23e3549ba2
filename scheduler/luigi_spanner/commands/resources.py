"""`resource`: limits of resources, which a call sets for all replicas and beyond their restarts."""

from __future__ import annotations

import argparse
from typing import Any

from luigi_spanner.commands import DONE, NotFound
from luigi_spanner.commands.output import counted, print_json, print_table, say
from luigi_spanner.commands.parsing import Parsers, add_live, replica

_ORIGINS = {"api": "set by a call", "config": "[resources] in luigi.cfg", "default": "undeclared"}


def add(commands: Parsers) -> None:
    parser = commands.add_parser("resource", help="look at the limits of resources, or change one")
    acts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_live(acts, "list", _list, "list resources, their limits and how much is used", "luigi-spanner resource list")
    limit = add_live(
        acts,
        "set",
        _set,
        "limit a resource, whatever the configuration says, until it is reset",
        "luigi-spanner resource set db 3",
    )
    limit.add_argument("name", metavar="NAME", help="the resource")
    limit.add_argument("amount", metavar="N", type=_amount, help="how much of it there is; 0 keeps its tasks waiting")
    reset = add_live(acts, "reset", _reset, "let the configured limit hold again", "luigi-spanner resource reset db")
    reset.add_argument("name", metavar="NAME", help="the resource")


def _amount(text: str) -> int | float:
    value = int(text) if text.isdecimal() else float(text)
    if not 0 <= value <= 2**63 - 1:
        raise ValueError("is no amount")
    return value


def _list(arguments: argparse.Namespace) -> int:
    resources: list[dict[str, Any]] = replica(arguments).read("overview")["resources"]
    if arguments.json:
        print_json({"resources": resources})
        return DONE
    if resources:
        print_table(
            ("resource", "used", "limit", "limit by"),
            ((row["resource"], row["used"], row["total"], _ORIGINS.get(row["origin"], row["origin"])) for row in resources),
        )
    say(counted(len(resources), "resource"))
    return DONE


def _set(arguments: argparse.Namespace) -> int:
    remote = replica(arguments)
    if isinstance(arguments.amount, int):
        remote.call("update_resource", resource=arguments.name, amount=arguments.amount)
    else:
        # Luigi's rule for one resource takes whole numbers alone.
        remote.call("update_resources", **{arguments.name: arguments.amount})
    if arguments.json:
        print_json({"resource": arguments.name, "total": arguments.amount, "origin": "api"})
    else:
        say(f"{arguments.name} is limited to {arguments.amount}, until `resource reset {arguments.name}`.")
    return DONE


def _reset(arguments: argparse.Namespace) -> int:
    outcome = replica(arguments).call("reset_resource", resource=arguments.name)
    if not outcome["known"]:
        raise NotFound(f"There is no resource {arguments.name!r}; `luigi-spanner resource list` lists them")
    if arguments.json:
        print_json({name: outcome[name] for name in ("resource", "total", "origin")})
    elif outcome["total"] is None:
        say(f"{arguments.name} is not configured: it has Luigi's limit of 1 again.")
    else:
        say(f"{arguments.name} has its configured limit of {outcome['total']}.")
    return DONE
