"""A member whose data directory is an old copy of itself counts for nothing until it is whole."""

from __future__ import annotations

import pytest

from raftkv.errors import DeadlineError
from raftkv.storage.memory import MemoryDisk
from tests.node.rig import Cluster, cluster


def _copy_of(disk: MemoryDisk) -> MemoryDisk:
    """A closed disk, as a backup keeps it."""
    copy = MemoryDisk(disk.disk_uuid)
    copy.witness.mark = disk.witness.mark
    copy.is_new = disk.is_new
    for space, rows in disk.rows.items():
        copy.rows[space].keys = [*rows.keys]
        copy.rows[space].values = {**rows.values}
    return copy


async def _connected(made: Cluster) -> None:
    await made.until(
        lambda: all(
            peer.is_connected
            for node in made.nodes.values()
            for peer in node.status().peers
            if peer.id in made.nodes
        )
    )
    for node in [*made.nodes.values()]:
        await node.ready()


async def test_a_copy_opened_as_often_as_the_original_cannot_lose_an_acknowledged_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster() as made:
        await _connected(made)
        await made.stop(3)
        backup = _copy_of(made.disks[3])
        await made.start(3)
        await _connected(made)
        await made.stop(1)
        await made.leader()
        await made.nodes[2].propose(b"acknowledged")
        await made.stop(3)
        await made.stop(2)
        made.disks[3] = backup
        await made.start(1)
        await made.start(3)
        # Member 1 has never heard of the write: only its memory of member 3 keeps them apart.
        with pytest.raises(DeadlineError):
            await made.nodes[1].propose(b"in its place", timeout=1.0)
        assert "another start 2" in caplog.text
        # With the member that has it, it is there.
        await made.start(2)
        await made.nodes[1].ready()
        assert b"acknowledged" in made.commands(1)


async def test_a_leader_refuses_a_copy_that_lacks_what_the_original_acknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster() as made:
        await _connected(made)
        await made.stop(3)
        backup = _copy_of(made.disks[3])
        await made.start(3)
        await _connected(made)
        leader = await made.leader()
        while leader.id != 2:
            await leader.transfer_leadership(2)
            leader = await made.leader()
        await leader.propose(b"acknowledged")
        match = leader.status().last_index
        await made.until(lambda: (leader.status().peers[-1].match or 0) >= match)
        await made.stop(3)
        # Opened once more where nobody saw it: by its count it could be the original's next start.
        made.disks[3] = backup
        made.setup(3).storage.close()
        await made.start(3)
        await made.until(lambda: "acknowledged entry" in caplog.text)
        assert [peer.id for peer in leader.status().peers if peer.is_connected] == [1]
