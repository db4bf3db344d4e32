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
    "change proposed": 350,
    "committed": 12_000,
    "compacted": 1500,
    "crash": 3500,
    "elected": 500,
    "election lost": 1500,
    "joint entered": 120,
    "joint left": 120,
    "leader stepped down": 180,
    "left dead": 100,
    "membership changed": 350,
    "message lost": 15_000,
    "message refused": 200,
    "partition": 2000,
    "pause": 700,
    "read answered": 1200,
    "read dropped": 1500,
    "recovered": 80,
    "refused: CHANGE_INVALID": 8,
    "refused: CHANGE_PENDING": 100,
    "refused: CHANGE_WHILE_JOINT": 5,
    "refused: FORWARDING_DISABLED": 300,
    "refused: NOT_A_MEMBER": 30,
    "refused: NO_LEADER": 5000,
    "refused: TOO_MUCH_UNCOMMITTED": 400,
    "refused: TRANSFERRING": 100,
    "restart": 3000,
    "snapshot arrived": 200,
    "snapshot installed": 150,
    "spawned": 200,
    "transfer": 700,
    "truncated": 60,
    "write lost": 100,
}
"""The least each mark must count in a million steps; a third of what swarm worlds give."""

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
