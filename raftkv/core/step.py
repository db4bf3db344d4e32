"""step(): one input, one new State. The term rules first, then one match to the role's handler."""

from __future__ import annotations

from enum import Enum
from typing import Final, assert_never

from raftkv.core import leader, recovering
from raftkv.core.candidate import campaign, hasten, on_vote_response
from raftkv.core.config import ReadMode
from raftkv.core.draft import Draft
from raftkv.core.durability import on_applied, on_stored, taken_writes
from raftkv.core.follower import (
    follow,
    on_append_entries,
    on_heartbeat,
    on_install_snapshot,
    on_vote_request,
)
from raftkv.core.inputs import (
    Applied,
    ApplyChange,
    Campaign,
    Compact,
    ForgetLeader,
    Input,
    Persisted,
    Propose,
    ProposeChange,
    Read,
    Receive,
    Regressed,
    Repaired,
    SnapshotStatus,
    SnapshotTaken,
    Tick,
    TransferLeader,
    Unreachable,
)
from raftkv.core.membership import encode_change
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
from raftkv.core.proposals import on_forwarded, on_propose, on_refused_elsewhere
from raftkv.core.reads import on_read
from raftkv.core.ready import ReadState
from raftkv.core.reconfigure import on_apply_change
from raftkv.core.sending import send_append_response
from raftkv.core.state import ReadRequest, State
from raftkv.core.transitions import become_follower
from raftkv.core.types import APPEND_THREAD, APPLY_THREAD, EntryKind, Payload, Role, Snapshot
from raftkv.errors import InvariantError

# Looked up once (raftkv.core.progress tells why).
_FOLLOWER: Final = Role.FOLLOWER
_LEADER: Final = Role.LEADER


def step(state: State, event: Input) -> State:
    """The State after one input. Pure: same state and input, same result, always and everywhere.

    Raises InvariantError where going on could lose data; never for what a peer can send.
    """
    draft = Draft(state)
    _dispatch(draft, event)
    if draft.recovery is not None:
        recovering.finish_if_whole(draft, draft.recovery)
    if not (
        draft.term >= state.term
        and state.commit <= draft.commit <= draft.log.last_index
        and state.apply.applied <= draft.apply.applied <= draft.commit
        and (draft.vote == state.vote or draft.term > state.term or not state.vote)
    ):
        raise _broken(state, draft)
    return draft.freeze()


def _broken(state: State, draft: Draft) -> InvariantError:
    """Which of the rules that every step is held against is broken."""
    before, after = state.apply.applied, draft.apply.applied
    if draft.term < state.term:
        return InvariantError(f"I1: from term {state.term} to {draft.term}")
    if draft.term == state.term and draft.vote != state.vote and state.vote:
        return InvariantError(f"I2: voted for {state.vote} and {draft.vote} in term {state.term}")
    if draft.commit < state.commit or after < before:
        return InvariantError(
            f"I4: commit from {state.commit} to {draft.commit}, applied from {before} to {after}"
        )
    return InvariantError(
        f"I3: applied {after}, commit {draft.commit}, last index {draft.log.last_index}"
    )


def _dispatch(draft: Draft, event: Input) -> None:
    match event:
        case Receive():
            receive(draft, event.message)
        case Tick():
            _on_tick(draft)
        case Persisted():
            for write in taken_writes(draft, event.number):
                for message in write.own:
                    receive(draft, message)
        case Applied():
            on_applied(draft, event.index)
        case Propose():
            on_propose(draft, event.payloads, event.request)
        case ProposeChange():
            kind = EntryKind.CHANGE_SINGLE if event.single else EntryKind.CHANGE
            payload = Payload(kind, encode_change(event.change))
            on_propose(draft, (payload,), event.request)
        case Read():
            on_read(draft, ReadRequest(0, event.context, event.lease))
        case ApplyChange():
            on_apply_change(draft, event.change)
        case SnapshotTaken():
            _on_snapshot_taken(draft, event.snapshot)
        case Compact():
            _on_compact(draft, event.index)
        case Campaign():
            campaign(draft)
        case Unreachable():
            if draft.role is _LEADER:
                leader.on_unreachable(draft, event.peer)
            elif draft.config.heirs_in_order and event.peer == draft.leader:
                hasten(draft)
        case SnapshotStatus():
            if draft.role is _LEADER:
                leader.on_snapshot_status(draft, event.peer, delivered=event.delivered)
        case TransferLeader():
            _on_transfer(draft, TransferLeadership(event.target, 0, 0, event.target))
        case ForgetLeader():
            # Lease reads stand on followers not voting while they know a leader.
            if draft.role is _FOLLOWER and draft.config.read_mode is not ReadMode.LEASE:
                draft.leader = 0
        case Regressed():
            recovering.regress(draft)
        case Repaired():
            recovering.on_repaired(draft, event.entries)
        case _:
            assert_never(event)


def _on_tick(draft: Draft) -> None:
    if draft.hold_ticks:
        draft.hold_ticks -= 1
    if draft.role is _LEADER:
        leader.on_tick(draft)
        return
    if draft.recovery is not None:
        recovering.on_tick(draft, draft.recovery)
    draft.election_elapsed += 1
    if draft.election_elapsed >= draft.timeout_ticks and draft.incoming is None:
        membership = draft.membership
        if membership.is_voter(draft.config.id):
            draft.election_elapsed = 0
            campaign(draft)


def _on_snapshot_taken(draft: Draft, snapshot: Snapshot) -> None:
    old = draft.snapshot
    if old is None or snapshot.index >= old.index:
        draft.snapshot = snapshot


def _on_compact(draft: Draft, index: int) -> None:
    if draft.log.base_index < index < draft.unstable and index <= draft.apply.applied:
        draft.log = draft.log.compact(index)


def _on_transfer(draft: Draft, message: TransferLeadership) -> None:
    match draft.role:
        case Role.LEADER:
            leader.on_transfer(draft, message)
        case Role.FOLLOWER if draft.leader:
            draft.messages.append(
                TransferLeadership(message.sender, draft.leader, draft.term, message.target)
            )
        case _:
            pass


class ReceiveError(Enum):
    """Why a message from the network makes no sense here."""

    LOCAL_MESSAGE = "raft: cannot step raft local message"
    UNKNOWN_PEER = "raft: cannot step as peer not found"


_THREADS = (APPEND_THREAD, APPLY_THREAD)


def refuses(state: State, message: Message) -> ReceiveError | None:
    """Whether an embedder should refuse a message from the network, and why.

    Local messages come from our storage threads alone, answers from peers that are tracked;
    requests are taken from anybody, because a member may not know its newest peers yet. ``step``
    does not ask: it counts nothing that a stranger answers, but heeds a higher term in it.
    """
    match message:
        case StorageAppend() | StorageAppendResponse() | StorageApply() | StorageApplyResponse():
            return None if message.sender in _THREADS else ReceiveError.LOCAL_MESSAGE
        case (
            AppendResponse()
            | VoteResponse()
            | PreVoteResponse()
            | HeartbeatResponse()
            | ReadIndexResponse()
        ):
            return None if state.peer(message.sender) else ReceiveError.UNKNOWN_PEER
        case _:
            return None


def receive(draft: Draft, message: Message) -> None:
    """A message: term rules (RAFT_SEMANTICS section 2), then the handler."""
    term = message.term
    if term > draft.term:
        if not _meets_higher_term(draft, message, term):
            return
    elif term and term < draft.term:
        _answer_lower_term(draft, message)
        return
    _handle(draft, message)


def _meets_higher_term(draft: Draft, message: Message, term: int) -> bool:
    """Follow a higher term where that is right; False if the message is to be ignored."""
    match message:
        case RequestVote() | PreVote():
            if not message.transfer and _holds_vote_back(draft):
                return False
            if isinstance(message, RequestVote):
                become_follower(draft, term, 0)
        case AppendEntries() | Heartbeat() | InstallSnapshot():
            become_follower(draft, term, message.sender)
        case PreVoteResponse() if not message.rejected:
            pass  # it carries the term we would campaign for
        case StorageAppendResponse():
            return False  # no write of ours can be from the future
        case _:
            become_follower(draft, term, 0)
    return True


def _holds_vote_back(draft: Draft) -> bool:
    """Whether a leader was heard from too recently to help unseat it (thesis 6.2, 4.2.3)."""
    config = draft.config
    if draft.hold_ticks:
        return True
    return (
        config.check_quorum and draft.leader != 0 and draft.election_elapsed < config.election_ticks
    )


def _answer_lower_term(draft: Draft, message: Message) -> None:
    config = draft.config
    match message:
        case AppendEntries() | Heartbeat():
            # With leases nobody else would tell a stale leader of the new term: it cannot disrupt
            # us by campaigning, and we ignore it. An empty acceptance with our term makes it step
            # down.
            if config.check_quorum or config.pre_vote:
                send_append_response(draft, message.sender, 0)
        case PreVote():
            # A candidate with a stale term would otherwise never learn of ours.
            draft.messages_after_append.append(
                PreVoteResponse(config.id, message.sender, draft.term, True)
            )
        case StorageAppendResponse():
            on_stored(draft, message)
        case _:
            pass


def _handle(draft: Draft, message: Message) -> None:
    role = draft.role
    match message:
        case AppendEntries():
            if role is not _FOLLOWER:
                follow(draft, message.sender)
            on_append_entries(draft, message)
        case AppendResponse():
            if role is _LEADER:
                leader.on_append_response(draft, message)
        case Heartbeat():
            if role is not _FOLLOWER:
                follow(draft, message.sender)
            on_heartbeat(draft, message)
        case HeartbeatResponse():
            if role is _LEADER:
                leader.on_heartbeat_response(draft, message)
        case StorageAppendResponse():
            on_stored(draft, message)
        case StorageApplyResponse():
            if message.entries:
                on_applied(draft, message.entries[-1].index)
        case InstallSnapshot():
            if role is _LEADER:
                return  # a stray one; no other leader can have sent it in our term
            if role is not _FOLLOWER:
                follow(draft, message.sender)
            on_install_snapshot(draft, message)
        case RequestVote() | PreVote():
            if message.transfer or not draft.hold_ticks:
                on_vote_request(draft, message)
        case VoteResponse() | PreVoteResponse():
            on_vote_response(draft, message)
        case ForwardProposal():
            on_forwarded(draft, message)
        case ProposalRefused():
            on_refused_elsewhere(draft, message)
        case ReadIndexRequest():
            _on_read_asked(draft, message)
        case ReadIndexResponse():
            _on_read_answered(draft, message)
        case TransferLeadership():
            _on_transfer(draft, message)
        case TimeoutNow():
            if role is _FOLLOWER:
                campaign(draft, transfer=True)
        case AskTerm():
            recovering.on_ask_term(draft, message)
        case TellTerm():
            recovering.on_tell_term(draft, message)
        case StorageAppend() | StorageApply():
            pass  # requests to threads, never to us
        case _:
            assert_never(message)


def _on_read_asked(draft: Draft, message: ReadIndexRequest) -> None:
    if message.recovering and draft.role is _LEADER:
        leader.on_recovering(draft, message.sender)  # before the round begins
    request = ReadRequest(message.sender, message.context, message.lease, message.recovering)
    on_read(draft, request)


def _on_read_answered(draft: Draft, message: ReadIndexResponse) -> None:
    recovery = draft.recovery
    if recovery is not None and message.context == recovery.context:
        recovering.on_read_answered(draft, recovery, message.index)
    elif draft.role is _FOLLOWER and not recovering.is_question(message.context):
        draft.aside.read_states.append(ReadState(message.index, message.context))
