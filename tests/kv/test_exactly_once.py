"""Writes of members that lose their leader midway: answered once, and done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from raftkv.errors import OutcomeUnknownError
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.kv.model import PutResult
from raftkv.kv.settings import KvSettings
from raftkv.node.settings import Settings
from raftkv.testing import SeededChoices
from raftkv.testing.nodes import Conditions, SimCluster, run_virtual
from raftkv.testing.nodes.network import Weather

SETTINGS = Settings(ballast_bytes=0)
WITH, WITHOUT = KvSettings(sessions=True), KvSettings(sessions=False)
_LIMIT_NS = 600_000_000_000
SLOW = Weather(latency_ns=(5_000_000,))

Body = Callable[[SimCluster[KvResult]], Awaitable[None]]


def in_cluster(body: Body, seed: int, kv: KvSettings, weather: Weather | None = None) -> None:
    choices = SeededChoices(seed)

    async def main() -> None:
        conditions = Conditions(weather=weather or Weather())
        cluster = SimCluster(choices, settings=SETTINGS, kv=kv, conditions=conditions)
        cluster.loop.limit_ns = _LIMIT_NS
        async with cluster:
            await body(cluster)

    run_virtual(main, choices)


async def follower(cluster: SimCluster[KvResult]) -> tuple[Node[KvResult], Node[KvResult]]:
    """The leader and another member, both of which have written before."""
    leader = await cluster.leader()
    other = next(node for name, node in cluster.nodes.items() if name != leader.name)
    await other.kv.put("warm", b"")
    return leader, other


@pytest.mark.parametrize("kv", [WITH, WITHOUT], ids=["with", "without"])
def test_a_put_whose_leader_dies_is_done_once_whenever_that_is(kv: KvSettings) -> None:
    outcomes: list[PutResult | OutcomeUnknownError] = []

    async def body(cluster: SimCluster[KvResult], *, after_ms: float) -> None:
        leader, other = await follower(cluster)

        async def write() -> None:
            try:
                outcomes.append(await other.kv.put("k", b"v", timeout=20))
            except OutcomeUnknownError as error:
                outcomes.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.sleep(after_ms / 1e3)
            cluster.crash(leader.name)
        await cluster.start(leader.name)
        found = await other.kv.get("k")
        last = outcomes[-1]
        if isinstance(last, PutResult):
            assert found is not None
            assert (found.version, found.mod_revision) == (1, last.revision)

    for number in range(24):
        after_ms = number * 1.5
        in_cluster(partial(body, after_ms=after_ms), number, kv, SLOW)
    unknown = sum(isinstance(one, OutcomeUnknownError) for one in outcomes)
    if kv.sessions:
        assert unknown == 0
    else:
        assert 0 < unknown < len(outcomes)  # the deaths come in time to matter
