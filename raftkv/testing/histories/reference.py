"""The KV once more, in plain dictionaries: what each request changes and answers.

It shares no code with the store that histories are recorded from, but for the types of requests
and answers. Transactions are in it as etcd defines them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence

from attrs import evolve

from raftkv.testing.histories.kv import (
    Compare,
    DeleteOne,
    DeleteResult,
    DeleteSpan,
    Get,
    KeyValue,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    Range,
    RangeResult,
    Relation,
    Revoke,
    Span,
    Target,
    Txn,
    TxnRequest,
    TxnResult,
)
from raftkv.testing.histories.kv import TxnAnswer as Answer

FIRST_REVISION = 1


class ReferenceKv:
    """A store of keys at a revision. Each request is applied in one go."""

    __slots__ = ("_sorted", "changed", "current", "revision")

    def __init__(
        self, revision: int = FIRST_REVISION, current: Mapping[bytes, KeyValue] | None = None
    ) -> None:
        self.revision = revision
        self.current: dict[bytes, KeyValue] = dict(current or {})
        self.changed: dict[bytes, KeyValue | None] = {}
        """What the last request put and (None) deleted."""
        self._sorted: list[bytes] | None = None

    def apply(self, request: KvRequest) -> KvResponse:
        """Do it, and return the answer. A change makes one revision, however many keys it has."""
        self.changed = {}
        answer: KvResponse
        if type(request) is Put:  # by far the commonest
            answer = self._put(request, self.revision + 1)
        elif isinstance(request, Txn):
            answer = self._txn(request)
        elif isinstance(request, Revoke):
            answer = self._delete(self._attached(request.lease), self.revision + 1, False)
        else:
            answer = self._one(request, self.revision + 1)
        if self.changed:
            self.revision += 1
        return answer

    def keys(self, span: Span) -> Sequence[bytes]:
        """The keys in ``span``, in order."""
        if span.is_empty:
            return ()
        if self._sorted is None:
            self._sorted = sorted(self.current)
        first = bisect_left(self._sorted, span.start)
        stop = len(self._sorted) if span.stop is None else bisect_left(self._sorted, span.stop)
        return self._sorted[first:stop]

    def set(self, key: bytes, value: KeyValue | None) -> None:
        """Make ``key`` what it is to be; None: delete it."""
        keys = self._sorted
        if value is None:
            if self.current.pop(key, None) is not None and keys is not None:
                del keys[bisect_left(keys, key)]
        else:
            if keys is not None and key not in self.current:
                insort(keys, key)
            self.current[key] = value
        self.changed[key] = value

    def range(self, asked: Range) -> RangeResult:
        """What a range read shows now."""
        found = self.keys(asked.span)
        wanted: Sequence[bytes] = found[: asked.limit] if asked.limit else found
        items: tuple[KeyValue, ...] = ()
        if not asked.count_only:
            items = tuple(self.current[key] for key in wanted)
            if asked.keys_only:
                items = tuple(_without_value(one) for one in items)
        is_cut = len(items) < len(found) and not asked.count_only
        count = len(found) if asked.counted or asked.count_only else len(items)
        return RangeResult(items, count, is_cut, self.revision)

    def _one(self, request: TxnRequest, revision: int) -> Answer:
        """One request; what it writes is of ``revision``."""
        match request:
            case Put():
                return self._put(request, revision)
            case DeleteOne(key, wants_previous):
                keys: Sequence[bytes] = (key,) if key in self.current else ()
                return self._delete(keys, revision, wants_previous)
            case DeleteSpan(span, wants_previous):
                return self._delete(tuple(self.keys(span)), revision, wants_previous)
            case Get(key):
                return self.current.get(key)
            case Range():
                found = self.range(request)
                return evolve(found, revision=revision) if self.changed else found

    def _put(self, put: Put, revision: int) -> PutResult:
        key = put.key
        old = self.current.get(key)
        if old is None:
            self.set(key, KeyValue(key, put.value, revision, revision, 1, put.lease))
            return PutResult(revision)
        born, version = old.create_revision, old.version + 1
        self.set(key, KeyValue(key, put.value, born, revision, version, put.lease))
        return PutResult(revision, old if put.previous else None)

    def _delete(self, keys: Sequence[bytes], revision: int, wants_previous: bool) -> DeleteResult:
        previous = tuple(self.current[key] for key in keys) if wants_previous else ()
        for key in keys:
            self.set(key, None)
        return DeleteResult(revision if self.changed else self.revision, len(keys), previous)

    def _attached(self, lease: int) -> Sequence[bytes]:
        """The keys of a lease: those that were last put with it."""
        return sorted(key for key, one in self.current.items() if one.lease == lease)

    def _txn(self, txn: Txn) -> TxnResult:
        succeeded = all(self.holds(one) for one in txn.conditions)
        revision = self.revision + 1
        answers = tuple(
            self._one(one, revision) for one in (txn.then if succeeded else txn.otherwise)
        )
        return TxnResult(revision if self.changed else self.revision, succeeded, answers)

    def holds(self, condition: Compare) -> bool:
        """Whether a condition holds now. A key that does not exist has no value to compare."""
        one = self.current.get(condition.key)
        shown: bytes | int
        match condition.target:
            case Target.VALUE:
                if one is None:
                    return False
                shown = one.value
            case Target.VERSION:
                shown = 0 if one is None else one.version
            case Target.CREATE:
                shown = 0 if one is None else one.create_revision
            case Target.MOD:
                shown = 0 if one is None else one.mod_revision
        match condition.relation:
            case Relation.EQUAL:
                return shown == condition.wanted
            case Relation.NOT_EQUAL:
                return shown != condition.wanted
            case Relation.LESS:
                return _order(shown, condition.wanted) < 0
            case Relation.GREATER:
                return _order(shown, condition.wanted) > 0


class Versions:
    """Each key at every revision."""

    __slots__ = ("_met",)

    def __init__(self) -> None:
        self._met: dict[bytes, tuple[list[int], list[KeyValue | None]]] = {}

    def note(self, revision: int, changed: Mapping[bytes, KeyValue | None]) -> None:
        """What a revision, later than all before, made of some keys."""
        for key, value in changed.items():
            met = self._met.get(key)
            if met is None:
                met = self._met[key] = ([], [])
            met[0].append(revision)
            met[1].append(value)

    def at(self, key: bytes, revision: int) -> KeyValue | None:
        """What ``key`` was right after ``revision``."""
        revisions, values = self._met.get(key, _NOTHING)
        place = bisect_right(revisions, revision)
        return values[place - 1] if place else None

    def until(self, key: bytes, revision: int) -> int | None:
        """The first revision after ``revision`` that changed ``key``."""
        revisions, _ = self._met.get(key, _NOTHING)
        place = bisect_right(revisions, revision)
        return revisions[place] if place < len(revisions) else None

    def first_absence(self, key: bytes, floor: int) -> int | None:
        """The first revision from ``floor`` on at which ``key`` did not exist."""
        revisions, values = self._met.get(key, _NOTHING)
        place = bisect_right(revisions, floor)
        if not place or values[place - 1] is None:
            return floor
        while place < len(values):
            if values[place] is None:
                return revisions[place]
            place += 1
        return None


_NOTHING: tuple[list[int], list[KeyValue | None]] = ([], [])


def _without_value(one: KeyValue) -> KeyValue:
    return KeyValue(one.key, b"", one.create_revision, one.mod_revision, one.version, one.lease)


def _order(one: bytes | int, other: bytes | int) -> int:
    if isinstance(one, int) and isinstance(other, int):
        return (one > other) - (one < other)
    if isinstance(one, bytes) and isinstance(other, bytes):
        return (one > other) - (one < other)
    return 0  # values and numbers have no order: neither less nor greater
