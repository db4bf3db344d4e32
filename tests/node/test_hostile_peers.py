"""What an authenticated peer may send that no honest one does: dropped, and nobody stops."""

from __future__ import annotations

import pytest

from raftkv.core import (
    EntryKind,
    ForwardProposal,
    InstallSnapshot,
    Membership,
    Payload,
    PeerMessage,
    Snapshot,
)
from raftkv.core.membership import encode_change
from raftkv.core.types import Change, ChangeKind, MembershipChange
from raftkv.errors import WireError
from raftkv.node.commands import check_forwarded, encode_commands
from raftkv.node.node import Node
from raftkv.node.notes import HashHere, encode_note
from raftkv.node.snapshots import Kind, encode
from raftkv.transport.base import Lane
from raftkv.transport.codec import encode_messages
from tests.node.rig import Cluster, cluster


def _give(node: Node[object], peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> None:
    hands = node._hands  # pyright: ignore[reportPrivateUsage]
    assert hands is not None
    hands.loop.on_frame(peer, lane, frame)


def _begin(message: PeerMessage) -> bytes:
    """The first bulk frame of a transfer."""
    return encode(Kind.BEGIN, 1, payload=encode_messages((message,)))


async def _is_well(made: Cluster) -> None:
    leader = await made.leader()
    await leader.propose(b"after")
    for number in (1, 2, 3):
        await made.nodes[number].ready()
    for number in (1, 2, 3):
        await made.stop(number)
    assert not made.failures
    for number in (1, 2, 3):
        await made.start(number)
    for number in (1, 2, 3):
        await made.nodes[number].ready()
        assert made.commands(number) == [b"before", b"after"]
    assert not made.failures


async def test_a_snapshot_on_the_lane_of_messages_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster() as made:
        leader = await made.leader()
        await leader.propose(b"before")
        node = made.followers(leader)[0]
        snapshot = Snapshot(1000, leader.status().term, 1, Membership((1, 2, 3)))
        message = InstallSnapshot(leader.id, node.id, leader.status().term, snapshot)
        _give(node, leader.id, encode_messages([message]))
        await made.until(lambda: "a snapshot comes on the lane for snapshots" in caplog.text)
        await _is_well(made)


async def test_a_transfer_that_begins_with_an_impossible_index_is_broken_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster() as made:
        leader = await made.leader()
        await leader.propose(b"before")
        node = made.followers(leader)[0]
        snapshot = Snapshot(2**64 - 1, leader.status().term, 1, Membership((1, 2, 3)))
        message = InstallSnapshot(leader.id, node.id, leader.status().term, snapshot)
        _give(node, leader.id, _begin(message), Lane.BULK)
        await made.until(lambda: "is dropped: a term or an index" in caplog.text)
        await _is_well(made)


async def test_forwarded_bytes_that_are_no_commands_never_reach_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster() as made:
        leader = await made.leader()
        await leader.propose(b"before")
        follower = made.followers(leader)[0]
        peer = follower.id
        payload = Payload(EntryKind.NORMAL, b"no command")
        message = ForwardProposal(peer, leader.id, (payload,), 1)
        _give(leader, peer, encode_messages([message]))
        await made.until(lambda: f"a message of member {follower.name} is dropped" in caplog.text)
        await _is_well(made)


_HONEST = encode_commands(2, 1, 1, [b"one", b"", b"three"])
_CHANGE = encode_change(MembershipChange((Change(ChangeKind.LEARNER, 4),)))


def test_what_honest_members_pass_on_is_accepted() -> None:
    for payloads in (
        (Payload(EntryKind.NORMAL, _HONEST),),
        (Payload(EntryKind.CHANGE, _CHANGE), Payload(EntryKind.NORMAL, _HONEST)),
        (Payload(EntryKind.CHANGE, b""),),  # leave the joint configuration
    ):
        check_forwarded(ForwardProposal(2, 1, payloads, 1))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EntryKind.NORMAL, b""),  # only a new leader's own is empty
        (EntryKind.NORMAL, b"short"),
        (EntryKind.NORMAL, b"\x03" + _HONEST[1:]),  # another format
        (EntryKind.NORMAL, encode_note(HashHere())),  # only leaders write notes
        (EntryKind.NORMAL, encode_commands(3, 1, 1, [b"another's"])),
        (EntryKind.NORMAL, encode_commands(2, 1, 1, [])),
        (EntryKind.NORMAL, _HONEST[:-1]),
        (EntryKind.NORMAL, _HONEST + b"x"),
        (EntryKind.NORMAL, _HONEST[:-12]),  # fewer lengths than commands
        (EntryKind.CHANGE, _CHANGE[:-1]),
        (EntryKind.CHANGE, b"\xff" * 40),
        (EntryKind.CHANGE_SINGLE, b"?"),
    ],
)
def test_what_could_not_be_read_back_is_refused(kind: EntryKind, data: bytes) -> None:
    good = Payload(EntryKind.NORMAL, _HONEST)
    with pytest.raises(WireError, match="a proposal from member 2"):
        check_forwarded(ForwardProposal(2, 1, (good, Payload(kind, data)), 1))
