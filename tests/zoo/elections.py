"""Votes and terms: who was elected and should not have been."""

from __future__ import annotations

from raftkv.core import Heartbeat, Role
from raftkv.testing.options import Options
from tests.zoo.stage import PLAIN, Scenario, Stage, slip

THREE = Options(settings=PLAIN)
FIVE = Options(voters=5, settings={**PLAIN, "append_bytes_max": 0})  # entries travel alone


def an_old_entry_on_a_majority(stage: Stage) -> None:
    """Figure 8 of the paper: it may be overwritten as long as no entry of the term is committed."""
    a, b, c, d, e = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.cut_off(c, d, e)
    stage.write(a)
    stage.settle()
    old = a.state.log.last_index
    stage.heal()
    stage.campaign(e, c, d)
    assert e.state.role is Role.LEADER
    stage.lose()
    stage.finish(e, len(e.disk.queue))
    stage.die(a)
    stage.campaign(a)
    stage.lose()
    stage.campaign(a, b, c)
    assert a.state.role is Role.LEADER
    stage.finish(a, len(a.disk.queue))
    stage.cut_off(d, e)
    stage.hold((a, c))
    stage.settle()
    while c.state.log.last_index < old or c.state.log.term_at(old) != a.state.log.term_at(old):
        stage.pass_on(a.id, c.id)
        stage.settle()
    stage.lose()
    stage.heal()
    stage.campaign(e, c, d)
    stage.campaign(e, c, d)
    stage.settle()
    stage.recover()


def a_vote_and_a_crash(stage: Stage) -> None:
    """Who voted crashes, sooner or later, and is asked by another candidate of the term."""
    a, b, c = stage.cast()
    stage.wait()
    stage.campaign(a)
    stage.hand(stage.take(a, b))
    stage.finish(b, stage.choices.choose(3))
    stage.die(b, stage.choices.choose(3))
    stage.lose()
    stage.campaign(c, b)
    stage.campaign(a, b)
    stage.recover()


def a_vote_of_an_older_term(stage: Stage) -> None:
    """A vote is under way while its candidate begins again."""
    a, b, c = stage.cast()
    stage.campaign(a)
    stage.hand(stage.take(a, b))
    stage.finish(b, len(b.disk.queue))
    late = stage.take(b, a)
    stage.lose()
    stage.campaign(a)
    stage.lose()
    stage.campaign(c)
    stage.campaign(c, b)  # the first of c's terms is over already
    stage.hand(late)
    stage.settle()
    stage.recover()


def a_log_that_is_behind(stage: Stage) -> None:
    """Failover to a member that was away: what was acknowledged meanwhile must not be lost."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.cut_off(c)
    stage.chatter(a, least=1)
    stage.heal()
    stage.cut_off(a)
    for _ in range(1 + stage.choices.choose(3)):
        stage.campaign(c, b)
    stage.settle()
    stage.recover()


def a_heartbeat_of_a_higher_term(stage: Stage) -> None:
    """A leader hears of its successor by a heartbeat, with proposals in its hands."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.campaign(c, b)
    assert c.state.role is Role.LEADER
    stage.finish(c, len(c.disk.queue))
    stage.lose()
    stage.elapse(1, settle=False)
    beats = [one for one in stage.take(c, a) if isinstance(one, Heartbeat)]
    stage.lose()
    stage.hand(beats)
    for _ in range(1 + stage.choices.choose(2)):
        stage.write(a)
        stage.write(c)
    stage.settle()
    stage.recover()


def a_leader_steps_down(stage: Stage) -> None:
    """What a quorum has of a leader's term stays when it follows another."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a, least=1)
    stage.cut_off(c)
    stage.chatter(a)
    stage.heal()
    stage.campaign(c, a) if stage.choices.choose(2) else stage.campaign(b, a)
    stage.settle()
    stage.recover()


TRANSITIONS = "raftkv/core/transitions.py"

SCENARIOS = (
    Scenario("an old entry on a majority", an_old_entry_on_a_majority, FIVE, 7),
    Scenario("a vote and a crash", a_vote_and_a_crash, THREE, 3),
    Scenario("a vote stored after its term", a_vote_and_a_crash, THREE, 4),
    Scenario("a vote of an older term", a_vote_of_an_older_term, THREE, 5),
    Scenario("failover to a log that is behind", a_log_that_is_behind, THREE, 1),
    Scenario(
        "a heartbeat of a higher term",
        a_heartbeat_of_a_higher_term,
        THREE,
        slip(
            "raftkv/core/step.py",
            "        case AppendEntries() | Heartbeat() | InstallSnapshot():\n"
            "            become_follower(draft, term, message.sender)\n",
            "        case Heartbeat() if draft.role is _LEADER:\n"
            "            draft.term = term\n"
            "            return False\n"
            "        case AppendEntries() | Heartbeat() | InstallSnapshot():\n"
            "            become_follower(draft, term, message.sender)\n",
        ),
    ),
    Scenario(
        "a leader steps down and keeps its log",
        a_leader_steps_down,
        THREE,
        slip(
            TRANSITIONS,
            "    reset(draft, term)\n    draft.role = Role.FOLLOWER\n",
            "    own = [one.index for one in draft.log.entries() if one.term == draft.term]\n"
            "    if draft.role is Role.LEADER and own:\n"
            "        draft.log = draft.log.truncate(own[0])\n"
            "    reset(draft, term)\n"
            "    draft.role = Role.FOLLOWER\n",
        ),
    ),
)
