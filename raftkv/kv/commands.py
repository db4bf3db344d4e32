"""The replicated commands and their bytes.

A command is a ``struct`` header and its raw bytes: version, kind, flags, lengths, then key and
value. What is written here is replayed by every later version of raftkv, so the formats only ever
grow: a new kind or a new version byte, never another meaning for an old one. That is why puts that
keep what a key has are a kind of their own, and not a flag that older versions would refuse.

Two ways to be unreadable, and they differ. A version or kind that is not known was written by a
newer raftkv: skipping it would let this member's state part from the others', so :func:`decode`
raises StorageFormatError and the node stops. A known kind whose contents are malformed is malformed
for every member alike: InvalidArgumentError, and the machine refuses the command without effect.

Bytes are bounded before they are believed: every length is checked against what is there, the
operations of a transaction are counted, each level and all of them, and its nesting ends at
``TXN_DEPTH_MAX``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, assert_never

from raftkv.errors import InvalidArgumentError, StorageFormatError
from raftkv.kv.model import Span
from raftkv.kv.requests import (
    KEPT_LEASES_MAX,
    TXN_DEPTH_MAX,
    TXN_OPERATIONS_MAX,
    TXN_PARTS_MAX,
    AlarmKind,
    Checkpoint,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Operation,
    Put,
    Range,
    Revoke,
    SetAlarm,
    SortOrder,
    SortTarget,
    Sweep,
    TakeOver,
    Txn,
)

COMMAND_VERSION: Final = 1


class CommandKind(IntEnum):
    """What a command does. The numbers are in every log: they never change."""

    PUT = 1
    DELETE = 2
    KEEP = 3  # a put that keeps the value or the lease that the key has
    RANGE = 4  # in a transaction alone
    TXN = 5
    COMPACT = 6
    SWEEP = 7
    GRANT = 8
    REVOKE = 9
    TAKE_OVER = 10
    EXPIRE = 11
    CHECKPOINT = 12
    SET_ALARM = 13
    OPEN_SESSION = 14
    ONCE = 15


class _Mode(IntEnum):
    """Which keys are meant. On disk, as above."""

    ONE = 0
    RANGE = 1
    FROM = 2


_PREVIOUS: Final = 1  # flags of puts and deletes
_IGNORE_VALUE: Final = 2
_IGNORE_LEASE: Final = 4
_KEYS_ONLY: Final = 1  # flags of ranges
_COUNT_ONLY: Final = 2

_PUT: Final = struct.Struct("<BBBIIq")  # version, kind, flags, key and value length, lease
_DELETE: Final = struct.Struct("<BBBBII")  # version, kind, flags, mode, start and stop length
_RANGE: Final = struct.Struct(
    "<BBBBBBIIQQQQQQ"
)  # version, kind, flags, mode, order, target, lengths, limit, revision, bounds
_TXN: Final = struct.Struct("<BBBBB")  # version, kind, how many compares and operations
_COMPARE: Final = struct.Struct("<BBBIII")  # mode, target, result, lengths of key, stop and given
_LENGTH: Final = struct.Struct("<I")  # before each operation of a transaction
_GIVEN: Final = struct.Struct("<q")
_ONE: Final = struct.Struct("<BBQ")  # version, kind, a number
_LEASE: Final = struct.Struct("<BBq")  # version, kind, lease
_GRANT: Final = struct.Struct("<BBqq")  # version, kind, lease, seconds
_MANY: Final = struct.Struct("<BBQQI")  # version, kind, keeper, since, how many
_ID: Final = struct.Struct("<q")
_REMAINS: Final = struct.Struct("<qq")  # lease, seconds
_ALARM: Final = struct.Struct("<BBBBQ")  # version, kind, alarm, active, member
_ONCE: Final = struct.Struct("<BBQQQ")  # version, kind, session, sequence, answered

_VERSION: Final = COMMAND_VERSION
_KIND_PUT: Final = int(CommandKind.PUT)
_PUT_HEAD: Final = bytes((_VERSION, _KIND_PUT))
_KIND_DELETE: Final = int(CommandKind.DELETE)
_KIND_ONCE: Final = int(CommandKind.ONCE)
_ONCE_HEAD: Final = bytes((_VERSION, _KIND_ONCE))
_NO_OPERATION: Final = "a transaction takes puts, deletes, ranges and transactions, not a"


# --- writing them ---------------------------------------------------------------------------------


def encode_put(key: bytes, value: bytes, lease: int = 0, previous: bool = False) -> bytes:
    """The bytes of a :class:`Put` that ignores nothing."""
    flags = _PREVIOUS if previous else 0
    return _PUT.pack(_VERSION, _KIND_PUT, flags, len(key), len(value), lease) + key + value


def encode_delete(key: bytes, previous: bool = False) -> bytes:
    """The bytes of a :class:`DeleteOne`."""
    flags = _PREVIOUS if previous else 0
    return _DELETE.pack(_VERSION, _KIND_DELETE, flags, _Mode.ONE, len(key), 0) + key


def encode_delete_span(span: Span, previous: bool = False) -> bytes:
    """The bytes of a :class:`DeleteSpan`."""
    flags = _PREVIOUS if previous else 0
    mode, start, stop = _keys(span)
    return _DELETE.pack(_VERSION, _KIND_DELETE, flags, mode, len(start), len(stop)) + start + stop


def encode_once(session: int, sequence: int, answered: int, command: bytes) -> bytes:
    """The bytes of a :class:`Once`."""
    return _ONCE.pack(_VERSION, _KIND_ONCE, session, sequence, answered) + command


def encode(command: KvCommand) -> bytes:
    """The bytes of any command. Raises InvalidArgumentError for a number beyond its 64 bits."""
    try:
        return _encode(command)
    except struct.error as error:
        raise InvalidArgumentError(
            f"a {type(command).__name__} cannot be written down: {error}"
        ) from error


def _encode(command: KvCommand) -> bytes:
    match command:
        case Put() | DeleteOne() | DeleteSpan() | Txn():
            return _encode_operation(command)
        case Compact(revision):
            return _ONE.pack(_VERSION, CommandKind.COMPACT, revision)
        case Sweep(events):
            return _ONE.pack(_VERSION, CommandKind.SWEEP, events)
        case Grant(lease, ttl):
            return _GRANT.pack(_VERSION, CommandKind.GRANT, lease, ttl)
        case Revoke(lease):
            return _LEASE.pack(_VERSION, CommandKind.REVOKE, lease)
        case TakeOver(keeper):
            return _ONE.pack(_VERSION, CommandKind.TAKE_OVER, keeper)
        case Expire(keeper, leases, since):
            head = _MANY.pack(_VERSION, CommandKind.EXPIRE, keeper, since, len(leases))
            return head + b"".join(map(_ID.pack, leases))
        case Checkpoint(keeper, remaining, since):
            head = _MANY.pack(_VERSION, CommandKind.CHECKPOINT, keeper, since, len(remaining))
            return head + b"".join(_REMAINS.pack(*one) for one in remaining)
        case SetAlarm(member, kind, active):
            return _ALARM.pack(_VERSION, CommandKind.SET_ALARM, kind, active, member)
        case OpenSession(lease, ttl):
            return _GRANT.pack(_VERSION, CommandKind.OPEN_SESSION, lease, ttl)
        case Once(session, sequence, answered, inner):
            return encode_once(session, sequence, answered, inner)
        case _:
            assert_never(command)


def _encode_operation(operation: Operation) -> bytes:
    match operation:
        case Put(key, value, lease, previous, ignore_value, ignore_lease):
            if not ignore_value and not ignore_lease:
                return encode_put(key, value, lease, previous)
            flags = previous * _PREVIOUS | ignore_value * _IGNORE_VALUE
            flags |= ignore_lease * _IGNORE_LEASE
            lengths = len(key), len(value)
            return _PUT.pack(_VERSION, CommandKind.KEEP, flags, *lengths, lease) + key + value
        case DeleteOne(key, previous):
            return encode_delete(key, previous)
        case DeleteSpan(span, previous):
            return encode_delete_span(span, previous)
        case Range():
            return _encode_range(operation)
        case Txn(when, then, otherwise):
            parts = [_TXN.pack(_VERSION, CommandKind.TXN, len(when), len(then), len(otherwise))]
            parts += map(_encode_compare, when)
            for inner in then + otherwise:
                data = _encode_operation(inner)
                parts += (_LENGTH.pack(len(data)), data)
            return b"".join(parts)
        case _:
            assert_never(operation)


def _encode_range(wanted: Range) -> bytes:
    mode, start, stop = _keys(wanted.span)
    flags = wanted.keys_only * _KEYS_ONLY | wanted.count_only * _COUNT_ONLY
    head = _RANGE.pack(
        _VERSION, CommandKind.RANGE, flags, mode, wanted.order, wanted.target,
        len(start), len(stop), wanted.limit, wanted.revision,
        wanted.mod_revision_min, wanted.mod_revision_max,
        wanted.create_revision_min, wanted.create_revision_max,
    )  # fmt: skip
    return head + start + stop


def _encode_compare(compare: Compare) -> bytes:
    keys, given = compare.keys, compare.given
    mode, start, stop = (_Mode.ONE, keys, b"") if isinstance(keys, bytes) else _keys(keys)
    raw = given if isinstance(given, bytes) else _GIVEN.pack(given)
    lengths = len(start), len(stop), len(raw)
    return _COMPARE.pack(mode, compare.target, compare.result, *lengths) + start + stop + raw


def _keys(span: Span) -> tuple[_Mode, bytes, bytes]:
    if span.stop is None:
        return _Mode.FROM, span.start, b""
    return _Mode.RANGE, span.start, span.stop


# --- reading them ---------------------------------------------------------------------------------


def decode(data: bytes) -> KvCommand:
    """The command in ``data``.

    Raises StorageFormatError for a version or kind of a newer raftkv, InvalidArgumentError for
    contents that no version ever wrote.
    """
    kind = _kind(data)
    if kind == _KIND_PUT:
        return Put(*parse_put(data))
    if kind == _KIND_ONCE:
        return Once(*parse_once(data))
    if kind == CommandKind.TXN:
        return _decode_txn(memoryview(data), _Left())
    if kind in _SIMPLE:
        operation = _SIMPLE[kind](data)
        if isinstance(operation, Put | DeleteOne | DeleteSpan):
            return operation
        raise InvalidArgumentError("a range stands in a transaction: alone it is no command")
    return _OTHERS[kind](data)


def _kind(data: bytes | memoryview) -> int:
    if len(data) < 2:
        raise InvalidArgumentError(f"not a KV command: {len(data)} bytes")
    version, kind = data[0], data[1]
    if version == _VERSION and 0 < kind <= _KIND_ONCE:
        return kind
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


def is_once(data: bytes) -> bool:
    """Whether :func:`parse_once` is for these bytes."""
    return data[:2] == _ONCE_HEAD


def parse_once(data: bytes) -> tuple[int, int, int, bytes]:
    """Session, sequence, answered and the bytes of the command within, of a :class:`Once`.

    Raises InvalidArgumentError for contents that no version ever wrote.
    """
    if len(data) < _ONCE.size:
        raise InvalidArgumentError(f"once command cut short: {len(data)} bytes")
    _, _, session, sequence, answered = _ONCE.unpack_from(data)
    inner = data[_ONCE.size :]
    if inner[:2] == _ONCE_HEAD:
        raise InvalidArgumentError("once command: another one stands in it")
    return session, sequence, answered, inner


class _Left:
    """What a transaction and all inside it may still have."""

    __slots__ = ("levels", "parts")

    def __init__(self) -> None:
        self.levels = TXN_DEPTH_MAX
        self.parts = TXN_PARTS_MAX


def _decode_keep(data: bytes) -> Put:
    if len(data) < _PUT.size:
        raise InvalidArgumentError(f"put command cut short: {len(data)} bytes")
    _, _, flags, key_length, value_length, lease = _PUT.unpack_from(data)
    middle = _PUT.size + key_length
    if middle + value_length != len(data):
        raise InvalidArgumentError("put command: its lengths do not add up")
    if not 1 < flags <= _PREVIOUS | _IGNORE_VALUE | _IGNORE_LEASE:
        raise InvalidArgumentError(f"put command: unknown flags {flags:#x}")
    return Put(
        data[_PUT.size : middle],
        data[middle:],
        lease,
        bool(flags & _PREVIOUS),
        bool(flags & _IGNORE_VALUE),
        bool(flags & _IGNORE_LEASE),
    )


def _decode_delete(data: bytes) -> DeleteOne | DeleteSpan:
    if len(data) < _DELETE.size:
        raise InvalidArgumentError(f"delete command cut short: {len(data)} bytes")
    _, _, flags, mode, start_length, stop_length = _DELETE.unpack_from(data)
    middle = _DELETE.size + start_length
    if middle + stop_length != len(data):
        raise InvalidArgumentError("delete command: its lengths do not add up")
    if flags & ~_PREVIOUS:
        raise InvalidArgumentError(f"delete command: unknown flags {flags:#x}")
    keys = _decode_keys("delete command", mode, data[_DELETE.size : middle], data[middle:])
    if isinstance(keys, Span):
        return DeleteSpan(keys, flags == _PREVIOUS)
    return DeleteOne(keys, flags == _PREVIOUS)


def _decode_keys(what: str, mode: int, start: bytes, stop: bytes) -> bytes | Span:
    if mode == _Mode.RANGE:
        return Span(start, stop)
    if stop:
        raise InvalidArgumentError(f"{what}: mode {mode} takes no stop")
    if mode == _Mode.FROM:
        return Span(start, None)
    if mode != _Mode.ONE:
        raise InvalidArgumentError(f"{what}: unknown mode {mode}")
    if not start:
        raise InvalidArgumentError(f"key is not provided: {what} with an empty key")
    return start


def _decode_range(data: bytes) -> Range:
    if len(data) < _RANGE.size:
        raise InvalidArgumentError(f"range cut short: {len(data)} bytes")
    _, _, flags, mode, order, target, start_length, stop_length, limit, revision, *bounds = (
        _RANGE.unpack_from(data)
    )
    middle = _RANGE.size + start_length
    if middle + stop_length != len(data):
        raise InvalidArgumentError("range: its lengths do not add up")
    if flags & ~(_KEYS_ONLY | _COUNT_ONLY):
        raise InvalidArgumentError(f"range: unknown flags {flags:#x}")
    if order > SortOrder.DESCEND or target > SortTarget.VALUE:
        raise InvalidArgumentError(f"invalid sort option: order {order}, target {target}")
    keys = _decode_keys("range", mode, data[_RANGE.size : middle], data[middle:])
    if not isinstance(keys, Span):
        raise InvalidArgumentError("range: a single key is a span of one")
    return Range(
        keys, limit, revision, SortOrder(order), SortTarget(target),
        bool(flags & _KEYS_ONLY), bool(flags & _COUNT_ONLY), *bounds,
    )  # fmt: skip


def _decode_txn(data: memoryview, left: _Left) -> Txn:
    if not left.levels:
        raise InvalidArgumentError(
            f"transactions nested deeper than {TXN_DEPTH_MAX}: split them into several"
        )
    if len(data) < _TXN.size:
        raise InvalidArgumentError(f"transaction cut short: {len(data)} bytes")
    _, _, whens, thens, others = _TXN.unpack_from(data)
    if max(whens, thens, others) > TXN_OPERATIONS_MAX:
        raise InvalidArgumentError(
            f"too many operations in txn request: at most {TXN_OPERATIONS_MAX}"
        )
    left.parts -= whens + thens + others
    if left.parts < 0:
        raise InvalidArgumentError(
            f"too many operations in txn request: more than {TXN_PARTS_MAX} with those inside"
        )
    left.levels -= 1
    at = _TXN.size
    when: list[Compare] = []
    for _ in range(whens):
        compare, at = _decode_compare(data, at)
        when.append(compare)
    inner: list[Operation] = []
    for _ in range(thens + others):
        length, at = _take(_LENGTH, data, at)[0], at + _LENGTH.size
        part = data[at : at + length]
        at += length
        if at > len(data):
            raise InvalidArgumentError("transaction: its lengths do not add up")
        kind = _kind(part)
        if kind == CommandKind.TXN:
            inner.append(_decode_txn(part, left))
        elif kind in _SIMPLE:
            inner.append(_SIMPLE[kind](bytes(part)))
        else:
            raise InvalidArgumentError(f"{_NO_OPERATION} {CommandKind(kind).name}")
    if at != len(data):
        raise InvalidArgumentError("transaction: its lengths do not add up")
    left.levels += 1
    return Txn(tuple(when), tuple(inner[:thens]), tuple(inner[thens:]))


def _decode_compare(data: memoryview, at: int) -> tuple[Compare, int]:
    mode, target, result, *lengths = _take(_COMPARE, data, at)
    first = at + _COMPARE.size
    second = first + lengths[0]
    third = second + lengths[1]
    behind = third + lengths[2]
    if behind > len(data):
        raise InvalidArgumentError("transaction: its lengths do not add up")
    if target > CompareTarget.LEASE or result > CompareResult.NOT_EQUAL:
        raise InvalidArgumentError(f"compare: unknown target {target} or result {result}")
    keys = _decode_keys("compare", mode, bytes(data[first:second]), bytes(data[second:third]))
    given: int | bytes = bytes(data[third:behind])
    if target != CompareTarget.VALUE:
        if len(given) != _GIVEN.size:
            raise InvalidArgumentError(f"compare: a number of {len(given)} bytes")
        (given,) = _GIVEN.unpack(given)
    return Compare(keys, CompareTarget(target), CompareResult(result), given), behind


def _take(layout: struct.Struct, data: bytes | memoryview, at: int) -> tuple[int, ...]:
    if at + layout.size > len(data):
        raise InvalidArgumentError(f"command cut short: {len(data)} bytes")
    return layout.unpack_from(data, at)


def _exactly(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    """What stands behind version and kind of a command that is nothing but its header."""
    if len(data) != layout.size:
        raise InvalidArgumentError(
            f"{CommandKind(data[1]).name} command of {len(data)} bytes instead of {layout.size}"
        )
    return layout.unpack(data)[2:]


def _several(layout: struct.Struct, data: bytes) -> tuple[int, int, list[tuple[int, ...]]]:
    """The keeper, since when, and the items behind it."""
    _, _, keeper, since, count = _take(_MANY, data, 0)
    if _MANY.size + count * layout.size != len(data):
        raise InvalidArgumentError(f"{CommandKind(data[1]).name} command: its length is wrong")
    if count > KEPT_LEASES_MAX:
        raise InvalidArgumentError(
            f"{CommandKind(data[1]).name} command of {count} leases, at most {KEPT_LEASES_MAX}"
        )
    return keeper, since, list(layout.iter_unpack(data[_MANY.size :]))


def _decode_grant(data: bytes) -> Grant:
    lease, ttl = _exactly(_GRANT, data)
    return Grant(lease, ttl)


def _decode_expire(data: bytes) -> Expire:
    keeper, since, items = _several(_ID, data)
    return Expire(keeper, tuple(lease for (lease,) in items), since)


def _decode_checkpoint(data: bytes) -> Checkpoint:
    keeper, since, items = _several(_REMAINS, data)
    return Checkpoint(keeper, tuple((lease, seconds) for lease, seconds in items), since)


def _decode_alarm(data: bytes) -> SetAlarm:
    kind, active, member = _exactly(_ALARM, data)
    if kind not in (AlarmKind.NO_SPACE, AlarmKind.CORRUPT) or active > 1:
        raise InvalidArgumentError(f"alarm command: unknown kind {kind} or state {active}")
    return SetAlarm(member, AlarmKind(kind), bool(active))


_SIMPLE: Final[dict[int, Callable[[bytes], Operation]]] = {
    CommandKind.PUT: lambda data: Put(*parse_put(data)),
    CommandKind.DELETE: _decode_delete,
    CommandKind.KEEP: _decode_keep,
    CommandKind.RANGE: _decode_range,
}
_OTHERS: Final[dict[int, Callable[[bytes], KvCommand]]] = {
    CommandKind.COMPACT: lambda data: Compact(*_exactly(_ONE, data)),
    CommandKind.SWEEP: lambda data: Sweep(*_exactly(_ONE, data)),
    CommandKind.GRANT: _decode_grant,
    CommandKind.REVOKE: lambda data: Revoke(*_exactly(_LEASE, data)),
    CommandKind.TAKE_OVER: lambda data: TakeOver(*_exactly(_ONE, data)),
    CommandKind.EXPIRE: _decode_expire,
    CommandKind.CHECKPOINT: _decode_checkpoint,
    CommandKind.SET_ALARM: _decode_alarm,
    CommandKind.OPEN_SESSION: lambda data: OpenSession(*_exactly(_GRANT, data)),
}
