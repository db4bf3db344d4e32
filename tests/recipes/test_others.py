"""Counters and barriers."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from raftkv.errors import Error, InvalidArgumentError
from raftkv.kv import KvResult
from raftkv.recipes import Barrier, Counter, Gathering
from raftkv.testing.nodes import SimCluster
from tests.recipes.rig import kv_of, simulated

Cluster = SimCluster[KvResult]


def test_additions_of_many_at_once_all_count() -> None:
    async def body(cluster: Cluster) -> None:
        answers: list[int] = []

        async def add(number: int) -> None:
            counter = Counter(kv_of(cluster, number), "visits")
            answers.extend([await counter.add(number) for _ in range(5)])

        async with anyio.create_task_group() as tasks:
            for number in range(1, 5):
                tasks.start_soon(add, number)
        total = 5 * (1 + 2 + 3 + 4)
        assert await Counter(kv_of(cluster, 0), "visits").get() == total
        assert max(answers) == total
        assert len({*answers}) == len(answers)
        assert await Counter(kv_of(cluster, 0), "visits").add(-total) == 0

    simulated(body)


def test_a_counter_refuses_what_is_no_number() -> None:
    async def body(cluster: Cluster) -> None:
        kv = kv_of(cluster, 0)
        counter = Counter(kv, "visits")
        assert await counter.get() == 0
        with pytest.raises(InvalidArgumentError):
            await counter.add(True)
        await kv.put("visits", "many")
        with pytest.raises(InvalidArgumentError, match="no number"):
            await counter.add()
        found = await kv.get("visits")
        assert found is not None
        assert found.value == b"many"

    simulated(body)


def test_a_barrier_lets_everybody_go_when_it_is_lifted() -> None:
    async def body(cluster: Cluster) -> None:
        barrier = Barrier(kv_of(cluster, 0), "gate")
        await barrier.wait()
        assert await barrier.hold()
        assert not await barrier.hold()
        through: list[int] = []

        async def wait(number: int) -> None:
            await Barrier(kv_of(cluster, number), "gate").wait()
            through.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.sleep(5)
            assert not through
            assert await barrier.release()
        assert len(through) == 3
        assert not await barrier.release()

    simulated(body)


def test_a_gathering_begins_when_all_have_come_and_ends_when_all_have_left() -> None:
    async def body(cluster: Cluster) -> None:
        inside, most, left = 0, 0, 0

        async def take_part(number: int, turn: int) -> None:
            nonlocal inside, most, left
            await anyio.sleep(number)
            async with Gathering(kv_of(cluster, number), "start", 3).joined():
                inside += 1
                await anyio.sleep(3 - number + turn)
                most = max(most, inside)
                inside -= 1
                left += 1
            assert left % 3 == 0

        for turn in range(3):
            most = 0
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(take_part, number, turn)
            assert most == 3
        assert not (await kv_of(cluster, 0).range(prefix="start/")).items

    simulated(body)


def test_a_party_that_dies_lets_the_others_leave() -> None:
    async def body(cluster: Cluster) -> None:
        leader = await cluster.leader()
        victim, other = (name for name in cluster.names if name != leader.name)

        async def doomed() -> None:
            with suppress(Error):  # it is killed
                async with Gathering(cluster.node(victim).kv, "start", 2, ttl=4).joined():
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(doomed)
            async with Gathering(cluster.node(other).kv, "start", 2, ttl=4).joined():
                cluster.crash(victim)
            tasks.cancel_scope.cancel()

    simulated(body)


@pytest.mark.parametrize("parties", [0, -1, True, 2.0])
def test_a_gathering_has_a_number_of_parties(parties: int) -> None:
    async def body(cluster: Cluster) -> None:
        with pytest.raises(InvalidArgumentError):
            Gathering(kv_of(cluster, 0), "start", parties)

    simulated(body)
