"""Dicts that iterate by rank, however their items came in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from luigi_spanner.graph.containers import Ranked

_keys = st.sampled_from("abcdefgh")
_steps = st.lists(st.one_of(st.tuples(_keys, st.integers(0, 1000)), st.tuples(_keys, st.none()), st.none()), max_size=40)


@given(st.integers(0, 300), _steps)
def test_the_order_is_that_of_the_ranks(before: int, steps: list[tuple[str, int | None] | None]) -> None:
    """Few among many, or many among few; None looks at the order in between."""
    ranked: Ranked[int] = Ranked(lambda value: value)
    expected = {f"old {number}": 10 * number + 5 for number in range(before)}
    for key, rank in expected.items():
        ranked.put(key, rank)
    for step in steps:
        if step is None:
            assert list(ranked.values()) == sorted(expected.values())
        elif step[1] is None:
            ranked.drop(step[0])
            expected.pop(step[0], None)
        elif step[1] not in expected.values():
            ranked.put(*step)  # type: ignore[arg-type]
            expected[step[0]] = step[1]
    assert list(ranked.items()) == sorted(expected.items(), key=lambda item: item[1])


def test_what_is_put_in_any_order_is_in_order(rng: random.Random) -> None:
    ranks = rng.sample(range(10_000), 1000)
    ranked: Ranked[int] = Ranked(lambda value: value)
    for rank in ranks:
        ranked.put(str(rank), rank)
    assert list(ranked) == [str(rank) for rank in sorted(ranks)]
