"""Which membership changes are safe with the members as they are now (etcd's strict check).

A change that is valid may still stop the cluster: once it is in force its new majority must be
reachable. So a leader with ``Config.promotion_lag_max`` asks, of the configuration to come, whether
a majority of its voters is healthy, and it makes voters only of learners that have its log. The
leader's own records are exact here: it takes one change at a time, and only when all earlier ones
are applied. Who is down may always be removed: that never makes a majority harder to reach.
"""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.progress import Progress, ProgressState
from raftkv.core.quorum import majority
from raftkv.core.ready import Refusal
from raftkv.core.types import ChangeKind, Membership, MembershipChange


def unsafe_change(draft: Draft, change: MembershipChange, after: Membership) -> Refusal | None:
    """Why the change to ``after``, which is valid, may not be made now; None if it may."""
    before = draft.membership
    for one in change.changes:
        if one.kind is not ChangeKind.VOTER or not one.node or before.is_voter(one.node):
            continue
        if one.node not in before.learners:
            return Refusal.NOT_A_LEARNER
        if not _is_in_sync(draft, one.node):
            return Refusal.LEARNER_BEHIND
    if {*after.voters} == {*before.voters}:
        return None  # learners and records: no majority changes
    healthy = sum([_is_healthy(draft, node) for node in after.voters])
    return None if healthy >= majority(len(after.voters)) else Refusal.UNHEALTHY


def _is_in_sync(draft: Draft, node: int) -> bool:
    """Whether a learner streams, and is so close to the log's end that it could vote at once."""
    peer = _peer(draft, node)
    if peer is None or peer.state is not ProgressState.REPLICATE or not _is_healthy(draft, node):
        return False
    return peer.match + draft.config.promotion_lag_max >= draft.log.last_index


def _is_healthy(draft: Draft, node: int) -> bool:
    """Whether the member answered within an election timeout."""
    if node == draft.config.id:
        return True
    peer = _peer(draft, node)
    if peer is None or peer.recovering:
        return False
    # ``active`` alone will not do: each quorum check sets it back.
    answered = peer.acked_tick > 0
    return peer.active or (
        answered and draft.lead_ticks - peer.acked_tick <= draft.config.election_ticks
    )


def _peer(draft: Draft, node: int) -> Progress | None:
    return next((one for one in draft.frozen_progress() if one.id == node), None)
