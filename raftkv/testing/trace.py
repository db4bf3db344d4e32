"""What happened, one line per event: kept as values, written as text only when somebody looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from attrs import frozen

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Applied,
    ApplyChange,
    Compact,
    ForwardProposal,
    Heartbeat,
    Input,
    InstallSnapshot,
    Membership,
    Message,
    Persisted,
    PreVote,
    Propose,
    ProposeChange,
    Read,
    ReadIndexRequest,
    Receive,
    RequestVote,
    Role,
    SnapshotTaken,
    State,
    StorageAppendResponse,
    StorageApplyResponse,
    TellTerm,
    VoteResponse,
)
from raftkv.core.messages import PreVoteResponse


@frozen(slots=True)
class Note:
    """Something the world did: a fault, a repair, a restart."""

    text: str
    message: Message | None = None


Record = tuple[int, int, "Input | Note", "State | None"]
"""Time, member (0: the world), what happened, and the member's state after it."""

_ROLES = {
    Role.FOLLOWER: "F",
    Role.PRE_CANDIDATE: "P",
    Role.CANDIDATE: "C",
    Role.LEADER: "L",
}


class Trace:
    """The newest records, or all of them. States are values, so keeping one costs a reference."""

    __slots__ = ("_count", "_records", "append")

    def __init__(self, keep: int | None = 500) -> None:
        self._records: deque[Record] = deque(maxlen=keep)
        self.append = self._records.append  # the hottest call of a run: bound once

    def records(self) -> tuple[Record, ...]:
        """What is kept, oldest first."""
        return tuple(self._records)

    def lines(self) -> Iterator[str]:
        """One line per record."""
        return (line(record) for record in self._records)


def line(record: Record) -> str:
    """Time, member, role and term, vote, log, commit, applied, membership, and what happened."""
    time, node, happened, state = record
    head = f"{time:>7} "
    if state is None:
        return f"{head}{'n' + str(node) if node else '--':<3} {'':<44}{describe(happened)}"
    log = state.log
    window = f"[{log.base_index}..{log.last_index}/{log.last_term}]"
    stable = f"~{state.unstable}" if state.unstable <= log.last_index else ""
    mind = (
        f"{_ROLES[state.role]} t{state.term} v{state.vote or '-'} l{state.leader or '-'}"
        f" {window}{stable} c{state.commit} a{state.applied} {members(state.membership)}"
    )
    return f"{head}n{node:<2} {mind:<44} {describe(happened)}"


def members(membership: Membership) -> str:
    """A membership in a few characters: {voters}, &{outgoing}, +{learners}."""

    def group(nodes: tuple[int, ...]) -> str:
        return "{" + ",".join(map(str, nodes)) + "}"

    text = group(membership.voters)
    if membership.outgoing:
        text += "&" + group(membership.outgoing)
    learners = (*membership.learners, *membership.learners_next)
    return text + ("+" + group(learners) if learners else "")


def describe(happened: Input | Note) -> str:
    """An input, or a note, in a few words."""
    match happened:
        case Note():
            if happened.message is None:
                return happened.text
            one = happened.message
            return f"{happened.text} {one.sender}->{one.to} {describe_message(one)}"
        case Receive():
            return f"<-{happened.message.sender} {describe_message(happened.message)}"
        case Propose():
            sizes = ",".join(str(len(one.data)) for one in happened.payloads)
            return f"Propose #{happened.request} of {sizes} bytes"
        case ProposeChange() | ApplyChange():
            change = happened.change
            steps = " ".join(f"{one.kind.name}:{one.node}" for one in change.changes)
            name = type(happened).__name__
            return f"{name} {change.transition.name} {steps or 'leave'}"
        case Persisted():
            return f"Persisted {happened.number}"
        case Applied() | Compact():
            return f"{type(happened).__name__} {happened.index}"
        case SnapshotTaken():
            return f"SnapshotTaken {happened.snapshot.term}/{happened.snapshot.index}"
        case Read():
            return f"Read {happened.context.hex()}{' lease' if happened.lease else ''}"
        case _:
            return str(happened)


def describe_message(message: Message) -> str:
    """A message without its addresses."""
    name = type(message).__name__
    match message:
        case AppendEntries():
            text = f"{message.prev_term}/{message.prev_index} c{message.commit}"
            if message.entries:
                first, last = message.entries[0], message.entries[-1]
                text += f" +{first.index}..{last.index}/{last.term}"
        case AppendResponse():
            text = f"{'REJECTED ' if message.rejected else ''}{message.index}"
            if message.recovering:
                text += " recovering"
            if message.rejected:
                text += f" hint {message.hint_term}/{message.hint}"
        case RequestVote() | PreVote():
            text = f"{message.last_term}/{message.last_index}"
            text += " transfer" if message.transfer else ""
        case VoteResponse() | PreVoteResponse():
            text = "refused" if message.rejected else "granted"
        case Heartbeat():
            text = f"c{message.commit} r{message.read_position}"
        case InstallSnapshot():
            at = message.snapshot
            text = f"{at.term}/{at.index} {members(at.membership)}"
        case StorageAppendResponse():
            text = f"#{message.number} {message.log_term}/{message.index}"
        case StorageApplyResponse():
            text = f"to {message.entries[-1].index}"
        case ForwardProposal():
            text = f"#{message.request}"
        case ReadIndexRequest() | TellTerm():
            text = message.context.hex()
        case _:
            text = ""
    term = getattr(message, "term", 0)
    return f"{name} t{term} {text}".rstrip()
