"""The dumbest KV there is: a dictionary for every revision. And strategies that meet its edges."""

from __future__ import annotations

from collections.abc import Sequence

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
from raftkv.kv.requests import DeleteOne, DeleteSpan, KvCommand, Put

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
    """``states[revision]`` is everything there was right after that revision."""

    def __init__(self) -> None:
        self.states: dict[int, dict[bytes, KeyValue]] = {0: {}, 1: {}}
        self.events: list[tuple[int, bytes, KeyValue | None]] = []

    @property
    def revision(self) -> int:
        return max(self.states)

    def now(self) -> dict[bytes, KeyValue]:
        return self.states[self.revision]

    def apply(self, command: KvCommand) -> KvResult:
        if isinstance(command, Put):
            return self._put(command)
        if isinstance(command, DeleteOne):
            doomed = [command.key] if command.key in self.now() else []
        else:
            doomed = [key for key in sorted(self.now()) if lies_in(key, command.span)]
        previous = tuple(self.now()[key] for key in doomed)
        if doomed:
            self._write(dict.fromkeys(doomed))
        return DeleteResult(self.revision, len(doomed), previous if command.previous else ())

    def _put(self, put: Put) -> KvResult:
        if put.lease:
            return not_granted(put.lease)
        old, revision = self.now().get(put.key), self.revision + 1
        if old is None:
            made = KeyValue(put.key, put.value, revision, revision, 1)
        else:
            made = KeyValue(put.key, put.value, old.create_revision, revision, old.version + 1)
        self._write({put.key: made})
        return PutResult(revision, old if put.previous else None)

    def _write(self, changes: dict[bytes, KeyValue | None]) -> None:
        state = dict(self.now())
        revision = self.revision + 1
        for key, made in changes.items():
            state.pop(key, None)
            if made is not None:
                state[key] = made
            self.events.append((revision, key, made))
        self.states[revision] = state

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
        state = self.states[revision or self.revision]
        found = [state[key] for key in sorted(state) if lies_in(key, span)]
        items = found[:limit] if limit else found
        count = len(found) if counted or count_only else len(items)
        more = len(found) > len(items)
        if count_only:
            items, more = [], False
        if keys_only:
            items = [without_value(item) for item in items]
        return RangeResult(tuple(items), count, more, self.revision)


def lies_in(key: bytes, span: Span) -> bool:
    return key >= span.start and (span.stop is None or key < span.stop)


def without_value(item: KeyValue) -> KeyValue:
    return KeyValue(
        item.key, b"", item.create_revision, item.mod_revision, item.version, item.lease
    )


def apply_all(oracle: Oracle, given: Sequence[KvCommand]) -> list[KvResult]:
    return [oracle.apply(command) for command in given]
