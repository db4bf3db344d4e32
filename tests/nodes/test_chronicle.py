"""The chronicle of a run: what watchers and leases may do is told from what they may not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import evolve

from raftkv.errors import StorageCorruptError
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING, Change, Span
from raftkv.kv.requests import Compact, DeleteOne, Grant, KvCommand, Put, Revoke, Txn
from raftkv.kv.rows import EVENTS
from raftkv.testing.histories.kv import Written
from raftkv.testing.invariants import ViolationError
from raftkv.testing.nodes.chronicle import Chronicle, LeaseAccount, WatchAccount, check_leases
from tests.kv.rig import MACHINE, Rig, memory_rig

SECOND = 10**9
A = Wanted(Span(b"a", b"a\0"))
ALL = Wanted(EVERYTHING, previous=True)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def told(*commands: KvCommand, rig: Rig | None = None, clock: Clock | None = None) -> Chronicle:
    """What a member tells that applies these, a second each."""
    clock, rig = clock or Clock(), rig or memory_rig()
    chronicle = Chronicle(clock)
    for command in commands:
        clock.now_ns += SECOND
        rig.apply([command])
        chronicle.applied(rig.store)
    return chronicle


def changes(chronicle: Chronicle) -> list[Change]:
    return list(chronicle.changes(0, chronicle.revision + 1))


def refused(invariant: str, account: WatchAccount, *seen: Change) -> None:
    *right, wrong = seen
    for change in right:
        account.saw(change)
    with pytest.raises(ViolationError) as found:
        account.saw(wrong)
    assert found.value.invariant == invariant


PUTS = (
    Put(b"a", b"1"),
    Put(b"b", b"2"),
    Txn(then=(Put(b"a", b"3"), Put(b"c", b"3"))),
    DeleteOne(b"a"),
)


def test_the_first_that_applies_something_tells_it_and_others_add_nothing() -> None:
    chronicle, other = told(*PUTS), memory_rig()
    before = changes(chronicle)
    assert [change.revision for change in before] == [2, 3, 4, 5]
    other.apply(PUTS)
    chronicle.applied(other.store)
    assert changes(chronicle) == before
    assert list(chronicle.written())[2:] == [
        Written(4, b"a", b"3"),
        Written(4, b"c", b"3"),
        Written(5, b"a", None),
    ]


def test_a_compaction_takes_nothing_from_it() -> None:
    chronicle = told(*PUTS, Compact(4), Put(b"d", b"4"))
    assert chronicle.floor == 4
    assert len(changes(chronicle)) == 5


def test_a_revision_in_which_nothing_happened_is_found() -> None:
    rig, chronicle = memory_rig(), Chronicle(Clock())
    rig.apply(PUTS)
    newest = max(key for key in rig.rows() if key.startswith(EVENTS))
    batch = rig.store.batch()
    batch.delete(MACHINE, newest)
    rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match="events of revision 5 are missing"):
        chronicle.applied(rig.store)


# --- watchers -------------------------------------------------------------------------------------


def begun(chronicle: Chronicle, wanted: Wanted = ALL, at: int = 2) -> WatchAccount:
    account = WatchAccount("w1", chronicle, wanted)
    account.began(at, at - 1)
    return account


def test_a_watcher_that_sees_everything_once_is_right() -> None:
    chronicle = told(*PUTS)
    account = begun(chronicle)
    for change in changes(chronicle):
        account.saw(change)
    account.saw(Change(5, ()))
    assert (account.next, account.seen) == (6, 4)
    of_a = begun(chronicle, A)
    for change in changes(chronicle):
        mine = tuple(evolve(one, previous=None) for one in change.events if one.kv.key == b"a")
        if mine:
            of_a.saw(Change(change.revision, mine))
    assert (of_a.next, of_a.seen) == (6, 3)


def test_what_a_watcher_may_not_see() -> None:
    chronicle = told(*PUTS)
    first, second, third, last = changes(chronicle)
    refused("I33", begun(chronicle), first, first)
    refused("I33", begun(chronicle), first, second, first)
    refused("I34", begun(chronicle), first, third)
    refused("I35", begun(chronicle), first, second, Change(4, third.events[:1]))
    refused("I35", begun(chronicle, A), Change(2, (*first.events, *second.events)))
    refused("I37", begun(chronicle), first, Change(3, ()))
    refused("I40", begun(chronicle), evolve(last, revision=6))
    refused("I39", begun(chronicle), evolve(first, events=second.events))
    refused(
        "I39", begun(chronicle, A, at=4), Change(4, third.events[:1])
    )  # it asked for no previous


def test_what_was_before_a_floor_may_be_missing_there_and_nowhere_else() -> None:
    chronicle = told(*PUTS, Compact(4))
    third, last = changes(chronicle)[2:]
    bare = [
        Change(one.revision, tuple(evolve(event, previous=None) for event in one.events))
        for one in (third, last)
    ]
    begun(chronicle, at=4).saw(bare[0])
    refused("I39", begun(chronicle, at=5), bare[1])


def test_a_watch_goes_on_where_it_stands() -> None:
    chronicle = told(*PUTS, Compact(4))
    account = begun(chronicle)
    account.began(2, 5)
    with pytest.raises(ViolationError, match="resumes at 3"):
        account.began(3, 5)
    account.compacted(4)
    assert account.next == 4
    for floor in (4, 5):
        with pytest.raises(ViolationError, match="is told to resume"):
            account.compacted(floor)
    with pytest.raises(ViolationError, match="but 5 was before"):
        WatchAccount("w2", chronicle, ALL).began(5, 5)


# --- leases ---------------------------------------------------------------------------------------


def ended(account: LeaseAccount, *, skew: int = 0, by: Sequence[KvCommand] = (Revoke(7),)) -> int:
    """The lease is granted in second 1, has a key in 2, and ends in 3."""
    chronicle = told(Grant(7, 2), Put(b"a", b"1", lease=7), *by)
    return check_leases(chronicle, [account], clock_skew=skew)


def lease(*renewals: int, revoke: int | None = None, revoked: int | None = None) -> LeaseAccount:
    account = LeaseAccount(7, 2)
    account.renewals += [(at * SECOND, at * SECOND + 1) for at in renewals]
    account.revoke_ns = None if revoke is None else revoke * SECOND
    account.revoked_ns = None if revoked is None else revoked * SECOND
    return account


def test_a_lease_ends_by_its_time_or_because_it_was_revoked() -> None:
    assert ended(lease(1)) == 1
    assert ended(lease(1, 2, revoke=3, revoked=4)) == 0
    assert ended(LeaseAccount(7, 2)) == 1  # nobody heard of its grant
    assert ended(lease(1), by=()) == 0


@pytest.mark.parametrize(
    ("account", "invariant"),
    [
        (lease(1, 2), "I41"),
        (evolve(lease(1), ttl=3), "I41"),
        (lease(1, 2, revoke=4), "I41"),
        (lease(1, 4), "I42"),
        (lease(1, 5, revoke=2, revoked=3), "I42"),
    ],
)
def test_what_a_lease_may_not_do(account: LeaseAccount, invariant: str) -> None:
    with pytest.raises(ViolationError) as found:
        ended(account)
    assert found.value.invariant == invariant


def test_a_clock_that_may_run_faster_may_end_it_sooner() -> None:
    assert ended(evolve(lease(1), ttl=3), skew=40) == 1
