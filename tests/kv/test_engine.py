"""A slice: what it wrote is read as if the store had it, and the store has it in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.kv import rows
from raftkv.kv.commands import encode
from raftkv.kv.engine import DELETE_RANGE_MIN, Revision, Slice
from raftkv.kv.model import EVERYTHING, Span
from raftkv.kv.requests import AlarmKind, KvCommand, Once, OpenSession, Revoke, SetAlarm
from raftkv.kv.sizes import measure
from raftkv.storage.base import Space, Store
from raftkv.storage.batch import DELETE, DELETE_RANGE, ChangeList
from raftkv.storage.memory import MemoryDisk, MemoryStore
from tests.kv.rig import MACHINE, memory_rig

Change: TypeAlias = tuple[bytes, bytes | None]

names = st.sampled_from([b"A", b"AA", b"B", b"C", b"D\0", b"D\xff", b"E"])
changes = st.lists(st.tuples(names, st.none() | st.binary(max_size=2)), max_size=12)
edges = st.sampled_from([b"", b"A", b"AB", b"C", b"D\xff", b"F"])


def store_of(given_rows: dict[bytes, bytes]) -> Store:
    store = MemoryStore(MemoryDisk())
    batch = store.batch()
    batch.put_rows(MACHINE, given_rows.items())
    store.write(batch)
    return store


def write(writes: Slice, given_changes: list[Change], wanted: dict[bytes, bytes]) -> None:
    for key, row in given_changes:
        if row is None:
            writes.delete_row(key)
            wanted.pop(key, None)
        else:
            writes.put_row(key, row)
            wanted[key] = row


@given(st.dictionaries(names, st.binary(max_size=2)), changes, changes, edges, st.none() | edges)
@example(
    {}, [(b"%03d" % n, b"") for n in range(40)], [(b"%03d" % n, None) for n in range(40)], b"", None
)
def test_a_slice_is_read_like_a_store_that_has_its_rows(
    stored: dict[bytes, bytes],
    first: list[Change],
    then: list[Change],
    start: bytes,
    stop: bytes | None,
) -> None:
    store, wanted = store_of(stored), dict(stored)
    writes = Slice(store, rows.Head())
    for part in (first, then):
        write(writes, part, wanted)
        for reverse in (False, True):
            found = list(writes.scan(MACHINE, start, stop, reverse=reverse))
            assert found == sorted(
                ((key, row) for key, row in wanted.items() if in_bounds(key, start, stop)),
                reverse=reverse,
            )
        for key in {*stored, *(key for key, _ in (*first, *then))}:
            assert writes.get(MACHINE, key) == wanted.get(key)
    batch = store.batch()
    writes.flush(batch)
    store.write(batch)
    assert dict(store.scan(MACHINE)) == wanted


def in_bounds(key: bytes, start: bytes, stop: bytes | None) -> bool:
    return start <= key and (stop is None or key < stop)


def test_other_spaces_are_the_stores() -> None:
    store = MemoryStore(MemoryDisk())
    batch = store.batch()
    batch.put(Space.META, b"k", b"meta")
    store.write(batch)
    writes = Slice(store, rows.Head())
    writes.put_row(b"k", b"machine")
    assert writes.get(Space.META, b"k") == b"meta"
    assert list(writes.scan(Space.META)) == [(b"k", b"meta")]


def test_rows_that_a_scan_has_passed_may_change_while_it_goes_on() -> None:
    store = store_of({b"A": b"", b"B": b"", b"C": b""})
    writes = Slice(store, rows.Head())
    writes.put_row(b"AA", b"")
    seen: list[bytes] = []
    for key, _ in writes.scan(MACHINE):
        seen.append(key)
        writes.delete_row(key)
        writes.put_row(b"0" + key, b"")
    assert seen == [b"A", b"AA", b"B", b"C"]


def test_the_head_is_that_of_the_moment_and_written_once_it_differs() -> None:
    store = store_of({})
    writes = Slice(store, rows.Head(5, 2, 100, 4))
    assert writes.get(MACHINE, rows.HEAD_KEY) == rows.encode_head(rows.Head(5, 2, 100, 4))
    batch = ChangeList()
    assert writes.flush(batch) == rows.Head(5, 2, 100, 4)
    assert batch.changes == []
    changing: list[Callable[[Slice], None]] = [
        lambda writes: setattr(writes, "revision", 6),
        lambda writes: setattr(writes, "floor", 3),
        lambda writes: setattr(writes, "size", 99),
        lambda writes: setattr(writes, "alarms", 0),
    ]
    for change in changing:
        writes, batch = Slice(store, rows.Head(5, 2, 100, 4)), ChangeList()
        change(writes)
        head = writes.flush(batch)
        assert head != rows.Head(5, 2, 100, 4)
        assert [(one[2], one[3]) for one in batch.changes] == [
            (rows.HEAD_KEY, rows.encode_head(head))
        ]


@pytest.mark.parametrize("count", [DELETE_RANGE_MIN - 1, DELETE_RANGE_MIN])
def test_many_keys_of_a_span_are_deleted_by_one_range_and_few_one_by_one(count: int) -> None:
    store = MemoryStore(MemoryDisk())
    writes = Slice(store, rows.Head())
    for number in range(count):
        writes.put(b"k%03d" % number, b"", 0, number + 2, 0)
    batch = store.batch()
    store.write(flushed(writes, batch))
    writes = Slice(store, rows.Head(count + 1))
    revision = Revision(writes)
    assert len(revision.delete_span(EVERYTHING)) == count
    revision.close()
    kinds = [one[0] for one in flushed(writes, ChangeList()).changes]
    assert kinds.count(DELETE_RANGE) == (count >= DELETE_RANGE_MIN)
    assert kinds.count(DELETE) == (0 if count >= DELETE_RANGE_MIN else count)


def flushed(writes: Slice, batch: object) -> ChangeList:
    assert isinstance(batch, ChangeList)
    writes.flush(batch)
    return batch


def test_the_size_counted_is_that_of_the_rows() -> None:
    store = MemoryStore(MemoryDisk())
    head = rows.Head()
    for number in range(3):
        writes = Slice(store, head)
        for step in range(4):
            revision = Revision(writes)
            revision.put(b"a", b"v" * 400 * step, 0)
            revision.put(b"%d" % step, b"", 0)
            revision.delete_span(Span(b"%d" % number, b"%d" % (number + 2)))
            revision.close()
        batch = store.batch()
        head = writes.flush(batch)
        store.write(batch)
        assert head.size == measure(store)


def test_a_revision_without_a_change_is_none() -> None:
    writes = Slice(MemoryStore(MemoryDisk()), rows.Head(7))
    revision = Revision(writes)
    assert revision.delete_span(EVERYTHING) == []
    assert revision.close() == 7
    batch = ChangeList()
    writes.flush(batch)
    assert batch.changes == []


@pytest.mark.parametrize(
    "commands",
    [
        [SetAlarm(1, AlarmKind.NO_SPACE, True), SetAlarm(1, AlarmKind.NO_SPACE, False)],
        # What a session keeps of a refusal counts in the size, until the session ends.
        [OpenSession(7, 60), Once(1, 0, 0, encode(Revoke(99))), Revoke(7)],
    ],
    ids=["alarm", "session"],
)
def test_a_store_that_is_as_at_first_again_has_the_same_rows_however_it_came_there(
    commands: list[KvCommand],
) -> None:
    together, apart = memory_rig(), memory_rig()
    together.apply(commands)
    for command in commands:
        apart.apply([command])
    assert together.rows() == apart.rows()
