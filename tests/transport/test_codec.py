"""Messages survive the way through bytes; hostile bytes raise WireError and nothing else."""

from __future__ import annotations

import struct
import tracemalloc
from typing import get_args

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PeerMessage,
    PreVote,
    PreVoteResponse,
    ProposalRefused,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    StorageApplyResponse,
    TellTerm,
    TimeoutNow,
    TransferLeadership,
    VoteResponse,
)
from raftkv.core.types import Entry, EntryKind, Membership, Payload, Snapshot
from raftkv.errors import InvariantError, WireError
from raftkv.transport.codec import (
    ITEMS_MAX,
    MESSAGES_MAX,
    decode_messages,
    encode_messages,
    misrouted,
)

numbers = st.integers(0, 2**64 - 1) | st.integers(0, 20)
positions = st.integers(0, 2**63 - 1) | st.integers(0, 20)  # terms and indexes
truths = st.booleans()
blobs = st.binary(max_size=200)
kinds = st.sampled_from(EntryKind)
entries = st.builds(Entry, positions, positions, kinds, blobs, numbers)
members = st.lists(numbers, max_size=5).map(tuple)
memberships = st.builds(Membership, members, members, members, members, truths, st.none() | members)
snapshots = st.builds(Snapshot, positions, positions, numbers, memberships, blobs)
payloads = st.builds(Payload, kinds, blobs)

STRATEGIES: dict[type, st.SearchStrategy[PeerMessage]] = {
    PreVote: st.builds(PreVote, numbers, numbers, positions, positions, positions, truths),
    PreVoteResponse: st.builds(
        PreVoteResponse, numbers, numbers, positions, truths, positions, positions
    ),
    RequestVote: st.builds(RequestVote, numbers, numbers, positions, positions, positions, truths),
    VoteResponse: st.builds(
        VoteResponse, numbers, numbers, positions, truths, positions, positions
    ),
    AppendEntries: st.builds(
        AppendEntries,
        numbers,
        numbers,
        positions,
        positions,
        positions,
        positions,
        st.lists(entries, max_size=6).map(tuple),
    ),
    AppendResponse: st.builds(
        AppendResponse,
        numbers,
        numbers,
        positions,
        positions,
        truths,
        positions,
        positions,
        truths,
    ),
    Heartbeat: st.builds(Heartbeat, numbers, numbers, positions, positions, numbers, numbers),
    HeartbeatResponse: st.builds(
        HeartbeatResponse, numbers, numbers, positions, numbers, numbers, truths
    ),
    InstallSnapshot: st.builds(InstallSnapshot, numbers, numbers, positions, snapshots),
    TimeoutNow: st.builds(TimeoutNow, numbers, numbers, positions),
    TransferLeadership: st.builds(TransferLeadership, numbers, numbers, positions, numbers),
    ForwardProposal: st.builds(
        ForwardProposal, numbers, numbers, st.lists(payloads, max_size=6).map(tuple), numbers
    ),
    ProposalRefused: st.builds(ProposalRefused, numbers, numbers, numbers, numbers),
    ReadIndexRequest: st.builds(ReadIndexRequest, numbers, numbers, blobs, truths, truths),
    ReadIndexResponse: st.builds(ReadIndexResponse, numbers, numbers, positions, positions, blobs),
    AskTerm: st.builds(AskTerm, numbers, numbers, blobs),
    TellTerm: st.builds(TellTerm, numbers, numbers, positions, blobs),
}
messages = st.one_of(*STRATEGIES.values())
batches = st.lists(messages, min_size=1, max_size=5).map(tuple)

EMPTY = Entry(1, 1, EntryKind.NORMAL, b"", 0)


def append(*entries: Entry) -> AppendEntries:
    return AppendEntries(1, 2, 3, 4, 3, 4, entries)


def test_every_message_of_the_protocol_is_tried_here() -> None:
    assert set(STRATEGIES) == set(get_args(PeerMessage))


@given(batches)
def test_messages_come_back_equal_and_in_order(batch: tuple[PeerMessage, ...]) -> None:
    assert decode_messages(encode_messages(batch)) == batch


@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_each_kind_comes_back_with_fields_of_the_same_type(cls: type) -> None:
    @given(STRATEGIES[cls])
    def check(message: PeerMessage) -> None:
        (back,) = decode_messages(encode_messages([message]))
        assert back == message
        assert repr(back) == repr(message)  # False == 0, but their reprs differ

    check()


def test_the_bytes_of_a_message_never_change() -> None:
    one = append(Entry(7, 5, EntryKind.CHANGE, b"xyz", 9))
    expected = struct.pack("<BBQQQQQQIQQQBI3s", 1, 1, 1, 2, 3, 4, 3, 4, 1, 7, 5, 9, 2, 3, b"xyz")
    assert encode_messages([one]) == expected
    answer = AppendResponse(2, 1, 3, 5, True, 4, 2, False)
    assert encode_messages([answer]) == struct.pack("<BBQQQQBQQB", 1, 2, 2, 1, 3, 5, 1, 4, 2, 0)


@given(batches, st.data())
def test_a_frame_cut_anywhere_is_a_wire_error(
    batch: tuple[PeerMessage, ...], data: st.DataObject
) -> None:
    frame = encode_messages(batch)
    cut = data.draw(st.integers(0, len(frame) - 1))
    try:
        assert decode_messages(frame[:cut]) == batch[: len(decode_messages(frame[:cut]))]
    except WireError:
        return
    # Cut between two messages, the rest is a whole frame of its own.
    assert any(len(encode_messages(batch[:n])) == cut for n in range(1, len(batch)))


@given(batches, st.binary(min_size=1, max_size=8))
def test_trailing_bytes_are_refused_or_are_messages(
    batch: tuple[PeerMessage, ...], tail: bytes
) -> None:
    with pytest.raises(WireError):
        decode_messages(encode_messages(batch) + tail)  # no message is that short


@given(batches, st.data())
def test_what_is_accepted_is_canonical_whatever_was_changed(
    batch: tuple[PeerMessage, ...], data: st.DataObject
) -> None:
    frame = bytearray(encode_messages(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    try:
        accepted = decode_messages(bytes(frame))
    except WireError:
        return
    assert encode_messages(accepted) == frame


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x01" + tail))
@example(b"")
@example(b"\x01")
@example(b"\x02" + b"\x03" * 60)
def test_arbitrary_bytes_raise_a_wire_error_or_are_messages(frame: bytes) -> None:
    try:
        accepted = decode_messages(frame)
    except WireError:
        return
    assert encode_messages(accepted) == frame


@pytest.mark.parametrize(
    "bomb",
    [
        struct.pack("<BBQQQQQQI", 1, 1, 1, 2, 3, 4, 3, 4, 2**32 - 1),
        struct.pack("<BBQQQQQQIQQQBI", 1, 1, 1, 2, 3, 4, 3, 4, 1, 7, 5, 9, 0, 2**32 - 1),
        struct.pack("<BBQQQI", 1, 12, 1, 2, 3, 2**32 - 1),
        struct.pack("<BBQQBI", 1, 14, 1, 2, 0, 2**32 - 1),
        struct.pack("<BBQQQQQQBHHHHII", 1, 9, 1, 2, 3, 4, 5, 6, 2, *[2**16 - 1] * 4, 9, 2**32 - 1),
    ],
    ids=["entries", "entry", "payloads", "context", "snapshot"],
)
def test_an_announced_size_costs_no_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=r"left|more than|bytes at byte"):
            decode_messages(bomb)  # known from the count, before the first item is looked at
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_count_is_compared_with_what_is_left_first() -> None:
    bomb = bytearray(encode_messages([append(EMPTY, EMPTY)]))
    bomb[50:54] = (3).to_bytes(4, "little")
    with pytest.raises(WireError, match="3 items announced with 58 bytes left"):
        decode_messages(bytes(bomb))


def test_a_frame_full_of_empty_entries_costs_at_most_eight_mib() -> None:
    frame = encode_messages([append(*[Entry(2**60, 2**61, EntryKind.NORMAL, b"", 2**62)] * 32_767)])
    tracemalloc.start()
    try:
        assert len(decode_messages(frame)) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_items_in_a_frame_are_bounded_on_both_ways(over: int) -> None:
    entries = (EMPTY,) * (ITEMS_MAX - 2 + over)
    pair = (append(*entries), TimeoutNow(1, 2, 3))
    if over <= 0:
        assert decode_messages(encode_messages(pair)) == pair
        return
    with pytest.raises(InvariantError, match="at most"):
        encode_messages(pair)
    first = bytearray(encode_messages([append(*entries)]))
    with pytest.raises(WireError, match="more than"):
        decode_messages(bytes(first) + encode_messages([TimeoutNow(1, 2, 3)])[1:])
    first[50:54] = (ITEMS_MAX + 1).to_bytes(4, "little")  # the count, announced too high
    with pytest.raises(WireError, match="more than"):
        decode_messages(bytes(first))


def test_messages_in_a_frame_are_bounded_on_both_ways() -> None:
    most = [Heartbeat(1, 2, 3, number, 0) for number in range(MESSAGES_MAX)]
    frame = encode_messages(most)
    assert decode_messages(frame) == tuple(most)
    with pytest.raises(WireError, match="more than"):
        decode_messages(frame + frame[1 : 1 + len(frame) // MESSAGES_MAX])
    with pytest.raises(InvariantError, match="513 messages"):
        encode_messages([*most, most[0]])


def test_announced_snapshots_count_as_the_work_that_they_are() -> None:
    members = Membership((1, 2), (3,), removed=tuple(range(4, 64)))
    one = InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, members, b""))
    most = ITEMS_MAX // (8 + 63)
    frame = encode_messages([one] * most)
    assert len(decode_messages(frame)) == most
    with pytest.raises(WireError, match="more than"):
        decode_messages(frame + encode_messages([one])[1:])
    with pytest.raises(InvariantError, match="at most"):
        encode_messages([one] * (most + 1))


def test_the_members_of_all_announced_snapshots_are_bounded_together() -> None:
    crowd = Membership(tuple(range(20_000)))
    record = encode_messages([InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, crowd, b""))])[1:]
    with pytest.raises(WireError, match="more than"):
        decode_messages(b"\x01" + 2 * record)


def test_what_cannot_be_sent_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvariantError, match="0 messages"):
        encode_messages([])
    with pytest.raises(InvariantError, match="cannot be sent"):
        encode_messages([TimeoutNow(1, 2, -1)])
    with pytest.raises(InvariantError, match="never leaves"):
        encode_messages([StorageApplyResponse(1, 2, ())])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


def test_messages_in_the_name_of_another_are_found() -> None:
    fine = Heartbeat(1, 2, 3, 4)
    assert misrouted([fine, append()], peer=1, me=2) is None
    stolen = VoteResponse(3, 2, 9, False)
    assert misrouted([fine, stolen], peer=1, me=2) is stolen
    astray = Heartbeat(1, 3, 3, 4)
    assert misrouted([astray], peer=1, me=2) is astray


def test_a_relayed_wish_keeps_its_origin() -> None:
    relayed: list[PeerMessage] = [
        ForwardProposal(3, 2, (Payload(EntryKind.NORMAL, b""),)),
        ReadIndexRequest(3, 2, b"c"),
        TransferLeadership(3, 2, 1, 3),
    ]
    assert misrouted(relayed, peer=1, me=2) is None
    assert misrouted(relayed, peer=1, me=4) is relayed[0]


_POSITIONS = {
    "term",
    "index",
    "prev_index",
    "prev_term",
    "commit",
    "commit_term",
    "hint",
    "hint_term",
    "last_index",
    "last_term",
    "known_term",
}
_SMALL: dict[type, PeerMessage] = {
    PreVote: PreVote(1, 2, 3, 4, 5),
    PreVoteResponse: PreVoteResponse(1, 2, 3, rejected=False),
    RequestVote: RequestVote(1, 2, 3, 4, 5),
    VoteResponse: VoteResponse(1, 2, 3, rejected=False),
    AppendEntries: append(EMPTY),
    AppendResponse: AppendResponse(1, 2, 3, 4),
    Heartbeat: Heartbeat(1, 2, 3, 4, 5, 6),
    HeartbeatResponse: HeartbeatResponse(1, 2, 3, 4, 5),
    TimeoutNow: TimeoutNow(1, 2, 3),
    TransferLeadership: TransferLeadership(1, 2, 3, 4),
    ReadIndexResponse: ReadIndexResponse(1, 2, 3, 4, b"context"),
    TellTerm: TellTerm(1, 2, 3, b"context"),
    InstallSnapshot: InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, Membership((1, 2)), b"")),
}


def _with(message: PeerMessage, number: int) -> list[PeerMessage]:
    """The message with each of its terms and indexes replaced, one at a time."""
    changed = [
        attrs.evolve(message, **{field.name: number})
        for field in attrs.fields(type(message))
        if field.name in _POSITIONS
    ]
    if isinstance(message, AppendEntries):
        for name in ("term", "index"):
            entry = attrs.evolve(EMPTY, **{name: number})
            changed.append(attrs.evolve(message, entries=(EMPTY, entry)))
    if isinstance(message, InstallSnapshot):
        for name in ("term", "index"):
            snapshot = attrs.evolve(message.snapshot, **{name: number})
            changed.append(attrs.evolve(message, snapshot=snapshot))
    return changed


@pytest.mark.parametrize("cls", _SMALL, ids=lambda cls: cls.__name__)
def test_a_term_or_index_that_nobody_can_have_reached_is_refused(cls: type) -> None:
    highest = _with(_SMALL[cls], 2**63 - 1)
    assert highest
    for message in highest:
        assert decode_messages(encode_messages([message])) == (message,)
    for number in (2**63, 2**64 - 1):
        for message in _with(_SMALL[cls], number):
            with pytest.raises(WireError, match="a term or an index of 2"):
                decode_messages(encode_messages([message]))


def test_every_message_with_a_term_or_an_index_is_tried_with_a_high_one() -> None:
    with_positions = {
        cls for cls in get_args(PeerMessage) if _POSITIONS & {one.name for one in attrs.fields(cls)}
    }
    assert set(_SMALL) == with_positions
