"""``async with kv.lease()``: kept alive, lost in time to be known, and revoked at the end."""

from __future__ import annotations

from itertools import count
from typing import cast

import anyio
import pytest

import raftkv
from raftkv.errors import (
    ClosedError,
    DeadlineError,
    InvalidArgumentError,
    LeaseExistsError,
    LeaseNotFoundError,
    UnavailableError,
)
from raftkv.kv.client import leases
from raftkv.kv.client.asking import Question, decode_answer, decode_question, encode_question
from raftkv.kv.client.edge import LeaseHolder
from raftkv.kv.client.leases import Lease, LeaseStatus
from raftkv.kv.model import LeaseResult
from raftkv.kv.requests import LEASE_TTL_MAX
from raftkv.testing.nodes import CancelledAt, run_virtual
from raftkv.testing.nodes.loop import virtual_loop
from raftkv.testing.nodes.runtime import SimClock
from tests.kv.lease_world import SECOND, LeaseWorld, play
from tests.node.rig import QUICK

# --- on both backends -----------------------------------------------------------------------------


async def test_a_lease_is_granted_seen_renewed_held_and_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "_READ_KEYS", 1)
    monkeypatch.setattr(leases, "_READ_LEASES", 1)
    async with raftkv.open_cluster(None, size=1, settings=QUICK) as cluster:
        kv = (await cluster.leader()).kv
        granted = await kv.grant(60, id=7)
        assert (granted.id, granted.ttl) == (7, 60)
        await kv.put("b", "1", lease=granted)
        await kv.put("a", "1", lease=7)
        assert await kv.keep_alive(granted) == 60
        assert await kv.time_to_live(7, keys=True) in [
            LeaseStatus(7, left, 60, (b"a", b"b")) for left in (59, 60)
        ]
        await kv.grant(60, id=8)
        assert await kv.leases() == (7, 8)  # and not that of the client's own session
        before = (await kv.range()).revision
        assert await kv.revoke(7) == before + 1
        assert await kv.count() == 0
        for gone in (kv.revoke(7), kv.keep_alive(7)):
            with pytest.raises(LeaseNotFoundError, match="requested lease not found: 7"):
                await gone
        assert await kv.time_to_live(7, keys=True) == LeaseStatus(7, -1, 0)
        async with kv.lease(1) as lease:
            await kv.put("held", "1", lease=lease)
            await _renewed(lease)
        assert await kv.get("held") is None
        assert lease.id not in await kv.leases()


async def _renewed(lease: Lease) -> None:
    left = lease.seconds_left
    while lease.seconds_left <= left:
        left = lease.seconds_left
        await anyio.sleep(0.01)  # time itself is waited for, of which a lease has a second


async def test_what_is_no_lease_has_its_error() -> None:
    async with raftkv.open_cluster(None, size=1, settings=QUICK) as cluster:
        kv = (await cluster.leader()).kv
        for ttl in (True, 1.5, "5", None):
            with pytest.raises(InvalidArgumentError, match="ttl must be an int"):
                await kv.grant(cast("int", ttl))
        with pytest.raises(InvalidArgumentError, match="too large lease TTL"):
            await kv.grant(LEASE_TTL_MAX + 1)
        for number in (-1, 2**63, True, "x"):
            with pytest.raises(InvalidArgumentError, match="lease must be a lease, its id"):
                await kv.grant(5, id=cast("int", number))
        assert (await kv.grant(LEASE_TTL_MAX, id=3)).ttl == LEASE_TTL_MAX
        with pytest.raises(LeaseExistsError):
            await kv.grant(5, id=3)
        least = (await kv.grant(-9)).ttl
        assert least == 1  # one and a half election timeouts of 0.2 s, in whole seconds
        with pytest.raises(InvalidArgumentError, match="timeout"):
            kv.lease(5, timeout=-1)


# --- in virtual time ------------------------------------------------------------------------------


async def _kept(world: LeaseWorld) -> None:
    leader = await world.leader()
    kv = world.kv(world.others(leader)[0])
    async with kv.lease(6) as lease:
        await kv.put("k", "v", lease=lease)
        world.cluster.crash(leader)
        for _ in range(10):
            await world.sleep(4)
            assert lease.seconds_left > 0
        assert await kv.get("k") is not None
    assert await kv.get("k") is None
    await world.cluster.start(leader)


def test_a_lease_that_is_held_lives_on_through_a_change_of_leader() -> None:
    play(_kept)


async def _revoked(world: LeaseWorld) -> None:
    leader = await world.leader()
    kv = world.kv(leader)

    async def hold() -> None:
        async with kv.lease(6) as lease:
            await kv.revoke(lease)
            await anyio.sleep_forever()

    began = world.now
    with pytest.raises(LeaseNotFoundError, match="requested lease not found"):
        await hold()
    assert world.now - began <= 3 * SECOND


def test_who_holds_a_lease_that_was_revoked_is_cancelled() -> None:
    play(_revoked)


async def _cut_off(world: LeaseWorld) -> None:
    """The others hold the lease for alive when its holder gives it up."""
    leader = await world.leader()
    holder, other = world.others(leader)
    kv = world.kv(holder)
    held: list[int] = []

    async def hold() -> None:
        async with kv.lease(6) as lease:
            held.append(lease.id)
            await kv.put("k", "v", lease=lease)
            await anyio.sleep_forever()

    async def cut() -> None:
        await world.sleep(10)
        world.cluster.isolate(holder)

    began = world.now
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut)
        with pytest.raises(LeaseNotFoundError, match="could not be renewed for the 6 s"):
            await hold()
    assert 13.9 <= (world.now - began) / SECOND <= 16
    assert await world.kv(other).get("k") is not None
    await world.until_ended(other, held[0], within=4)


def test_who_cannot_renew_gives_a_lease_up_before_anybody_takes_it() -> None:
    play(_cut_off)


async def _suspended(world: LeaseWorld) -> None:
    """Its monotonic clock stood still meanwhile."""
    leader = await world.leader()
    holder = world.others(leader)[0]
    woken: list[int] = []

    async def hold() -> None:
        try:
            async with world.kv(holder).lease(6):
                await anyio.sleep_forever()
        except LeaseNotFoundError:
            woken.append(world.now)

    await world.leader()
    held = world.in_process(holder, hold)
    await world.sleep(5)
    world.cluster.pause(holder, asleep=True)
    await world.sleep(60)
    world.cluster.resume(holder)
    resumed = world.now
    await held
    assert woken[0] - resumed <= 0.6 * SECOND


def test_a_machine_that_was_suspended_soon_knows_that_its_lease_is_lost() -> None:
    play(_suspended)


async def _ends(world: LeaseWorld) -> None:
    kv = world.kv(await world.leader())
    held: list[int] = []

    async def hold(error: Exception | None, *, revoked: bool = False) -> None:
        async with kv.lease(6) as lease:
            held.append(lease.id)
            if revoked:
                await kv.revoke(lease)
            try:
                if error is None or revoked:
                    await anyio.sleep_forever()
            finally:
                if error is not None:
                    raise error

    for error in (ValueError("the body's"), LeaseNotFoundError("of another lease")):
        with pytest.raises(type(error), match=str(error)):
            await hold(error)
    with anyio.move_on_after(5) as scope:
        await hold(None)
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="of the body, later"):
        await hold(ValueError("of the body, later"), revoked=True)
    assert len(held) == 4
    assert not {*held} & {*await kv.leases()}


def test_however_the_body_ends_the_lease_is_revoked_and_its_error_comes_out() -> None:
    play(_ends)


async def _unanswered(world: LeaseWorld) -> None:
    leader = await world.leader()
    holder, other = world.others(leader)
    async with world.kv(holder).lease(30, timeout=2) as lease:
        cut = world.cluster.isolate(holder)
        began = world.now
    assert world.now - began <= 2.2 * SECOND
    cut.end()
    await world.until_ended(other, lease.id, within=40)


def test_a_revocation_that_nobody_takes_keeps_nobody_waiting() -> None:
    play(_unanswered)


async def _cancelled_anywhere(world: LeaseWorld) -> None:
    kv = world.kv(await world.leader())
    await kv.put("warm", "")

    async def hold() -> int:
        async with kv.lease(6) as lease:
            await kv.put("k", "v", lease=lease)
            return lease.id

    for number in count(1):
        attempt = CancelledAt(hold, number)
        await attempt
        if not attempt.was_cancelled:
            assert attempt.result not in await kv.leases()
            assert number > 3
            break
    await world.sleep(9)  # one that was being granted ends by itself
    assert await kv.get("k") is None


def test_whoever_is_cancelled_while_holding_leaves_nothing_behind() -> None:
    play(_cancelled_anywhere)


async def _without_a_leader(world: LeaseWorld) -> None:
    leader = await world.leader()
    one, other = world.others(leader)
    lease = await world.grant(one, 60)
    for name in (leader, other):
        world.cluster.crash(name)
    with pytest.raises(DeadlineError, match="before the leader answered"):
        await world.kv(one).keep_alive(lease, timeout=3)
    with pytest.raises(InvalidArgumentError, match="too large"):
        await world.kv(one).grant(LEASE_TTL_MAX + 1, timeout=3)
    for name in (leader, other):
        await world.cluster.start(name)
    assert await world.kv(one).keep_alive(lease, timeout=20) == 60


def test_without_a_leader_nothing_is_renewed() -> None:
    play(_without_a_leader)


async def _closed(world: LeaseWorld) -> None:
    holder = world.others(await world.leader())[0]
    kv = world.kv(holder)

    async def hold() -> None:
        async with kv.lease(6):
            await world.cluster.stop(holder)
            await anyio.sleep_forever()

    with pytest.raises(ClosedError):
        await hold()


def test_a_lease_of_a_member_that_is_closed_is_given_up() -> None:
    play(_closed)


class _SlowKv:
    """A store whose leader takes long to answer."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.answers = 0

    async def _answer(self) -> None:
        await self.clock.sleep_until(self.clock.monotonic_ns() + 3 * SECOND // 2)
        self.answers += 1

    async def grant(self, ttl: int, *, id: int = 0, timeout: float = 5.0) -> LeaseResult:
        await self._answer()
        return LeaseResult(7, ttl, 1)

    async def keep_alive(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        await self._answer()
        return 12

    async def revoke(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        return 1


def test_the_time_of_a_lease_counts_from_when_its_renewal_began() -> None:
    async def main() -> None:
        clock = SimClock(virtual_loop())
        kv = _SlowKv(clock)
        async with leases._holding(kv, clock, 12, 5.0, 1.0) as lease:  # pyright: ignore[reportPrivateUsage] - the store is another
            assert 10.4 <= lease.seconds_left <= 10.5
            await clock.sleep_until(clock.monotonic_ns() + 6 * SECOND)
            assert kv.answers == 2
            # Four seconds after the grant it was asked, half a second ago it was answered.
            assert 9.9 <= lease.seconds_left <= 10.1

    run_virtual(main)


# --- questions ------------------------------------------------------------------------------------


def test_questions_of_another_version_are_no_error_there_and_one_here() -> None:
    assert decode_question(encode_question(Question.KEEP_ALIVE, 7)) == (Question.KEEP_ALIVE, 7)
    for unknown in (
        b"",
        b"\x01short",
        b"\x09" + bytes(8),
        encode_question(Question.KEEP_ALIVE, 7) + b"x",
    ):
        assert decode_question(unknown) is None
    for answer in (b"", b"\x02" + bytes(16)):
        with pytest.raises(UnavailableError, match="upgrade all members"):
            decode_answer(Question.KEEP_ALIVE, answer)
