"""Every check refuses what it is there to refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from raftkv.core import (
    AppendResponse,
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    HardState,
    HeartbeatResponse,
    Log,
    Membership,
    MembershipChange,
    Payload,
    PeerMessage,
    ReadState,
    Recovering,
    Recovery,
    Role,
    Snapshot,
    State,
    VoteResponse,
    encode_change,
)
from raftkv.testing import Checker, Options, ViolationError, World
from raftkv.testing.disk import Disk, Write
from raftkv.testing.invariants import is_quorum
from raftkv.testing.member import Member


class Scene:
    """Three members with a log of four entries, two of them committed by member 1 in term 2."""

    def __init__(self) -> None:
        self.world = World(Options(voters=3))
        self.checker: Checker = self.world.checker
        self.one: Member = self.world.members[1]
        self.log, self.entries = entries_after(self.one.state.log, 2, 4)
        for member in self.world.members.values():
            member.disk.hard_state = HardState(2, 1, 1)
            member.disk.entries.extend(self.entries)
        follower = evolve(self.one.state, term=2, vote=1, role=Role.CANDIDATE)
        for voter in (1, 2):
            self.checker.votes[voter, 2] = 1
        leader = evolve(follower, role=Role.LEADER, leader=1)
        self.checker.stepped(self.one, follower, leader)
        grown = evolve(leader, log=self.log)
        self.checker.stepped(self.one, leader, grown)
        heard = tuple(
            evolve(peer, match=5 if peer.id < 3 else 0, next=6) for peer in grown.progress
        )
        counted = evolve(grown, progress=heard)
        self.leader = evolve(counted, commit=3)
        self.checker.stepped(self.one, counted, self.leader)
        self.follower = evolve(self.leader, role=Role.FOLLOWER)

    def step(self, before: State, after: State, node: int = 1) -> None:
        self.checker.stepped(self.world.members[node], before, after)


def entries_after(log: Log, term: int, count: int) -> tuple[Log, tuple[Entry, ...]]:
    return log.propose(term, (Payload(EntryKind.NORMAL, b"x"),) * count)


def change_after(log: Log, term: int, change: MembershipChange) -> Log:
    return log.propose(term, (Payload(EntryKind.CHANGE, encode_change(change)),))[0]


ADD = MembershipChange((Change(ChangeKind.VOTER, 9),))


def other(log: Log, index: int) -> Log:
    """The same log with another payload from ``index`` on."""
    return log.truncate(index).propose(2, (Payload(EntryKind.NORMAL, b"other"),))[0]


def leads_without_votes(scene: Scene) -> None:
    scene.one.disk.hard_state = HardState(3, 1, 1)
    before = evolve(scene.leader, term=3, role=Role.CANDIDATE)
    scene.step(before, evolve(before, role=Role.LEADER))


def leads_without_what_was_committed(scene: Scene) -> None:
    for voter in (1, 2):
        scene.checker.votes[voter, 3] = 1
    scene.one.disk.hard_state = HardState(3, 1, 1)
    short = scene.log.truncate(3)
    before = evolve(scene.follower, term=3, role=Role.CANDIDATE, log=short, commit=2)
    scene.step(before, evolve(before, role=Role.LEADER))


def two_lead_a_term(scene: Scene) -> None:
    before = evolve(scene.leader, role=Role.CANDIDATE)
    scene.step(before, scene.leader, node=2)


def leads_before_the_vote_is_stored(scene: Scene) -> None:
    for voter in (1, 2):
        scene.checker.votes[voter, 3] = 1
    before = evolve(scene.leader, term=3, role=Role.CANDIDATE)
    scene.step(before, evolve(before, role=Role.LEADER))


def two_changes(scene: Scene) -> None:
    log = change_after(change_after(scene.log, 2, ADD), 2, ADD)
    scene.step(scene.leader, evolve(scene.leader, log=log))


def not_joint_yet_left(scene: Scene) -> None:
    log = change_after(scene.log, 2, MembershipChange())
    scene.step(scene.leader, evolve(scene.leader, log=log))


def removed_campaigns(scene: Scene) -> None:
    before = evolve(scene.follower, membership=Membership((2, 3), (), (1,)))
    scene.step(before, evolve(before, role=Role.PRE_CANDIDATE))


def commit_on_one_disk(scene: Scene) -> None:
    for node in (2, 3):
        scene.world.members[node].disk.entries.clear()
    scene.step(scene.leader, evolve(scene.leader, commit=5))


def moved_progress(scene: Scene, **changes: object) -> tuple[State, State]:
    first, second, third = scene.leader.progress
    before = evolve(scene.leader, progress=(first, evolve(second, match=3, next=5), third))
    moved = evolve(before.progress[1], **changes)
    return before, evolve(before, progress=(first, moved, third))


def shifted_progress(scene: Scene) -> None:
    before, after = moved_progress(scene, match=2)
    joined = (evolve(after.progress[0], id=9), *after.progress)
    scene.step(before, evolve(after, progress=joined))


def recovering(state: State, *messages: PeerMessage) -> tuple[State, State]:
    """A member that recovers, before and after it queued messages."""
    before = evolve(state, recovery=Recovery(Recovering.ALL, b"c"))
    return before, evolve(before, messages_after_append=messages)


def recovering_campaigns(scene: Scene) -> None:
    before, after = recovering(scene.follower)
    scene.step(before, evolve(after, role=Role.CANDIDATE))


def recovering_answers_at_once(scene: Scene) -> None:
    before, after = recovering(scene.follower)
    scene.step(before, evolve(after, messages=(HeartbeatResponse(1, 2, 2),)))


def counted_by_nobody(scene: Scene) -> None:
    before = evolve(
        scene.leader, progress=tuple(evolve(one, match=3) for one in scene.leader.progress)
    )
    scene.step(before, evolve(before, commit=5))


def lost_after_it_was_acknowledged(scene: Scene) -> None:
    """Two of three have it, and one of these has lost it since."""
    for node in (2, 3):
        scene.world.members[node].disk.entries.clear()
    two = scene.world.members[2]
    two.state, two.lost_to = recovering(two.state)[0], 5
    scene.step(scene.leader, evolve(scene.leader, commit=5))


def wrong_index(scene: Scene) -> None:
    entry = evolve(scene.entries[-1], index=6)
    log = evolve(scene.log, tail=(*scene.log.tail, entry), last_index=6, last_chain=1)
    log = evolve(log, tail=(*scene.log.tail, evolve(entry, index=7)))
    scene.step(scene.follower, evolve(scene.follower, log=log))


def decreasing_term(scene: Scene) -> None:
    entry = Entry(1, 6, EntryKind.NORMAL, b"", 1)
    log = evolve(scene.log, tail=(*scene.log.tail, entry), last_index=6, last_chain=1)
    scene.step(scene.follower, evolve(scene.follower, log=log))


def acknowledges(scene: Scene, index: int, **stored: int) -> None:
    disk = scene.world.members[2].disk
    disk.hard_state = evolve(disk.hard_state, **stored)
    message = AppendResponse(2, 1, 2, index)
    scene.checker.leaves_after_write(scene.world.members[2], message)


def votes(scene: Scene, to: int, term: int, hard_state: HardState) -> None:
    member = scene.world.members[2]
    member.disk.hard_state = hard_state
    scene.checker.leaves_after_write(member, VoteResponse(2, to, term, False))


def acknowledges_other_entries(scene: Scene) -> None:
    disk = scene.world.members[2].disk
    disk.entries[2:] = list(other(scene.log, 4).entries())[2:]
    acknowledges(scene, 4)


def acknowledges_to_a_forgotten_leader(scene: Scene) -> None:
    scene.checker.leader_logs.clear()
    disk = scene.world.members[2].disk
    disk.entries[1:] = list(other(scene.log, 3).entries())[1:]
    acknowledges(scene, 3)


def applies(scene: Scene, entry: Entry) -> None:
    scene.one.machine.index = entry.index - 1
    scene.checker.applies(scene.one, entry)


def applied_differently(scene: Scene) -> None:
    for value, member in ((1, scene.one), (2, scene.world.members[2])):
        member.machine.value = value
        scene.checker.applied(member, scene.entries[0])


def accepted_another(scene: Scene) -> None:
    entry = scene.entries[0]
    scene.checker.accepted[entry.term, entry.index] = b"mine"
    scene.checker.applied(scene.one, entry)


def restored_to_nothing_known(scene: Scene) -> None:
    scene.one.machine.restore(Snapshot(3, 2))
    scene.checker.restored(scene.one, scene.one.machine)


def memberships(scene: Scene, *steps: tuple[int, Membership]) -> None:
    for index, membership in steps:
        scene.checker.membership_changed(scene.one, index, membership)


def swept(scene: Scene) -> None:
    scene.one.state = evolve(scene.follower, log=other(scene.log, 3))
    scene.checker.sweep()


def swept_vote(scene: Scene) -> None:
    scene.one.state = scene.follower
    scene.one.disk.hard_state = HardState(2, 3, 1)
    scene.checker.sweep()


def quick(after: Callable[[Scene], State], *, leads: bool = False) -> Callable[[Scene], None]:
    return lambda scene: scene.step(scene.leader if leads else scene.follower, after(scene))


BROKEN: tuple[tuple[str, str, Callable[[Scene], None]], ...] = (
    ("I1", "a term decreases", quick(lambda s: evolve(s.follower, term=1))),
    ("I2", "a vote changes", quick(lambda s: evolve(s.follower, vote=3))),
    ("I2", "two votes leave", lambda s: votes(s, 3, 2, HardState(2, 3, 1))),
    ("I2", "a vote is forgotten by the disk", swept_vote),
    ("I3", "an entry in the wrong place", wrong_index),
    (
        "I3",
        "commit beyond the log",
        quick(
            lambda s: evolve(
                s.follower, log=s.log.truncate(4), apply=evolve(s.follower.apply, applied=4)
            )
        ),
    ),
    ("I4", "commit decreases", quick(lambda s: evolve(s.follower, commit=2))),
    (
        "I4",
        "applied decreases",
        quick(lambda s: evolve(s.follower, apply=evolve(s.follower.apply, applied=0))),
    ),
    ("I5", "a term decreases along the log", decreasing_term),
    (
        "I6",
        "a leader rewrites its log",
        quick(lambda s: evolve(s.leader, log=other(s.log, 5)), leads=True),
    ),
    ("I7", "match decreases", lambda s: s.step(*moved_progress(s, match=2))),
    ("I7", "next is not above match", lambda s: s.step(*moved_progress(s, next=3))),
    ("I7", "match decreases as the membership grows", shifted_progress),
    (
        "I8",
        "a committed entry is truncated",
        quick(lambda s: evolve(s.follower, log=s.log.truncate(3))),
    ),
    (
        "I8",
        "a committed entry is replaced",
        quick(lambda s: evolve(s.follower, log=other(s.log, 3))),
    ),
    (
        "I9",
        "an answer leaves at once",
        lambda s: s.checker.leaves_at_once(s.one, AppendResponse(1, 2, 2, 3)),
    ),
    ("I9", "a vote leaves before its term is stored", lambda s: votes(s, 3, 4, HardState(2, 1, 1))),
    ("I9", "a vote leaves before it is stored", lambda s: votes(s, 3, 4, HardState(4, 0, 1))),
    ("I9", "an answer of a term not stored", lambda s: acknowledges(s, 3, term=1)),
    ("I9", "entries acknowledged and not stored", lambda s: acknowledges(s, 9)),
    ("I9", "other entries acknowledged than stored", acknowledges_other_entries),
    ("I9", "other committed entries acknowledged", acknowledges_to_a_forgotten_leader),
    ("I9", "a leader before its vote is stored", leads_before_the_vote_is_stored),
    ("I10", "two leaders", two_lead_a_term),
    ("I11", "two logs differ", quick(lambda s: evolve(s.follower, log=other(s.log, 5)))),
    ("I12", "a leader lacks what is committed", leads_without_what_was_committed),
    ("I13", "an entry is skipped", lambda s: s.checker.applies(s.one, s.entries[1])),
    ("I13", "an entry nobody committed", lambda s: applies(s, s.entries[3])),
    ("I13", "another entry", lambda s: applies(s, evolve(s.entries[0], data=b"y"))),
    ("I13", "machines differ", applied_differently),
    ("I13", "a snapshot of nothing known", restored_to_nothing_known),
    (
        "I13",
        "memberships differ",
        lambda s: memberships(s, (2, Membership((1, 2))), (2, Membership((1, 3)))),
    ),
    (
        "I14",
        "an old entry counted",
        quick(lambda s: evolve(s.leader, term=3, commit=4), leads=True),
    ),
    ("I15", "committed on one disk", commit_on_one_disk),
    ("I16", "committed by nobody", quick(lambda s: evolve(s.follower, commit=5))),
    ("I16", "another entry committed", swept),
    ("I17", "two changes under way", two_changes),
    ("I18", "two voters at once", lambda s: memberships(s, (2, Membership((1,))))),
    (
        "I18",
        "a joint change from elsewhere",
        lambda s: memberships(s, (2, Membership((1, 4), (1, 2)))),
    ),
    (
        "I18",
        "a joint change to elsewhere",
        lambda s: memberships(s, (2, Membership((1,), (1, 2, 3))), (3, Membership((2,)))),
    ),
    ("I19", "a joint change left before it is entered", not_joint_yet_left),
    ("I20", "a learner campaigns", removed_campaigns),
    ("I20", "a leader without a quorum of votes", leads_without_votes),
    (
        "I21",
        "a removed member returns",
        lambda s: memberships(s, (2, Membership((1, 2))), (3, Membership((1, 2, 3)))),
    ),
    ("I22", "a recovering member campaigns", recovering_campaigns),
    (
        "I22",
        "a recovering member votes",
        lambda s: s.step(*recovering(s.follower, VoteResponse(1, 2, 2, False))),
    ),
    (
        "I22",
        "a recovering member hides it",
        lambda s: s.step(*recovering(s.follower, AppendResponse(1, 2, 2, 3))),
    ),
    ("I22", "a recovering member hides it at once", recovering_answers_at_once),
    (
        "I22",
        "a recovering member is counted",
        lambda s: s.step(*moved_progress(s, match=4, recovering=True)),
    ),
    ("I22", "committed by too few", counted_by_nobody),
    ("I24", "a stale read", lambda s: s.checker.answered(s.one, ReadState(2, b"r"), 3)),
    (
        "I25",
        "a stale read by a lease",
        lambda s: s.checker.answered(s.one, ReadState(2, b"r"), 3, lease=True),
    ),
    (
        "I51",
        "more under way than the window holds",
        lambda s: s.step(*moved_progress(s, inflight=((5, 1),) * 257)),
    ),
    ("I47", "another's proposal", accepted_another),
)


@pytest.mark.parametrize(
    ("invariant", "what", "act"), BROKEN, ids=[f"{one[0]} {one[1]}" for one in BROKEN]
)
def test_what_is_broken_is_refused(invariant: str, what: str, act: Callable[[Scene], None]) -> None:
    scene = Scene()
    with pytest.raises(ViolationError) as refused:
        act(scene)
    assert refused.value.invariant == invariant, what


def test_what_is_sound_is_not() -> None:
    scene = Scene()
    scene.step(scene.leader, evolve(scene.leader, log=entries_after(scene.log, 2, 1)[0]))
    scene.step(scene.follower, evolve(scene.follower, log=scene.log.truncate(5)))
    scene.step(*moved_progress(scene, match=4, next=6))
    acknowledges(scene, 3)
    applies(scene, scene.entries[0])
    memberships(scene, (2, Membership((1, 2))), (3, Membership((1, 2, 4))))
    scene.checker.answered(scene.one, ReadState(3, b"r"), 3)
    scene.checker.sweep()


def test_what_recovering_members_may_is_not() -> None:
    scene = Scene()
    flagged = AppendResponse(1, 2, 2, 3, recovering=True)
    before, after = recovering(scene.follower, flagged, VoteResponse(1, 3, 3, True))
    scene.step(before, after)
    assert scene.world.marks["vote refused while recovering"] == 1
    scene.step(before, scene.follower)
    assert scene.world.marks["whole again: ALL"] == 1
    scene.step(*moved_progress(scene, match=0, recovering=True))
    lost_after_it_was_acknowledged(scene)


def test_a_member_that_is_down_recovers_if_its_disk_says_so() -> None:
    member = Scene().one
    assert not member.recovers
    member.alive = False
    assert not member.recovers
    member.disk.recovering = Recovering.LOG
    assert member.recovers


def test_a_spent_vote_is_no_other_vote() -> None:
    scene = Scene()
    scene.one.state = scene.follower
    scene.checker.votes[1, 2] = 3
    with pytest.raises(ViolationError):
        scene.checker.sweep()
    scene.one.forgot = True
    scene.checker.sweep()


def test_a_quorum_needs_both_halves() -> None:
    joint = Membership((1, 2, 3), (4, 5))
    assert is_quorum(joint, (1, 2, 4, 5))
    assert not is_quorum(joint, (1, 2, 3, 4))
    assert not is_quorum(joint, (1, 4, 5))
    assert not is_quorum(Membership((1, 2)), (1,))


def test_a_disk_keeps_what_was_complete_and_loses_the_rest() -> None:
    base = Snapshot(1, 1, 7)
    disk = Disk.holding(base)
    log, entries = entries_after(Log.starting_at(1, 1, 7), 2, 4)
    disk.submit(Write(1, HardState(2, 1, 1), entries[:3]))
    disk.submit(Write(2, None, entries[3:]))
    disk.submit(Write(3, HardState(3, 2, 1)))
    disk.crash(2)
    assert (disk.last_index, disk.chain_at(5), disk.hard_state) == (
        5,
        log.last_chain,
        HardState(2, 1, 1),
    )
    assert not disk.queue
    rewritten = other(log, 4)
    disk.submit(Write(4, None, rewritten.slice(4, 5)))
    disk.complete(1)
    assert (disk.last_index, disk.chain_at(4)) == (4, rewritten.last_chain)
    disk.compact(3)
    disk.compact(2)
    assert (disk.base_index, disk.chain_at(2), disk.chain_at(3)) == (3, None, entries[1].chain)
    disk.submit(Write(5, None, entries[:1]))
    disk.complete(1)
    assert disk.last_index == 4, "what is compacted is known"
    disk.submit(Write(6, None, (evolve(entries[3], index=9),)))
    with pytest.raises(ValueError, match="gap"):
        disk.complete(1)
