"""Rows on disk: their order is the order of keys and of time, and damage is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvariantError, StorageCorruptError, StorageFormatError
from raftkv.kv import rows
from raftkv.kv.model import Span
from tests.kv.oracle import edges, keys, lies_in, spans

revisions = st.integers(1, 2**63 - 1)
subs = st.integers(0, 2**32 - 1)


@given(keys, revisions, subs, keys, revisions, subs)
def test_history_sorts_by_key_and_then_the_newest_first(
    key: bytes, revision: int, sub: int, other_key: bytes, other_revision: int, other_sub: int
) -> None:
    wanted = (key, -revision, -sub) < (other_key, -other_revision, -other_sub)
    here = rows.history_key(key, revision, sub)
    there = rows.history_key(other_key, other_revision, other_sub)
    assert (here < there) == wanted


@given(keys, revisions, subs)
def test_a_history_key_names_its_key_and_revision(key: bytes, revision: int, sub: int) -> None:
    prefix, found = rows.split_history_key(rows.history_key(key, revision, sub))
    assert found == revision
    assert prefix == rows.history_prefix(key)
    assert rows.key_of_history_prefix(prefix) == key


@given(spans, keys, revisions, subs)
def test_bounds_hold_the_rows_of_the_span_and_no_others(
    span: Span, key: bytes, revision: int, sub: int
) -> None:
    low, high = rows.history_bounds(span)
    assert (low <= rows.history_key(key, revision, sub) < high) == lies_in(key, span)
    low, high = rows.current_bounds(span)
    assert (low <= rows.current_key(key) < high) == lies_in(key, span)


@given(keys, keys, revisions, subs)
def test_behind_a_keys_history_lies_the_next_key(
    key: bytes, other: bytes, revision: int, sub: int
) -> None:
    behind = rows.behind_history(rows.history_prefix(key))
    assert (rows.history_key(other, revision, sub) >= behind) == (other > key)


@given(keys, revisions, subs, revisions)
def test_newest_at_leaves_out_exactly_the_later_versions(
    key: bytes, revision: int, sub: int, asked: int
) -> None:
    start = rows.history_prefix(key) + rows.newest_at(asked)
    assert (rows.history_key(key, revision, sub) >= start) == (revision <= asked)


@given(revisions, subs, revisions, subs)
def test_events_sort_by_time(revision: int, sub: int, other: int, other_sub: int) -> None:
    wanted = (revision, sub) < (other, other_sub)
    assert (rows.events_key(revision, sub) < rows.events_key(other, other_sub)) == wanted
    assert rows.split_events_key(rows.events_key(revision, sub)) == (revision, sub)


@given(st.lists(st.tuples(st.sampled_from([rows.PUT_EVENT, rows.DELETE_EVENT]), edges)))
def test_events_come_back_in_order(given_events: list[tuple[int, bytes]]) -> None:
    old = rows.next_version(None, b"", 5, 3, 0)
    encoded = [rows.encode_event(kind, old, key) for kind, key in given_events]
    found = [
        (event.kind, event.key, event.previous_revision, event.previous_sub)
        for _, row in rows.pack_events(encoded, 9)
        for event in rows.decode_events(row)
    ]
    assert found == [(kind, key, 5, 3) for kind, key in given_events]


def test_many_events_of_one_revision_fill_several_rows_with_their_sub_revisions() -> None:
    encoded = [rows.encode_event(rows.DELETE_EVENT, None, b"%06d" % n) for n in range(5_000)]
    packed = list(rows.pack_events(encoded, 7))
    assert len(packed) > 2
    sub = 0
    for row_key, row in packed:
        assert rows.split_events_key(row_key) == (7, sub)
        assert len(row) <= rows.EVENTS_BYTES_MAX + 64
        for event in rows.decode_events(row):
            assert event.key == b"%06d" % sub
            assert (event.previous_revision, event.previous_sub) == (0, 0)
            sub += 1
    assert sub == 5_000


def test_the_rows_never_change() -> None:
    # Data directories of every release are read by every later one.
    first = rows.next_version(None, b"v", 2, 0, 0)
    second = rows.next_version(first, b"w" * 1025, 3, 1, 9)
    assert first.hex() == (
        "00" "0200000000000000" "00000000"
        "0200000000000000" "0100000000000000" "0000000000000000" "76"
    )  # fmt: skip
    assert second.hex() == (
        "01" "0300000000000000" "01000000"
        "0200000000000000" "0200000000000000" "0900000000000000" "01040000"
    )  # fmt: skip
    assert rows.ended_key(b"a\0b", second).hex() == (
        "48" "6100ff62" "0000" "fffffffffffffffc" "fffffffe"
    )  # fmt: skip
    assert rows.encode_ended(4, b"row").hex() == "0400000000000000" + b"row".hex()
    assert rows.encode_event(rows.DELETE_EVENT, second, b"k").hex() == (
        "01" "0300000000000000" "01000000" "01000000" "6b"
    )  # fmt: skip
    assert rows.encode_head(rows.Head(5, 2, 258, 6)).hex() == (
        "02" "0500000000000000" "0200000000000000" "0201000000000000" "06"
    )  # fmt: skip
    assert rows.value_key(1, 2).hex() == "56000000000000000100000002"
    assert rows.events_key(1, 2).hex() == "52000000000000000100000002"


def test_a_store_without_a_head_is_fresh() -> None:
    assert rows.decode_head(None) == rows.Head(1, 0, 0, 0)


def test_a_head_of_the_first_format_has_no_size_yet() -> None:
    row = bytes.fromhex("0105000000000000000200000000000000")
    assert rows.decode_head(row) == rows.Head(5, 2, rows.UNMEASURED, 0)


@pytest.mark.parametrize("row", [b"", b"\x03" + bytes(25), b"\x00"])
def test_another_format_is_refused_with_what_to_do(row: bytes) -> None:
    with pytest.raises(StorageFormatError, match="version that wrote it"):
        rows.decode_head(row)


def test_damaged_rows_are_named_and_never_read() -> None:
    good = rows.next_version(None, b"", 2, 0, 0)
    event = rows.encode_event(rows.PUT_EVENT, None, b"key")
    for read in (
        lambda: rows.decode_head(rows.encode_head(rows.Head()) + b"\0"),
        lambda: rows.decode_head(b"\x01" + bytes(15)),
        lambda: rows.value_bytes(good[:-1]),
        lambda: rows.value_bytes(b"\x01" + good[1:] + b"\0"),
        lambda: rows.decode_version(good[:-1]),
        lambda: rows.decode_version(b"\x02" + good[1:]),
        lambda: rows.key_value(b"k", good[:-1]),
        lambda: rows.next_version(good[:-1], b"", 3, 0, 0),
        lambda: rows.ended_key(b"k", good[:-1]),
        lambda: rows.decode_ended(b"\0" * 7),
        lambda: rows.split_history_key(b"H\0\0" + bytes(11)),
        lambda: rows.key_of_history_prefix(b"Ha\0b\0\0"),
        lambda: rows.split_events_key(b"R" + bytes(11)),
        lambda: list(rows.decode_events(event[:-1])),
        lambda: list(rows.decode_events(event[:5])),
        lambda: list(rows.decode_events(b"\x07" + event[1:])),
    ):
        with pytest.raises(StorageCorruptError, match="let it join again"):
            read()


@pytest.mark.parametrize("size", [0, 1, rows.INLINE_BYTES_MAX, rows.INLINE_BYTES_MAX + 1, 70_000])
def test_a_version_tells_how_long_its_value_is(size: int) -> None:
    row = rows.next_version(None, bytes(size), 2, 0, 0)
    assert rows.value_bytes(row) == size
    if size > rows.INLINE_BYTES_MAX:
        assert rows.value_bytes(row[:-4]) is None


@pytest.mark.parametrize("revision", [1, 4, 5])
def test_no_version_follows_one_of_its_own_revision_or_a_later_one(revision: int) -> None:
    first = rows.next_version(None, b"1", 5, 0, 0)
    with pytest.raises(InvariantError, match="I28: "):
        rows.next_version(first, b"2", revision, 1, 0)
    assert rows.next_version(first, b"2", 6, 0, 0)
