"""Membership changes: majorities that do not meet, and members that nobody needs or hears."""

from __future__ import annotations

from raftkv.core import (
    Change,
    ChangeKind,
    Membership,
    MembershipChange,
    Refusal,
    Refused,
    Role,
    TimeoutNow,
)
from raftkv.testing.member import Member
from raftkv.testing.options import Options
from tests.zoo.stage import PLAIN, SAFE, Scenario, Stage, slip, wrong

# Each of two means would do: the other one is left out.
PAIR = Options(voters=2, settings={**SAFE, "refusals_tell_commit": False})
THREE = Options(settings=PLAIN)
STRICT = Options(settings={**SAFE, "promotion_lag_max": 10})
THREE_SAFE = Options(settings=SAFE)


def change(stage: Stage, leader: Member, *changes: tuple[ChangeKind, Member]) -> None:
    """Propose a change; nothing arrives by itself."""
    steps = tuple([Change(kind, member.id) for kind, member in changes])
    stage.propose_change(leader, MembershipChange(steps), single=False)
    stage.work(leader)


def joined(stage: Stage, leader: Member) -> Member:
    """A new member, a learner that has all there is."""
    member = stage.spawn()
    change(stage, leader, (ChangeKind.LEARNER, member))
    stage.settle()
    stage.elapse(3)
    return member


def the_leader_of_two_is_removed(stage: Stage) -> None:
    """Who is left must be able to go on, whatever it knows of the change."""
    a, b = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    change(stage, a, (ChangeKind.REMOVE, a))
    for _ in range(1 + stage.choices.choose(2)):
        stage.write(a)
    stage.pass_on(a.id, b.id)  # the change alone
    stage.finish(a, len(a.disk.queue))
    stage.finish(b, len(b.disk.queue))
    stage.hand(stage.take(b, a))
    assert not a.state.membership.is_voter(a.id)
    stage.lose()
    stage.elapse(60)
    if b.state.membership != Membership((b.id,)) or stage.leader() is not b:
        wrong(f"n{b.id} is alone and does not lead itself")


def a_partition_amid_a_joint_change(stage: Stage) -> None:
    """Old and new members apart: only who has both majorities commits."""
    a, b, c = stage.cast()
    stage.lead(a)
    d, e = joined(stage, a), joined(stage, a)
    stage.chatter(a)
    voter, remove = ChangeKind.VOTER, ChangeKind.REMOVE
    stage.slow |= {d.id, e.id}
    change(stage, a, (voter, d), (voter, e), (remove, b), (remove, c))
    stage.hold((a, d), (a, e))
    for _ in range(100):
        if a.state.membership.is_joint:
            break
        if not stage.nudge():
            stage.elapse(1, settle=False)
    stage.heal()
    stage.cut_off(b, c)
    for _ in range(1 + stage.choices.choose(3)):
        stage.write(a)
    stage.settle()
    stage.heal()
    stage.cut_off(a, d, e)
    stage.campaign(b, c)
    stage.settle()
    stage.write(b)
    stage.settle()
    stage.recover()


def two_changes_at_once(stage: Stage) -> None:
    """The second is refused until the first is applied, or their majorities might not meet."""
    a, b, c = stage.cast()
    stage.lead(a)
    d = joined(stage, a)
    change(stage, a, (ChangeKind.VOTER, d))
    change(stage, a, (ChangeKind.REMOVE, (b, c)[stage.choices.choose(2)]))
    stage.settle()
    stage.recover()


def a_leader_that_is_no_member(stage: Stage) -> None:
    """A leader that is leaving replicates, and counts itself in the old majority alone."""
    a, _, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    d = stage.spawn()
    change(stage, a, (ChangeKind.LEARNER, d), (ChangeKind.REMOVE, a))
    for _ in range(200):
        if a.state.membership.is_joint or not stage.nudge():
            break
    stage.cut_off(c)
    for _ in range(1 + stage.choices.choose(3)):
        stage.write(a)
        stage.settle()
    stage.recover()


def a_voter_that_takes_itself_for_a_learner(stage: Stage) -> None:
    """Its vote is needed by those who know better, and it must give it."""
    a, b, c = stage.cast()
    stage.lead(a)
    d = joined(stage, a)
    stage.hold((a, d))
    change(stage, a, (ChangeKind.REMOVE, c))
    stage.settle()
    stage.wait()
    change(stage, a, (ChangeKind.VOTER, d))
    stage.settle()
    stage.cut_off(a, c)
    if not b.state.membership.is_voter(d.id):
        return  # it does not know better either
    stage.lose()
    stage.elapse(40)
    if b.state.role is not Role.LEADER:
        wrong(f"n{b.id} cannot be elected: n{d.id} takes itself for a learner")


def a_joint_change_whose_leader_dies(stage: Stage) -> None:
    """The next leader leaves the joint configuration, if that was to happen by itself."""
    a, b, c = stage.cast()
    stage.lead(a)
    d = joined(stage, a)
    change(stage, a, (ChangeKind.VOTER, d), (ChangeKind.REMOVE, c))
    for _ in range(200):
        if a.state.membership.is_joint:
            break
        if not stage.nudge():
            stage.elapse(1, settle=False)
    stage.cut_off(a)
    stage.elapse(30)
    stage.heal()
    stage.elapse(30)
    leader = stage.leader()
    if leader is None or leader.state.membership.is_joint:
        wrong(f"n{b.id} and the others stay in a joint configuration for ever")


def a_learner_that_never_started(stage: Stage) -> None:
    """It is not made a voter: the others could lose their majority by it."""
    a, b, c = stage.cast()
    stage.lead(a)
    d = stage.spawn()
    stage.cut_off(d)
    change(stage, a, (ChangeKind.LEARNER, d))
    stage.settle()
    stage.chatter(a)
    stage.elapse(stage.choices.choose(4))
    stage.propose_change(a, MembershipChange((Change(ChangeKind.VOTER, d.id),)), single=False)
    answers = [one.reason for one in a.state.outbox.answers if isinstance(one, Refused)]
    if answers != [Refusal.LEARNER_BEHIND]:
        wrong(f"n{d.id} never started, and is made a voter beside n{b.id} and n{c.id}")


def writes_amid_a_transfer(stage: Stage) -> None:
    """While leadership is handed over no write is taken: its fate would be unknown."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.chatter(a)
    stage.cut_off(b)
    stage.chatter(a, least=1)
    stage.hold((a, b), (b, a))
    stage.heal()
    stage.hold((a, b), (b, a))
    stage.transfer(a, b)
    last = a.state.log.last_index
    for _ in range(1 + stage.choices.choose(3)):
        stage.write(a)
    if a.state.log.last_index > last:
        wrong(f"n{a.id} takes a write while it hands over to n{b.id} beside n{c.id}")
    stage.recover()


def a_transfer_to_who_is_behind(stage: Stage) -> None:
    """The target is told to campaign once it has the whole log, not before."""
    a, b, c = stage.cast()
    stage.lead(a)
    stage.cut_off(b)
    stage.chatter(a, least=1)
    stage.heal()
    stage.lose()
    stage.transfer(a, b)
    told = [one for one in stage.wire if isinstance(one, TimeoutNow)]
    if told and b.disk.last_index < a.state.log.last_index:
        wrong(f"n{b.id} is to lead and has {b.disk.last_index} only, unlike n{c.id}")
    stage.settle()
    stage.recover()


SCENARIOS = (
    Scenario(
        "the leader of two is removed",
        the_leader_of_two_is_removed,
        PAIR,
        slip(
            "raftkv/core/leader.py",
            "    return not draft.membership.is_voter(config.id)\n",
            "    return False\n",
        ),
    ),
    Scenario("a partition amid a joint change", a_partition_amid_a_joint_change, THREE, 43),
    Scenario("two changes at once", two_changes_at_once, THREE, 21),
    Scenario("a leader that is no member", a_leader_that_is_no_member, THREE, 23),
    Scenario(
        "a voter that takes itself for a learner",
        a_voter_that_takes_itself_for_a_learner,
        THREE_SAFE,
        slip(
            "raftkv/core/follower.py",
            "        and draft.recovery is None\n",
            "        and draft.recovery is None\n"
            "        and draft.membership.is_voter(draft.config.id)\n",
        ),
    ),
    Scenario(
        "a joint change whose leader dies",
        a_joint_change_whose_leader_dies,
        THREE_SAFE,
        slip(
            "raftkv/core/proposals.py",
            "        draft.membership.auto_leave\n        and draft.role is Role.LEADER\n",
            "        draft.membership.auto_leave\n"
            "        and draft.role is Role.LEADER\n"
            "        and draft.log.term_at(draft.lead_now.pending_change) == draft.term\n",
        ),
    ),
    Scenario(
        "a learner that never started",
        a_learner_that_never_started,
        STRICT,
        slip(
            "raftkv/core/strict.py",
            "        if not _is_in_sync(draft, one.node):\n",
            "        if False:\n",
        ),
    ),
    Scenario(
        "writes amid a transfer",
        writes_amid_a_transfer,
        THREE,
        slip(
            "raftkv/core/proposals.py",
            "    if draft.lead_now.transferee:\n        return Refusal.TRANSFERRING\n",
            "",
        ),
    ),
    Scenario("a transfer to who is behind", a_transfer_to_who_is_behind, THREE, 24),
)
