"""The decoders of the wire: frames, handshakes, messages, the frames of the bulk lane, CBOR."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Final, cast
from zlib import crc32

from raftkv.core import Config, start
from raftkv.core.log import chain_of
from raftkv.core.membership import decode_change, encode_change
from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    InstallSnapshot,
    PeerMessage,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    TellTerm,
    TimeoutNow,
)
from raftkv.core.types import (
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    Membership,
    MembershipChange,
    Payload,
    Promise,
    Snapshot,
    Transition,
)
from raftkv.encoding import HEADER_BYTES, decode_entry, dumps, encode_entry, loads
from raftkv.errors import InvariantError, MembershipError, WireError
from raftkv.node.commands import check_forwarded, decode_commands, encode_commands, origin_of
from raftkv.node.disks import Disks
from raftkv.node.joining import answer_question, encode_question, read_answer
from raftkv.node.notes import Booted, HashHere, decode_note, encode_note
from raftkv.node.repair import Repair
from raftkv.node.roster import (
    ChangeNote,
    Member,
    Roster,
    decode_change_note,
    decode_roster,
    encode_change_note,
    encode_roster,
)
from raftkv.node.snapshots import Kind, decode, decode_begin, decode_end, encode, encode_chunk
from raftkv.runtime.base import Spawner
from raftkv.storage.base import Identity
from raftkv.storage.memory import MemoryDisk, MemoryStore
from raftkv.testing.fuzz.trial import Target
from raftkv.transport.base import Code, Hello, Lane, Refusal, Transport
from raftkv.transport.codec import decode_messages, encode_messages
from raftkv.transport.session import Acceptor, Dialer
from raftkv.transport.wire import (
    FRAME_OVERHEAD_BYTES,
    Frame,
    FrameParser,
    Greeting,
    decode_answer,
    encode_answer,
    encode_frame,
    encode_greeting,
    encode_refusal,
    encode_welcome,
)
from raftkv.transport.wire import (
    encode_question as encode_question_frame,
)

FRAME_BYTES_MAX: Final = 8 * 2**20
"""As a transport has it by itself."""

_HELLO: Final = Hello(11, 12, b"0123456789abcdef", 13, "10.0.0.1:7400", bytes(16), 14, True)
_ME: Final = Hello(11, 15, b"fedcba9876543210", 3, "10.0.0.2:7400")
_GREETING: Final = Greeting(_HELLO, 15, Lane.BULK)
_MEMBERS: Final = Membership((1, 2, 3), (1, 2), (4,), (5,), True, (6, 7))
_ROSTER: Final = Roster(
    (Member(1, "n1", "10.0.0.1:7400", False, 0), Member(2, "n2", "10.0.0.2:7400", True, 1)), 9
)
_CHANGE: Final = MembershipChange(
    (Change(ChangeKind.REMOVE, 1), Change(ChangeKind.LEARNER, 20)), Transition.IMPLICIT, b"note"
)


# --- frames and handshakes ----------------------------------------------------------------------


def fix_frame(data: bytes) -> bytes:
    """One whole frame of it: its length and its checksum are those of what follows."""
    if len(data) <= FRAME_OVERHEAD_BYTES:
        return data
    return encode_frame(data[4], data[FRAME_OVERHEAD_BYTES:])


def _read_stream(data: bytes) -> Sequence[Frame]:
    return FrameParser(FRAME_BYTES_MAX).feed(data)


def _check_stream(data: bytes) -> None:
    """In three pieces as in one."""
    whole = _read_stream(data)
    parser = FrameParser(FRAME_BYTES_MAX)
    cut = len(data) // 3
    pieces = [
        frame
        for part in (data[:cut], data[cut : 2 * cut], data[2 * cut :])
        for frame in parser.feed(part)
    ]
    if pieces != whole:
        raise AssertionError("the frames depend on how the stream is cut")


def _read_greeting(data: bytes) -> None:
    acceptor = Acceptor(_ME, lambda _: None, FRAME_BYTES_MAX, reply=lambda question: question)
    acceptor.receive(data)


def _read_welcome(data: bytes) -> None:
    Dialer(Greeting(_ME, 12, Lane.RAFT), lambda _: None).receive(data)


def _read_answer(data: bytes) -> None:
    for frame in _read_stream(data):
        decode_answer(frame)


# --- messages -----------------------------------------------------------------------------------


def _messages() -> Sequence[bytes]:
    entries = (
        Entry(21, 31, EntryKind.NORMAL, b"first", 41),
        Entry(22, 32, EntryKind.CHANGE, b"", 42),
    )
    commands = encode_commands(1, 5, 7, [b"one", b"", b"three"])
    payloads = (Payload(EntryKind.NORMAL, commands), Payload(EntryKind.CHANGE, b""))
    several: tuple[PeerMessage, ...] = (
        AppendEntries(1, 2, 23, 24, 20, 19, entries),
        AppendResponse(1, 2, 3, 4, True, 5, 2, True),
        Heartbeat(1, 2, 3, 4, 5, 6),
        RequestVote(1, 2, 3, 4, 5, True),
        InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, _MEMBERS, b"data")),
        TimeoutNow(1, 2, 3),
        ForwardProposal(1, 2, payloads, 3),
        ForwardProposal(1, 2, (Payload(EntryKind.CHANGE, encode_change(_CHANGE)),), 3),
        ReadIndexRequest(1, 2, b"context", True, True),
        ReadIndexResponse(1, 2, 3, 4, b"context"),
        AskTerm(1, 2, b"context"),
        TellTerm(1, 2, 3, b"context"),
    )
    return [encode_messages(several), *(encode_messages([one]) for one in several)]


def _read_messages(data: bytes) -> None:
    for message in decode_messages(data):
        if isinstance(message, ForwardProposal):
            check_forwarded(message)


def _check_messages(data: bytes) -> None:
    if encode_messages(decode_messages(data)) != data:
        raise AssertionError("these messages would have been sent as other bytes")


def _check_entry(data: bytes) -> None:
    entry, stop = decode_entry(data)
    if encode_entry(entry) != data[:stop]:
        raise AssertionError("this entry would have been written as other bytes")


def fix_entry(data: bytes, start: int = 0) -> bytes:
    """The entry at ``start`` goes to the end, and its checksum is right."""
    body = start + HEADER_BYTES
    if len(data) < body + 4:
        return data
    size = (len(data) - body - 4).to_bytes(4, "little")
    fixed = data[: body - 4] + size + data[body:-4]
    return fixed + crc32(fixed[start:]).to_bytes(4, "little")


def _read_commands(data: bytes) -> None:
    decode_commands(1, data, origin_of(data))


# --- the bulk lane ------------------------------------------------------------------------------


class _Deaf:
    """A transport that takes everything and sends nothing; nor is anything spawned."""

    def send(self, _peer: int, _frame: bytes, _lane: Lane = Lane.RAFT) -> bool:
        return True

    def spawn(self, _name: str, _body: Callable[[], Coroutine[object, object, None]]) -> None:
        pass


def _chained() -> tuple[Entry, ...]:
    entries: list[Entry] = []
    chain = 0
    for index in range(1, 6):
        data = b"entry %d" % index
        chain = chain_of(chain, 1, index, EntryKind.NORMAL, data)
        entries.append(Entry(1, index, EntryKind.NORMAL, data, chain))
    return tuple(entries)


_LOG: Final = _chained()
_STATE: Final = start(Config(id=1), voters=(1, 2, 3), entries=_LOG[:2])
_PROMISE: Final = Promise(5, _LOG[4].chain)
_DEAF: Final = cast("Transport", _Deaf())
_SPAWNS_NOT: Final = cast("Spawner", _Deaf())
_ASK, _GIVE, _NONE = 22, 23, 24


def _repairs() -> Sequence[bytes]:
    def question(*numbers: int) -> bytes:
        return b"".join((bytes((_ASK,)), *(one.to_bytes(8, "little") for one in numbers)))

    promised = (5).to_bytes(8, "little") + _LOG[4].chain.to_bytes(8, "little")
    head = bytes((_GIVE,)) + promised
    return [
        question(1, _LOG[0].chain, 2, _LOG[1].chain),
        question(0, 0, 2, _LOG[1].chain),
        head + b"".join(map(encode_entry, _LOG[2:])),
        head + encode_entry(_LOG[2]),
        bytes((_NONE,)) + promised,
    ]


def _read_repair(data: bytes) -> None:
    if not data:
        return  # the bulk lane hands nothing empty on
    repair = Repair(_DEAF, _SPAWNS_NOT, FRAME_BYTES_MAX)
    repair.ask(_STATE, _PROMISE, [2])
    repair.on_frame(2, data, _STATE)


def _snapshots() -> Sequence[bytes]:
    begin = encode_messages([InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, _MEMBERS, b"data"))])
    return [
        encode(Kind.BEGIN, 1, payload=begin),
        encode_chunk(1, 0, crc32(b"chunk"), b"chunk"),
        encode(Kind.END, 1, 1, payload=crc32(b"chunk").to_bytes(4, "little")),
        encode(Kind.PROGRESS, 1, 1),
    ]


_SNAPSHOT_HEAD: Final = len(encode(Kind.PROGRESS, 0))


def _fix_snapshot(data: bytes) -> bytes:
    head = data[: _SNAPSHOT_HEAD - 4]
    return head + crc32(data[_SNAPSHOT_HEAD:]).to_bytes(4, "little") + data[_SNAPSHOT_HEAD:]


def _read_snapshot(data: bytes) -> None:
    frame = decode(data)
    if frame.kind == Kind.BEGIN:
        decode_begin(frame.payload)
    elif frame.kind == Kind.END:
        decode_end(frame.payload)


def _hear_disks(data: bytes) -> None:
    store = MemoryStore(MemoryDisk())
    Disks(store, Identity(11, 12, bytes(16), 1)).hear(data)


# --- CBOR ---------------------------------------------------------------------------------------


def _check_cbor(data: bytes) -> None:
    value = loads(data)
    if loads(dumps(value)) != value:
        raise AssertionError(f"{value!r} does not survive its own encoding")


def _check_roster(data: bytes) -> None:
    roster = decode_roster(data)
    if decode_roster(encode_roster(roster)) != roster:
        raise AssertionError(f"{roster} does not survive its own encoding")


def _read_question(data: bytes) -> None:
    answer_question(data, 11, _ROSTER, lambda _: True)


def _rosters() -> Sequence[bytes]:
    return [encode_roster(_ROSTER), encode_roster(Roster((), 0))]


def _answer(name: str) -> bytes:
    question = encode_question(name, is_new=False)
    return answer_question(question, 11, _ROSTER, lambda _: False)


def _plain_values() -> Sequence[bytes]:
    nested: list[object] = []
    for _ in range(14):
        nested = [nested]
    return [
        dumps({"": None, "a": True, "b": [1, -1, 2**63, -(2**63)], "c": {"d": b"bytes"}}),
        dumps(["text", "\u00e9\u4e16", b"", 23, 24, 255, 256, 65536, 2**32]),
        dumps([{}, [], {"k": [{}]}]),
        dumps({f"key {number}": number for number in range(40)}),
    ]


_W: Final = (WireError,)
WIRE_TARGETS: Final = (
    Target(
        name="frames",
        about="a stream cut into frames, however it arrives",
        read=_read_stream,
        check=_check_stream,
        refusals=_W,
        valid=lambda: [encode_frame(0, b"payload"), encode_frame(1, b"") * 3],
        fix=fix_frame,
    ),
    Target(
        name="greetings",
        about="what whoever connects says first, questions included",
        read=_read_greeting,
        refusals=_W,
        valid=lambda: [encode_greeting(_GREETING), encode_question_frame(b"who are you?")],
        fix=fix_frame,
    ),
    Target(
        name="welcomes",
        about="what a dialer is answered",
        read=_read_welcome,
        refusals=_W,
        valid=lambda: [encode_welcome(1, _HELLO)],
        more=lambda: [encode_refusal(Refusal(Code.VERSION, "we speak other versions"))],
        fix=fix_frame,
    ),
    Target(
        name="answers",
        about="the frame of an answer to a question",
        read=_read_answer,
        refusals=_W,
        valid=lambda: [encode_answer(1, b"a cluster")],
        fix=fix_frame,
    ),
    Target(
        name="messages",
        about="raft messages, and proposals that are passed on",
        read=_read_messages,
        check=_check_messages,
        refusals=_W,
        valid=_messages,
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="commands",
        about="the commands in an entry",
        read=_read_commands,
        refusals=(InvariantError,),
        valid=lambda: [encode_commands(1, 2, 3, [b"one", b"", b"three"]), b""],
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="changes",
        about="a change of membership in an entry",
        read=decode_change,
        refusals=(MembershipError,),
        valid=lambda: [encode_change(_CHANGE), b""],
    ),
    Target(
        name="notes",
        about="a note of the leader in an entry",
        read=decode_note,
        refusals=_W,
        valid=lambda: [
            encode_note(HashHere()),
            encode_note(Booted(12, b"0123456789abcdef", 13, b"fedcba9876543210")),
        ],
    ),
    Target(
        name="entries",
        about="an entry record, as disk and repairs have it",
        read=lambda data: decode_entry(data),
        check=_check_entry,
        refusals=_W,
        valid=lambda: [encode_entry(one) for one in _LOG],
        fix=fix_entry,
    ),
    Target(
        name="snapshots",
        about="frames that carry an image",
        read=_read_snapshot,
        refusals=_W,
        valid=_snapshots,
        fix=_fix_snapshot,
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="repairs",
        about="questions for lost entries, and answers",
        read=_read_repair,
        refusals=(),
        valid=_repairs,
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="disks",
        about="what another member knows of members' disks",
        read=_hear_disks,
        refusals=_W,
        valid=lambda: [bytes(56), bytes(range(56)) * 3],
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="cbor",
        about="the locked profile of CBOR",
        read=loads,
        check=_check_cbor,
        refusals=_W,
        valid=_plain_values,
    ),
    Target(
        name="rosters",
        about="names and addresses of members",
        read=decode_roster,
        check=_check_roster,
        refusals=_W,
        valid=_rosters,
    ),
    Target(
        name="change notes",
        about="who proposed a change, and records of the members in it",
        read=decode_change_note,
        refusals=_W,
        valid=lambda: [encode_change_note(ChangeNote((1, 2, 3), _ROSTER.members)), b""],
    ),
    Target(
        name="questions",
        about="what somebody asks who is no member yet",
        read=_read_question,
        refusals=(),
        valid=lambda: [encode_question("n1", is_new=True)],
        bytes_max=2048,
    ),
    Target(
        name="invitations",
        about="what somebody is answered who wants to join",
        read=lambda data: read_answer(data, "n1", "10.0.0.1:7400"),
        refusals=_W,
        valid=lambda: [_answer("n1"), _answer("nobody")],
        more=lambda: [_answer("n2")],
    ),
)
