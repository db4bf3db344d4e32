"""Our transports keep the port's promises; transports that break one fail the test of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import anyio
import pytest

from raftkv.testing.suites.transport import TransportSuite
from raftkv.transport.base import Hello, Lane, Transport
from raftkv.transport.memory import MemoryNetwork, MemoryTransport
from raftkv.transport.tcp import Limits, TcpTransport
from tests.transport.world import runtime

QUEUE = 2**20


class OfMemory(TransportSuite):
    """In a network that is made anew in each test's loop."""

    queue_bytes_max = QUEUE
    transport: type[MemoryTransport] = MemoryTransport
    room: int = QUEUE
    network: MemoryNetwork
    number: int

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def within() -> None:
            self.network = MemoryNetwork(runtime(), queue_bytes_max=self.room)
            self.number = 0
            await body()

        super().run(within)

    def make_transport(self) -> Transport:
        self.number += 1
        return self.transport(self.network, f"member-{self.number}")

    def address_of(self, transport: Transport) -> str:
        return cast("MemoryTransport", transport).address


class TestMemory(OfMemory):
    pass


class TestTcp(TransportSuite):
    queue_bytes_max = 2 * QUEUE

    def make_transport(self) -> Transport:
        limits = Limits(
            frame_bytes_max=QUEUE,
            raft_queue_bytes_max=2 * QUEUE,
            bulk_queue_bytes_max=2 * QUEUE,
            backoff_seconds_min=0.001,
            backoff_seconds_max=0.02,
        )
        return TcpTransport("127.0.0.1:0", runtime=runtime(), limits=limits)

    def address_of(self, transport: Transport) -> str:
        return cast("TcpTransport", transport).address


class TestTcpOnTrio(TestTcp):
    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(self.seconds_max):
                await body()

        anyio.run(bounded, backend="trio")


# --- each promise that is broken is noticed by its test -----------------------------------------


class Forgets(MemoryTransport):
    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        return frame.endswith(b"7") or super().send(peer, frame, lane)


class Doubles(MemoryTransport):
    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        return super().send(peer, frame, lane) and super().send(peer, frame, lane)


class HasOneLane(MemoryTransport):
    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        return super().send(peer, frame)


class Pads(MemoryTransport):
    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        return super().send(peer, frame or b"-", lane)


class IsAlwaysGlad(MemoryTransport):
    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        super().send(peer, frame, lane)
        return True


class SaysWhatItSaid(MemoryTransport):
    def announce(self, hello: Hello) -> None:
        pass


class KeepsItsPeers(MemoryTransport):
    def set_peers(self, addresses: Mapping[int, str]) -> None:
        if addresses:
            super().set_peers(addresses)


class TakesAnyAddress(MemoryTransport):
    def checked(self, address: str) -> str:
        return address


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgets, "frames_arrive_whole_and_in_order_on_their_lane"),
        (Doubles, "frames_arrive_whole_and_in_order_on_their_lane"),
        (HasOneLane, "frames_arrive_whole_and_in_order_on_their_lane"),
        (Pads, "frames_of_any_size_arrive"),
        (IsAlwaysGlad, "sending_to_nobody_answers_false"),
        (SaysWhatItSaid, "what_is_announced_is_said_from_then_on"),
        (KeepsItsPeers, "a_peer_that_left_the_membership_is_disconnected"),
        (TakesAnyAddress, "an_address_that_cannot_be_is_the_callers_mistake"),
    ],
)
def test_a_transport_that_breaks_a_promise_fails_its_test(
    broken: type[MemoryTransport], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = OfMemory()
    suite.transport = broken
    monkeypatch.setattr(OfMemory, "seconds_max", 0.5)
    with pytest.raises((AssertionError, TimeoutError, pytest.fail.Exception)):
        getattr(suite, f"test_{test}")()


def test_a_lane_that_takes_more_than_it_says_is_noticed() -> None:
    suite = OfMemory()
    suite.room = 4 * QUEUE
    with pytest.raises(AssertionError, match="a lane holds"):
        suite.test_a_full_lane_drops_and_drained_waits_for_half_of_it()
