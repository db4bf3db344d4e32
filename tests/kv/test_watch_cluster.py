"""Watches on three members in virtual time: the same history on all, through whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import pytest

from raftkv.errors import (
    ClosedError,
    CompactedError,
    Error,
    MachineError,
    NodeStoppedError,
    UnavailableError,
)
from raftkv.kv import KvResult
from raftkv.kv.client import Kv
from raftkv.kv.commands import encode
from raftkv.kv.model import Change
from raftkv.kv.requests import Compact, KvCommand, Sweep
from raftkv.node.node import Node
from raftkv.node.settings import Settings
from raftkv.testing.nodes import SimCluster, run_virtual

T = TypeVar("T")
Sim = SimCluster[KvResult]


def with_cluster(body: Callable[[Sim], Awaitable[T]], settings: Settings | None = None) -> T:
    async def main() -> T:
        cluster: Sim = SimCluster(settings=settings)
        cluster.loop.limit_ns = 600_000_000_000
        async with cluster:
            return await body(cluster)

    return run_virtual(main)


async def followers(cluster: Sim) -> list[str]:
    leader = await cluster.leader()
    return [name for name in cluster.names if name != leader.name]


async def propose(cluster: Sim, command: KvCommand) -> None:
    """A command that there is no method for here."""
    leader: Node[KvResult] = await cluster.leader()
    await Node[KvResult].propose(leader, encode(command))


async def until(kv: Kv, start: int, last: int, key: str = "k") -> list[Change]:
    """Everything from ``start`` to ``last``."""
    found: list[Change] = []
    async with kv.watch(prefix=key, start=start) as changes:
        async for change in changes:
            found.append(change)
            if change.revision >= last:
                break
    return found


def test_every_member_shows_every_watcher_the_same() -> None:
    async def body(cluster: Sim) -> None:
        await cluster.leader()
        seen: dict[str, list[Change]] = {}

        async def read(name: str) -> None:
            seen[name] = await until(cluster.node(name).kv, 1, 61)

        async def write(name: str) -> None:
            for number in range(20):
                await cluster.node(name).kv.put(f"k{number % 3}", f"{name} {number}")

        async with anyio.create_task_group() as tasks:
            for name in cluster.names:
                tasks.start_soon(read, name)
                tasks.start_soon(write, name)
        one, *others = seen.values()
        assert [change.revision for change in one] == [*range(2, 62)]
        assert all(other == one for other in others)

    with_cluster(body)


def test_now_on_a_follower_is_behind_everything_acknowledged_anywhere() -> None:
    async def body(cluster: Sim) -> None:
        writer, watcher = (cluster.node(name).kv for name in await followers(cluster))
        for number in range(20):
            put = await writer.put("k", f"{number}")
            async with watcher.watch("k") as changes:
                assert changes.next_revision == put.revision + 1
                after = await writer.put("k", "after")
                change = await anext(changes)
                assert change.revision == after.revision
                assert await changes.progress() >= after.revision

    with_cluster(body)


def test_a_member_that_was_cut_off_shows_nothing_new_and_then_everything() -> None:
    async def body(cluster: Sim) -> None:
        name, other = await followers(cluster)
        put = await cluster.node(other).kv.put("k", "before")
        async with cluster.node(name).kv.watch("k", start=put.revision) as changes:
            assert (await anext(changes)).revision == put.revision
            with cluster.isolate(name):
                for number in range(5):
                    await cluster.node(other).kv.put("k", f"{number}")
                with pytest.raises(UnavailableError):
                    await changes.progress(timeout=1.0)
                with anyio.move_on_after(5) as waited:
                    await anext(changes)
                assert waited.cancelled_caught
            found = [(await anext(changes)).revision for _ in range(5)]
            assert found == [*range(put.revision + 1, put.revision + 6)]

    with_cluster(body)


def test_a_watch_goes_on_where_it_was_after_a_crash_and_on_another_member() -> None:
    async def body(cluster: Sim) -> None:
        name, other = await followers(cluster)
        kv = cluster.node(other).kv
        for number in range(4):
            await kv.put("k", f"{number}")
        watch = cluster.node(name).kv.watch("k", start=2)
        async with watch:
            assert [(await anext(watch)).revision for _ in range(2)] == [2, 3]
            cluster.crash(name)
        await kv.put("k", "meanwhile")
        assert [one.revision for one in await until(kv, watch.next_revision, 6)] == [4, 5, 6]
        await cluster.restart(name)
        kv = cluster.node(name).kv
        assert [one.revision for one in await until(kv, watch.next_revision, 6)] == [4, 5, 6]

    with_cluster(body)


def test_a_snapshot_does_not_turn_a_watch_back() -> None:
    async def body(cluster: Sim) -> None:
        name, other = await followers(cluster)
        kv = cluster.node(other).kv
        await kv.put("k", "before")
        async with cluster.node(name).kv.watch("k", start=1) as changes:
            assert (await anext(changes)).revision == 2
            with cluster.isolate(name):
                for number in range(60):
                    await kv.put("k", f"{number}")
            found = [(await anext(changes)).revision for _ in range(60)]
            assert found == [*range(3, 63)]
            assert cluster.node(name).status().first_index > 20  # its log did not get it there

    with_cluster(body, Settings(retention_entries=5, retention_catch_up_factor=1.0))


def test_a_snapshot_without_the_history_a_watch_needs_says_where_to_resume() -> None:
    async def body(cluster: Sim) -> None:
        name, other = await followers(cluster)
        kv = cluster.node(other).kv
        await kv.put("k", "before")
        async with cluster.node(name).kv.watch("k", start=1) as changes:
            assert (await anext(changes)).revision == 2
            with cluster.isolate(name):
                for number in range(60):
                    await kv.put("k", f"{number}")
                await propose(cluster, Compact(50))
                await propose(cluster, Sweep(1_000))
            with pytest.raises(CompactedError) as caught:
                await anext(changes)
            assert caught.value.revision == 50
        found = await until(cluster.node(name).kv, 50, 62)
        assert [one.revision for one in found] == [*range(50, 63)]

    with_cluster(body, Settings(retention_entries=5, retention_catch_up_factor=1.0))


class Broken:
    """An audience that stops its node."""

    def rows_written(self) -> None:
        raise MachineError("cannot be read")

    def ended(self) -> None:
        pass


def test_a_watch_ends_with_its_node() -> None:
    async def body(cluster: Sim) -> None:
        closed, failing = await followers(cluster)
        raised: dict[str, type[Error]] = {}

        async def read(name: str) -> None:
            try:
                async with cluster.node(name).kv.watch("other") as changes:
                    await anext(changes)
            except Error as error:
                raised[name] = type(error)

        async with anyio.create_task_group() as tasks:
            for name in (closed, failing):
                tasks.start_soon(read, name)
            await anyio.sleep(1)
            cluster.node(failing).tell(Broken())
            await (await cluster.leader()).kv.put("k", "v")
            assert isinstance(await cluster.failed(failing), NodeStoppedError)
            await cluster.node(closed).close()
        assert raised == {closed: ClosedError, failing: NodeStoppedError}

    with_cluster(body)
