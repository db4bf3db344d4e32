"""Compaction: what is forgotten, what stays, and that nobody can see how far the sweep has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import CompactedError, InvariantError, StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.compaction import unswept
from raftkv.kv.hashing import read_hash
from raftkv.kv.history import Wanted, changes_between
from raftkv.kv.model import (
    EVERYTHING,
    CompactResult,
    Done,
    KeyValue,
    Refusal,
    Refused,
    prefix_span,
)
from raftkv.kv.reader import read_head, read_key, read_range
from raftkv.kv.requests import (
    Compact,
    DeleteOne,
    DeleteSpan,
    KvCommand,
    Put,
    Range,
    Sweep,
    Txn,
)
from raftkv.kv.sizes import EVENT_BYTES, VERSION_BYTES, measure
from raftkv.storage.base import Space
from raftkv.storage.memory import MemoryDisk, MemoryStore
from tests.kv.oracle import Oracle, commands
from tests.kv.rig import Rig, memory_rig

LONG = b"v" * (rows.INLINE_BYTES_MAX + 1)


# --- what must be there, from the history alone ---------------------------------------------------


def versions(oracle: Oracle) -> Iterator[tuple[bytes, KeyValue, int | None]]:
    """Every version there ever was, with the revision that ended it."""
    begun: dict[bytes, KeyValue] = {}
    for revision in sorted(oracle.states):
        state = oracle.states[revision]
        for key in sorted({*begun, *state}):
            old, new = begun.get(key), state.get(key)
            if old != new:
                if old is not None:
                    yield key, old, revision
                    del begun[key]
                if new is not None:
                    begun[key] = new
    for key, item in sorted(begun.items()):
        yield key, item, None


def check_reads(rig: Rig, oracle: Oracle, floor: int) -> None:
    """Every revision that can be read gives what it was; every other is refused."""
    head = read_head(rig.store)
    assert (head.revision, head.floor) == (oracle.revision, floor)
    for revision in range(1, oracle.revision + 1):
        if revision < floor:
            with pytest.raises(CompactedError):
                read_key(rig.store, b"a", revision)
            continue
        state = oracle.states[revision]
        found = read_range(rig.store, Range(EVERYTHING, revision=revision))
        assert found.items == tuple(state[key] for key in sorted(state))
        for key in (b"a", b"b"):
            assert read_key(rig.store, key, revision) == state.get(key)
    assert head.size == measure(rig.store)


def check_swept(rig: Rig, oracle: Oracle, floor: int) -> None:
    """What is there is exactly what a revision that can be read, or a watch, needs."""
    stored = rig.rows()
    kept = [one for one in versions(oracle) if one[2] is None or one[2] > floor]
    assert sum(key[:1] == rows.CURRENT for key in stored) == len(oracle.now())
    assert sum(key[:1] == rows.HISTORY for key in stored) == len(kept) - len(oracle.now())
    longs = [item for _, item, _ in kept if rows.is_long(item.value)]
    assert sum(key[:1] == rows.VALUES for key in stored) == len(longs)
    events = [(revision, key) for revision, key, _ in oracle.events if revision >= floor]
    assert events_of(rig) == events
    size = sum(VERSION_BYTES + len(key) + len(item.value) for key, item, _ in kept)
    assert read_head(rig.store).size == size + sum(EVENT_BYTES + len(key) for _, key in events)


def events_of(rig: Rig) -> list[tuple[int, bytes]]:
    return [
        (rows.split_events_key(row_key)[0], event.key)
        for row_key, row in rig.store.scan(Space.MACHINE, rows.EVENTS, rows.EVENTS_STOP)
        for event in rows.decode_events(row)
    ]


def sweep_all(rig: Rig, events: int = 1_000) -> int:
    """Sweep until nothing is left; return how many commands that took."""
    steps = 0
    while unswept(rig.store):
        (result,) = rig.apply([Sweep(events)])
        assert isinstance(result, Done)
        assert result == Done(read_head(rig.store).revision, unswept(rig.store))
        steps += 1
    return steps


# --- the floor ------------------------------------------------------------------------------------


def test_only_a_revision_above_the_floor_and_not_above_the_current_one_is_compacted() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"%d" % number) for number in range(4)])
    for revision, wanted in (
        (0, CompactResult(5, 0)),  # as etcd 3.4 answers while nothing was compacted
        (6, Refusal.FUTURE_REVISION),
        (3, CompactResult(5, 3)),
        (3, Refusal.COMPACTED),
        (2, Refusal.COMPACTED),
        (0, Refusal.COMPACTED),
        (6, Refusal.FUTURE_REVISION),
        (5, CompactResult(5, 5)),
        (5, Refusal.COMPACTED),
    ):
        (result,) = rig.apply([Compact(revision)])
        if isinstance(wanted, CompactResult):
            assert result == wanted
        else:
            assert isinstance(result, Refused)
            assert result.why is wanted
            head = read_head(rig.store)
            is_future = wanted is Refusal.FUTURE_REVISION
            assert result.revision == (head.revision if is_future else head.floor)
            assert result.message.startswith("required revision ")
    assert read_head(rig.store).floor == 5


def test_the_floor_outlives_a_restart() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"1"), Put(b"a", b"2"), Compact(3)])
    rig.restart()
    (result,) = rig.apply([Compact(3)])
    assert isinstance(result, Refused)
    with pytest.raises(CompactedError):
        read_key(rig.store, b"a", 2)


# --- the sweep, in words --------------------------------------------------------------------------


def test_of_each_key_the_newest_version_at_the_floor_stays() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"3"), Put(b"a", b"4"), Compact(4)])
    sweep_all(rig)
    assert read_key(rig.store, b"a", 4) == KeyValue(b"a", b"2", 2, 3, 2)
    assert sum(key[:1] == rows.HISTORY for key in rig.rows()) == 1


def test_of_a_key_deleted_by_the_floor_nothing_stays_but_the_event_of_the_floor() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", LONG), DeleteOne(b"a"), Compact(3)])
    sweep_all(rig)
    assert {key[:1] for key in rig.rows()} == {rows.EVENTS, rows.SWEEP_KEY, rows.HEAD_KEY}
    assert events_of(rig) == [(3, b"a")]
    rig.apply([Put(b"b", b""), Compact(4)])
    sweep_all(rig)
    assert events_of(rig) == [(4, b"b")]


@pytest.mark.parametrize("value", [b"short", LONG])
def test_what_the_revision_of_the_floor_put_and_deleted_can_be_watched_from_there(
    value: bytes,
) -> None:
    rig = memory_rig()
    both = Txn(then=(Txn(then=(Put(b"a", value),)), Txn(then=(DeleteOne(b"a"),))))
    rig.apply([Put(b"a", b"old"), both, Compact(3)])
    sweep_all(rig)
    changes = changes_between(rig.store, Wanted(EVERYTHING), 3, 4, floor=3)
    assert [event.kv for change in changes for event in change.events] == [
        KeyValue(b"a", value, 2, 3, 2),
        KeyValue(b"a", b"", 0, 3, 0),
    ]
    assert read_head(rig.store).size == measure(rig.store)
    rig.apply([Put(b"b", b""), Compact(4)])
    sweep_all(rig)
    assert {key[:1] for key in rig.rows()} == {b"C", b"K", b"M", b"R"}
    assert read_head(rig.store).size == measure(rig.store)


def test_a_key_deleted_above_the_floor_is_still_there_at_the_floor() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"1"), Put(b"b", b""), DeleteOne(b"a"), Compact(3)])
    sweep_all(rig)
    assert read_key(rig.store, b"a", 3) == KeyValue(b"a", b"1", 2, 2, 1)
    assert read_key(rig.store, b"a", 4) is None


@pytest.mark.parametrize("row_bytes", [40, rows.EVENTS_BYTES_MAX])
def test_a_floor_that_rises_in_the_midst_of_its_own_revision_leaves_no_event_behind(
    monkeypatch: pytest.MonkeyPatch, row_bytes: int
) -> None:
    monkeypatch.setattr(rows, "EVENTS_BYTES_MAX", row_bytes)
    rig = memory_rig()
    names = [b"k%d" % number for number in range(9)]
    rig.apply([*(Put(key, b"") for key in names), DeleteSpan(prefix_span(b"k")), Compact(11)])
    rig.apply([Sweep(14)])  # five of the nine events of the floor itself
    assert unswept(rig.store) == 1
    rig.apply([Put(b"x", b""), Compact(12)])
    assert sweep_all(rig, 2) > 1
    assert {key[:1] for key in rig.rows()} == {b"C", b"K", b"M", b"R"}
    assert events_of(rig) == [(12, b"x")]


def test_a_floor_that_rises_during_a_sweep_is_swept_to_without_beginning_anew() -> None:
    rig = memory_rig()
    rig.apply([*(Put(b"a", b"%d" % number) for number in range(9)), Compact(8), Sweep(3)])
    assert unswept(rig.store) == 4
    rig.apply([Compact(10)])
    assert unswept(rig.store) == 6
    assert sweep_all(rig, 2) == 3
    assert events_of(rig) == [(10, b"a")]
    assert sum(key[:1] == rows.HISTORY for key in rig.rows()) == 0


def test_an_event_that_points_to_a_version_in_force_at_the_floor_stops_the_member() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"1"), Put(b"b", b""), Put(b"a", b"2")])
    batch = rig.store.batch()
    row = rig.rows()[rows.history_key(b"a", 2, 0)][8:]
    batch.put(Space.MACHINE, rows.events_key(3, 0), rows.encode_event(0, row, b"a"))
    rig.store.write(batch)
    rig.apply([Compact(3)])
    with pytest.raises(InvariantError, match=r"I30: the sweep for revision 3 met .* revision 4"):
        rig.apply([Sweep(9)])


def test_a_sweep_looks_at_so_many_events_and_goes_on_inside_a_row() -> None:
    rig = memory_rig()
    count = 3_000  # more than one row of events
    rig.apply([Put(b"k%05d" % number, b"") for number in range(count)])
    rig.apply([DeleteSpan(EVERYTHING), Compact(count + 2)])
    assert sum(key[:1] == rows.EVENTS for key in rig.rows()) > count + 1
    rig.apply([Sweep(count)])  # the puts, which replaced nothing
    for done in range(0, count, 700):
        assert sum(key[:1] == rows.HISTORY for key in rig.rows()) == count - done
        rig.apply([Sweep(700)])
    assert unswept(rig.store) == 0
    assert measure(rig.store) == read_head(rig.store).size == count * (EVENT_BYTES + 6)


def test_a_sweep_without_anything_to_do_writes_nothing() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b""), Put(b"a", b"")])
    written = rig.store.written
    assert rig.apply([Sweep(5)]) == [Done(3)]
    rig.apply([Compact(3)])
    sweep_all(rig)
    before = rig.rows()
    assert rig.apply([Sweep(5)]) == [Done(3)]
    assert rig.rows() == before
    assert written == 1


def test_what_was_freed_is_what_was_there() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", LONG), Put(b"a", b"x" * 7), DeleteOne(b"a"), Put(b"b", LONG)])
    assert read_head(rig.store).size == sum(
        (3 * (VERSION_BYTES + 1), 4 * (EVENT_BYTES + 1), 2 * len(LONG), 7)
    )
    rig.apply([Compact(5)])
    sweep_all(rig)
    assert read_head(rig.store).size == VERSION_BYTES + 1 + len(LONG) + EVENT_BYTES + 1


def test_a_long_version_of_the_first_format_is_measured_by_its_value() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", LONG), Put(b"a", b"")])
    size = read_head(rig.store).size
    batch = rig.store.batch()
    for key, row in rig.rows().items():
        if key[:1] == rows.HISTORY:
            batch.put(Space.MACHINE, key, row[:-4])
        elif key == rows.HEAD_KEY:
            batch.put(Space.MACHINE, key, b"\x01" + row[1:17])
    rig.store.write(batch)
    rig.restart()
    rig.apply([Compact(3)])
    assert read_head(rig.store).size == measure(rig.store) == size
    sweep_all(rig)
    assert read_head(rig.store).size == VERSION_BYTES + 1 + EVENT_BYTES + 1


def test_a_long_version_of_the_first_format_without_its_value_is_named() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", LONG)])
    batch = rig.store.batch()
    for key, row in rig.rows().items():
        if key[:1] == rows.CURRENT:
            batch.put(Space.MACHINE, key, row[:-4])
        elif key[:1] == rows.VALUES:
            batch.delete(Space.MACHINE, key)
    rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match=r"revision 2\.0 is missing"):
        measure(rig.store)


def test_a_damaged_cursor_is_named() -> None:
    rig = memory_rig()
    batch = rig.store.batch()
    batch.put(Space.MACHINE, rows.SWEEP_KEY, b"\0")
    rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match="sweep has 1 bytes"):
        unswept(rig.store)


# --- all there is to do at small scope ------------------------------------------------------------

OPERATIONS = ("put-a", "put-b", "delete", "compact", "compact-before", "sweep")


@frozen
class World:
    """A store's rows and the history that led to them."""

    rows: frozenset[tuple[bytes, bytes]]
    oracle: tuple[KvCommand, ...]
    floor: int


def test_no_interleaving_of_writes_compactions_and_sweeps_is_seen_by_reads() -> None:
    assert explore(depth=6) == 2_019


def explore(depth: int) -> int:
    """All sequences of so many operations; return how many different worlds they led to."""
    worlds = [World(frozenset(), (), 0)]
    seen = 1
    for _ in range(depth):
        reached = {step(world, name) for world in worlds for name in OPERATIONS} - {*worlds}
        worlds = list(reached)
        seen += len(worlds)
    return seen


def step(world: World, name: str) -> World:
    rig, oracle = rig_with(world.rows), Oracle()
    for command in world.oracle:
        oracle.apply(command)
    command = operation(name, oracle)
    (result,) = rig.apply([command])
    floor, history = world.floor, world.oracle
    if isinstance(command, Compact):
        if floor < command.revision:
            floor = command.revision
            assert result == CompactResult(oracle.revision, floor)
        else:
            assert isinstance(result, Refused) or command.revision == 0
    elif not isinstance(command, Sweep):
        revision = oracle.revision
        assert result == oracle.apply(command)
        if oracle.revision > revision:
            history = (*history, command)
    check_reads(rig, oracle, floor)
    if not unswept(rig.store):
        check_swept(rig, oracle, floor)
    return World(frozenset(rig.rows().items()), history, floor)


def operation(name: str, oracle: Oracle) -> KvCommand:
    match name:
        case "put-a":
            return Put(b"a", LONG)
        case "put-b":
            return Put(b"b", b"short")
        case "delete":
            return DeleteSpan(EVERYTHING)
        case "compact":
            return Compact(oracle.revision)
        case "compact-before":
            return Compact(oracle.revision - 1)
        case _:
            return Sweep(1)


def rig_with(given_rows: frozenset[tuple[bytes, bytes]]) -> Rig:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    batch = store.batch()
    batch.put_rows(Space.MACHINE, given_rows)
    store.write(batch)
    store.close()
    return Rig(lambda: MemoryStore(disk))


# --- anything at larger scope ---------------------------------------------------------------------

compactions = st.floats(0, 1).map(lambda at: ("compact", at))
sweeps = st.integers(1, 5).map(lambda events: ("sweep", events))
histories = st.lists(
    st.one_of(commands, commands, commands, compactions, sweeps), min_size=1, max_size=40
)


Step = KvCommand | tuple[str, float]


def as_commands(history: Sequence[Step], oracle: Oracle) -> tuple[list[KvCommand], int]:
    """Commands as they are applied, compactions at a share of the revision then; and the floor."""
    given_commands: list[KvCommand] = []
    floor = 0
    for one in history:
        if not isinstance(one, tuple):
            oracle.apply(one)
            given_commands.append(one)
        elif one[0] == "compact":
            revision = round(one[1] * oracle.revision)
            floor = max(floor, revision)
            given_commands.append(Compact(revision))
        else:
            given_commands.append(Sweep(int(one[1])))
    return given_commands, floor


@given(histories, st.lists(st.integers(1, 20), max_size=6), st.integers(1, 9))
def test_a_sweep_is_seen_by_nobody_and_leaves_what_the_history_asks_for(
    history: list[Step], sizes: list[int], events: int
) -> None:
    oracle = Oracle()
    given_commands, floor = as_commands(history, oracle)
    swept, sliced, unswept_rig = memory_rig(), memory_rig(), memory_rig()
    swept.apply(given_commands)
    sliced.apply_slices(given_commands, sizes)
    unswept_rig.apply([one for one in given_commands if not isinstance(one, Sweep)])
    assert swept.rows() == sliced.rows()
    hashes = [
        [read_hash(rig.store, revision) for revision in range(floor, oracle.revision + 1)]
        for rig in (swept, unswept_rig)
    ]
    assert hashes[0] == hashes[1]
    check_reads(swept, oracle, floor)
    check_reads(unswept_rig, oracle, floor)
    sweep_all(swept, events)
    sweep_all(unswept_rig)
    check_reads(swept, oracle, floor)
    for rig in (swept, unswept_rig):
        check_swept(rig, oracle, floor)
    assert swept.rows() == unswept_rig.rows()
    swept.restart()
    assert not unswept(swept.store)
