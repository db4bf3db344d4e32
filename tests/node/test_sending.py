"""The sender of a snapshot: keeps its view, goes on from where the peer is, and lets go in time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import anyio
import pytest
from anyio.abc import TaskGroup

from raftkv.core.messages import InstallSnapshot
from raftkv.core.types import Membership, Snapshot
from raftkv.node.images import Images, Source
from raftkv.node.sending import Sender
from raftkv.node.snapshots import Flag, Frame, Kind, decode, decode_begin
from raftkv.runtime.base import Clock, Spawner, Worker
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import AppliedMark, View
from raftkv.transport.base import Lane, Transport

T = TypeVar("T")
PEER = 2
RETRY_NS, PATIENCE_NS = 10, 1000


class World:
    """Everything a sender touches. Time passes when the test says so."""

    def __init__(self, tasks: TaskGroup, chunks: int) -> None:
        self.tasks = tasks
        self.now_ns = 0
        self.passed = anyio.Event()
        self.sent: list[Frame] = []
        self.is_connected = True
        self.closed = 0
        self.ended: list[tuple[int, bool]] = []
        self.chunks = [b"chunk %d" % number for number in range(chunks)]
        self.sender = Sender(
            cast("Images", self),
            cast("Transport", self),
            cast("Worker", self),
            cast("Spawner", self),
            cast("Clock", self),
            system_runtime().waker,
            boot=9,
            bytes_per_second=1e12,
            inflight_bytes_max=20,
            retry_ns=RETRY_NS,
            patience_ns=PATIENCE_NS,
        )
        self.sender.on_ended = lambda peer, delivered: self.ended.append((peer, delivered))

    def source(self, applied: AppliedMark) -> Source | None:
        if not self.chunks:
            return None
        snapshot = Snapshot(applied.index, applied.term, applied.chain, Membership((1, 2, 3)))
        return Source(snapshot, iter(self.chunks), cast("View", self))

    def close(self) -> None:
        self.closed += 1

    def send(self, peer: int, frame: bytes, lane: Lane) -> bool:
        assert (peer, lane) == (PEER, Lane.BULK)
        if self.is_connected:
            self.sent.append(decode(frame))
        return self.is_connected

    async def drained(self, peer: int, lane: Lane) -> bool:
        return self.is_connected

    async def run(self, job: Callable[[], T]) -> T:
        return job()

    def spawn(self, name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
        self.tasks.start_soon(body, name=name)

    def monotonic_ns(self) -> int:
        return self.now_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        while self.now_ns < monotonic_ns:
            await self.passed.wait()

    # What the test does.

    def begin(self, term: int = 1, index: int = 50) -> None:
        message = InstallSnapshot(1, PEER, term, Snapshot(index - 5, 1, 1, Membership((1, 2, 3))))
        self.sender.begin(message, AppliedMark(index, 1, 1, Membership((1, 2, 3))))

    async def said(self) -> list[tuple[int, int]]:
        """What was sent since the last time, once nothing more comes: kind and number."""
        await anyio.wait_all_tasks_blocked()
        sent, self.sent = self.sent, []
        return [(frame.kind, frame.number) for frame in sent]

    def answer(self, kind: Kind, number: int = 0, flags: int = 0, transfer: int = 0) -> None:
        transfer = transfer or (9 << 32) + 1
        self.sender.answered(PEER, Frame(kind, transfer, number, flags, 0, b""))

    def pass_time(self, span_ns: int) -> None:
        self.now_ns += span_ns
        self.passed.set()
        self.passed = anyio.Event()
        self.sender.sweep(self.now_ns)


@asynccontextmanager
async def world(chunks: int = 5) -> AsyncGenerator[World]:
    async with anyio.create_task_group() as tasks:
        made = World(tasks, chunks)
        yield made
        assert made.closed <= 1
        made.pass_time(PATIENCE_NS)
        await anyio.wait_all_tasks_blocked()
        made.pass_time(RETRY_NS)  # whatever is still on its way has ended now


BEGIN, END = (Kind.BEGIN, 0), (Kind.END, 5)


def chunks(*numbers: int) -> list[tuple[Kind, int]]:
    return [(Kind.CHUNK, number) for number in numbers]


async def test_a_window_of_chunks_waits_to_be_confirmed() -> None:
    async with world() as made:
        made.begin()
        assert await made.said() == [BEGIN]
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        assert await made.said() == chunks(0, 1, 2)  # 21 bytes
        made.answer(Kind.PROGRESS, 1)
        assert await made.said() == chunks(3)
        made.answer(Kind.PROGRESS, 4)
        assert await made.said() == [*chunks(4), END]
        made.answer(Kind.ACCEPTED)
        assert await made.said() == []
        assert made.ended == [(PEER, True)]
        assert made.closed == 1
        assert made.sender.oldest_index() is None


async def test_what_the_peer_asks_for_again_comes_again() -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        await made.said()
        made.answer(Kind.PROGRESS, 1, Flag.AGAIN)
        assert await made.said() == chunks(1, 2, 3)


async def test_the_whole_transfer_is_resumed_after_a_lost_connection() -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        await made.said()
        made.is_connected = False
        made.sender.lost(PEER)
        assert await made.said() == []
        made.is_connected = True
        made.answer(Kind.PROGRESS, 1)  # came late; it does not say from where to go on
        assert await made.said() == []
        made.pass_time(RETRY_NS - 1)
        assert await made.said() == []
        made.pass_time(1)
        assert await made.said() == [BEGIN]
        made.answer(Kind.PROGRESS, 2, Flag.AGAIN)
        assert await made.said() == chunks(2, 3, 4)
        made.answer(Kind.PROGRESS, 3)
        assert await made.said() == [END]
        assert made.closed == 0


async def test_a_connection_that_breaks_between_chunks_is_noticed() -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.is_connected = False
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        assert await made.said() == []
        made.is_connected = True
        made.pass_time(RETRY_NS)
        assert await made.said() == [BEGIN]


async def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    async with world() as made:
        made.begin()
        assert await made.said() == [BEGIN]
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        await made.said()
        made.pass_time(RETRY_NS)
        assert await made.said() == [BEGIN]
        made.pass_time(RETRY_NS)
        assert await made.said() == [BEGIN]
        made.pass_time(PATIENCE_NS)
        await made.said()
        assert made.closed == 1
        assert made.ended == []  # not at once
        made.pass_time(RETRY_NS)
        await made.said()
        assert made.ended == [(PEER, False)]


@pytest.mark.parametrize("number", [0, 9])
async def test_a_peer_that_forgot_what_it_had_gets_a_new_transfer(number: int) -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        await made.said()
        made.answer(Kind.PROGRESS, 2)
        await made.said()
        made.answer(Kind.PROGRESS, number, Flag.AGAIN)
        assert await made.said() == []
        made.pass_time(RETRY_NS)
        await made.said()
        assert made.ended == [(PEER, False)]
        made.closed = 0
        made.begin()
        await made.said()
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN, transfer=(9 << 32) + 2)
        assert await made.said() == chunks(0, 1, 2)


async def test_who_leads_again_goes_on_with_the_transfer_under_its_new_term() -> None:
    async with world() as made:
        made.begin(term=1)
        await made.said()
        made.answer(Kind.PROGRESS, 0, Flag.AGAIN)
        await made.said()
        made.sender.hold()
        made.answer(Kind.PROGRESS, 2)
        assert await made.said() == []
        made.begin(term=3, index=70)
        await anyio.wait_all_tasks_blocked()
        (frame,) = made.sent
        message = decode_begin(frame.payload)
        assert (message.term, message.snapshot.index) == (3, 50)
        made.sent.clear()
        made.answer(Kind.PROGRESS, 2, Flag.AGAIN)
        assert await made.said() == chunks(2, 3, 4)
        made.answer(Kind.PROGRESS, 3)
        assert await made.said() == [END]
        made.begin(term=3, index=80)  # the core's patience is shorter: nothing new
        assert await made.said() == []


async def test_what_nobody_asks_for_any_more_is_let_go() -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.sender.hold()
        made.pass_time(PATIENCE_NS)
        await made.said()
        assert made.closed == 1


async def test_a_refused_snapshot_is_told_after_a_while() -> None:
    async with world() as made:
        made.begin()
        await made.said()
        made.answer(Kind.BROKEN, transfer=5)  # of another one
        assert await made.said() == []
        made.answer(Kind.BROKEN)
        await made.said()
        assert (made.closed, made.ended) == (1, [])
        made.pass_time(RETRY_NS)
        await made.said()
        assert made.ended == [(PEER, False)]


async def test_there_may_be_no_image_yet() -> None:
    async with world(chunks=0) as made:
        made.begin()
        assert made.ended == [(PEER, False)]
