"""Reading: bounds, limits and counts, the past, long histories without reading all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import rows
from raftkv.kv.model import EVERYTHING, Span, prefix_span
from raftkv.kv.reader import SEEK_AFTER, RangeRead, read_key, read_range
from raftkv.kv.requests import DeleteOne, DeleteSpan, KvCommand, Put, Range
from raftkv.storage.base import Reader, Space
from tests.kv.oracle import Oracle, apply_all, commands, spans
from tests.kv.rig import Rig, memory_rig


class Counting:
    """A reader that counts the rows it gave."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.rows = 0

    def get(self, space: Space, key: bytes) -> bytes | None:
        self.rows += 1
        return self._reader.get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for pair in self._reader.scan(space, start, stop, reverse=reverse):
            self.rows += 1
            yield pair


def filled(count: int) -> Rig:
    rig = memory_rig()
    rig.apply([Put(b"k%03d" % number, b"v") for number in range(count)])
    return rig


def test_a_read_now_is_one_get() -> None:
    reader = Counting(filled(3).store)
    assert read_key(reader, b"k001") is not None
    assert reader.rows == 1


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 11])
def test_more_says_whether_the_limit_cut_and_count_ignores_it(limit: int) -> None:
    found = filled(10).range(EVERYTHING, limit=limit)
    assert len(found.items) == min(limit or 10, 10)
    assert found.more == (0 < limit < 10)
    assert found.count == 10


def test_not_counting_looks_at_no_more_than_one_row_behind_the_limit() -> None:
    reader = Counting(filled(100).store)
    found = read_range(reader, Range(EVERYTHING, limit=5), counted=False)
    assert (len(found.items), found.more, found.count) == (5, True, 5)
    assert reader.rows == 1 + 5 + 1


def test_count_only_ignores_the_limit_and_gives_no_items() -> None:
    found = filled(10).range(EVERYTHING, limit=3, count_only=True)
    assert (found.items, found.count, found.more) == ((), 10, False)


def test_keys_only_fetches_no_long_values() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k%d" % number, b"v" * 2000) for number in range(5)])
    reader = Counting(rig.store)
    found = read_range(reader, Range(EVERYTHING, keys_only=True))
    assert [item.value for item in found.items] == [b""] * 5
    assert found.items[0].mod_revision == 2
    assert reader.rows == 1 + 5


def test_start_behind_stop_is_empty_and_no_error() -> None:
    rig = filled(3)
    assert rig.range(Span(b"z", b"a")).count == 0
    assert rig.range(Span(b"z", b"a"), revision=2).count == 0
    assert rig.range(Span(b"k", b"k")).count == 0


def test_the_result_tells_the_current_revision_and_not_the_one_read() -> None:
    assert filled(3).range(EVERYTHING, revision=2).revision == 4


def test_a_revision_not_reached_is_a_typed_error_that_tells_the_current_one() -> None:
    rig = filled(3)
    with pytest.raises(
        FutureRevisionError, match="required revision is a future revision"
    ) as caught:
        rig.range(EVERYTHING, revision=5)
    assert caught.value.revision == 4
    with pytest.raises(FutureRevisionError):
        read_key(rig.store, b"k000", 5)
    assert read_key(rig.store, b"k000", 4) is not None


def test_a_revision_below_the_floor_is_compacted_and_the_floor_is_readable() -> None:
    rig = filled(3)
    batch = rig.store.batch()
    batch.put(Space.MACHINE, rows.HEAD_KEY, rows.encode_head(rows.Head(4, 3)))
    rig.store.write(batch)
    with pytest.raises(CompactedError, match="required revision has been compacted") as caught:
        rig.range(EVERYTHING, revision=2)
    assert caught.value.revision == 3
    assert rig.range(EVERYTHING, revision=3).count == 2


def test_a_long_history_is_jumped_over_in_both_directions() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"%d" % number) for number in range(1000)])
    rig.apply([Put(b"b", b"")])
    for revision, value in ((2, b"0"), (500, b"498"), (1001, b"999")):
        reader = Counting(rig.store)
        found = read_range(reader, Range(EVERYTHING, revision=revision))
        assert [item.value for item in found.items] == [value]
        assert reader.rows < 4 * SEEK_AFTER
        reader = Counting(rig.store)
        assert read_key(reader, b"a", revision) == found.items[0]
        assert reader.rows <= 3


def test_a_deleted_keys_past_is_readable_and_its_gap_is_a_gap() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k", b"1"), DeleteOne(b"k"), Put(b"x", b""), Put(b"k", b"2"), DeleteOne(b"k")])
    seen = {revision: read_key(rig.store, b"k", revision) for revision in range(1, 7)}
    assert {revision: item.value for revision, item in seen.items() if item} == {2: b"1", 5: b"2"}


def test_a_large_read_is_done_in_steps_and_gives_the_same() -> None:
    rig = filled(100)
    rig.apply([DeleteSpan(prefix_span(b"k01")), *(Put(b"k%03d" % n, b"w") for n in range(50))])
    for revision in (0, 50, 101):
        wanted = rig.range(EVERYTHING, revision=revision)
        read = RangeRead(Range(EVERYTHING, revision=revision))
        steps = 1
        while not read.advance(rig.store, 7):
            steps += 1
        assert read.result == wanted
        assert steps >= wanted.count // 7


def test_a_step_is_cut_short_by_large_values() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k%d" % number, b"v" * 100_000) for number in range(9)])
    read = RangeRead(Range(EVERYTHING))
    steps = 1
    while not read.advance(rig.store, 1000):
        steps += 1
    assert steps >= 3
    assert read.result.count == 9


def test_a_step_over_unwanted_rows_comes_to_an_end_too() -> None:
    rig = filled(100)
    rig.apply([DeleteSpan(prefix_span(b"k00")), *(Put(b"k00%d" % n, b"new") for n in range(5))])
    read = RangeRead(Range(EVERYTHING, revision=2))
    steps = 1
    while not read.advance(rig.store, 10):
        steps += 1
    assert read.result.count == 1
    assert steps == 11


@given(
    st.lists(commands, min_size=1, max_size=25),
    st.lists(commands, max_size=40),
    spans,
    st.integers(1, 5),
    st.floats(0, 1),
)
def test_writes_between_its_steps_do_not_change_a_read(
    before: list[KvCommand], between: list[KvCommand], span: Span, step: int, at: float
) -> None:
    rig, oracle = memory_rig(), Oracle()
    rig.apply(before)
    apply_all(oracle, before)
    revision = round(at * oracle.revision)
    wanted = oracle.range(span, revision=revision)
    read = RangeRead(Range(span, revision=revision))
    writes = iter(between)
    while not read.advance(rig.store, step):
        rig.apply([command for _, command in zip(range(3), writes, strict=False)])
    assert read.result == wanted


def test_a_read_that_compaction_overtakes_says_so() -> None:
    rig = filled(10)
    read = RangeRead(Range(EVERYTHING))
    assert not read.advance(rig.store, 5)
    batch = rig.store.batch()
    batch.put(Space.MACHINE, rows.HEAD_KEY, rows.encode_head(rows.Head(20, 15)))
    rig.store.write(batch)
    with pytest.raises(CompactedError):
        read.advance(rig.store, 5)
