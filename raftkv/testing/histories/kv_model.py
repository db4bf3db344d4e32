"""The KV as a model for the search: by values, key by key, or with all its revisions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

from attrs import evolve

from raftkv.errors import InvalidArgumentError
from raftkv.testing.histories.kv import (
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
    Revoke,
    Target,
    Txn,
    TxnAnswer,
    TxnResult,
)
from raftkv.testing.histories.models import Model
from raftkv.testing.histories.reference import FIRST_REVISION, ReferenceKv

KvState: TypeAlias = tuple[int, tuple[KeyValue, ...]]
"""The revision, and all keys in order."""


class KvModel(Model[KvState, KvRequest, KvResponse]):
    """The KV; reads that are serializable or of a past revision are left out.

    By itself it looks at values, versions and counts alone and not at revisions, so that keys which
    no request names together are parts of their own: an opinion that shares nothing with
    :func:`~raftkv.testing.histories.revisions.check_revisions`. ``revisions=True`` compares all of
    an answer, and can judge transactions that compare revisions; the store is one part then.
    """

    def __init__(self, *, revisions: bool = False) -> None:
        self._revisions = revisions

    def initial(self) -> KvState:
        """An empty store."""
        return FIRST_REVISION, ()

    def step(self, state: KvState, request: KvRequest) -> tuple[KvState, KvResponse]:
        """What a store answers that does one thing at a time."""
        revision, items = state
        store = ReferenceKv(revision, {one.key: one for one in items})
        answer = store.apply(request)
        if not store.changed:
            return state, answer
        keys = sorted(store.current)
        if self._revisions:
            return (store.revision, tuple(store.current[key] for key in keys)), answer
        return (FIRST_REVISION, tuple(_plain(store.current[key]) for key in keys)), answer

    def same(self, expected: KvResponse, response: KvResponse) -> bool:
        """Whether they agree, in what this model looks at."""
        if self._revisions:
            return expected == response
        return _without_revisions(expected) == _without_revisions(response)

    def is_judged(self, request: KvRequest) -> bool:
        """All writes, and reads of the present.

        Raises InvalidArgumentError for a comparison of revisions that it cannot judge.
        """
        if isinstance(request, Txn) and not self._revisions:
            for one in request.conditions:
                if one.target in (Target.MOD, Target.CREATE):
                    raise InvalidArgumentError(
                        f"{one} compares revisions; use KvModel(revisions=True)"
                    )
        return not isinstance(request, Get | Range) or not (
            request.serializable or request.revision
        )

    def parts(self, requests: Sequence[KvRequest]) -> Sequence[Hashable]:
        """Keys that requests name together belong together; a part is named by one of them."""
        if self._revisions:
            return [None] * len(requests)
        named = sorted({key for request in requests for key in _keys(request)})
        leader = {key: key for key in named}

        def find(key: bytes) -> bytes:
            while leader[key] != key:
                leader[key] = leader[leader[key]]
                key = leader[key]
            return key

        attached: dict[int, list[bytes]] = {}
        for request in requests:
            if isinstance(request, Put) and request.lease:
                attached.setdefault(request.lease, []).append(request.key)

        parts: list[bytes | None] = []
        for request in requests:
            if isinstance(request, Revoke):
                keys = attached.get(request.lease, [])
            else:
                keys = [*_keys(request), *_within(request, named)]
            for one in keys[1:]:
                leader[find(one)] = find(keys[0])
            parts.append(keys[0] if keys else None)
        return [None if key is None else find(key) for key in parts]


def _keys(request: KvRequest) -> Iterable[bytes]:
    if isinstance(request, Txn):
        for condition in request.conditions:
            yield condition.key
        for one in (*request.then, *request.otherwise):
            yield from _keys(one)
    elif not isinstance(request, Range | DeleteSpan | Revoke):
        yield request.key


def _within(request: KvRequest, named: Sequence[bytes]) -> Iterable[bytes]:
    """The keys of the history that lie in its spans: no other key ever exists."""
    if isinstance(request, Txn):
        for one in (*request.then, *request.otherwise):
            yield from _within(one, named)
    elif isinstance(request, Range | DeleteSpan):
        span = request.span
        first = bisect_left(named, span.start)
        stop = len(named) if span.stop is None else bisect_left(named, span.stop)
        yield from named[first : max(first, stop)]


def _plain(one: KeyValue) -> KeyValue:
    return evolve(one, create_revision=0, mod_revision=0)


def _without_revisions(answer: KvResponse) -> KvResponse:
    if isinstance(answer, TxnResult):
        return TxnResult(0, answer.succeeded, tuple(_plain_answer(one) for one in answer.responses))
    return _plain_answer(answer)


def _plain_answer(answer: TxnAnswer) -> TxnAnswer:
    match answer:
        case None:
            return None
        case KeyValue():
            return _plain(answer)
        case PutResult(_, previous):
            return PutResult(0, None if previous is None else _plain(previous))
        case DeleteResult(_, deleted, previous):
            return DeleteResult(0, deleted, tuple(_plain(one) for one in previous))
        case RangeResult(items, count, more):
            return RangeResult(tuple(_plain(one) for one in items), count, more, 0)
