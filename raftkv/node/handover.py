"""Whom a leader gives its place to when it goes, and when a slow disk makes it go.

A leader need not wait for its own disk to commit: the others' majority will do. But it applies, and
so answers, only what its own disk holds. Where that disk stands still for an election timeout while
the others have committed what it has yet to store, one of them leads better.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.core import Role, State


def heir_of(state: State, is_up: Callable[[int], bool]) -> int:
    """The connected voter that has most of the log; 0 if there is none, or we do not lead."""
    if state.role is not Role.LEADER:
        return 0
    heirs = [
        one
        for one in state.progress
        if one.id != state.id
        and state.membership.is_voter(one.id)
        and not one.recovering
        and is_up(one.id)
    ]
    return max(heirs, key=lambda one: (one.match, -one.id)).id if heirs else 0


def holds_others_up(state: State, syncing_ns: int, patience_ns: int) -> bool:
    """Whether our disk has been at one sync for too long, and others are known to be faster."""
    return (
        syncing_ns > patience_ns
        and state.role is Role.LEADER
        and not state.leading.transferee
        and state.commit >= state.unstable
    )
