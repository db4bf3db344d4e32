"""Members compare their states: who differs is named, and nobody who does not."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from struct import Struct
from typing import cast

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import Membership
from raftkv.errors import NodeStoppedError, OutcomeUnknownError, StorageCorruptError
from raftkv.node.hashes import StateHash, StateHashes, judge
from raftkv.storage.base import Space
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Lane, Transport
from tests.node.rig import MACHINES, QUICK, Cluster, Journal, Ledger, cluster

OFTEN = evolve(QUICK, state_hash_seconds=0.1, retention_entries=20)

HASHES = tuple(
    StateHash(7, chain, bytes([value]) * 32) for chain, value in ((1, 1), (1, 2), (2, 1))
)
members = st.lists(st.integers(1, 7), unique=True, max_size=5).map(lambda ids: tuple(sorted(ids)))


@given(st.dictionaries(st.integers(1, 8), st.sampled_from(HASHES)), members, members, members)
def test_who_differs_from_a_quorum_is_odd_and_nobody_else(
    reports: dict[int, StateHash],
    voters: tuple[int, ...],
    outgoing: tuple[int, ...],
    learners: tuple[int, ...],
) -> None:
    verdict = judge(reports, Membership(voters or (1,), outgoing, learners))
    configurations = [voters or (1,), *([outgoing] if outgoing else [])]
    quorate = [
        value
        for value in HASHES
        if all(
            sum(reports.get(voter) == value for voter in each) > len(each) / 2
            for each in configurations
        )
    ]
    if len(set(reports.values())) < 2:
        assert verdict is None
    elif not quorate:
        assert verdict is not None
        assert verdict.agreed is None
    else:
        assert verdict is not None
        assert [verdict.agreed] == quorate
        assert verdict.odd == tuple(
            sorted(one for one, value in reports.items() if value != verdict.agreed)
        )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_half_of_the_voters_are_no_quorum(size: int) -> None:
    voters = Membership(tuple(range(1, size + 1)))
    for values in product(HASHES[:2], repeat=size):
        verdict = judge(dict(enumerate(values, 1)), voters)
        halves = 2 * values.count(HASHES[0]) == size
        assert (verdict is not None and verdict.agreed is None) == halves


def _compared(wire: object) -> StateHashes:
    nothing = cast("object", None)
    return StateHashes(
        1,
        open_memory(5, 1),
        None,
        cast("Transport", wire),
        nothing,  # pyright: ignore[reportArgumentType] - nothing is hashed here
        nothing,  # pyright: ignore[reportArgumentType] - as above
        quiet_until=0,
    )


def test_reports_of_what_nobody_can_have_applied_do_not_crowd_out_the_others() -> None:
    class Wire:
        def send(self, peer: int, frame: bytes, lane: Lane) -> bool:
            told.append((peer, frame))
            return True

    told: list[tuple[int, bytes]] = []
    alarms: list[str] = []
    hashes = _compared(Wire())
    hashes.on_alarm = alarms.append
    report = Struct("<BQQ32s")
    for peer, index, value in [(2, 7, 1), (3, 7, 1), (4, 2**60, 2), (4, 2**61, 2), (4, 7, 2)]:
        hashes.on_frame(peer, report.pack(30, index, 1, bytes([value]) * 32), 7)
    hashes.tick(1, Membership((2, 3, 4)))
    assert [peer for peer, _ in told] == [4]
    assert "the state of member 4 at entry 7 is not that of the others" in alarms[0]


def test_only_the_leader_that_was_told_our_hash_can_call_it_odd() -> None:
    class Wire:
        def send(self, peer: int, frame: bytes, lane: Lane) -> bool:
            return True

    hashes = _compared(Wire())
    odd: list[str] = []
    hashes.on_odd = odd.append
    hashes._mine = HASHES[0]  # pyright: ignore[reportPrivateUsage]

    def called_odd(by: int, index: int = 7) -> int:
        hashes.on_frame(by, Struct("<BQQ32s").pack(31, index, 1, b"x" * 32), 9)
        return len(odd)

    assert called_odd(2) == 0
    hashes.tick(2, Membership((1, 2, 3)))
    assert called_odd(3) == 0
    assert called_odd(2, 6) == 0
    assert called_odd(2) == 1


def spoil(made: Cluster, number: int, change: bytes = b"spoiled") -> None:
    """Change the last row of a member's machine, as damage that no checksum sees."""
    store = made.storages[number].store
    key, _ = next(store.scan(Space.MACHINE, reverse=True))
    batch = store.batch()
    batch.put(Space.MACHINE, key, change)
    store.write(batch)


def alarms(made: Cluster) -> list[str]:
    return [alarm for node in made.nodes.values() for alarm in node.status().alarms]


@pytest.mark.parametrize("whose", ["leader", "follower"])
async def test_the_odd_one_out_is_named_stops_and_is_made_anew_when_it_starts_again(
    whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(machine=Ledger, settings=OFTEN) as made:
        leader = await made.leader()
        for count in range(5):
            await leader.propose(b"%d" % count)
        odd = leader.id if whose == "leader" else made.followers(leader)[0].id
        await made.nodes[odd].read()
        spoil(made, odd)
        await made.ended(odd)
        failure = made.failures[odd]
        assert isinstance(failure, NodeStoppedError)
        assert isinstance(failure.__cause__, StorageCorruptError)
        assert "open the node again" in str(failure)
        assert f"the state of member n{odd} at entry" in caplog.text
        rest = [number for number in (1, 2, 3) if number != odd]
        if whose == "follower":
            assert any(f"member n{odd}" in alarm for alarm in alarms(made))
        assert sorted(made.nodes) == rest
        node = await made.start(odd)
        await node.ready()
        assert made.commands(odd) == [b"%d" % count for count in range(5)]
        assert node.status().recovering is None


async def test_where_no_quorum_agrees_there_is_an_alarm_and_nobody_stops() -> None:
    async with cluster(machine=Ledger, settings=OFTEN) as made:
        leader = await made.leader()
        await leader.propose(b"x")
        for node in made.nodes.values():
            await node.read()
        spoil(made, 1, b"one thing")
        spoil(made, 2, b"another")
        await made.until(lambda: any("no quorum agrees" in alarm for alarm in alarms(made)))
        told = next(alarm for alarm in alarms(made) if "no quorum agrees" in alarm)
        assert all(f"n{number} has" in told for number in (1, 2, 3))
        assert sorted(made.nodes) == [1, 2, 3]


async def test_an_in_memory_machine_that_differs_is_named_and_goes_on() -> None:
    async with cluster(machine=Journal, settings=OFTEN) as made:
        leader = await made.leader()
        await leader.propose(b"x")
        odd = made.followers(leader)[0]
        await odd.read()
        made.commands(odd.id)[0] = b"y"
        await made.until(lambda: any("restart this member" in one for one in odd.status().alarms))
        await made.until(lambda: any(f"member n{odd.id}" in alarm for alarm in alarms(made)))
        assert sorted(made.nodes) == [1, 2, 3]
        assert await leader.propose(b"z") == 2


async def compared(made: Cluster, rounds: int) -> None:
    """Until the leader has asked so many times more."""
    seen: set[bytes] = set()
    before = made.network.tap

    def count(_sender: int, _to: int, lane: Lane, frame: bytes) -> bytes | None:
        if lane is Lane.BULK and frame[0] == 30:
            seen.add(frame[:9])
        return frame

    made.network.tap = count
    await made.until(lambda: len(seen) >= rounds)
    made.network.tap = before


@pytest.mark.parametrize("kind", MACHINES)
async def test_equal_members_raise_no_alarm_through_restarts_snapshots_and_loss(kind: str) -> None:
    async with cluster(machine=MACHINES[kind], settings=OFTEN) as made:
        for turn in range(3):
            leader = await made.leader()
            gone = made.followers(leader)[turn % 2].id
            await made.stop(gone)
            for count in range(60):  # beyond the retention: it comes back by a snapshot
                with suppress(OutcomeUnknownError):  # on a busy machine another one may lead by now
                    await leader.propose(b"%d" % count)
            await made.start(gone)
            await made.nodes[gone].ready()
            made.network.disconnect(1, 2)
            await compared(made, 2)
        await made.stop((await made.leader()).id)
        await compared(made, 2)
        assert alarms(made) == []
        assert not made.failures
