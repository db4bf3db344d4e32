"""Thousands of requests from one number, each drawn so that it often meets something.

The model runs along: keys that exist, revisions that can be read, and ids of leases are taken from
it, and what watchers will have seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, TypeVar

from raftkv.kv.model import FIRST_REVISION, KeyValue, Span, prefix_span
from raftkv.kv.requests import (
    TXN_OPERATIONS_MAX,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Grant,
    Operation,
    Put,
    Range,
    Revoke,
    SortOrder,
    SortTarget,
    Txn,
)
from tests.kv.differential.asks import (
    Answer,
    Ask,
    Disarm,
    Get,
    GrantAndRevoke,
    KeepAlive,
    ListLeases,
    RaiseAlarm,
    TimeToLive,
    Watch,
    WatchBegin,
    WatchEnd,
    Wrong,
)
from tests.kv.differential.by_model import REQUEST_BYTES_MAX, TTL_MAX, ByModel
from tests.kv.model.naive import NoError, check_duplicates

T = TypeVar("T")

# Few, so that requests meet; among them those that ordering and escaping trip over. At most twelve:
# that many etcd sorts stably, so that ties come out in one order.
KEYS: Final = (
    b"\0", b"\0a", b"a", b"a\0", b"a\xff", b"ab",
    b"b", b"b\0\0", b"k1", b"k2", b"\xff", b"\xff\xff",
)  # fmt: skip
VALUES: Final = (b"", b"1", b"2", b"10", b"\xff", b"long" * 300)
LEASES: Final = (1, 2, 3, 77, 2**63 - 1)


class Requests:
    """An endless conversation with one store that begins empty."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._by_model = ByModel()
        self.model = self._by_model.model

    def take(self, count: int) -> Iterator[tuple[Ask, Answer]]:
        """So many requests, each with the model's answer, and what ends the watching."""
        for _ in range(count):
            ask = self._next()
            yield ask, self._by_model.ask(ask)
        for ask in (self._watch_end(), Disarm()):
            yield ask, self._by_model.ask(ask)

    # --- what is asked ----------------------------------------------------------------------------

    def _next(self) -> Ask:
        if self.model.alarms and self._chance(12):
            return Disarm()
        kinds: tuple[tuple[int, Callable[[], Ask]], ...] = (
            (220, self._put),
            (50, lambda: DeleteOne(self._key(), self._chance(50))),
            (25, lambda: DeleteSpan(self._span(), self._chance(50))),
            (90, lambda: Get(self._key(), self._revision())),
            (200, self._range),
            (200, self._txn),
            (25, lambda: Grant(self._pick(LEASES), self._pick((1000, 5000, TTL_MAX, TTL_MAX + 1)))),
            (12, lambda: GrantAndRevoke(self._pick((0, 5)), self._pick((-3, 0, 1, 2, 3, 60)))),
            (15, lambda: Revoke(self._pick(LEASES))),
            (15, lambda: KeepAlive(self._pick(LEASES))),
            (20, lambda: TimeToLive(self._pick(LEASES), self._chance(70))),
            (8, ListLeases),
            (12, self._compact),
            (12, self._watch),
            (3, RaiseAlarm),
            (25, self._wrong),
        )
        total = sum(weight for weight, _ in kinds)
        place = self._random.randrange(total)
        for weight, make in kinds:
            if place < weight:
                return make()
            place -= weight
        raise AssertionError(place)

    def _put(self) -> Put:
        lease = self._pick((0, 0, 0, *LEASES))
        ignores_value, ignores_lease = self._chance(12), self._chance(12)
        return Put(
            self._key(),
            b"" if ignores_value else self._pick(VALUES),
            0 if ignores_lease else lease,
            self._chance(40),
            ignores_value,
            ignores_lease,
        )

    def _range(self) -> Range:
        ordered = self._chance(40)
        bound = self._known_revision if self._chance(25) else lambda: 0
        return Range(
            self._span(),
            self._pick((0, 0, 1, 2, 5)),
            self._revision(),
            self._pick(tuple(SortOrder)) if ordered else SortOrder.NONE,
            self._pick(tuple(SortTarget)) if ordered else SortTarget.KEY,
            self._chance(15),
            self._chance(10),
            *(self._pick((0, bound())) for _ in range(4)),
        )

    def _txn(self, depth: int = 1) -> Txn:
        while True:
            when = tuple(self._compare() for _ in range(self._pick((0, 1, 1, 2, 3))))
            then = tuple(self._operation(depth) for _ in range(self._pick((0, 1, 2, 3))))
            otherwise = tuple(self._operation(depth) for _ in range(self._pick((0, 1, 2))))
            txn = Txn(when, then, otherwise)
            # Most of those that no store would take are drawn again.
            if depth > 1 or self._chance(15):
                return txn
            with contextlib.suppress(NoError):
                check_duplicates(txn.then)
                check_duplicates(txn.otherwise)
                return txn

    def _operation(self, depth: int) -> Operation:
        # Without space etcd looks at the outermost transaction's own puts alone (known.txt).
        kind = self._random.randrange(11 if depth < 3 and not self.model.alarms else 9)
        if kind < 4:
            return self._put()
        if kind < 6:
            return DeleteOne(self._key(), self._chance(50))
        if kind < 7:
            return DeleteSpan(self._closed_span(), self._chance(50))
        return self._range() if kind < 9 else self._txn(depth + 1)

    def _closed_span(self) -> Span:
        span = self._span()
        return span if span.stop is not None else Span(span.start, b"\xff\xff\xff")

    def _compare(self) -> Compare:
        keys = self._span() if self._chance(20) else self._key()
        target, result = self._pick(tuple(CompareTarget)), self._pick(tuple(CompareResult))
        one = self._existing()
        given: int | bytes = {
            CompareTarget.VERSION: one.version,
            CompareTarget.CREATE: one.create_revision,
            CompareTarget.MOD: one.mod_revision,
            CompareTarget.VALUE: one.value,
            CompareTarget.LEASE: one.lease,
        }[target]
        if isinstance(keys, bytes) and self._chance(70) and one.key:
            keys = one.key
        if isinstance(given, int) and self._chance(30):
            given = max(0, given + self._pick((-1, 1, -given))) % 2**63
        return Compare(keys, target, result, given)

    def _compact(self) -> Ask:
        model = self.model
        kind = self._random.randrange(4)
        if kind == 0:
            return Compact(model.revision + self._pick((1, 5)))
        if kind == 1 and model.floor:
            return Compact(self._pick((model.floor, model.floor - 1, 1)))
        # While anybody watches, what they see would depend on how fast they are.
        if self._by_model.watchers or model.revision - model.floor < 100:
            return self._range()
        return Compact(model.revision - self._random.randrange(60))

    def _watch(self) -> Ask:
        if self._by_model.watchers:
            return self._watch_end()
        return WatchBegin(tuple(self._watcher() for _ in range(1 + self._random.randrange(8))))

    def _watcher(self) -> Watch:
        model = self.model
        span = Span(b"", None) if self._chance(20) else self._span()
        if self._chance(40):
            span = Span(key := self._key(), key + b"\0")
        start = 0
        if self._chance(60):
            start = self._random.randint(max(1, model.floor + 1), model.revision)
        elif model.floor and self._chance(30):
            start = self._random.randint(1, model.floor - 1)
        elif self._chance(30):
            start = model.revision + self._random.randint(1, 5)
        return Watch(span, start, self._chance(50), not self._chance(15), not self._chance(15))

    def _watch_end(self) -> WatchEnd:
        ends = [
            -1 if isinstance(one, Wrong) else one[-1].revision if one else 0
            for one in self._by_model.seen().changes
        ]
        return WatchEnd(tuple(ends))

    def _wrong(self) -> Ask:
        """What is refused for its shape."""
        key, many = self._key(), TXN_OPERATIONS_MAX
        deletes = self._pick((DeleteOne(key), DeleteSpan(Span(key, key + b"\0\0"))))
        put = Put(key, b"x")
        inner = Txn(then=(put,))
        read = Range(Span(key, key + b"\0"))
        return self._pick(
            (
                Put(b"", b"x"),
                DeleteOne(b""),
                Get(b""),
                Txn(then=(Put(b"", b"x"),)),
                Txn(otherwise=(Txn(then=(DeleteOne(b""),)),)),
                Txn(when=(Compare(b"", CompareTarget.VERSION, CompareResult.EQUAL, 0),)),
                Put(key, b"x", ignore_value=True),
                Txn(otherwise=(Put(key, b"x", ignore_value=True),)),
                Put(key, b"", lease=1, ignore_lease=True),
                Txn(then=(Put(key, b"", lease=1, ignore_lease=True),)),
                Txn(then=(put, put)),
                Txn(otherwise=(put, deletes)),
                Txn(then=(deletes, put)),
                Txn(then=(inner, put)),
                Txn(then=(inner, inner)),
                Txn(then=(deletes, inner)),
                Txn(otherwise=(inner, deletes)),
                Txn(then=(Txn(then=(deletes,)), put)),
                Txn(then=(read,) * (many + 1)),
                Txn(otherwise=(read,) * (many + 1)),
                Txn(when=(Compare(key, CompareTarget.MOD, CompareResult.GREATER, 0),) * (many + 1)),
                Put(key, b"x" * (REQUEST_BYTES_MAX + 1)),
                Grant(9, TTL_MAX + 1),
            )
        )

    # --- of what ----------------------------------------------------------------------------------

    def _key(self) -> bytes:
        if self.model.now and self._chance(60):
            return self._existing().key
        return self._pick(KEYS)

    def _existing(self) -> KeyValue:
        now = self.model.now
        if not now:
            return KeyValue(b"", b"", 0, 0, 0)
        return now[self._pick(sorted(now))]

    def _span(self) -> Span:
        kind = self._random.randrange(8)
        key = self._pick(KEYS)
        if kind < 2:
            return Span(b"", None)
        if kind < 4:
            return prefix_span(self._pick((b"a", b"\0", b"b", b"k", b"\xff")))
        if kind < 5:
            return Span(key, None)
        if kind < 6:
            return Span(key, key + b"\0")
        other = self._pick(KEYS[1:])
        if kind < 7:
            return Span(key, other)
        return Span(min(key, other), max(key, other) + b"\0")

    def _revision(self) -> int:
        model, kind = self.model, self._random.randrange(100)
        if kind < 50:
            return 0
        if kind < 58 and model.floor > 1:
            return self._random.randint(1, model.floor - 1)
        if kind < 66:
            return model.revision + self._random.randint(1, 3)
        return self._known_revision()

    def _known_revision(self) -> int:
        model = self.model
        return self._random.randint(max(FIRST_REVISION, model.floor), model.revision)

    def _pick(self, given: tuple[T, ...] | list[T]) -> T:
        return given[self._random.randrange(len(given))]

    def _chance(self, percent: int) -> bool:
        return self._random.randrange(100) < percent
