"""A removed member stays until those who remain can do without it: they may need its vote."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from raftkv.core import ApplyChange, Input, State
from raftkv.errors import Error, RemovedError
from raftkv.kv import KvResult
from raftkv.testing.choices import SeededChoices
from raftkv.testing.nodes import SimCluster, run_virtual


class Losing(SeededChoices):
    """Whoever loses power loses all that was not synced, and nothing else goes wrong."""

    def __init__(self) -> None:
        super().__init__(0)
        self.loses = False

    def choose(self, n: int) -> int:
        return n - 1 if self.loses else 0


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("size", [2, 4])
def test_the_power_fails_where_a_removal_is_known_to_be_committed(
    size: int, seconds: float
) -> None:
    """One of two, or of four with one more that is gone for good: the rest had no majority."""
    choices = Losing()

    async def main() -> None:
        async with SimCluster(choices, size=size) as cluster:
            cluster.loop.limit_ns = 100_000_000_000
            leader = (await cluster.leader()).name
            gone, *rest = [name for name in cluster.names if name != leader]
            knows = anyio.Event()

            def stepped(name: str, _before: State, given: Input, after: State) -> None:
                if name == leader and isinstance(given, ApplyChange) and after.membership.removed:
                    knows.set()

            cluster.on_step.append(stepped)
            if rest:  # one that does not hear of it, and is needed then
                cluster.isolate(rest[0])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_remove, cluster, leader, gone)
                await knows.wait()
                await anyio.sleep(seconds)
                choices.loses = True
                cluster.crash(leader, is_told=False)
                choices.loses = False
            await anyio.sleep(5)
            cluster.heal()
            if not rest:
                await cluster.start(leader)
            await (await cluster.leader()).kv.put("k", b"1")
            assert await cluster.failed(gone) is None, "it ended as it should"
            with pytest.raises(RemovedError):
                await cluster.start(gone)

    run_virtual(main, choices)


async def _remove(cluster: SimCluster[KvResult], leader: str, gone: str) -> None:
    with suppress(Error):  # the leader loses its power
        await cluster.node(leader).members.remove(gone)
