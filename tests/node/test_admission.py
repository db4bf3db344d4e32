"""A boot takes part once enough others would have noticed an old copy."""

from __future__ import annotations

from itertools import chain, combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import Membership
from raftkv.node.admission import Admission
from raftkv.storage.base import Identity
from raftkv.transport.base import Lane
from raftkv.transport.memory import LinkFaults
from tests.node.rig import cluster

TICKS = 10


def _admission(boot: int = 2) -> Admission:
    return Admission(Identity(5, 1, b"d" * 16, boot), TICKS)


def test_the_first_boot_and_a_member_alone_wait_for_nobody() -> None:
    assert _admission(boot=1).is_open
    alone = _admission()
    assert not alone.is_open
    assert alone.pass_time(3, Membership((1,))) == 3
    assert alone.is_open


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_two_boots_that_took_part_at_once_have_a_witness_in_common(size: int) -> None:
    voters = Membership(tuple(range(1, size + 1)))
    others = range(2, size + 1)
    took_part: list[set[int]] = []
    for seen in chain.from_iterable(combinations(others, count) for count in range(size)):
        boot = _admission()
        for member in seen:
            boot.seen_by(member)
        boot.look(voters)
        if boot.is_open:
            took_part.append({*seen})
    assert {*others} in took_part
    assert all(first & second for first, second in product(took_part, repeat=2))


@given(st.integers(2, 7), st.sets(st.integers(2, 9)), st.integers(0, 3 * TICKS))
def test_after_an_election_timeout_a_majority_with_itself_is_enough_and_nothing_less(
    size: int, seen: set[int], ticks: int
) -> None:
    voters = Membership(tuple(range(1, size + 1)))
    boot = _admission()
    for member in seen:
        boot.seen_by(member)
    for _ in range(ticks):
        boot.pass_time(1, voters)
    others = len(seen & {*voters.voters})
    if others + 1 <= size // 2:
        assert not boot.is_open
    elif ticks >= TICKS:
        assert boot.is_open


def test_a_joint_change_needs_both_halves_and_a_learner_needs_voters() -> None:
    joint = Membership((1, 2, 3), (1, 4, 5))
    boot = _admission()
    for member in (2, 3):
        boot.seen_by(member)
    boot.pass_time(TICKS, joint)
    assert not boot.is_open
    boot.seen_by(4)
    boot.look(joint)
    assert boot.is_open
    learner = _admission()
    of_others = Membership((2, 3, 4), (), (1,))
    learner.seen_by(2)
    learner.pass_time(TICKS, of_others)
    assert not learner.is_open
    learner.seen_by(3)
    learner.look(of_others)
    assert learner.is_open


def test_a_core_that_waits_never_hears_of_enough_time_to_campaign() -> None:
    boot = _admission()
    given_ticks = sum(boot.pass_time(3, Membership((1, 2, 3))) for _ in range(50))
    assert not boot.is_open
    assert given_ticks < TICKS
    boot.seen_by(2)
    assert boot.pass_time(4, Membership((1, 2, 3))) == 4


async def test_a_restarted_member_takes_no_part_before_others_have_its_boot_durably() -> None:
    lost: list[int] = []

    def deaf(_sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
        if lane is Lane.BULK and frame[0] == 20 and to == restarted:
            lost.append(to)
            return None
        return frame

    async with cluster() as made:
        leader = await made.leader()
        await made.settled()
        restarted = made.followers(leader)[0].id
        await made.stop(restarted)
        await leader.propose(b"meanwhile")
        made.network.tap = deaf
        node = await made.start(restarted)
        # It asks again and again, and is answered; but it does not hear the answer.
        await made.until(lambda: len(lost) > 4)
        status = node.status()
        assert not status.leader
        assert made.commands(restarted) == []
        made.network.tap = None
        await node.ready()
        assert made.commands(restarted) == [b"meanwhile"]


async def test_a_cluster_that_was_stopped_gets_up_although_frames_are_lost() -> None:
    async with cluster() as made:
        leader = await made.leader()
        await leader.propose(b"x")
        for number in (1, 2, 3):
            await made.stop(number)
        made.network.faults = LinkFaults(loss_permille=300)
        for number in (1, 2, 3):
            await made.start(number)
        leader = await made.leader()
        assert await leader.propose(b"y", timeout=30) == 2
