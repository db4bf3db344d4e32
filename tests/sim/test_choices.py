"""Decisions: drawn, recorded, replayed, written as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.testing import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.choices import Decisions, decode_decisions, encode_decisions

DECISIONS = st.lists(st.lists(st.integers(0, 10**9), max_size=4).map(tuple), max_size=20).map(tuple)


def some(choices: Choices) -> list[int]:
    """A few decisions of every kind, over three turns."""
    taken: list[int] = []
    for turn in range(3):
        choices.begin()
        taken += [choices.choose(7), choices.chance(400), choices.weighted((1, 0, 5))]
        if turn == 1:
            taken.append(choices.choose(2))
    return taken


@given(st.integers(0, 2**70))
def test_what_was_drawn_is_replayed(seed: int) -> None:
    seeded = SeededChoices(seed)
    drawn = some(seeded)
    replayed = ReplayedChoices(seeded.decisions())
    assert some(replayed) == drawn
    assert replayed.decisions() == seeded.decisions()


@given(DECISIONS)
def test_any_numbers_are_a_run(decisions: Decisions) -> None:
    choices = ReplayedChoices(decisions)
    taken = some(choices)
    assert all(0 <= one < 7 for one in taken)
    assert taken[2] != 1, "a weight of 0 was picked"


def test_what_is_missing_or_too_large_is_the_default() -> None:
    assert some(ReplayedChoices(())) == [0] * 10
    assert some(ReplayedChoices(((7, 2, 3), (), (-1, -1, -1)))) == [0] * 10


def test_what_never_happens_is_not_decided() -> None:
    for choices in (SeededChoices(1), ReplayedChoices(((1, 1),))):
        choices.begin()
        assert not choices.chance(0)
        assert choices.decisions() == ()


def test_leaving_out_one_turn_leaves_the_others_alone() -> None:
    decisions = ((1, 1, 2), (2, 0, 2, 1), (3, 1))
    without = some(ReplayedChoices((decisions[0], (), decisions[2])))
    whole = some(ReplayedChoices(decisions))
    assert without[:3] == whole[:3]
    assert without[-3:] == whole[-3:]


@given(DECISIONS)
def test_a_record_is_text_and_back(decisions: Decisions) -> None:
    assert decode_decisions(encode_decisions(decisions)) == decisions


def test_empty_turns_are_counted() -> None:
    assert encode_decisions(((1, 0, 2), (), (), (3,))) == "1,0,2;*2;3"
    assert decode_decisions("") == ()


@pytest.mark.parametrize("text", ["a", "1;;2", "1,,2", "*", "*x"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        decode_decisions(text)


def test_a_seed_draws_evenly() -> None:
    choices = SeededChoices(5)
    choices.begin()
    drawn = [choices.choose(10) for _ in range(10_000)]
    assert all(900 < drawn.count(one) < 1100 for one in range(10))
    assert 250 < sum(choices.chance(30) for _ in range(10_000)) < 350
    weighted = [choices.weighted((1, 0, 3)) for _ in range(4000)]
    assert not weighted.count(1)
    assert 850 < weighted.count(0) < 1150
