"""Leases while leaders come and go: none ends before its time, and all end in time.

What is promised: I41, no lease ends before its last acknowledged renewal and its time to live, on
the true clock; I42, none that was revoked is renewed; I44, a change of leader makes none shorter.
Bugs that others had are brought back in the second half: the stories here notice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from raftkv.errors import LeaseNotFoundError
from raftkv.kv import KvResult
from raftkv.kv.client import Replica
from raftkv.kv.commands import encode
from raftkv.kv.model import Refused
from raftkv.kv.requests import Expire, KvCommand
from raftkv.testing.nodes import Conditions
from tests.kv.lease_world import SECOND, LeaseWorld, door_of, play

Story = Callable[[LeaseWorld], Awaitable[None]]
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


STORIES: tuple[Story, ...] = (
    _renewed_until_the_leader_dies,
    _ended_late_by_a_leader_that_stood_still,
    _renewed_by_a_leader_that_stood_still,
    _revoked_while_the_leader_that_is_asked_stands_still,
    _left_alone_while_leaders_change,
)


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
