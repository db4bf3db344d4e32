"""A committed membership change takes effect."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.leader import maybe_commit
from raftkv.core.membership import apply_change
from raftkv.core.sending import broadcast_append, send_append, send_timeout_now
from raftkv.core.transitions import become_follower
from raftkv.core.types import MembershipChange, Role
from raftkv.errors import InvariantError, MembershipError


def on_apply_change(draft: Draft, change: MembershipChange) -> None:
    """Switch to the configuration after ``change``; at a leader, see what follows from it."""
    try:
        membership, progress = apply_change(
            draft.membership, draft.frozen_progress(), change, draft.log.last_index
        )
    except MembershipError as error:
        raise InvariantError(f"a committed membership change cannot be applied: {error}") from error
    draft.membership = membership
    draft.set_progress(progress)
    if draft.role is not Role.LEADER:
        return
    own = draft.config.id
    if not draft.tracks(own) or own in membership.learners:
        if draft.config.step_down_on_removal:
            _step_down(draft)
        return
    if maybe_commit(draft):
        broadcast_append(draft)
    else:
        for one in progress:
            peer = draft.peer(one.id)
            if one.id != own and peer is not None:
                send_append(draft, peer, allow_empty=False)
    transferee = draft.lead_now.transferee
    if transferee and not membership.is_voter(transferee):
        draft.lead.transferee = 0


def _step_down(draft: Draft) -> None:
    """Leave the lead to the most advanced active voter, so that no timeout has to pass."""
    if draft.config.hand_over_first:
        candidates = [
            (one.match, -one.id)
            for one in draft.progress
            if one.active and draft.membership.is_voter(one.id)
        ]
        if candidates:
            send_timeout_now(draft, -max(candidates)[1])
    become_follower(draft, draft.term, 0)
