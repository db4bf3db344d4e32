"""What callers meet: bounds, deadlines, cancellation, misuse, and an end at any moment."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anyio
import anyio.to_thread
import pytest
from attrs import evolve

from raftkv.errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    Error,
    ForkedError,
    InvalidArgumentError,
    OutcomeUnknownError,
    RequestTooLargeError,
    TooManyRequestsError,
    WrongThreadError,
)
from raftkv.machine import Command
from raftkv.node.node import Node, running
from raftkv.node.settings import Settings
from raftkv.node.status import EventsLost, LeaderChanged, RoleChanged
from tests.node.rig import QUICK, Cluster, Journal, cluster

# --- bounds -----------------------------------------------------------------------------------


async def test_commands_beyond_the_bound_on_outstanding_ones_are_refused() -> None:
    settings = evolve(QUICK, outstanding_commands_max=10)
    async with cluster(settings=settings) as made:
        leader = await made.leader()
        outcomes: list[str] = []

        async def call() -> None:
            try:
                await leader.propose(b"x")
                outcomes.append("done")
            except TooManyRequestsError:
                outcomes.append("refused")

        async with anyio.create_task_group() as callers:
            for _ in range(11):
                callers.start_soon(call)
        assert sorted(outcomes) == ["done"] * 10 + ["refused"]
        assert await leader.propose(b"again") == 11


async def test_bytes_beyond_the_bound_on_outstanding_ones_are_refused() -> None:
    settings = evolve(QUICK, outstanding_bytes_max=1000)
    async with cluster(1, settings=settings) as made:
        node = await made.leader()
        first = node.propose(bytes(1000))
        first.send(None)  # as far as it goes: the command is queued, the driver had no turn yet
        with pytest.raises(TooManyRequestsError):
            await node.propose(b"y")
        first.close()
        await made.until(lambda: not node.status().outstanding_commands)
        assert await node.propose(b"z") in (1, 2)  # abandoned in the queue or already on its way


async def test_reads_beyond_the_bound_are_refused() -> None:
    async with cluster(settings=evolve(QUICK, outstanding_reads_max=2)) as made:
        leader = await made.leader()
        first, second = leader.read(), leader.read()
        first.send(None)
        second.send(None)
        with pytest.raises(TooManyRequestsError):
            await leader.read()
        first.close()
        second.close()


async def test_a_command_of_the_greatest_size_passes_and_a_longer_one_is_refused() -> None:
    async with cluster(settings=evolve(QUICK, command_bytes_max=1000)) as made:
        leader = await made.leader()
        assert await leader.propose(bytes(1000)) == 1
        with pytest.raises(RequestTooLargeError):
            await leader.propose(bytes(1001))
        assert await leader.propose(b"") == 2


async def test_a_committed_backlog_refuses_new_commands() -> None:
    settings = evolve(QUICK, unapplied_commands_max=5, entry_commands_max=4)
    async with cluster(1, settings=settings) as made:
        node = await made.leader()
        outcomes: list[bool] = []
        machine = made.machines[1]
        assert isinstance(machine, Journal)

        def look(_commands: Sequence[Command]) -> None:
            # While a slice is applied the others wait: at first more than the bound.
            waiting = node.status().unapplied_commands
            attempt = node.propose(b"more")
            try:
                attempt.send(None)
                outcomes.append(waiting <= 5)
            except TooManyRequestsError:
                outcomes.append(waiting > 5)
            attempt.close()

        machine.before = look
        async with anyio.create_task_group() as callers:
            for _ in range(20):
                callers.start_soon(node.propose, b"x")
            await made.until(lambda: len(outcomes) >= 5)
            machine.before = lambda _commands: None
        assert all(outcomes)


# --- deadlines and cancellation ----------------------------------------------------------------


async def test_without_a_leader_a_command_waits_until_its_deadline_and_did_not_happen() -> None:
    async with cluster(3, start=False) as made:
        node = await made.start(1)
        with pytest.raises(DeadlineError) as late:
            await node.propose(b"x", timeout=0.2)
        assert not late.value.may_have_happened
        with pytest.raises(DeadlineError):
            await node.ready(timeout=0.1)
        with pytest.raises(DeadlineError):
            await node.transfer_leadership("n2", timeout=0.1)


async def test_a_command_that_waits_for_an_election_is_taken_by_the_new_leader() -> None:
    async with cluster(3, start=False) as made:
        first = await made.start(1)
        answers: list[object] = []

        async def call() -> None:
            answers.append(await first.propose(b"early", timeout=20))

        async with anyio.create_task_group() as callers:
            callers.start_soon(call)
            await made.start(2)
        assert answers == [1]


async def test_cancelling_a_caller_abandons_the_wait_and_not_the_command() -> None:
    async with cluster() as made:
        leader = await made.leader()
        await made.settled()  # what waits for a majority below is the command
        made.network.partition([leader.id], [node.id for node in made.followers(leader)])
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as callers:
                callers.start_soon(leader.propose, b"abandoned")
                await made.until(lambda: leader.status().commit < leader.status().last_index)
                scope.cancel()
        made.network.heal()
        await made.until(lambda: b"abandoned" in made.commands(leader.id))
        assert await leader.propose(b"next") == 2


async def test_a_caller_cancelled_before_its_command_left_leaves_no_trace() -> None:
    async with cluster(3, start=False) as made:
        node = await made.start(1)
        with anyio.move_on_after(0.05):
            await node.propose(b"gone", timeout=60)
        await made.start(2)
        await node.ready()
        assert await node.propose(b"kept") == 1
        assert made.commands(1) == [b"kept"]


# --- arguments and misuse ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["text", bytearray(b"x"), None, 7])
async def test_a_command_that_is_no_bytes_is_refused(command: object) -> None:
    async with cluster(1) as made:
        node = await made.leader()
        with pytest.raises(InvalidArgumentError):
            await node.propose(command)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("timeout", [-1, -0.1, float("nan"), "5", None, True, b"", 10**400 * -1])
async def test_a_timeout_that_is_no_time_is_refused_in_one_sentence(timeout: float) -> None:
    async with cluster() as made:
        node = await made.leader()
        other = made.followers(node)[0]
        for call in (
            lambda: node.propose(b"x", timeout=timeout),
            lambda: node.read(timeout=timeout),
            lambda: node.ready(timeout=timeout),
            lambda: node.transfer_leadership(other.id, timeout=timeout),
        ):
            with pytest.raises(InvalidArgumentError) as refused:
                await call()
            expected = f"timeout must be a number of seconds, 0 or more, not {timeout!r}"
            assert str(refused.value) == expected
        await node.propose(b"y", timeout=float("inf"))
        await node.propose(b"z", timeout=10**400)
        assert node.status().is_leader  # nothing was begun
        assert made.commands(node.id) == [b"y", b"z"]


async def test_another_thread_is_refused() -> None:
    async with cluster(1) as made:
        node = await made.leader()
        with pytest.raises(WrongThreadError, match="blocking"):
            await anyio.to_thread.run_sync(node.status)


async def test_a_forked_child_is_refused() -> None:
    async with cluster(1) as made:
        node = await made.leader()
        real = made.runtime.environment
        pid = real.pid

        class Child:
            thread_id = staticmethod(real.thread_id)
            loop = staticmethod(real.loop)

            def pid(self) -> int:
                return pid() + 1

        node._environment = Child()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        with pytest.raises(ForkedError, match="spawn"):
            node.status()
        await node.close()  # in a child: nothing at all
        node._environment = real  # pyright: ignore[reportPrivateUsage]
        assert await node.propose(b"still here") == 1
        assert os.getpid() == real.pid()


async def test_a_closed_node_is_refused() -> None:
    async with cluster(1, start=False) as made:
        node: Node[object] = Node(made.setup(1))
        with pytest.raises(ClosedError):
            node.status()
        async with running(node):
            await node.ready()
            await node.close()
            with pytest.raises(ClosedError):
                await node.propose(b"x")
            await node.close()
        with pytest.raises(ClosedError):
            await node.read()


async def test_a_target_that_is_no_member_is_refused() -> None:
    async with cluster(1) as made:
        node = await made.leader()
        with pytest.raises(InvalidArgumentError, match="n1"):
            await node.transfer_leadership("n9")


async def test_a_directory_of_other_members_is_refused() -> None:
    async with cluster(3, start=False) as made:
        await made.start(1)
        await made.stop(1)
        made.members = made.members[:2]
        with pytest.raises(ConfigError, match="cluster="):
            async with running(Node(made.setup(1))):
                pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"tick_seconds": 0},
        {"election_ticks": 5, "heartbeat_ticks": 2},
        {"entry_commands_max": -1},
        {"inflight_bytes_max": 10},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Settings(**wrong)


# --- leadership and events -----------------------------------------------------------------------


async def test_leadership_is_handed_to_whom_is_asked() -> None:
    async with cluster() as made:
        leader = await made.leader()
        target = made.followers(leader)[0]
        await leader.transfer_leadership(target.name)
        await made.until(lambda: target.status().is_leader)
        back = made.followers(target)[-1]
        await back.transfer_leadership(back.id)  # a follower may ask, too
        await made.until(lambda: back.status().is_leader)


async def test_a_leader_that_is_closed_hands_over_first() -> None:
    async with cluster() as made:
        leader = await made.leader()
        followers = made.followers(leader)
        term = leader.status().term
        await made.stop(leader.id)
        # When it has ended the next one leads already: nobody had to miss it first.
        assert [node.status().leader for node in followers] == [followers[0].status().leader] * 2
        assert followers[0].status().leader not in (0, leader.id)
        assert followers[0].status().term == term + 1


async def test_events_tell_role_and_leader() -> None:
    async with cluster(1, start=False) as made:
        node: Node[object] = Node(made.setup(1))
        async with running(node):
            events = node.events()
            await node.ready()
            seen = [await anext(events), await anext(events)]
        assert any(isinstance(event, RoleChanged) for event in seen)
        rest = [event async for event in events]
        assert any(isinstance(event, LeaderChanged) for event in [*seen, *rest])


async def test_a_slow_listener_learns_how_much_it_missed() -> None:
    async with cluster(1, settings=evolve(QUICK, events_max=1), start=False) as made:
        node: Node[object] = Node(made.setup(1))
        async with running(node):
            events = node.events()
            await node.ready()
            first = await anext(events)
            assert isinstance(first, EventsLost)
            assert first.count >= 1


# --- the end
# ---------------------------------------------------------------------------------------


async def test_a_node_can_be_closed_under_load() -> None:
    async with cluster() as made:
        leader = await made.leader()
        outcomes: set[type] = set()

        async def load() -> None:
            try:
                while True:
                    await leader.propose(b"x")
                    outcomes.add(int)
            except Error as error:
                outcomes.add(type(error))

        async with anyio.create_task_group() as callers:
            for _ in range(50):
                callers.start_soon(load)
            await made.until(lambda: int in outcomes)
            await made.stop(leader.id)
        assert outcomes <= {int, ClosedError, OutcomeUnknownError}
        rest = await made.leader()
        assert rest.id != leader.id


async def test_a_node_can_be_closed_in_the_middle_of_an_election() -> None:
    async with cluster(3, start=False) as made:
        node = await made.start(1)
        await made.until(lambda: node.status().role.value != "follower")
        await made.stop(1)
        assert not made.failures


async def test_a_body_that_is_cancelled_ends_the_node() -> None:
    async with cluster(1, start=False) as made:
        node: Node[object] = Node(made.setup(1))
        with anyio.CancelScope() as scope:
            async with running(node):
                await node.ready()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(ClosedError):
            node.status()
        assert not made.disks[1].is_open


async def test_a_start_that_is_cancelled_releases_the_directory() -> None:
    async with cluster(1, start=False) as made:
        with anyio.CancelScope() as scope:
            scope.cancel()
            setup = made.setup(1)
            try:
                async with running(Node(setup)):
                    pass
            finally:
                setup.storage.close()
        assert not made.disks[1].is_open


# --- slices
# ----------------------------------------------------------------------------------------


class Slow(Journal):
    """Each slice takes longer than the applier may have in one go."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Cluster | None = None

    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        if self.made is not None:
            clock = self.made.runtime.clock
            until = clock.monotonic_ns() + 6_000_000
            while clock.monotonic_ns() < until:
                pass
        return super().apply(commands)


async def test_a_slow_machine_lets_the_loop_run_between_slices() -> None:
    settings = evolve(QUICK, entry_commands_max=10)
    async with cluster(1, settings=settings, machine=Slow) as made:
        node = await made.leader()
        machine = made.machines[1]
        assert isinstance(machine, Slow)
        machine.made = made
        turns = 0
        done = anyio.Event()

        async def count_turns() -> None:
            nonlocal turns
            while not done.is_set():
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as callers:
                for _ in range(200):
                    callers.start_soon(node.propose, b"x")
                await made.until(lambda: node.status().unapplied_commands > 0)
                tasks.start_soon(count_turns)
                # A read that begins now waits for all of them.
                assert await node.read() <= node.status().applied
                assert len(made.commands(1)) == 200
            done.set()
        # Twenty slices of 6 ms each: the loop ran between any two of them.
        assert turns >= 15
