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

from raftkv.errors import CompactedError, StorageCorruptError, UsageError
from raftkv.kv import rows
from raftkv.kv.client import watching
from raftkv.kv.client.hub import Hub, Limits
from raftkv.kv.client.ringing import BUSY_NS, REST_MAX_NS, Bell
from raftkv.kv.client.watching import TAKEN_MAX, Watch
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING, Change, Span, prefix_span
from raftkv.kv.requests import Compact, DeleteSpan, KvCommand, Put, Sweep, Txn
from raftkv.kv.settings import KvSettings
from raftkv.runtime.hosting import HostThread
from raftkv.runtime.system import make_waker, system_runtime
from raftkv.storage.base import Space
from raftkv.watches import HostedWatch
from tests.kv.model.naive import Model
from tests.kv.test_watching import AloneNode
from tests.kv.watchers import (
    TINY,
    Collector,
    Member,
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
    Wanted, some_spans, st.just(False), st.booleans(), st.just(True), st.sampled_from([0, 600])
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


# --- found by attacking it ----------------------------------------------------------------------


async def test_who_reads_before_a_cancelled_reader_has_ended_is_told_and_not_left_asleep() -> None:
    node = AloneNode()
    async with node.kv.watch("a") as changes, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def read() -> None:
            with scope:
                await changes.next()

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        with pytest.raises(UsageError, match="one task"):
            await changes.next()
        await anyio.wait_all_tasks_blocked()
        await node.put("a")
        assert [one.revision for one in await changes.next()] == [2]


async def test_a_mark_may_be_asked_for_while_another_task_reads() -> None:
    node = AloneNode()
    got: list[Change] = []
    async with node.kv.watch("a") as changes, anyio.create_task_group() as tasks:

        async def read() -> None:
            got.append(await anext(changes))

        tasks.start_soon(read)
        await node.put("b")
        await anyio.wait_all_tasks_blocked()
        assert await changes.progress() == 2
    assert [(one.revision, one.events) for one in got] == [(2, ())]


async def test_a_watch_closed_after_a_long_quiet_time_does_not_put_the_others_to_rest() -> None:
    clock = Clock()
    woken: list[Sleeping] = []
    bell = Bell(clock, make_waker, 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.run)
        await anyio.wait_all_tasks_blocked()
        bell.ring({Sleeping(woken): None})
        bell.ran()
        clock.now_ns += 60_000_000_000
        bell.written()
        bell.ring_now(Sleeping(woken))
        bell.ran()
        bell.ring({Sleeping(woken): None})
        await anyio.wait_all_tasks_blocked()
        assert len(woken) == 3
        assert clock.longest_ns < BUSY_NS
        tasks.cancel_scope.cancel()


async def test_a_loop_that_is_stalled_amid_a_burst_makes_no_long_rest() -> None:
    clock = Clock()
    woken: list[Sleeping] = []
    bell = Bell(clock, make_waker, 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.run)
        await anyio.wait_all_tasks_blocked()
        bell.ring(dict.fromkeys([Sleeping(woken) for _ in range(3)]))
        bell.ran()
        clock.now_ns += 60_000_000_000
        bell.written()
        bell.ran()
        assert len(woken) == 2
        await anyio.wait_all_tasks_blocked()
        assert len(woken) == 3
        assert clock.longest_ns <= REST_MAX_NS
        tasks.cancel_scope.cancel()


class Sleeping:
    """One whom a bell may wake."""

    def __init__(self, woken: list[Sleeping]) -> None:
        self.woken = woken

    def wake(self) -> bool:
        self.woken.append(self)
        return True


async def test_of_many_readers_with_much_to_read_few_read_in_one_turn_of_the_loop() -> None:
    readers, wakes, puts = 12, 2, 3 * TAKEN_MAX + 1
    taken: list[int] = []
    most = 0
    async with anyio.create_task_group() as tasks:
        storm = Storm(tasks, KvSettings(), Limits(wakes=wakes))

        async def read() -> None:
            async with storm.watch(Wanted(EVERYTHING), 0) as changes:
                while True:
                    taken.append((await anext(changes)).revision)

        for _ in range(readers):
            tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        storm.write([Put(b"a", b"v") for _ in range(puts)])
        while len(taken) < readers * puts:
            before = len(taken)
            await checkpoint()
            most = max(most, len(taken) - before)
        tasks.cancel_scope.cancel()
    assert most <= 2 * wakes * TAKEN_MAX  # a burst, and the next where the first of it is through


def test_a_watcher_that_met_corruption_gives_nothing_more() -> None:
    member = Member(SETTINGS, Limits(), is_alone=True)
    member.do(*[Put(key, b"v") for key in (b"a", b"b", b"a", b"b")])
    reader = Collector(member, Wanted(EVERYTHING), 2)
    batch = member.rig.store.batch()
    lost = [*member.rig.store.scan(Space.MACHINE, rows.HISTORY, rows.HISTORY_STOP)]
    batch.delete_range(Space.MACHINE, rows.HISTORY, rows.HISTORY_STOP)
    member.rig.store.write(batch)
    reader.watcher.step()
    assert isinstance(reader.watcher.failure, StorageCorruptError)
    batch = member.rig.store.batch()
    for key, row in lost:
        batch.put(Space.MACHINE, key, row)
    member.rig.store.write(batch)
    reader.watcher.step()
    assert reader.watcher.take() is None


async def test_who_gives_up_entering_a_watch_of_another_thread_leaves_none_there() -> None:
    with HostThread("storm") as thread:
        node = thread.portal.call(AloneNode)
        (hub,) = node.audiences
        assert isinstance(hub, Hub)

        begin = thread.portal.call(anyio.Event)
        node.during_read = begin.wait

        def count() -> int:
            return hub.count

        watch = HostedWatch(thread, node.kv.watch("a"))
        scope = anyio.CancelScope()

        async def enter() -> None:
            with scope:
                async with watch:
                    raise AssertionError("it was cancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            while not node.reads:
                await checkpoint()
            thread.portal.call(begin.set)
            while thread.portal.look(count) == 0:
                pass  # without a turn for this loop, which is not to hear of it
            scope.cancel()
        assert thread.portal.look(count) == 0
