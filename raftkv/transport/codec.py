"""Raft messages as bytes: what the node puts into a frame and takes out of one. No I/O.

A frame's payload is a format byte and one or more records, back to back; a record is its kind and
a fixed ``struct`` header, then the parts of variable length. Little endian, every number 64 bits
unsigned unless it counts something; a term or an index of 2**63 or more is refused, so that a made
up one cannot be adopted and then overflow when one is added to it. The encoding is canonical:
whatever :func:`decode_messages` accepts, it would have been given by :func:`encode_messages` for
the same messages.

Entries have the layout of :mod:`raftkv.encoding` without its checksum: the frame that carries them
has one already, the core compares each entry's chain value with its own, and a checksum costs
eight times as much as the copy of a large payload. Payloads are never copied but by the one join
when encoding, and the one slice when decoding.

Bytes from outside are hostile: every count is compared with the bytes that are left before
anything is allocated for it, and a frame holds at most :data:`ITEMS_MAX` messages, entries and
payloads together, because an empty entry is 29 bytes on the wire and two hundred in memory. The
message that announces a snapshot counts as several, and so does each member that it names. Of
messages alone there are at most :data:`MESSAGES_MAX`: each is a step of the core, and takes it
longer than it took to read.
Whatever is wrong is a :class:`~raftkv.errors.WireError`, never another exception.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final

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
    TellTerm,
    TimeoutNow,
    TransferLeadership,
    VoteResponse,
)
from raftkv.core.types import Entry, EntryKind, Membership, Payload, Snapshot
from raftkv.errors import InvariantError, WireError

__all__ = ["ITEMS_MAX", "MESSAGES_MAX", "decode_messages", "encode_messages", "misrouted"]

FORMAT: Final = 1
ITEMS_MAX: Final = 32_768
"""Messages, entries and payloads in one frame, together; encoding more is an InvariantError.

Decoding that many takes some 40 ms and 7 MB. An append of 1 MiB has fewer even if all entries are
empty.
"""
MESSAGES_MAX: Final = 512
"""Messages in one frame; encoding more is an InvariantError. They cost the core some 5 ms."""
_SNAPSHOT_ITEMS: Final = 8
"""An InstallSnapshot counts as so many and one for each member: it is that much more work."""

_ENTRY: Final = struct.Struct("<QQQBI")  # term, index, chain, kind, payload length
_PAYLOAD: Final = struct.Struct("<BI")  # kind, length
_APPEND: Final = struct.Struct("<BQQQQQQI")  # ..., prev index and term, commit, entries
# ..., index, term, chain, flags (1: leaves by itself, 2: remembers who was removed), counts of 5
# lists, length of the data
_SNAPSHOT: Final = struct.Struct("<BQQQQQQBHHHHII")
_FORWARD: Final = struct.Struct("<BQQQI")  # ..., request, payloads
_READ: Final = struct.Struct("<BQQBI")  # ..., flags (1: lease, 2: recovering), context length
_READ_RESPONSE: Final = struct.Struct("<BQQQQI")  # ..., index, context length
_ASK: Final = struct.Struct("<BQQI")  # ..., context length
_TELL: Final = struct.Struct("<BQQQI")  # ..., known term, context length
_POSITION_END: Final = 2**63  # no term or index comes this far by itself
_ENTRY_KINDS: Final = {int(kind): kind for kind in EntryKind}
_BOOLS: Final = (False, True)
_RELAYED: Final = (ForwardProposal, ReadIndexRequest, TransferLeadership)

# The kinds' numbers are on the wire: they never change.
_KIND_APPEND: Final = 1
_KIND_SNAPSHOT: Final = 9
_KIND_FORWARD: Final = 12
_KIND_READ: Final = 14
_KIND_READ_RESPONSE: Final = 15
_KIND_ASK_TERM: Final = 16
_KIND_TELL_TERM: Final = 17


class _Flat:
    """A message of fixed size, described by its fields.

    ``Q`` is a number of 64 bits, ``q`` a term or an index, ``?`` a truth value.
    """

    def __init__(self, kind: int, cls: type[PeerMessage], **fields: str) -> None:
        self.kind = kind
        self.cls: Callable[..., PeerMessage] = cls
        # "B" rather than "?", which would read every byte but zero as true: not canonical.
        taken = "<B" + "".join(fields.values()).replace("?", "B")
        self.layout = struct.Struct(taken.replace("q", "Q"))
        # Read with a sign, what is too high for a term or an index is negative: one look for all.
        self.taken = struct.Struct(taken)
        self.values: Callable[[PeerMessage], tuple[int, ...]] = attrgetter(*fields)
        self.bools = tuple(at for at, code in enumerate(fields.values()) if code == "?")

    def encode(self, message: PeerMessage) -> bytes:
        return self.layout.pack(self.kind, *self.values(message))

    def decode(self, frame: bytes, offset: int) -> PeerMessage:
        values: list[int] = list(self.taken.unpack_from(frame, offset))
        if min(values) < 0:
            raise _too_high(offset)
        del values[0]
        for at in self.bools:
            if values[at] > 1:
                raise WireError(f"message at byte {offset}: {values[at]} is not a truth value")
            values[at] = _BOOLS[values[at]]
        return self.cls(*values)


_ROUTE: Final = {"sender": "Q", "to": "Q", "term": "q"}
_LAST: Final = {"last_index": "q", "last_term": "q", "transfer": "?"}
_FLATS: Final = (
    _Flat(
        2,
        AppendResponse,
        **_ROUTE,
        index="q",
        rejected="?",
        hint="q",
        hint_term="q",
        recovering="?",
    ),
    _Flat(3, Heartbeat, **_ROUTE, commit="q", read_position="Q", sent_tick="Q"),
    _Flat(4, HeartbeatResponse, **_ROUTE, read_position="Q", sent_tick="Q", recovering="?"),
    _Flat(5, PreVote, **_ROUTE, **_LAST),
    _Flat(6, PreVoteResponse, **_ROUTE, rejected="?", commit="q", commit_term="q"),
    _Flat(7, RequestVote, **_ROUTE, **_LAST),
    _Flat(8, VoteResponse, **_ROUTE, rejected="?", commit="q", commit_term="q"),
    _Flat(10, TimeoutNow, **_ROUTE),
    _Flat(11, TransferLeadership, **_ROUTE, target="Q"),
    _Flat(13, ProposalRefused, sender="Q", to="Q", request="Q", reason="Q"),
)
_FLAT_BY_CLASS: Final = {flat.cls: flat for flat in _FLATS}
_FLAT_BY_KIND: Final = {flat.kind: flat for flat in _FLATS}


def encode_messages(messages: Sequence[PeerMessage]) -> bytes:
    """The payload of one frame that carries ``messages``, in order.

    Raises InvariantError for what no frame can carry: none or too many messages, or a number that
    is negative or above 64 bits.
    """
    if not 0 < len(messages) <= MESSAGES_MAX:
        raise InvariantError(f"{len(messages)} messages for one frame: 1 to {MESSAGES_MAX}")
    parts: list[bytes] = [b"\x01"]
    items = len(messages)
    try:
        for message in messages:
            # By exact class rather than `match`: one hash finds the frequent small ones.
            flat = _FLAT_BY_CLASS.get(type(message))
            if flat is not None:
                parts.append(flat.encode(message))
            elif isinstance(message, AppendEntries):
                items += len(message.entries)
                _put_append(parts, message)
            elif isinstance(message, ForwardProposal):
                items += len(message.payloads)
                _put_forward(parts, message)
            else:
                if isinstance(message, InstallSnapshot):
                    items += _SNAPSHOT_ITEMS - 1 + _count_members(message.snapshot.membership)
                _put_rare(parts, message)
    except struct.error as error:
        raise InvariantError(f"a message cannot be sent: {error}") from error
    if items > ITEMS_MAX:
        raise InvariantError(f"{items} messages and entries for one frame; at most {ITEMS_MAX}")
    return b"".join(parts)


def decode_messages(frame: bytes) -> tuple[PeerMessage, ...]:
    """The messages of a frame, 1 to MESSAGES_MAX. Raises WireError for anything else."""
    size = len(frame)
    if size < 2 or frame[0] != FORMAT:
        raise WireError(f"not a frame of messages: {frame[:16]!r} and so on, {size} bytes")
    messages: list[PeerMessage] = []
    offset = 1
    items = 0
    try:
        while offset < size:
            kind = frame[offset]
            flat = _FLAT_BY_KIND.get(kind)
            items += 1
            if flat is not None:
                messages.append(flat.decode(frame, offset))
                offset += flat.layout.size
            elif kind == _KIND_APPEND:
                append, offset = _take_append(frame, offset, ITEMS_MAX - items)
                messages.append(append)
                items += len(append.entries)
            elif kind == _KIND_FORWARD:
                forward, offset = _take_forward(frame, offset, ITEMS_MAX - items)
                messages.append(forward)
                items += len(forward.payloads)
            elif kind == _KIND_SNAPSHOT:
                items += _SNAPSHOT_ITEMS - 1
                snapshot, offset = _take_snapshot(frame, offset, ITEMS_MAX - items)
                messages.append(snapshot)
                items += _count_members(snapshot.snapshot.membership)
            else:
                rare, offset = _take_rare(frame, offset)
                messages.append(rare)
            if (items >= ITEMS_MAX or len(messages) >= MESSAGES_MAX) and offset < size:
                raise WireError(
                    f"more than {MESSAGES_MAX} messages in one frame, or {ITEMS_MAX} with entries"
                )
    except struct.error as error:
        raise WireError(
            f"message {len(messages)} is cut short at byte {offset} of {size}"
        ) from error
    return tuple(messages)


def misrouted(messages: Iterable[PeerMessage], peer: int, me: int) -> PeerMessage | None:
    """The first message that the authenticated ``peer`` may not send to ``me``, or None.

    A peer speaks for itself alone, with the exception of wishes that a follower relays to the
    leader it knows: the ``sender`` of those is where they were made.
    """
    for message in messages:
        if message.to != me:
            return message
        if message.sender != peer and not isinstance(message, _RELAYED):
            return message
    return None


# --- the parts of variable length ---------------------------------------------------------------


def _put_append(parts: list[bytes], message: AppendEntries) -> None:
    entries = message.entries
    parts.append(
        _APPEND.pack(
            _KIND_APPEND,
            message.sender,
            message.to,
            message.term,
            message.prev_index,
            message.prev_term,
            message.commit,
            len(entries),
        )
    )
    pack = _ENTRY.pack
    for entry in entries:
        data = entry.data
        parts.append(pack(entry.term, entry.index, entry.chain, entry.kind, len(data)))
        parts.append(data)


def _take_append(frame: bytes, offset: int, items_max: int) -> tuple[AppendEntries, int]:
    header: tuple[int, ...] = _APPEND.unpack_from(frame, offset)
    _, sender, to, term, prev_index, prev_term, commit, count = header
    if term | prev_index | prev_term | commit >= _POSITION_END:  # one of them is
        raise _too_high(offset)
    start = offset + _APPEND.size
    if not count:
        return AppendEntries(sender, to, term, prev_index, prev_term, commit, ()), start
    _check_count(frame, start, count, _ENTRY.size, items_max)
    size = len(frame)
    entries: list[Entry] = []
    unpack = _ENTRY.unpack_from
    for _ in range(count):
        entry_term, index, chain, kind, length = unpack(frame, start)
        start += _ENTRY.size
        stop = start + length
        if entry_term | index >= _POSITION_END:
            raise _too_high(start)
        if stop > size or kind not in _ENTRY_KINDS:
            raise WireError(f"entry {index}: kind {kind}, {length} bytes at byte {start} of {size}")
        entries.append(Entry(entry_term, index, _ENTRY_KINDS[kind], frame[start:stop], chain))
        start = stop
    return (
        AppendEntries(sender, to, term, prev_index, prev_term, commit, tuple(entries)),
        start,
    )


def _put_forward(parts: list[bytes], message: ForwardProposal) -> None:
    parts.append(
        _FORWARD.pack(
            _KIND_FORWARD, message.sender, message.to, message.request, len(message.payloads)
        )
    )
    for payload in message.payloads:
        parts.append(_PAYLOAD.pack(payload.kind, len(payload.data)))
        parts.append(payload.data)


def _take_forward(frame: bytes, offset: int, items_max: int) -> tuple[ForwardProposal, int]:
    header: tuple[int, ...] = _FORWARD.unpack_from(frame, offset)
    _, sender, to, request, count = header
    start = offset + _FORWARD.size
    _check_count(frame, start, count, _PAYLOAD.size, items_max)
    payloads: list[Payload] = []
    for _ in range(count):
        kind, length = _PAYLOAD.unpack_from(frame, start)
        if kind not in _ENTRY_KINDS:
            raise WireError(f"a proposal of unknown kind {kind} at byte {start}")
        data, start = _take_bytes(frame, start + _PAYLOAD.size, length)
        payloads.append(Payload(_ENTRY_KINDS[kind], data))
    return ForwardProposal(sender, to, tuple(payloads), request), start


def _put_rare(parts: list[bytes], message: PeerMessage) -> None:
    match message:
        case InstallSnapshot():
            _put_snapshot(parts, message)
        case ReadIndexRequest(sender, to, context, lease, recovering):
            flags = lease | recovering << 1
            parts.append(_READ.pack(_KIND_READ, sender, to, flags, len(context)))
            parts.append(context)
        case ReadIndexResponse(sender, to, term, index, context):
            parts.append(
                _READ_RESPONSE.pack(_KIND_READ_RESPONSE, sender, to, term, index, len(context))
            )
            parts.append(context)
        case AskTerm(sender, to, context):
            parts.append(_ASK.pack(_KIND_ASK_TERM, sender, to, len(context)))
            parts.append(context)
        case TellTerm(sender, to, known_term, context):
            parts.append(_TELL.pack(_KIND_TELL_TERM, sender, to, known_term, len(context)))
            parts.append(context)
        case _:
            raise InvariantError(f"{type(message).__name__} never leaves its member")


def _take_rare(frame: bytes, offset: int) -> tuple[PeerMessage, int]:
    kind = frame[offset]
    if kind == _KIND_READ:
        header: tuple[int, ...] = _READ.unpack_from(frame, offset)
        _, sender, to, flags, length = header
        if flags > 3:
            raise WireError(f"message at byte {offset}: {flags} are no flags of a read")
        context, stop = _take_bytes(frame, offset + _READ.size, length)
        lease, recovering = _BOOLS[flags & 1], _BOOLS[flags >> 1]
        return ReadIndexRequest(sender, to, context, lease, recovering), stop
    if kind == _KIND_READ_RESPONSE:
        answer: tuple[int, ...] = _READ_RESPONSE.unpack_from(frame, offset)
        _, sender, to, term, index, length = answer
        if term | index >= _POSITION_END:
            raise _too_high(offset)
        context, stop = _take_bytes(frame, offset + _READ_RESPONSE.size, length)
        return ReadIndexResponse(sender, to, term, index, context), stop
    if kind == _KIND_ASK_TERM:
        asked: tuple[int, ...] = _ASK.unpack_from(frame, offset)
        _, sender, to, length = asked
        context, stop = _take_bytes(frame, offset + _ASK.size, length)
        return AskTerm(sender, to, context), stop
    if kind == _KIND_TELL_TERM:
        told: tuple[int, ...] = _TELL.unpack_from(frame, offset)
        _, sender, to, known_term, length = told
        _check_positions(offset, known_term)
        context, stop = _take_bytes(frame, offset + _TELL.size, length)
        return TellTerm(sender, to, known_term, context), stop
    raise WireError(f"message at byte {offset} is of unknown kind {kind}")


def _put_snapshot(parts: list[bytes], message: InstallSnapshot) -> None:
    snapshot = message.snapshot
    membership = snapshot.membership
    lists = (
        membership.voters,
        membership.outgoing,
        membership.learners,
        membership.learners_next,
        membership.removed or (),
    )
    parts.append(
        _SNAPSHOT.pack(
            _KIND_SNAPSHOT,
            message.sender,
            message.to,
            message.term,
            snapshot.index,
            snapshot.term,
            snapshot.chain,
            membership.auto_leave | (membership.removed is not None) << 1,
            *(len(members) for members in lists),
            len(snapshot.data),
        )
    )
    parts.extend(struct.pack(f"<{len(members)}Q", *members) for members in lists)
    parts.append(snapshot.data)


def _count_members(membership: Membership) -> int:
    removed = membership.removed or ()
    lists = (membership.voters, membership.outgoing, membership.learners, membership.learners_next)
    return sum(map(len, lists)) + len(removed)


def _take_snapshot(frame: bytes, offset: int, items_max: int) -> tuple[InstallSnapshot, int]:
    header: tuple[int, ...] = _SNAPSHOT.unpack_from(frame, offset)
    _, sender, to, term, index, log_term, chain, flags, *counts, length = header
    _check_positions(offset, term, index, log_term)
    if flags > 3 or (flags < 2 and counts[-1]):
        raise WireError(f"message at byte {offset}: {flags} are no flags of its membership")
    start = offset + _SNAPSHOT.size
    _check_count(frame, start, sum(counts), 8, items_max)
    lists: list[tuple[int, ...]] = []
    for count in counts:
        lists.append(struct.unpack_from(f"<{count}Q", frame, start))
        start += 8 * count
    data, stop = _take_bytes(frame, start, length)
    removed = lists.pop() if flags & 2 else None
    membership = Membership(*lists[:4], auto_leave=_BOOLS[flags & 1], removed=removed)
    snapshot = Snapshot(index, log_term, chain, membership, data)
    return InstallSnapshot(sender, to, term, snapshot), stop


def _check_positions(offset: int, *numbers: int) -> None:
    """Refuse terms and indexes that nobody can have reached."""
    if max(numbers) >= _POSITION_END:
        raise _too_high(offset)


def _too_high(offset: int) -> WireError:
    return WireError(f"a term or an index of 2**63 or more in what begins at byte {offset}")


def _check_count(frame: bytes, start: int, count: int, each_bytes: int, items_max: int) -> None:
    if count > items_max:
        raise WireError(f"more than {ITEMS_MAX} messages and entries in one frame")
    if count * each_bytes > len(frame) - start:
        raise WireError(f"{count} items announced with {len(frame) - start} bytes left")


def _take_bytes(frame: bytes, start: int, length: int) -> tuple[bytes, int]:
    stop = start + length
    if stop > len(frame):
        raise WireError(f"{length} bytes announced with {len(frame) - start} left")
    return frame[start:stop], stop
