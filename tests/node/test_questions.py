"""Members ask the leader: answered by who leads, again if need be, bounded; and companions."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from struct import Struct

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import (
    ClosedError,
    DeadlineError,
    InvalidArgumentError,
    InvariantError,
    NodeStoppedError,
    NoLeaderError,
    RequestTooLargeError,
    TooManyRequestsError,
    UsageError,
)
from raftkv.node import questions
from raftkv.node.node import Node, running
from raftkv.node.questions import QUESTION_BYTES_MAX, Answerer, Questions
from raftkv.node.waiters import Waiter
from raftkv.runtime.system import make_promise
from raftkv.testing.nodes import SimCluster, run_virtual
from raftkv.transport.base import Lane
from tests.node.rig import Cluster, cluster
from tests.node.test_open import addresses, opened

__all__ = ["addresses"]  # a fixture

HEAD = Struct("<BQ")
ME, PEER = 1, 2
RETRY_NS = 1_000


class World:
    """One member's questions over a wire that keeps what is sent; tasks run when told."""

    def __init__(self) -> None:
        self.leader = PEER
        self.is_up = True
        self.sent: list[tuple[int, bytes]] = []
        self.tasks: list[Callable[[], Coroutine[object, object, None]]] = []
        self.questions = Questions(ME, 3, self, self, RETRY_NS)  # pyright: ignore[reportArgumentType] - sends, and nothing else
        self.questions.leader = lambda: self.leader

    def send(self, peer: int, frame: bytes, lane: Lane) -> bool:
        assert lane is Lane.BULK
        if self.is_up:
            self.sent.append((peer, frame))
        return self.is_up

    def spawn(self, _name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
        self.tasks.append(body)

    async def work(self) -> None:
        tasks, self.tasks = self.tasks, []
        for body in tasks:
            await body()

    def asked(self, question: bytes = b"q", deadline_ns: int = 10**9, now_ns: int = 0) -> Waiter:
        waiter = Waiter(question, deadline_ns, make_promise())
        self.questions.ask(waiter, now_ns)
        return waiter

    def numbers(self) -> list[int]:
        return [HEAD.unpack_from(frame)[1] for _, frame in self.sent]


async def _echo(question: bytes) -> bytes:
    return b"<" + question + b">"


async def test_an_answer_counts_only_from_whom_it_was_asked() -> None:
    world = World()
    waiter = world.asked()
    ((peer, frame),) = world.sent
    assert peer == PEER
    kind, number = HEAD.unpack_from(frame)
    assert (kind, frame[HEAD.size :]) == (questions.ASK, b"q")
    world.questions.on_frame(7, HEAD.pack(questions.ANSWER, number) + b"of somebody else")
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, number + 1) + b"to another")
    assert not waiter.promise.done()
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, number) + b"a")
    assert await waiter.promise == b"a"
    assert len(world.questions) == 0
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, number) + b"twice")


async def test_a_question_is_asked_again_where_it_was_passed_or_lost_or_another_leads() -> None:
    world = World()
    world.leader = 0
    waiter = world.asked()
    assert world.sent == []
    world.leader, world.is_up = PEER, False
    world.questions.tick(1, "")
    world.is_up = True
    world.questions.tick(2, "")  # could not leave before
    world.questions.tick(3, "")
    assert len(world.sent) == 1
    world.questions.tick(2 + RETRY_NS, "")  # no answer for so long
    assert len(world.sent) == 2
    number = world.numbers()[0]
    world.questions.on_frame(PEER, HEAD.pack(questions.PASSED, number))
    world.questions.tick(4 + RETRY_NS, "")
    world.leader = 3
    world.questions.tick(5 + RETRY_NS, "")
    assert [peer for peer, _ in world.sent] == [PEER, PEER, PEER, 3]
    assert set(world.numbers()) == {number}
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, number) + b"who led before")
    assert not waiter.promise.done()
    world.questions.on_frame(3, HEAD.pack(questions.ANSWER, number) + b"a")
    assert await waiter.promise == b"a"


async def test_a_late_question_says_why_and_one_whose_asker_is_gone_is_forgotten() -> None:
    world = World()
    late, gone = world.asked(deadline_ns=5), world.asked()
    gone.promise.set_result(b"cancelled")
    world.questions.tick(5, "no leader is known")
    with pytest.raises(DeadlineError, match="no leader is known"):
        await late.promise
    assert len(world.questions) == 0
    last = world.asked()
    world.questions.fail_all(ClosedError("closed"))
    with pytest.raises(ClosedError):
        await last.promise


async def test_questions_are_bounded_in_number_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "QUESTIONS_MAX", 2)
    world = World()
    world.asked()
    world.asked()
    with pytest.raises(TooManyRequestsError, match="2 questions"):
        world.asked()
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, world.numbers()[0]))
    world.asked()
    monkeypatch.setattr(questions, "QUESTIONS_MAX", 10)
    monkeypatch.setattr(questions, "QUESTIONS_BYTES_MAX", 4)
    world.asked(b"xx")
    with pytest.raises(TooManyRequestsError):
        world.asked()
    world.questions.on_frame(PEER, HEAD.pack(questions.ANSWER, world.numbers()[-1]))
    world.asked()


async def test_a_leader_answers_each_question_once_at_a_time_and_passes_what_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "QUESTIONS_MAX", 2)
    world = World()
    ask = [HEAD.pack(questions.ASK, number) + b"q%d" % number for number in range(4)]
    world.leader = ME
    world.questions.on_frame(PEER, ask[0])  # nobody answers here
    world.questions.answerer = _echo
    world.leader = PEER
    world.questions.on_frame(PEER, ask[0])  # does not lead
    world.leader = ME
    for number in (0, 1, 0, 2):
        world.questions.on_frame(PEER, ask[number])
    passed = [HEAD.pack(questions.PASSED, number) for number in (0, 0, 2)]
    assert world.sent == [(PEER, frame) for frame in passed]
    world.sent.clear()
    await world.work()
    assert world.sent == [
        (PEER, HEAD.pack(questions.ANSWER, number) + b"<q%d>" % number) for number in (0, 1)
    ]
    world.sent.clear()
    monkeypatch.setattr(questions, "QUESTIONS_BYTES_MAX", 2)
    world.questions.on_frame(PEER, ask[2])
    world.questions.on_frame(PEER, ask[3])
    assert world.sent == [(PEER, HEAD.pack(questions.PASSED, 3))]


async def test_what_could_not_be_answered_for_the_times_is_passed_and_a_bug_is_not() -> None:
    world = World()
    world.leader = ME

    async def unlucky(_question: bytes) -> bytes:
        raise NoLeaderError("just lost it")

    world.questions.answerer = unlucky
    waiter = world.asked()
    await world.work()
    assert not waiter.promise.done()
    world.questions.answerer = _echo
    world.questions.tick(1, "")
    await world.work()
    assert await waiter.promise == b"<q>"

    async def endless(_question: bytes) -> bytes:
        return bytes(QUESTION_BYTES_MAX + 1)

    world.questions.answerer = endless
    world.asked()
    with pytest.raises(InvariantError, match="at most 65536"):
        await world.work()


@given(st.binary(max_size=20), st.integers(0, 255))
def test_no_frame_of_a_peer_does_harm(tail: bytes, kind: int) -> None:
    async def main() -> None:
        world = World()
        world.leader = ME
        world.questions.answerer = _echo
        world.questions.on_frame(PEER, bytes((kind,)) + tail)
        await world.work()
        assert len(world.sent) == (kind == questions.ASK and len(tail) >= 8)

    anyio.run(main)


async def test_a_frame_too_long_for_a_question_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.leader = ME
    world.questions.answerer = _echo
    head = HEAD.pack(questions.ASK, 1)
    with caplog.at_level(logging.WARNING):
        world.questions.on_frame(PEER, head + bytes(QUESTION_BYTES_MAX + 1))
    assert "65546 bytes" in caplog.text
    assert not world.tasks
    world.questions.on_frame(PEER, head + bytes(QUESTION_BYTES_MAX))
    assert len(world.tasks) == 1


# --- whole nodes ----------------------------------------------------------------------------------


def _named(node: Node[object]) -> Answerer:
    async def answer(question: bytes) -> bytes:
        return node.name.encode() + b" " + question

    return answer


@asynccontextmanager
async def _asking() -> AsyncGenerator[Cluster]:
    async with cluster() as made:
        for node in made.nodes.values():
            node.answer_with(_named(node))
        yield made


async def test_every_member_hears_the_leader_answer_and_after_it_the_next() -> None:
    async with _asking() as made:
        leader = await made.leader()
        for node in made.nodes.values():
            assert await node.ask(b"?", timeout=30) == leader.name.encode() + b" ?"
        await made.stop(leader.id)
        (one, other) = made.nodes.values()
        heard = {await node.ask(b"?", timeout=30) for node in (one, other)}
        assert heard == {(await made.leader()).name.encode() + b" ?"}


async def test_a_question_that_is_none_and_one_without_a_leader_have_their_errors() -> None:
    async with cluster(size=3, start=False) as made:
        node = await made.start(1)
        with pytest.raises(UsageError, match="answer_with"):
            await node.ask(b"?")
        node.answer_with(_named(node))
        with pytest.raises(InvalidArgumentError, match="is bytes"):
            await node.ask("?")  # pyright: ignore[reportArgumentType] - the point
        with pytest.raises(RequestTooLargeError, match="65537 bytes"):
            await node.ask(bytes(QUESTION_BYTES_MAX + 1))
        with pytest.raises(DeadlineError, match="no leader is known"):
            await node.ask(b"?", timeout=0.1)
        assert node.leading == 0


async def test_questions_travel_over_sockets(tmp_path: Path, addresses: dict[str, str]) -> None:
    async with opened(tmp_path, addresses) as nodes:
        for node in nodes:
            node.answer_with(_named(node))
        longest = bytes(QUESTION_BYTES_MAX - 3)
        (heard,) = {await node.ask(longest, timeout=30) for node in nodes}
        assert heard in [name.encode() + b" " + longest for name in addresses]


def test_questions_travel_in_virtual_time_and_reach_who_leads_after_a_crash() -> None:
    async def main() -> None:
        async with SimCluster() as cluster:
            for node in cluster.nodes.values():
                node.answer_with(_named(node))
            leader = await cluster.leader()
            asker = next(name for name in cluster.names if name != leader.name)
            assert await cluster.node(asker).ask(b"1") == leader.name.encode() + b" 1"
            cluster.crash(leader.name)
            heard = await cluster.node(asker).ask(b"2", timeout=30)
            assert heard == (await cluster.leader()).name.encode() + b" 2"

    run_virtual(main)


# --- companions -----------------------------------------------------------------------------------


async def test_a_companion_lives_while_the_node_serves() -> None:
    async with cluster(start=False) as made:
        node: Node[object] = Node(made.setup(1))
        told: list[str] = []

        async def lives() -> None:
            told.append("begins")
            try:
                await anyio.sleep_forever()
            finally:
                told.append("ends")

        async def returns() -> None:
            told.append("returns")

        async def is_told() -> None:
            with pytest.raises(DeadlineError):
                await node.propose(b"", timeout=0)
            try:
                await anyio.sleep_forever()
            finally:
                await node.propose(b"")  # closed by now: no failure

        node.accompany("one", lives)
        node.accompany("two", returns)
        node.accompany("three", is_told)
        async with running(node):
            while sorted(told) != ["begins", "returns"]:
                await made.tick()
            with pytest.raises(UsageError, match="runs already"):
                node.accompany("late", lives)
        assert told[-1] == "ends"
        assert node.failure is None


async def test_a_companion_that_fails_stops_the_node() -> None:
    async with cluster(start=False) as made:
        node: Node[object] = Node(made.setup(1))

        async def fails() -> None:
            raise InvariantError("the companion is wrong")

        node.accompany("one", fails)
        with pytest.raises(NodeStoppedError, match="the companion is wrong"):
            async with running(node):
                await anyio.sleep_forever()
