"""What commands mean: revisions as etcd counts them, refusals, slices that see themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvariantError, StorageCorruptError, StorageFormatError, UsageError
from raftkv.kv import machine, rows
from raftkv.kv.commands import encode
from raftkv.kv.engine import DELETE_RANGE_MIN, Slice
from raftkv.kv.leases import not_granted
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import (
    EVERYTHING,
    CompactResult,
    DeleteResult,
    KeyValue,
    KvResult,
    PutResult,
    Refused,
    Span,
    prefix_span,
    prefix_stop,
)
from raftkv.kv.reader import read_head, read_key
from raftkv.kv.requests import (
    Compact,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Revoke,
    Sweep,
    TakeOver,
)
from raftkv.machine import Command, DurableStateMachine
from raftkv.storage.batch import DELETE, DELETE_RANGE, ChangeList
from tests.kv.oracle import Oracle, apply_all, commands, edges, keys
from tests.kv.rig import MACHINE, memory_rig

ROOT = Path(__file__).parents[2]


def test_it_is_a_durable_machine() -> None:
    assert isinstance(KvMachine(), DurableStateMachine)


def test_a_fresh_store_is_at_revision_1_and_its_first_write_makes_2() -> None:
    rig = memory_rig()
    assert read_head(rig.store).revision == 1
    assert rig.apply([Put(b"k", b"v")]) == [PutResult(2)]
    assert read_head(rig.store).revision == 2


def test_a_store_of_the_first_format_is_measured_and_goes_on() -> None:
    old, new = memory_rig(), memory_rig()
    long = b"l" * 2000
    for rig in (old, new):
        rig.apply([Put(b"a", b"1"), Put(b"a", long), Put(b"a", b"2"), Put(b"b", long)])
    batch = old.store.batch()
    for row_key, row in old.rows().items():
        if row_key == rows.HEAD_KEY:
            batch.put(MACHINE, row_key, b"\x01" + row[1:17])
        elif row.endswith(b"\xd0\x07\0\0"):
            batch.put(MACHINE, row_key, row[:-4])  # long versions did not tell their length
    old.store.write(batch)
    assert (
        sum(one != other for one, other in zip(old.rows().items(), new.rows().items(), strict=True))
        == 3
    )
    old.restart()
    assert old.machine.head == new.machine.head
    more: list[KvCommand] = [DeleteOne(b"x"), Put(b"b", b"", previous=True), DeleteOne(b"a", True)]
    assert old.apply(more) == new.apply(more)
    assert read_head(old.store) == read_head(new.store)
    sweep: list[KvCommand] = [Compact(7), Sweep(100), Put(b"c", b"")]
    assert old.apply(sweep) == new.apply(sweep)
    assert old.rows() == new.rows()


def test_an_expiry_makes_a_revision_for_each_lease_also_in_a_session() -> None:
    rig = memory_rig()
    for session in (0, 6):
        rig.apply([*(Grant(lease, 60) for lease in (1, 2)), OpenSession(9, 60)])
        rig.apply([Put(b"a", b"", 1), Put(b"b", b"", 2), TakeOver(3)])
        before = read_head(rig.store).revision
        expire: KvCommand = Expire(3, (2, 1), 99)
        if session:
            expire = Once(session, 1, 0, encode(expire))
        assert rig.apply([expire, DeleteOne(b"x")])[1] == DeleteResult(before + 2, 0)
        rig.apply([Revoke(9)])


def test_the_results_of_one_entry_are_made_without_those_of_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, made = memory_rig(), list[int]()

    def make(revision: int) -> PutResult:
        made.append(revision)
        return PutResult(revision)

    monkeypatch.setattr(machine, "PutResult", make)
    puts = [Command(number, encode(Put(b"a", b""))) for number in range(1, 9)]
    results = rig.machine.apply_durable(puts, rig.store.batch())
    assert list(results[3:5]) == [PutResult(5), PutResult(6)]
    assert results[-1] == PutResult(9)
    assert made == [5, 6, 9]


@pytest.mark.parametrize("wrong", [0, 4])
def test_a_machine_whose_revisions_do_not_count_its_commands_stops(
    monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    rig = memory_rig()
    rig.apply([Put(b"k", b"1")])

    def apply_wrongly(writes: Slice, *_arguments: object) -> int:
        writes.revision = wrong
        return wrong

    monkeypatch.setattr("raftkv.kv.machine._put", apply_wrongly)
    with pytest.raises(InvariantError, match="I26: a Put led from revision 2 to "):
        rig.apply([Put(b"k", b"2")])
    assert read_head(rig.store).revision == 2


@pytest.mark.parametrize("wrong", [1, 4])
def test_a_machine_whose_floor_sinks_or_leaves_the_history_stops(
    monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    rig = memory_rig()
    rig.apply([Put(b"k", b"1"), Put(b"k", b"2"), Compact(2)])

    def compact_wrongly(writes: Slice, _command: Compact) -> KvResult:
        writes.floor = wrong
        return CompactResult(3, wrong)

    monkeypatch.setattr("raftkv.kv.compaction.compact", compact_wrongly)
    with pytest.raises(InvariantError, match=f"I30: the floor went from 2 to {wrong}"):
        rig.apply([Compact(3)])
    assert read_head(rig.store).floor == 2


def test_create_revision_mod_revision_and_version_count_one_life() -> None:
    rig = memory_rig()
    rig.apply([Put(b"x", b""), Put(b"k", b"1"), Put(b"k", b"2"), Put(b"k", b"3")])
    assert read_key(rig.store, b"k") == KeyValue(b"k", b"3", 3, 5, 3)
    rig.apply([DeleteOne(b"k"), Put(b"k", b"4")])
    assert read_key(rig.store, b"k") == KeyValue(b"k", b"4", 7, 7, 1)


def test_a_delete_that_matches_nothing_makes_no_revision_and_no_rows() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k", b"v")])
    before = rig.rows()
    results = rig.apply(
        [DeleteOne(b"x"), DeleteSpan(prefix_span(b"x")), DeleteSpan(Span(b"z", b"a"))]
    )
    assert results == [DeleteResult(2, 0)] * 3
    assert rig.rows() == before


def test_a_slice_of_reads_of_nothing_writes_nothing() -> None:
    rig = memory_rig()
    rig.apply([DeleteOne(b"x")])
    assert rig.rows() == {}
    assert rig.store.written == 0


def test_many_keys_deleted_at_once_make_one_revision_in_key_order() -> None:
    rig = memory_rig()
    rig.apply([Put(key, b"") for key in (b"b", b"a", b"c", b"d")])
    (result,) = rig.apply([DeleteSpan(Span(b"a", b"d"), previous=True)])
    assert isinstance(result, DeleteResult)
    assert (result.revision, result.deleted) == (6, 3)
    assert [item.key for item in result.previous] == [b"a", b"b", b"c"]
    events = rig.store.get(MACHINE, rows.events_key(6, 0))
    assert events is not None
    assert [event.key for event in rows.decode_events(events)] == [b"a", b"b", b"c"]


def test_previous_is_given_when_asked_for_only() -> None:
    rig = memory_rig()
    results = rig.apply(
        [
            Put(b"k", b"1", previous=True),
            Put(b"k", b"2", previous=True),
            Put(b"k", b"3"),
            DeleteOne(b"k", previous=True),
            Put(b"k", b"4"),
            DeleteOne(b"k"),
        ]
    )
    assert results == [
        PutResult(2, None),
        PutResult(3, KeyValue(b"k", b"1", 2, 2, 1)),
        PutResult(4, None),
        DeleteResult(5, 1, (KeyValue(b"k", b"3", 2, 4, 3),)),
        PutResult(6, None),
        DeleteResult(7, 1, ()),
    ]


@pytest.mark.parametrize("size", [0, rows.INLINE_BYTES_MAX, rows.INLINE_BYTES_MAX + 1, 1_500_000])
def test_values_of_any_size_come_back_now_and_from_the_past(size: int) -> None:
    rig = memory_rig()
    value = b"v" * size
    (made, replaced) = rig.apply([Put(b"k", value), Put(b"k", b"", previous=True)])
    wanted = KeyValue(b"k", value, 2, 2, 1)
    assert (made, replaced) == (PutResult(2), PutResult(3, wanted))
    assert read_key(rig.store, b"k", 2) == wanted
    assert rig.range(EVERYTHING, revision=2).items == (wanted,)


def test_a_long_value_is_stored_once_however_often_its_key_changes_hands() -> None:
    rig = memory_rig()
    value = b"v" * 100_000
    rig.apply([Put(b"k", value), Put(b"k", b"short"), DeleteOne(b"k")])
    assert sum(row.count(b"v" * 1000) for row in rig.rows().values()) == 100


@pytest.mark.parametrize("count", [1, DELETE_RANGE_MIN - 1, DELETE_RANGE_MIN, 3 * DELETE_RANGE_MIN])
def test_a_delete_spares_what_the_same_slice_puts_after_it(count: int) -> None:
    rig = memory_rig()
    names = [b"p%04d" % number for number in range(count)]
    rig.apply([Put(key, b"old") for key in names])
    results = rig.apply(
        [
            Put(b"p", b"first"),
            DeleteSpan(prefix_span(b"p")),
            Put(names[0], b"new"),
            Put(b"q", b"other"),
        ]
    )
    assert results[1] == DeleteResult(count + 3, count + 1)
    found = rig.range(EVERYTHING).items
    assert [(item.key, item.value, item.version) for item in found] == [
        (names[0], b"new", 1),
        (b"q", b"other", 1),
    ]
    assert rig.range(EVERYTHING, revision=count + 2).count == count + 1


@pytest.mark.parametrize(
    ("count", "singly"), [(DELETE_RANGE_MIN - 1, DELETE_RANGE_MIN - 1), (DELETE_RANGE_MIN, 0)]
)
def test_many_keys_leave_the_present_by_one_range_deletion(count: int, singly: int) -> None:
    rig = memory_rig()
    rig.apply([Put(b"p%04d" % number, b"") for number in range(count)])
    batch = ChangeList()
    rig.machine.apply_durable([Command(0, encode(DeleteSpan(prefix_span(b"p"))))], batch)
    kinds = [change[0] for change in batch.changes]
    assert (kinds.count(DELETE), kinds.count(DELETE_RANGE)) == (singly, singly == 0)


def test_a_key_born_and_gone_within_a_slice_is_not_deleted_again() -> None:
    rig = memory_rig()
    rig.apply([Put(b"p5", b"old"), Put(b"p7", b"old")])
    results = rig.apply(
        [Put(b"p1", b""), Put(b"p6", b""), Put(b"p9", b"")]
        + [DeleteOne(key) for key in (b"p1", b"p6", b"p9", b"p5")]
        + [DeleteSpan(prefix_span(b"p"), previous=True)]
    )
    assert results[-1] == DeleteResult(11, 1, (KeyValue(b"p7", b"old", 3, 3, 1),))


def test_a_lease_that_nobody_granted_is_refused_without_effect() -> None:
    rig = memory_rig()
    results = rig.apply([Put(b"k", b"v", lease=10), Put(b"k", b"v")])
    assert results == [not_granted(10), PutResult(2)]


def test_a_malformed_command_is_refused_and_its_neighbours_are_not() -> None:
    rig = memory_rig()
    good = encode(Put(b"k", b"v"))
    results = rig.apply_bytes([good, b"", good[:-1], good])
    assert results[0] == PutResult(2)
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], Refused)
    assert results[3] == PutResult(3)


def test_a_command_of_a_newer_version_stops_the_machine() -> None:
    rig = memory_rig()
    with pytest.raises(StorageFormatError, match="upgrade"):
        rig.apply_bytes([b"\x02" + encode(Put(b"k", b"v"))[1:]])
    assert rig.rows() == {}


def test_a_machine_without_a_store_says_so() -> None:
    with pytest.raises(UsageError, match="open the node"):
        _ = KvMachine().store


def test_rows_of_another_format_are_refused_on_open() -> None:
    rig = memory_rig()
    batch = rig.store.batch()
    batch.put(MACHINE, rows.HEAD_KEY, b"\x63")
    rig.store.write(batch)
    with pytest.raises(StorageFormatError, match="format 99"):
        KvMachine().open(rig.store)


def test_a_long_value_that_is_gone_is_corruption_and_not_an_empty_answer() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k", b"v" * 5000)])
    batch = rig.store.batch()
    batch.delete(MACHINE, rows.value_key(2, 0))
    rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match=r"revision 2\.0 is missing"):
        read_key(rig.store, b"k")


@given(st.lists(commands, max_size=30), st.lists(st.integers(1, 30), max_size=10))
def test_slices_of_any_size_give_the_same_results_and_rows(
    given_commands: list[KvCommand], sizes: list[int]
) -> None:
    whole, parts = memory_rig(), memory_rig()
    wanted = apply_all(Oracle(), given_commands)
    assert whole.apply(given_commands) == wanted
    assert parts.apply_slices(given_commands, sizes) == wanted
    assert whole.rows() == parts.rows()
    assert whole.machine.state_hash() == parts.machine.state_hash()


@given(st.lists(commands, min_size=1, max_size=20), st.lists(commands, max_size=20))
def test_commands_whose_batch_was_lost_are_applied_again_as_if_never_before(
    first: list[KvCommand], second: list[KvCommand]
) -> None:
    steady, crashed = memory_rig(), memory_rig()
    steady.apply(first)
    crashed.apply(first)
    lost = [Command(0, encode(command)) for command in second]
    crashed.machine.apply_durable(lost, crashed.store.batch())
    crashed.restart()
    assert crashed.apply(second) == steady.apply(second)
    assert crashed.rows() == steady.rows()


@given(st.lists(commands, max_size=20), st.lists(commands, max_size=20))
def test_different_states_have_different_hashes(
    first: list[KvCommand], second: list[KvCommand]
) -> None:
    one, other = memory_rig(), memory_rig()
    one.apply(first)
    other.apply(second)
    same = one.rows() == other.rows()
    assert (one.machine.state_hash() == other.machine.state_hash()) == same


def test_the_hash_tells_keys_from_rows_and_one_row_from_two() -> None:
    said: set[str] = set()
    for rows_written in (
        {b"ab": b"c"},
        {b"a": b"bc"},
        {b"ad": b"c"},
        {b"a": b"b", b"c": b""},
        {},
    ):
        rig = memory_rig()
        batch = rig.store.batch()
        for key, row in rows_written.items():
            batch.put(MACHINE, key, row)
        rig.store.write(batch)
        said.add(rig.machine.state_hash())
    assert len(said) == 5


@given(edges, keys)
def test_a_prefix_span_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    span = prefix_span(prefix)
    inside = key >= span.start and (span.stop is None or key < span.stop)
    assert inside == key.startswith(prefix)


@pytest.mark.parametrize(
    ("prefix", "stop"),
    [
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\xff", None),
        (b"", None),
        (b"a\0", b"a\1"),
    ],
)
def test_a_prefix_ends_where_etcd_ends_it(prefix: bytes, stop: bytes | None) -> None:
    assert prefix_stop(prefix) == stop


_PROGRAM = """
from random import Random
from raftkv.kv.requests import DeleteOne, DeleteSpan, Put
from raftkv.kv.model import prefix_span
from tests.kv.rig import memory_rig
chance, rig = Random(7), memory_rig()
def command():
    key = bytes(chance.choices(b"abc\\0", k=chance.randint(1, 4)))
    kind = chance.randrange(8)
    if kind == 0: return DeleteSpan(prefix_span(key[:2]), True)
    if kind == 1: return DeleteOne(key, True)
    return Put(key, key * chance.choice([1, 300]), previous=True)
results = rig.apply_slices([command() for _ in range(2000)], [1, 7, 100])
print(rig.machine.state_hash(), sum(map(len, rig.image())), results[-3:])
"""


def test_processes_with_other_hash_seeds_reach_the_same_state() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(said) == 1
    assert len(said.pop()) > 40
