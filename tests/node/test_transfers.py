"""A snapshot on its way: broken connections, restarts, other leaders, bounds, and going on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from raftkv.core import InstallSnapshot, ProgressState
from raftkv.node.loop import Loop
from raftkv.node.node import Node
from raftkv.node.pace import Pace
from raftkv.node.sending import Sender
from raftkv.node.snapshots import Frame, Kind, decode
from raftkv.storage.base import AppliedMark, Space
from raftkv.transport.base import Lane
from tests.node.rig import MACHINES, QUICK, Cluster, cluster

SHORT = evolve(QUICK, retention_entries=20, snapshot_inflight_bytes_max=64)
"""Keeps few entries, and waits for confirmations after a few chunks."""

kinds = pytest.mark.parametrize("kind", MACHINES)


async def _fill(made: Cluster, count: int, prefix: bytes = b"") -> list[bytes]:
    leader = await made.leader()
    commands = [b"%s%d" % (prefix, number) for number in range(count)]
    for command in commands:
        await leader.propose(command)
    return commands


def _loop(node: Node[object]) -> Loop:
    hands = node._hands  # pyright: ignore[reportPrivateUsage]
    assert hands is not None
    return hands.loop


def _sender(node: Node[object]) -> Sender:
    return _loop(node)._sender  # pyright: ignore[reportPrivateUsage]


def _waiting_bytes(node: Node[object]) -> int:
    return _loop(node)._frames_bytes  # pyright: ignore[reportPrivateUsage]


class Watched:
    """Sees the frames of snapshots to one member, and may lose them or do something at one."""

    def __init__(self, made: Cluster, to: int) -> None:
        self.frames: list[tuple[int, Frame]] = []
        self.back: list[Frame] = []
        self.at: Callable[[int, Frame], bool] = lambda _sender, _frame: True
        self._to = to
        made.network.tap = self._tap

    def _tap(self, sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
        if lane is not Lane.BULK or frame[0] > Kind.BROKEN:
            return frame
        seen = decode(frame)
        if to == self._to:
            self.frames.append((sender, seen))
            return frame if self.at(sender, seen) else None
        if sender == self._to:
            self.back.append(seen)
        return frame

    @property
    def chunks(self) -> list[int]:
        return [frame.number for _, frame in self.frames if frame.kind == Kind.CHUNK]

    @property
    def transfers(self) -> set[tuple[int, int]]:
        return {(sender, frame.transfer) for sender, frame in self.frames}


async def _left_behind(made: Cluster, count: int) -> tuple[Node[object], int, list[bytes]]:
    """A leader, a member that is stopped, and what that one lacks."""
    leader = await made.leader()
    gone = made.followers(leader)[0].id
    await made.stop(gone)
    before = leader.status().last_index
    commands = await _fill(made, count)
    leader = await made.leader()
    while leader.status().first_index <= before + 1:  # until it does not count on that one any more
        commands += await _fill(made, 1, b"again")
        await made.tick()
    return leader, gone, commands


@kinds
async def test_a_connection_that_breaks_at_every_frame_costs_no_chunk_twice(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        _, gone, commands = await _left_behind(made, 60)
        watched = Watched(made, gone)
        broken: set[tuple[int, int]] = set()

        def break_once(sender: int, frame: Frame) -> bool:
            place = (frame.kind, frame.number)
            if place in broken:
                return True
            broken.add(place)
            made.network.disconnect(sender, gone)
            return False

        watched.at = break_once
        node = await made.start(gone)
        await node.ready()
        assert made.commands(gone) == commands
        assert len(watched.transfers) == 1
        count = len(set(watched.chunks))
        assert broken == {
            (Kind.BEGIN, 0),
            *((Kind.CHUNK, number) for number in range(count)),
            (Kind.END, count),
        }
        confirmed = 0
        for frame in watched.back:
            if frame.kind == Kind.PROGRESS:
                assert frame.number >= confirmed
                confirmed = frame.number


@kinds
async def test_a_receiver_that_restarts_goes_on_with_the_same_transfer(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        _, gone, commands = await _left_behind(made, 120 if kind == "in-memory" else 60)
        watched = Watched(made, gone)
        watched.at = lambda _sender, frame: frame.kind == Kind.BEGIN or frame.number < 6
        await made.start(gone)
        await made.until(lambda: any(frame.number == 6 for frame in watched.back))
        await made.stop(gone)
        watched.at = lambda _sender, _frame: True
        before = len(watched.frames)
        node = await made.start(gone)
        await node.ready()
        assert made.commands(gone) == commands
        assert len(watched.transfers) == 1
        after = [one.number for _, one in watched.frames[before:] if one.kind == Kind.CHUNK]
        assert min(after) == 6
        await made.stop(gone)
        rows = made.disks[gone].rows
        assert not rows[Space.STAGED].keys
        assert b"r" not in rows[Space.IMAGE].keys


@kinds
async def test_a_new_leader_begins_its_own_transfer(kind: str) -> None:
    settings = evolve(SHORT, snapshot_seconds_max=2.0)
    async with cluster(settings=settings, machine=MACHINES[kind]) as made:
        leader, gone, commands = await _left_behind(made, 120)
        watched = Watched(made, gone)
        watched.at = lambda sender, frame: sender != leader.id or frame.number < 3
        node = await made.start(gone)
        await made.until(lambda: any(frame.number == 3 for frame in watched.back))
        (other,) = (one for one in made.nodes if one not in (leader.id, gone))
        while not made.nodes[other].status().is_leader:
            await made.nodes[other].ready()
            await leader.transfer_leadership(other)
        await node.ready(timeout=30)
        assert made.commands(gone) == commands
        assert {sender for sender, _ in watched.transfers} == {leader.id, other}
        assert await node.propose(b"more") == len(commands) + 1
        # The old leader lets go of the view that nobody asked for any more.
        sender = _sender(leader)
        await made.until(lambda: sender.oldest_index() is None)


@kinds
async def test_a_peer_that_stays_silent_is_given_up_and_tried_again(kind: str) -> None:
    settings = evolve(SHORT, snapshot_seconds_max=0.3)
    async with cluster(settings=settings, machine=MACHINES[kind]) as made:
        leader, gone, commands = await _left_behind(made, 60)
        watched = Watched(made, gone)
        watched.at = lambda _sender, _frame: False
        node = await made.start(gone)
        await made.until(lambda: len(watched.transfers) == 3)
        watched.at = lambda _sender, _frame: True
        await node.ready()
        assert made.commands(gone) == commands
        await made.until(
            lambda: all(peer.state is not ProgressState.SNAPSHOT for peer in leader.status().peers)
        )


async def test_a_transfer_that_outlasts_the_cores_patience_goes_on() -> None:
    # The core probes a peer that is in snapshot state for 300 ticks, and sends it the next one.
    settings = evolve(SHORT, tick_seconds=0.005, heartbeat_ticks=8, election_ticks=60)
    async with cluster(settings=settings, machine=MACHINES["on-disk"]) as made:
        leader, gone, commands = await _left_behind(made, 60)
        sender = _sender(leader)
        begin = sender.begin
        begun: list[int] = []

        def counted(message: InstallSnapshot, applied: AppliedMark) -> bool:
            begun.append(message.snapshot.index)
            return begin(message, applied)

        sender.begin = counted
        watched = Watched(made, gone)
        watched.at = lambda _sender, frame: frame.kind != Kind.END
        node = await made.start(gone)
        await made.until(lambda: len(begun) >= 2)
        watched.at = lambda _sender, _frame: True
        await node.ready()
        assert made.commands(gone) == commands
        assert len(watched.transfers) == 1


@kinds
async def test_no_more_is_on_its_way_than_the_settings_allow(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        leader, gone, commands = await _left_behind(made, 200 if kind == "in-memory" else 60)
        watched = Watched(made, gone)
        most = longest = 0

        def weigh(sender: int, frame: Frame) -> bool:
            nonlocal most, longest
            longest = max(longest, len(frame.payload))
            window = _sender(leader)._sending[gone].window  # pyright: ignore[reportPrivateUsage]
            waiting = _waiting_bytes(made.nodes[gone]) if gone in made.nodes else 0
            most = max(most, sum(len(chunk) for chunk, _ in window), waiting)
            return True

        watched.at = weigh
        node = await made.start(gone)
        await node.ready()
        assert made.commands(gone) == commands
        image = sum(len(frame.payload) for _, frame in watched.frames if frame.kind == Kind.CHUNK)
        bound = SHORT.snapshot_inflight_bytes_max + longest
        assert 0 < most <= bound + 200  # and what a frame has beside its chunk
        assert image > 2 * bound


@kinds
async def test_a_member_whose_image_is_old_when_it_is_whole_gets_the_next_one(kind: str) -> None:
    settings = evolve(SHORT, retention_catch_up_factor=1.0)
    async with cluster(settings=settings, machine=MACHINES[kind]) as made:
        _, gone, commands = await _left_behind(made, 60)
        watched = Watched(made, gone)
        watched.at = lambda _sender, frame: frame.kind != Kind.END
        node = await made.start(gone)
        await made.until(lambda: any(one.kind == Kind.END for _, one in watched.frames))
        commands += await _fill(made, 100, b"late")  # more than the log keeps
        watched.at = lambda _sender, _frame: True
        await node.ready(timeout=30)
        assert made.commands(gone) == commands
        assert len(watched.transfers) >= 2


async def test_the_log_is_kept_for_a_peer_that_is_being_sent_a_snapshot() -> None:
    settings = evolve(SHORT, retention_catch_up_factor=5.0)
    async with cluster(settings=settings, machine=MACHINES["on-disk"]) as made:
        leader, gone, commands = await _left_behind(made, 60)
        watched = Watched(made, gone)
        watched.at = lambda _sender, frame: frame.kind != Kind.END
        node = await made.start(gone)
        await made.until(lambda: any(one.kind == Kind.END for _, one in watched.frames))
        commands += await _fill(made, 60, b"late")  # three times what the log keeps
        watched.at = lambda _sender, _frame: True
        await node.ready(timeout=30)
        assert made.commands(gone) == commands
        assert len(watched.transfers) == 1
        # Then it is cut again.
        commands += await _fill(made, 60, b"later")
        assert leader.status().last_index - leader.status().first_index < 40


async def test_what_passes_is_paced_on_average_and_allowed_in_a_burst() -> None:
    slept: list[int] = []

    class Clock:
        now_ns = 10**12

        def monotonic_ns(self) -> int:
            return self.now_ns

        async def sleep_until(self, monotonic_ns: int) -> None:
            slept.append(monotonic_ns - self.now_ns)
            self.now_ns = monotonic_ns

    clock = Clock()
    pace = Pace(clock, 1000.0)  # pyright: ignore[reportArgumentType]
    await pace.take(150)  # a fifth of a second's worth passes at once
    assert slept == []
    await pace.take(100)
    assert slept == [50_000_000]
    start = clock.now_ns
    for _ in range(10):
        await pace.take(100)
    assert clock.now_ns - start == 1_000_000_000
    clock.now_ns += 10**11
    slept.clear()
    await pace.take(200)  # long rest saves no more than a burst
    await pace.take(1)
    assert slept == [1_000_000]
