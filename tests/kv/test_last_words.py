"""A node that is closed ends its session, if a leader answers at once; else it goes without."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

import raftkv
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.kv.leases import read_leases
from raftkv.kv.settings import KvSettings
from raftkv.node.settings import Settings
from raftkv.open import plan
from raftkv.runtime.system import system_runtime
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.testing import SeededChoices
from raftkv.testing.nodes import Conditions, SimCluster, run_virtual
from raftkv.testing.nodes.network import Weather
from raftkv.transport.memory import MemoryNetwork
from tests.node.rig import QUICK

SETTINGS = Settings(ballast_bytes=0)
ELECTION_NS = SETTINGS.election_ticks * SETTINGS.tick_ns
SLOW = Weather(latency_ns=(5_000_000,))


def sessions(node: Node[KvResult]) -> int:
    """How many sessions are open, as far as the member knows."""
    machine = node.kv._machine  # pyright: ignore[reportPrivateUsage] - its rows tell
    return sum(one.is_session for one in read_leases(machine.store, 0, 100))


# --- on both backends -----------------------------------------------------------------------------


async def test_whoever_is_closed_takes_its_session_along() -> None:
    async with raftkv.open_cluster(None, size=3, settings=QUICK) as cluster:
        leader = await cluster.leader()
        for node in cluster.nodes:
            await node.kv.put("k", node.name)
        await leader.kv.get("k")
        assert sessions(leader) == 3
        follower = next(node for node in cluster.nodes if node is not leader)
        await cluster.stop(follower.name)
        await leader.kv.get("k")
        assert sessions(leader) == 2
        await cluster.stop(leader.name)
        (last,) = cluster.nodes
        assert sessions(last) == 1


@asynccontextmanager
async def alone(disk: MemoryDisk) -> AsyncGenerator[Node[KvResult]]:
    chosen = plan("n1", {"n1": "n1:1"}, "raftkv")
    async with raftkv.open_node(
        "unused",
        name="n1",
        cluster={"n1": "n1:1"},
        storage=open_memory(chosen.cluster_id, chosen.me.id, disk=disk),
        transport=MemoryNetwork(system_runtime()).endpoint("n1:1"),
        settings=QUICK,
    ) as node:
        await node.ready()
        yield node


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_who_is_cancelled_says_nothing_more(is_cancelled: bool) -> None:
    disk = MemoryDisk()
    with anyio.CancelScope() as scope:
        async with alone(disk) as node:
            await node.kv.put("k", b"")
            if is_cancelled:
                scope.cancel()
                await anyio.sleep_forever()
    async with alone(disk) as node:
        assert sessions(node) == is_cancelled


# --- by a clock that counts -----------------------------------------------------------------------


def closed_after(harm: Callable[[SimCluster[KvResult], str, str], Awaitable[None]]) -> int:
    """Nanoseconds that a follower which has written takes to close, when ``harm`` was done."""
    choices = SeededChoices(1)
    took: list[int] = []

    async def main() -> None:
        cluster = SimCluster(
            choices, settings=SETTINGS, kv=KvSettings(), conditions=Conditions(weather=SLOW)
        )
        async with cluster:
            leader = await cluster.leader()
            name = next(name for name in cluster.names if name != leader.name)
            await cluster.node(name).kv.put("k", b"")
            await harm(cluster, name, leader.name)
            before_ns = cluster.loop.now_ns
            await cluster.stop(name)
            took.append(cluster.loop.now_ns - before_ns)

    run_virtual(main, choices)
    return took[0]


async def nothing(_cluster: SimCluster[KvResult], _name: str, _leader: str) -> None:
    await checkpoint()


def test_with_a_leader_it_takes_a_round() -> None:
    assert 20_000_000 < closed_after(nothing) < 60_000_000


def test_without_a_leader_nobody_waits() -> None:
    async def harm(cluster: SimCluster[KvResult], name: str, _leader: str) -> None:
        cluster.isolate(name)
        await anyio.sleep(3 * ELECTION_NS / 1e9)
        assert cluster.node(name).status().leader == 0

    assert closed_after(harm) < 1_000_000


def test_a_leader_that_is_seen_to_go_is_not_waited_for() -> None:
    async def harm(cluster: SimCluster[KvResult], _name: str, leader: str) -> None:
        await checkpoint()
        cluster.loop.call_later(0.002, cluster.crash, leader)

    assert closed_after(harm) < 2 * SETTINGS.tick_ns


def test_a_leader_that_is_silent_is_waited_for_no_longer_than_an_election() -> None:
    async def harm(cluster: SimCluster[KvResult], name: str, leader: str) -> None:
        await checkpoint()
        cluster.partition([name], [leader])

    assert SETTINGS.tick_ns < closed_after(harm) < ELECTION_NS + 2 * SETTINGS.tick_ns


def test_a_lost_majority_is_not_waited_for_longer_than_a_close_may_take() -> None:
    async def harm(cluster: SimCluster[KvResult], name: str, leader: str) -> None:
        await cluster.node(leader).transfer_leadership(name)
        await cluster.leader()
        for other in cluster.names:
            if other != name:
                cluster.crash(other)

    assert closed_after(harm) < 1_000_000_000
