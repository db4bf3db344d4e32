"""Who is woken when: in bursts, all in their turn, with a rest while the node is at work."""

from __future__ import annotations

from collections import deque

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv.client.ringing import BUSY_NS, REST, Bell, Parked
from raftkv.runtime.system import make_waker

WAKES = 3


class Clock:
    """A clock that stands until somebody moves it, or sleeps."""

    def __init__(self) -> None:
        self.now_ns = 1_000
        self.slept_ns: list[int] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    wall_ns = boottime_ns = monotonic_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        self.slept_ns.append(max(0, monotonic_ns - self.now_ns))
        self.now_ns = max(self.now_ns, monotonic_ns)


class World:
    """A bell, and the readers that it woke, in order."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bell = Bell(self.clock, make_waker, WAKES)
        self.woken: deque[Reader] = deque()

    def ring(self, *readers: Reader) -> None:
        parked: Parked = dict.fromkeys(readers)
        for reader in readers:
            reader.parked = parked
        self.bell.ring(parked)

    def run(self, takes_ns: int = 0) -> Reader:
        """The next reader that was woken runs for so long."""
        reader = self.woken.popleft()
        self.bell.ran()
        self.clock.now_ns += takes_ns
        return reader


class Reader:
    def __init__(self, world: World) -> None:
        self.world = world
        self.parked: Parked = {}
        self.has_gone = False
        self.wakes = 0

    def wake(self) -> bool:
        if self.has_gone:
            return False
        self.wakes += 1
        self.world.woken.append(self)
        return True


def test_a_burst_is_bounded_and_the_next_comes_when_it_has_run() -> None:
    world = World()
    readers = [Reader(world) for _ in range(8)]
    world.ring(*readers[:5])
    world.ring(*readers[5:])
    seen = [len(world.woken)]
    while world.woken:
        world.run()
        seen.append(len(world.woken))
    assert seen == [3, 2, 1, 3, 2, 1, 2, 1, 0]
    assert [reader.wakes for reader in readers] == [1] * 8


steps = st.lists(st.sampled_from(["ring one", "ring two", "run", "give up", "over"]), max_size=60)


@given(steps)
def test_everybody_is_woken_once_groups_in_turn_and_few_at_a_time(story: list[str]) -> None:
    world = World()
    groups: list[list[Reader]] = []
    order: list[Reader] = []
    closed = 0
    for step in story:
        waiting = [one for group in groups for one in group if one in one.parked]
        if step.startswith("ring"):
            group = [Reader(world) for _ in range(1 + (step == "ring two"))]
            groups.append(group)
            world.ring(*group)
        elif step == "run" and world.woken:
            order.append(world.run())
        elif step == "give up" and waiting:
            waiting[-1].has_gone = True
            if len(waiting) % 2:  # at once, or by the time it is to be woken
                del waiting[-1].parked[waiting[-1]]
        elif step == "over" and waiting:
            del waiting[0].parked[waiting[0]]
            world.bell.ring_now(waiting[0])
            closed += 1
        assert world.bell.woken == len(world.woken) <= WAKES + closed
    while world.woken:
        order.append(world.run())
    assert len(order) == len(set(order))
    assert set(order) == {one for group in groups for one in group if not one.has_gone}
    if not closed:
        place = {one: number for number, group in enumerate(groups) for one in group}
        assert [place[one] for one in order] == sorted(place[one] for one in order)


@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "idle"])
async def test_readers_rest_behind_a_burst_while_rows_are_written(is_busy: bool) -> None:
    world = World()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.bell.run)
        await anyio.wait_all_tasks_blocked()
        world.clock.now_ns += 2 * BUSY_NS
        if is_busy:
            world.bell.written()
        world.ring(*[Reader(world) for _ in range(2 * WAKES + 1)])
        for _ in range(WAKES):
            world.run(takes_ns=100)
        # What the last one does is not seen any more, and not what happened before the first ran.
        assert len(world.woken) == (0 if is_busy else WAKES)
        await anyio.wait_all_tasks_blocked()
        assert len(world.woken) == WAKES
        while world.woken:
            for _ in range(len(world.woken)):
                world.run(takes_ns=100)
            await anyio.wait_all_tasks_blocked()
        rest_ns = REST * 100 * (WAKES - 1) - 100
        assert world.clock.slept_ns == ([rest_ns, rest_ns] if is_busy else [])
        tasks.cancel_scope.cancel()


async def test_who_comes_in_a_rest_waits_for_its_end_and_who_comes_later_does_not() -> None:
    world = World()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.bell.run)
        await anyio.wait_all_tasks_blocked()
        world.bell.written()
        world.ring(Reader(world), Reader(world))
        world.run(takes_ns=50)
        world.run()
        early, late = Reader(world), Reader(world)
        world.ring(early)
        assert not world.woken
        await anyio.wait_all_tasks_blocked()
        assert world.clock.slept_ns == [REST * 50]
        assert world.run() is early
        world.clock.now_ns += 1
        world.ring(late)
        assert world.run() is late
        tasks.cancel_scope.cancel()


async def test_without_its_task_a_bell_makes_nobody_wait() -> None:
    world = World()
    late = Reader(world)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.bell.run)
        await anyio.wait_all_tasks_blocked()
        world.bell.written()
        world.ring(Reader(world), Reader(world))
        world.run(takes_ns=50)
        world.run()
        world.ring(late)
        tasks.cancel_scope.cancel()  # before it came to sleep
    assert world.run() is late
    world.bell.written()
    world.ring(*[Reader(world) for _ in range(3 * WAKES)])
    for left in range(3 * WAKES, 0, -1):
        assert world.woken, f"{left} were forgotten"
        world.run(takes_ns=50)
