"""Recipes in a simulated cluster under faults: what the tests of each share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from raftkv import Kv
from raftkv.kv import KvResult
from raftkv.testing import Choices, SeededChoices
from raftkv.testing.nodes import SimCluster, run_virtual

T = TypeVar("T")
Body = Callable[[SimCluster[KvResult]], Awaitable[T]]

CALM_SECONDS = 3.0


def simulated(body: Body[T], choices: Choices | None = None) -> T:
    """What ``body`` answers, in a cluster of three that has a leader."""

    async def main() -> T:
        cluster = SimCluster(choices)
        cluster.loop.limit_ns = 3_600_000_000_000
        async with cluster:
            await cluster.leader()
            return await body(cluster)

    return run_virtual(main, choices)


def kv_of(cluster: SimCluster[KvResult], number: int) -> Kv:
    """The KV of one of the members, by number."""
    names = cluster.names
    return cluster.node(names[number % len(names)]).kv


async def disturb(cluster: SimCluster[KvResult], choices: Choices, times: int) -> None:
    """Faults one after another, each over before the next: cuts, pauses, changes of leader."""
    for _ in range(times):
        await anyio.sleep(0.2 + choices.choose(20) / 10)
        name = cluster.names[choices.choose(len(cluster.names))]
        kind = choices.choose(4)
        if kind == 0:
            with cluster.isolate(name):
                await anyio.sleep(1 + choices.choose(60) / 10)
        elif kind == 1:
            cluster.pause(name)
            await anyio.sleep(1 + choices.choose(100) / 10)
            cluster.resume(name)
        elif kind == 2:
            leader = await cluster.leader()
            with cluster.isolate(leader.name):
                await anyio.sleep(1 + choices.choose(60) / 10)
        else:
            first, second = cluster.names[0], cluster.names[1]
            with cluster.cut(first, second):
                await anyio.sleep(1 + choices.choose(30) / 10)
    await anyio.sleep(CALM_SECONDS)


def seeded(seed: int) -> Choices:
    """A course of faults of its own."""
    return SeededChoices(seed)
