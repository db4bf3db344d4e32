"""How much log a member keeps, and who was a member at its beginning."""

from __future__ import annotations

from raftkv.core import Log, Membership, ProgressState, Role, State
from raftkv.node.settings import Settings

_SLACK = 1 + 1 / 16  # not entry by entry: a sixteenth of the retention at a time

History = list[tuple[int, Membership]]
"""(index, membership from there on), from the compaction point to what is applied."""


def is_long(log: Log, applied: int, settings: Settings, factor: float = 1.0) -> bool:
    """Whether the log holds more than the retention, or so many times as much."""
    return (
        applied - log.base_index > settings.retention_entries * factor * _SLACK
        or log.size_bytes > settings.retention_bytes * factor * _SLACK
    )


def excess(log: Log, applied: int, settings: Settings, needed: int | None = None) -> int:
    """The last applied entry to forget so that the rest fits the retention; 0 if none is due.

    What follows ``needed`` is kept if the log is not longer than the stretched retention: a peer
    that catches up asks for it soon, and would need another snapshot without it.
    """
    last = applied
    if needed is not None and not is_long(
        log, applied, settings, settings.retention_catch_up_factor
    ):
        last = min(applied, needed)
    to = 0
    if applied - log.base_index > settings.retention_entries * _SLACK:
        to = min(applied - settings.retention_entries, last)
    if log.size_bytes > settings.retention_bytes * _SLACK:
        size, index = log.size_bytes, log.base_index
        while size > settings.retention_bytes and index < last:
            index += 1
            size -= log.entry(index).size_bytes
        to = max(to, index)
    return to if to > log.base_index else 0


def needed(state: State, oldest_sent: int | None) -> int | None:
    """The entry after which a peer that catches up will need all; None if nobody does.

    Peers that were not heard of lately are not waited for. ``oldest_sent`` is the oldest snapshot
    on its way.
    """
    found = [] if oldest_sent is None else [oldest_sent]
    if state.role is Role.LEADER:
        for peer in state.progress:
            if peer.state is ProgressState.SNAPSHOT:
                found.append(peer.pending_snapshot)
            elif peer.active and peer.id != state.config.id:
                found.append(peer.match)
    return min(found, default=None)


def membership_at(history: History, index: int) -> Membership:
    """Who was a member when the entry at ``index`` had been applied."""
    found = history[0][1]
    for since, membership in history:
        if since <= index:
            found = membership
    return found


def forget_memberships(history: History, index: int) -> None:
    """Keep what was in force at ``index`` and later."""
    while len(history) > 1 and history[1][0] <= index:
        del history[0]
