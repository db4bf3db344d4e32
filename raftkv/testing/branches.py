"""Rare branches of the core, seen from outside: each step is looked at, and counted if it is one.

A green campaign that never met a snapshot overtaken by appends has said nothing about it. The core
has no marks of its own in it, which would cost production time: what branch a step took shows in
what it was given and what became of it. Nearly all steps are told apart by one look at the kind of
their input.
"""

from __future__ import annotations

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    ApplyChange,
    Campaign,
    ForgetLeader,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    Input,
    InstallSnapshot,
    Message,
    PeerMessage,
    PreVote,
    PreVoteResponse,
    ProgressState,
    ProposalRefused,
    Propose,
    Read,
    ReadIndexRequest,
    Receive,
    RequestVote,
    Role,
    SnapshotStatus,
    State,
    StorageAppendResponse,
    Tick,
    TimeoutNow,
    TransferLeader,
    TransferLeadership,
    Unreachable,
    VoteResponse,
)
from raftkv.testing.marks import Marks

_LEADER = Role.LEADER
_SNAPSHOT = ProgressState.SNAPSHOT


def note(marks: Marks, before: State, given: Input, after: State) -> None:
    """Count what was rare about a step."""
    if type(given) is Receive:
        _received(marks, before, given.message, after)
    elif type(given) is Tick:
        _ticked(marks, before, after)
    elif not _asked(marks, before, given, after):
        _told(marks, before, given, after)
    if before.role is _LEADER and after.role is not _LEADER:
        _stepped_down(marks, before, after)


def _sent(before: State, after: State) -> tuple[PeerMessage, ...]:
    """What the step queued to be sent at once."""
    return after.messages[len(before.messages) :]


# --- time -----------------------------------------------------------------------------------------


def _ticked(marks: Marks, before: State, after: State) -> None:
    if before.role is not _LEADER:
        if before.hold_ticks == 1:
            marks["promise to a lease ended"] += 1
        return
    if after.role is not _LEADER:
        marks["leader stepped down without its quorum"] += 1
    elif before.leading.transferee and not after.leading.transferee:
        marks["transfer timed out"] += 1
    if before.progress is not after.progress and _left_snapshot(before, after):
        marks["snapshot timed out"] += 1


def _left_snapshot(before: State, after: State) -> bool:
    waiting = [one.id for one in before.progress if one.state is _SNAPSHOT]
    states = {one.id: one.state for one in after.progress}
    return any(states.get(node) is ProgressState.PROBE for node in waiting)


def _stepped_down(marks: Marks, before: State, after: State) -> None:
    if before.log.last_index > before.commit:
        marks["stepped down with proposals in flight"] += 1
    if before.leading.transferee:
        marks["stepped down amid a transfer"] += 1
    if before.leading.reads.queue or before.leading.waiting_reads:
        marks["stepped down with reads in flight"] += 1
    if before.membership.is_joint:
        marks["stepped down in a joint configuration"] += 1
    if after.term == before.term and not after.membership.is_voter(after.id):
        marks["leader left after its removal"] += 1


# --- messages -------------------------------------------------------------------------------------


def _received(marks: Marks, before: State, message: Message, after: State) -> None:
    match message:
        case AppendEntries():
            _on_append(marks, before, message, after)
        case AppendResponse():
            if before.role is _LEADER and after.role is _LEADER:
                _on_append_response(marks, before, message, after)
        case HeartbeatResponse():
            if len(after.outbox.reads) > len(before.outbox.reads) + 1:
                marks["reads confirmed together"] += 1
        case Heartbeat():
            if message.term < before.term:
                marks["heartbeat of an older term"] += 1
            elif after.commit > before.commit:
                marks["committed by a heartbeat"] += 1
        case RequestVote() | PreVote():
            _on_vote_request(marks, before, message, after)
        case VoteResponse() | PreVoteResponse():
            _on_vote_response(marks, before, message, after)
        case _:
            _received_rarely(marks, before, message, after)


def _received_rarely(marks: Marks, before: State, message: Message, after: State) -> None:
    match message:
        case InstallSnapshot():
            _on_snapshot(marks, before, message, after)
        case StorageAppendResponse():
            if message.term < before.term and message.index:
                marks["write of an older term reported"] += 1
        case TimeoutNow():
            started = before.role is Role.FOLLOWER and after.role is not Role.FOLLOWER
            marks["campaign by order" if started else "order to campaign not followed"] += 1
        case TransferLeadership():
            _on_transfer(marks, before, after)
        case ForwardProposal():
            marks["forwarded proposal arrived"] += 1
        case ProposalRefused():
            marks["forwarded proposal refused"] += 1
        case ReadIndexRequest():
            if before.role is Role.FOLLOWER and _sent(before, after):
                marks["read forwarded twice"] += 1
        case _:
            pass


def _on_append(marks: Marks, before: State, message: AppendEntries, after: State) -> None:
    if message.term < before.term:
        marks["append of an older term"] += 1
        return
    if before.role is not Role.FOLLOWER and before.term == message.term:
        marks["candidate met the leader"] += 1
    if message.prev_index < before.commit:
        below = message.prev_index < before.log.base_index
        marks["append for compacted entries" if below else "append below the commit"] += 1
        return
    if after.messages_after_append:
        answer = after.messages_after_append[-1]
        if type(answer) is AppendResponse and answer.rejected:
            marks["append refused"] += 1
            return
    entries = message.entries
    if entries and after.log is before.log:
        marks["append of what is there"] += 1
    elif entries and after.log.last_index < before.log.last_index:
        marks["conflicting suffix cut, and shorter then"] += 1
    if entries and after.commit == entries[-1].index < message.commit:
        marks["commit held to what the append vouches for"] += 1


def _on_append_response(marks: Marks, before: State, message: AppendResponse, after: State) -> None:
    if after.commit > before.commit:
        if after.membership.is_joint:
            marks["committed in a joint configuration"] += 1
        if not after.membership.is_voter(after.id):
            marks["committed by a leader outside the membership"] += 1
        if after.log.term_at(max(before.commit, after.log.base_index) + 1) < after.term:
            marks["entries of older terms committed along"] += 1
        if before.leading.waiting_reads:
            marks["reads released by the first commit"] += 1
    then = before.peer(message.sender)
    now = after.peer(message.sender)
    if then is None or now is None:
        marks["answer of a stranger"] += 1
        return
    if message.rejected:
        marks["late refusal ignored" if now.next == then.next else "probe stepped back"] += 1
    elif message.index < then.match:
        marks["acknowledgement overtaken"] += 1
    elif then.state is _SNAPSHOT and now.state is ProgressState.REPLICATE:
        marks["snapshot overtaken by appends"] += 1
    if then.recovering is not now.recovering:
        marks["peer whole again" if then.recovering else "peer seen to recover"] += 1
    if before.leading.transferee == message.sender and any(
        type(one) is TimeoutNow for one in _sent(before, after)
    ):
        marks["transfer to who caught up"] += 1


def _on_vote_request(
    marks: Marks, before: State, message: RequestVote | PreVote, after: State
) -> None:
    pre = "pre-vote" if type(message) is PreVote else "vote"
    if len(after.messages_after_append) == len(before.messages_after_append):
        if message.term > before.term:
            marks[f"{pre} held back for a leader"] += 1
        return
    answer = after.messages_after_append[-1]
    if type(answer) not in (VoteResponse, PreVoteResponse):
        return
    rejected = isinstance(answer, VoteResponse | PreVoteResponse) and answer.rejected
    if rejected and not before.log.is_up_to_date(message.last_index, message.last_term):
        marks[f"{pre} refused: the log is behind"] += 1
    elif rejected and before.term == message.term and before.vote not in (0, message.sender):
        marks[f"{pre} refused: given to another"] += 1
    elif rejected and message.term < before.term:
        marks[f"{pre} refused: an older term"] += 1
    elif not rejected and before.vote == message.sender and before.term == message.term:
        marks[f"{pre} given again"] += 1
    elif not rejected and message.transfer and before.leader:
        marks["vote given over a leader, by order"] += 1


def _on_vote_response(
    marks: Marks, before: State, message: VoteResponse | PreVoteResponse, after: State
) -> None:
    if message.term < before.term and type(message) is VoteResponse:
        marks["vote of an older term ignored"] += 1
        return
    if after.commit > before.commit:
        marks["commit learned from a refusal"] += 1
        if before.role is not Role.FOLLOWER and after.role is Role.FOLLOWER:
            marks["campaign given up for a change"] += 1
    elif before.role is Role.PRE_CANDIDATE and after.role is Role.FOLLOWER:
        marks["pre-vote lost"] += 1
    elif before.role is Role.CANDIDATE and after.role is Role.FOLLOWER:
        marks["vote lost"] += 1


def _on_snapshot(marks: Marks, before: State, message: InstallSnapshot, after: State) -> None:
    snapshot = message.snapshot
    if message.term < before.term:
        marks["snapshot of an older term"] += 1
    elif snapshot.index <= before.commit:
        marks["snapshot refused as stale"] += 1
    elif after.log is before.log:
        if after.commit == snapshot.index:
            marks["snapshot matched, log kept"] += 1
    elif before.log.last_index > snapshot.index:
        marks["snapshot in place of a longer log"] += 1
    elif before.log.last_index > before.commit:
        marks["snapshot in place of uncommitted entries"] += 1


def _on_transfer(marks: Marks, before: State, after: State) -> None:
    if before.role is not _LEADER:
        passed = bool(_sent(before, after))
        marks["transfer passed on" if passed else "transfer without a leader"] += 1
    elif after.leading.transferee == before.leading.transferee:
        marks["transfer refused"] += 1
    elif before.leading.transferee:
        marks["transfer in place of another"] += 1


# --- what the node tells --------------------------------------------------------------------------


def _asked(marks: Marks, before: State, given: Input, after: State) -> bool:
    """What users ask for; whether that is what the input was."""
    match given:
        case Propose():
            if before.role is Role.FOLLOWER and len(after.messages) > len(before.messages):
                marks["proposal forwarded"] += 1
        case Read():
            _on_read(marks, before, after)
        case TransferLeader():
            _on_transfer(marks, before, after)
        case Campaign():
            if after.role is before.role and before.role is not _LEADER:
                marks["no campaign, though asked for"] += 1
        case ForgetLeader():
            if before.leader and not after.leader:
                marks["leader forgotten"] += 1
        case _:
            return False
    return True


def _on_read(marks: Marks, before: State, after: State) -> None:
    if before.role is not _LEADER:
        if len(after.messages) > len(before.messages):
            marks["read forwarded"] += 1
    elif len(after.outbox.reads) > len(before.outbox.reads):
        alone = len(before.membership.voters) == 1
        marks["read answered alone" if alone else "read answered by the lease"] += 1
    elif len(after.leading.waiting_reads) > len(before.leading.waiting_reads):
        marks["read waits for the first commit"] += 1


def _told(marks: Marks, before: State, given: Input, after: State) -> None:
    """What the node has found out."""
    match given:
        case ApplyChange():
            _on_change(marks, before, after)
        case Unreachable():
            peer = before.peer(given.peer)
            if before.role is _LEADER and peer is not None:
                if peer.state is ProgressState.REPLICATE:
                    marks["replication broken off"] += 1
            elif after.timeout_ticks != before.timeout_ticks:
                marks["heir hastened"] += 1
        case SnapshotStatus():
            if before.role is _LEADER and before.progress is not after.progress:
                marks["snapshot delivered" if given.delivered else "snapshot failed"] += 1
        case _:
            pass


def _on_change(marks: Marks, before: State, after: State) -> None:
    if before.role is not _LEADER:
        return
    own = before.id
    if own in before.membership.voters and own not in after.membership.voters:
        joint = after.membership.is_joint
        marks["joint leader not in the new set" if joint else "leader removed"] += 1
    if after.commit > before.commit:
        marks["commit moved by a change"] += 1
