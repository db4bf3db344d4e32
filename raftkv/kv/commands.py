"""The replicated commands and their bytes.

A command is a ``struct`` header and its raw bytes: version, kind, flags, lengths, then key and
value. What is written here is replayed by every later version of raftkv, so the formats only ever
grow: a new kind or a new version byte, never another meaning for an old one.

Two ways to be unreadable, and they differ. A version or kind that is not known was written by a
newer raftkv: skipping it would let this member's state part from the others', so :func:`decode`
raises StorageFormatError and the node stops. A known kind whose contents are malformed is malformed
for every member alike: InvalidArgumentError, and the machine refuses the command without effect.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, assert_never

from raftkv.errors import InvalidArgumentError, StorageFormatError
from raftkv.kv.model import Span
from raftkv.kv.requests import DeleteOne, DeleteSpan, Put

COMMAND_VERSION: Final = 1


class CommandKind(IntEnum):
    """What a command does. The numbers are in every log: they never change."""

    PUT = 1
    DELETE = 2


class _Mode(IntEnum):
    """Which keys a delete means. On disk, as above."""

    ONE = 0
    RANGE = 1
    FROM = 2


_PREVIOUS: Final = 1  # flag: the result shall hold what was there before
_PUT: Final = struct.Struct("<BBBIIq")  # version, kind, flags, key and value length, lease
_DELETE: Final = struct.Struct("<BBBBII")  # version, kind, flags, mode, start and stop length
_VERSION: Final = COMMAND_VERSION
_KIND_PUT: Final = int(CommandKind.PUT)
_PUT_HEAD: Final = bytes((_VERSION, _KIND_PUT))
_KIND_DELETE: Final = int(CommandKind.DELETE)


def encode_put(key: bytes, value: bytes, lease: int = 0, previous: bool = False) -> bytes:
    """The bytes of a :class:`Put`."""
    flags = _PREVIOUS if previous else 0
    return _PUT.pack(_VERSION, _KIND_PUT, flags, len(key), len(value), lease) + key + value


def encode_delete(key: bytes, previous: bool = False) -> bytes:
    """The bytes of a :class:`DeleteOne`."""
    flags = _PREVIOUS if previous else 0
    return _DELETE.pack(_VERSION, _KIND_DELETE, flags, _Mode.ONE, len(key), 0) + key


def encode_delete_span(span: Span, previous: bool = False) -> bytes:
    """The bytes of a :class:`DeleteSpan`."""
    flags = _PREVIOUS if previous else 0
    start, stop = span.start, span.stop
    mode = _Mode.FROM if stop is None else _Mode.RANGE
    stop = stop or b""
    return _DELETE.pack(_VERSION, _KIND_DELETE, flags, mode, len(start), len(stop)) + start + stop


def encode(command: Put | DeleteOne | DeleteSpan) -> bytes:
    """The bytes of any command."""
    match command:
        case Put(key, value, lease, previous, _, _):
            return encode_put(key, value, lease, previous)
        case DeleteOne(key, previous):
            return encode_delete(key, previous)
        case DeleteSpan(span, previous):
            return encode_delete_span(span, previous)
        case _:
            assert_never(command)


def decode(data: bytes) -> Put | DeleteOne | DeleteSpan:
    """The command in ``data``.

    Raises StorageFormatError for a version or kind of a newer raftkv, InvalidArgumentError for
    contents that no version ever wrote.
    """
    if len(data) < 2:
        raise InvalidArgumentError(f"not a KV command: {len(data)} bytes")
    version, kind = data[0], data[1]
    if version == _VERSION:
        if kind == _KIND_PUT:
            return Put(*parse_put(data))
        if kind == _KIND_DELETE:
            return _decode_delete(data)
    raise StorageFormatError(
        f"a KV command of version {version}, kind {kind} is not known to this version of raftkv, "
        f"which reads version {_VERSION}; upgrade this member"
    )


def is_put(data: bytes) -> bool:
    """Whether :func:`parse_put` is for these bytes."""
    return data[:2] == _PUT_HEAD


def parse_put(data: bytes) -> tuple[bytes, bytes, int, bool]:
    """Key, value, lease and whether the previous version is wanted, of a put command.

    Raises InvalidArgumentError for contents that no version ever wrote.
    """
    if len(data) < _PUT.size:
        raise InvalidArgumentError(f"put command cut short: {len(data)} bytes")
    _, _, flags, key_length, value_length, lease = _PUT.unpack_from(data)
    middle = _PUT.size + key_length
    if middle + value_length != len(data):
        raise InvalidArgumentError("put command: its lengths do not add up")
    if flags & ~_PREVIOUS:
        raise InvalidArgumentError(f"put command: unknown flags {flags:#x}")
    if not key_length:
        raise InvalidArgumentError("key is not provided: put command with an empty key")
    return data[_PUT.size : middle], data[middle:], lease, flags == _PREVIOUS


def _decode_delete(data: bytes) -> DeleteOne | DeleteSpan:
    if len(data) < _DELETE.size:
        raise InvalidArgumentError(f"delete command cut short: {len(data)} bytes")
    _, _, flags, mode, start_length, stop_length = _DELETE.unpack_from(data)
    middle = _DELETE.size + start_length
    if middle + stop_length != len(data):
        raise InvalidArgumentError("delete command: its lengths do not add up")
    if flags & ~_PREVIOUS:
        raise InvalidArgumentError(f"delete command: unknown flags {flags:#x}")
    start, stop = data[_DELETE.size : middle], data[middle:]
    previous = flags == _PREVIOUS
    if mode == _Mode.RANGE:
        return DeleteSpan(Span(start, stop), previous)
    if stop_length:
        raise InvalidArgumentError(f"delete command: mode {mode} takes no stop")
    if mode == _Mode.FROM:
        return DeleteSpan(Span(start, None), previous)
    if mode != _Mode.ONE:
        raise InvalidArgumentError(f"delete command: unknown mode {mode}")
    if not start_length:
        raise InvalidArgumentError("key is not provided: delete command with an empty key")
    return DeleteOne(start, previous)
