"""The tables of validation against Luigi's own signatures."""

from __future__ import annotations

import inspect
import math

import luigi.scheduler
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spanner.calls import BadRequest, UnknownMethod
from luigi_spanner.graph.administration import Administration
from luigi_spanner.graph.graph import Graph
from luigi_spanner.methods import OURS, Ours
from luigi_spanner.server import checks, validate

METHODS = validate.served()


def test_every_remote_method_is_known() -> None:
    assert set(METHODS) == (set(luigi.scheduler.RPC_METHODS) - validate.LOCAL_ONLY) | OURS


def test_every_argument_of_this_luigi_is_in_the_tables() -> None:
    """One that is not is passed unchecked: decide for each, and say here which may hold anything."""
    free = {"expl", "content", "response", "status_message"}
    for name, method in METHODS.items():
        for argument in method.checks:
            known = argument in validate.ARGUMENTS or (name, argument) in validate.EXCEPTIONS
            assert known or argument in free, (name, argument)


def test_the_tables_name_nothing_that_luigi_has_not() -> None:
    arguments = {argument for method in METHODS.values() for argument in method.checks}
    assert set(validate.ARGUMENTS) <= arguments
    assert {(name, argument) for name, method in validate.served().items() for argument in method.checks} >= set(
        validate.EXCEPTIONS
    )
    assert set(validate.ALSO_REQUIRED) | set(validate.COLLECTED) <= set(METHODS)


def test_our_own_methods_are_the_graph_s() -> None:
    for name in OURS:
        described = Ours if hasattr(Ours, name) else Administration
        assert inspect.signature(getattr(described, name)) == inspect.signature(getattr(Graph, name))


def test_luigi_s_own_defaults_pass() -> None:
    for name, method in METHODS.items():
        signature = inspect.signature(getattr(luigi.scheduler.Scheduler, name, None) or getattr(Graph, name))
        for parameter in signature.parameters.values():
            if parameter.default is not parameter.empty and parameter.name not in method.required:
                assert method.checks[parameter.name](parameter.default) is None, (name, parameter.name)


def test_reserved_information_is_what_worker_list_says() -> None:
    scheduler = luigi.scheduler.Scheduler()
    scheduler.add_worker("w", {})
    (shown,) = scheduler.worker_list(include_running=False)
    assert set(shown) == checks.SHOWN_INFO


def test_find() -> None:
    assert validate.find(METHODS, "ping").name == "ping"
    for name in ("nothing", "", "update_metrics_task_started", "__init__"):
        with pytest.raises(UnknownMethod):
            validate.find(METHODS, name)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        assert isinstance(validate.parse(text), dict)
    except BadRequest as error:
        assert str(error).isascii() or "JSON" in str(error)


def test_depth() -> None:
    def nested(depth: int) -> str:
        return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"

    validate.parse(nested(validate.MAX_DEPTH))
    for depth in (validate.MAX_DEPTH + 1, 5_000, 500_000):
        with pytest.raises(BadRequest, match="deeper"):
            validate.parse(nested(depth))


def test_brackets_that_do_not_nest() -> None:
    assert validate.parse('{"a": "' + "[" * 1000 + '", "b": [' + ",".join(["[]"] * 1000) + "]}")["b"]


def test_whole_surrogate_pairs_are_text() -> None:
    assert validate.parse('{"a": "\\ud83e\\udd8a", "b": "\\\\ud800"}') == {"a": "\N{FOX FACE}", "b": "\\ud800"}


def test_numbers() -> None:
    assert checks.number(1.5) is checks.number(-(2**63)) is checks.amount(0) is checks.limit(math.inf) is None
    for wrong in (math.inf, math.nan, 2**63, 2.0**63, -1e300, True, "1", None, []):
        assert checks.number(wrong)
    assert checks.limit(math.nan) and checks.limit(True) and checks.amount(-0.1) and checks.whole(1.0)
    for right in (True, False, math.inf, -math.inf, 10**400, 0.5):
        assert checks.rank(right) is None
    assert checks.rank(math.nan) and checks.rank("1") and checks.rank(None)


def test_scalars() -> None:
    for right in (None, True, 0, math.nan, math.inf, "", "yes", 10**30):
        assert checks.scalar(right) is None
    assert checks.scalar([]) and checks.scalar({})


def test_true_and_false_are_amounts() -> None:
    arguments = {"worker": "w", "task_id": "t", "resources": {"gpu": True, "tape": 0.5, "disk": False}}
    METHODS["add_task"].check(arguments)
    assert repr(arguments["resources"]) == "{'gpu': 1, 'tape': 0.5, 'disk': 0}"
    limits = {"gpu": True, "amount": 2}
    METHODS["update_resources"].check(limits)
    assert repr(limits) == "{'gpu': 1, 'amount': 2}"


def test_identifiers() -> None:
    longest = "x" * checks.ID_BYTES
    assert checks.identifier(longest) is checks.identifier("ä" * (checks.ID_BYTES // 2)) is None
    assert checks.identifier("a\udce4") and checks.text("a\udce4") is None
    assert checks.identifier(longest + "x") and checks.identifier("ä" * (checks.ID_BYTES // 2 + 1))


def test_faults_name_the_place() -> None:
    with pytest.raises(BadRequest, match=r'^resources\["gpu"\] must be a number, not a string\.$'):
        METHODS["add_task"].check({"worker": "w", "task_id": "t", "resources": {"gpu": "x"}})
    with pytest.raises(BadRequest, match=r"^deps\[1\] must be a string, not null\.$"):
        METHODS["add_task"].check({"worker": "w", "task_id": "t", "deps": ["a", None]})
