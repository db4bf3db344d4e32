"""Strategies that meet the edges of keys and spans, and the model for tests of single parts."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from hypothesis import strategies as st

from raftkv.kv.leases import not_granted
from raftkv.kv.model import (
    DeleteResult,
    KeyValue,
    KvResult,
    PutResult,
    RangeResult,
    Span,
    prefix_span,
)
from raftkv.kv.requests import DeleteOne, DeleteSpan, KvCommand, Put, Range
from tests.kv.model.naive import Model, No, lies_in

__all__ = [
    "Oracle",
    "apply_all",
    "commands",
    "edges",
    "keys",
    "lies_in",
    "spans",
    "values",
    "without_value",
]

# Few distinct bytes, among them those that ordering and escaping trip over.
key_bytes = st.sampled_from([0x00, 0x01, 0x61, 0xFE, 0xFF])
keys = st.lists(key_bytes, min_size=1, max_size=4).map(bytes)
edges = st.lists(key_bytes, max_size=4).map(bytes)
values = st.one_of(
    st.binary(max_size=8),
    st.integers(1, 255).map(lambda byte: bytes((byte,)) * 1024),
    st.integers(1, 255).map(lambda byte: bytes((byte,)) * 1025),
)
spans = st.one_of(
    st.builds(Span, edges, st.none() | edges),
    edges.map(prefix_span),
)
commands: st.SearchStrategy[KvCommand] = st.one_of(
    st.builds(Put, keys, values, st.just(0), st.booleans()),
    st.builds(Put, keys, values, st.just(0), st.booleans()),
    st.builds(Put, keys, values, st.sampled_from([0, 0, 7]), st.booleans()),
    st.builds(DeleteOne, keys, st.booleans()),
    st.builds(DeleteSpan, spans, st.booleans()),
)


class Oracle:
    """The model (:mod:`tests.kv.model.naive`), as tests of single parts look at it."""

    def __init__(self) -> None:
        self._model = Model()

    @property
    def revision(self) -> int:
        return self._model.revision

    @property
    def states(self) -> dict[int, dict[bytes, KeyValue]]:
        """By revision everything there was right after it."""
        return dict(enumerate(self._model.states))

    @property
    def events(self) -> list[tuple[int, bytes, KeyValue | None]]:
        """Revision, key, and what it became; None: it was deleted."""
        return [
            (event.kv.mod_revision, event.kv.key, event.kv if event.kv.version else None)
            for events in self._model.events
            for event in events
        ]

    def now(self) -> dict[bytes, KeyValue]:
        return self._model.now

    def apply(self, command: KvCommand) -> KvResult:
        """No lease is ever granted to it."""
        answer = self._model.apply(command)
        if isinstance(answer, No):
            assert isinstance(command, Put)
            return not_granted(command.lease)
        assert isinstance(answer, PutResult | DeleteResult)
        return answer

    def range(
        self,
        span: Span,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        counted: bool = True,
    ) -> RangeResult:
        found = self._model.range(
            Range(span, limit=limit, revision=revision, keys_only=keys_only, count_only=count_only)
        )
        assert isinstance(found, RangeResult)
        is_counted = counted or count_only
        return found if is_counted else evolve(found, count=len(found.items))


def without_value(item: KeyValue) -> KeyValue:
    return evolve(item, value=b"")


def apply_all(oracle: Oracle, given: Sequence[KvCommand]) -> list[KvResult]:
    return [oracle.apply(command) for command in given]
