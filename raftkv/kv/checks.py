"""What no request may ask, in etcd's words: checked before a command is proposed.

A request is refused whole, in whichever branch its bad part stands and whether or not that branch
would be taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

from raftkv.errors import InvalidArgumentError
from raftkv.kv.model import check_key
from raftkv.kv.requests import (
    TXN_DEPTH_MAX,
    TXN_OPERATIONS_MAX,
    TXN_PARTS_MAX,
    Compare,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Operation,
    Put,
    Txn,
)


def check_put(put: Put) -> None:
    """Raise InvalidArgumentError for a put that contradicts itself, or whose key cannot be."""
    check_key("key", put.key)
    if put.ignore_value and put.value:
        raise InvalidArgumentError(
            "value is provided: with ignore_value the key keeps what it has; leave one of them out"
        )
    if put.ignore_lease and put.lease:
        raise InvalidArgumentError(
            "lease is provided: with ignore_lease the key keeps what it has; leave one of them out"
        )


def check_txn(txn: Txn) -> None:
    """Raise InvalidArgumentError for a transaction that no store would take, as etcd does.

    At most 128 comparisons and as many operations in a branch, what is nested counted down from
    what contains it, and 1,024 of all kinds in all; 8 levels; no key put twice, nor put and
    deleted, in what may happen together. Deletes may overlap.
    """
    parts = _check_size(txn, TXN_OPERATIONS_MAX, 1)
    if parts > TXN_PARTS_MAX:
        raise InvalidArgumentError(
            f"too many operations in txn request: {parts} conditions and operations, those of"
            f" transactions inside included, where {TXN_PARTS_MAX} are allowed; split it"
        )
    _check_branch(txn.then)
    _check_branch(txn.otherwise)


def _check_size(txn: Txn, allowed: int, depth: int) -> int:
    """How many parts it has, with those inside."""
    if depth > TXN_DEPTH_MAX:
        raise InvalidArgumentError(
            f"too many levels in txn request: at most {TXN_DEPTH_MAX} transactions in one another"
        )
    found = max(len(txn.when), len(txn.then), len(txn.otherwise))
    if found > allowed:
        raise InvalidArgumentError(
            f"too many operations in txn request: {found} conditions, or operations of one branch,"
            f" where {allowed} are allowed; {TXN_OPERATIONS_MAX} in all, less what a transaction"
            " around it has"
        )
    parts = len(txn.when) + len(txn.then) + len(txn.otherwise)
    for condition in txn.when:
        _check_condition(condition)
    for operation in (*txn.then, *txn.otherwise):
        match operation:
            case Put():
                check_put(operation)
            case DeleteOne(key):
                check_key("key", key)
            case Txn():
                parts += _check_size(operation, allowed - found, depth + 1)
            case _:
                pass
    return parts


def _check_condition(condition: Compare) -> None:
    if isinstance(condition.keys, bytes):
        check_key("key", condition.keys)
    if isinstance(condition.given, bytes) is not (condition.target is CompareTarget.VALUE):
        raise InvalidArgumentError(
            f"a condition on {condition.target.name} cannot be compared with {condition.given!r}:"
            " a value is bytes, everything else a number"
        )


def _check_branch(branch: Iterable[Operation]) -> tuple[set[bytes], _Deleted]:
    """The keys put and deleted in a branch. Raises if they collide."""
    operations = tuple(branch)
    deleted = _Deleted()
    for operation in operations:
        if isinstance(operation, DeleteOne):
            deleted.add(operation.key, operation.key + b"\0")
        elif isinstance(operation, DeleteSpan):
            deleted.add(operation.span.start, operation.span.stop)
    puts: set[bytes] = set()

    def put(key: bytes) -> None:
        if key in puts or key in deleted:
            raise InvalidArgumentError(
                f"duplicate key given in txn request: {key!r} would change twice in one revision;"
                " put it once, or delete it in another transaction"
            )
        puts.add(key)

    for operation in operations:
        if isinstance(operation, Txn):
            # Of its two branches one is taken: they may put the same key.
            then, deleted_then = _check_branch(operation.then)
            otherwise, deleted_otherwise = _check_branch(operation.otherwise)
            for key in sorted(then | otherwise):
                put(key)
            deleted.add_all(deleted_then)
            deleted.add_all(deleted_otherwise)
    for operation in operations:
        if isinstance(operation, Put):
            put(operation.key)
    return puts, deleted


class _Deleted:
    """Spans of deleted keys, which may overlap, and whether a key is in one of them.

    Transactions inside others may have tens of thousands of each, so a key is looked up in the
    spans joined and in order, not compared with every one.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[bytes, bytes | None]] = []
        self._joined = 0  # so many of them are in the two below, whose spans lie apart
        self._starts: list[bytes] = []
        self._stops: list[bytes | None] = []

    def add(self, start: bytes, stop: bytes | None) -> None:
        self._spans.append((start, stop))

    def add_all(self, other: _Deleted) -> None:
        self._spans += other._spans

    def __contains__(self, key: bytes) -> bool:
        if self._joined != len(self._spans):
            self._join()
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return False
        stop = self._stops[place]
        return stop is None or key < stop

    def _join(self) -> None:
        self._spans.sort(key=itemgetter(0))
        self._joined = len(self._spans)
        starts, stops = list[bytes](), list[bytes | None]()
        for start, stop in self._spans:
            if starts:
                reached = stops[-1]
                if reached is None:
                    break
                if start <= reached:
                    stops[-1] = None if stop is None else max(reached, stop)
                    continue
            starts.append(start)
            stops.append(stop)
        self._starts, self._stops = starts, stops
