"""Operations and transactions: conditions first, then everything that can be refused, then effects.

All conditions, also those of transactions inside, are decided on the store as it was before: which
branches are taken is settled before anything is written, as in etcd. Then every operation on that
way is checked, and only if all of them can be done the first is. Nothing is left to fail after
that: a key is put at most once in what may happen together (:mod:`raftkv.kv.checks`), so what an
operation asks of its key holds until its turn comes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Final, assert_never, cast

from attrs import frozen

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import rows
from raftkv.kv.bounds import Cover, Pair, Room, not_told, too_far
from raftkv.kv.engine import Revision, Slice
from raftkv.kv.leases import is_granted, not_granted, refuse_keys
from raftkv.kv.model import (
    DeleteResult,
    OperationResult,
    PutResult,
    RangeResult,
    Refusal,
    Refused,
    TxnResult,
)
from raftkv.kv.reader import RangeRead, check_revision
from raftkv.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Operation,
    Put,
    Range,
    Txn,
)
from raftkv.kv.sizes import value_bytes_of

_STEP_KEYS: Final = 4096


def apply_put(writes: Slice, put: Put) -> PutResult | Refused:
    """A put with all its options, as a command of its own."""
    refusal = (
        _refuse_lease(writes, put)
        or _refuse_missing(writes, put)
        or _refuse_attaching(writes, (put,))
    )
    if refusal is not None:
        return refusal
    revision, room = Revision(writes), Room()
    result = _put(writes, revision, put, room)
    revision.close()
    writes.hold(room.used)
    return result


def apply_delete(writes: Slice, delete: DeleteOne | DeleteSpan) -> DeleteResult | Refused:
    """A delete as a command of its own."""
    found = Cover().find(writes, delete) if isinstance(delete, DeleteSpan) else None
    if isinstance(found, Refused):
        return found
    revision, room = Revision(writes), Room()
    result = _delete(writes, revision, delete, room, found)
    revision.close()
    writes.hold(room.used)
    return result


def apply_txn(writes: Slice, txn: Txn) -> TxnResult | Refused:
    """A transaction, of which nothing happens if a part of it cannot."""
    room = Room()
    way = _way(writes, txn, room)
    refusal = too_far() if room.is_over else _refuse(writes, way)
    if refusal is not None:
        writes.hold(room.used)  # what its conditions looked at took its time
        return refusal
    revision = Revision(writes)
    result = _follow(writes, revision, way, room)
    revision.close()
    writes.hold(room.used)
    return not_told(writes.revision) if room.is_over else result


# --- which way ------------------------------------------------------------------------------------


@frozen(slots=True)
class _Way:
    """A branch taken, and in it the ways through the transactions inside, in order."""

    succeeded: bool
    operations: tuple[Operation, ...]
    inside: tuple[_Way, ...]


def _way(writes: Slice, txn: Txn, room: Room) -> _Way:
    succeeded = all(_holds(writes, compare, room) for compare in txn.when)
    branch = txn.then if succeeded else txn.otherwise
    inside = tuple(_way(writes, one, room) for one in branch if isinstance(one, Txn))
    return _Way(succeeded, branch, inside)


def _operations(way: _Way) -> Iterator[Operation]:
    inside = iter(way.inside)
    for operation in way.operations:
        if isinstance(operation, Txn):
            yield from _operations(next(inside))
        else:
            yield operation


def _holds(writes: Slice, compare: Compare, room: Room) -> bool:
    keys = compare.keys
    if isinstance(keys, bytes):
        row = writes.current(keys)
        if row is None:
            return _holds_missing(compare)
        if compare.target is CompareTarget.VALUE:
            room.looks -= value_bytes_of(writes, row) >> 10
        return not room.is_over and _holds_for(writes, compare, keys, row)
    found = False
    for key, row in writes.scan_current(keys):
        found = True
        room.looks -= 1
        if compare.target is CompareTarget.VALUE:
            room.looks -= value_bytes_of(writes, row) >> 10
        if room.is_over or not _holds_for(writes, compare, key, row):
            return False
    return found or _holds_missing(compare)


def _holds_missing(compare: Compare) -> bool:
    given = compare.given
    # No value is not an empty value: nothing can be said about it.
    return isinstance(given, int) and _STANDS[compare.result](0, given)


def _holds_for(writes: Slice, compare: Compare, key: bytes, row: bytes) -> bool:
    stands, given = _STANDS[compare.result], compare.given
    if isinstance(given, bytes):
        value = writes.key_value(key, row).value
        return stands((value > given) - (value < given), 0)
    return stands(_NUMBERS[compare.target](rows.decode_version(row)), given)


_STANDS: Final[dict[CompareResult, Callable[[int, int], bool]]] = {
    CompareResult.EQUAL: operator.eq,
    CompareResult.GREATER: operator.gt,
    CompareResult.LESS: operator.lt,
    CompareResult.NOT_EQUAL: operator.ne,
}
_NUMBERS: Final[dict[CompareTarget, Callable[[rows.Version], int]]] = {
    CompareTarget.VERSION: operator.attrgetter("version"),
    CompareTarget.CREATE: operator.attrgetter("create_revision"),
    CompareTarget.MOD: operator.attrgetter("mod_revision"),
    CompareTarget.LEASE: operator.attrgetter("lease"),
}


# --- what cannot be done --------------------------------------------------------------------------


def _refuse(writes: Slice, way: _Way) -> Refused | None:
    """Why not all on the way can be done; None if it can."""
    for refuse in (_refuse_put, _refuse_range):
        for operation in _operations(way):
            refusal = refuse(writes, operation)
            if refusal is not None:
                return refusal
    return _refuse_deletes(writes, way) or _refuse_attaching(writes, _operations(way))


def _refuse_put(writes: Slice, operation: Operation) -> Refused | None:
    if not isinstance(operation, Put):
        return None
    # In this order inside a transaction, in the other outside: as etcd has it.
    return _refuse_missing(writes, operation) or _refuse_lease(writes, operation)


def _refuse_missing(writes: Slice, put: Put) -> Refused | None:
    if (put.ignore_value or put.ignore_lease) and writes.current(put.key) is None:
        return Refused(
            f"key not found: {put.key!r} has nothing to keep; put it without ignore_value and "
            "ignore_lease",
            Refusal.KEY_NOT_FOUND,
        )
    return None


def _refuse_lease(writes: Slice, put: Put) -> Refused | None:
    if put.lease and not is_granted(writes, put.lease):
        return not_granted(put.lease)
    return None


def _refuse_range(writes: Slice, operation: Operation) -> Refused | None:
    if not isinstance(operation, Range) or not operation.revision:
        return None
    try:
        check_revision(writes.head, operation.revision)
    except FutureRevisionError as error:
        return Refused(str(error), Refusal.FUTURE_REVISION, error.revision)
    except CompactedError as error:
        return Refused(str(error), Refusal.COMPACTED, error.revision)
    return None


def _refuse_deletes(writes: Slice, way: _Way) -> Refused | None:
    cover = Cover()
    for operation in _operations(way):
        if isinstance(operation, DeleteSpan):
            found = cover.find(writes, operation)
            if isinstance(found, Refused):
                return found
    return None


def _refuse_attaching(writes: Slice, operations: Iterable[Operation]) -> Refused | None:
    """Of puts with leases that there are: whether those get too many keys."""
    wanted: dict[int, list[bytes]] = {}
    for operation in operations:
        if isinstance(operation, Put) and operation.lease:
            wanted.setdefault(operation.lease, []).append(operation.key)
    for lease, keys in wanted.items():
        refusal = refuse_keys(writes, lease, keys)
        if refusal is not None:
            return refusal
    return None


# --- effects --------------------------------------------------------------------------------------


def _follow(writes: Slice, revision: Revision, way: _Way, room: Room) -> TxnResult:
    inside = iter(way.inside)
    results: list[OperationResult] = []
    for operation in way.operations:
        match operation:
            case Put():
                results.append(_put(writes, revision, operation, room))
            case DeleteOne() | DeleteSpan():
                results.append(_delete(writes, revision, operation, room))
            case Range():
                results.append(_range(writes, operation, room))
            case Txn():
                results.append(_follow(writes, revision, next(inside), room))
            case _:
                assert_never(operation)
    return TxnResult(writes.revision, way.succeeded, tuple(results))


def _range(writes: Slice, wanted: Range, room: Room) -> RangeResult:
    read = RangeRead(wanted)
    is_done = False
    while not is_done and read.held_bytes <= room.left and read.looked <= room.looks:
        is_done = read.advance(writes, _STEP_KEYS)
    room.left -= read.held_bytes
    room.looks -= read.looked
    if room.is_over:
        return RangeResult((), 0, False, writes.revision)
    return read.result


def _put(writes: Slice, revision: Revision, put: Put, room: Room) -> PutResult:
    value, lease = put.value, put.lease
    if put.ignore_value or put.ignore_lease:
        row = cast("bytes", writes.current(put.key))  # without the key it was refused
        if put.ignore_value:
            value = writes.key_value(put.key, row).value
            writes.hold(len(value))  # no part of the command
        if put.ignore_lease:
            lease = rows.lease_of(row)
    old = revision.put(put.key, value, lease)
    if not put.previous or old is None:
        return PutResult(writes.revision)
    return PutResult(writes.revision, *room.previous(writes, ((put.key, old),)))


def _delete(
    writes: Slice,
    revision: Revision,
    delete: DeleteOne | DeleteSpan,
    room: Room,
    found: list[Pair] | None = None,
) -> DeleteResult:
    if isinstance(delete, DeleteSpan):
        found = revision.delete_span(delete.span, found)
    else:
        row = writes.current(delete.key)
        found = [] if row is None else [(delete.key, row)]
        for key, old in found:
            revision.delete(key, old)
    previous = room.previous(writes, found) if delete.previous else ()
    return DeleteResult(writes.revision, len(found), previous)
