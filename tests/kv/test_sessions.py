"""Sessions in the machine: applied once and answered as at first, whatever comes and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as some

from raftkv.errors import StorageCorruptError
from raftkv.kv import sessions
from raftkv.kv.commands import encode
from raftkv.kv.engine import Slice
from raftkv.kv.model import (
    DeleteResult,
    Done,
    KeyValue,
    KvResult,
    PutResult,
    RangeResult,
    Refusal,
    Refused,
    SessionResult,
    Span,
    TxnResult,
)
from raftkv.kv.requests import (
    AlarmKind,
    DeleteSpan,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Range,
    Revoke,
    SetAlarm,
    Txn,
)
from raftkv.kv.rows import HEAD_KEY, OUTCOMES, SESSIONS, Head
from raftkv.kv.sizes import PUT_BYTES, measure
from raftkv.storage.base import Space
from raftkv.storage.memory import MemoryDisk, MemoryStore
from tests.kv.rig import Rig, memory_rig, slices

MINE, YOURS = 1, 2
LEASE = {MINE: 7, YOURS: 2**62}
_ALL = Span(b"", None)


def begun(*sessions: int) -> Rig:
    """A store in which these, the first ones, are open."""
    rig = memory_rig()
    for session in sessions:
        opened = rig.apply([OpenSession(LEASE[session], 60)])
        assert opened == [SessionResult(session, LEASE[session], 1)]
    return rig


def once(sequence: int, command: KvCommand, answered: int = 0, session: int = MINE) -> Once:
    return Once(session, sequence, answered, encode(command))


def put(number: int, *, previous: bool = False) -> Put:
    return Put(b"k%d" % (number % 3), b"v%d" % number, previous=previous)


def kept(rig: Rig) -> dict[bytes, bytes]:
    return {key: row for key, row in rig.rows().items() if key[:1] in (SESSIONS, OUTCOMES)}


# --- by name --------------------------------------------------------------------------------------


def test_what_comes_again_is_not_done_again_and_answers_the_same() -> None:
    rig = begun(MINE)
    first = rig.apply([once(0, put(1)), once(1, put(2, previous=True)), once(0, put(1))])
    assert first == [PutResult(2), PutResult(3), PutResult(2)]
    rig.apply([Put(b"k1", b"another's")])
    rig.restart()
    assert rig.apply([once(1, put(2, previous=True)), once(0, put(1))]) == [
        PutResult(3),
        PutResult(2),
    ]
    assert rig.range(_ALL).revision == 4


def test_a_refusal_is_an_answer_too() -> None:
    rig = begun(MINE)
    attached = Put(b"k", b"v", lease=99)
    (refusal,) = rig.apply([once(0, attached)])
    assert isinstance(refusal, Refused)
    assert refusal.why is Refusal.LEASE_NOT_FOUND
    rig.apply([Grant(99, 60)])
    assert rig.apply([once(0, attached)]) == [refusal]
    assert rig.range(_ALL).items == ()


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_answered_is_never_done(apart: bool) -> None:
    rig = begun(MINE)
    late, ahead = once(3, put(3)), once(200, put(200), answered=150)
    results = rig.apply([ahead]) + rig.apply([late]) if apart else rig.apply([ahead, late])
    assert results[0] == PutResult(2)
    assert isinstance(results[1], Refused)
    assert rig.range(_ALL).revision == 2


@pytest.mark.parametrize("restarts", [False, True])
def test_a_command_that_comes_again_says_what_is_answered_too(restarts: bool) -> None:
    rig = begun(MINE)
    rig.apply([once(130, put(1))])
    assert rig.apply([once(130, put(1), answered=129)]) == [PutResult(2)]
    if restarts:
        rig.restart()
    (late,) = rig.apply([once(5, put(5))])
    assert isinstance(late, Refused)
    assert "is answered" in late.message
    assert rig.range(_ALL).revision == 2


def test_nobody_else_ends_what_a_sequence_may_ask() -> None:
    rig = begun(MINE)
    (refusal,) = rig.apply([once(3, put(3), answered=4)])
    assert isinstance(refusal, Refused)
    assert rig.apply([once(0, put(0))]) == [PutResult(2)]


def test_sessions_know_nothing_of_each_other() -> None:
    rig = begun(MINE, YOURS)
    assert rig.apply([once(0, put(1)), once(0, put(2), session=YOURS)]) == [
        PutResult(2),
        PutResult(3),
    ]
    rig.apply([Revoke(LEASE[MINE])])
    assert rig.apply([once(0, put(2), session=YOURS)]) == [PutResult(3)]


@pytest.mark.parametrize("session", [0, 2, 7, 2**63, 2**64 - 1])
def test_a_session_that_was_never_opened_is_not_found(session: int) -> None:
    rig = begun(MINE)
    (refusal,) = rig.apply([once(0, put(1), session=session)])
    assert isinstance(refusal, Refused)
    assert refusal.why is Refusal.SESSION_NOT_FOUND
    assert rig.apply([once(0, put(1))]) == [PutResult(2)]


def test_a_session_that_is_opened_again_is_another_one() -> None:
    rig = begun(MINE)
    rig.apply([once(0, put(1))])
    assert isinstance(rig.apply([OpenSession(LEASE[MINE], 60)])[0], Refused)
    (opened,) = rig.apply([OpenSession(0, 60)])
    assert isinstance(opened, SessionResult)
    assert (opened.session, opened.lease) != (MINE, LEASE[MINE])
    assert rig.apply([once(0, put(1)), once(0, put(2), session=opened.session)]) == [
        PutResult(2),
        PutResult(3),
    ]


def test_nothing_that_comes_late_opens_a_session_that_ended() -> None:
    rig = begun(MINE)
    late = [OpenSession(LEASE[MINE], 60), once(0, put(0)), once(1, put(1))]
    rig.apply([*late[1:], Revoke(LEASE[MINE])])
    _, *refusals = rig.apply(late)
    for refusal in refusals:
        assert isinstance(refusal, Refused)
        assert refusal.why is Refusal.SESSION_NOT_FOUND
    assert rig.range(_ALL).revision == 3


def test_a_lease_that_an_application_is_granted_is_no_session() -> None:
    rig = memory_rig()
    rig.apply([Grant(MINE, 60)])
    (refusal,) = rig.apply([once(0, put(1))])
    assert isinstance(refusal, Refused)
    assert refusal.why is Refusal.SESSION_NOT_FOUND
    assert rig.apply([Revoke(MINE)]) == [Done(1)]


@pytest.mark.parametrize("apart", [False, True])
def test_a_session_ends_with_its_lease_and_leaves_nothing(apart: bool) -> None:
    rig = begun(MINE)
    work = [once(number, put(number, previous=number % 2 > 0)) for number in range(200)]
    revoke = Revoke(LEASE[MINE])
    for part in [work, [revoke]] if apart else [[*work, revoke]]:
        rig.apply(part)
    assert kept(rig) == {}
    assert rig.machine.head.size == measure(rig.store)
    (refusal,) = rig.apply([once(3, put(3))])
    assert isinstance(refusal, Refused)
    assert refusal.why is Refusal.SESSION_NOT_FOUND
    rig.apply([OpenSession(LEASE[MINE], 60)])
    assert rig.apply([once(3, put(3), session=2)]) == [PutResult(202)]


def test_a_command_that_ends_its_own_session_is_done() -> None:
    rig = begun(MINE)
    assert rig.apply([once(0, put(0)), once(1, Revoke(LEASE[MINE]))]) == [PutResult(2), Done(2)]
    assert kept(rig) == {}


def test_a_session_has_so_many_unanswered_and_no_more() -> None:
    rig = begun(MINE)
    last = sessions.UNANSWERED_MAX - 1
    assert rig.apply([once(last, put(1))]) == [PutResult(2)]
    (refusal,) = rig.apply([once(last + 1, put(2))])
    assert isinstance(refusal, Refused)
    assert refusal.why is Refusal.TOO_MANY_UNANSWERED
    assert rig.apply([once(last + 1, put(2), answered=1)]) == [PutResult(3)]


def test_what_is_answered_leaves_the_rows() -> None:
    rig = begun(MINE)
    for number in range(3000):
        rig.apply([once(number, put(number, previous=number % 2 > 0), answered=number)])
    assert rig.machine.head.size == measure(rig.store)
    rows = kept(rig)
    assert len(rows) <= 2 + 64
    assert sum(map(len, rows.values())) < 64 * 128


def test_who_waits_for_each_answer_has_two_numbers_kept() -> None:
    rig = begun(MINE)
    for number in range(200):
        rig.apply([once(number, put(number), answered=number)])
        assert sum(map(len, kept(rig).values())) == 16
    assert len(kept(rig)) == 2


def test_a_put_that_is_not_answered_costs_a_few_bytes() -> None:
    rig = begun(MINE)
    rig.apply([once(number, put(number)) for number in range(640)])
    assert sum(map(len, kept(rig).values())) == 640 * 8 + 10 * 8


def test_what_is_kept_beyond_a_revision_counts_until_it_is_answered() -> None:
    rig = begun(MINE)
    rig.apply([once(0, Put(b"k", bytes(1000)))])
    before = rig.machine.head.size
    rig.apply([once(1, DeleteSpan(Span(b"none", b"nonf"))), once(2, Txn(then=(Range(_ALL),)))])
    assert rig.machine.head.size == measure(rig.store) > before + 1000
    rig.apply([once(3, Put(b"k", b""), answered=2)])
    assert rig.machine.head.size > before + 1000
    rig.restart()
    rig.apply([once(4, Put(b"k", b""), answered=3)])
    assert rig.machine.head.size == measure(rig.store) == before + 2 * (PUT_BYTES + 2)
    rig.apply([once(5, Txn()), once(6, Txn())])
    assert rig.machine.head.size == measure(rig.store) > before + 2 * (PUT_BYTES + 2)
    rig.apply([once(100, Txn(), answered=90), once(101, Revoke(LEASE[MINE]))])
    assert rig.machine.head.size == measure(rig.store) == before + 2 * (PUT_BYTES + 2)


@pytest.mark.parametrize("restarts", [False, True])
def test_an_outcome_goes_with_the_command_that_says_it_is_answered(restarts: bool) -> None:
    rig = begun(MINE)
    nothing = DeleteSpan(Span(b"none", b"nonf"))
    rig.apply([once(sequence, nothing) for sequence in (0, 5, 64, 70)])
    for sequence, answered, left in [
        (130, 0, {0, 5, 64, 70}),
        (131, 1, {5, 64, 70}),
        (132, 6, {64, 70}),
        (133, 66, {70}),
        (134, 71, set[int]()),
        (135, 130, set[int]()),
    ]:
        rig.apply([once(sequence, put(sequence), answered=answered)])
        if restarts:
            rig.restart()
        found = {int.from_bytes(key[9:]) for key in kept(rig) if key.startswith(OUTCOMES)}
        assert found == left
        assert rig.machine.head.size == measure(rig.store)


@pytest.mark.parametrize(
    "harm",
    [
        (b"S" + MINE.to_bytes(8) + b"\1" + bytes(8), b""),
        (b"S" + MINE.to_bytes(8) + b"\1" + bytes(8), b"1234567"),
        (b"S" + MINE.to_bytes(8) + b"\1" + bytes(8), bytes(8 * 66)),
        (b"S" + MINE.to_bytes(8) + b"\1" + bytes(8), (1).to_bytes(8, "little") + bytes(8 * 64)),
        (b"S" + MINE.to_bytes(8) + b"\0", None),
        (b"O" + MINE.to_bytes(8) + bytes(8), None),
        (b"O" + MINE.to_bytes(8) + bytes(8), b"?"),
    ],
)
def test_rows_that_were_damaged_are_not_taken(harm: tuple[bytes, bytes | None]) -> None:
    rig = begun(MINE)
    rig.apply([once(0, DeleteSpan(_ALL))])
    batch = rig.store.batch()
    place, row = harm
    if row is None:
        batch.delete(Space.MACHINE, place)
    else:
        batch.put(Space.MACHINE, place, row)
    rig.store.write(batch)
    rig.restart()
    with pytest.raises(StorageCorruptError, match="let it join again"):
        rig.apply([once(0, DeleteSpan(_ALL)), Revoke(LEASE[MINE])])


def test_a_full_store_still_deletes_and_reads_in_sessions_that_are_open() -> None:
    rig = begun(MINE)
    rig.apply([Put(b"k", b"v"), SetAlarm(1, AlarmKind.NO_SPACE, True)])
    opened, written, deleted, read = rig.apply(
        [
            OpenSession(0, 60),
            once(0, put(0)),
            once(1, DeleteSpan(_ALL, previous=True)),
            once(2, Txn(then=(Range(_ALL),))),
        ]
    )
    for one in (opened, written):
        assert isinstance(one, Refused)
        assert one.why is Refusal.NO_SPACE
    assert deleted == DeleteResult(3, 1, (KeyValue(b"k", b"v", 2, 2, 1),))
    assert read == TxnResult(3, True, (RangeResult((), 0, False, 3),))
    assert rig.apply([once(1, DeleteSpan(_ALL, previous=True))]) == [deleted]


def test_a_result_too_large_to_be_kept_says_so_when_it_is_asked_for_again() -> None:
    rig = begun(MINE)
    rig.apply([Put(b"k", bytes(sessions.KEPT_RESULT_BYTES_MAX))])
    reading = Txn(then=(Put(b"done", b""), Range(_ALL)))
    (first,) = rig.apply([once(0, reading)])
    assert not isinstance(first, Refused)
    (again,) = rig.apply([once(0, reading)])
    assert isinstance(again, Refused)
    assert again.why is Refusal.RESULT_NOT_KEPT
    assert again.revision == first.revision == rig.range(_ALL).revision
    assert sum(map(len, kept(rig).values())) < 1000


def test_memory_holds_no_more_chunks_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CACHED_CHUNKS_MAX", 8)
    store, own = MemoryStore(MemoryDisk()), sessions.Sessions()

    def answer(revision: int) -> Callable[[Slice, bytes], int]:
        return lambda _writes, _command: revision

    def asked(lease: int, sequence: int) -> bytes:
        return encode(once(sequence, put(0), session=lease))

    for lease in range(1, 60):
        writes = Slice(store, Head())
        own.begin(writes, OpenSession(lease, 60))
        for sequence in range(0, 320, 64):
            assert own.once(writes, asked(lease, sequence), answer(1000)) == 1000
        own.flush(writes)
        batch = store.batch()
        writes.flush(batch)
        store.write(batch)
        assert own.cached_chunks <= 8
    for lease in range(1, 60):
        writes = Slice(store, Head())
        assert own.once(writes, asked(lease, 64), answer(2000)) == 1000
        assert own.once(writes, asked(lease, 64 + lease), answer(2000)) == 2000
        own.flush(writes)
        assert own.cached_chunks <= 8
        own.end(writes, lease)
    assert own.cached_chunks == 0
    store.close()


# --- by chance ------------------------------------------------------------------------------------


@frozen
class Arrival:
    session: int
    sequence: int
    answered: int

    def command(self) -> KvCommand:
        """What a sequence asks for never changes."""
        number = self.sequence * 2 + (self.session == YOURS)
        match number % 7:
            case 0 | 1 | 2:
                return put(number)
            case 3:
                return put(number, previous=True)
            case 4:
                return DeleteSpan(Span(b"k", b"k%d" % (number % 3)), previous=True)
            case 5:
                return Put(b"k0", b"", lease=99)
            case _:
                return Txn(then=(put(number), Range(Span(b"k1", b"k1\0")), Range(_ALL, limit=2)))


def arrival(session: int, sequence: int, back: int) -> Arrival:
    return Arrival(session, sequence, max(0, sequence - back))


arrivals = some.builds(
    arrival,
    some.sampled_from([MINE, YOURS]),
    some.one_of(some.integers(0, 12), some.integers(0, 400)),
    some.one_of(some.just(400), some.integers(0, 100)),
)
interruptions = some.dictionaries(some.integers(0, 30), some.sampled_from(["restart", "image"]))


@given(some.lists(arrivals, max_size=30), some.lists(some.integers(1, 7)), interruptions)
def test_each_sequence_is_done_once_and_answered_as_at_first(
    arriving: Sequence[Arrival], sizes: Sequence[int], breaks: dict[int, str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "CACHED_CHUNKS_MAX", 2)
        rig, whole, plain = begun(MINE, YOURS), begun(MINE, YOURS), begun(MINE, YOURS)
        commands = [
            Once(one.session, one.sequence, one.answered, encode(one.command())) for one in arriving
        ]
        given: list[KvResult] = []
        for number, part in enumerate(slices(commands, sizes)):
            given += rig.apply(part)
            if breaks.get(number) == "restart":
                rig.restart()
            elif breaks.get(number) == "image":
                rig.install(rig.image())
        assert whole.apply(commands) == given
        assert whole.rows() == rig.rows()
    answers: dict[tuple[int, int], KvResult] = {}
    answered = {MINE: 0, YOURS: 0}
    for one, result in zip(arriving, given, strict=True):
        place = one.session, one.sequence
        if one.sequence < answered[one.session]:
            assert isinstance(result, Refused)
            assert "is answered" in result.message
            continue
        answered[one.session] = max(answered[one.session], one.answered)
        if place not in answers:
            (answers[place],) = plain.apply([one.command()])
        assert result == answers[place]
    assert data_of(rig) == data_of(plain)
    assert rig.machine.head.size == measure(rig.store)


def data_of(rig: Rig) -> dict[bytes, bytes]:
    """All but what is kept of sessions, and the head, which counts it."""
    return {
        key: row for key, row in rig.rows().items() if key[:1] not in (SESSIONS, OUTCOMES, HEAD_KEY)
    }
