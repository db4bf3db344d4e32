"""How traces write what the core says: entries, messages, configurations, Readies, progress.

Each function gives text without a final line feed. Blocks of several lines are indented by the
caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from attrs import frozen

from raftkv.core.membership import decode_change
from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteResponse,
    ProposalRefused,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    StorageAppend,
    StorageAppendResponse,
    StorageApply,
    StorageApplyResponse,
    TellTerm,
    TimeoutNow,
    TransferLeadership,
    VoteResponse,
)
from raftkv.core.progress import Progress, ProgressState
from raftkv.core.ready import ReadState, SoftState
from raftkv.core.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_NODE,
    ChangeKind,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MembershipChange,
    Payload,
    Role,
    Snapshot,
)

ROLES: Final = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_PROGRESS_STATES: Final = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
_ENTRY_KINDS: Final = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CHANGE_SINGLE: "EntryConfChange",
    EntryKind.CHANGE: "EntryConfChangeV2",
}
CHANGE_LETTERS: Final = {
    ChangeKind.VOTER: "v",
    ChangeKind.LEARNER: "l",
    ChangeKind.REMOVE: "r",
    ChangeKind.UPDATE: "u",
}
_TARGETS: Final[dict[int, str]] = {
    NO_NODE: "None",
    APPEND_THREAD: "AppendThread",
    APPLY_THREAD: "ApplyThread",
}
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
MESSAGE_NAMES: Final = frozenset(
    {
        "MsgHup",
        "MsgBeat",
        "MsgProp",
        "MsgApp",
        "MsgAppResp",
        "MsgVote",
        "MsgVoteResp",
        "MsgSnap",
        "MsgHeartbeat",
        "MsgHeartbeatResp",
        "MsgUnreachable",
        "MsgSnapStatus",
        "MsgCheckQuorum",
        "MsgTransferLeader",
        "MsgTimeoutNow",
        "MsgReadIndex",
        "MsgReadIndexResp",
        "MsgPreVote",
        "MsgPreVoteResp",
        "MsgStorageAppend",
        "MsgStorageAppendResp",
        "MsgStorageApply",
        "MsgStorageApplyResp",
        "MsgForgetLeader",
    }
)


@frozen(slots=True)
class Wire:
    """A message in the fields that all kinds share in the notation."""

    sender: int
    to: int
    name: str
    term: int = 0
    log_term: int = 0
    index: int = 0
    rejected: bool = False
    hint: int = 0
    commit: int = 0
    vote: int = 0
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    responses: tuple[Message, ...] = ()


def wire_of(message: Message) -> Wire:
    """The message in the shared fields."""
    sender, to = message.sender, message.to
    match message:
        case PreVote(term=term, last_index=index, last_term=log_term):
            return Wire(sender, to, "MsgPreVote", term, log_term, index)
        case RequestVote(term=term, last_index=index, last_term=log_term):
            return Wire(sender, to, "MsgVote", term, log_term, index)
        case PreVoteResponse(term=term, rejected=rejected):
            return Wire(sender, to, "MsgPreVoteResp", term, rejected=rejected)
        case VoteResponse(term=term, rejected=rejected):
            return Wire(sender, to, "MsgVoteResp", term, rejected=rejected)
        case AppendEntries(term=term, prev_index=index, prev_term=log_term, commit=commit):
            return Wire(
                sender, to, "MsgApp", term, log_term, index,
                commit=commit, entries=message.entries,
            )  # fmt: skip
        case AppendResponse(term=term, index=index, rejected=rejected, hint=hint):
            return Wire(sender, to, "MsgAppResp", term, message.hint_term, index, rejected, hint)
        case Heartbeat(term=term, commit=commit):
            return Wire(sender, to, "MsgHeartbeat", term, commit=commit)
        case HeartbeatResponse(term=term):
            return Wire(sender, to, "MsgHeartbeatResp", term)
        case InstallSnapshot(term=term, snapshot=snapshot):
            return Wire(sender, to, "MsgSnap", term, snapshot=snapshot)
        case TimeoutNow(term=term):
            return Wire(sender, to, "MsgTimeoutNow", term)
        case TransferLeadership(term=term, target=target):
            return Wire(target, to, "MsgTransferLeader", term)
        case ForwardProposal(payloads=payloads):
            return Wire(sender, to, "MsgProp", entries=_unplaced(payloads))
        case ProposalRefused():
            return Wire(sender, to, "MsgPropResp", rejected=True)
        case ReadIndexRequest(context=context):
            return Wire(sender, to, "MsgReadIndex", entries=_request(context))
        case ReadIndexResponse(term=term, index=index, context=context):
            return Wire(sender, to, "MsgReadIndexResp", term, 0, index, entries=_request(context))
        case StorageAppend():
            return _wire_of_append(message)
        case StorageAppendResponse(term=term, index=index, log_term=log_term, snapshot=snapshot):
            return Wire(
                sender, to, "MsgStorageAppendResp", term, log_term, index, snapshot=snapshot
            )
        case StorageApply(entries=entries, responses=responses):
            return Wire(sender, to, "MsgStorageApply", entries=entries, responses=responses)
        case StorageApplyResponse(entries=entries):
            return Wire(sender, to, "MsgStorageApplyResp", entries=entries)
        case AskTerm() | TellTerm():
            raise ValueError("a trace knows no member that recovers")
        case _:
            assert_never(message)


def _wire_of_append(message: StorageAppend) -> Wire:
    hard = message.hard_state or HardState()
    return Wire(
        message.sender,
        message.to,
        "MsgStorageAppend",
        hard.term,
        commit=hard.commit,
        vote=hard.vote,
        entries=message.entries,
        snapshot=message.snapshot,
        responses=message.responses,
    )


def _unplaced(payloads: tuple[Payload, ...]) -> tuple[Entry, ...]:
    """Proposals as entries that have no place yet."""
    return tuple(Entry(0, 0, payload.kind, payload.data, 0) for payload in payloads)


def _request(context: bytes) -> tuple[Entry, ...]:
    """A read request travels as one entry without a place."""
    return _unplaced((Payload(EntryKind.NORMAL, context),))


def target(node: int) -> str:
    """An end of a message: a node in hexadecimal, or a name."""
    return _TARGETS.get(node) or f"{node:x}"


def quoted(data: bytes) -> str:
    """Payload in double quotes; what cannot be printed as ``\\xNN``, byte by byte."""
    text = data.decode("utf-8", "surrogateescape")
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def changes(change: MembershipChange) -> str:
    """The steps of a change as ``propose-conf-change`` takes them."""
    return " ".join(f"{CHANGE_LETTERS[one.kind]}{one.node}" for one in change.changes)


def entry(one: Entry) -> str:
    """``term/index type content``."""
    content = quoted(one.data) if one.kind is EntryKind.NORMAL else changes(decode_change(one.data))
    head = f"{one.term}/{one.index} {_ENTRY_KINDS[one.kind]}"
    return f"{head} {content}" if content else head


def conf_state(membership: Membership) -> str:
    """A configuration as snapshots carry it, in the order it has."""
    return (
        f"Voters:{_listed(membership.voters)} VotersOutgoing:{_listed(membership.outgoing)}"
        f" Learners:{_listed(membership.learners)}"
        f" LearnersNext:{_listed(membership.learners_next)}"
        f" AutoLeave:{boolean(membership.auto_leave)}"
    )


def _listed(ids: Iterable[int]) -> str:
    return f"[{' '.join(map(str, ids))}]"


def boolean(value: bool) -> str:
    """``true`` or ``false``."""
    return "true" if value else "false"


def snapshot(one: Snapshot) -> str:
    """Position and configuration; the image itself is never shown."""
    return f"Index:{one.index} Term:{one.term} ConfState:{conf_state(one.membership)}"


def message(one: Message, indent: str = "") -> str:
    """A message, on several lines if it carries several entries, a snapshot or responses."""
    wire = wire_of(one)
    parts = [
        f"{indent}{target(wire.sender)}->{target(wire.to)} {wire.name}"
        f" Term:{wire.term} Log:{wire.log_term}/{wire.index}"
    ]
    if wire.rejected:
        parts.append(f" Rejected (Hint: {wire.hint})")
    if wire.commit:
        parts.append(f" Commit:{wire.commit}")
    if wire.vote:
        parts.append(f" Vote:{wire.vote}")
    if len(wire.entries) == 1:
        parts.append(f" Entries:[{entry(wire.entries[0])}]")
    elif wire.entries:
        lines = (f"\n{indent}  {entry(each)}" for each in wire.entries)
        parts.append(f" Entries:[{''.join(lines)}\n{indent}]")
    if wire.snapshot and wire.snapshot.index:
        parts.append(f"\n{indent}  Snapshot: {snapshot(wire.snapshot)}")
    if wire.responses:
        responses = (f"\n{message(each, indent + '  ')}" for each in wire.responses)
        parts.append(f" Responses:[{''.join(responses)}\n{indent}]")
    return "".join(parts)


def hard_state(one: HardState) -> str:
    """Term, vote if there is one, commit."""
    vote = f" Vote:{one.vote}" if one.vote else ""
    return f"Term:{one.term}{vote} Commit:{one.commit}"


def read_state(one: ReadState) -> str:
    """Index and request bytes, in decimal."""
    return f"{{{one.index} {_listed(one.context)}}}"


@frozen(slots=True)
class ReadyParts:
    """What a Ready shows; with asynchronous writes its messages include those to the threads."""

    must_sync: bool
    soft_state: SoftState | None
    hard_state: HardState | None
    reads: tuple[ReadState, ...]
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed: tuple[Entry, ...]
    messages: tuple[Message, ...]


def ready(parts: ReadyParts) -> str:
    """A Ready: its head, then the parts that are not empty."""
    lines: list[str] = []
    if parts.soft_state:
        lines.append(f"Lead:{parts.soft_state.leader} State:{ROLES[parts.soft_state.role]}")
    if parts.hard_state:
        lines.append(f"HardState {hard_state(parts.hard_state)}")
    if parts.reads:
        lines.append(f"ReadStates [{' '.join(map(read_state, parts.reads))}]")
    if parts.entries:
        lines += ["Entries:", *map(entry, parts.entries)]
    if parts.snapshot:
        lines.append(f"Snapshot {snapshot(parts.snapshot)}")
    if parts.committed:
        lines += ["CommittedEntries:", *map(entry, parts.committed)]
    if parts.messages:
        lines += ["Messages:", *map(message, parts.messages)]
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={boolean(parts.must_sync)}:", *lines]) + "\n"


def progress(peer: Progress, learners: tuple[int, ...], *, count_max: int, bytes_max: int) -> str:
    """What a leader knows of a peer, with its window measured against the given limits."""
    parts = [f"{_PROGRESS_STATES[peer.state]} match={peer.match} next={peer.next}"]
    if peer.id in learners:
        parts.append("learner")
    if peer.is_paused:
        parts.append("paused")
    if peer.pending_snapshot:
        parts.append(f"pendingSnap={peer.pending_snapshot}")
    if not peer.active:
        parts.append("inactive")
    if peer.inflight:
        full = "[full]" if peer.window_is_full(count_max, bytes_max) else ""
        parts.append(f"inflight={len(peer.inflight)}{full}")
    return " ".join(parts)


def configuration(membership: Membership) -> str:
    """A configuration as the membership files write it."""
    parts = [f"voters={_hexadecimal(membership.voters)}"]
    if membership.outgoing:
        parts[0] += f"&&{_hexadecimal(membership.outgoing)}"
    if membership.learners:
        parts.append(f"learners={_hexadecimal(membership.learners)}")
    if membership.learners_next:
        parts.append(f"learners_next={_hexadecimal(membership.learners_next)}")
    if membership.auto_leave:
        parts.append("autoleave")
    return " ".join(parts)


def _hexadecimal(ids: Iterable[int]) -> str:
    return f"({' '.join(f'{node:x}' for node in sorted(ids))})"
