"""Who waits, for what, and what each is told."""

from __future__ import annotations

import pytest
from attrs import define, field

from raftkv.core import Refusal
from raftkv.errors import (
    ClosedError,
    DeadlineError,
    Error,
    MembershipError,
    NoLeaderError,
    NotLeaderError,
    OutcomeUnknownError,
    ProposalDroppedError,
    TooManyRequestsError,
)
from raftkv.node.refusals import error_of, is_passing
from raftkv.node.waiters import InFlight, Queue, Reads, Waiter

TOKEN = b"a" * 16


@define
class Told:
    """A promise that shows what became of it."""

    value: object = None
    error: BaseException | None = None
    gone: bool = False
    times: int = field(default=0)

    def set_result(self, value: object, /) -> None:
        self.value = value
        self.times += 1

    def set_exception(self, error: BaseException, /) -> None:
        self.error = error
        self.times += 1

    def done(self) -> bool:
        return self.gone or self.times > 0

    def __await__(self) -> object:
        raise NotImplementedError


def make_waiter(data: bytes = b"x", deadline_ns: int = 100) -> tuple[Waiter, Told]:
    told = Told()
    return Waiter(data, deadline_ns, told), told  # pyright: ignore[reportArgumentType]


def test_a_queue_gives_as_many_as_fit_and_at_least_one() -> None:
    queue = Queue()
    for size in (5, 5, 100, 1):
        queue.add(make_waiter(bytes(size))[0])
    assert queue.size_bytes == 111
    assert [len(one.data) for one in queue.take(10, 12)] == [5, 5]
    assert [len(one.data) for one in queue.take(10, 12)] == [100]
    assert [len(one.data) for one in queue.take(10, 12)] == [1]
    assert queue.take(10, 12) == []
    assert queue.size_bytes == 0


def test_a_queue_gives_no_more_commands_than_asked_for() -> None:
    queue = Queue()
    for _ in range(5):
        queue.add(make_waiter()[0])
    assert len(queue.take(3, 1000)) == 3
    assert len(queue) == 2


def test_what_is_put_back_comes_first_and_in_order() -> None:
    queue = Queue()
    waiters = [make_waiter(b"%d" % number)[0] for number in range(4)]
    for waiter in waiters[:3]:
        queue.add(waiter)
    taken = queue.take(2, 100)
    queue.add(waiters[3])
    queue.put_back(taken)
    assert queue.take(10, 100) == waiters
    assert queue.size_bytes == 0


def test_who_was_cancelled_in_the_queue_is_not_proposed() -> None:
    queue = Queue()
    gone, told = make_waiter(b"gone")
    told.gone = True
    stays, _ = make_waiter(b"stays")
    queue.add(gone)
    queue.add(stays)
    assert queue.take(10, 100) == [stays]


def test_a_deadline_in_the_queue_says_that_nothing_happened() -> None:
    queue = Queue()
    late, late_told = make_waiter(deadline_ns=100)
    early, early_told = make_waiter(deadline_ns=101)
    queue.add(late)
    queue.add(early)
    queue.sweep(100, "no leader")
    assert isinstance(late_told.error, DeadlineError)
    assert not late_told.error.may_have_happened
    assert early_told.times == 0
    assert len(queue) == 1
    assert queue.size_bytes == 1


def test_each_command_in_flight_gets_its_own_result() -> None:
    in_flight = InFlight(7, 3)
    waiters = [make_waiter(b"ab") for _ in range(5)]
    first = in_flight.add([waiter for waiter, _ in waiters[:2]])
    assert in_flight.add([waiter for waiter, _ in waiters[2:]]) == first + 2
    assert in_flight.size_bytes == 10
    in_flight.resolve(first + 2, ["c", "d", "e"])
    in_flight.resolve(first, ["a", "b"])
    in_flight.resolve(first, ["again", "again"])
    assert [told.value for _, told in waiters] == ["a", "b", "c", "d", "e"]
    assert all(told.times == 1 for _, told in waiters)
    assert len(in_flight) == in_flight.size_bytes == 0


def test_a_deadline_in_flight_says_that_the_outcome_is_unknown() -> None:
    in_flight = InFlight(7, 3)
    late, late_told = make_waiter(deadline_ns=100)
    patient, patient_told = make_waiter(deadline_ns=200)
    first = in_flight.add([patient, late])
    in_flight.sweep(99)
    assert late_told.times == 0
    in_flight.sweep(100)
    assert isinstance(late_told.error, OutcomeUnknownError)
    assert late_told.error.request == (7, 3, first + 1)
    assert patient_told.times == 0
    in_flight.sweep(200)
    assert isinstance(patient_told.error, OutcomeUnknownError)
    assert len(in_flight) == in_flight.size_bytes == 0


def test_a_refused_proposal_gives_its_waiters_back_and_no_others() -> None:
    in_flight = InFlight(7, 3)
    first = [make_waiter()[0], make_waiter()[0]]
    second = [make_waiter()[0]]
    third = [make_waiter()[0]]
    number = in_flight.add(first)
    in_flight.add(second)
    in_flight.group(number, 3)
    in_flight.add(third)
    in_flight.group(number + 3, 1)
    assert in_flight.take_back(number) == [*first, *second]
    assert in_flight.take_back(number) == []
    assert len(in_flight) == 1
    assert in_flight.next_sequence == number + 4  # numbers are never used twice


def test_the_end_tells_all_who_are_in_flight_why() -> None:
    in_flight = InFlight(7, 3)
    waiter, told = make_waiter()
    in_flight.add([waiter])
    cause = OSError("the disk")
    in_flight.fail_all("the node stopped", cause)
    assert isinstance(told.error, OutcomeUnknownError)
    assert told.error.__cause__ is cause


def test_reads_of_one_turn_share_a_question() -> None:
    reads = Reads(TOKEN)
    waiters = [make_waiter() for _ in range(3)]
    for waiter, _ in waiters:
        reads.add(waiter, lease=False)
    context = reads.ask(lease=False, now_ns=0)
    assert context is not None
    assert reads.ask(lease=False, now_ns=0) is None
    assert reads.ask(lease=True, now_ns=0) is None
    reads.confirm(context, 10)
    reads.resolve(9)
    assert all(told.times == 0 for _, told in waiters)
    reads.resolve(10)
    assert all(told.value == 10 for _, told in waiters)
    assert reads.count == 0


def test_a_read_that_begins_after_the_question_is_not_answered_by_it() -> None:
    reads = Reads(TOKEN)
    first, first_told = make_waiter()
    second, second_told = make_waiter()
    reads.add(first, lease=False)
    context = reads.ask(lease=False, now_ns=0)
    reads.add(second, lease=False)
    assert context is not None
    reads.confirm(context, 1)
    reads.resolve(1)
    assert first_told.times == 1
    assert second_told.times == 0
    assert reads.has_new


def test_questions_differ_between_starts_and_members() -> None:
    contexts: set[bytes | None] = set()
    for token in (b"a" * 16, b"b" * 16, b"c" * 16):
        reads = Reads(token)
        for _ in range(2):
            reads.add(make_waiter()[0], lease=False)
            contexts.add(reads.ask(lease=False, now_ns=0))
    assert len(contexts) == 6


def test_a_dropped_or_lost_question_is_asked_again() -> None:
    reads = Reads(TOKEN)
    waiter, told = make_waiter(deadline_ns=1000)
    reads.add(waiter, lease=True)
    first = reads.ask(lease=True, now_ns=0)
    assert first is not None
    reads.drop(first)
    second = reads.ask(lease=True, now_ns=10)
    assert second not in (None, first)
    reads.sweep(50, 9, "")
    assert not reads.has_new
    reads.sweep(50, 10, "")
    assert reads.has_new
    reads.confirm(first, 5)  # a late answer to a question that nobody waits for
    reads.resolve(5)
    assert told.times == 0


@pytest.mark.parametrize("stage", ["new", "asked", "confirmed"])
def test_a_read_ends_at_its_deadline_wherever_it_is(stage: str) -> None:
    reads = Reads(TOKEN)
    waiter, told = make_waiter(deadline_ns=100)
    patient, patient_told = make_waiter(deadline_ns=101)
    reads.add(waiter, lease=False)
    reads.add(patient, lease=False)
    if stage != "new":
        context = reads.ask(lease=False, now_ns=50)
        assert context is not None
        if stage == "confirmed":
            reads.confirm(context, 5)
    reads.sweep(100, 0, "no leader")
    assert isinstance(told.error, DeadlineError)
    assert patient_told.times == 0
    assert reads.count == 1
    reads.fail_all(ClosedError("closed"))
    assert isinstance(patient_told.error, ClosedError)
    assert reads.count == 0


def test_a_cancelled_read_is_not_asked_for() -> None:
    reads = Reads(TOKEN)
    waiter, told = make_waiter()
    told.gone = True
    reads.add(waiter, lease=False)
    assert reads.ask(lease=False, now_ns=0) is None
    assert reads.count == 0


def test_answers_of_different_leaders_may_come_in_any_order_of_index() -> None:
    reads = Reads(TOKEN)
    told: list[Told] = []
    for index in (20, 10):
        waiter, one = make_waiter()
        reads.add(waiter, lease=False)
        context = reads.ask(lease=False, now_ns=0)
        assert context is not None
        reads.confirm(context, index)
        told.append(one)
    reads.resolve(10)
    assert [one.times for one in told] == [0, 1]


EXPECTED: dict[Refusal, type[Error]] = {
    Refusal.NO_LEADER: NoLeaderError,
    Refusal.FORWARDING_DISABLED: NotLeaderError,
    Refusal.NOT_A_MEMBER: ProposalDroppedError,
    Refusal.TRANSFERRING: ProposalDroppedError,
    Refusal.TOO_MUCH_UNCOMMITTED: TooManyRequestsError,
    Refusal.CHANGE_PENDING: MembershipError,
    Refusal.CHANGE_WHILE_JOINT: MembershipError,
    Refusal.NOT_JOINT: MembershipError,
    Refusal.CHANGE_INVALID: MembershipError,
    Refusal.REMOVED_FOR_GOOD: MembershipError,
    Refusal.NOT_A_LEARNER: MembershipError,
    Refusal.LEARNER_BEHIND: MembershipError,
    Refusal.UNHEALTHY: MembershipError,
    Refusal.RECORD_TAKEN: MembershipError,
}


@pytest.mark.parametrize("reason", Refusal)
def test_every_refusal_has_an_error_that_says_nothing_happened(reason: Refusal) -> None:
    error = error_of(reason, 5)
    assert type(error) is EXPECTED[reason]
    assert not error.may_have_happened
    passing = (Refusal.NO_LEADER, Refusal.TRANSFERRING, Refusal.NOT_A_MEMBER)
    assert is_passing(reason) == (reason in passing)


def test_an_answer_to_a_proposal_of_an_earlier_boot_meets_nobody_in_a_later_one() -> None:
    before, now = InFlight(7, 1), InFlight(7, 2)
    late = before.add([make_waiter()[0]])
    waiter, told = make_waiter()
    first = now.add([waiter])
    now.group(first, 1)
    assert now.take_back(late) == []
    assert not told.done()
    now.resolve(first, ["applied"])
    assert told.value == "applied"
