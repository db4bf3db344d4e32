"""Lists and cycles: each anomaly is named, and what one list machine answers is accepted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest
from attrs import evolve

from raftkv import InvalidArgumentError
from raftkv.testing.histories.appends import Answers, ListOperation, Transaction, check_appends
from raftkv.testing.histories.models import Append, Read, Value
from raftkv.testing.histories.operations import Operation, Outcome
from raftkv.testing.histories.verdict import Judgement

FAILED, UNKNOWN = Outcome.FAILED, Outcome.UNKNOWN


def did(start: int, stop: int, *parts: Append | tuple[str, tuple[Value, ...]]) -> ListOperation:
    """A transaction; a pair is a read of a key and what it showed."""
    request = tuple(one if isinstance(one, Append) else Read(one[0]) for one in parts)
    answers = tuple(None if isinstance(one, Append) else one[1] for one in parts)
    return Operation(f"c{start}", start, stop, request, answers)


def ended(start: int, stop: int, outcome: Outcome, *parts: Append) -> ListOperation:
    return Operation(f"c{start}", start, stop, parts, None, outcome)


def add(key: str, element: int) -> Append:
    return Append(element, key)


ONE, TWO = did(1, 2, add("x", 1)), did(3, 4, add("x", 2))

WRONG: dict[str, tuple[Sequence[ListOperation], str]] = {
    "stale read": ([ONE, TWO, did(5, 6, ("x", (1,)))], "G-single-realtime, a stale read"),
    "lost append": (
        [ONE, TWO, did(5, 6, add("x", 3)), did(7, 8, ("x", (1, 3)))],
        "G0-realtime, a lost append",
    ),
    "lost append, nothing read": ([ONE, did(3, 4, ("x", ()))], "lost append"),
    "duplicate apply": ([ONE, did(3, 4, ("x", (1, 1)))], "duplicate elements"),
    "phantom": ([ONE, did(3, 4, ("x", (1, 9)))], "phantom"),
    "swapped order": ([ONE, TWO, did(5, 6, ("x", (2, 1)))], "G0-realtime"),
    "incompatible order": (
        [
            did(1, 20, add("x", 1)),
            did(1, 20, add("x", 2)),
            did(1, 20, ("x", (1, 2))),
            did(1, 20, ("x", (2, 1))),
        ],
        "incompatible order",
    ),
    "aborted read": ([ended(1, 2, FAILED, add("x", 1)), did(3, 4, ("x", (1,)))], "G1a"),
    "intermediate read": (
        [did(1, 9, add("x", 1), add("x", 2)), did(1, 9, ("x", (1,)))],
        "G1b",
    ),
    "write cycle": (
        [
            did(1, 9, add("x", 1), add("y", 1)),
            did(1, 9, add("x", 2), add("y", 2)),
            did(1, 9, ("x", (1, 2)), ("y", (2, 1))),
        ],
        "G0",
    ),
    "circle of information": (
        [did(1, 9, add("x", 1), ("y", (2,))), did(1, 9, add("y", 2), ("x", (1,)))],
        "G1c",
    ),
    "read skew, a split transaction": (
        [did(1, 9, add("x", 1), add("y", 2)), did(1, 9, ("x", (1,)), ("y", ()))],
        "G-single",
    ),
    "half of an unknown transaction": (
        [
            ended(1, 9, UNKNOWN, add("x", 1), add("y", 2)),
            did(1, 9, ("x", (1,)), ("y", ())),
        ],
        "G-single",
    ),
    "lost update": (
        [
            did(1, 9, ("x", ()), add("x", 1)),
            did(1, 9, ("x", ()), add("x", 2)),
            did(10, 11, ("x", (1, 2))),
        ],
        "G-single",
    ),
    "write skew": (
        [
            did(1, 9, ("x", ()), add("y", 1)),
            did(1, 9, ("y", ()), add("x", 2)),
            did(10, 11, ("x", (2,)), ("y", (1,))),
        ],
        "G2",
    ),
    "long fork": (
        [
            did(1, 9, add("x", 1)),
            did(1, 9, add("y", 1)),
            did(1, 9, ("x", (1,)), ("y", ())),
            did(1, 9, ("x", ()), ("y", (1,))),
        ],
        "G2",
    ),
    "read from the future": ([did(1, 2, ("x", (1,))), did(3, 4, add("x", 1))], "G1c-realtime"),
    "reads in a row go back": (
        [did(1, 20, add("x", 1)), did(2, 3, ("x", (1,))), did(4, 5, ("x", ()))],
        "G-single-realtime",
    ),
    "does not see itself": ([did(1, 2, add("x", 1), ("x", ()))], "internal"),
    "reads differ within": (
        [did(1, 9, add("x", 1)), did(1, 9, ("x", ()), ("x", (1,)))],
        "internal",
    ),
    "sees itself too early": ([did(1, 2, ("x", (1,)), add("x", 1))], "internal"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_refused_by_its_name(name: str) -> None:
    operations, what = WRONG[name]
    verdict = check_appends(operations)
    assert verdict.judgement is Judgement.WRONG
    assert what in verdict.what, verdict
    assert what[0].islower() or verdict.what.startswith(what)
    assert verdict.operations


def test_a_cycle_is_told_step_by_step() -> None:
    verdict = check_appends(WRONG["stale read"][0])
    assert "c5 before c3 (rw, 'x': (1,) was read before an append)" in verdict.what
    assert "c3 before c5 (rt, had returned)" in verdict.what
    assert [one.client for one in verdict.operations] == ["c3", "c5"]


def lists_of_one_machine(random: Random, count: int) -> list[ListOperation]:
    """Transactions that take effect one after another, each within its time."""
    lists: defaultdict[str, tuple[Value, ...]] = defaultdict(tuple)
    met: list[ListOperation] = []
    for number in range(1, count + 1):
        moment = number * 10
        call_at, return_at = moment - random.randint(0, 40), moment + random.randint(0, 40)
        request: Transaction = tuple(
            Append(number * 10 + place, key) if random.random() < 0.5 else Read(key)
            for place, key in enumerate(random.choices("xyz", k=random.randint(1, 4)))
        )
        chance = random.random()
        if chance < 0.1:
            outcome = FAILED if chance < 0.05 else UNKNOWN
            met.append(Operation(f"c{number}", call_at, return_at, request, None, outcome))
            continue
        answers: list[tuple[Value, ...] | None] = []
        for one in request:
            if isinstance(one, Append):
                lists[one.key] += (one.element,)
                answers.append(None)
            else:
                answers.append(lists[one.key])
        done: Answers | None = tuple(answers)
        outcome = UNKNOWN if chance < 0.2 else Outcome.OK
        response = None if outcome is UNKNOWN else done
        met.append(Operation(f"c{number}", call_at, return_at, request, response, outcome))
    return met


@pytest.mark.parametrize("seed", range(40))
def test_what_one_machine_answers_is_accepted(seed: int) -> None:
    met = lists_of_one_machine(Random(seed), 120)
    assert check_appends(met).check().facts["lists"] == 3


@pytest.mark.parametrize("seed", range(40))
def test_an_element_taken_out_of_a_late_list_is_missed(seed: int) -> None:
    met = lists_of_one_machine(Random(seed), 120)
    place, one = next(
        (place, one)
        for place, one in reversed([*enumerate(met)])
        if one.response is not None
        and len(one.request) == 1
        and one.response[0] is not None
        and len(one.response[0]) > 5
    )
    assert one.response is not None
    shown = one.response[0]
    assert shown is not None
    cut = Random(seed).randrange(len(shown))
    met[place] = evolve(one, response=((*shown[:cut], *shown[cut + 1 :]),))
    # The last element alone may be missed by a read that ran beside its append.
    assert check_appends(met).judgement is Judgement.WRONG or cut == len(shown) - 1


def test_elements_are_appended_once_and_answers_fit_their_requests() -> None:
    with pytest.raises(InvalidArgumentError, match="appended twice"):
        check_appends([ONE, ONE])
    with pytest.raises(InvalidArgumentError, match="answer for each part"):
        check_appends([evolve(ONE, response=())])
    with pytest.raises(InvalidArgumentError, match="answered with a list"):
        check_appends([Operation("c", 1, 2, (Read("x"),), (None,))])


def test_only_what_is_sure_counts() -> None:
    nothing_yet = did(30, 31, ("x", ()))
    assert check_appends([ended(1, 2, UNKNOWN, add("x", 1)), nothing_yet]).is_right
    assert check_appends([ended(1, 2, FAILED, add("x", 1)), nothing_yet]).is_right
    read_by_itself = did(1, 2, add("x", 1), ("x", (1,)), add("x", 2), ("x", (1, 2)))
    assert check_appends([read_by_itself, did(3, 4, ("x", (1, 2)))]).is_right
