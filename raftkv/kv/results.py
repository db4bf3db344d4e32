"""The bytes of results, for those that are kept until their asker has surely heard them.

A result is a kind and what it holds; numbers are 64 bits, bytes have their length before them. A
row of another format is damage: the store's format grows with the head's (:mod:`raftkv.kv.rows`).
"""

from __future__ import annotations

import struct
from typing import Final, assert_never

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.kv.model import (
    CompactResult,
    DeleteResult,
    Done,
    KeyValue,
    KvResult,
    LeaseResult,
    OperationResult,
    PutResult,
    RangeResult,
    Refusal,
    Refused,
    SessionResult,
    TxnResult,
)
from raftkv.kv.requests import TXN_DEPTH_MAX

_PUT: Final = 1
_DELETE: Final = 2
_RANGE: Final = 3
_TXN: Final = 4
_COMPACT: Final = 5
_LEASE: Final = 6
_DONE: Final = 7
_REFUSED: Final = 8
_SESSION: Final = 9

_HEAD: Final = struct.Struct("<BQ")  # kind, revision
_COUNT: Final = struct.Struct("<I")
_NUMBER: Final = struct.Struct("<Q")
_TOLD: Final = struct.Struct("<?I")  # of a range: whether there is more; of a txn: which branch
_KEY_VALUE: Final = struct.Struct("<QQQqII")  # create, mod, version, lease, key and value length
_GRANTED: Final = struct.Struct("<qq")
_OPENED: Final = struct.Struct("<Qq")
_WHY: Final = struct.Struct("<BI")


def encode_result(result: KvResult | RangeResult) -> bytes:
    """The bytes of a result."""
    match result:
        case PutResult(revision, previous):
            return _HEAD.pack(_PUT, revision) + _items(() if previous is None else (previous,))
        case DeleteResult(revision, deleted, previous):
            return _HEAD.pack(_DELETE, revision) + _NUMBER.pack(deleted) + _items(previous)
        case RangeResult(items, count, more, revision):
            told = _NUMBER.pack(count) + _TOLD.pack(more, 0)
            return _HEAD.pack(_RANGE, revision) + told + _items(items)
        case TxnResult(revision, succeeded, results):
            inner = b"".join(map(_encode_inner, results))
            return _HEAD.pack(_TXN, revision) + _TOLD.pack(succeeded, len(results)) + inner
        case CompactResult(revision, floor):
            return _HEAD.pack(_COMPACT, revision) + _NUMBER.pack(floor)
        case LeaseResult(lease, ttl, revision):
            return _HEAD.pack(_LEASE, revision) + _GRANTED.pack(lease, ttl)
        case SessionResult(session, lease, revision):
            return _HEAD.pack(_SESSION, revision) + _OPENED.pack(session, lease)
        case Done(revision, left):
            return _HEAD.pack(_DONE, revision) + _NUMBER.pack(left)
        case Refused(message, why, revision):
            text = message.encode()
            return _HEAD.pack(_REFUSED, revision) + _WHY.pack(why, len(text)) + text
        case _:
            assert_never(result)


def decode_result(data: bytes) -> KvResult:
    """The result in ``data``. Raises StorageCorruptError."""
    try:
        result, stop = _decode(data, 0, TXN_DEPTH_MAX)
        if stop != len(data) or isinstance(result, RangeResult):
            raise ValueError(f"{len(data) - stop} bytes too many")
    except (struct.error, ValueError) as error:
        raise StorageCorruptError(
            f"a result that the KV kept is not what raftkv wrote ({len(data)} bytes, {error}); "
            "remove this member's data directory and let it join again, or restore a backup"
        ) from error
    return result


def _encode_inner(result: OperationResult) -> bytes:
    if result is None or isinstance(result, KeyValue):
        raise InvariantError("in the log, the result of a get is that of a range")
    return encode_result(result)


def _items(items: tuple[KeyValue, ...]) -> bytes:
    parts = [_COUNT.pack(len(items))]
    for one in items:
        numbers = one.create_revision, one.mod_revision, one.version, one.lease
        parts.append(_KEY_VALUE.pack(*numbers, len(one.key), len(one.value)))
        parts += (one.key, one.value)
    return b"".join(parts)


def _decode(data: bytes, at: int, levels: int) -> tuple[KvResult | RangeResult, int]:
    kind, revision = _HEAD.unpack_from(data, at)
    at += _HEAD.size
    if kind == _PUT:
        items, at = _decode_items(data, at)
        return PutResult(revision, items[0] if items else None), at
    if kind == _DELETE:
        (deleted,) = _NUMBER.unpack_from(data, at)
        items, at = _decode_items(data, at + _NUMBER.size)
        return DeleteResult(revision, deleted, items), at
    if kind == _RANGE:
        (count,) = _NUMBER.unpack_from(data, at)
        more, _ = _TOLD.unpack_from(data, at + _NUMBER.size)
        items, at = _decode_items(data, at + _NUMBER.size + _TOLD.size)
        return RangeResult(items, count, more, revision), at
    if kind == _TXN:
        if not levels:
            raise ValueError(f"transactions stand in it deeper than {TXN_DEPTH_MAX}")
        return _decode_txn(data, at, revision, levels - 1)
    if kind == _COMPACT:
        return CompactResult(revision, *_NUMBER.unpack_from(data, at)), at + _NUMBER.size
    if kind == _LEASE:
        lease, ttl = _GRANTED.unpack_from(data, at)
        return LeaseResult(lease, ttl, revision), at + _GRANTED.size
    if kind == _SESSION:
        session, lease = _OPENED.unpack_from(data, at)
        return SessionResult(session, lease, revision), at + _OPENED.size
    if kind == _DONE:
        return Done(revision, *_NUMBER.unpack_from(data, at)), at + _NUMBER.size
    if kind == _REFUSED:
        why, length = _WHY.unpack_from(data, at)
        text, at = _bytes(data, at + _WHY.size, length)
        return Refused(text.decode(), Refusal(why), revision), at
    raise ValueError(f"its kind is {kind}")


def _decode_txn(data: bytes, at: int, revision: int, levels: int) -> tuple[TxnResult, int]:
    succeeded, count = _TOLD.unpack_from(data, at)
    at += _TOLD.size
    results: list[OperationResult] = []
    for _ in range(count):
        result, at = _decode(data, at, levels)
        if not isinstance(result, PutResult | DeleteResult | RangeResult | TxnResult):
            raise ValueError(f"a transaction holds a {type(result).__name__}")
        results.append(result)
    return TxnResult(revision, succeeded, tuple(results)), at


def _decode_items(data: bytes, at: int) -> tuple[tuple[KeyValue, ...], int]:
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    items: list[KeyValue] = []
    for _ in range(count):
        create, mod, version, lease, key_length, value_length = _KEY_VALUE.unpack_from(data, at)
        key, at = _bytes(data, at + _KEY_VALUE.size, key_length)
        value, at = _bytes(data, at, value_length)
        items.append(KeyValue(key, value, create, mod, version, lease))
    return tuple(items), at


def _bytes(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(data):
        raise ValueError("it is cut short")
    return data[at : at + length], at + length
