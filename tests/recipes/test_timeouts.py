"""A timeout is for everything up to the body: lease, place and wait, majority or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from raftkv import Kv
from raftkv.errors import DeadlineError, InvalidArgumentError, OutcomeUnknownError
from raftkv.kv import KvResult
from raftkv.node.settings import Settings
from raftkv.recipes import Election, Held, Leadership, Lock
from raftkv.testing.nodes import SimCluster
from tests.recipes.rig import kv_of, simulated

Cluster = SimCluster[KvResult]
Enter = Callable[[Kv, float | None], AbstractAsyncContextManager[Held | Leadership]]

ELECTION = Settings().election_ticks * Settings().tick_seconds
TICKS = 3 * Settings().tick_seconds
"""How exactly deadlines are kept."""


def lock(kv: Kv, timeout: float | None) -> AbstractAsyncContextManager[Held]:
    return Lock(kv, "name", ttl=30).held(timeout=timeout)


def campaign(kv: Kv, timeout: float | None) -> AbstractAsyncContextManager[Leadership]:
    return Election(kv, "name", ttl=30).campaign(timeout=timeout)


async def refused(kv: Kv, enter: Enter, timeout: float | None, why: str) -> float:
    """After how many seconds it was refused."""
    began = anyio.current_time()
    with pytest.raises(DeadlineError, match=f"'name' was not (taken|won): {why}"):
        async with enter(kv, timeout):
            raise AssertionError("had without a majority, or twice")
    return anyio.current_time() - began


@pytest.mark.parametrize("enter", [lock, campaign])
@pytest.mark.parametrize("is_warm", [False, True])
def test_without_a_majority_the_deadline_comes_when_it_was_said(
    enter: Enter, *, is_warm: bool
) -> None:
    async def body(cluster: Cluster) -> None:
        for name in cluster.names:
            kv = cluster.node(name).kv
            if is_warm:  # its session is open
                await kv.put("k", "v")
            with cluster.isolate(name):
                for seconds in (0.4, 1, 8):
                    why = f"the cluster did not answer within {seconds} s"
                    assert await refused(kv, enter, seconds, why) <= seconds + TICKS
                assert await refused(kv, enter, 0, "the cluster did not answer") <= 5 + TICKS
            await cluster.leader()

    simulated(body)


@pytest.mark.parametrize("enter", [lock, campaign])
def test_a_majority_that_goes_away_while_one_waits_does_not_move_the_deadline(enter: Enter) -> None:
    async def body(cluster: Cluster) -> None:
        for name in cluster.names:
            other = next(one for one in cluster.names if one != name)

            async def cut_later(name: str = name) -> None:
                await anyio.sleep(0.7)
                with cluster.isolate(name):
                    await anyio.sleep(5)

            async with enter(cluster.node(other).kv, None), anyio.create_task_group() as tasks:
                tasks.start_soon(cut_later)
                waited = await refused(cluster.node(name).kv, enter, 2, "its turn did not come")
                assert 2 <= waited <= 2 + ELECTION / 4 + TICKS
            await cluster.leader()

    simulated(body)


@pytest.mark.parametrize("enter", [lock, campaign])
def test_who_waited_in_vain_has_left_the_line(enter: Enter) -> None:
    async def body(cluster: Cluster) -> None:
        kv = kv_of(cluster, 0)
        async with enter(kv, None) as held:
            for timeout in (0, 1.5):
                await refused(kv_of(cluster, 1), enter, timeout, "")
                assert [one.key for one in (await kv.range(prefix="name/")).items] == [held.key]
        for timeout in (0, 1.5):
            async with enter(kv_of(cluster, 1), timeout):
                await anyio.sleep(3)

    simulated(body)


def test_what_the_body_raises_is_not_taken_for_a_lock_that_was_not_had() -> None:
    async def body(cluster: Cluster) -> None:
        async def fail() -> None:
            async with lock(kv_of(cluster, 0), 1):
                await anyio.sleep(2)
                raise OutcomeUnknownError("of the body")

        with pytest.raises(OutcomeUnknownError, match="of the body"):
            await fail()

    simulated(body)


@pytest.mark.parametrize("timeout", [-1, float("nan"), True])
def test_what_is_no_timeout_is_refused(timeout: float) -> None:
    async def body(cluster: Cluster) -> None:
        for enter in (lock, campaign):
            with pytest.raises(InvalidArgumentError, match="timeout"):
                async with enter(kv_of(cluster, 0), timeout):
                    raise AssertionError

    simulated(body)


@pytest.mark.parametrize(("ttl", "waited_max"), [(30, 2 * ELECTION), (3, 3 - 1.2)])
def test_the_end_of_a_lease_waits_for_two_elections_or_for_the_rest_of_its_life(
    ttl: int, waited_max: float
) -> None:
    async def body(cluster: Cluster) -> None:
        name = cluster.names[0]
        async with cluster.node(name).kv.lease(ttl):
            cut = cluster.isolate(name)
            await anyio.sleep(1.2)
            began = anyio.current_time()
        assert anyio.current_time() - began <= waited_max + TICKS
        cut.end()

    simulated(body)
