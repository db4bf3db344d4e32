"""Leases while leaders come and go: none ends before its time, and all end in time.

What is promised: I41, no lease ends before its last acknowledged renewal and its time to live, on
the true clock; I42, none that was revoked is renewed; I44, a change of leader makes none shorter.
"""

from __future__ import annotations

import anyio
import pytest

from raftkv.core import Role
from raftkv.errors import Error, LeaseNotFoundError
from raftkv.kv import KvResult
from raftkv.kv.client import Replica
from raftkv.kv.commands import encode
from raftkv.kv.model import Refused
from raftkv.kv.requests import Expire, KvCommand
from raftkv.testing import Choices, SeededChoices
from raftkv.testing.nodes import Conditions
from tests.kv.lease_world import SECOND, LeaseWorld, door_of, play

DRIFTING = Conditions(clock_parts=(10**9, 10**9 + 500_000, 10**9 - 500_000))


async def _renewed_until_the_leader_dies(world: LeaseWorld) -> None:
    """Its clock began long before at every member; only the leader knows of the renewals."""
    leader = await world.leader()
    asker = world.others(leader)[0]
    lease = await world.grant(asker, 6)
    for _ in range(6):
        await world.sleep(2)
        await world.keep_alive(asker, lease)
    world.cluster.crash(leader)
    took = await world.until_ended(asker, lease, within=20)
    assert took > 5.9
    await world.cluster.start(leader)


async def _ended_late_by_a_leader_that_stood_still(world: LeaseWorld) -> None:
    """When it goes on it believes that the lease is up, and says so before it learns better."""
    leader = await world.leader()
    asker = world.others(leader)[0]
    lease = await world.grant(asker, 3)
    door, term = door_of(world.cluster.node(leader)), world.cluster.node(leader).leading
    late = world.first_thing(leader, lambda: _propose(door, Expire(term, (lease,), 1)))
    while world.now < 10 * SECOND:
        await world.try_to_renew(asker, lease)
        await world.sleep(0.5)
    world.cluster.resume(leader)
    refused = await late
    assert isinstance(refused, Refused)
    for _ in range(6):
        await world.sleep(0.5)
        await world.keep_alive(asker, lease)
    await world.until_ended(asker, lease, within=10)


async def _propose(door: Replica, command: KvCommand) -> KvResult:
    return await door.propose(encode(command), timeout=20)


async def _revoked_while_the_leader_that_is_asked_stands_still(world: LeaseWorld) -> None:
    """It is asked in the moment when it goes on, as if nothing had happened meanwhile."""
    leader = await world.leader()
    one, other = world.others(leader)
    lease = await world.grant(one, 60)
    late = world.first_thing(leader, lambda: _renew_once_it_was_revoked(world, leader, lease))
    await world.sleep(4)
    await world.revoke(other, lease, timeout=20)
    world.cluster.resume(leader)
    with pytest.raises(LeaseNotFoundError):
        await late


async def _renew_once_it_was_revoked(world: LeaseWorld, leader: str, lease: int) -> None:
    await world.keep_alive(leader, lease, timeout=20)


async def _renewed_by_a_leader_that_stood_still(world: LeaseWorld) -> None:
    """It is asked in the moment when it goes on, and does not keep the lease any more."""
    leader = await world.leader()
    one, other = world.others(leader)
    lease = await world.grant(one, 6)
    late = world.first_thing(leader, lambda: _renew_once_it_was_revoked(world, leader, lease))
    await world.sleep(6)
    assert await world.leader() != leader
    world.cluster.resume(leader)
    await late
    await world.until_ended(other, lease, within=10)


async def _left_alone_while_leaders_change(world: LeaseWorld) -> None:
    """etcd#9395: every change gave it all of its time again."""
    lease = await world.grant(await world.leader(), 20)
    began = world.now
    while world.now < began + 120 * 10**9:
        leader = await world.leader()
        if lease not in await world.kv(leader).leases():
            break
        await world.sleep(12)
        target = world.others(await world.leader())[0]
        await world.cluster.node(await world.leader()).transfer_leadership(target, timeout=10)
    took = (world.ended[lease] - began) / 1e9
    assert 20 <= took <= 40


async def _renewed_late_before_the_leader_dies(world: LeaseWorld) -> None:
    """By then what remained of it had been written down for the next leader."""
    leader = await world.leader()
    asker = world.others(leader)[0]
    lease = await world.grant(asker, 20)
    await world.sleep(12)
    await world.keep_alive(asker, lease)
    world.cluster.crash(leader)
    took = await world.until_ended(asker, lease, within=40)
    assert took > 19.9
    await world.cluster.start(leader)


async def _ended_all_at_once(world: LeaseWorld) -> None:
    """Each with a key, by a few commands, and while another is renewed."""
    leader = await world.leader()
    kv = world.kv(leader)

    async def grant(number: int) -> None:
        await kv.grant(5, id=number)
        await kv.put(f"k{number:03}", b"", lease=number)

    async with anyio.create_task_group() as tasks:
        for number in range(1, 301):
            tasks.start_soon(grant, number)
    assert await kv.count() == 300
    lease = await world.grant(leader, 5)
    for _ in range(6):
        await world.sleep(1.5)
        await world.keep_alive(leader, lease)
    assert await kv.leases() == (lease,)
    assert await kv.count() == 0


def test_a_lease_outlives_its_leader_by_all_of_its_time() -> None:
    play(_renewed_until_the_leader_dies, conditions=DRIFTING)


def test_what_a_leader_that_stood_still_ends_is_void() -> None:
    play(_ended_late_by_a_leader_that_stood_still)


def test_who_does_not_keep_a_lease_any_more_does_not_renew_it() -> None:
    play(_renewed_by_a_leader_that_stood_still)


def test_a_lease_that_was_revoked_is_not_renewed_by_a_leader_that_stood_still() -> None:
    play(_revoked_while_the_leader_that_is_asked_stands_still)


def test_a_lease_that_nobody_renews_ends_however_often_leaders_change() -> None:
    play(_left_alone_while_leaders_change)


def test_a_lease_renewed_late_has_all_of_its_time_at_the_next_leader() -> None:
    play(_renewed_late_before_the_leader_dies)


def test_many_leases_that_are_up_at_once_all_end() -> None:
    play(_ended_all_at_once)


# --- whatever happens -----------------------------------------------------------------------------


async def _hold(world: LeaseWorld, choices: Choices, until_ns: int) -> None:
    """Somebody who grants, renews, revokes and lets be, at any member that runs."""
    lease = 0
    while world.now < until_ns:
        await world.sleep(0.1 + choices.choose(15) / 10)
        name = world.cluster.names[choices.choose(3)]
        if name not in world.cluster.nodes or world.cluster.process(name).is_paused:
            continue
        try:
            if not lease or choices.chance(30):
                lease = await world.grant(name, 2 + choices.choose(4), timeout=2.0)
            elif choices.chance(50):
                await world.revoke(name, lease, timeout=2.0)
                lease *= choices.choose(2)  # or it goes on as if it lived
            else:
                await world.keep_alive(name, lease, timeout=2.0)
        except LeaseNotFoundError:
            lease = 0
        except Error:
            continue


async def _break(world: LeaseWorld, choices: Choices, until_ns: int) -> None:
    cluster = world.cluster
    while world.now < until_ns:
        await world.sleep(0.5 + choices.choose(30) / 10)
        states = cluster.states
        leaders = [name for name in cluster.nodes if states[name].role is Role.LEADER]
        name = leaders[0] if leaders and choices.chance(700) else cluster.names[choices.choose(3)]
        lasting = 0.3 + choices.choose(40) / 10
        match choices.choose(4):
            case 0:
                cluster.crash(name)
                await world.sleep(lasting)
                world.watch(await cluster.start(name))
            case 1:
                cluster.pause(name, asleep=choices.chance(300))
                await world.sleep(lasting)
                cluster.resume(name)
            case 2:
                cut = cluster.isolate(name)
                await world.sleep(lasting)
                cut.end()
            case _:
                cluster.host(name).clock.jump_wall((choices.choose(9) - 4) * 3600 * SECOND)


@pytest.mark.parametrize("seed", range(2))
def test_no_lease_ends_early_and_every_lease_ends_whatever_happens(seed: int) -> None:
    choices = SeededChoices(seed)

    async def story(world: LeaseWorld) -> int:
        until_ns = world.now + 40 * SECOND
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_hold, world, choices, until_ns)
            tasks.start_soon(_break, world, choices, until_ns)
        world.cluster.heal()
        await world.sleep(16)
        left = await world.kv(await world.leader()).leases()
        assert left == ()
        return world.renewals

    assert play(story, choices, conditions=DRIFTING) > 10
