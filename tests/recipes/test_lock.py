"""Locks: one holder at a time by token, in order, and nothing left behind."""

from __future__ import annotations

import anyio
import pytest

from raftkv.errors import (
    DeadlineError,
    Error,
    InvalidArgumentError,
    LeaseNotFoundError,
    OutcomeUnknownError,
)
from raftkv.kv import KvResult
from raftkv.kv.client import Kv, op
from raftkv.kv.model import KeyValue
from raftkv.recipes import Held, Lock, line
from raftkv.testing.nodes import SimCluster
from tests.recipes.rig import disturb, kv_of, seeded, simulated

Cluster = SimCluster[KvResult]


def test_waiters_hold_a_lock_in_the_order_of_their_coming() -> None:
    async def body(cluster: Cluster) -> list[int]:
        order: list[int] = []

        async def use(number: int) -> None:
            await anyio.sleep(number)
            async with Lock(kv_of(cluster, number), "jobs").held():
                order.append(number)
                await anyio.sleep(10)

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(use, number)
        return order

    assert simulated(body) == [0, 1, 2, 3, 4]


def test_a_lock_that_is_given_back_leaves_no_key_and_no_lease() -> None:
    async def body(cluster: Cluster) -> None:
        kv = kv_of(cluster, 0)
        async with Lock(kv, "jobs").held() as held:
            assert await Lock(kv, "jobs").holder() == held.key
        assert not (await kv.range(prefix="jobs/")).items
        assert held.lease not in await kv.leases()
        assert await Lock(kv, "jobs").holder() is None

    simulated(body)


def test_a_waiter_that_is_cancelled_leaves_the_line_and_lets_the_next_one_through() -> None:
    async def body(cluster: Cluster) -> None:
        kv = kv_of(cluster, 0)
        done = anyio.Event()

        async def third() -> None:
            async with Lock(kv_of(cluster, 2), "jobs").held():
                done.set()

        async with anyio.create_task_group() as tasks:
            async with Lock(kv, "jobs").held():
                with anyio.move_on_after(2) as scope:
                    async with Lock(kv_of(cluster, 1), "jobs").held():
                        raise AssertionError("held by two")
                assert scope.cancelled_caught
                assert len((await kv.range(prefix="jobs/")).items) == 1
                tasks.start_soon(third)
                await anyio.sleep(1)
                assert not done.is_set()
            with anyio.fail_after(10):
                await done.wait()

    simulated(body)


def test_a_lock_that_is_held_is_refused_to_who_will_not_wait() -> None:
    async def body(cluster: Cluster) -> None:
        lock = Lock(kv_of(cluster, 0), b"jobs")
        async with lock.held():
            for timeout in (0, 1.5):
                with pytest.raises(DeadlineError):
                    async with lock.held(timeout=timeout):
                        raise AssertionError("held by two")
        async with lock.held(timeout=0):
            pass

    simulated(body)


def test_a_holder_that_is_cut_off_stops_before_another_one_begins() -> None:
    async def body(cluster: Cluster) -> None:
        leader = await cluster.leader()
        victim = next(name for name in cluster.names if name != leader.name)
        stopped_at: list[float] = []
        begun_at: list[float] = []

        async def hold() -> None:
            async with Lock(cluster.node(victim).kv, "jobs", ttl=5).held():
                try:
                    await anyio.sleep_forever()
                finally:
                    stopped_at.append(anyio.current_time())

        async def hold_until_lost() -> None:
            with pytest.raises(LeaseNotFoundError):
                await hold()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold_until_lost)
            await anyio.sleep(3)
            with cluster.isolate(victim):
                async with Lock(leader.kv, "jobs", ttl=5).held():
                    begun_at.append(anyio.current_time())
                await anyio.sleep(10)
        assert stopped_at[0] <= begun_at[0]

    simulated(body)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_grow_and_fenced_writes_are_never_mixed_under_faults(seed: int) -> None:
    choices = seeded(seed)
    tokens: list[int] = []

    async def body(cluster: Cluster) -> None:
        async def use(number: int) -> None:
            for _ in range(6):
                try:
                    async with Lock(kv_of(cluster, number), "jobs", ttl=3).held() as held:
                        await work(cluster, number, held)
                except Error:
                    await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(use, number)
            await disturb(cluster, choices, 8)
        tokens.extend(await changes_of(cluster))

    simulated(body, choices)
    assert tokens == sorted(tokens)
    assert len({*tokens}) >= 4, "hardly anybody held the lock: the run proves nothing"


async def work(cluster: Cluster, number: int, held: Held) -> None:
    """Two writes that only the holder may do."""
    kv = kv_of(cluster, number)
    for _ in range(2):
        await kv.txn(when=[held.is_mine], then=[op.put("fenced", b"%d" % held.revision)])
        await anyio.sleep(0.3)


async def changes_of(cluster: Cluster) -> list[int]:
    """The tokens of all fenced writes, in their order."""
    kv = (await cluster.leader()).kv
    now = (await kv.range("fenced")).revision
    found: list[int] = []
    async with kv.watch("fenced", start=1) as changes:
        await kv.put("fenced", b"0")
        async for change in changes:
            if change.revision > now:
                break
            found += [int(event.kv.value) for event in change.events]
    return found


def test_who_waits_keeps_its_place_while_the_cluster_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[Error] = [OutcomeUnknownError("no answer"), DeadlineError("no leader")]

    async def before(kv: Kv, place_in: bytes, place: line.Place) -> KeyValue | None:
        if failures:
            raise failures.pop()
        return await asked(kv, place_in, place)

    async def body(cluster: Cluster) -> None:
        async with Lock(kv_of(cluster, 0), "jobs").held() as held:
            assert held.key.startswith(b"jobs/")
        assert failures == []

    asked = line.before
    monkeypatch.setattr(line, "before", before)
    simulated(body)


def test_a_lock_needs_a_name() -> None:
    async def body(cluster: Cluster) -> None:
        with pytest.raises(InvalidArgumentError):
            Lock(kv_of(cluster, 0), "")

    simulated(body)
