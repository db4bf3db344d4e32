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

FLOORS_PER_MILLION_STEPS: Final[Mapping[str, int]] = {}
"""The least each mark must count in a million steps; less than half of what swarm worlds give."""

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
