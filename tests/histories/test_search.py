"""The search: it finds an order where there is one, and says why where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv import InvalidArgumentError
from raftkv.machine import Command
from raftkv.testing import check_linearizable
from raftkv.testing.histories.kv import (
    Compare,
    DeleteOne,
    DeleteResult,
    Get,
    KeyValue,
    KvOperation,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
)
from raftkv.testing.histories.kv_model import KvModel
from raftkv.testing.histories.models import (
    Append,
    ListModel,
    MachineModel,
    PureModel,
    Read,
    RegisterModel,
    Swap,
    Value,
    Write,
)
from raftkv.testing.histories.operations import History, Operation, Outcome
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.histories.search import search
from raftkv.testing.histories.verdict import (
    InconclusiveError,
    Judgement,
    NotLinearizableError,
)
from tests.histories.corpus import recorded
from tests.histories.test_revisions import ALL, ILLEGAL, WRITES, late, ok, unknown

Register = Operation[Read | Write | Swap, Value]


def asked(
    start: int, stop: int | None, request: Read | Write | Swap, response: Value = None
) -> Register:
    outcome = Outcome.UNKNOWN if stop is None else Outcome.OK
    return Operation(f"c{start}", start, stop, request, response, outcome)


def no(start: int, stop: int, request: Write | Swap) -> Register:
    return Operation(f"c{start}", start, stop, request, None, Outcome.FAILED)


W1, W2 = asked(1, 2, Write(1)), asked(3, 4, Write(2))

WRONG: dict[str, Sequence[Register]] = {
    "stale read": [W1, W2, asked(5, 6, Read(), 1)],
    "read misses a write": [W1, asked(3, 4, Read(), None)],
    "reads in a row go back": [
        W1,
        asked(3, 20, Write(2)),
        asked(5, 6, Read(), 2),
        asked(7, 8, Read(), 1),
    ],
    "reads of two clients disagree": [
        asked(1, 20, Write(1)),
        asked(2, 21, Write(2)),
        asked(3, 4, Read(), 1),
        asked(5, 6, Read(), 2),
        asked(7, 8, Read(), 1),
    ],
    "read of what nobody wrote": [W1, asked(3, 4, Read(), 9)],
    "read from the future": [asked(1, 2, Read(), 1), asked(3, 4, Write(1))],
    "aborted read": [W1, no(3, 4, Write(2)), asked(5, 6, Read(), 2)],
    "two winners of one swap": [
        W1,
        asked(3, 6, Swap(1, 2), True),
        asked(4, 7, Swap(1, 3), True),
    ],
    "swap without its old value": [W1, asked(3, 4, Swap(5, 6), True)],
    "swap that should have won": [W1, asked(3, 4, Swap(1, 2), False)],
    "lost update": [W1, asked(3, 4, Swap(1, 2), True), asked(5, 6, Read(), 1)],
    "duplicate apply": [
        W1,
        asked(3, 4, Swap(1, 2), True),
        asked(5, 6, Write(1)),
        asked(7, 8, Read(), 2),
    ],
    "unknown write undone": [
        W1,
        asked(3, None, Write(2)),
        asked(5, 6, Read(), 2),
        asked(7, 8, Read(), 1),
    ],
    "unknown write done twice": [
        asked(1, None, Write(1)),
        asked(2, 3, Read(), 1),
        asked(4, 5, Write(2)),
        asked(6, 7, Read(), 1),
    ],
    "wrong in one of many registers": [
        asked(1, 2, Write(1, "a")),
        asked(1, 2, Write(2, "b")),
        asked(3, 4, Read("a"), 1),
        asked(3, 4, Read("b"), 1),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_refused(name: str) -> None:
    with pytest.raises(NotLinearizableError):
        check_linearizable(WRONG[name], RegisterModel())


RIGHT: dict[str, Sequence[Register]] = {
    "nothing": [],
    "either value while a write runs": [
        W1,
        asked(3, 20, Write(2)),
        asked(5, 6, Read(), 1),
        asked(7, 8, Read(), 2),
    ],
    "unknown write, much later": [W1, asked(3, None, Write(2)), asked(90, 91, Read(), 2)],
    "unknown write, never": [W1, asked(3, None, Write(2)), asked(90, 91, Read(), 1)],
    "equal times are concurrent": [asked(1, 2, Read(), 1), asked(2, 3, Write(1))],
    "equal unknown writes": [
        asked(1, None, Write(1)),
        asked(1, None, Write(1)),
        asked(2, 3, Read(), 1),
        asked(4, 5, Write(2)),
        asked(6, 7, Read(), 1),
    ],
    "an answer whose end is unknown": [evolve(asked(1, 2, Write(1)), return_at=None)],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_is_accepted(name: str) -> None:
    assert check_linearizable(RIGHT[name], RegisterModel()).is_right


def test_a_refusal_names_the_answer_what_ran_beside_it_and_the_states_before() -> None:
    long_ago = [asked(n, n + 1, Write(n)) for n in range(-40, 0, 2)]
    beside = asked(4, 9, Write(3))
    stale = asked(5, 6, Read(), 1)
    verdict = search([*long_ago, W1, W2, beside, stale, asked(30, 31, Write(7))], RegisterModel())
    assert verdict.judgement is Judgement.WRONG
    assert list(verdict.operations) == [beside, stale]
    assert "the answer 1 to Read(key='')" in verdict.what
    assert "the state was 2 or 3" in verdict.what


def test_of_many_states_before_a_few_are_told() -> None:
    crowd = [asked(1, 20, Write(number)) for number in range(7)]
    verdict = search([*crowd, asked(30, 31, Read(), 9)], RegisterModel())
    assert "the state was 0 or 1 or 2 or 3 or 4 or 2 others" in verdict.what
    assert "on ''" in verdict.what


@pytest.mark.parametrize("seed", range(40))
def test_orders_are_found_exactly_where_trying_all_of_them_finds_one(seed: int) -> None:
    random = Random(seed)
    for _ in range(12):
        history = [a_call(random, number) for number in range(6)]
        expected = any(map(explains, orders(history)))
        verdict = search(history, RegisterModel())
        assert verdict.is_right == expected, history
        assert verdict.judgement is not Judgement.INCONCLUSIVE


def a_call(random: Random, number: int) -> Register:
    start = random.randint(0, 12)
    stop = None if random.random() < 0.2 else start + random.randint(0, 8)
    value, other = random.randint(0, 2), random.randint(0, 2)
    match random.randrange(3):
        case 0:
            return asked(start, stop, Write(value))
        case 1:
            return asked(start, stop, Swap(value, other), None if stop is None else value > 0)
        case _:
            return asked(
                start, stop, Read(), None if stop is None else random.choice((value, None))
            )


def orders(history: Sequence[Register]) -> Iterator[Sequence[Register]]:
    """All orders that time allows, of those that returned and any of the others."""
    unsure = [one for one in history if one.outcome is Outcome.UNKNOWN]
    for mask in range(1 << len(unsure)):
        left_out = [one for number, one in enumerate(unsure) if mask >> number & 1]
        kept = [one for one in history if not any(one is other for other in left_out)]
        for order in permutations(kept):
            if all(
                later.return_at is None or later.return_at >= one.call_at
                for place, one in enumerate(order)
                for later in order[place + 1 :]
            ):
                yield order


def explains(order: Sequence[Register]) -> bool:
    model, state = RegisterModel(), None
    for one in order:
        state, answer = model.step(state, one.request)
        if one.outcome is Outcome.OK and answer != one.response:
            return False
    return True


def test_who_gives_up_says_so_and_that_is_no_pass() -> None:
    crowd = [asked(1, 100, Write(number)) for number in range(12)]
    history = [*crowd, asked(101, 102, Read(), 99)]
    with pytest.raises(InconclusiveError, match="within 500 steps"):
        check_linearizable(history, RegisterModel(), steps_max=500)


def test_equal_unknown_operations_are_not_tried_in_every_order() -> None:
    crowd = [asked(1, None, Write(1)) for _ in range(30)]
    with pytest.raises(NotLinearizableError):
        check_linearizable([*crowd, asked(2, 3, Read(), 9)], RegisterModel(), steps_max=1000)


def test_what_led_to_the_same_state_is_not_searched_again() -> None:
    crowd = [asked(1, 100, Write(number)) for number in range(9)]  # 362,880 orders
    with pytest.raises(NotLinearizableError):
        check_linearizable([*crowd, asked(101, 102, Read(), 99)], RegisterModel(), steps_max=40_000)


def test_a_wrong_part_is_found_behind_one_that_is_too_hard() -> None:
    crowd = [asked(1, 100, Write(number, "a")) for number in range(9)]
    history = [asked(1, 2, Read("0"), 5), *crowd, asked(101, 102, Read("a"), 99)]
    with pytest.raises(NotLinearizableError):
        check_linearizable(history, RegisterModel(), steps_max=300)


def test_an_operation_cannot_return_before_it_is_called() -> None:
    with pytest.raises(InvalidArgumentError, match="before it was called"):
        search([asked(5, 4, Read())], RegisterModel())


def test_lists_are_judged_as_lists() -> None:
    def one(start: int, request: Append | Read, response: tuple[Value, ...] | None = None):  # noqa: ANN202 - a generic alias longer than the test
        return Operation[Append | Read, "tuple[Value, ...] | None"](
            "c", start, start + 1, request, response
        )

    history = [one(1, Append(1)), one(3, Append(2)), one(5, Read(), (1, 2)), one(7, Read("b"), ())]
    assert check_linearizable(history, ListModel()).facts["parts"] == 2
    with pytest.raises(NotLinearizableError):
        check_linearizable([*history, one(9, Read(), (2, 1))], ListModel())


# --- users' machines and functions ------------------------------------------------------------


class Counter:
    """A machine of a user: adds numbers, answers the sum."""

    def __init__(self) -> None:
        self.sum = 0

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        results: list[int] = []
        for command in commands:
            self.sum += int(command.data)
            results.append(self.sum)
        return results

    def snapshot(self) -> Iterator[bytes]:
        yield b"%d" % self.sum

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.sum = int(b"".join(chunks))


def counted(*answers: int) -> History[bytes, int]:
    history = History[bytes, int]()
    numbers = [history.call(f"c{answer}", b"5") for answer in answers]
    for number, answer in zip(numbers, answers, strict=True):
        history.done(number, answer)
    return history


def test_a_users_machine_is_its_own_model() -> None:
    assert check_linearizable(counted(10, 5, 15), Counter).is_right
    with pytest.raises(NotLinearizableError, match="nothing explains the answer"):
        check_linearizable(counted(5, 5), Counter)


def test_a_machine_may_be_read_by_other_means_than_commands() -> None:
    def ask(machine: Counter, request: bytes | None) -> int:
        return machine.sum if request is None else machine.apply([Command(1, request)])[0]

    model = MachineModel(Counter, ask)
    history = History[bytes | None, int]()
    history.done(history.call("a", b"3"), 3)
    history.done(history.call("b", None), 3)
    assert check_linearizable(history, model).is_right
    history.done(history.call("b", None), 0)
    with pytest.raises(NotLinearizableError):
        check_linearizable(history, model)


class Roll:
    """Who was named, each in a chunk of their own: joined, they would be one."""

    def __init__(self) -> None:
        self.names: list[bytes] = []

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        answers: list[int] = []
        for command in commands:
            self.names.append(command.data)
            answers.append(len(self.names))
        return answers

    def snapshot(self) -> Iterator[bytes]:
        yield from self.names

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.names = [*chunks]


def test_a_machine_gets_its_snapshot_back_in_the_chunks_it_gave() -> None:
    assert check_linearizable(counted(1, 2, 3), Roll).is_right
    with pytest.raises(NotLinearizableError):
        check_linearizable(counted(1, 2, 2), Roll)


def test_a_pure_function_is_a_model() -> None:
    def step(state: int, request: tuple[str, int]) -> tuple[int, int]:
        return state + request[1], state

    def part(request: tuple[str, int]) -> str:
        return request[0]

    history = History[tuple[str, int], int]()
    for key, answer in (("a", 0), ("b", 0), ("a", 2)):
        history.done(history.call("c", (key, 2)), answer)
    model = PureModel(0, step, part=part)
    assert check_linearizable(history, model).facts["parts"] == 2
    with pytest.raises(NotLinearizableError):
        check_linearizable(history, PureModel(0, step))
    machine = MachineModel(Counter, lambda one, asked: one.apply([Command(1, b"2")])[0], part=part)
    assert not search(history, machine).is_right


# --- the KV -------------------------------------------------------------------------------------

# Which of the wrong histories are wrong in revisions alone, and right without them.
ONLY_REVISIONS = {
    "swapped revisions",
    "two writes at one revision",
    "write at the first revision",
    "gap",
    "write before it was asked for",
}
# Which are wrong in reads that need not be linearizable, or in transactions that compare nothing.
NOT_JUDGED = {
    "wrong past",
    "wrong past of a range",
    "the past of tomorrow",
    "serializable, and never so",
    "serializable, from the future",
    "serializable get from the future",
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_both_opinions_agree_on_wrong_histories(name: str) -> None:
    operations, _ = ILLEGAL[name]
    by_values = search(operations, KvModel()).judgement
    by_all = search(operations, KvModel(revisions=True)).judgement
    is_wrong = name not in NOT_JUDGED
    assert by_all is (Judgement.WRONG if is_wrong else Judgement.RIGHT)
    is_wrong = is_wrong and name not in ONLY_REVISIONS
    assert by_values is (Judgement.WRONG if is_wrong else Judgement.RIGHT)


@pytest.mark.parametrize("seed", range(30))
def test_what_one_store_answers_is_accepted(seed: int) -> None:
    random = Random(seed)
    kinds = "PPPDGGG" if seed % 2 else "PPPDSGGRO"
    made = recorded(random, 60, unknown=0.05, kinds=kinds)
    parts = search(made.operations, KvModel()).check().facts["parts"]
    assert parts == 4 or not seed % 2
    with_txns = recorded(random, 40, unknown=0.04, kinds="PPDSGRTT")
    assert search(with_txns.operations, KvModel(revisions=True)).is_right


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 100), st.integers(0, 100))
def test_the_search_and_the_revisions_give_one_judgement(
    random: Random, which: int, from_where: int
) -> None:
    made = recorded(random, 30, kinds="PPPDGGR", unknown=0.05)
    answered = [one for one in made.operations if one.outcome is Outcome.OK]
    if not answered:
        return
    one, other = answered[which % len(answered)], answered[from_where % len(answered)]
    changed = [
        evolve(each, response=other.response) if each is one else each for each in made.operations
    ]
    judged = check_revisions(changed).judgement
    if type(one.request) is type(other.request) and judged is not Judgement.INCONCLUSIVE:
        assert search(changed, KvModel(revisions=True)).judgement is judged


def test_keys_that_requests_name_together_are_one_part() -> None:
    txn = Txn((Compare(b"a", Target.VERSION, Relation.EQUAL, 0),), (Put(b"b", b""),))
    requests: list[KvRequest] = [Put(b"a", b""), Put(b"b", b""), Put(b"c", b""), txn, Get(b"d")]
    a, b, c, both, d = KvModel().parts(requests)
    assert a == b == both
    assert len({a, c, d}) == 3
    everything = KvModel().parts([*requests, Range(ALL)])
    assert len({*everything}) == 1
    assert KvModel(revisions=True).parts(requests) == [None] * 5
    assert KvModel().parts([Range(ALL)]) == [None]


def test_the_end_of_a_lease_names_the_keys_that_were_put_with_it() -> None:
    held, other = Put(b"a", b"", lease=7), Put(b"b", b"", lease=7)
    requests: list[KvRequest] = [held, other, Put(b"c", b""), Revoke(7), Revoke(8)]
    a, b, c, ends, nothing = KvModel().parts(requests)
    assert a == b == ends
    assert c != a
    assert nothing is None


def test_comparing_revisions_takes_the_model_that_has_them() -> None:
    txn = Txn((Compare(b"a", Target.MOD, Relation.LESS, 5),))
    with pytest.raises(InvalidArgumentError, match="revisions=True"):
        search([unknown(1, txn)], KvModel())


def test_a_history_of_the_kv_needs_no_model() -> None:
    assert check_linearizable(WRITES).checker == "by revisions"
    with pytest.raises(NotLinearizableError, match="stale read"):
        check_linearizable(late(Get(b"b"), KeyValue(b"b", b"3", 4, 4, 1)))


def test_what_the_revisions_leave_open_is_searched() -> None:
    history: list[KvOperation] = [
        unknown(1, Put(b"x", b"1")),
        unknown(2, Put(b"y", b"1")),
        ok(5, 6, Put(b"a", b"2"), PutResult(3)),
    ]
    assert check_linearizable(history).checker == "by search"
    answers: list[KvResponse] = [DeleteResult(3, 0), DeleteResult(3, 0)]
    gone = [ok(7, 8, DeleteOne(b"x"), answers[0]), ok(9, 10, DeleteOne(b"y"), answers[1])]
    with pytest.raises(NotLinearizableError):
        check_linearizable([*history, *gone])
