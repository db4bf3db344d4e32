"""The KV on three members: one history, whoever is asked, through restarts and snapshots."""

from __future__ import annotations

from typing import cast

import anyio
import pytest
from attrs import evolve

from raftkv.errors import ClosedError
from raftkv.kv.client import Kv, Replica
from raftkv.kv.client.reading import STEP_KEYS
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import PutResult
from raftkv.kv.settings import KvSettings
from tests.kv.rig import Door
from tests.node.rig import QUICK, Cluster, cluster

MEMBERS = (1, 2, 3)


def kv_of(made: Cluster, number: int) -> Kv:
    node = cast("Replica", Door(made.nodes[number], made.runtime))
    return Kv(node, machine_of(made, number), KvSettings(sessions=False))


def machine_of(made: Cluster, number: int) -> KvMachine:
    machine = made.machines[number]
    assert isinstance(machine, KvMachine)
    return machine


async def hashes(made: Cluster) -> set[str]:
    """Every member's state once it holds all that was acknowledged."""
    for number in MEMBERS:
        await made.nodes[number].read()
    return {machine_of(made, number).state_hash() for number in MEMBERS}


async def test_a_put_through_any_member_is_read_through_every_other() -> None:
    async with cluster(machine=KvMachine) as made:
        await made.leader()
        for number in MEMBERS:
            put = await kv_of(made, number).put("k", f"from {number}")
            assert put.revision == number + 1
            for reader in MEMBERS:
                found = await kv_of(made, reader).get("k")
                assert found is not None
                assert (found.value, found.version) == (b"from %d" % number, number)
        assert len(await hashes(made)) == 1


async def test_puts_made_at_once_get_one_revision_each() -> None:
    async with cluster(machine=KvMachine) as made:
        await made.leader()
        results: list[PutResult] = []

        async def put(number: int, key: str) -> None:
            results.append(await kv_of(made, number).put(key, "v", previous=True))

        async with anyio.create_task_group() as tasks:
            for turn in range(60):
                tasks.start_soon(put, MEMBERS[turn % 3], f"k{turn % 7}")
        assert sorted(result.revision for result in results) == list(range(2, 62))
        found = await kv_of(made, 1).range(prefix="k")
        assert sum(item.version for item in found.items) == 60
        assert len(await hashes(made)) == 1


async def test_a_member_that_was_away_comes_back_to_the_same_history() -> None:
    async with cluster(machine=KvMachine) as made:
        leader = await made.leader()
        away = made.followers(leader)[0].id
        await kv_of(made, leader.id).put("k", "before")
        await made.stop(away)
        leader = await made.leader()
        await kv_of(made, leader.id).put("k", "meanwhile")
        await kv_of(made, leader.id).delete("k")
        await made.start(away)
        kv = kv_of(made, away)
        assert await kv.get("k") is None
        past = [await kv.get("k", revision=revision) for revision in (1, 2, 3, 4)]
        assert [item and item.value for item in past] == [None, b"before", b"meanwhile", None]
        assert len(await hashes(made)) == 1


async def test_a_member_that_fell_behind_the_log_gets_the_rows_by_snapshot() -> None:
    settings = evolve(QUICK, retention_entries=5)
    async with cluster(machine=KvMachine, settings=settings) as made:
        leader = await made.leader()
        away = made.followers(leader)[0].id
        await kv_of(made, leader.id).put("gone", "v")
        had = made.nodes[away].status().last_index
        await made.stop(away)
        leader = await made.leader()
        kv = kv_of(made, leader.id)
        await kv.delete("gone")
        for number in range(300):
            await kv.put(f"k{number}", b"v" * 2000)
        assert leader.status().first_index > had + 1
        await made.start(away)
        assert await kv_of(made, away).count() == 300
        assert (await kv_of(made, away).put("after", "v")).revision == 304
        assert len(await hashes(made)) == 1


async def test_a_range_under_way_when_its_node_closes_ends_in_a_typed_error() -> None:
    async with cluster(1, machine=KvMachine) as made:
        await made.leader()
        kv = kv_of(made, 1)
        async with anyio.create_task_group() as tasks:
            for number in range(10 * STEP_KEYS):
                tasks.start_soon(kv.put, f"k{number}", "")

        async def read_on() -> None:
            while True:
                await kv.range(serializable=True)

        async def read() -> None:
            with pytest.raises(ClosedError):
                await read_on()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await made.tick()
            await made.stop(1)
