"""Three members: what is acknowledged is on all of them, whoever takes it and whoever leads."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

import raftkv
from raftkv.core import Campaign
from raftkv.errors import ConfigError, DeadlineError, OutcomeUnknownError, UnavailableError
from raftkv.node.node import Node
from raftkv.runtime.base import Clock
from tests.node.rig import MACHINES, QUICK, Cluster, cluster


async def _agree(made: Cluster, commands: list[bytes]) -> None:
    """Every running member applies exactly these, in one order."""
    numbers = sorted(made.nodes)
    await made.until(lambda: all(len(made.commands(number)) == len(commands) for number in numbers))
    assert sorted(made.commands(numbers[0])) == sorted(commands)
    assert all(made.commands(number) == made.commands(numbers[0]) for number in numbers)


@pytest.mark.parametrize("kind", MACHINES)
async def test_every_member_takes_commands_and_all_apply_the_same(kind: str) -> None:
    async with cluster(machine=MACHINES[kind]) as made:
        await made.leader()
        answers = [
            await node.propose(b"from %d" % number) for number, node in sorted(made.nodes.items())
        ]
        assert answers == [1, 2, 3]
        await _agree(made, [b"from 1", b"from 2", b"from 3"])


@pytest.mark.parametrize("kind", MACHINES)
async def test_each_of_many_callers_gets_the_answer_to_its_own_command(kind: str) -> None:
    async with cluster(machine=MACHINES[kind]) as made:
        await made.leader()
        answers: dict[bytes, object] = {}

        async def call(node: Node[object], command: bytes) -> None:
            answers[command] = await node.propose(command)

        async with anyio.create_task_group() as callers:
            for number, node in made.nodes.items():
                for count in range(300):
                    callers.start_soon(call, node, b"%d.%d" % (number, count))
        await made.nodes[1].read()  # what the others were answered is applied here, too
        order = made.commands(1)
        assert [answers[command] for command in order] == [*range(1, 901)]


async def test_commands_that_come_together_share_an_entry() -> None:
    async with cluster() as made:
        leader = await made.leader()
        await made.settled()
        before = leader.status().last_index
        async with anyio.create_task_group() as callers:
            for count in range(400):
                callers.start_soon(leader.propose, b"%d" % count)
        assert leader.status().last_index - before == 1


async def test_a_lone_command_waits_neither_for_company_nor_for_a_tick() -> None:
    timeless = evolve(QUICK, tick_seconds=1000.0)
    async with cluster(1, settings=timeless) as made:
        node = made.nodes[1]
        hands = node._hands  # pyright: ignore[reportPrivateUsage]
        assert hands is not None
        hands.loop.give(Campaign())
        for number in range(50):
            assert await node.propose(b"x", timeout=500.0) == number + 1


async def test_followers_learn_of_a_commit_without_waiting_for_a_tick() -> None:
    timeless = evolve(QUICK, tick_seconds=1000.0)
    async with cluster(settings=timeless) as made:
        node = made.nodes[1]
        hands = node._hands  # pyright: ignore[reportPrivateUsage]
        assert hands is not None
        while not node.status().is_leader:
            if all(peer.is_connected for peer in node.status().peers):
                hands.loop.give(Campaign())
            for _ in range(100):
                await checkpoint()
        await node.propose(b"x")
        while not all(made.commands(number) for number in (1, 2, 3)):
            await checkpoint()
        for one in made.nodes.values():
            one.stop_soon()


async def test_when_the_leader_dies_another_takes_commands() -> None:
    async with cluster() as made:
        first = await made.leader()
        await first.propose(b"before")
        followers = made.followers(first)
        made.network.partition([first.id], [node.id for node in followers])
        # A follower still holds the lost leader to be one: this command waits for the next one.
        await _propose(made, followers[0], b"after")
        made.network.heal()
        await _agree(made, [b"before", b"after"])


async def _propose(made: Cluster, node: Node[object], command: bytes) -> None:
    """As an application does: what surely did not happen is tried again, else it looks first."""
    while command not in made.commands(node.id):
        try:
            await node.propose(command, timeout=1)
        except UnavailableError:
            continue
        except OutcomeUnknownError:
            await node.read()


async def test_a_leader_without_majority_answers_neither_writes_nor_reads() -> None:
    async with cluster() as made:
        leader = await made.leader()
        made.network.partition([leader.id], [node.id for node in made.followers(leader)])
        with pytest.raises(OutcomeUnknownError) as unknown:
            await leader.propose(b"lost", timeout=0.3)
        assert unknown.value.request[0] == leader.id
        assert unknown.value.may_have_happened
        with pytest.raises(DeadlineError):
            await leader.read(timeout=0.3)
        # By now it has stepped down: commands do not even leave.
        await made.until(lambda: not leader.status().is_leader)
        with pytest.raises(DeadlineError) as never:
            await leader.propose(b"never", timeout=0.1)
        assert not never.value.may_have_happened
        made.network.heal()
        await made.leader()
        assert b"never" not in made.commands(leader.id)


async def test_a_read_after_a_partition_is_not_stale() -> None:
    async with cluster() as made:
        old = await made.leader()
        others = made.followers(old)
        made.network.partition([old.id], [node.id for node in others])
        await _propose(made, others[0], b"new")
        made.network.heal()
        await old.read()
        assert made.commands(old.id) == [b"new"]


async def test_a_leader_that_stood_still_learns_its_age_before_it_answers_by_its_lease() -> None:
    async with cluster() as made:
        old = await made.leader()
        others = made.followers(old)
        await old.read(lease=True)
        # Its process stands still, no tick and no frame: a stopped clock and a cut are the same.
        clock = _StoppedClock(made.runtime.clock)
        loop = old._hands.loop  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        loop._clock = clock  # pyright: ignore[reportPrivateUsage]
        made.network.partition([old.id], [node.id for node in others])
        await _propose(made, others[0], b"new")
        assert old.status().is_leader
        clock.stopped = False
        try:
            await old.read(lease=True, timeout=0.2)
        except DeadlineError:
            pass
        else:
            assert made.commands(old.id) == [b"new"]


class _StoppedClock:
    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self._at = inner.monotonic_ns(), inner.boottime_ns()
        self.stopped = True

    def monotonic_ns(self) -> int:
        return self._at[0] if self.stopped else self._inner.monotonic_ns()

    def boottime_ns(self) -> int:
        return self._at[1] if self.stopped else self._inner.boottime_ns()

    def wall_ns(self) -> int:
        return self._inner.wall_ns()

    async def sleep_until(self, monotonic_ns: int) -> None:
        await self._inner.sleep_until(monotonic_ns)


async def test_a_command_that_could_not_be_forwarded_surely_did_not_happen() -> None:
    async with cluster() as made:
        leader = await made.leader()
        follower = made.followers(leader)[0]
        await follower.read()
        made.network.cut(follower.id, leader.id)
        made.network.disconnect(follower.id, leader.id)
        # Not connected: it waits here, and leaves with the new connection.
        with pytest.raises(DeadlineError):
            await follower.propose(b"late", timeout=0.05)
        made.network.heal()
        assert await follower.propose(b"in time", timeout=20) == 1


async def test_what_a_leader_refuses_while_it_hands_over_is_taken_afterwards() -> None:
    async with cluster() as three, anyio.create_task_group() as tasks:
        leader = await three.leader()
        asking, target = three.followers(leader)
        await asking.propose(b"first")
        await three.stop(target.id)  # it will not take over: the leader refuses for a while
        over = anyio.Event()

        async def hand_over() -> None:
            with pytest.raises(DeadlineError):
                await leader.transfer_leadership(target.id, timeout=0.5)
            over.set()

        tasks.start_soon(hand_over)
        asked = [b"first"]
        while not over.is_set():
            asked.append(b"%d" % len(asked))
            await asking.propose(asked[-1])
        assert three.commands(leader.id) == asked


async def test_a_member_that_was_stopped_catches_up() -> None:
    async with cluster() as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        for count in range(20):
            await leader.propose(b"%d" % count)
        node = await made.start(gone)
        await node.ready()
        assert made.commands(gone) == [b"%d" % count for count in range(20)]


@pytest.mark.parametrize("kind", MACHINES)
async def test_all_members_stopped_and_started_again_keep_everything(kind: str) -> None:
    async with cluster(machine=MACHINES[kind]) as made:
        leader = await made.leader()
        for count in range(10):
            await leader.propose(b"%d" % count)
        for number in (1, 2, 3):
            await made.stop(number)
        for number in (1, 2, 3):
            await made.start(number)
        leader = await made.leader()
        assert made.commands(leader.id) == [b"%d" % count for count in range(10)]
        assert await leader.propose(b"more") == 11


async def test_a_burst_of_large_commands_on_a_follower_is_taken_whole() -> None:
    # Twenty entries' worth: as one forwarded message they would fit no frame. Patient members, lest
    # so many bytes on a busy machine cause an election, in which a command may be refused.
    async with cluster(settings=evolve(QUICK, election_ticks=60)) as made:
        leader = await made.leader()
        follower = made.followers(leader)[0]
        answers: list[object] = []

        async def call(number: int) -> None:
            answers.append(await follower.propose(bytes([number]) * 2**20, timeout=30))

        async with anyio.create_task_group() as callers:
            for number in range(20):
                callers.start_soon(call, number)
        assert sorted(cast("list[int]", answers)) == list(range(1, 21))
        assert not made.failures


async def test_settings_whose_messages_fit_no_frame_are_refused(tmp_path: Path) -> None:
    settings = evolve(QUICK, command_bytes_max=9 * 2**20)
    with pytest.raises(ConfigError, match="lower the former or raise the latter"):
        async with raftkv.open_node(
            tmp_path / "n1", name="n1", cluster={"n1": "127.0.0.1:1"}, settings=settings
        ):
            pass
    assert not (tmp_path / "n1").exists()
