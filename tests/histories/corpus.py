"""Histories that are right by construction: one store, and calls that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from attrs import frozen

from raftkv.testing.histories.kv import (
    Compare,
    DeleteOne,
    DeleteSpan,
    Get,
    KeyValue,
    KvOperation,
    KvRequest,
    KvResponse,
    Put,
    Range,
    RangeResult,
    Relation,
    Span,
    Target,
    Txn,
    TxnRequest,
    Written,
)
from raftkv.testing.histories.operations import Operation, Outcome
from raftkv.testing.histories.reference import ReferenceKv

KEYS = (b"a", b"b", b"c", b"d")
WRITES = (Put, DeleteOne, DeleteSpan, Txn)


@frozen
class Recorded:
    """A history, and the log of what its writes came to."""

    operations: Sequence[KvOperation]
    log: Sequence[Written]


def recorded(
    random: Random,
    count: int,
    *,
    keys: Sequence[bytes] = KEYS,
    overlap: int = 30,
    unknown: float = 0.1,
    failed: float = 0.05,
    kinds: str = "PPPDSGGRTOH",
) -> Recorded:
    """``count`` operations, each of which takes effect at one moment between call and return."""
    store = ReferenceKv()
    past = [dict(store.current)] * 2
    met: list[KvOperation] = []
    log: list[Written] = []
    for number in range(1, count + 1):
        moment = number * 10
        call_at, return_at = (
            moment - random.randint(0, overlap),
            moment + random.randint(0, overlap),
        )
        client = f"c{number % 5}"
        request = a_request(random, random.choice(kinds), keys, number, store.revision)
        chance = random.random()
        if chance < failed:
            met.append(Operation(client, call_at, return_at, request, None, Outcome.FAILED))
            continue
        is_unknown = chance < failed + unknown
        if is_unknown and random.random() < 0.5:
            met.append(Operation(client, call_at, None, request, None, Outcome.UNKNOWN))
            continue
        response = answered(store, past, request, random)
        log += [
            Written(store.revision, key, None if value is None else value.value)
            for key, value in sorted(store.changed.items())
        ]
        if store.changed:
            past.append(dict(store.current))
        if is_unknown:
            met.append(Operation(client, call_at, None, request, None, Outcome.UNKNOWN))
        else:
            met.append(Operation(client, call_at, return_at, request, response))
    return Recorded(met, log)


def answered(
    store: ReferenceKv, past: Sequence[dict[bytes, KeyValue]], request: KvRequest, random: Random
) -> KvResponse:
    """What the store answers; reads of the past are of a store as it was."""
    if not isinstance(request, Get | Range) or not (request.revision or request.serializable):
        return store.apply(request)
    store.changed = {}
    at = request.revision or random.randint(max(1, store.revision - 5), store.revision)
    old = ReferenceKv(at, past[at])
    if isinstance(request, Get):
        return old.current.get(request.key)
    shown = old.range(request)
    revision = store.revision if request.revision else at
    return RangeResult(shown.items, shown.count, shown.more, revision)


def a_request(
    random: Random, kind: str, keys: Sequence[bytes], number: int, revision: int
) -> KvRequest:
    key, value = random.choice(keys), b"v%d" % number
    match kind:
        case "P":
            return Put(key, value, previous=random.random() < 0.3)
        case "D":
            return DeleteOne(key, previous=random.random() < 0.3)
        case "S":
            return DeleteSpan(a_span(random, keys), previous=random.random() < 0.3)
        case "G":
            return Get(key)
        case "R":
            return a_range(random, keys)
        case "T":
            return a_txn(random, keys, value, revision)
        case "O":
            if random.random() < 0.5:
                return Get(key, serializable=True)
            return Range(a_span(random, keys), serializable=True)
        case _:
            at = random.randint(1, revision)
            if random.random() < 0.5:
                return Get(key, revision=at)
            return Range(a_span(random, keys), revision=at)


def a_span(random: Random, keys: Sequence[bytes]) -> Span:
    start, stop = random.choice(keys), random.choice(keys)
    return Span(start, random.choice((None, stop, start + b"\0")))


def a_range(random: Random, keys: Sequence[bytes]) -> Range:
    return Range(
        a_span(random, keys),
        limit=random.choice((0, 0, 1, 2)),
        keys_only=random.random() < 0.2,
        count_only=random.random() < 0.2,
        counted=random.random() < 0.8,
    )


def a_txn(random: Random, keys: Sequence[bytes], value: bytes, revision: int) -> Txn:
    return Txn(
        tuple(
            Compare(
                random.choice(keys),
                random.choice((Target.VERSION, Target.MOD, Target.CREATE)),
                random.choice([*Relation]),
                random.randint(0, revision),
            )
            for _ in range(random.randint(0, 2))
        ),
        tuple(branch(random, keys, value + b"t")),
        tuple(branch(random, keys, value + b"e")),
    )


def branch(random: Random, keys: Sequence[bytes], value: bytes) -> Iterator[TxnRequest]:
    for key in random.sample(keys, random.randint(0, min(3, len(keys)))):
        yield random.choice((Put(key, value), Put(key, value), DeleteOne(key), Get(key)))
