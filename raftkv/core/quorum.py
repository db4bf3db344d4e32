"""Majorities: who won, and how far is acknowledged, in one configuration or jointly in two.

Pure arithmetic over ids. An empty half has always won and acknowledged everything, so that a joint
configuration without outgoing voters behaves like the simple one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

INFINITE: Final = 2**64 - 1


class Vote(Enum):
    """The state of an election."""

    WON = "won"
    PENDING = "pending"
    LOST = "lost"


def majority(voters: int) -> int:
    """How many of so many voters decide."""
    return voters // 2 + 1


def committed(voters: tuple[int, ...], acknowledged: Mapping[int, int]) -> int:
    """The highest index that a majority acknowledged; a voter not in the mapping counts as 0."""
    if not voters:
        return INFINITE
    indexes = sorted([acknowledged.get(voter, 0) for voter in voters])
    # A majority is at or above the middle one: of four the second from below, of five the third.
    return indexes[(len(indexes) - 1) // 2]


def committed_jointly(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], acknowledged: Mapping[int, int]
) -> int:
    """The highest index that both majorities acknowledged (§6)."""
    if not outgoing:
        return committed(incoming, acknowledged)
    return min(committed(incoming, acknowledged), committed(outgoing, acknowledged))


def vote(voters: tuple[int, ...], votes: Mapping[int, bool]) -> Vote:
    """Whether the votes cast so far decide."""
    if not voters:
        return Vote.WON
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    missing = sum(1 for voter in voters if voter not in votes)
    needed = majority(len(voters))
    if granted >= needed:
        return Vote.WON
    return Vote.PENDING if granted + missing >= needed else Vote.LOST


def vote_jointly(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], votes: Mapping[int, bool]
) -> Vote:
    """Won if both halves are won, lost if either is lost."""
    results = (vote(incoming, votes), vote(outgoing, votes))
    if Vote.LOST in results:
        return Vote.LOST
    return Vote.PENDING if Vote.PENDING in results else Vote.WON
