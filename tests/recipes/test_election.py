"""Elections: one leader by token, observers see the last one, who resigns lets the next one in."""

from __future__ import annotations

import anyio
import pytest

from raftkv.errors import Error, LeaseNotFoundError
from raftkv.kv import KvResult
from raftkv.kv.client import op
from raftkv.recipes import Election
from raftkv.testing.nodes import SimCluster
from tests.recipes.rig import disturb, kv_of, seeded, simulated

Cluster = SimCluster[KvResult]


def test_candidates_lead_one_after_another_and_observers_see_each() -> None:
    async def body(cluster: Cluster) -> list[bytes]:
        seen: list[bytes] = []

        async def stand(number: int) -> None:
            await anyio.sleep(number)
            election = Election(kv_of(cluster, number), "chief")
            async with election.campaign(b"%d" % number) as leadership:
                await anyio.sleep(6)
                await leadership.proclaim(b"%d still" % number)
                await anyio.sleep(6)

        async def observe() -> None:
            async with Election(kv_of(cluster, 1), "chief").observe() as leaders:
                async for leader in leaders:
                    seen.append(leader.value)  # noqa: PERF401 - looked at when it is cut short

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(observe)
            async with anyio.create_task_group() as candidates:
                for number in range(3):
                    candidates.start_soon(stand, number)
            await anyio.sleep(2)
            tasks.cancel_scope.cancel()
        assert await Election(kv_of(cluster, 0), "chief").leader() is None
        return seen

    assert simulated(body) == [b"0", b"0 still", b"1", b"1 still", b"2", b"2 still"]


def test_a_leader_that_dies_is_replaced_and_can_proclaim_nothing_more() -> None:
    async def body(cluster: Cluster) -> None:
        leader = await cluster.leader()
        victim = next(name for name in cluster.names if name != leader.name)
        kv = leader.kv

        async def lead() -> None:
            with pytest.raises(LeaseNotFoundError):
                async with Election(cluster.node(victim).kv, "chief", ttl=4).campaign("old"):
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            await anyio.sleep(2)
            with cluster.isolate(victim):
                async with Election(kv, "chief", ttl=4).campaign("new") as leadership:
                    found = await Election(kv, "chief").leader()
                    assert found is not None
                    assert found.value == b"new"
                    await kv.revoke(leadership.lease)
                    with pytest.raises(LeaseNotFoundError):
                        await leadership.proclaim(b"gone")
                    tasks.cancel_scope.cancel()

    simulated(body)


@pytest.mark.parametrize("seed", range(3))
def test_what_leaders_write_on_their_condition_is_in_order_under_faults(seed: int) -> None:
    choices = seeded(100 + seed)

    async def body(cluster: Cluster) -> list[int]:
        async def stand(number: int) -> None:
            kv = kv_of(cluster, number)
            for _ in range(4):
                try:
                    async with Election(kv, "chief", ttl=3).campaign(b"%d" % number) as leads:
                        term = op.put("terms", b"%d" % leads.revision)
                        await kv.txn(when=[leads.is_mine], then=[term])
                        await anyio.sleep(0.5)
                except Error:
                    await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(stand, number)
            await disturb(cluster, choices, 6)
        kv = (await cluster.leader()).kv
        last = await kv.get("terms")
        assert last is not None
        terms: list[int] = []
        async with kv.watch("terms", start=1) as changes:
            async for change in changes:
                terms += [int(event.kv.value) for event in change.events]
                if change.revision >= last.mod_revision:
                    break
        return terms

    terms = simulated(body, choices)
    assert terms == sorted({*terms})
    assert len(terms) >= 3
