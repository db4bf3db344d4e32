"""What a refused proposal means to the caller."""

from __future__ import annotations

from typing import Final, assert_never

from raftkv.core import Refusal
from raftkv.errors import (
    Error,
    MembershipError,
    NoLeaderError,
    NotLeaderError,
    ProposalDroppedError,
    TooManyRequestsError,
)

_CHANGES: Final = {
    Refusal.CHANGE_PENDING: ("pending", "another change is under way; try again when it is done"),
    Refusal.CHANGE_WHILE_JOINT: (
        "pending",
        "members are being exchanged; try again when that is done",
    ),
    Refusal.NOT_JOINT: ("invalid", "no exchange of members is under way"),
    Refusal.CHANGE_INVALID: (
        "invalid",
        "no voter would remain, or the members do not allow it; look at the list of members",
    ),
    Refusal.REMOVED_FOR_GOOD: (
        "removed",
        "that member was removed, and an id never returns; add it anew, with an empty directory",
    ),
    Refusal.NOT_A_LEARNER: ("not-a-learner", "only a learner can be made a voter; add it first"),
    Refusal.LEARNER_BEHIND: (
        "behind",
        "the learner is not in sync with the leader; start it, and wait until its lag is small",
    ),
    Refusal.UNHEALTHY: (
        "unhealthy",
        "too few of the voters that would remain answer; start or reconnect them, or remove those"
        " that are gone for good first",
    ),
    Refusal.RECORD_TAKEN: (
        "taken",
        "another member has that name or address; look at the list of members, and remove it first"
        " if the new one is to have them",
    ),
}


def is_passing(reason: Refusal) -> bool:
    """Whether the same proposal may well be taken in a moment."""
    return reason in (Refusal.NO_LEADER, Refusal.TRANSFERRING, Refusal.NOT_A_MEMBER)


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
            | Refusal.REMOVED_FOR_GOOD
            | Refusal.NOT_A_LEARNER
            | Refusal.LEARNER_BEHIND
            | Refusal.UNHEALTHY
            | Refusal.RECORD_TAKEN
        ):
            name, sentence = _CHANGES[reason]
            return MembershipError(f"the membership change was refused: {sentence}", name)
        case _:
            assert_never(reason)
