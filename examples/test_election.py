"""Elections under faults, each in a few milliseconds: run it with ``pytest``.

``raft_cluster`` is a cluster of real nodes in virtual time; ``pip install 'raftkv[testing]'`` gives
pytest that fixture.
"""

from __future__ import annotations

import anyio
import pytest

from raftkv.errors import OutcomeUnknownError, UnavailableError
from raftkv.kv import KvResult
from raftkv.testing.nodes import SimCluster
from raftkv.testing.plugin import RaftRun

Cluster = SimCluster[KvResult]


async def test_a_new_leader_is_elected_without_the_old_one(raft_cluster: Cluster) -> None:
    old = await raft_cluster.leader()
    await old.kv.put("color", b"blue")

    with raft_cluster.isolate(old.name):
        new = await raft_cluster.leader()
        assert new.name != old.name
        kept = await new.kv.get("color")
        assert kept is not None
        assert kept.value == b"blue"

    await anyio.sleep(5)  # of virtual time
    assert old.status().leader_name == new.name


@pytest.mark.raftkv(size=5, seeds=5)
async def test_a_minority_takes_no_writes(raft_cluster: Cluster) -> None:
    await raft_cluster.leader()
    with raft_cluster.partition(["n1", "n2"], ["n3", "n4", "n5"]):
        leader = await raft_cluster.leader()
        assert leader.name in ("n3", "n4", "n5")
        with pytest.raises((UnavailableError, OutcomeUnknownError)):
            await raft_cluster.node("n1").kv.put("color", b"red", timeout=3)


@pytest.mark.raftkv(seeds=5)
async def test_what_was_acknowledged_survives_the_crash_of_all(raft_cluster: Cluster) -> None:
    leader = await raft_cluster.leader()
    put = await leader.kv.put("color", b"blue")

    async with raft_cluster.crash("n1"), raft_cluster.crash("n2"), raft_cluster.crash("n3"):
        await anyio.sleep(1)

    kept = await (await raft_cluster.leader()).kv.get("color")
    assert kept is not None
    assert kept.mod_revision == put.revision


def test_a_paused_leader_is_replaced(raft_cluster: Cluster, raft_run: RaftRun) -> None:
    """A test that is no coroutine function drives the cluster with ``raft_run``."""
    old = raft_run(raft_cluster.leader())
    with raft_cluster.pause(old.name):
        new = raft_run(raft_cluster.leader())
    assert new.name != old.name
