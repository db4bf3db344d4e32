"""A founder whose store had to be begun anew is made whole, whatever kind of machine it has."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from raftkv.core import Input, State
from raftkv.machine import Machine
from raftkv.testing.nodes import SimCluster, run_virtual
from raftkv.testing.nodes.disk import SimDisk
from raftkv.testing.nodes.lists import DiskList, MemoryList


@pytest.mark.parametrize("machine", [MemoryList, DiskList])
def test_a_founder_that_lost_its_store_gets_an_image_before_any_was_taken(
    machine: Callable[[], Machine[int]],
) -> None:
    """The log begins with the cluster, and that has no image: the leader must take one."""
    disks = {f"n{number}": SimDisk(number=number) for number in (1, 2, 3)}

    async def main() -> None:
        async with SimCluster(machine=machine, disk=lambda name: disks[name]) as cluster:
            leader = await cluster.leader()
            for number in range(3):
                await leader.propose(b"%d" % number)
            lost = next(name for name in cluster.names if name != leader.name)
            cluster.crash(lost)
            assert disks[lost].lose_store()
            whole = anyio.Event()

            def stepped(name: str, before: State, _given: Input, after: State) -> None:
                if name == lost and before.recovering and not after.recovering:
                    whole.set()

            cluster.on_step.append(stepped)
            node = await cluster.start(lost)
            assert node.status().recovering is not None
            with anyio.fail_after(30):
                await whole.wait()
            assert await node.propose(b"3") == 4

    run_virtual(main)
