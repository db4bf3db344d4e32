"""Linearizable reads: by a quorum round, or by the leader's lease (thesis 6.4).

A read is a question, "from which index on may I answer?". The leader notes its commit index, asks a
quorum with numbered heartbeats whether it still leads, and answers when they agree. One confirmed
position confirms all before it, so reads are batched by nature.
"""

from __future__ import annotations

from raftkv.core.config import ReadMode
from raftkv.core.draft import Draft
from raftkv.core.messages import ReadIndexRequest, ReadIndexResponse
from raftkv.core.quorum import committed_jointly
from raftkv.core.ready import ReadState
from raftkv.core.sending import broadcast_heartbeat
from raftkv.core.state import ReadQueue, ReadRequest
from raftkv.core.types import Role


def on_read(draft: Draft, request: ReadRequest) -> None:
    """A read begins: here, or forwarded to us."""
    if request.recovering and request.origin == draft.config.id:
        return  # our own question, which went around until we lead ourselves
    if draft.role is Role.LEADER:
        _on_read_at_leader(draft, request)
    elif draft.role is Role.FOLLOWER and draft.leader:
        # A forwarded request keeps the place where it was made, so that the answer goes there at
        # once.
        origin = request.origin or draft.config.id
        draft.messages.append(
            ReadIndexRequest(
                origin, draft.leader, request.context, request.lease, request.recovering
            )
        )
    elif draft.config.report_dropped_reads and request.origin in (0, draft.config.id):
        draft.aside.dropped_reads.append(request.context)


def _on_read_at_leader(draft: Draft, request: ReadRequest) -> None:
    membership = draft.membership
    alone = len(membership.voters) == 1 and not membership.is_joint
    settled = has_committed_in_term(draft)
    if draft.config.single_voter_reads_wait or request.recovering:
        # Nor is a leader alone if the single voter is another one: that one elects itself at will.
        alone = alone and settled and membership.is_voter(draft.config.id)
    if alone:
        answer_read(draft, request, draft.commit)
    elif not settled:
        draft.lead.waiting_reads = (*draft.lead.waiting_reads, request)
    else:
        _confirm(draft, request)


def has_committed_in_term(draft: Draft) -> bool:
    """Whether an entry of the current term is committed: before, the commit index may be behind."""
    log = draft.log
    return log.has_term(draft.commit) and log.term_at(draft.commit) == draft.term


def release_waiting_reads(draft: Draft) -> None:
    """The first entry of the term is committed: reads that waited for it go on."""
    if draft.lead_now.waiting_reads and has_committed_in_term(draft):
        waiting, draft.lead.waiting_reads = draft.lead.waiting_reads, ()
        for request in waiting:
            _confirm(draft, request)


def _confirm(draft: Draft, request: ReadRequest) -> None:
    # A recovering member needs to know what a quorum knows, not what a clock makes likely.
    wants_lease = not request.recovering and (
        request.lease or draft.config.read_mode is ReadMode.LEASE
    )
    if wants_lease and draft.config.check_quorum and _lease_holds(draft):
        answer_read(draft, request, draft.commit)
        return
    old = draft.lead.reads
    position = old.position + 1
    draft.lead.reads = ReadQueue(
        position, (*old.queue, (position, request, draft.commit)), old.acks
    )
    broadcast_heartbeat(draft)
    on_read_ack(draft, draft.config.id, position)


def _lease_holds(draft: Draft) -> bool:
    """Whether no other leader can have been elected yet.

    Plainly: as long as the quorum check does not step down. Measured: a voter that answered a
    heartbeat gives no vote for ``election_ticks`` of its own ticks after it arrived, so of less
    than one period after it was sent; two thirds of that allow clocks to differ by a fifth either
    way.
    """
    config = draft.config
    now = draft.lead_now
    if config.transfer_ends_lease and (now.transferee or now.lease_given_up):
        return False
    if not config.measured_lease:
        return True
    acked: dict[int, int] = {}
    for one in draft.progress:
        # The one whose answer is being handled is thawed, and may be changed further.
        acked[one.id] = draft.peers[one.id].acked_tick if one.id in draft.peers else one.acked_tick
    acked[config.id] = draft.lead_ticks
    oldest = committed_jointly(draft.membership.voters, draft.membership.outgoing, acked)
    # acked_tick 0 is "never": ticks are counted from 1.
    return oldest > 0 and draft.lead_ticks - oldest + 1 <= (config.election_ticks - 1) * 2 // 3


def on_read_ack(draft: Draft, member: int, position: int) -> None:
    """``member`` took us for leader when it saw ``position``."""
    reads = draft.lead_now.reads
    if not reads.queue or position > reads.position:
        return
    acks = dict(reads.acks)
    if acks.get(member, 0) >= position:
        return
    acks[member] = position
    draft.lead.reads = ReadQueue(reads.position, reads.queue, tuple(sorted(acks.items())))
    answer_confirmed(draft)


def answer_confirmed(draft: Draft) -> None:
    """Answer what a quorum of the membership in force has confirmed."""
    reads = draft.lead_now.reads
    acks = dict(reads.acks)
    confirmed = committed_jointly(draft.membership.voters, draft.membership.outgoing, acks)
    done = 0
    for queued, request, index in reads.queue:
        if queued > confirmed:
            break
        answer_read(draft, request, index)
        done += 1
    if done:
        draft.lead.reads = ReadQueue(reads.position, reads.queue[done:], reads.acks)


def answer_read(draft: Draft, request: ReadRequest, index: int) -> None:
    """Give the index to whoever asked."""
    if request.origin in (0, draft.config.id):
        draft.aside.read_states.append(ReadState(index, request.context))
    else:
        draft.messages.append(
            ReadIndexResponse(draft.config.id, request.origin, draft.term, index, request.context)
        )
