"""The stable storage of the trace harness keeps what a disk would, and refuses what it must."""

from __future__ import annotations

import pytest

from raftkv.core import Entry, EntryKind, HardState, Snapshot
from tests.core.trace_file import CommandError
from tests.core.trace_storage import StableStorage


def _entries(*places: tuple[int, int]) -> tuple[Entry, ...]:
    return tuple(Entry(term, index, EntryKind.NORMAL, b"", 0) for term, index in places)


def _filled() -> StableStorage:
    storage = StableStorage()
    storage.append(_entries((1, 1), (1, 2), (2, 3), (2, 4)))
    return storage


def _places(storage: StableStorage) -> list[tuple[int, int]]:
    return [(entry.term, entry.index) for entry in storage.entries]


def test_a_new_storage_starts_at_index_1() -> None:
    storage = StableStorage()
    assert (storage.first_index, storage.last_index, storage.term_at(0)) == (1, 0, 0)


def test_appending_replaces_everything_from_the_first_new_entry_on() -> None:
    storage = _filled()
    storage.append(_entries((3, 2)))
    assert _places(storage) == [(1, 1), (3, 2)]


def test_entries_at_or_below_the_anchor_are_skipped() -> None:
    storage = StableStorage()
    storage.install(Snapshot(5, 2))
    storage.append(_entries((1, 4), (2, 5), (2, 6)))
    assert _places(storage) == [(2, 6)]
    storage.append(_entries((1, 3), (1, 4)))
    assert _places(storage) == [(2, 6)]


def test_a_gap_is_fatal() -> None:
    with pytest.raises(AssertionError, match="a gap before entry 6"):
        _filled().append(_entries((2, 6)))


def test_compacting_moves_the_anchor_and_leaves_the_snapshot() -> None:
    storage = _filled()
    storage.compact(3)
    assert (storage.anchor, _places(storage), storage.snapshot.index) == ((3, 2), [(2, 4)], 0)
    storage.compact(4)
    assert (storage.first_index, storage.last_index, storage.entries) == (5, 4, [])


def test_compacting_at_or_below_the_anchor_is_refused() -> None:
    storage = _filled()
    storage.compact(2)
    for index in (0, 1, 2):
        with pytest.raises(
            CommandError, match=r"^requested index is unavailable due to compaction"
        ):
            storage.compact(index)


def test_compacting_beyond_the_end_is_fatal() -> None:
    with pytest.raises(AssertionError, match="lies beyond 4"):
        _filled().compact(5)


def test_terms_are_known_from_the_anchor_to_the_end() -> None:
    storage = _filled()
    storage.compact(2)
    assert [storage.term_at(index) for index in (2, 3, 4)] == [1, 2, 2]
    with pytest.raises(CommandError, match="compaction"):
        storage.term_at(1)
    with pytest.raises(CommandError, match="unavailable"):
        storage.term_at(5)


def test_a_snapshot_replaces_the_log_and_leaves_the_hard_state() -> None:
    storage = _filled()
    storage.store(HardState(2, 1, 4), (), None)
    storage.store(None, (), Snapshot(9, 3))
    assert (storage.anchor, storage.entries, storage.hard_state) == ((9, 3), [], HardState(2, 1, 4))


def test_an_older_snapshot_is_refused() -> None:
    storage = StableStorage()
    storage.install(Snapshot(5, 2))
    for index in (4, 5):
        with pytest.raises(
            CommandError, match=r"^requested index is older than the existing snapshot$"
        ):
            storage.install(Snapshot(index, 3))


def test_snapshot_and_entries_at_once_are_refused_after_the_hard_state() -> None:
    storage = _filled()
    with pytest.raises(CommandError, match=r"^can't apply snapshot and entries at the same time$"):
        storage.store(HardState(3, 0, 4), _entries((3, 10)), Snapshot(9, 3))
    assert storage.hard_state == HardState(3, 0, 4)
    assert storage.last_index == 4


def test_an_empty_hard_state_or_snapshot_changes_nothing() -> None:
    storage = _filled()
    storage.store(HardState(2, 1, 4), (), None)
    storage.store(HardState(), _entries((2, 5)), Snapshot(0, 0))
    assert (storage.hard_state, storage.last_index) == (HardState(2, 1, 4), 5)
