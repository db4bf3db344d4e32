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
    "acknowledgement overtaken": 1200,
    "append below the commit": 1700,
    "append for compacted entries": 48,
    "append of an older term": 140,
    "append of what is there": 1900,
    "append refused": 2100,
    "campaign": 3000,
    "campaign by order": 30,
    "candidate met the leader": 38,
    "change proposed": 200,
    "commit held to what the append vouches for": 230,
    "commit learned from a refusal": 18,
    "committed": 11_000,
    "committed by a heartbeat": 520,
    "committed in a joint configuration": 240,
    "compacted": 1500,
    "conflicting suffix cut, and shorter then": 11,
    "crash": 2500,
    "disk wiped": 2,
    "elected": 500,
    "elected again": 300,
    "election lost": 1100,
    "entries of older terms committed along": 120,
    "fault during a change": 250,
    "forwarded proposal arrived": 1600,
    "forwarded proposal refused": 350,
    "heartbeat of an older term": 130,
    "heir hastened": 200,
    "joint entered": 70,
    "joint leader not in the new set": 6,
    "joint left": 70,
    "late refusal ignored": 730,
    "leader forgotten": 11,
    "leader left after its removal": 5,
    "leader removed": 2,
    "leader stepped down": 100,
    "leader stepped down without its quorum": 32,
    "left dead": 100,
    "lost: ALL": 140,
    "lost: LOG": 60,
    "membership changed": 200,
    "message lost": 9000,
    "message refused": 200,
    "no campaign, though asked for": 270,
    "old copy put back": 3,
    "partition": 1200,
    "pause": 700,
    "peer seen to recover": 18,
    "peer whole again": 20,
    "pre-vote given again": 6,
    "pre-vote held back for a leader": 730,
    "pre-vote lost": 240,
    "pre-vote refused: an older term": 18,
    "pre-vote refused: given to another": 220,
    "pre-vote refused: the log is behind": 610,
    "probe stepped back": 1000,
    "promise to a lease ended": 1900,
    "proposal forwarded": 2900,
    "read answered": 1000,
    "read dropped": 1500,
    "read forwarded": 580,
    "read waits for the first commit": 110,
    "reads confirmed together": 6,
    "reads released by the first commit": 55,
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
    "replication broken off": 370,
    "restart": 2500,
    "safe halt": 5,
    "snapshot arrived": 300,
    "snapshot delivered": 180,
    "snapshot in place of uncommitted entries": 14,
    "snapshot installed": 250,
    "snapshot installed again": 100,
    "snapshot matched, log kept": 3,
    "snapshot overtaken by appends": 16,
    "snapshot refused as stale": 18,
    "snapshot taken over": 220,
    "snapshots of two leaders": 20,
    "spawned": 150,
    "stepped down amid a transfer": 10,
    "stepped down in a joint configuration": 6,
    "stepped down with proposals in flight": 63,
    "stepped down with reads in flight": 22,
    "transfer": 700,
    "transfer in place of another": 9,
    "transfer passed on": 110,
    "transfer refused": 81,
    "transfer timed out": 9,
    "transfer to who caught up": 7,
    "transfer without a leader": 1000,
    "truncated": 40,
    "vote given again": 4,
    "vote given over a leader, by order": 26,
    "vote held back for a leader": 89,
    "vote lost": 35,
    "vote of an older term ignored": 62,
    "vote refused while recovering": 600,
    "vote refused: given to another": 180,
    "vote refused: the log is behind": 82,
    "whole again: ALL": 60,
    "whole again: LOG": 40,
    "write lost": 100,
}
"""The least each mark must count in a million steps.

About a third of what swarm worlds give; half of what the poorest of many draws of seeds gave where
a mark comes in clusters. Marks that a draw may lack altogether have no floor, and are only told.
"""

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
