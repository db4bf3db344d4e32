"""Reads that are answered by somebody who no longer knows."""

from __future__ import annotations

from raftkv.core import Heartbeat, HeartbeatResponse, Role, Tick
from raftkv.testing.options import Options
from tests.zoo.stage import PLAIN, SAFE, Scenario, Stage

THREE = Options(settings=PLAIN)
LEASED = Options(settings={**SAFE, "election_ticks": 10}, lease_reads=True)


def a_read_right_after_an_election(stage: Stage) -> None:
    """A new leader does not know yet what its predecessor committed."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.cut_off(c)
    stage.hold((a, b))
    stage.write(a)
    stage.pass_on(a.id, b.id)
    stage.settle()  # the leader alone learns that it is committed
    stage.heal()
    stage.lose()
    stage.cut_off(a)
    stage.slow |= {b.id, c.id}
    stage.campaign(b, c)
    assert b.state.role is Role.LEADER
    for _ in range(1 + stage.choices.choose(3)):
        stage.read(b)
        stage.work(b)
        stage.settle()
    stage.recover()


def a_read_confirmed_by_an_earlier_round(stage: Stage) -> None:
    """Answers that were under way when the read began say nothing about it."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a, least=1)
    stage.hold((b, a), (c, a))
    for _ in range(1 + stage.choices.choose(2)):
        stage.read(a)
        stage.work(a)
    stage.settle()
    late = [
        one for one in (*stage.take(b, a), *stage.take(c, a)) if isinstance(one, HeartbeatResponse)
    ]
    stage.lose()
    stage.cut_off(a)
    stage.campaign(c, b)
    stage.settle()
    stage.chatter(c, least=1)
    stage.read(a)
    stage.work(a)
    stage.cut.clear()
    stage.hand(late)
    stage.lose(Heartbeat)
    stage.recover()


def a_read_after_a_pause(stage: Stage) -> None:
    """A leader stands still while another is elected; its lease must not outlive that."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a, least=1)
    stage.elapse(1 + stage.choices.choose(5))
    stage.cut_off(a)
    for _ in range(60):  # the others' time passes
        for one in (b, c):
            stage.feed(one, Tick())
            stage.work(one)
        stage.settle()
        if Role.LEADER in (b.state.role, c.state.role):
            break
    leader = b if b.state.role is Role.LEADER else c
    stage.chatter(leader, least=1)
    for _ in range(8 + stage.choices.choose(6)):  # what its clock says is due, before all else
        stage.feed(a, Tick())
        stage.work(a)
    stage.read(a, lease=True)
    stage.work(a)
    stage.recover()


SCENARIOS = (
    Scenario("a read right after an election", a_read_right_after_an_election, THREE, 16),
    Scenario(
        "a read confirmed by an earlier round", a_read_confirmed_by_an_earlier_round, THREE, 17
    ),
    Scenario("a read after a pause", a_read_after_a_pause, LEASED, 18),
)
