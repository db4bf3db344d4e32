"""A committed membership change takes effect."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.leader import is_leaving, maybe_commit
from raftkv.core.membership import apply_change
from raftkv.core.reads import answer_confirmed
from raftkv.core.sending import broadcast_append, send_append
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
    # Nobody confirms a read twice, and the new quorum may have done so already.
    answer_confirmed(draft)
    own = draft.config.id
    leaving = is_leaving(draft)
    if not membership.is_voter(own) and not leaving:
        if draft.config.step_down_on_removal:
            become_follower(draft, draft.term, 0)
        return
    if maybe_commit(draft) or leaving:
        # A leader that leaves tells everybody the commit index; it goes when one has answered that.
        broadcast_append(draft)
    else:
        for one in progress:
            if one.id != own:
                send_append(draft, draft.thaw(one), allow_empty=False)
    transferee = draft.lead_now.transferee
    if transferee and not membership.is_voter(transferee):
        draft.lead.transferee = 0
