"""The bytes that disk and wire share: what is refused, and that what is written is read back."""

from __future__ import annotations

import tracemalloc

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core.types import Entry, EntryKind
from raftkv.encoding import (
    CBOR_BYTES_MAX,
    CBOR_DEPTH_MAX,
    Plain,
    PlainInput,
    decode_entry,
    dumps,
    encode_entry,
    loads,
)
from raftkv.errors import InvalidArgumentError, WireError

plain: st.SearchStrategy[Plain] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
u64 = st.integers(0, 2**64 - 1)
entries = st.builds(Entry, u64, u64, st.sampled_from(EntryKind), st.binary(max_size=200), u64)


@given(plain)
def test_a_plain_value_is_read_back_as_it_was_written(value: Plain) -> None:
    again = loads(dumps(value))
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, dict | list)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), min_size=2, max_size=6))
def test_equal_maps_have_equal_bytes(value: dict[str, int]) -> None:
    assert dumps(dict(reversed(value.items()))) == dumps(value)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x01\x01", id="trailing bytes"),
        pytest.param(b"\xc1\x01", id="date"),
        pytest.param(b"\xc2\x41\x01", id="big number"),
        pytest.param(b"\xd8\x1c\x80", id="shared reference"),
        pytest.param(b"\xd8\x23\x61a", id="regular expression"),
        pytest.param(b"\xd9\x01\x02\x80", id="set"),
        pytest.param(b"\xd9\xd9\xf7\x01", id="self-described"),
        pytest.param(b"\xda\x00\x01\x86\xa0\x01", id="unknown tag"),
        pytest.param(b"\xf7", id="undefined"),
        pytest.param(b"\xe0", id="simple value"),
        pytest.param(b"\xf9\x3c\x00", id="float"),
        pytest.param(b"\x9f\x01\xff", id="indefinite list"),
        pytest.param(b"\x5f\x41a\xff", id="indefinite bytes"),
        pytest.param(b"\xa2\x61a\x01\x61a\x02", id="repeated key"),
        pytest.param(b"\xa1\x01\x02", id="integer key"),
        pytest.param(b"\xa1\x41a\x02", id="bytes key"),
        pytest.param(b"\x3b" + b"\xff" * 8, id="integer below 64 bits"),
        pytest.param(b"\x81" * (CBOR_DEPTH_MAX + 1) + b"\x01", id="too deep"),
        pytest.param(b"\x61\xff", id="not UTF-8"),
        pytest.param(b"\x9b" + b"\x3f" * 8, id="length bomb"),
        pytest.param(b"\x5b" + b"\x3f" * 8, id="bytes bomb"),
        pytest.param(b"\x80" * (CBOR_BYTES_MAX + 1), id="too long"),
    ],
)
def test_what_is_outside_the_profile_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        loads(data)


def test_every_tag_is_refused() -> None:
    for tag in (*range(300), 1004, 43000, 55799, 2**32):
        with pytest.raises(WireError):
            loads(cbor2.dumps(cbor2.CBORTag(tag, [1, 2])))


def test_a_length_bomb_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        for bomb in (b"\x9b\x00\x00\x00\xff" + b"\xff" * 4, b"\x5b\x00\x00\x00\xff" + b"\xff" * 4):
            with pytest.raises(WireError):
                loads(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_a_wire_error(data: bytes) -> None:
    try:
        value = loads(data)
    except WireError:
        return
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 1.5, {1: 2}, {1, 2}, b"x" * CBOR_BYTES_MAX])
def test_what_does_not_fit_is_not_written(value: PlainInput) -> None:
    with pytest.raises(InvalidArgumentError):
        dumps(value)


def test_the_deepest_nesting_is_written_and_read_back() -> None:
    value: Plain = 1
    for _ in range(CBOR_DEPTH_MAX):
        value = [value]
    assert loads(dumps(value)) == value
    with pytest.raises(InvalidArgumentError):
        dumps([value])


@given(st.lists(entries, max_size=5))
def test_entry_records_are_read_back_one_after_another(written: list[Entry]) -> None:
    buffer = b"".join(encode_entry(entry) for entry in written)
    assert len(buffer) == sum(entry.size_bytes for entry in written)
    offset, seen = 0, list[Entry]()
    while offset < len(buffer):
        entry, offset = decode_entry(buffer, offset)
        seen.append(entry)
    assert seen == written


@given(entries, st.data())
def test_a_flipped_bit_or_a_cut_in_a_record_is_refused(entry: Entry, data: st.DataObject) -> None:
    record = encode_entry(entry)
    at = data.draw(st.integers(0, len(record) * 8 - 1))
    flipped = bytearray(record)
    flipped[at // 8] ^= 1 << at % 8
    with pytest.raises(WireError):
        decode_entry(bytes(flipped))
    with pytest.raises(WireError):
        decode_entry(record[: at // 8])
