"""A leader: takes proposals, replicates, counts acknowledgements, keeps its quorum."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.messages import (
    AppendResponse,
    HeartbeatResponse,
    TransferLeadership,
)
from raftkv.core.progress import PROBE, REPLICATE, SNAPSHOT, Peer
from raftkv.core.quorum import Vote, committed_jointly, vote_jointly
from raftkv.core.reads import on_read_ack, release_waiting_reads
from raftkv.core.sending import (
    broadcast_append,
    broadcast_heartbeat,
    send_append,
    send_append_response,
    send_timeout_now,
)
from raftkv.core.transitions import NOTHING, adopt_log, become_follower
from raftkv.core.types import Payload, Role


def append_payloads(draft: Draft, payloads: tuple[Payload, ...]) -> None:
    """Put payloads at the end of the own log and acknowledge them to ourselves, once stored."""
    log, placed = draft.log.propose(draft.term, payloads)
    adopt_log(draft, log)
    draft.lead.uncommitted_bytes += sum([len(entry.data) for entry in placed])
    send_append_response(draft, draft.config.id, log.last_index)


def maybe_commit(draft: Draft) -> bool:
    """Commit what a quorum has stored, but only an entry of our own term (§5.4.2, figure 8).

    Entries of earlier terms follow along with it; counting them alone could lose them again.
    """
    matches = {one.id: one.match for one in draft.progress}
    for peer in draft.peers.values():
        matches[peer.id] = peer.match
    index = committed_jointly(draft.membership.voters, draft.membership.outgoing, matches)
    if index <= draft.commit or not draft.log.matches(index, draft.term):
        return False
    draft.commit = index
    return True


def on_append_response(draft: Draft, message: AppendResponse) -> None:
    """A member, perhaps ourselves, tells how far its log agrees with ours."""
    peer = draft.peer(message.sender)
    if peer is None:
        return
    peer.active = True
    if message.recovering:
        if not peer.recovering:
            distrust(draft, peer)
    elif (
        peer.recovering
        and not message.rejected
        and peer.unproven < message.index <= draft.log.last_index
    ):
        # Sent after we knew of the loss, for it answers what we sent since: it is whole again.
        peer.recovering = False
    if message.rejected:
        hint = message.hint
        if message.hint_term > 0:
            # Skip all of our entries whose term the follower cannot have there.
            hint, _ = draft.log.last_at_most(hint, message.hint_term)
        if peer.reject(message.index, hint):
            if peer.state is REPLICATE:
                peer.become_probe()
            send_append(draft, peer, allow_empty=True)
    else:
        _on_accepted(draft, peer, message.index)
        maybe_leave(draft, peer)


def on_recovering(draft: Draft, node: int) -> None:
    """A recovering member asks how far its log must reach.

    What it acknowledged until now may be from before its loss, even if we knew of another one.
    """
    peer = draft.peer(node)
    if peer is not None and node != draft.config.id:
        distrust(draft, peer)


def distrust(draft: Draft, peer: Peer) -> None:
    """The peer lost what it acknowledged: count none of it until it is seen to be whole.

    Its acknowledgements of entries that it was sent before, even unflagged ones, may be from before
    its loss and still under way. So there has to be an entry beyond them.
    """
    peer.distrust(draft.log.last_index)
    if draft.lead_now.transferee == peer.id:
        draft.lead.transferee = 0
    if draft.tracks(draft.config.id):
        append_payloads(draft, NOTHING)
        broadcast_append(draft)


def _on_unproven(draft: Draft, peer: Peer, index: int) -> None:
    """A recovering peer has entries up to ``index``, or had: send what follows, count nothing."""
    if peer.state is SNAPSHOT:
        if index < peer.pending_snapshot:
            return
        peer.become_probe()
    elif index < peer.next:
        return  # it answers no more than what was sent before: that had its answer, or was lost
    peer.next = index + 1
    peer.flow_paused = False
    if peer.next <= draft.log.last_index:
        send_append(draft, peer, allow_empty=False)


def _on_accepted(draft: Draft, peer: Peer, index: int) -> None:
    if index > draft.log.last_index:
        return  # nobody can have what we never sent
    if peer.recovering:
        _on_unproven(draft, peer, index)
        return
    probing = peer.state is PROBE
    # An index that is no news answers our probe only if it is where the probe began: a follower
    # also answers an append of an earlier term, with none, and that must not send us back to 0.
    if not peer.acknowledge(index) and not (probing and peer.match == index == peer.next - 1):
        return
    if probing:
        peer.become_replicate()
    elif peer.state is REPLICATE:
        peer.free_window(index)
    elif peer.match + 1 >= draft.log.first_index:
        # Our log continues where it stands now, whether or not the pending snapshot arrived.
        peer.become_replicate()
    own = peer.id == draft.config.id
    # What is committed already cannot move the commit index, whoever has it too.
    if peer.match > draft.commit and maybe_commit(draft):
        release_waiting_reads(draft)
        broadcast_append(draft)
    elif not own and peer.sent_commit < draft.commit and peer.sent_commit < peer.next - 1:
        send_append(draft, peer, allow_empty=True)
    if own:
        return
    while peer.next <= draft.log.last_index and send_append(draft, peer, allow_empty=False):
        pass
    if peer.id == draft.lead_now.transferee and peer.match == draft.log.last_index:
        send_timeout_now(draft, peer.id)


def on_heartbeat_response(draft: Draft, message: HeartbeatResponse) -> None:
    """A member answered: it lives, and may have confirmed reads."""
    peer = draft.peer(message.sender)
    if peer is None:
        return
    peer.active = True
    peer.flow_paused = False
    if message.recovering:
        if not peer.recovering:
            distrust(draft, peer)
    else:
        peer.acked_tick = max(peer.acked_tick, min(message.sent_tick, draft.lead_ticks))
    if peer.match < draft.log.last_index or peer.state is PROBE:
        send_append(draft, peer, allow_empty=True)
    if message.read_position and not message.recovering:
        on_read_ack(draft, message.sender, message.read_position)
    maybe_leave(draft, peer)


def is_leaving(draft: Draft) -> bool:
    """Whether we lead a membership that we left, and only until we have handed it over."""
    config = draft.config
    if not (config.hand_over_first and config.step_down_on_removal):
        return False
    return not draft.membership.is_voter(config.id)


def maybe_leave(draft: Draft, peer: Peer) -> None:
    """A leader that left the membership goes once ``peer``, a voter, can take over.

    Going at once could stop the cluster for good. Who does not know yet that the change is
    committed needs our vote in the old configuration, and our log denies it as long as it is the
    longer one. So we go on sending until one has all of it, and answered what told it the commit.
    """
    if draft.config.id in draft.membership.voters:
        return  # nearly always
    if draft.role is not Role.LEADER or not is_leaving(draft):
        return
    if peer.match == draft.log.last_index and draft.membership.is_voter(peer.id):
        send_timeout_now(draft, peer.id)
        become_follower(draft, draft.term, 0)


def on_tick(draft: Draft) -> None:
    """Time at a leader: quorum checks each election timeout, heartbeats each heartbeat timeout."""
    config = draft.config
    draft.lead_ticks += 1
    draft.heartbeat_elapsed += 1
    draft.election_elapsed += 1
    if config.snapshot_timeout_ticks:
        _time_out_snapshots(draft)
    if draft.election_elapsed >= config.election_ticks:
        draft.election_elapsed = 0
        if config.check_quorum:
            check_quorum(draft)
        if draft.role is not Role.LEADER:
            return
        if draft.lead_now.transferee:
            draft.lead.transferee = 0  # the target had a whole timeout
    if draft.heartbeat_elapsed >= config.heartbeat_ticks:
        draft.heartbeat_elapsed = 0
        broadcast_heartbeat(draft)


def _time_out_snapshots(draft: Draft) -> None:
    for progress in draft.progress:
        if progress.state is not SNAPSHOT:
            continue
        peer = draft.thaw(progress)
        peer.snapshot_ticks += 1
        if peer.snapshot_ticks >= draft.config.snapshot_timeout_ticks:
            on_snapshot_status(draft, peer.id, delivered=False)


def check_quorum(draft: Draft) -> None:
    """Step down if no quorum was heard from since the last check (thesis 6.2)."""
    own = draft.config.id
    heard: dict[int, bool] = {}
    for progress in draft.frozen_progress():
        heard[progress.id] = progress.id == own or (progress.active and not progress.recovering)
    membership = draft.membership
    kept = vote_jointly(membership.voters, membership.outgoing, heard) is Vote.WON
    if not kept:
        become_follower(draft, draft.term, 0)
        return  # nobody is active any more
    for progress in draft.progress:
        if progress.id != own:
            draft.thaw(progress).active = False


def on_snapshot_status(draft: Draft, node: int, *, delivered: bool) -> None:
    """The sending of a snapshot ended: probe after it, or after what is known to match."""
    peer = draft.peer(node)
    if peer is None or peer.state is not SNAPSHOT:
        return
    if not delivered:
        peer.pending_snapshot = 0
    peer.become_probe()
    # If it arrived its answer comes soon; if not, let a heartbeat pass before the next try.
    peer.flow_paused = True


def on_unreachable(draft: Draft, node: int) -> None:
    """Appends under way to the peer are probably lost."""
    peer = draft.peer(node)
    if peer is not None and peer.state is REPLICATE:
        peer.become_probe()


def on_transfer(draft: Draft, message: TransferLeadership) -> None:
    """Hand leadership to a voter, as soon as its log is complete (thesis 3.10)."""
    target = message.target
    peer = draft.peer(target)
    membership = draft.membership
    if peer is None or peer.recovering or not membership.is_voter(target):
        return
    if draft.lead_now.transferee == target:
        return
    draft.lead.transferee = 0
    if target == draft.config.id:
        return
    draft.election_elapsed = 0  # it has one election timeout from now
    draft.lead.transferee = target
    if peer.match == draft.log.last_index:
        send_timeout_now(draft, target)
    else:
        send_append(draft, peer, allow_empty=True)
