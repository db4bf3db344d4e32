"""The network in one process: order, bounds, faults, and one course of events per seed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import ConfigError, RequestTooLargeError, TransportError, UsageError
from raftkv.transport.base import Code, Lane, Refusal
from raftkv.transport.memory import LinkFaults, MemoryNetwork, MemoryTransport
from tests.transport.world import Recorder, hello, runtime

ADDRESSES = {1: "one", 2: "two", 3: "three"}


class Lcg:
    """Chance that is the same in every run."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % bound

    def token(self, size_bytes: int) -> bytes:
        return bytes(self.below(256) for _ in range(size_bytes))


class ManualClock:
    """Time that passes only when everybody sleeps: then it jumps to who wakes first."""

    def __init__(self) -> None:
        self.now = 0
        self._sleepers: list[int] = []

    def monotonic_ns(self) -> int:
        return self.now

    boottime_ns = wall_ns = monotonic_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        self._sleepers.append(monotonic_ns)
        try:
            while self.now < monotonic_ns:
                for _ in range(20):  # whoever can run, runs first
                    await checkpoint()
                if self.now < monotonic_ns == min(self._sleepers):
                    self.now = monotonic_ns
        finally:
            self._sleepers.remove(monotonic_ns)


def network(seed: int = 0, *, queue_bytes_max: int = 1000) -> MemoryNetwork:
    # Made where the loop runs: the waker belongs to it.
    world = attrs.evolve(runtime(), rng=Lcg(seed), clock=ManualClock())
    return MemoryNetwork(world, queue_bytes_max=queue_bytes_max)


@asynccontextmanager
async def members(
    net: MemoryNetwork, *ids: int
) -> AsyncGenerator[dict[int, tuple[MemoryTransport, Recorder]]]:
    """Members that are all connected with each other."""
    async with AsyncExitStack() as stack:
        world: dict[int, tuple[MemoryTransport, Recorder]] = {}
        for member in ids:
            end = net.endpoint(ADDRESSES[member])
            recorder = Recorder()
            end.set_peers({other: ADDRESSES[other] for other in ids if other != member})
            await stack.enter_async_context(end.serve(hello(member), recorder))
            world[member] = (end, recorder)
        for _, recorder in world.values():
            await recorder.until(lambda r=recorder: len(r.ups) == 2 * (len(ids) - 1))
        yield world


async def test_a_full_lane_drops_and_drained_waits_for_half_of_it() -> None:
    async with members(network(), 1, 2) as world:
        (one, _), (_, two) = world[1], world[2]
        assert one.send(2, b"x" * 600)
        assert one.send(2, b"x" * 400)
        assert not one.send(2, b"x")
        assert one.send(2, b"x", Lane.BULK)  # a lane of its own
        assert await one.drained(2, Lane.RAFT)
        assert len(two.payloads(1)) >= 1
        assert one.send(2, b"x" * 500)


async def test_a_frame_that_no_queue_would_take_is_the_callers_mistake() -> None:
    end = network().endpoint("one")
    with pytest.raises(RequestTooLargeError, match="1001 bytes"):
        end.send(2, b"x" * 1001)


async def test_a_cut_is_silent_and_one_way() -> None:
    net = network()
    async with members(net, 1, 2) as world:
        (one, first), (two, second) = world[1], world[2]
        net.cut(1, 2)
        assert one.send(2, b"lost")
        assert two.send(1, b"arrives")
        await first.until(lambda: first.payloads(2) == [b"arrives"])
        net.heal()
        assert one.send(2, b"healed")
        await second.until(lambda: second.payloads(1) == [b"healed"])
        assert first.downs == second.downs == []


async def test_a_partition_cuts_groups_both_ways_and_leaves_them_whole() -> None:
    net = network()
    async with members(net, 1, 2, 3) as world:
        net.partition({1}, {2, 3})
        for sender, (end, _) in world.items():
            for to in ADDRESSES:
                if to != sender:
                    assert end.send(to, b"from %d" % sender)
        net.heal()
        for sender, (end, _) in world.items():
            for to in ADDRESSES:
                if to != sender:
                    assert end.send(to, b"end")
        for _, recorder in world.values():
            await recorder.until(lambda r=recorder: [f for *_, f in r.frames].count(b"end") == 2)
        heard = {me: sorted({f for *_, f in r.frames} - {b"end"}) for me, (_, r) in world.items()}
        assert heard == {1: [], 2: [b"from 3"], 3: [b"from 2"]}


async def test_a_member_behind_a_cut_connects_once_it_is_healed() -> None:
    net = network()
    net.cut(2, 1)
    async with AsyncExitStack() as stack:
        one, first = net.endpoint("one"), Recorder()
        two, second = net.endpoint("two"), Recorder()
        one.set_peers({2: "two"})
        await stack.enter_async_context(two.serve(hello(2), second))
        await stack.enter_async_context(one.serve(hello(1), first))
        for _ in range(50):
            await checkpoint()
        assert first.ups == []
        net.heal()
        await first.until(lambda: first.ups == [(2, hello(2))])


async def test_a_disconnect_is_told_to_both_and_loses_what_was_queued() -> None:
    net = network()
    async with members(net, 1, 2) as world:
        (one, first), (_, second) = world[1], world[2]
        one.send(2, b"lost")
        net.disconnect(1, 2)
        assert not one.send(2, b"refused")
        await first.until(lambda: first.downs == [2] and len(first.ups) == 4)
        await second.until(lambda: second.downs == [1] and len(second.ups) == 4)
        assert one.send(2, b"again")
        await second.until(lambda: second.payloads(1) == [b"again"])


async def test_whoever_waits_for_a_lane_learns_that_its_peer_left() -> None:
    net = network()
    answers: list[bool] = []
    async with members(net, 1) as world, anyio.create_task_group() as tasks:
        one, first = world[1]
        one.set_peers({2: "two"})

        async def wait() -> None:
            answers.append(await one.drained(2, Lane.BULK))

        async with net.endpoint("two").serve(hello(2), Recorder()):
            await first.until(lambda: len(first.ups) == 1)
            net.faults = LinkFaults(delay_ns_min=10**15, delay_ns_max=10**15)
            assert one.send(2, b"x" * 600, Lane.BULK)
            tasks.start_soon(wait)
            await checkpoint()
            await checkpoint()
            assert answers == []
    assert answers == [False]


@pytest.mark.parametrize("refuser", [1, 2])
async def test_a_refused_member_is_not_connected_until_it_is_let_in(
    refuser: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    recorders = {1: Recorder(), 2: Recorder()}
    recorders[refuser].refusal = lambda _: "its disk changed"
    async with AsyncExitStack() as stack:
        one = net.endpoint("one")
        one.set_peers({2: "two"})
        await stack.enter_async_context(net.endpoint("two").serve(hello(2), recorders[2]))
        await stack.enter_async_context(one.serve(hello(1), recorders[1]))
        await recorders[refuser].until(lambda: len(recorders[refuser].asked) >= 3)
        assert recorders[1].ups == recorders[2].ups == []
        assert [record.message for record in caplog.records] == [
            "member 1 cannot connect to member 2: its disk changed"
        ]
        told = {1: [], 2: [(2, Refusal(Code.IDENTITY, "its disk changed"))]}[refuser]
        assert recorders[1].refused[:1] == told  # only by who let it not in
        recorders[refuser].refusal = lambda _: None
        await recorders[1].until(lambda: len(recorders[1].ups) == 1)


async def test_another_cluster_and_another_member_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = network()
    async with AsyncExitStack() as stack:
        one, first = net.endpoint("one"), Recorder()
        two, three = Recorder(), Recorder()
        one.set_peers({2: "two", 3: "three"})
        await stack.enter_async_context(net.endpoint("two").serve(hello(2, cluster=7), two))
        await stack.enter_async_context(net.endpoint("three").serve(hello(2), three))
        await stack.enter_async_context(one.serve(hello(1), first))
        for _ in range(50):
            await checkpoint()
        assert first.ups == two.ups == three.ups == []
        texts = [record.message for record in caplog.records]
        assert texts == [
            "member 1 cannot connect to member 2: cluster 7 is not ours, c1",
            "member 1 cannot connect to member 3: member 2 answers there",
        ]


async def test_an_address_is_served_once() -> None:
    net = network()
    end = net.endpoint("one")
    async with end.serve(hello(1), Recorder()):
        with pytest.raises(UsageError, match="already"):
            async with end.serve(hello(1), Recorder()):
                pass
        with pytest.raises(TransportError, match="one is in use"):
            async with net.endpoint("one").serve(hello(2), Recorder()):
                pass
    async with end.serve(hello(1), Recorder()):
        pass


async def course(seed: int) -> list[bytes]:
    net = network(seed, queue_bytes_max=10_000)
    async with members(net, 1, 2) as world:
        (one, _), (_, two) = world[1], world[2]
        net.faults = LinkFaults(loss_permille=300, delay_ns_min=0, delay_ns_max=1000)
        for n in range(200):
            assert one.send(2, b"%d" % n)
        net.heal()
        one.send(2, b"end")
        await two.until(lambda: b"end" in two.payloads(1))
        return two.payloads(1)


async def test_loss_and_delay_come_from_the_seed_alone_and_keep_order() -> None:
    first = await course(1)
    assert await course(1) == first
    assert await course(2) != first
    assert 80 < len(first) < 190
    numbers = [int(frame) for frame in first[:-1]]
    assert numbers == sorted(numbers)


async def test_a_delayed_frame_arrives_when_its_time_has_come() -> None:
    net = network()
    async with members(net, 1, 2) as world:
        (one, _), (_, two) = world[1], world[2]
        start = net.runtime.clock.monotonic_ns()
        net.set_faults(1, 2, LinkFaults(delay_ns_min=5_000, delay_ns_max=5_000))
        arrivals: list[int] = []

        def note(_: int, __: Lane, ___: bytes) -> None:
            arrivals.append(net.runtime.clock.monotonic_ns() - start)

        two.on_each = note
        one.send(2, b"late")
        await two.until(lambda: arrivals == [5_000])


async def test_a_tap_sees_changes_and_swallows_frames() -> None:
    net = network()
    async with members(net, 1, 2) as world:
        (one, _), (_, two) = world[1], world[2]
        seen: list[tuple[int, int, Lane, bytes]] = []

        def tap(sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
            seen.append((sender, to, lane, frame))
            return None if frame == b"a" else frame.upper()

        net.tap = tap
        one.send(2, b"a")
        one.send(2, b"b", Lane.BULK)
        await two.until(lambda: two.frames == [(1, Lane.BULK, b"B")])
        assert seen == [(1, 2, Lane.RAFT, b"a"), (1, 2, Lane.BULK, b"b")]


@pytest.mark.parametrize(
    "faults", [{"loss_permille": 1001}, {"loss_permille": -1}, {"delay_ns_min": 2}]
)
def test_faults_that_make_no_sense_are_refused(faults: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        LinkFaults(**faults)
