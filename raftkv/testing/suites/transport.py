"""What every transport has to keep, as tests that run on yours.

    class TestCarrierPigeons(TransportSuite):
        def make_transport(self) -> Transport:
            return PigeonTransport("loft-%d" % next(numbers), queue_bytes_max=2**20)

        def address_of(self, transport: Transport) -> str:
            return transport.address

The tests run on asyncio, each in a loop of its own; :meth:`TransportSuite.run` is the place to
choose another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar, Final

import anyio
import pytest
from attrs import evolve, frozen

from raftkv.errors import ConfigError, RequestTooLargeError, TransportError, UsageError
from raftkv.testing.suites.receivers import Recorder
from raftkv.transport.base import Code, Hello, Lane, Transport

_CLUSTER: Final = 0xC1
_SOME_BYTES: Final = 200


@frozen
class End:
    """One end of a test's world."""

    transport: Transport
    heard: Recorder


def hello(member: int, *, cluster: int = _CLUSTER, boot: int = 1, address: str = "") -> Hello:
    """What a test's member says of itself."""
    return Hello(cluster, member, b"disk of %08d" % member, boot, address)


class TransportSuite(ABC):
    """Tests of a transport between members in one process. Subclass it as ``Test...``."""

    queue_bytes_max: ClassVar[int] = 16 * 2**20
    """A lane holds no more than this; the smaller your transport's queues, the quicker the test."""
    seconds_max: ClassVar[float] = 20.0
    """A test that waits for longer has failed."""

    @abstractmethod
    def make_transport(self) -> Transport:
        """A new transport at an address of its own; several must be able to reach each other."""

    @abstractmethod
    def address_of(self, transport: Transport) -> str:
        """Where a transport that is being served can be reached."""

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run one test's coroutine to its end."""

        async def bounded() -> None:
            with anyio.fail_after(self.seconds_max):
                await body()

        anyio.run(bounded)

    @asynccontextmanager
    async def serving(self, member: int, *, boot: int = 1, cluster: int = 0) -> AsyncGenerator[End]:
        """A member that listens and knows nobody."""
        end = End(self.make_transport(), Recorder())
        said = hello(member, boot=boot, cluster=cluster or _CLUSTER)
        async with end.transport.serve(said, end.heard):
            yield end

    @asynccontextmanager
    async def connected(self, *members: int) -> AsyncGenerator[dict[int, End]]:
        """Members that can send to each other on both lanes."""
        async with AsyncExitStack() as stack:
            ends = {one: await stack.enter_async_context(self.serving(one)) for one in members}
            for one, end in ends.items():
                others = {
                    other: self.address_of(ends[other].transport)
                    for other in members
                    if other != one
                }
                end.transport.set_peers(others)
            for one, end in ends.items():
                for other in members:
                    if other != one:
                        await _open(end, other)
            yield ends

    # --- frames ---------------------------------------------------------------------------------

    def test_frames_arrive_whole_and_in_order_on_their_lane(self) -> None:
        """Lanes do not wait for each other, so only the order within one is promised."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                for number in range(_SOME_BYTES):
                    lane = Lane.RAFT if number % 2 else Lane.BULK
                    assert ends[1].transport.send(2, b"%d" % number, lane)
                heard = ends[2].heard
                await heard.until(lambda: len(heard.frames) >= _SOME_BYTES)
                odd = [b"%d" % number for number in range(1, _SOME_BYTES, 2)]
                even = [b"%d" % number for number in range(0, _SOME_BYTES, 2)]
                assert heard.payloads(1, Lane.RAFT) == odd
                assert heard.payloads(1, Lane.BULK) == even

        self.run(body)

    def test_frames_of_any_size_arrive(self) -> None:
        """Empty ones, and the longest that ``frame_bytes_max`` allows."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                one, heard = ends[1].transport, ends[2].heard
                for size in (0, 1, 255, 65_536, one.frame_bytes_max):
                    frame = (bytes(range(256)) * (size // 256 + 1))[:size]
                    heard.frames.clear()
                    assert await one.drained(2, Lane.RAFT)
                    assert one.send(2, frame)
                    await heard.until(lambda: bool(heard.frames))
                    assert heard.payloads(1) == [frame], f"a frame of {size} bytes"

        self.run(body)

    def test_a_frame_over_the_limit_is_the_callers_mistake(self) -> None:
        """It would never arrive, so it is no loss that Raft could repair."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                one = ends[1].transport
                with pytest.raises(RequestTooLargeError):
                    one.send(2, bytes(one.frame_bytes_max + 1))

        self.run(body)

    def test_nothing_is_delivered_within_send(self) -> None:
        """A receiver that answers at once must not be called from within its own call."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                depth = 0

                def answer(me: int) -> Callable[[int, Lane, bytes], None]:
                    def bounce(peer: int, _: Lane, frame: bytes) -> None:
                        nonlocal depth
                        depth += 1
                        assert depth == 1, "a frame was delivered from within a delivery"
                        if len(frame) < _SOME_BYTES:
                            ends[me].transport.send(peer, frame + b".")
                        depth -= 1

                    return bounce

                for me, end in ends.items():
                    end.heard.on_each = answer(me)
                ends[1].transport.send(2, b".")
                assert ends[2].heard.frames == [], "a frame was delivered from within send"
                heard = ends[1].heard
                await heard.until(lambda: any(len(one[2]) == _SOME_BYTES for one in heard.frames))

        self.run(body)

    def test_a_full_lane_drops_and_drained_waits_for_half_of_it(self) -> None:
        """Nothing waits for a peer, and memory is bounded; the other lane has room of its own."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                one, heard = ends[1].transport, ends[2].heard
                chunk = bytes(min(one.frame_bytes_max, self.queue_bytes_max // 4))
                taken = 0
                while one.send(2, chunk, Lane.BULK):
                    taken += 1
                    held = taken * len(chunk)
                    assert held <= self.queue_bytes_max, f"a lane holds {held} bytes"
                assert one.send(2, b"on the other lane")
                for _ in range(8):
                    assert await one.drained(2, Lane.BULK)
                    assert one.send(2, chunk[: len(chunk) // 2], Lane.BULK), "half a lane has room"
                    taken += 1
                await heard.until(lambda: len(heard.payloads(1, Lane.BULK)) == taken)

        self.run(body)

    # --- who is there ---------------------------------------------------------------------------

    def test_sending_to_nobody_answers_false(self) -> None:
        """To who is unknown or not connected, and while nothing is served."""

        async def body() -> None:
            one = self.make_transport()
            assert not one.send(2, b"before serve")
            async with one.serve(hello(1), Recorder()):
                assert not one.send(9, b"unknown")
                assert not await one.drained(9, Lane.RAFT)
                assert not await one.drained(9, Lane.BULK)
            assert not one.send(2, b"after serve")

        self.run(body)

    def test_three_members_hear_each_other(self) -> None:
        """And nobody hears what was sent to somebody else."""

        async def body() -> None:
            async with self.connected(1, 2, 3) as ends:
                for sender, end in ends.items():
                    for to in ends:
                        if to != sender:
                            assert end.transport.send(to, b"%d to %d" % (sender, to))
                for me, end in ends.items():
                    heard = end.heard
                    await heard.until(lambda heard=heard: len(heard.frames) >= 2)
                    others = [one for one in ends if one != me]
                    expected = {(one, Lane.RAFT, b"%d to %d" % (one, me)) for one in others}
                    assert set(heard.frames) == expected

        self.run(body)

    def test_both_sides_learn_who_the_other_is(self) -> None:
        """From the handshake, before any frame, and asked first whether it may come in."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                for me, other in ((1, 2), (2, 1)):
                    heard = ends[me].heard
                    await heard.until(lambda heard=heard: bool(heard.ups))
                    assert set(heard.ups) == {(other, hello(other))}
                    assert set(heard.asked) == {hello(other)}

        self.run(body)

    def test_a_member_that_leaves_is_down_and_up_again_with_its_new_boot(self) -> None:
        """Whoever comes back may be another process."""

        async def comes_and_goes(one: End, boot: int) -> None:
            async with self.serving(2, boot=boot) as two:
                one.transport.set_peers({2: self.address_of(two.transport)})
                await _open(one, 2)
                said = b"boot %d" % boot
                assert one.transport.send(2, said)
                await two.heard.until(lambda: said in two.heard.payloads(1))
            await one.heard.until(lambda: len(one.heard.downs) == boot)
            assert not one.transport.send(2, b"gone")
            one.transport.set_peers({})

        async def body() -> None:
            async with self.serving(1) as one:
                for boot in (1, 2):
                    await comes_and_goes(one, boot)
                assert {said.boot for _, said in one.heard.ups} == {1, 2}

        self.run(body)

    def test_whoever_waits_for_a_lane_learns_that_its_peer_left(self) -> None:
        """False, and not for ever."""

        async def body() -> None:
            answers: list[bool] = []
            async with self.serving(1) as one, anyio.create_task_group() as tasks:

                async def wait() -> None:
                    while await one.transport.drained(2, Lane.BULK):
                        await anyio.lowlevel.checkpoint()
                    answers.append(False)

                async with self.serving(2) as two:
                    one.transport.set_peers({2: self.address_of(two.transport)})
                    await _open(one, 2)
                    tasks.start_soon(wait)
            assert answers == [False]

        self.run(body)

    def test_a_peer_that_left_the_membership_is_disconnected(self) -> None:
        """``set_peers`` closes what is not in it."""

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                ends[1].transport.set_peers({})
                assert not ends[1].transport.send(2, b"gone")
                await ends[1].heard.until(lambda: ends[1].heard.downs == [2])

        self.run(body)

    # --- who may come in ------------------------------------------------------------------------

    @pytest.mark.parametrize("refuser", [1, 2])
    def test_who_is_refused_is_told_why_and_connected_once_it_may_come(self, refuser: int) -> None:
        """Whichever side dials; refusals are repeated politely, and the reason reaches the node."""

        async def body() -> None:
            async with self.serving(1) as one, self.serving(2) as two:
                judge = {1: one, 2: two}[refuser].heard
                judge.refusal = lambda _: "its disk changed"
                one.transport.set_peers({2: self.address_of(two.transport)})
                await judge.until(lambda: len(judge.asked) >= 2)
                assert not judge.ups
                if refuser == 2:
                    await one.heard.until(lambda: bool(one.heard.refused))
                    peer, refusal = one.heard.refused[0]
                    assert (peer, refusal.code) == (2, Code.IDENTITY)
                    assert "its disk changed" in refusal.sentence
                judge.refusal = lambda _: None
                await _open(one, 2)

        self.run(body)

    def test_what_is_announced_is_said_from_then_on(self) -> None:
        """A member that recovers says so, and is let in where it was refused."""

        async def body() -> None:
            async with self.serving(1) as one, self.serving(2) as two:
                two.heard.refusal = lambda said: None if said.recovering else "it is an old copy"
                two.heard.code = Code.REGRESSED
                one.transport.set_peers({2: self.address_of(two.transport)})
                await one.heard.until(lambda: bool(one.heard.refused))
                assert one.heard.refused[0][1].code == Code.REGRESSED
                now = evolve(hello(1), recovering=True)
                one.transport.announce(now)
                await two.heard.until(lambda: bool(two.heard.ups))
                assert set(two.heard.ups) == {(1, now)}

        self.run(body)

    def test_another_cluster_and_another_member_are_refused(self) -> None:
        """Before the node hears of them."""

        async def body() -> None:
            async with (
                self.serving(1) as one,
                self.serving(2, cluster=7) as stranger,
                self.serving(4) as four,
            ):
                one.transport.set_peers(
                    {2: self.address_of(stranger.transport), 3: self.address_of(four.transport)}
                )
                heard = one.heard
                await heard.until(lambda: {peer for peer, _ in heard.refused} == {2, 3})
                codes = {(peer, refusal.code) for peer, refusal in heard.refused}
                assert codes == {(2, Code.CLUSTER), (3, Code.RECEIVER)}
                assert not heard.ups
                assert not stranger.heard.ups
                assert not four.heard.ups

        self.run(body)

    def test_who_is_no_member_yet_can_ask(self) -> None:
        """One question, one answer, without being let in; nobody there is an error."""

        async def body() -> None:
            asker = self.make_transport()
            async with self.serving(1) as one:
                where = self.address_of(one.transport)
                assert await asker.ask(where, b"who am I?") == b"answer to who am I?"
                assert one.heard.questions == [b"who am I?"]
                assert not one.heard.asked
                assert not one.heard.ups
            with pytest.raises(TransportError):
                await asker.ask(where, b"anybody?")

        self.run(body)

    # --- serving --------------------------------------------------------------------------------

    def test_a_transport_is_served_once_at_a_time(self) -> None:
        """And again afterwards."""

        async def body() -> None:
            one = self.make_transport()
            async with one.serve(hello(1), Recorder()):
                with pytest.raises(UsageError):
                    async with one.serve(hello(1), Recorder()):
                        pass
            async with one.serve(hello(1), Recorder()):
                pass

        self.run(body)

    def test_an_address_that_cannot_be_is_the_callers_mistake(self) -> None:
        """Said before anything is written or dialled; a good one comes out as it is written."""

        async def body() -> None:
            async with self.serving(1) as one:
                where = self.address_of(one.transport)
                assert one.transport.checked(where) == where
                with pytest.raises(ConfigError):
                    one.transport.checked("")

        self.run(body)

    def test_a_receiver_that_raises_ends_serve_with_its_own_error(self) -> None:
        """It is the node's failure, and must not be lost in a task."""

        class BrokenError(Exception):
            pass

        def fail(*_: object) -> None:
            raise BrokenError

        async def body() -> None:
            async with self.connected(1, 2) as ends:
                ends[2].heard.on_each = fail
                ends[1].transport.send(2, b"x")
                await anyio.sleep_forever()

        with pytest.raises(BrokenError):
            self.run(body)


async def _open(end: End, peer: int) -> None:
    """Wait until frames to the peer are taken on both lanes."""
    for lane in Lane:
        while not await end.transport.drained(peer, lane):
            await end.heard.until(_changes(end.heard))


def _changes(heard: Recorder) -> Callable[[], bool]:
    """Whether it has heard anything since now."""

    def count() -> int:
        return len(heard.ups) + len(heard.asked) + len(heard.refused)

    before = count()
    return lambda: count() != before


__all__ = ["End", "Recorder", "TransportSuite", "hello"]
