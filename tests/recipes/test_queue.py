"""Queues: first in, first out; nothing lost, nothing doubled, nothing left of who gave up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from raftkv.errors import Error, OutcomeUnknownError
from raftkv.kv import KvResult
from raftkv.kv.model import RangeResult
from raftkv.recipes import Item, Queue
from raftkv.testing.nodes import SimCluster
from tests.recipes.rig import disturb, kv_of, seeded, simulated

Cluster = SimCluster[KvResult]


def test_items_come_out_in_the_order_in_which_they_were_put() -> None:
    async def body(cluster: Cluster) -> list[bytes]:
        for number in range(100):
            await Queue(kv_of(cluster, number), "work").put(b"%d" % number)
        queue = Queue(kv_of(cluster, 2), "work")
        assert await queue.count() == 100
        found = [(await queue.get()).value for _ in range(100)]
        assert await queue.get_nowait() is None
        return found

    assert simulated(body) == [b"%d" % number for number in range(100)]


def test_a_taker_waits_for_an_item_and_takes_nothing_if_it_gives_up() -> None:
    async def body(cluster: Cluster) -> None:
        queue = Queue(kv_of(cluster, 0), "work")
        with anyio.move_on_after(3) as scope:
            await queue.get()
        assert scope.cancelled_caught
        got: list[Item] = []

        async def take() -> None:
            got.append(await Queue(kv_of(cluster, 1), "work").get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.sleep(3)
            await queue.put("first")
        assert [item.value for item in got] == [b"first"]

    simulated(body)


def test_an_item_in_work_is_kept_from_others_and_comes_back_if_the_work_fails() -> None:
    async def body(cluster: Cluster) -> None:
        queue = Queue(kv_of(cluster, 0), "work", ttl=4)
        await queue.put("a")
        await queue.put("b")

        async def fail() -> None:
            async with queue.taken() as item:
                assert item.value == b"a"
                assert (await queue.get()).value == b"b"
                assert await queue.get_nowait() is None
                raise RuntimeError("the work failed")

        with pytest.raises(RuntimeError, match="the work failed"):
            await fail()
        async with queue.taken() as item:
            assert item.value == b"a"
        assert await queue.count() == 0
        left = await kv_of(cluster, 0).range(prefix="work/")
        assert [one.key for one in left.items] == [b"work/turn"]

    simulated(body)


def test_an_item_whose_taker_is_cut_off_is_worked_on_by_another() -> None:
    async def body(cluster: Cluster) -> None:
        leader = await cluster.leader()
        victim = next(name for name in cluster.names if name != leader.name)
        await Queue(leader.kv, "work").put("a")

        async def take() -> None:
            with pytest.raises(Error):
                async with Queue(cluster.node(victim).kv, "work", ttl=4).taken():
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.sleep(2)
            with cluster.isolate(victim):
                async with Queue(leader.kv, "work", ttl=4).taken() as item:
                    assert item.value == b"a"
                await anyio.sleep(10)

    simulated(body)


def test_a_compaction_between_two_pages_of_items_is_not_the_takers_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(cluster: Cluster) -> None:
        kv = kv_of(cluster, 0)
        queue = Queue(kv, "work")
        for number in range(70):  # more than a page of items that others have
            await queue.put(str(number))
        for item in (await kv.range(prefix="work/items/")).items[:-1]:
            await kv.put(item.key.replace(b"items", b"claims"), "")
        first_read: Callable[..., Awaitable[RangeResult]] = kv.range
        read: list[RangeResult] = []

        async def compact_behind_the_first(*span: bytes, **how: int) -> RangeResult:
            found = await first_read(*span, **how)
            if len(read) == 1:  # the page, and the claims as of then
                await kv.compact((await kv.put("other", "")).revision)
            read.append(found)
            return found

        monkeypatch.setattr(kv, "range", compact_behind_the_first)
        found = await queue.get_nowait()
        assert found is not None
        assert found.value == b"69"
        assert len(read) > 4

    simulated(body)


@pytest.mark.parametrize("seed", range(4))
def test_no_item_is_lost_or_doubled_under_faults(seed: int) -> None:
    choices = seeded(200 + seed)
    stored: set[bytes] = set()
    perhaps: set[bytes] = set()
    taken: list[bytes] = []
    unsure = 0

    async def body(cluster: Cluster) -> None:
        async def put(number: int) -> None:
            for turn in range(12):
                value = b"%d %d" % (number, turn)
                try:
                    await Queue(kv_of(cluster, number), "work").put(value)
                    stored.add(value)
                except OutcomeUnknownError:
                    perhaps.add(value)
                except Error:
                    await anyio.sleep(1)
                await anyio.sleep(0.5)

        async def take(number: int) -> None:
            nonlocal unsure
            queue = Queue(kv_of(cluster, number), "work")
            while True:
                try:
                    taken.append((await queue.get()).value)
                except OutcomeUnknownError:
                    unsure += 1
                except Error:
                    await anyio.sleep(1)

        async with anyio.create_task_group() as takers:
            for number in range(2):
                takers.start_soon(take, number)
            async with anyio.create_task_group() as putters:
                for number in range(3):
                    putters.start_soon(put, number)
                await disturb(cluster, choices, 5)
            await anyio.sleep(20)
            takers.cancel_scope.cancel()
        assert await Queue((await cluster.leader()).kv, "work").count() == 0

    simulated(body, choices)
    assert len(taken) == len({*taken}), "an item was taken twice"
    assert {*taken} <= stored | perhaps
    assert len(stored - {*taken}) <= unsure, "an item was lost"
    for number in range(3):
        own = [value for value in taken if value.startswith(b"%d " % number)]
        assert own == sorted(own, key=lambda value: int(value.split()[1])) or unsure
    assert len(stored) >= 20
