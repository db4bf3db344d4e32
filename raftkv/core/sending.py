"""What a member puts into its outbox, and the two queues it may go to.

Answers to appends and votes wait until everything unstored at this moment is durable (the
*after-append* queue); all else may leave at once (RAFT_SEMANTICS section 1). A member's own vote
and acknowledgement go through the after-append queue too, addressed to itself.
"""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    InstallSnapshot,
    TimeoutNow,
)
from raftkv.core.progress import REPLICATE, SNAPSHOT, Peer


def send_append(draft: Draft, peer: Peer, *, allow_empty: bool) -> bool:
    """Queue an append, or a snapshot where the log is compacted; False if nothing was sent."""
    if peer.flow_paused or peer.state is SNAPSHOT:
        return False
    log = draft.log
    prev = peer.next - 1
    if not log.has_term(prev):
        return _send_snapshot(draft, peer)
    config = draft.config
    replicating = peer.state is REPLICATE
    if replicating and peer.window_is_full(config.inflight_max, config.inflight_bytes_max):
        entries = ()
    else:
        entries = log.page(peer.next, log.last_index + 1, config.append_bytes_max)
    if not entries and not allow_empty:
        return False
    draft.messages.append(
        AppendEntries(
            config.id, peer.id, draft.term, prev, log.term_at(prev), draft.commit, entries
        )
    )
    peer.sent_commit = draft.commit
    if replicating:
        if entries:
            peer.sent(entries[-1].index, sum([len(entry.data) for entry in entries]))
        # A full window makes this append a probe: nothing more before an answer or a heartbeat's.
        peer.flow_paused = peer.window_is_full(config.inflight_max, config.inflight_bytes_max)
    elif entries:
        peer.flow_paused = True
    return True


def _send_snapshot(draft: Draft, peer: Peer) -> bool:
    if not peer.active:
        return False  # a dead peer would hold the image for nothing
    snapshot = draft.snapshot
    if (
        snapshot is None
        or snapshot.index < max(draft.log.base_index, 1)
        or (draft.config.snapshots_for_members and peer.id not in snapshot.membership.members())
    ):
        draft.aside.snapshot_wanted = True
        return False
    peer.become_snapshot(snapshot.index)
    draft.messages.append(InstallSnapshot(draft.config.id, peer.id, draft.term, snapshot))
    return True


def broadcast_append(draft: Draft) -> None:
    """Send every other member what it lacks, or an empty append that carries the commit index."""
    own = draft.config.id
    for progress in draft.progress:
        if progress.id != own:
            send_append(draft, draft.thaw(progress), allow_empty=True)


def broadcast_heartbeat(draft: Draft) -> None:
    """Tell every other member that the leader lives, and up to where it may commit."""
    own = draft.config.id
    queue = draft.lead_now.reads.queue
    position = queue[-1][0] if queue else 0
    for progress in draft.progress:
        if progress.id == own:
            continue
        # Never beyond what the peer is known to have: a heartbeat has no log position to check.
        commit = min(
            draft.peers[progress.id].match if progress.id in draft.peers else progress.match,
            draft.commit,
        )
        draft.messages.append(
            Heartbeat(own, progress.id, draft.term, commit, position, draft.lead_ticks)
        )
        if commit != progress.sent_commit or progress.id in draft.peers:
            draft.thaw(progress).sent_commit = commit


def send_append_response(
    draft: Draft,
    to: int,
    index: int,
    *,
    rejected: bool = False,
    hint: int = 0,
    hint_term: int = 0,
) -> None:
    """Queue an answer to an append, behind the write it vouches for."""
    draft.messages_after_append.append(
        AppendResponse(
            draft.config.id,
            to,
            draft.term,
            index,
            rejected,
            hint,
            hint_term,
            draft.recovery is not None,
        )
    )


def send_timeout_now(draft: Draft, target: int) -> None:
    """Tell the transfer's target to campaign. From now on no lease is safe in this term."""
    draft.messages.append(TimeoutNow(draft.config.id, target, draft.term))
    if draft.config.transfer_ends_lease:
        draft.lead.lease_given_up = True
