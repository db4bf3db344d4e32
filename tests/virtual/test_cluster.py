"""Whole nodes in virtual time: lives, faults, hooks, and one course for one seed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from raftkv.core import Input, Ready, Role, State
from raftkv.errors import (
    ClosedError,
    ConfigError,
    InvalidArgumentError,
    InvariantError,
    NodeStoppedError,
    NoLeaderError,
    OutcomeUnknownError,
    RemovedError,
    UnavailableError,
)
from raftkv.kv import KvResult
from raftkv.machine import Command
from raftkv.storage.base import Storage
from raftkv.testing import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes import Conditions, CrashedError, SimCluster, run_virtual
from raftkv.testing.nodes.disk import SimDisk
from raftkv.testing.story import Kind, StoryWriter
from tests.source import ROOT
from tests.virtual.course import Course, course_of

T = TypeVar("T")
Body = Callable[[SimCluster[KvResult]], Awaitable[T]]


def with_cluster(
    body: Body[T],
    choices: Choices | None = None,
    *,
    size: int = 3,
    conditions: Conditions | None = None,
    story: StoryWriter | None = None,
) -> T:
    async def main() -> T:
        cluster = SimCluster(choices, size=size, conditions=conditions, story=story)
        cluster.loop.limit_ns = 600_000_000_000
        async with cluster:
            return await body(cluster)

    return run_virtual(main, choices)


def others(cluster: SimCluster[KvResult], name: str) -> list[str]:
    return [other for other in cluster.names if other != name]


# --- faults -----------------------------------------------------------------------------------


def test_an_isolated_leader_is_replaced_and_follows_afterwards() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        old = await cluster.leader()
        with cluster.isolate(old.name):
            new = await cluster.leader()
            assert new.name != old.name
            await new.kv.put("a", b"1")
        await anyio.sleep(5)
        assert old.status().leader_name == new.name
        found = await old.kv.get("a")
        assert found is not None

    with_cluster(body)


def test_a_partition_stops_the_minority_alone() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        leader = await cluster.leader()
        lone, *majority = [leader.name, *others(cluster, leader.name)]
        with cluster.partition([lone], majority):
            assert (await cluster.leader()).name in majority
            with pytest.raises((UnavailableError, OutcomeUnknownError)):
                await cluster.node(lone).kv.put("a", b"1", timeout=3)

    with_cluster(body)


def test_a_cut_is_one_way_and_ends_with_its_block() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        with cluster.cut("n1", "n2"):
            assert cluster.network.cuts() == ((cluster.ids["n1"], cluster.ids["n2"]),)
        assert cluster.network.cuts() == ()

    with_cluster(body)


def test_the_end_of_one_fault_leaves_another() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        with cluster.cut("n1", "n2"):
            with cluster.isolate("n1"):
                assert len(cluster.network.cuts()) == 4
            assert len(cluster.network.cuts()) == 1
        fault = cluster.isolate("n3")
        fault.end()
        fault.end()
        assert cluster.network.cuts() == ()

    with_cluster(body)


def test_a_paused_leader_is_replaced_and_catches_up() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        old = await cluster.leader()
        steps = cluster.states[old.name]
        with cluster.pause(old.name):
            new = await cluster.leader()
            await new.kv.put("a", b"1")
            assert cluster.states[old.name] is steps
        await anyio.sleep(5)
        assert (await old.kv.get("a")) is not None
        assert not old.status().is_leader

    with_cluster(body)


def test_a_machine_that_sleeps_loses_monotonic_time_alone() -> None:
    async def body(cluster: SimCluster[KvResult]) -> tuple[int, int]:
        clock = cluster.host("n1").clock
        before = clock.monotonic_ns(), clock.boottime_ns(), clock.wall_ns()
        with cluster.pause("n1", asleep=True):
            await anyio.sleep(7)
        after = clock.monotonic_ns(), clock.boottime_ns(), clock.wall_ns()
        passed = [late - early for late, early in zip(after, before, strict=True)]
        assert passed[1] == passed[2]
        return passed[0], passed[1]

    monotonic, boottime = with_cluster(body)
    assert boottime - monotonic == pytest.approx(7_000_000_000, abs=1_000_000)


def test_a_wall_clock_that_is_set_moves_no_other() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        clock = cluster.host("n1").clock
        monotonic, wall = clock.monotonic_ns(), clock.wall_ns()
        clock.jump_wall(-1_000_000)
        assert (clock.monotonic_ns(), clock.wall_ns()) == (monotonic, wall - 1_000_000)

    with_cluster(body)


@pytest.mark.parametrize("parts", [500_000_000, 2_000_000_000])
def test_a_skewed_clock_runs_at_its_own_pace_and_wakes_by_it(parts: int) -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        clock = cluster.host("n1").clock
        start, began = clock.monotonic_ns(), cluster.loop.now_ns
        await clock.sleep_until(start + 1_000_000_000)
        assert clock.monotonic_ns() - start == pytest.approx(1_000_000_000, abs=100_000)
        passed = cluster.loop.now_ns - began
        assert passed * parts // 10**9 == pytest.approx(1_000_000_000, abs=100_000)
        await (await cluster.leader()).kv.put("a", b"1")

    with_cluster(body, conditions=Conditions(clock_parts=(parts, parts)))


# --- the end of a process ---------------------------------------------------------------------


@pytest.mark.parametrize("is_told", [True, False])
def test_a_crashed_leader_is_replaced_and_comes_back_with_what_it_had(is_told: bool) -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        old = await cluster.leader()
        await old.kv.put("a", b"1")
        async with cluster.crash(old.name, is_told=is_told):
            assert old.name not in cluster.nodes
            new = await cluster.leader()
            await new.kv.put("b", b"2")
        again = cluster.node(old.name)
        await again.ready()
        assert again.status().boot == 2
        assert again.status().last_index >= new.status().commit - 2
        for key in ("a", "b"):
            assert (await again.kv.get(key)) is not None

    with_cluster(body)


def test_others_learn_of_a_crash_by_a_reset_or_not_at_all() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        await cluster.leader()
        cluster.crash("n1", is_told=True)
        cluster.crash("n2", is_told=False)
        await anyio.sleep(0.2)
        (one, two) = sorted(cluster.node("n3").status().peers, key=lambda peer: peer.name)
        assert (one.is_connected, two.is_connected) == (False, True)
        await cluster.start("n2")
        await (await cluster.leader()).kv.put("a", b"1")

    with_cluster(body)


def test_who_stands_still_answers_nobody_who_connects() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        await cluster.leader()
        with cluster.pause("n2"):
            await cluster.restart("n1")
            await anyio.sleep(1)
            peers = {peer.name: peer.is_connected for peer in cluster.node("n1").status().peers}
            assert peers == {"n2": False, "n3": True}
        await anyio.sleep(1)
        assert all(peer.is_connected for peer in cluster.node("n1").status().peers)

    with_cluster(body)


def test_who_waits_in_a_crashed_process_is_told() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        leader = await cluster.leader()
        await leader.kv.put("a", b"0")
        with cluster.isolate(leader.name):
            async with anyio.create_task_group() as tasks:

                async def put() -> None:
                    with pytest.raises(CrashedError) as caught:
                        await leader.kv.put("a", b"1", timeout=60)
                    assert caught.value.may_have_happened

                tasks.start_soon(put)
                await anyio.sleep(0.1)
                cluster.crash(leader.name)
            with pytest.raises(ClosedError):
                await leader.kv.put("a", b"1")

    with_cluster(body)


def test_nothing_of_a_crashed_process_happens_any_more(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def body(cluster: SimCluster[KvResult]) -> None:
        await cluster.leader()
        cluster.on_step.append(lambda name, _before, _given, _after: seen.append(name))
        cluster.crash("n1")
        caplog.clear()
        seen.clear()
        await anyio.sleep(60)
        assert "n1" not in seen
        assert "n2" in seen

    with_cluster(body)
    assert not [one for one in caplog.records if "n1" in one.getMessage()]


def test_what_was_not_synced_is_lost_as_the_run_decides() -> None:
    async def lost(choices: Choices) -> str:
        async with SimCluster(choices, size=1) as cluster:
            node = await cluster.leader()
            await node.kv.put("b", b"1")  # so that its client session is open
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_swallow, node.kv.put("a", b"1"))
                await anyio.sleep(0.000_2)  # written, and its sync under way
                cluster.crash("n1")
            disk = cluster.disk("n1")
            assert isinstance(disk, SimDisk)
            again = await cluster.start("n1")
            await again.ready()
            return "lost" if await again.kv.get("a") is None else "kept"

    assert run_virtual(lambda: lost(ReplayedChoices(()))) == "kept"
    seeds = [run_virtual(lambda s=seed: lost(SeededChoices(s))) for seed in range(12)]
    assert set(seeds) == {"lost", "kept"}


async def _swallow(waited: Awaitable[object]) -> None:
    with pytest.raises(CrashedError):
        await waited


def test_acknowledged_writes_survive_a_crash_of_everybody_in_every_seed() -> None:
    async def main(choices: Choices) -> None:
        async with SimCluster(choices) as cluster:
            leader = await cluster.leader()
            done = await leader.kv.put("a", b"1")
            for name in cluster.names:
                cluster.crash(name)
            for name in cluster.names:
                await cluster.start(name)
            found = await (await cluster.leader()).kv.get("a")
            assert found is not None
            assert found.mod_revision == done.revision

    for seed in range(5):
        choices = SeededChoices(seed)
        run_virtual(lambda choices=choices: main(choices), choices, shuffle_permille=200)


def test_many_crashes_leave_nothing_behind() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        for round_ in range(6):
            name = cluster.names[round_ % 3]
            async with cluster.crash(name):
                await anyio.sleep(0.05 * round_)  # also in the middle of an opening or election
            cluster.crash(name)
            cluster.begin(name)
            await checkpoint()
            cluster.crash(name)
            await cluster.start(name)
        await (await cluster.leader()).kv.put("a", b"1")

    with_cluster(body)


# --- lives ------------------------------------------------------------------------------------


def test_a_member_is_stopped_in_order_and_started_again() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        leader = await cluster.leader()
        await cluster.stop(leader.name)
        assert leader.name not in cluster.nodes
        assert await cluster.failed(leader.name) is None
        await cluster.restart(leader.name)
        await cluster.restart(leader.name)
        assert cluster.node(leader.name).status().boot == 3

    with_cluster(body)


def test_members_are_added_and_removed() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        await (await cluster.leader()).kv.put("a", b"1")
        node = await cluster.add()
        assert node.name == "n4"
        assert (await node.kv.get("a")) is not None
        await cluster.remove("n4")
        assert await cluster.failed("n4") is None
        with pytest.raises(RemovedError):
            await cluster.start("n4")

    with_cluster(body)


def test_members_that_are_added_at_once_have_different_names() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        async def add() -> None:
            await cluster.add(promote=False)

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(add)
        assert sorted(cluster.nodes) == ["n1", "n2", "n3", "n4", "n5"]

    with_cluster(body)


def test_names_and_lives_that_cannot_be_are_refused() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        with pytest.raises(InvalidArgumentError, match="no member 'n9'"):
            cluster.isolate("n9")
        with pytest.raises(InvalidArgumentError, match="runs already"):
            await cluster.start("n1")
        cluster.crash("n1")
        for call in (cluster.node, cluster.crash):
            with pytest.raises(InvalidArgumentError, match="no member 'n1' is running"):
                call("n1")
        with pytest.raises(ConfigError, match="from 1 to 9"):
            SimCluster(size=10)
        with pytest.raises(InvalidArgumentError, match="never started"):
            SimCluster().process("n1")

    with_cluster(body)


def test_without_a_majority_there_is_no_leader() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        await cluster.leader()
        cluster.crash("n1")
        cluster.crash("n2")
        with pytest.raises(NoLeaderError, match="within 20 s"):
            await cluster.leader(timeout=20)

    with_cluster(body)


class Adder:
    """A machine of a user's own."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        results: list[int] = []
        for command in commands:
            self.total += int(command.data)
            results.append(self.total)
        return results

    def snapshot(self) -> Iterator[bytes]:
        yield b"%d" % self.total

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.total = int(b"".join(chunks))


def test_a_machine_of_ones_own_and_a_storage_of_ones_own_are_taken() -> None:
    opened: list[str] = []

    async def main() -> int:
        cluster = SimCluster(machine=Adder)

        def open_storage(name: str) -> Storage:
            opened.append(name)
            return cluster.open_disk(name)

        cluster.open_storage = open_storage
        async with cluster:
            node = await cluster.leader()
            await node.propose(b"2")
            total: int = await node.propose(b"3")
            return total

    assert run_virtual(main) == 5
    assert opened == ["n1", "n2", "n3"]


# --- hooks and failures -----------------------------------------------------------------------


def test_hooks_see_every_start_step_and_ready() -> None:
    begun: dict[str, State] = {}
    newest: dict[str, State] = {}
    steps = 0

    async def body(cluster: SimCluster[KvResult]) -> None:
        await (await cluster.leader()).kv.put("a", b"1")
        assert cluster.steps == steps > 50
        assert {*begun} == {"n1", "n2", "n3"}
        for name, node in cluster.nodes.items():
            assert newest[name].role is node.status().role
            assert cluster.states[name] is newest[name]

    def started(name: str, state: State) -> None:
        begun[name] = newest[name] = state

    def stepped(name: str, before: State, _given: Input, after: State) -> None:
        nonlocal steps
        steps += 1
        # Nothing happens to a core that is not seen.
        assert newest[name] is before
        newest[name] = after

    def drained(name: str, before: State, _todo: Ready, after: State) -> None:
        assert newest[name] is before
        newest[name] = after

    async def main() -> None:
        cluster = SimCluster()
        cluster.on_start.append(started)
        cluster.on_step.append(stepped)
        cluster.on_ready.append(drained)
        async with cluster:
            await body(cluster)

    run_virtual(main)
    assert [state.role for state in begun.values()] == [Role.FOLLOWER] * 3


def test_what_a_hook_raises_stops_its_node_and_comes_out() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        leader = await cluster.leader()

        def broken(name: str, _before: State, _given: Input, _after: State) -> None:
            if name == leader.name:
                raise InvariantError("two and two are five")

        cluster.on_step.append(broken)
        await anyio.sleep(60)

    with pytest.raises(NodeStoppedError, match="two and two are five"):
        with_cluster(body)


def test_a_failure_that_is_asked_for_is_no_surprise() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        def broken(name: str, _before: State, _given: Input, _after: State) -> None:
            if name == "n1":
                raise InvariantError("it is over")

        cluster.on_step.append(broken)
        assert isinstance(await cluster.failed("n1"), NodeStoppedError)

    with_cluster(body)


def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async def body(cluster: SimCluster[KvResult]) -> None:
        cluster.pause("n1")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        with_cluster(body)


def test_a_story_tells_messages_faults_and_lives_by_name() -> None:
    story = StoryWriter(keep=100_000)

    ids: dict[str, int] = {}

    async def body(cluster: SimCluster[KvResult]) -> None:
        ids.update(cluster.ids)
        leader = await cluster.leader()
        with cluster.isolate(leader.name):
            await cluster.leader()
        async with cluster.crash(leader.name):
            with cluster.pause("n1" if leader.name != "n1" else "n2"):
                await anyio.sleep(1)

    with_cluster(body, story=story)
    told = story.story("a test")
    kinds = {event.kind for event in told.events}
    assert kinds >= {
        Kind.START, Kind.CRASH, Kind.STOP, Kind.PAUSE, Kind.RESUME, Kind.SEND, Kind.DELIVER,
        Kind.LOST, Kind.INPUT, Kind.FAULT, Kind.HEAL,
    }  # fmt: skip
    assert told.nodes == ("n1", "n2", "n3")
    ends = [event.kind for event in told.events if event.kind in (Kind.CRASH, Kind.STOP)]
    assert ends == [Kind.CRASH, Kind.STOP, Kind.STOP, Kind.STOP]
    delivered = [event for event in told.events if event.kind is Kind.DELIVER]
    sent = {event.message: event for event in told.events if event.kind is Kind.SEND}
    for event in delivered:
        start = sent[event.message]
        assert (start.node, start.peer, start.text) == (event.peer, event.node, event.text)
    assert any(event.text.startswith("AppendEntries t") for event in delivered)
    assert not any(str(number) in event.text for event in told.events for number in ids.values())
    views = [event.view for event in told.events if event.view is not None]
    assert views[-1].config == "{n1,n3,n2}"


# --- one seed, one course ---------------------------------------------------------------------


def test_a_seed_gives_one_course_in_every_process() -> None:
    here = course_of(SeededChoices(3)).hash.hexdigest()
    there = subprocess.run(
        [sys.executable, "-m", "tests.virtual.course", "3"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert there.stdout == here


def test_seeds_differ_in_their_courses() -> None:
    courses = {course_of(SeededChoices(seed)).hash.hexdigest() for seed in range(3)}
    assert len(courses) == 3


def test_without_decisions_nothing_is_shuffled_and_nothing_fails() -> None:
    course = course_of(ReplayedChoices(()), 0)
    assert course.lines == course_of(ReplayedChoices(()), 1000).lines


def test_a_record_gives_its_run_again_and_any_part_of_it_some_run() -> None:
    choices = SeededChoices(5)
    course = course_of(choices)
    record = choices.decisions()
    again = ReplayedChoices(record)
    assert course_of(again).lines == course.lines
    assert again.decisions() == record
    part = tuple(turn for number, turn in enumerate(record) if number % 3)
    assert isinstance(course_of(ReplayedChoices(part)), Course)
