"""Commands as bytes: what was encoded comes back, and nothing else is taken for a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvalidArgumentError, StorageFormatError
from raftkv.kv.commands import decode, encode, encode_delete, encode_delete_span, encode_put
from raftkv.kv.model import EVERYTHING, Span
from raftkv.kv.requests import DeleteOne, DeleteSpan, KvCommand, Put
from tests.kv.oracle import commands


@given(commands)
def test_a_command_survives_its_bytes(command: KvCommand) -> None:
    assert decode(encode(command)) == command


@given(st.binary(max_size=64))
def test_any_bytes_are_a_command_or_a_typed_error(data: bytes) -> None:
    try:
        command = decode(data)
    except (InvalidArgumentError, StorageFormatError):
        return
    assert encode(command) == data


@given(commands, st.data())
def test_a_damaged_command_is_another_command_or_a_typed_error(
    command: KvCommand, data: st.DataObject
) -> None:
    good = bytearray(encode(command))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(good))
    except (InvalidArgumentError, StorageFormatError):
        return
    assert encode(found) == bytes(good)


@given(commands, st.data())
def test_a_command_cut_short_or_prolonged_is_refused(
    command: KvCommand, data: st.DataObject
) -> None:
    good = encode(command)
    cut = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(InvalidArgumentError):
        decode(good[:cut])
    with pytest.raises(InvalidArgumentError):
        decode(good + b"\0")


def test_a_length_of_gigabytes_is_refused_by_arithmetic() -> None:
    good = bytearray(encode_put(b"k", b"v"))
    good[3:7] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidArgumentError, match="lengths"):
        decode(bytes(good))


@pytest.mark.parametrize(("version", "kind"), [(2, 1), (1, 16), (1, 0), (0, 1), (255, 255)])
def test_a_command_of_a_newer_raftkv_is_not_skipped(version: int, kind: int) -> None:
    newer = bytes((version, kind)) + encode_put(b"k", b"v")[2:]
    with pytest.raises(StorageFormatError, match="upgrade this member"):
        decode(newer)


@pytest.mark.parametrize(
    ("place", "byte", "what"),
    [(2, 0x80, "unknown flags"), (3, 9, "unknown mode"), (3, 2, "takes no stop")],
)
def test_a_malformed_delete_says_what_is_wrong(place: int, byte: int, what: str) -> None:
    data = bytearray(encode_delete_span(Span(b"a", b"b")))
    data[place] = byte
    if what == "unknown mode":
        data = bytearray(encode_delete(b"a"))
        data[place] = byte
    with pytest.raises(InvalidArgumentError, match=what):
        decode(bytes(data))


def test_a_malformed_put_says_what_is_wrong() -> None:
    data = bytearray(encode_put(b"k", b"v"))
    data[2] = 2
    with pytest.raises(InvalidArgumentError, match="unknown flags"):
        decode(bytes(data))


def test_an_empty_key_is_refused_even_from_the_log() -> None:
    with pytest.raises(InvalidArgumentError, match="key is not provided"):
        decode(encode_put(b"", b"v"))
    with pytest.raises(InvalidArgumentError, match="key is not provided"):
        decode(encode_delete(b""))


def test_the_bytes_of_version_1_never_change() -> None:
    # Logs of every release are read by every later one.
    assert encode(Put(b"key", b"value", 5, True)).hex() == (
        "010101030000000500000005000000000000006b657976616c7565"
    )
    assert encode(DeleteOne(b"key")).hex() == "0102000003000000000000006b6579"
    assert encode(DeleteSpan(Span(b"a", b"b"), True)).hex() == "01020101010000000100000061" + "62"
    assert encode(DeleteSpan(EVERYTHING)).hex() == "010200020000000000000000"
