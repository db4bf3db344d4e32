"""Entries and acknowledgements: what was taken back, or counted too soon."""

from __future__ import annotations

from raftkv.core import AppendResponse, Heartbeat, Role, Unreachable
from raftkv.testing.options import Options
from tests.zoo.stage import PLAIN, Scenario, Stage, slip, wrong

THREE = Options(settings=PLAIN)
FIVE = Options(voters=5, settings=PLAIN)
ALONE = Options(voters=1, settings=PLAIN)
ONE_BY_ONE = Options(settings={**PLAIN, "append_bytes_max": 0})


def a_slow_disk(stage: Stage) -> None:
    """Nothing is acknowledged before it is stored, however long that takes."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.slow.add(b.id)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    if stage.choices.choose(2):
        stage.die(b, stage.choices.choose(2))
    stage.recover()


def a_leader_with_a_slow_disk(stage: Stage) -> None:
    """Nor does a leader count itself before it has stored what it sent."""
    a, _, c = stage.cast()
    stage.lead(a)
    stage.slow.add(a.id)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    stage.die(a, stage.choices.choose(2))
    stage.recover()


def a_lone_member_with_a_slow_disk(stage: Stage) -> None:
    """Not even if it is the only one."""
    (a,) = stage.cast()
    stage.lead(a)
    stage.slow.add(a.id)
    stage.chatter(a, least=1)
    stage.die(a, stage.choices.choose(2))
    stage.recover()


def an_overtaken_acknowledgement(stage: Stage) -> None:
    """A delayed success says less than is known already."""
    a, b, _ = stage.cast()
    stage.lead(a)
    stage.hold((b, a))
    stage.slow.add(b.id)
    for _ in range(2 + stage.choices.choose(2)):
        stage.write(a)
        stage.settle()
        stage.finish(b, len(b.disk.queue))
    late = [one for one in stage.take(b, a) if isinstance(one, AppendResponse)]
    assert len(late) > 1
    stage.hand(reversed(late))
    stage.recover()


def a_stale_heartbeat(stage: Stage) -> None:
    """A delayed heartbeat knows of an older commit."""
    a, b, _ = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.elapse(1, settle=False)
    late = [one for one in stage.take(a, b) if isinstance(one, Heartbeat)]
    stage.chatter(a, least=2)
    stage.elapse(1)
    stage.hand(late)
    stage.recover()


def a_delayed_append(stage: Stage) -> None:
    """An append that was overtaken by the next one must not cut what that one brought."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.elapse(1)
    stage.cut_off(c)
    stage.hold((b, a))
    stage.write(a)
    late = stage.appends([one for one in stage.wire if one.to == b.id])
    stage.chatter(a, least=1)
    stage.hand(late)
    stage.settle()
    stage.held.clear()
    stage.settle()
    stage.cut_off(a)
    stage.cut.discard(c.id)
    stage.campaign(c, b)
    stage.campaign(c, b)
    stage.settle()
    stage.recover()


def an_append_over_a_write_under_way(stage: Stage) -> None:
    """A conflicting end of the log comes while the old one is being written."""
    a, b, c, d, e = stage.cast()
    stage.lead(a)
    stage.cut_off(c, d, e)
    stage.slow.add(b.id)
    stage.chatter(a, least=1)
    stage.lose()
    stage.heal()
    stage.cut_off(a, b)
    stage.lead(c)
    stage.chatter(c)
    stage.slow.add(b.id)
    stage.cut.discard(b.id)
    stage.elapse(1 + stage.choices.choose(2))
    stage.finish(b, stage.choices.choose(1 + len(b.disk.queue)))
    if stage.choices.choose(2):
        stage.die(b, stage.choices.choose(3))
    stage.recover()


def a_lost_append(stage: Stage) -> None:
    """A follower to which an append was lost is caught up by heartbeats alone."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    stage.heal()
    stage.elapse(6)
    if c.state.log.last_index < a.state.log.last_index and a.state.role is Role.LEADER:
        wrong(f"n{c.id} is stuck at {c.state.log.last_index} beside n{b.id} and n{a.id}")
    stage.recover()


def a_stale_rejection(stage: Stage) -> None:
    """A rejection that is told twice must not set ``next`` below ``match``."""
    a, b, c = stage.cast()
    stage.lead(b)
    stage.cut_off(c)
    stage.chatter(b, least=2)
    stage.heal()
    stage.lose()
    stage.campaign(a, b)
    assert a.state.role is Role.LEADER
    stage.finish(a, len(a.disk.queue))
    end = a.state.log.last_index - 1
    stage.pass_on(a.id, c.id)  # the request for its vote
    stage.finish(c, len(c.disk.queue))
    stage.take(c, a)
    stage.pass_on(a.id, c.id)
    stage.finish(c, len(c.disk.queue))
    rejections = stage.take(c, a)
    stage.hand(rejections)
    while c.state.log.last_index < end:
        stage.pass_on(a.id, c.id)
        stage.finish(c, len(c.disk.queue))
        stage.hand(stage.take(c, a))
    stage.lose()
    stage.feed(a, Unreachable(c.id))
    stage.work(a)
    stage.hand(rejections)
    stage.recover()


SCENARIOS = (
    Scenario("a slow disk", a_slow_disk, THREE, 13),
    Scenario("a leader with a slow disk", a_leader_with_a_slow_disk, THREE, 15),
    Scenario("a lone member with a slow disk", a_lone_member_with_a_slow_disk, ALONE, 15),
    Scenario("an overtaken acknowledgement", an_overtaken_acknowledgement, THREE, 12),
    Scenario("a stale heartbeat", a_stale_heartbeat, THREE, 11),
    Scenario("a delayed append", a_delayed_append, THREE, 9),
    Scenario(
        "an append over a write under way",
        an_append_over_a_write_under_way,
        FIVE,
        slip(
            "raftkv/core/follower.py",
            "        draft.handed = min(draft.handed, first)\n",
            "",
        ),
    ),
    Scenario(
        "a lost append",
        a_lost_append,
        THREE,
        slip(
            "raftkv/core/leader.py",
            "    if peer.match < draft.log.last_index or peer.state is PROBE:\n",
            "    if False:\n",
        ),
    ),
    Scenario(
        "a stale rejection",
        a_stale_rejection,
        ONE_BY_ONE,
        slip(
            "raftkv/core/progress.py",
            "        self.next = max(min(index, hint + 1), self.match + 1)\n",
            "        self.next = min(index, hint + 1)\n",
        ),
    ),
)
