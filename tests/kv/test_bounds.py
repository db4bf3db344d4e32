"""How many keys one command may delete, and a lease have: what is beyond that is refused whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftkv.errors import RequestTooLargeError
from raftkv.kv import bounds
from raftkv.kv.engine import Slice
from raftkv.kv.model import (
    EVERYTHING,
    DeleteResult,
    Done,
    Refusal,
    Refused,
    Span,
    TxnResult,
    prefix_span,
    refused,
)
from raftkv.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Put,
    Range,
    Revoke,
    TakeOver,
    Txn,
)
from raftkv.kv.txn import apply_delete, apply_txn
from raftkv.storage.base import Reader, Space
from tests.kv.rig import Rig, memory_rig

BOUND = 10
LONG = b"l" * 1024  # counts twice
ALL = DeleteSpan(EVERYTHING)
ABSENT = Compare(b"absent", CompareTarget.VERSION, CompareResult.EQUAL, 0)
PRESENT = Compare(b"absent", CompareTarget.VERSION, CompareResult.GREATER, 0)


def prefixed(prefix: bytes, *, previous: bool = False) -> DeleteSpan:
    return DeleteSpan(prefix_span(prefix), previous)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Six keys with the prefix ``a``, five with ``b``."""
    monkeypatch.setattr(bounds, "REVISION_KEYS_MAX", BOUND)
    rig = memory_rig()
    rig.apply([Put(b"a%d" % number, b"v") for number in range(6)])
    rig.apply([Put(b"b%d" % number, b"v") for number in range(5)])
    return rig


def is_refused(rig: Rig, command: KvCommand) -> bool:
    """Whether it is, which must leave everything as it was."""
    before = rig.rows()
    (result,) = rig.apply([command])
    if isinstance(result, Refused):
        assert result.why is Refusal.TOO_LARGE
        assert rig.rows() == before
        return True
    return False


def test_a_delete_has_as_many_keys_as_the_bound_and_not_one_more(rig: Rig) -> None:
    assert is_refused(rig, ALL)
    assert is_refused(rig, DeleteSpan(Span(b"a", b"b5"), previous=True))
    rig.apply([DeleteOne(b"b4")])
    assert rig.apply([ALL]) == [DeleteResult(14, BOUND)]
    assert rig.range(EVERYTHING).count == 0


def test_what_is_refused_says_how_to_do_it(rig: Rig) -> None:
    (result,) = rig.apply([ALL])
    assert isinstance(result, Refused)
    error = refused(result)
    assert isinstance(error, RequestTooLargeError)
    assert not error.may_have_happened
    for word in (str(BOUND), "start=", "stop=", "limit"):
        assert word in str(error)


@pytest.mark.parametrize(
    "txn",
    [
        Txn(then=(ALL,)),
        Txn(then=(prefixed(b"a"), prefixed(b"b"))),
        Txn(then=(prefixed(b"a"), Txn(when=(PRESENT,), otherwise=(prefixed(b"b"),)))),
        Txn(when=(PRESENT,), otherwise=(prefixed(b"a"), prefixed(b"a"))),
    ],
)
def test_all_deletes_on_the_way_of_a_transaction_count_together(rig: Rig, txn: Txn) -> None:
    assert is_refused(rig, txn)


@pytest.mark.parametrize(
    "txn",
    [
        Txn(then=(prefixed(b"a"), *[DeleteOne(b"b%d" % number) for number in range(5)])),
        Txn(when=(ABSENT,), then=(prefixed(b"a"),), otherwise=(ALL,)),
        Txn(then=(prefixed(b"a"), Txn(when=(PRESENT,), then=(ALL,)))),
        # What it puts itself does not count: the store counts as it was before.
        Txn(
            then=(
                Txn(then=(Put(b"c", b""), prefixed(b"a"))),
                Txn(then=(DeleteSpan(Span(b"b1", b"d")),)),
            )
        ),
    ],
)
def test_single_keys_and_branches_not_taken_do_not_count(rig: Rig, txn: Txn) -> None:
    (result,) = rig.apply([txn])
    assert isinstance(result, TxnResult)


def test_commands_in_one_slice_count_each_for_itself(rig: Rig) -> None:
    results = rig.apply([prefixed(b"a"), Put(b"a0", b""), prefixed(b"b"), ALL])
    assert [one.deleted for one in results if isinstance(one, DeleteResult)] == [6, 5, 1]


def test_a_long_key_counts_for_every_kib_of_it(rig: Rig) -> None:
    rig.apply([Put(b"c" * 4095, b""), Put(b"d" * 4096, b"")])
    assert is_refused(rig, Txn(then=(prefixed(b"a"), prefixed(b"d"))))
    assert not is_refused(rig, Txn(then=(prefixed(b"a"), prefixed(b"c"))))


def test_what_a_delete_would_tell_of_too_much_is_refused_and_alone_is_done(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.apply([Put(b"a%d" % number, b"x" * 3000) for number in range(3)])
    monkeypatch.setattr(bounds, "RESULT_BYTES_MAX", 9_000)
    assert not is_refused(rig, Txn(when=(PRESENT,), then=(prefixed(b"a", previous=True),)))
    assert is_refused(rig, prefixed(b"a", previous=True))
    assert is_refused(rig, Txn(then=(prefixed(b"a", previous=True),)))
    both = Txn(then=(DeleteSpan(Span(b"a0", b"a2"), True), DeleteSpan(Span(b"a2", b"a3"), True)))
    assert is_refused(rig, both)
    (result,) = rig.apply([DeleteSpan(Span(b"a1", None), previous=True)])
    assert isinstance(result, DeleteResult)
    assert sum(len(one.value) for one in result.previous) == 6000 + 3 + 5
    rig.apply([Put(b"a%d" % number, b"x" * 3000) for number in range(3)])
    assert not is_refused(rig, prefixed(b"a"))


def test_what_puts_and_single_deletes_tell_has_room_together_with_ranges(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [b"a%d" % number for number in range(4)]
    monkeypatch.setattr(bounds, "RESULT_BYTES_MAX", 10_000)
    for tells in (
        (DeleteOne(long[0], True), Put(long[1], b"", previous=True)),
        (Put(long[0], b"", previous=True), Range(Span(long[1], long[2]))),
    ):
        rig.apply([Put(key, b"x" * 3000) for key in long])
        (result,) = rig.apply([Txn(then=tells)])
        assert isinstance(result, TxnResult)
        rig.apply([Put(key, b"x" * 3000) for key in long])
        more = tuple(Put(key, b"", previous=True) for key in long[2:])
        (result,) = rig.apply([Txn(then=(*tells, *more))])
        assert isinstance(result, Refused)
        assert result.why is Refusal.RESULT_NOT_KEPT
        assert [one.value for one in rig.range(prefix_span(b"a")).items if one.key in long[2:]] == [
            b"",
            b"",
        ]


# --- leases ---------------------------------------------------------------------------------------


@pytest.fixture
def leased(rig: Rig) -> Rig:
    """Lease 7 has nine keys, one of which counts twice."""
    rig.apply([TakeOver(1), Grant(7, 60), Grant(8, 60)])
    rig.apply([Put(b"a%d" % number, b"v", 7) for number in range(6)])
    rig.apply([Put(b"b%d" % number, b"v", 7) for number in range(2)])
    rig.apply([Put(LONG, b"v", 7)])
    return rig


def test_a_lease_has_as_many_keys_as_the_bound_and_not_one_more(leased: Rig) -> None:
    for put in (Put(b"b2", b"", 7), Put(b"new", b"", 7, previous=True)):
        assert is_refused(leased, put)
        assert is_refused(leased, Txn(then=(put,)))
        assert is_refused(leased, Txn(when=(PRESENT,), otherwise=(Txn(then=(put,)),)))
    assert is_refused(leased, Put(b"b2", b"", 7, ignore_value=True))
    assert not is_refused(leased, Put(b"b2", b"", 8))


@pytest.mark.parametrize(
    "put", [Put(b"a0", b"w", 7), Put(LONG, b"w", 7), Put(b"a0", b"w", ignore_lease=True)]
)
def test_keys_that_a_full_lease_has_already_may_be_put(leased: Rig, put: Put) -> None:
    assert not is_refused(leased, put)
    assert not is_refused(leased, Txn(then=(put,)))
    assert is_refused(leased, Txn(then=(put, Put(b"b2", b"", 7))))
    assert is_refused(leased, Put(b"b2", b"", 7))


@pytest.mark.parametrize(
    ("leaves", "room"),
    [
        (DeleteOne(b"a0"), 1),
        (Put(b"a0", b""), 1),
        (Put(b"a0", b"", 8), 1),
        (Put(b"a0", b"", 8, ignore_value=True), 1),
        (Put(LONG, b"", 8), 2),
        (DeleteSpan(Span(b"a3", b"b")), 3),
        (Txn(then=(DeleteOne(b"a0"), Put(b"a1", b"", 8))), 2),
        # What one transaction puts must fit before it takes anything away.
        (Txn(then=(Put(b"b2", b"", 7), DeleteOne(b"a0"))), 0),
    ],
)
def test_a_key_that_leaves_a_lease_makes_room_for_others(
    leased: Rig, leaves: KvCommand, room: int
) -> None:
    assert is_refused(leased, leaves) is (room == 0)
    assert is_refused(leased, Txn(then=tuple(Put(b"c%d" % n, b"", 7) for n in range(room + 1))))
    assert not is_refused(leased, Txn(then=tuple(Put(b"c%d" % n, b"", 7) for n in range(room))))
    assert is_refused(leased, Put(b"d", b"", 7))


def test_a_put_in_a_transaction_counts_the_others_for_the_same_lease(leased: Rig) -> None:
    leased.apply([DeleteOne(b"a0")])
    one, other, else_where = Put(b"c", b"", 7), Put(b"d", b"", 7), Put(b"e", b"", 8)
    assert is_refused(leased, Put(LONG + b"2", b"", 7))
    assert is_refused(leased, Txn(then=(one, Txn(then=(other,)))))
    assert not is_refused(leased, Txn(then=(one, else_where), otherwise=(other,)))


def test_a_full_lease_ends_in_one_revision_and_its_id_begins_anew(leased: Rig) -> None:
    revision = leased.range(EVERYTHING).revision
    assert leased.apply([Revoke(7)]) == [Done(revision + 1)]
    assert [item.key for item in leased.range(EVERYTHING).items] == [b"b2", b"b3", b"b4"]
    leased.apply([Grant(7, 60)])
    again = [Put(b"%d" % number, b"", 7) for number in range(BOUND)]
    assert not any(is_refused(leased, put) for put in again)
    assert is_refused(leased, Put(b"x", b"", 7))


def test_leases_expire_together_only_with_as_many_keys_as_one_may_have(leased: Rig) -> None:
    leased.apply([DeleteOne(b"b0"), Grant(9, 60), Put(b"x", b"", 8), Put(b"y", b"", 9)])
    at = leased.range(EVERYTHING).revision
    expire = Expire(1, (9, 5, 7, 8))
    assert leased.apply([expire, expire, expire]) == [Done(at + 2, 1), Done(at + 3), Done(at + 3)]
    assert [item.lease for item in leased.range(EVERYTHING).items] == [0, 0, 0]


class Counting(Reader):
    """A store that knows how many rows were looked at."""

    def __init__(self, store: Reader) -> None:
        self._store = store
        self.looked = 0

    def get(self, space: Space, key: bytes) -> bytes | None:
        return self._store.get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for pair in self._store.scan(space, start, stop, reverse=reverse):
            self.looked += 1
            yield pair


def test_no_more_is_looked_at_than_one_key_beyond_the_bound(rig: Rig) -> None:
    rig.apply([Put(b"c%03d" % number, b"") for number in range(200)])
    reader = Counting(rig.store)
    assert isinstance(apply_delete(Slice(reader, rig.machine.head), ALL), Refused)
    assert reader.looked == BOUND + 1
    reader = Counting(rig.store)
    txn = Txn(then=(prefixed(b"a"), ALL, ALL))
    assert isinstance(apply_txn(Slice(reader, rig.machine.head), txn), Refused)
    assert reader.looked == BOUND + 1
