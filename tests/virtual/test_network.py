"""The simulated network keeps the port's promises, and breaks frames as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

import anyio
import attrs
import pytest

from raftkv.core import EntryKind, Payload
from raftkv.core.messages import ForwardProposal, VoteResponse
from raftkv.errors import InvariantError, UsageError
from raftkv.testing import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes import Weather, run_virtual
from raftkv.testing.nodes.loop import virtual_loop
from raftkv.testing.nodes.network import Fate, SimNetwork
from raftkv.testing.nodes.runtime import SimClock
from raftkv.testing.suites.transport import TransportSuite
from raftkv.transport.base import Lane, Transport
from raftkv.transport.codec import encode_messages
from raftkv.transport.memory import LinkFaults, MemoryTransport
from raftkv.transport.wire import FrameParser
from tests.transport import test_memory
from tests.transport.test_memory import members
from tests.transport.world import runtime

MS = 1_000_000


def network(choices: Choices | None = None, *, queue_bytes_max: int = 1000) -> SimNetwork:
    loop = virtual_loop()
    world = attrs.evolve(runtime(), clock=SimClock(loop))
    net = SimNetwork(loop, world, choices or ReplayedChoices(()))
    net.queue_bytes_max = queue_bytes_max
    return net


def vote(term: int) -> bytes:
    return encode_messages([VoteResponse(1, 2, term, rejected=False)])


def forwarded(number: int) -> bytes:
    payload = Payload(EntryKind.NORMAL, b"x")
    return encode_messages([ForwardProposal(1, 2, (payload,), number)])


class TestThePort(TransportSuite):
    """What the port promises."""

    queue_bytes_max = 70_000
    shuffle_permille: ClassVar[int] = 0
    _net: SimNetwork | None = None
    _made = 0

    def make_transport(self) -> Transport:
        """An endpoint in the network of this test's loop."""
        if self._net is None or self._net.loop is not virtual_loop():
            self._net = network(queue_bytes_max=self.queue_bytes_max)
        self._made += 1
        return self._net.endpoint(f"end-{self._made}")

    def address_of(self, transport: Transport) -> str:
        """Its address."""
        assert isinstance(transport, MemoryTransport)
        return transport.address

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """In virtual time."""
        run_virtual(body, SeededChoices(1), shuffle_permille=self.shuffle_permille)


class TestThePortInAnyOrder(TestThePort):
    """The same with a loop that runs what is ready in any order."""

    shuffle_permille = 1000


# Of the network in memory, whose cuts and bounds these are, too.
INHERITED: list[Callable[[], Awaitable[None]]] = [
    test_memory.test_a_full_lane_drops_and_drained_waits_for_half_of_it,
    test_memory.test_a_cut_is_silent_and_one_way,
    test_memory.test_a_partition_cuts_groups_both_ways_and_leaves_them_whole,
    test_memory.test_a_member_behind_a_cut_connects_once_it_is_healed,
    test_memory.test_a_disconnect_is_told_to_both_and_loses_what_was_queued,
    test_memory.test_whoever_waits_for_a_lane_learns_that_its_peer_left,
    test_memory.test_a_tap_sees_changes_and_swallows_frames,
]


@pytest.mark.parametrize("claim", INHERITED, ids=lambda one: one.__name__.removeprefix("test_"))
@pytest.mark.parametrize("shuffle_permille", [0, 1000], ids=["in order", "shuffled"])
def test_it_is_a_network_in_memory(
    claim: Callable[[], Awaitable[None]], shuffle_permille: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(_seed: int = 0, *, queue_bytes_max: int = 1000) -> SimNetwork:
        return network(queue_bytes_max=queue_bytes_max)

    monkeypatch.setattr(test_memory, "network", simulated)
    run_virtual(claim, SeededChoices(1), shuffle_permille=shuffle_permille)


def _course(
    choices: Choices, weather: Weather, frames: list[bytes], lane: Lane = Lane.RAFT
) -> tuple[list[bytes], dict[Fate, int], int]:
    """What arrives of the frames, how many met which fate, how often connections broke."""

    async def main() -> tuple[list[bytes], dict[Fate, int], int]:
        net = network(choices, queue_bytes_max=10_000)
        async with members(net, 1, 2) as world:
            (one, _), (_, two) = world[1], world[2]
            net.weather = weather
            for frame in frames:
                one.send(2, frame, lane)
                await anyio.sleep(0.01)
            await anyio.sleep(10)
            return two.payloads(1, lane), dict(net.counts), len(two.downs)

    return run_virtual(main, choices)


VOTES = [vote(term) for term in range(1, 101)]


def test_without_decisions_every_frame_arrives_in_order_in_any_weather() -> None:
    worst = Weather(
        latency_ns=(1, 10 * MS), lost=100, reset=100, flipped=100, doubled=100, late=100,
        replayed=100,
    )  # fmt: skip
    arrived, counts, breaks = _course(ReplayedChoices(()), worst, VOTES)
    assert (arrived, counts, breaks) == (VOTES, {}, 0)


def test_lost_frames_are_lost_and_the_others_keep_their_order() -> None:
    arrived, counts, breaks = _course(SeededChoices(1), Weather(lost=300), VOTES)
    assert len(arrived) == 100 - counts[Fate.LOST]
    assert arrived == sorted(arrived, key=VOTES.index)
    assert counts.keys() == {Fate.LOST}
    assert not breaks


def test_doubled_frames_come_once_in_time_and_once_late() -> None:
    arrived, counts, _ = _course(SeededChoices(1), Weather(doubled=300), VOTES)
    assert len(arrived) == 100 + counts[Fate.DOUBLED]
    assert [*dict.fromkeys(arrived)] == VOTES


def test_late_frames_are_overtaken() -> None:
    arrived, counts, _ = _course(SeededChoices(1), Weather(late=300), VOTES)
    assert counts[Fate.LATE] > 10
    assert sorted(arrived) == sorted(VOTES)
    assert arrived != VOTES


def test_replayed_frames_are_old_ones() -> None:
    arrived, counts, _ = _course(SeededChoices(1), Weather(replayed=300), VOTES)
    assert len(arrived) == 100 + counts[Fate.REPLAYED]
    assert [*dict.fromkeys(arrived)] == VOTES


def test_a_reset_breaks_the_connection_which_comes_again() -> None:
    arrived, counts, breaks = _course(SeededChoices(1), Weather(reset=100), VOTES)
    assert breaks == counts[Fate.RESET] > 3
    assert len(arrived) == 100 - breaks


def test_a_flipped_bit_is_noticed_and_breaks_the_connection() -> None:
    arrived, counts, breaks = _course(SeededChoices(1), Weather(flipped=100), VOTES)
    assert breaks == counts[Fate.FLIPPED] > 3
    assert len(arrived) == 100 - breaks


def test_a_flip_that_nobody_notices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(_parser: FrameParser, data: bytes) -> list[bytes]:
        return [data]

    monkeypatch.setattr(FrameParser, "feed", feed)
    with pytest.raises(InvariantError, match="unnoticed"):
        _course(SeededChoices(1), Weather(flipped=100), VOTES)


@pytest.mark.parametrize("fate", ["doubled", "late", "replayed"])
def test_what_relies_on_the_order_of_a_lane_keeps_it(fate: str) -> None:
    weather = Weather(**{fate: 1000})  # pyright: ignore[reportArgumentType] - a rate each
    commands = [forwarded(number) for number in range(1, 21)]
    assert _course(SeededChoices(1), weather, commands)[0] == commands
    assert _course(SeededChoices(1), weather, VOTES, Lane.BULK)[0] == VOTES


def test_latencies_clog_a_lane_but_keep_its_order() -> None:
    weather = Weather(latency_ns=(1, 500 * MS))
    assert _course(SeededChoices(1), weather, VOTES)[0] == VOTES


def test_a_frame_that_is_slow_holds_up_those_behind_it() -> None:
    async def main() -> tuple[list[bytes], list[bytes]]:
        net = network()
        async with members(net, 1, 2) as world:
            (one, _), (_, two) = world[1], world[2]
            for latency in (500 * MS, MS):
                net.weather = Weather(latency_ns=(latency,))
                one.send(2, b"%d" % latency)
            await anyio.sleep(0.1)
            early = two.payloads(1)
            await anyio.sleep(0.5)
            return early, two.payloads(1)

    assert run_virtual(main) == ([], [b"%d" % (500 * MS), b"%d" % MS])


def test_a_link_may_have_a_weather_of_its_own() -> None:
    async def main() -> tuple[int, int]:
        net = network()
        async with members(net, 1, 2, 3) as world:
            net.link_weather[1, 2] = Weather(lost=1000)
            one = world[1][0]
            # Decided by an empty record: 1000 of 1000 leave no other choice.
            for frame in VOTES:
                one.send(2, frame)
                one.send(3, frame)
                await anyio.sleep(0.01)
            return len(world[2][1].payloads(1)), len(world[3][1].payloads(1))

    assert run_virtual(main) == (0, 100)


def test_weather_takes_the_place_of_faults() -> None:
    async def main() -> None:
        network().set_faults(1, 2, LinkFaults())

    with pytest.raises(UsageError, match="weather"):
        run_virtual(main)
