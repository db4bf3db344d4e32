"""Upkeep on three members: one quota, one floor, one hash, whoever is asked."""

from __future__ import annotations

from typing import cast

import pytest
from attrs import evolve

from raftkv.errors import CompactedError, NoSpaceError
from raftkv.kv.alarms import KvAlarm
from raftkv.kv.client import Kv, Replica
from raftkv.kv.commands import encode
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import Done, KvHash
from raftkv.kv.requests import AlarmKind, Sweep
from raftkv.kv.settings import KvSettings
from raftkv.node.node import Node
from tests.kv.rig import Door
from tests.node.rig import QUICK, Cluster, cluster

MEMBERS = (1, 2, 3)


def kv_of(made: Cluster, number: int, quota_bytes: int = 0) -> Kv:
    machine = made.machines[number]
    assert isinstance(machine, KvMachine)
    settings = KvSettings(sessions=False, quota_bytes=quota_bytes)
    return Kv(cast("Replica", Door(made.nodes[number], made.runtime)), machine, settings)


async def sweep(node: Node[object]) -> None:
    """As the keeper's chores do, which these nodes are without."""
    left = 1
    while left:
        result = await node.propose(encode(Sweep(7)))
        assert isinstance(result, Done)
        left = result.left


async def hashes(made: Cluster, revision: int) -> set[KvHash]:
    return {await kv_of(made, number).hash(revision) for number in MEMBERS}


async def test_members_have_one_hash_however_they_came_to_their_rows() -> None:
    settings = evolve(QUICK, retention_entries=5)
    async with cluster(machine=KvMachine, settings=settings) as made:
        leader = await made.leader()
        away = made.followers(leader)[0].id
        await kv_of(made, away).put("k", "before")
        await made.stop(away)
        leader = await made.leader()
        kv = kv_of(made, leader.id)
        for number in range(60):
            await kv.put(f"k{number % 9}", b"%d" % number * 800)
        await kv.delete(prefix="k1")
        await kv.compact(50)
        await made.start(away)  # the others are not swept yet; it gets their rows
        assert len(await hashes(made, 55)) == 1
        floor = await kv_of(made, away).compact(60)
        await sweep(made.nodes[away])
        before = await hashes(made, 62)
        assert len(before) == 1
        for number in MEMBERS:
            status = kv_of(made, number).status()
            assert (status.revision, status.floor, status.unswept) == (63, 60, 0)
            with pytest.raises(CompactedError) as caught:
                await kv_of(made, number).get("k0", revision=59)
            assert caught.value.revision == floor.floor == 60
        await kv.put("after", "")
        assert await hashes(made, 62) == before
        assert {kv_of(made, number).status().size_bytes for number in MEMBERS} == {
            kv.status().size_bytes
        }


async def test_a_member_that_finds_the_store_full_stops_the_puts_of_all() -> None:
    async with cluster(machine=KvMachine) as made:
        leader = await made.leader()
        finder, other = made.followers(leader)
        kv = kv_of(made, finder.id, quota_bytes=1_000)
        with pytest.raises(NoSpaceError):
            await kv.put("k", b"v" * 2_000)
        mine = KvAlarm(AlarmKind.NO_SPACE, finder.id)
        with pytest.raises(NoSpaceError):
            await kv_of(made, other.id).put("k", "")
        assert await kv_of(made, leader.id).alarms() == (mine,)
        assert await kv_of(made, other.id).disarm() == (mine,)
        await kv.put("k", "")
