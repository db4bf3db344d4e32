"""How much log a member keeps, and who was a member at its beginning."""

from __future__ import annotations

from raftkv.core import Log, Membership
from raftkv.node.settings import Settings

_SLACK = 1 + 1 / 16  # not entry by entry: a sixteenth of the retention at a time

History = list[tuple[int, Membership]]
"""(index, membership from there on), from the compaction point to what is applied."""


def excess(log: Log, applied: int, settings: Settings) -> int:
    """The last applied entry to forget so that the rest fits the retention; 0 if none is due."""
    to = 0
    if applied - log.base_index > settings.retention_entries * _SLACK:
        to = applied - settings.retention_entries
    if log.size_bytes > settings.retention_bytes * _SLACK:
        size, index = log.size_bytes, log.base_index
        while size > settings.retention_bytes and index < applied:
            index += 1
            size -= log.entry(index).size_bytes
        to = max(to, index)
    return to if to > log.base_index else 0


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
