"""Snapshots, and disks that lost what they had."""

from __future__ import annotations

from raftkv.core import InstallSnapshot, SnapshotStatus, Unreachable
from raftkv.testing.damage import Damage
from raftkv.testing.member import Member
from raftkv.testing.options import Options
from tests.zoo.stage import PLAIN, SAFE, Scenario, Stage, slip, wrong

THREE = Options(settings=PLAIN, retention=0)
SAFE_THREE = Options(settings=SAFE)


def compacted(stage: Stage, leader: Member) -> None:
    """The leader takes an image and forgets its log up to there."""
    stage.take_image(leader)
    stage.finish(leader, len(leader.disk.queue))


def sent_snapshot(stage: Stage, leader: Member, to: Member) -> None:
    """Let time pass until a snapshot is under way to a member."""
    for _ in range(20):
        stage.elapse(1, settle=False)
        while not stage.snapshots():
            if not stage.nudge():
                break
        if stage.snapshots():
            return
    raise AssertionError(f"n{leader.id} sends n{to.id} no snapshot")


def two_snapshots_in_a_row(stage: Stage) -> None:
    """The second comes while the first is being written."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    compacted(stage, a)
    stage.heal()
    for _ in range(2):
        sent_snapshot(stage, a, c)
        stage.slow.add(c.id)
        stage.settle()
        stage.feed(a, SnapshotStatus(c.id, delivered=False))
        stage.work(a)
        stage.chatter(a, least=1)
        compacted(stage, a)
    for _ in range(stage.choices.choose(4)):
        stage.finish(c, 1)
    if stage.choices.choose(2):
        stage.die(c, stage.choices.choose(2))
    stage.recover()
    if c.machine.value != b.machine.value:
        wrong(f"the machines of n{b.id} and n{c.id} differ")


def a_snapshot_of_what_is_there(stage: Stage) -> None:
    """A snapshot whose entry is in the log leaves alone what follows it, which was acknowledged."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    for _ in range(2 + stage.choices.choose(2)):
        stage.write(a)
    stage.hand(stage.take(a, b)[:1])
    stage.hand(stage.take(a, c))
    for one in (a, b, c):
        stage.finish(one, len(one.disk.queue))
    stage.hold((c, a), (a, c))
    stage.hand(stage.take(b, a))
    compacted(stage, a)
    stage.take(a, c)  # what would tell it the commit is lost
    stage.feed(a, Unreachable(c.id))
    stage.work(a)
    stage.write(a)
    stage.hand(stage.take(a, c))
    stage.finish(c, len(c.disk.queue))
    stage.hand(stage.take(c, a))  # with its leader, it has everything on a majority
    stage.recover()


def a_late_snapshot(stage: Stage) -> None:
    """A snapshot arrives again, when more is committed than it has."""
    a, _, c = stage.cast()
    stage.lead(a)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    compacted(stage, a)
    stage.heal()
    sent_snapshot(stage, a, c)
    late = [one for one in stage.wire if isinstance(one, InstallSnapshot)]
    stage.elapse(1)
    stage.chatter(a, least=1)
    stage.elapse(1)
    stage.hand(late)
    stage.settle()
    stage.recover()


def a_disk_that_was_wiped(stage: Stage) -> None:
    """Its member comes back and becomes whole; until then it has no vote."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a, least=1)
    Damage(stage, stage.choices).wipe()
    stage.settle()
    wiped = next((one for one in (a, b, c) if one.recovers), None)
    if wiped is None:
        return
    others = [one for one in (a, b, c) if one is not wiped]
    for one in others:
        stage.campaign(one, wiped)
    stage.settle()
    stage.recover()
    for _ in range(100):
        if not wiped.recovers:
            return
        stage.elapse(1)
    wrong(f"n{wiped.id} does not become whole")


SCENARIOS = (
    Scenario(
        "two snapshots in a row",
        two_snapshots_in_a_row,
        THREE,
        slip(
            "raftkv/core/durability.py",
            "    if draft.incoming is not None and draft.incoming.index == snapshot.index:\n",
            "    if draft.incoming is not None:\n",
        ),
    ),
    Scenario("a snapshot of what is there", a_snapshot_of_what_is_there, THREE, 25),
    Scenario("a late snapshot", a_late_snapshot, THREE, 45),
    Scenario("a disk that was wiped", a_disk_that_was_wiped, SAFE_THREE, 47),
    Scenario(
        "a disk that was wiped and never comes back",
        a_disk_that_was_wiped,
        SAFE_THREE,
        slip(
            "raftkv/core/recovering.py",
            "    if _has_what_was_promised(draft, recovery):\n"
            "        _commit_all_changes_but_the_last(draft)\n"
            "    elif not _has_what_is_committed(draft, recovery):\n",
            "    if recovery.kind is Recovering.ALL:\n",
        ),
    ),
)
