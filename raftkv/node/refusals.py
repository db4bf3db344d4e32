"""What a refused proposal means to the caller."""

from __future__ import annotations

from typing import assert_never

from raftkv.core import Refusal
from raftkv.errors import (
    Error,
    MembershipError,
    NoLeaderError,
    NotLeaderError,
    ProposalDroppedError,
    TooManyRequestsError,
)


def is_passing(reason: Refusal) -> bool:
    """Whether the same proposal may well be taken in a moment."""
    return reason is Refusal.NO_LEADER or reason is Refusal.TRANSFERRING


def error_of(reason: Refusal, leader: int) -> Error:
    """The typed error of a refusal; in every case nothing happened."""
    match reason:
        case Refusal.NO_LEADER:
            return NoLeaderError("no leader took the command, an election may be under way: retry")
        case Refusal.FORWARDING_DISABLED:
            return NotLeaderError(
                "this member is not the leader and may not forward: ask the leader", leader
            )
        case Refusal.NOT_A_MEMBER:
            return ProposalDroppedError(
                "the leader is leaving the cluster and takes no commands any more: try again"
            )
        case Refusal.TRANSFERRING:
            return ProposalDroppedError("leadership is being handed over: try again")
        case Refusal.TOO_MUCH_UNCOMMITTED:
            return TooManyRequestsError(
                "too many bytes wait to be committed: wait for answers before proposing more"
            )
        case (
            Refusal.CHANGE_PENDING
            | Refusal.CHANGE_WHILE_JOINT
            | Refusal.NOT_JOINT
            | Refusal.CHANGE_INVALID
        ):
            name = reason.name.lower().replace("_", " ")
            return MembershipError(f"the membership change was refused: {name}", name)
        case _:
            assert_never(reason)
