"""Single claims of watches: who waits is told, woken and never put to rest for long."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import StorageCorruptError, UsageError
from raftkv.kv import rows
from raftkv.kv.client.hub import Hub, Limits
from raftkv.kv.client.ringing import BUSY_NS, REST_MAX_NS, Bell
from raftkv.kv.client.watching import TAKEN_MAX
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING, Change
from raftkv.kv.requests import Put
from raftkv.kv.settings import KvSettings
from raftkv.runtime.hosting import HostThread
from raftkv.runtime.system import make_waker
from raftkv.storage.base import Space
from raftkv.watches import HostedWatch
from tests.kv.test_watch_storm import SETTINGS, Clock, Storm
from tests.kv.test_watching import AloneNode
from tests.kv.watchers import Collector, Member


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
