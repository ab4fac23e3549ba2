"""Options: where they come from, which source wins, how a wrong one is told of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from luigi.configuration import LuigiConfigParser, LuigiTomlParser

from luigi_spanner.config import PREFIX, SETTINGS, InvalidOption, Options, namespace_of, resolve, store_of
from luigi_spanner.stores import InvalidStore

HOME = {"XDG_STATE_HOME": "/state"}


def parser(text: str) -> LuigiConfigParser:
    config = LuigiConfigParser()
    config.read_string(text)
    return config


def options(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, text: str = "") -> Options:
    return resolve(flags or {}, {**HOME, **(environ or {})}, parser(text))


def test_defaults() -> None:
    found = options()
    assert found.store == "sqlite:////state/luigi-spanner/luigi.db"
    assert (found.namespace, found.port, found.address, found.background) == ("default", 8082, None, False)
    assert (found.hold, found.max_body_bytes, found.rules_mismatch) == (8.0, 16 * 1024 * 1024, "refuse")
    assert found.drain == 0.0  # whoever ends it at a terminal need not wait


def test_every_option_is_a_setting() -> None:
    assert [setting.name for setting in SETTINGS] and {setting.name for setting in SETTINGS} == set(Options.__slots__)


VALUES = {
    "store": "memory://x",
    "namespace": "blue",
    "background": "true",
    "port": "1234",
    "hold": "2.5",
    "max_body_bytes": "4096",
    "rules_mismatch": "warn",
    "journal_keep": "7",
    "history_days": "14",
    "metrics_resources": "9",
    "metrics_task_series": "8",
    "drain": "2",
    "log_format": "json",
}


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
def test_every_option_from_every_source(name: str) -> None:
    text = VALUES.get(name, "some/where")
    from_flag = options({name: text})
    assert getattr(from_flag, name) != getattr(options(), name)
    assert options(environ={PREFIX + name.upper(): text}) == from_flag
    assert options(text=f"[luigi_spanner]\n{name} = {text}\n") == from_flag


def test_keys_with_dashes() -> None:
    with pytest.warns(DeprecationWarning, match="dashes"):
        assert options(text="[luigi_spanner]\nrules-mismatch = warn\n").rules_mismatch == "warn"


def test_precedence() -> None:
    text, environ = "[luigi_spanner]\nport = 1\n", {"LUIGI_SPANNER_PORT": "2"}
    assert options({"port": "3"}, environ, text).port == 3
    assert options({"port": None}, environ, text).port == 2
    assert options({}, {}, text).port == 1


def test_an_empty_variable_is_none() -> None:
    assert options(environ={"LUIGI_SPANNER_PORT": ""}, text="[luigi_spanner]\nport = 1\n").port == 1


def test_the_port_of_a_kubernetes_service_is_none() -> None:
    """A Service named luigi-spanner sets such a variable in every pod of its namespace."""
    injected = {"LUIGI_SPANNER_PORT": "tcp://10.96.0.7:8082"}
    assert options(environ=injected).port == 8082
    assert options(environ=injected, text="[luigi_spanner]\nport = 1\n").port == 1
    with pytest.raises(InvalidOption, match="LUIGI_SPANNER_HOLD"):
        options(environ={"LUIGI_SPANNER_HOLD": "tcp://10.96.0.7:8082"})


def test_commands_that_need_a_store_alone_read_no_more() -> None:
    broken = parser("[luigi_spanner]\nport = many\nhold = long\nnamespace = blue\n")
    assert store_of({"store": "memory://"}, HOME, broken) == "memory://"
    assert store_of({}, HOME, broken) == "sqlite:////state/luigi-spanner/luigi.db"
    assert namespace_of({}, HOME, broken) == "blue"
    with pytest.raises(InvalidStore):
        store_of({"store": "x"}, HOME, broken)
    with pytest.raises(InvalidStore):
        namespace_of({"namespace": "a/b"}, HOME, broken)


@pytest.mark.filterwarnings("ignore:.*dashes:DeprecationWarning")
@pytest.mark.parametrize("key", ["state_path", "state-path"])
def test_luigi_s_own_state_path(key: str) -> None:
    text = f"[scheduler]\n{key} = /var/state.pickle\n"
    assert options(text=text).state_path == "/var/state.pickle"
    assert options({"state_path": "flag"}, text=text).state_path == "flag"


def test_variables_inside_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "green")
    assert options(text="[luigi_spanner]\nnamespace = ${WHERE}\n").namespace == "green"
    with pytest.raises(InvalidOption, match="NO_SUCH"):
        options(text="[luigi_spanner]\nnamespace = ${NO_SUCH}\n")


def test_toml(tmp_path: Path) -> None:
    config = LuigiTomlParser()
    config.data = {"luigi_spanner": {"port": 99, "background": True, "hold": 1.5, "journal-keep": 5}}
    found = resolve({}, HOME, config)
    assert (found.port, found.background, found.hold, found.journal_keep) == (99, True, 1.5, 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "x"),
        ("port", "-1"),
        ("port", "65536"),
        ("hold", "nan"),
        ("hold", "0"),
        ("hold", "inf"),
        ("max_body_bytes", "0"),
        ("rules_mismatch", "maybe"),
        ("background", "perhaps"),
        ("journal_keep", "0"),
        ("metrics_resources", "-1"),
        ("metrics_task_series", "many"),
        ("drain", "-1"),
    ],
)
def test_wrong_values(name: str, text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        options({name: text})
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} is {text!r}, which ")


def test_wrong_values_name_their_place() -> None:
    with pytest.raises(InvalidOption, match=r"^LUIGI_SPANNER_PORT is 'x'"):
        options(environ={"LUIGI_SPANNER_PORT": "x"})
    with pytest.raises(InvalidOption, match=r"^port in \[luigi_spanner\] is 'x'"):
        options(text="[luigi_spanner]\nport = x\n")


@pytest.mark.parametrize("flags", [{"store": "x"}, {"store": "sqlite://host/x"}, {"namespace": "a/b"}, {"namespace": "x" * 129}])
def test_stores_and_namespaces_that_cannot_be(flags: dict[str, str]) -> None:
    with pytest.raises(InvalidStore):
        options(flags)


def test_hold_is_shorter_than_a_worker_waits() -> None:
    assert options().hold < 10.0 and math.isfinite(options().hold)  # [core] rpc-connect-timeout's default
