"""Coverage marks: how often a run met what it is meant to try, and how often it must have.

A green run that never elected, truncated or compacted has shown nothing. So every rare branch that
a world can see is counted, and a campaign whose counts lie below their floors fails like one that
found a broken invariant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

Marks = Counter[str]

FLOORS_PER_MILLION_STEPS: Final[Mapping[str, int]] = {
    "accepted": 5000,
    "campaign": 3000,
    "change proposed": 200,
    "committed": 11_000,
    "compacted": 1500,
    "crash": 2500,
    "elected": 500,
    "fault during a change": 250,
    "election lost": 1100,
    "joint entered": 70,
    "joint left": 70,
    "leader stepped down": 100,
    "left dead": 100,
    "lost: ALL": 140,
    "lost: LOG": 60,
    "membership changed": 200,
    "message lost": 9000,
    "message refused": 200,
    "partition": 1200,
    "pause": 700,
    "read answered": 1000,
    "read dropped": 1500,
    "recovered": 80,
    "refused: CHANGE_INVALID": 8,
    "refused: CHANGE_PENDING": 100,
    "refused: CHANGE_WHILE_JOINT": 1,
    "refused: FORWARDING_DISABLED": 300,
    "refused: NOT_A_MEMBER": 30,
    "refused: NO_LEADER": 5000,
    "refused: TOO_MUCH_UNCOMMITTED": 400,
    "refused: TRANSFERRING": 100,
    "repaired": 10,
    "restart": 2500,
    "safe halt": 5,
    "snapshot arrived": 300,
    "snapshot installed": 250,
    "snapshot installed again": 100,
    "snapshots of two leaders": 20,
    "spawned": 150,
    "transfer": 700,
    "truncated": 40,
    "vote refused while recovering": 600,
    "whole again: ALL": 60,
    "whole again: LOG": 40,
    "write lost": 100,
}
"""The least each mark must count in a million steps; a third of what swarm worlds give."""

ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "7: log records lost": ("lost: LOG", "whole again: LOG"),
    "8: one entry lost by a majority": ("majority lost an entry",),
    "15: disk wiped": ("disk wiped", "whole again: ALL"),
    "16: old copy put back": ("old copy put back", "whole again: ALL"),
    "24: membership x partition x crash": (
        "membership changed",
        "partition",
        "crash",
        "fault during a change",
    ),
    "25: snapshot x leader change x compaction x restart x second snapshot": (
        "elected again",
        "compacted",
        "restart",
        "snapshot installed again",
    ),
}
"""Rows of the fault table: a seed counts for one if it met all of these marks."""


def rows_met(marks: Mapping[str, int]) -> list[str]:
    """The rows that a seed with these marks counts for."""
    return [row for row, wanted in ROWS.items() if all(marks.get(mark) for mark in wanted)]


STEPS_TO_JUDGE: Final = 200_000
"""Campaigns of fewer steps are too small for floors to mean anything."""


def missing(marks: Mapping[str, int], steps: int) -> list[str]:
    """The marks below their floors, in words; none if the campaign is too small to judge."""
    if steps < STEPS_TO_JUDGE:
        return []
    found: list[str] = []
    for name, floor in sorted(FLOORS_PER_MILLION_STEPS.items()):
        wanted = max(floor * steps // 1_000_000, 1)
        if marks.get(name, 0) < wanted:
            found.append(f"{name}: {marks.get(name, 0)} of at least {wanted}")
    return found
