"""Arguments come out of a form exactly as Python's own decoders see them, whatever they are."""

from __future__ import annotations

import json
import re
import time
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luigi_spanner.calls import BadRequest
from luigi_spanner.server.api import payload_of, unescaped
from luigi_spanner.server.application import MAX_BODY_BYTES
from luigi_spanner.server.validate import MAX_DEPTH, parse

FORM = {"Content-Type": "application/x-www-form-urlencoded"}

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(categories=("L", "N", "P", "S", "Z", "C", "Cs")))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


def through_a_form(text: str) -> object:
    """What becomes of arguments that are sent as Luigi's client does."""
    return parse(payload_of("", FORM, urlencode({"data": text}).encode()))


@given(st.dictionaries(st.text(), VALUES))
@pytest.mark.slow
def test_any_arguments(arguments: dict[str, object]) -> None:
    text = json.dumps(arguments)
    assert repr(through_a_form(text)) == repr(json.loads(text))  # NaN does not equal itself


@given(NUMBERS)
@example("18446744073709551616")
@example("-9223372036854775809")
@example("1e400")
@example("-0")
@example("-0.0")
@example("5e-324")
def test_any_number(number: str) -> None:
    text = f'{{"a": {number}}}'
    assert repr(through_a_form(text)) == repr(json.loads(text))


@given(st.text('[]{}",:0159.eE+-\\u dDtrufalsn\n\ufeff', max_size=40))
@example('{"a": 1, "a": 2}')
@example('{"a": NaN, "b": -Infinity}')
@example('{"a": "\\ud800"}')
@example('\ufeff{"a": 1}')
@example('{"a": "\n"}')
@example('{"a": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}")
def test_any_text_is_read_as_python_reads_it_or_refused(text: str) -> None:
    try:
        expected = json.loads(text) if text else {}
    except ValueError:
        expected = None
    if isinstance(expected, dict):
        assert repr(through_a_form(text)) == repr(expected)
    else:
        with pytest.raises(BadRequest):
            through_a_form(text)


@given(st.binary().map(quote_plus) | st.text("%=+0aF \r\n_.&", max_size=30))
@example("a%\nb")
@example("%=41")
@example("%%41")
@example("==41=\r\n")
@example("a_b \r\n=20")
def test_escapes_are_read_as_the_standard_library_reads_them(text: str) -> None:
    value = text.encode()
    if re.search(rb"%(?![0-9a-fA-F]{2})", value):
        with pytest.raises(BadRequest):
            unescaped(value)
    else:
        assert unescaped(value) == unquote_to_bytes(value.replace(b"+", b" "))


@given(st.lists(st.sampled_from(["data", "data=", "=", "&", "1", "2", "x"]), max_size=12).map("".join))
@example("data")
@example("data=1&data")
@example("data=1&xdata=2&data2=3")
@example("=data&data==1=2")
def test_the_last_field_of_a_form_counts(form: str) -> None:
    given_ones = [value for name, value in parse_qsl(form, keep_blank_values=True) if name == "data"]
    assert payload_of("", FORM, form.encode()) == (given_ones[-1] if given_ones else "")


def test_a_form_that_is_all_separators() -> None:
    """Before, it took three seconds and a list of all that is between them."""
    began = time.process_time()
    assert payload_of("", FORM, b"&" * MAX_BODY_BYTES) == ""
    assert time.process_time() - began < 1


@given(st.binary())
def test_any_bytes_survive_a_form(value: bytes) -> None:
    assert unescaped(quote_plus(value).encode()) == value
