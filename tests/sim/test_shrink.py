"""Failed runs are made small, and stay failures of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.testing import Choices, Decisions, Finding, ReplayedChoices, SeededChoices, replay, run
from raftkv.testing.aligned import AlignedChoices, NotingChoices, RunTooLongError, Turn
from raftkv.testing.choices import SKIPPED, decode_decisions, encode_decisions
from raftkv.testing.options import Faults, Options
from raftkv.testing.shrink import ShrinkError, Shrunk, shrink
from raftkv.testing.simulation import Due

DECISIONS = run(SeededChoices(11), 120).decisions
"""Three members, crashes and lost messages."""


@frozen
class Ran:
    decisions: Decisions
    finding: Finding | None
    steps: int = 10
    options: object = None
    error: BaseException | None = None


def ran(choices: Choices, steps: int, world: Callable[[Choices, int], str]) -> Ran:
    """A world for tests: it tells what it broke."""
    choices.begin()
    choices.begin()
    try:
        broken = world(choices, steps)
    except RunTooLongError:
        broken = "too long"
    finding = Finding(broken, "in words", 9) if broken else None
    return Ran(choices.decisions(), finding)


def shrunk(world: Callable[[Choices, int], str], decisions: Decisions = ()) -> Shrunk:
    return shrink(lambda choices, steps: ran(choices, steps, world), decisions, 10)


def hundred_turns(choices: Choices, steps: int) -> str:
    """Breaks if turns 30 and 71 happen and 30 decides 5 or more; turn 99 looks."""
    decided = [0] * 100
    for turn in range(100):
        if not choices.begin(turn, turn % 3):
            decided[turn] = 1 + choices.choose(20)
    return "I0" if decided[30] > 5 and decided[71] else ""


NOISE = ((), (), *((turn % 20,) for turn in range(100)))


def test_only_what_breaks_it_is_left() -> None:
    small = shrunk(hundred_turns, NOISE)
    assert small.events == 3  # the third is the last, where it shows
    numbers = [turn for turn in small.decisions if turn not in ((), SKIPPED)]
    assert numbers == [(5,)]
    assert small.finding.invariant == "I0"


def test_what_does_not_break_cannot_be_made_small() -> None:
    with pytest.raises(ShrinkError, match="breaks nothing"):
        shrunk(hundred_turns)


def one_or_other(choices: Choices, steps: int) -> str:
    choices.begin(1)
    number = choices.choose(10)
    return "I1" if number > 5 else "I2" if number > 2 else ""


def test_another_invariant_is_another_failure() -> None:
    assert shrunk(one_or_other, ((), (), (9,))).decisions == ((), (), (6,))
    assert shrunk(one_or_other, ((), (), (4,))).decisions == ((), (), (3,))


def chained(choices: Choices, steps: int) -> str:
    """Each crash causes a restart, which decides when the clock ticks: three ticks break it."""
    due: list[tuple[int, str]] = [(20 * at, "crash") for at in range(1, 5)]
    ticks, phase = 0, 0
    for at in range(130):
        if (at, "crash") in due and not choices.begin(at, "crash"):
            due.append((at + 1 + choices.choose(15), "restart"))
        if (at, "restart") in due and not choices.begin(at, "restart"):
            phase = choices.choose(10)
        if at > 100 and at % 10 == phase and not choices.begin(at, "tick"):
            ticks += 1
            choices.choose(2)
        if at == 128 and ticks == 3 and phase == 4:
            return "I3"
    return ""


def test_a_chain_of_crashes_becomes_the_one_that_matters() -> None:
    chain = (turn for phase in (1, 2, 3, 4) for turn in ((7,), (phase,)))
    small = shrunk(chained, ((), (), *chain, (1,), (1,), (1,)))
    assert sum(turn != SKIPPED for turn in small.decisions[2:]) <= 4
    assert ran(ReplayedChoices(small.decisions), 10, chained).finding == small.finding


def sized(choices: Choices, steps: int) -> str:
    choices.begin()
    return "I53" if steps >= 3 else ""


def test_a_recovery_that_fails_does_so_after_fewer_steps() -> None:
    small = shrink(lambda choices, steps: ran(choices, steps, sized), (), 9)
    assert small.steps == 3


def test_it_stops_when_time_is_up() -> None:
    told: list[tuple[int, int]] = []
    small = shrink(
        lambda choices, steps: ran(choices, steps, hundred_turns),
        NOISE,
        10,
        is_over=lambda: len(told) >= 5,
        on_progress=lambda trials, events: told.append((trials, events)),
    )
    assert small.trials == len(told) == 5
    assert told[-1] == (5, small.events)
    again = ran(ReplayedChoices(small.decisions), 10, hundred_turns)
    assert again.finding == small.finding


def test_a_turn_keeps_its_decisions_when_others_are_gone() -> None:
    noted = NotingChoices(((1,), (2,), (3,)), 9)
    answers: list[list[int]] = []
    for choices, keys in two_runs(noted):
        answers.append([])
        for key in keys:
            choices.begin(key)
            answers[-1].append(choices.choose(10))
    assert answers == [[1, 2, 3], [3, 1, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_cores_is_the_same_when_its_turns_are_looked_up(seed: int) -> None:
    drawn = run(SeededChoices(seed), 200).decisions
    turns: list[Turn] = []
    for choices in (NotingChoices(drawn, 9999), None):
        choices = choices or AlignedChoices(turns, 9999)
        assert run(choices, 200).decisions == drawn
        turns = choices.turns()


def two_runs(noted: NotingChoices) -> Iterator[tuple[AlignedChoices, tuple[int, ...]]]:
    yield noted, (5, 6, 7)
    yield AlignedChoices(noted.turns(), 9), (7, 5, 8)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(0, len(DECISIONS) - 1), max_size=60),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9)), max_size=20),
)
def test_every_run_with_less_in_it_is_a_run(
    gone: list[int], changed: list[tuple[int, int]]
) -> None:
    """Turns left out and numbers changed at will: the core must bear it, and recover."""
    turns = list(DECISIONS)
    for place, number in changed:
        turn = turns[place % len(turns)]
        if turn and turn != SKIPPED:
            turns[place % len(turns)] = (*turn[:-1], number)
    for place in gone:
        turns[place] = SKIPPED
    outcome = replay(tuple(turns), 120)
    assert outcome.finding is None, outcome.finding
    assert replay(outcome.decisions, 120).decisions == outcome.decisions
    assert decode_decisions(encode_decisions(outcome.decisions)) == outcome.decisions


class NoRestarts(SeededChoices):
    def begin(self, *key: int | str) -> bool:
        return super().begin(*key) or Due.RESTART in key[1:2]


def test_a_run_ends_though_nobody_is_left() -> None:
    """Every crash is for good, until the recovery brings everybody back."""
    options = Options(faults=Faults(interval=40, crash=1))
    outcome = run(NoRestarts(1), 5000, options=options)
    assert outcome.finding is None, outcome.finding
    assert 3 <= outcome.marks["crash"] == outcome.marks["restart"]
    assert outcome.marks["recovered"]
    assert outcome.steps < 5000


def test_nothing_is_left_out_of_the_recovery() -> None:
    outcome = replay((*DECISIONS, *(SKIPPED,) * 5000), 120)
    assert outcome.finding is None, outcome.finding
    assert outcome.marks["recovered"]
