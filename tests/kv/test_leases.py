"""Leases as they are replicated: against a dictionary of leases, and in the machine's own rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.kv import leases, rows
from raftkv.kv.leases import (
    Granted,
    Table,
    read_attached,
    read_lease,
    read_leases,
    read_table,
)
from raftkv.kv.model import EVERYTHING, Done, KvResult, LeaseResult, PutResult, Refusal, Refused
from raftkv.kv.requests import (
    LEASE_TTL_MAX,
    Checkpoint,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Put,
    Revoke,
    TakeOver,
    Txn,
)
from tests.kv.rig import MACHINE, Rig, memory_rig

TOP = 2**63 - 1
IDS = (1, 2, TOP)
KEYS = (b"a", b"b", b"b\0", b"c")

ids = st.sampled_from(IDS)
keys = st.sampled_from(KEYS)
terms = st.integers(1, 3)
commands: st.SearchStrategy[KvCommand] = st.one_of(
    st.builds(Grant, ids, st.integers(0, 20)),
    st.builds(Grant, ids, st.just(10)),
    st.builds(Put, keys, st.just(b"v"), st.sampled_from((0, *IDS))),
    st.builds(Put, keys, st.just(b"v"), st.sampled_from(IDS)),
    st.builds(Put, keys, st.just(b"v"), ignore_lease=st.just(True)),
    st.builds(DeleteOne, keys),
    st.builds(DeleteSpan, st.just(EVERYTHING)),
    st.builds(Revoke, ids),
    st.builds(TakeOver, terms),
    st.builds(Expire, terms, st.lists(ids, max_size=3).map(tuple), st.integers(0, 4)),
    st.builds(
        Checkpoint,
        terms,
        st.lists(st.tuples(ids, st.integers(-1, 25)), max_size=2).map(tuple),
        st.integers(0, 4),
    ),
)


class Model:
    """Leases as a dictionary, keys as another, and how many revisions there were."""

    def __init__(self) -> None:
        self.leases: dict[int, Granted] = {}
        self.keys: dict[bytes, int] = {}
        self.keeper = 0
        self.grants = 0
        self.revision = 1

    def apply(self, command: KvCommand) -> Refusal | None:
        match command:
            case Grant(lease, ttl):
                if not 1 <= ttl <= LEASE_TTL_MAX:
                    return Refusal.INVALID
                if lease in self.leases:
                    return Refusal.LEASE_EXISTS
                self.grants += 1
                self.leases[lease] = Granted(lease, ttl, 0, self.grants)
            case Put(key, _, lease, _, _, ignore_lease):
                if ignore_lease and key not in self.keys:
                    return Refusal.KEY_NOT_FOUND
                if lease and lease not in self.leases:
                    return Refusal.LEASE_NOT_FOUND
                self.keys[key] = self.keys[key] if ignore_lease else lease
                self.revision += 1
            case DeleteOne(key):
                self.revision += self.keys.pop(key, None) is not None
            case DeleteSpan():
                self.revision += bool(self.keys)
                self.keys = {}
            case Revoke(lease):
                if lease not in self.leases:
                    return Refusal.LEASE_NOT_FOUND
                self.end(lease)
            case TakeOver(keeper):
                if keeper < self.keeper:
                    return Refusal.NOT_KEEPER
                self.keeper = keeper
            case Expire(keeper, ended, since):
                if keeper != self.keeper:
                    return Refusal.NOT_KEEPER
                for lease in ended:
                    if self.is_meant(lease, since):
                        self.end(lease)
            case Checkpoint(keeper, remaining, since):
                if keeper != self.keeper:
                    return Refusal.NOT_KEEPER
                for lease, left in remaining:
                    if self.is_meant(lease, since):
                        ttl, which = self.leases[lease].ttl, self.leases[lease].grant
                        kept = left if 0 < left < ttl else 0
                        self.leases[lease] = Granted(lease, ttl, kept, which)
            case _:
                raise AssertionError(command)
        return None

    def lease(self, lease: int) -> Granted | None:
        """As it is replicated, with the number of its keys."""
        found = self.leases.get(lease)
        return found and evolve(found, keys=list(self.keys.values()).count(lease))

    def is_meant(self, lease: int, since: int) -> bool:
        return lease in self.leases and (since == 0 or self.leases[lease].grant <= since)

    def end(self, lease: int) -> None:
        if self.leases.pop(lease, None) is not None:
            left = {key: its for key, its in self.keys.items() if its != lease}
            self.revision += left != self.keys
            self.keys = left


def _why(result: KvResult) -> Refusal | None:
    return result.why if isinstance(result, Refused) else None


@given(st.lists(commands, max_size=30), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_leases_are_what_a_dictionary_of_them_is_however_commands_are_sliced(
    given: Sequence[KvCommand], sizes: list[int]
) -> None:
    rig, model = memory_rig(), Model()
    refusals = [model.apply(command) for command in given]
    results = rig.apply_slices(given, sizes)
    assert [_why(result) for result in results] == refusals
    assert rig.machine.store is rig.store
    assert read_leases(rig.store, 0, 10) == [model.lease(one) for one in sorted(model.leases)]
    table = read_table(rig.store)
    assert table == Table(model.keeper, len(model.leases), model.grants)
    for lease in IDS:
        held = sorted(key for key, its in model.keys.items() if its == lease)
        assert list(read_attached(rig.store, lease)) == held
        assert read_lease(rig.store, lease) == model.lease(lease)
    found = rig.range(EVERYTHING)
    assert {item.key: item.lease for item in found.items} == model.keys
    assert found.revision == model.revision
    other = memory_rig()
    other.install(rig.image())
    assert other.rows() == rig.rows()
    rig.close()
    other.close()


def _granted(rig: Rig, lease: int = 7, ttl: int = 10) -> None:
    (result,) = rig.apply([Grant(lease, ttl)])
    assert isinstance(result, LeaseResult)


def test_a_revoke_deletes_all_keys_in_one_revision_in_key_order_and_makes_none_without() -> None:
    rig = memory_rig()
    _granted(rig)
    rig.apply([Put(key, b"v", 7) for key in (b"c", b"a", b"b\xff")])
    rig.apply([Put(b"c", b"detached")])
    before = rig.range(EVERYTHING).revision
    assert rig.apply([Revoke(7)]) == [Done(before + 1)]
    events = list(rows.decode_events(rig.rows()[rows.events_key(before + 1, 0)]))
    assert [(event.kind, event.key) for event in events] == [
        (rows.DELETE_EVENT, b"a"),
        (rows.DELETE_EVENT, b"b\xff"),
    ]
    assert [item.key for item in rig.range(EVERYTHING).items] == [b"c"]
    _granted(rig, 8)
    assert rig.apply([Revoke(8)]) == [Done(before + 1)]
    rig.close()


def test_each_lease_that_expires_makes_a_revision_of_its_own() -> None:
    rig = memory_rig()
    rig.apply([TakeOver(3)])
    for lease in (1, 2, 3):
        _granted(rig, lease)
    rig.apply([Put(b"a", b"", 1), Put(b"b", b"", 3), Put(b"c", b"", 3)])
    assert rig.apply([Expire(3, (3, 2, 9, 1, 3))]) == [Done(6)]
    kinds = [list(rows.decode_events(rig.rows()[rows.events_key(number, 0)])) for number in (5, 6)]
    assert [[event.key for event in one] for one in kinds] == [[b"b", b"c"], [b"a"]]
    assert read_table(rig.store) == Table(3, 0, 3)
    rig.close()


def test_an_old_keepers_decisions_are_void_from_the_next_ones_take_over_on() -> None:
    rig = memory_rig()
    _granted(rig)
    rig.apply([TakeOver(2), TakeOver(5)])
    old = rig.apply([Expire(2, (7,)), Checkpoint(2, ((7, 1),)), TakeOver(2), Expire(6, (7,))])
    assert [_why(result) for result in old] == [Refusal.NOT_KEEPER] * 4
    assert read_lease(rig.store, 7) == Granted(7, 10, 0, 1)
    assert rig.apply([TakeOver(5), Checkpoint(5, ((7, 4),))]) == [Done(1), Done(1)]
    assert read_lease(rig.store, 7) == Granted(7, 10, 4, 1)
    assert [one.left for one in read_leases(rig.store, 0, 9)] == [4]
    assert Granted(7, 10).left == 10
    rig.close()


def test_a_keeper_ends_and_remembers_only_what_it_knew_of() -> None:
    rig = memory_rig()
    rig.apply([TakeOver(2), Grant(7, 10), Revoke(7), Grant(7, 20)])
    rig.apply([Expire(2, (7,), 1), Checkpoint(2, ((7, 3),), 1)])
    assert read_lease(rig.store, 7) == Granted(7, 20, 0, 2)
    rig.apply([Checkpoint(2, ((7, 3),), 2)])
    assert read_lease(rig.store, 7) == Granted(7, 20, 3, 2)
    rig.apply([Expire(2, (7,), 2)])
    assert read_lease(rig.store, 7) is None
    rig.close()


def test_ids_that_are_chosen_are_positive_new_and_the_same_everywhere() -> None:
    rig, other = memory_rig(), memory_rig()
    wanted: list[KvCommand] = [Grant(0, 10) for _ in range(50)]
    results = rig.apply(wanted)
    assert results == other.apply_slices(wanted, [7])
    chosen = [result.id for result in results if isinstance(result, LeaseResult)]
    assert len(set(chosen)) == 50
    assert all(2**32 < lease <= TOP for lease in chosen)
    taken = memory_rig()
    (_, first, second) = taken.apply([Grant(chosen[1], 10), Grant(0, 10), Grant(0, 10)])
    assert isinstance(first, LeaseResult)
    assert isinstance(second, LeaseResult)
    assert (first.id, second.id) == (chosen[2], chosen[3])
    for one in (rig, other, taken):
        one.close()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (Grant(-1, 10), "must be positive"),
        (Grant(1, LEASE_TTL_MAX + 1), "too large lease TTL"),
        (Grant(1, 0), "too large lease TTL"),
    ],
)
def test_a_grant_that_cannot_be_is_refused_without_effect(command: Grant, why: str) -> None:
    rig = memory_rig()
    (result,) = rig.apply([command])
    assert isinstance(result, Refused)
    assert why in result.message
    assert rig.rows() == {}
    assert isinstance(rig.apply([Grant(TOP, LEASE_TTL_MAX)])[0], LeaseResult)
    rig.close()


def test_the_number_of_leases_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASES_MAX", 2)
    rig = memory_rig()
    _granted(rig, 1)
    _granted(rig, 2)
    assert [_why(one) for one in rig.apply([Grant(3, 10), Grant(0, 10)])] == [
        Refusal.TOO_MANY_LEASES
    ] * 2
    assert [_why(one) for one in rig.apply([Grant(2, 10)])] == [Refusal.LEASE_EXISTS]
    rig.apply([Revoke(1)])
    _granted(rig, 3)
    rig.close()


def test_a_transaction_attaches_and_detaches_as_puts_do() -> None:
    rig = memory_rig()
    _granted(rig)
    (txn, put) = rig.apply([Txn(then=(Put(b"a", b"", 7),)), Put(b"b", b"", 7)])
    assert not isinstance(txn, Refused)
    assert isinstance(put, PutResult)
    assert list(read_attached(rig.store, 7)) == [b"a", b"b"]
    assert list(read_attached(rig.store, 0)) == []
    rig.close()


def test_the_machine_tells_which_leases_it_made_and_which_ended_in_order() -> None:
    rig = memory_rig()
    told: list[tuple[int, int, int]] = []
    rig.machine.on_leases = told.extend
    rig.apply([Grant(3, 10), Grant(3, 10), Put(b"a", b""), Grant(4, 20), Revoke(3), Grant(3, 5)])
    rig.apply([Put(b"a", b"")])
    rig.apply([Expire(0, (9, 4))])
    assert told == [(3, 10, 1), (4, 20, 2), (3, 0, 0), (3, 5, 3), (4, 0, 0)]
    rig.close()


def test_damaged_rows_of_leases_are_found() -> None:
    rig = memory_rig()
    _granted(rig)
    for key in (rows.LEASES, rows.lease_key(7), rows.LEASES + b"\x01"):
        batch = rig.store.batch()
        before = rig.store.get(MACHINE, key)
        batch.put(MACHINE, key, b"short")
        rig.store.write(batch)
        with pytest.raises(StorageCorruptError, match="not what raftkv wrote"):
            assert [read_table(rig.store), read_leases(rig.store, 0, 9)] == []
        batch = rig.store.batch()
        batch.put(MACHINE, key, before) if before else batch.delete(MACHINE, key)
        rig.store.write(batch)
    assert len(read_leases(rig.store, 0, 9)) == 1
    rig.close()


def test_a_key_that_does_not_know_of_its_lease_stops_the_member() -> None:
    rig = memory_rig()
    _granted(rig)
    rig.apply([Put(b"a", b"")])
    batch = rig.store.batch()
    batch.put(MACHINE, rows.attached_key(7, b"a"), b"")
    rig.store.write(batch)
    with pytest.raises(InvariantError, match="I43"):
        rig.apply([Revoke(7)])
    rig.close()


@pytest.mark.parametrize("keys", [0, 2])
def test_a_lease_that_does_not_know_its_number_of_keys_stops_the_member(keys: int) -> None:
    rig = memory_rig()
    _granted(rig)
    rig.apply([Put(b"a", b"", 7)])
    place = rows.lease_key(7)
    batch = rig.store.batch()
    batch.put(MACHINE, place, rows.with_keys(rig.rows()[place], keys - 1))
    rig.store.write(batch)
    with pytest.raises(InvariantError, match="I43"):
        rig.apply([Revoke(7)])
    rig.close()


def test_a_row_too_short_to_count_keys_in_is_damaged() -> None:
    with pytest.raises(StorageCorruptError, match="lease row"):
        rows.with_keys(b"short", 1)


def test_a_key_never_has_a_lease_that_there_is_not() -> None:
    rig = memory_rig()
    _granted(rig)
    rig.apply([Put(b"a", b"", 7)])
    batch = rig.store.batch()
    batch.delete(MACHINE, rows.lease_key(7))
    rig.store.write(batch)
    with pytest.raises(InvariantError, match="I43"):
        rig.apply([Put(b"a", b"")])
    rig.close()


def test_leases_are_read_in_parts() -> None:
    rig = memory_rig()
    for lease in (5, 1, TOP, 3):
        _granted(rig, lease)
    found: list[int] = []
    while part := read_leases(rig.store, found[-1] if found else 0, 3):
        found += [one.id for one in part]
    assert found == [1, 3, 5, TOP]
    rig.close()
