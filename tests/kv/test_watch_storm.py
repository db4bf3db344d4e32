"""Readers in tasks of their own, which start, stop, are cancelled and closed amid everything else.

What one of them is given must be the history all the same, and nobody is left asleep: once the loop
has nothing to do, everybody has everything. The bounds are so low that they are met all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias
from unittest.mock import patch

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CompactedError
from raftkv.kv.client import watching
from raftkv.kv.client.hub import Hub, Limits
from raftkv.kv.client.ringing import REST_MAX_NS
from raftkv.kv.client.watching import Watch
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING, Change, Span, prefix_span
from raftkv.kv.requests import Compact, DeleteSpan, KvCommand, Put, Sweep, Txn
from raftkv.kv.settings import KvSettings
from raftkv.runtime.system import system_runtime
from tests.kv.model.naive import Model
from tests.kv.test_watching import AloneNode
from tests.kv.watchers import (
    TINY,
    check_marks,
    expected_changes,
    without_previous,
)

LIMITS = evolve(TINY, wakes=2)
SETTINGS = KvSettings(watch_buffer_revisions_max=3, watch_buffer_bytes_max=2_000)

QUIET_TURNS = 150
"""When nobody was given anything in so many turns of the loop, everybody waits."""


class Clock:
    """A clock that goes on a little whenever it is looked at."""

    def __init__(self) -> None:
        self.now_ns = 1_000
        self.longest_ns = 0

    def monotonic_ns(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    wall_ns = boottime_ns = monotonic_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        self.longest_ns = max(self.longest_ns, monotonic_ns - self.now_ns)
        await checkpoint()
        await checkpoint()
        self.now_ns = max(self.now_ns, monotonic_ns)


class Reader:
    """One watch, and the task that reads it, if one does."""

    def __init__(self, storm: Storm, wanted: Wanted, start: int, batch: int) -> None:
        self.storm = storm
        self.wanted = wanted
        self.batch = batch
        self.got: list[Change] = []
        self.watch: Watch = storm.watch(wanted, start)
        self.first = 0
        self.compacted = self.is_closed = False
        self.scope: anyio.CancelScope | None = None

    async def begin(self) -> bool:
        try:
            await self.watch.__aenter__()
        except CompactedError:
            return False
        self.first = self.watch.next_revision
        return True

    async def read(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                if self.batch == 1:
                    async for change in self.watch:
                        self.got.append(change)
                while True:
                    self.got += await self.watch.next(self.batch)
        except CompactedError:
            self.compacted = True
        except Exception:
            if not self.is_closed:
                raise
        finally:
            self.scope = None

    def check(self) -> None:
        model = self.storm.model
        expected = expected_changes(model, self.wanted, self.first)
        got = self.whole()
        if self.compacted or self.is_closed:
            expected = expected[: len(got)]
        assert [without_previous(one) for one in got] == [without_previous(one) for one in expected]
        check_marks(self.got)
        if self.compacted:
            assert self.watch.next_revision < model.floor

    def whole(self) -> list[Change]:
        """What came, the pieces of each revision put together."""
        whole: list[Change] = []
        pieces: list[Change] = []
        for change in self.got:
            if change.events:
                pieces.append(change)
            if change.events and not change.is_fragment:
                assert {one.revision for one in pieces} == {change.revision}
                events = tuple(event for one in pieces for event in one.events)
                whole.append(Change(change.revision, events))
                pieces = []
        assert self.compacted or self.is_closed or not pieces
        return whole


async def at_once() -> None:
    """Without a turn of the loop."""


class Storm:
    """A node, and everything that reads what it writes."""

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        settings: KvSettings = SETTINGS,
        limits: Limits = LIMITS,
    ) -> None:
        self.node = AloneNode()
        self.clock = Clock()
        self.node.runtime = evolve(system_runtime(), clock=self.clock)
        self.hub = Hub(self.node.rig.machine, settings, self.node.runtime, limits)
        self.node.audiences[:] = [self.hub]
        self.node.during_read = at_once  # marks are asked for before anybody has read
        self.lock = anyio.Lock()
        self.model = Model()
        self.tasks = tasks
        self.readers: list[Reader] = []
        self.bell: anyio.CancelScope | None = None

    def watch(self, wanted: Wanted, start: int) -> Watch:
        return Watch(
            self.node,  # pyright: ignore[reportArgumentType] - it has what a watch needs
            self.hub,
            self.lock,
            wanted,
            start=start,
            serializable=False,
            progress_seconds=None,
            timeout=5.0,
        )

    def write(self, commands: list[KvCommand]) -> None:
        for command in commands:
            self.model.apply(command)
        self.node.rig.apply(commands)
        self.hub.rows_written()

    def reader(self, which: int) -> Reader | None:
        return self.readers[which % len(self.readers)] if self.readers else None

    def start(self, reader: Reader) -> None:
        if reader.scope is None and not reader.compacted and not reader.is_closed:
            scope = reader.scope = anyio.CancelScope()
            self.tasks.start_soon(reader.read, scope)

    async def ring_with_rests(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self.hub.bell.run()

    async def settle(self) -> None:
        """Until the loop has nothing to do."""
        seen = -1
        while seen != (seen := sum(len(one.got) for one in self.readers)):
            for _ in range(QUIET_TURNS):
                await checkpoint()

    async def end(self) -> None:
        await self.settle()  # who was cancelled has ended
        self.write([Put(b"a", b"last"), Put(b"b", b"last")])
        for reader in self.readers:
            self.start(reader)
        await self.settle()
        for reader in self.readers:
            reader.check()
        assert self.hub.bell.woken == 0
        assert self.hub.buffered_bytes == 0
        assert self.clock.longest_ns <= REST_MAX_NS
        for reader in self.readers:
            reader.is_closed = True
            reader.watch.close()
        await self.settle()
        assert (self.hub.count, self.hub.buffered_bytes, self.hub.bell.woken) == (0, 0, 0)
        assert all(reader.scope is None for reader in self.readers)


Step: TypeAlias = Callable[[Storm], Awaitable[None]]

some_keys = st.sampled_from([b"a", b"ab", b"b"])
some_puts = st.builds(Put, some_keys, st.sampled_from([b"1", b"2", b"v" * 400]))
some_spans = st.sampled_from([EVERYTHING, Span(b"a", b"a\0"), prefix_span(b"a")])
some_txns = st.lists(some_puts, min_size=2, max_size=3, unique_by=lambda put: put.key).map(
    lambda some: Txn(then=tuple(some))
)
some_changes: st.SearchStrategy[KvCommand] = st.one_of(
    some_puts, some_puts, some_txns, st.builds(DeleteSpan, some_spans)
)
asked = st.builds(
    Wanted, some_spans, st.just(False), st.booleans(), st.just(True), st.sampled_from([0, 600, 600])
)
places = st.integers(0, 7)


def writing(commands: list[KvCommand]) -> Step:
    async def step(storm: Storm) -> None:
        storm.write(commands)

    return step


def beginning(wanted: Wanted, back: int, batch: int) -> Step:
    async def step(storm: Storm) -> None:
        start = max(1, storm.model.revision + 1 - back) if back else 0
        reader = Reader(storm, wanted, start, batch)
        if await reader.begin():
            storm.readers.append(reader)
            storm.start(reader)

    return step


def turning(turns: int) -> Step:
    async def step(storm: Storm) -> None:
        del storm
        for _ in range(turns):
            await checkpoint()

    return step


def compacting(back: int) -> Step:
    async def step(storm: Storm) -> None:
        storm.write([Compact(max(0, storm.model.revision - back)), Sweep(1 + back)])

    return step


def cancelling(which: int) -> Step:
    async def step(storm: Storm) -> None:
        reader = storm.reader(which)
        if reader is not None and reader.scope is not None:
            reader.scope.cancel()

    return step


def starting(which: int) -> Step:
    async def step(storm: Storm) -> None:
        reader = storm.reader(which)
        if reader is not None:
            storm.start(reader)

    return step


def closing(which: int) -> Step:
    async def step(storm: Storm) -> None:
        reader = storm.reader(which)
        if reader is not None:
            reader.is_closed = True
            reader.watch.close()

    return step


def marking(which: int) -> Step:
    async def step(storm: Storm) -> None:
        reader = storm.reader(which)
        if reader is not None and not (reader.is_closed or reader.compacted):
            with suppress(CompactedError):
                await reader.watch.progress()

    return step


async def ringing(storm: Storm) -> None:
    """The task that gives the node its time begins, or ends."""
    if storm.bell is None:
        storm.bell = anyio.CancelScope()
        storm.tasks.start_soon(storm.ring_with_rests, storm.bell)
    else:
        storm.bell.cancel()
        storm.bell = None


writes = st.builds(writing, st.lists(some_changes, min_size=1, max_size=4))
watches = st.builds(beginning, asked, st.integers(-3, 9), st.sampled_from([1, 1, 2, 64]))
turns = st.builds(turning, st.integers(1, 4))
steps: st.SearchStrategy[Step] = st.one_of(
    writes, writes, writes, writes, watches, watches, turns, turns, turns,
    st.builds(cancelling, places),
    st.builds(cancelling, places),
    st.builds(starting, places),
    st.builds(starting, places),
    st.builds(closing, places),
    st.builds(marking, places),
    st.builds(marking, places),
    st.builds(compacting, st.integers(0, 8)),
    st.just(ringing),
)  # fmt: skip


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=max(50, settings().max_examples // 2))
@given(st.lists(watches, min_size=2, max_size=5), st.lists(steps, min_size=10, max_size=50))
def test_nobody_is_left_asleep_and_nothing_is_missed(
    backend: str, first: list[Step], then: list[Step]
) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            storm = Storm(tasks)
            for step in (*first, *then):
                await step(storm)
            await storm.end()
            tasks.cancel_scope.cancel()

    with patch.object(watching, "TAKEN_MAX", 2):  # so that they often line up to go on
        anyio.run(main, backend=backend)
