"""Raft paper section 6 and thesis chapter 4: changing who belongs to the cluster."""

from __future__ import annotations

from itertools import combinations

import pytest

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    ApplyChange,
    Campaign,
    Change,
    ChangeKind,
    Config,
    EntryKind,
    ForwardProposal,
    Membership,
    MembershipChange,
    Payload,
    Propose,
    ProposeChange,
    RequestVote,
    Role,
    Tick,
    Transition,
    VoteResponse,
    decode_change,
    encode_change,
    ready,
)
from raftkv.core.membership import apply_change, simple
from raftkv.core.progress import Progress, new_progress
from raftkv.errors import InvariantError, MembershipError
from tests.core.cluster import (
    LEAVE,
    ONE,
    Cluster,
    acked,
    change,
    elected,
    followed,
    learner,
    log_of,
    member,
    normal,
    removed,
    run,
    settled,
    ticked,
    voter,
)

REMOVING = Config(id=1, step_down_on_removal=True, snapshots_for_members=True)


def tracked(*nodes: int) -> tuple[Progress, ...]:
    """Peers of whom nothing is known."""
    return tuple(new_progress(node, match=0, next_index=1, active=True) for node in nodes)


def is_quorum(nodes: set[int], membership: Membership) -> bool:
    """The definition, as dumb as can be: a majority of each half."""
    halves = [half for half in (membership.voters, membership.outgoing) if half]
    return all(2 * len(nodes & set(half)) > len(half) for half in halves)


def quorums(membership: Membership) -> list[set[int]]:
    """Every set of members that can decide."""
    everybody = sorted({*membership.voters, *membership.outgoing})
    subsets = [set(some) for n in range(1, 8) for some in combinations(everybody, n)]
    return [some for some in subsets if is_quorum(some, membership)]


# --- thesis 4.1: one at a time ------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("kind", [ChangeKind.VOTER, ChangeKind.REMOVE, ChangeKind.LEARNER])
def test_4_1_majorities_before_and_after_a_single_change_overlap(
    size: int, kind: ChangeKind
) -> None:
    """Figure 4.3: adding or removing one voter needs no joint configuration."""
    old = Membership(tuple(range(1, size + 1)))
    for node in range(1, size + 2):
        try:
            one = MembershipChange((Change(kind, node),))
            new, _ = apply_change(old, tracked(*old.voters), one, 1)
        except MembershipError:
            assert old.voters == (node,)  # nobody would be left
            continue
        assert all(a & b for a in quorums(old) for b in quorums(new))


@pytest.mark.parametrize(
    "changes",
    [
        (voter(4), voter(5)),
        (removed(2), removed(3)),
        (voter(4), removed(3)),
        (learner(2), voter(4)),
    ],
)
def test_4_1_two_voters_never_change_at_once_outside_a_joint_configuration(
    changes: tuple[Change, ...],
) -> None:
    both = MembershipChange(changes)
    joint, _ = apply_change(Membership((1, 2, 3)), tracked(1, 2, 3), both, 1)
    assert joint.is_joint
    with pytest.raises(MembershipError, match="more than one voter changed"):
        simple(Membership((1, 2, 3)), tracked(1, 2, 3), changes, last_index=1)


def test_4_1_no_change_begins_before_the_last_one_is_applied() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.slow_machines.add(1)
    cluster.step(1, change(learner(4)), change(learner(5)))
    kinds = [entry.kind for entry in cluster.states[1].log.entries()]
    assert kinds == [EntryKind.NORMAL, EntryKind.CHANGE, EntryKind.NORMAL]
    cluster.deliver()
    cluster.step(1, change(learner(5)))  # committed is not enough
    assert cluster.states[1].log.entry(4).kind is EntryKind.NORMAL
    cluster.apply(1)
    cluster.step(1, change(learner(5)))
    assert cluster.states[1].log.entry(5).kind is EntryKind.CHANGE


def test_4_1_a_new_leader_changes_nothing_before_all_it_found_is_applied() -> None:
    """Thesis 4.1 and the bug found in 2015: a change may hide in the log's end."""
    leader = elected(member(terms=(1, 1)))
    leader = run(leader, change(learner(4)))
    assert leader.log.entry(4).kind is EntryKind.NORMAL
    leader = followed(leader, 2)
    assert leader.applied == 4
    leader = run(leader, change(learner(4)))
    assert leader.log.entry(5).kind is EntryKind.CHANGE


def test_4_1_a_configuration_acts_when_applied_not_when_appended() -> None:
    """RAFT_SEMANTICS 9, unlike the thesis: 4.1 would use it from the append on."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.slow_machines.add(1)
    cluster.step(1, change(voter(4)))
    cluster.deliver()
    assert cluster.states[1].commit == 2
    assert cluster.states[1].membership.voters == (1, 2, 3)
    cluster.apply(1)
    assert cluster.states[1].membership.voters == (1, 2, 3, 4)


def test_4_1_a_change_in_a_forwarded_proposal_is_checked_like_any_other() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.slow_machines.add(1)
    cluster.step(2, change(learner(4)))
    cluster.step(3, change(learner(5)))
    cluster.deliver()
    kinds = [entry.kind for entry in cluster.states[1].log.entries()]
    assert kinds == [EntryKind.NORMAL, EntryKind.CHANGE, EntryKind.NORMAL]


def test_4_1_a_proposal_with_changes_among_commands_keeps_their_order() -> None:
    leader = followed(elected(member()), 2)
    payloads = tuple(
        Payload(EntryKind.CHANGE, encode_change(MembershipChange((one,))))
        for one in (learner(4), learner(5))
    )
    leader = run(leader, Propose((normal(b"a"), *payloads, normal(b"b"))))
    placed = [(entry.kind, entry.data) for entry in leader.log.entries()][1:]
    assert [kind for kind, _ in placed] == [
        EntryKind.NORMAL,
        EntryKind.CHANGE,
        EntryKind.NORMAL,
        EntryKind.NORMAL,
    ]
    assert [placed[0][1], placed[2][1], placed[3][1]] == [b"a", b"", b"b"]


# --- thesis 4.2.1: catching up ------------------------------------------------------------------


def test_4_2_1_a_new_member_catches_up_as_learner_without_slowing_commits() -> None:
    cluster = Cluster(3, config=REMOVING)
    cluster.elect(1)
    cluster.propose(1, b"a", b"b")
    cluster.image(1)
    cluster.join(4)
    cluster.step(1, change(learner(4)))
    cluster.deliver()
    cluster.tick(2, 1)
    assert cluster.states[4].log.last_index == cluster.states[1].log.last_index
    assert cluster.states[4].log.last_chain == cluster.states[1].log.last_chain
    assert cluster.states[4].membership.learners == (4,)
    cluster.cut(4)
    cluster.propose(1, b"c")
    assert cluster.commands(1) == [b"a", b"b", b"c"]


def test_4_2_1_learners_count_in_no_majority() -> None:
    leader = elected(member(voters=(1, 2, 3), learners=(4, 5, 6)))
    leader = run(leader, acked(leader, 4), acked(leader, 5), acked(leader, 6))
    assert leader.commit == 0
    assert run(leader, acked(leader, 2)).commit == 1


def test_4_2_1_a_learner_never_campaigns_but_votes() -> None:
    """RAFT_SEMANTICS 3: it may be a voter without knowing yet."""
    state = member(voters=(2, 3), learners=(1,))
    state = ticked(state, 100)
    assert (state.role, state.term) == (Role.FOLLOWER, 0)
    assert run(state, Campaign()) == state
    _, sent = settled(run(state, RequestVote(2, 1, 1, 0, 0)))
    assert sent == [VoteResponse(1, 2, 1, False)]


def test_4_2_1_learners_are_not_asked_for_votes() -> None:
    _, sent = settled(run(member(voters=(1, 2, 3), learners=(4,)), Campaign()))
    assert [message.to for message in sent] == [2, 3]


def test_4_2_1_a_learner_becomes_voter_with_what_it_has() -> None:
    """RAFT_SEMANTICS 9: its Progress is kept."""
    cluster = Cluster(1, learners=(2,))
    cluster.elect(1)
    cluster.step(1, change(voter(2)))
    cluster.deliver()
    own = cluster.states[1]
    assert own.membership == Membership((1, 2))
    progress = own.peer(2)
    assert progress is not None
    assert progress.match == own.log.last_index == 2
    cluster.propose(1, b"x")
    assert cluster.states[1].commit == 3


def test_4_2_1_an_added_voter_starts_active_and_probed_from_the_last_entry() -> None:
    """RAFT_SEMANTICS 9: next = max(last, 1), not last + 1; the quorum check spares it at first."""
    leader = followed(elected(member(terms=(1, 1))), 2)
    last = leader.log.last_index
    leader = run(leader, ApplyChange(MembershipChange((voter(4),))))
    progress = leader.peer(4)
    assert progress is not None
    assert (progress.match, progress.active) == (0, True)
    leader, todo = ready(leader)
    probes = [m for m in todo.messages if m.to == 4]
    assert [m.prev_index for m in probes if isinstance(m, AppendEntries)] == [last - 1]


# --- thesis 4.2.2: removing the leader ----------------------------------------------------------


def test_4_2_2_a_removed_leader_manages_without_counting_itself_then_goes() -> None:
    """Thesis 4.2.2: it steps down once the change is committed (here: applied)."""
    cluster = Cluster(3, config=REMOVING)
    cluster.elect(1)
    cluster.cut(3)
    cluster.step(1, change(removed(1)))
    cluster.deliver()
    assert cluster.states[1].commit == 2
    assert cluster.states[1].role is Role.FOLLOWER
    assert cluster.states[1].leader == 0
    assert cluster.states[1].membership.voters == (2, 3)
    assert ticked(cluster.states[1], 100).role is Role.FOLLOWER


def test_4_2_2_without_step_down_a_removed_leader_goes_on_but_takes_nothing() -> None:
    """RAFT_SEMANTICS 9 and 7: it stays leader, sends nothing now, and refuses proposals."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.step(1, change(removed(1)))
    cluster.deliver()
    leader = cluster.states[1]
    assert leader.role is Role.LEADER
    assert leader.membership.voters == (2, 3)
    before = leader.log
    cluster.propose(1, b"x")
    assert cluster.states[1].log == before
    cluster.tick(1, 1)
    assert cluster.states[2].leader == 1


def test_4_2_2_a_leader_made_learner_steps_down_too() -> None:
    cluster = Cluster(3, config=REMOVING)
    cluster.elect(1)
    cluster.step(1, change(learner(1)))
    cluster.deliver()
    assert cluster.states[1].role is Role.FOLLOWER
    assert cluster.states[1].membership == Membership((2, 3), (), (1,))


def test_4_2_2_a_removed_leader_does_not_count_itself_any_more() -> None:
    leader = followed(elected(member()), 2, 3)
    leader = run(leader, Propose((normal(b"x"),)))
    leader = run(leader, ApplyChange(MembershipChange((removed(1),))))
    leader, _ = settled(leader)
    assert run(leader, acked(leader, 2)).commit == leader.commit
    assert run(leader, acked(leader, 2), acked(leader, 3)).commit == 2


def test_4_2_2_a_smaller_quorum_may_commit_at_once_and_everybody_hears_of_it() -> None:
    """RAFT_SEMANTICS 9: if the new quorum commits more, broadcast."""
    leader = followed(elected(member(voters=(1, 2, 3, 4))), 2, 3, 4)
    leader, _ = settled(run(leader, Propose((normal(b"x"),))))
    leader = run(leader, acked(leader, 2))
    assert leader.commit == 1
    leader = run(leader, ApplyChange(MembershipChange((removed(4),))))
    assert leader.commit == 2
    _, sent = settled(leader)
    assert {(m.to, m.commit) for m in sent if isinstance(m, AppendEntries)} == {(2, 2), (3, 2)}


def test_4_2_2_a_change_that_commits_nothing_sends_only_entries_that_are_lacking() -> None:
    leader = followed(elected(member()), 2, 3)
    _, sent = settled(run(leader, ApplyChange(MembershipChange((learner(4),)))))
    assert [m.to for m in sent] == [4]


# --- thesis 4.2.3: disruptive members -----------------------------------------------------------


def test_4_2_3_a_removed_member_cannot_unseat_a_leader_that_is_heard() -> None:
    """Thesis 4.2.3: votes are not given within an election timeout of hearing a leader."""
    cluster = Cluster(3, config=Config(id=1, check_quorum=True))
    cluster.elect(1)
    cluster.cut(3)
    cluster.step(1, change(removed(3)))
    cluster.deliver()
    cluster.heal()
    term = cluster.states[1].term
    for _ in range(10):
        cluster.tick(2, 1, 2)
        cluster.step(3, Campaign())
        cluster.deliver()
    assert cluster.states[3].term > term
    assert cluster.leaders() == [1]
    assert cluster.states[1].term == cluster.states[2].term == term


def test_4_2_3_without_the_lease_a_removed_member_does_disrupt() -> None:
    """The reason for the rule."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(3)
    cluster.step(1, change(removed(3)))
    cluster.deliver()
    cluster.heal()
    cluster.step(3, Campaign())
    cluster.deliver()
    assert cluster.leaders() != [1]


# --- §6 and thesis 4.3: joint consensus ---------------------------------------------------------

OLD = (1, 2, 3)


@pytest.mark.parametrize("new", [(4, 5, 6), (1, 4, 5), (1, 2), (1,), (2, 3, 4, 5, 6), (1, 2, 3)])
def test_6_in_a_joint_configuration_both_majorities_must_agree(new: tuple[int, ...]) -> None:
    """§6: for elections and for entries alike."""
    steps = [voter(node) for node in new if node not in OLD]
    steps += [removed(node) for node in OLD if node not in new]
    enter = ApplyChange(MembershipChange(tuple(steps) or (voter(1),), Transition.EXPLICIT))
    fresh = run(member(voters=OLD), enter)
    joint = fresh.membership
    assert (joint.voters, joint.outgoing) == (new, OLD)
    candidate, _ = settled(run(fresh, Campaign()))
    others = [node for node in joint.members() if node != 1]
    for some in [some for n in range(len(others) + 1) for some in combinations(others, n)]:
        agree = is_quorum({1, *some}, joint)
        voted = run(candidate, *[VoteResponse(node, 1, 1, False) for node in some])
        assert (voted.role is Role.LEADER) == agree
        leader = elected(fresh)
        stored = run(leader, *[acked(leader, node) for node in some])
        assert (stored.commit == 1) == agree


def test_6_old_and_joint_and_new_majorities_overlap_pairwise() -> None:
    """Figure 11: no point in time at which both could decide alone."""
    old = Membership((1, 2, 3))
    joint, progress = apply_change(
        old, tracked(1, 2, 3), MembershipChange((voter(4), voter(5), removed(1))), 1
    )
    new, _ = apply_change(joint, progress, MembershipChange(), 1)
    assert (joint.voters, joint.outgoing) == ((2, 3, 4, 5), (1, 2, 3))
    assert new == Membership((2, 3, 4, 5))
    assert all(a & b for a in quorums(old) for b in quorums(joint))
    assert all(a & b for a in quorums(joint) for b in quorums(new))
    assert not all(a & b for a in quorums(old) for b in quorums(new))


def test_6_a_whole_cluster_is_replaced_through_a_joint_configuration() -> None:
    """§6, with automatic leave, the leader itself among those removed."""
    cluster = Cluster(3, config=REMOVING)
    cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.image(1)
    for node in (4, 5, 6):
        cluster.join(node)
    steps = [voter(4), voter(5), voter(6), removed(1), removed(2), removed(3)]
    cluster.step(1, change(*steps))
    cluster.deliver()
    assert cluster.states[1].role is Role.FOLLOWER
    assert cluster.states[1].membership == Membership((4, 5, 6))
    cluster.elect(5)
    cluster.propose(5, b"b")
    cluster.tick(2, 5)
    for node in (4, 5, 6):
        assert cluster.states[node].membership == Membership((4, 5, 6))
        assert cluster.commands(node) == [b"b"]  # the rest came in the image


@pytest.mark.parametrize(
    ("via", "changes", "joint", "leaves"),
    [
        (Transition.AUTO, 1, False, False),
        (Transition.AUTO, 2, True, True),
        (Transition.IMPLICIT, 1, True, True),
        (Transition.IMPLICIT, 2, True, True),
        (Transition.EXPLICIT, 1, True, False),
        (Transition.EXPLICIT, 2, True, False),
    ],
)
def test_6_which_changes_pass_through_a_joint_configuration(
    via: Transition, changes: int, joint: bool, leaves: bool
) -> None:
    """RAFT_SEMANTICS 9."""
    steps = (voter(4), voter(5))[:changes]
    new, _ = apply_change(Membership((1, 2, 3)), tracked(1, 2, 3), MembershipChange(steps, via), 1)
    assert (new.is_joint, new.auto_leave) == (joint, leaves)


def test_6_an_explicit_joint_configuration_stays_until_it_is_left() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.step(1, change(removed(3), via=Transition.EXPLICIT))
    cluster.deliver()
    cluster.propose(1, b"x")
    assert cluster.states[1].membership == Membership((1, 2), (1, 2, 3))
    cluster.step(1, LEAVE)
    cluster.deliver()
    assert cluster.states[1].membership == cluster.states[2].membership == Membership((1, 2))
    assert cluster.states[1].peer(3) is None


def test_6_a_demoted_voter_votes_until_the_joint_configuration_is_left() -> None:
    """RAFT_SEMANTICS 9: learners_next."""
    change_ = MembershipChange((learner(3),), Transition.EXPLICIT)
    joint, progress = apply_change(Membership((1, 2, 3)), tracked(1, 2, 3), change_, 1)
    assert joint == Membership((1, 2), (1, 2, 3), (), (3,))
    assert joint.is_voter(3)
    left, _ = apply_change(joint, progress, MembershipChange(), 1)
    assert left == Membership((1, 2), (), (3,))


@pytest.mark.parametrize(
    ("membership", "steps", "via"),
    [
        (Membership((1,)), (removed(1),), Transition.AUTO),
        (Membership((1, 2)), (removed(1), removed(2)), Transition.AUTO),
        (Membership((1,)), (learner(1),), Transition.IMPLICIT),
        (Membership((1, 2), (1,)), (voter(3),), Transition.AUTO),
        (Membership((1, 2), (1,)), (voter(3), voter(4)), Transition.AUTO),
        (Membership((1, 2)), (), Transition.AUTO),
        (Membership(), (voter(1), voter(2)), Transition.AUTO),
    ],
)
def test_6_changes_that_cannot_be_are_no_changes(
    membership: Membership, steps: tuple[Change, ...], via: Transition
) -> None:
    """RAFT_SEMANTICS 9: no voter left, joint within joint, leaving what is not joint."""
    with pytest.raises(MembershipError):
        apply_change(membership, tracked(*membership.members()), MembershipChange(steps, via), 1)


def test_9_applying_a_change_that_cannot_be_stops_the_member() -> None:
    with pytest.raises(InvariantError, match="cannot be applied"):
        run(member(), ApplyChange(MembershipChange()))


def test_9_updates_and_id_zero_change_nothing() -> None:
    steps = (Change(ChangeKind.UPDATE, 2), Change(ChangeKind.REMOVE, 0))
    for one in steps:
        new, progress = apply_change(Membership((1, 2)), tracked(1, 2), MembershipChange((one,)), 1)
        assert (new, progress) == (Membership((1, 2)), tracked(1, 2))


@pytest.mark.parametrize("one", [voter(2), learner(3), removed(4)])
def test_9_repeating_a_change_is_harmless(one: Change) -> None:
    old = Membership((1, 2), (), (3,))
    new, progress = apply_change(old, tracked(1, 2, 3), MembershipChange((one,)), 9)
    assert (new, progress) == (old, tracked(1, 2, 3))


def test_9_a_removed_learner_is_forgotten() -> None:
    old = Membership((1, 2), (), (3, 4))
    new, progress = apply_change(old, tracked(1, 2, 3, 4), MembershipChange((removed(3),)), 1)
    assert (new, progress) == (Membership((1, 2), (), (4,)), tracked(1, 2, 4))


@pytest.mark.parametrize("last", [removed(3), voter(3)])
def test_9_the_last_step_for_a_member_decides(last: Change) -> None:
    """Demoted first, then removed, or a voter after all, in one joint change."""
    steps = MembershipChange((learner(3), last), Transition.EXPLICIT)
    joint, progress = apply_change(Membership((1, 2, 3)), tracked(1, 2, 3), steps, 1)
    stays = last == voter(3)
    assert joint == Membership((1, 2, 3) if stays else (1, 2), (1, 2, 3))
    assert progress == tracked(1, 2, 3)  # an outgoing voter is tracked until the leave
    left, progress = apply_change(joint, progress, MembershipChange(), 1)
    assert left == Membership((1, 2, 3) if stays else (1, 2))
    assert progress == (tracked(1, 2, 3) if stays else tracked(1, 2))


# --- the bytes of a change ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "one",
    [
        MembershipChange(),
        MembershipChange((), Transition.EXPLICIT),
        MembershipChange((), Transition.AUTO, b"why"),
        MembershipChange((voter(1), removed(2**64 - 3)), Transition.IMPLICIT, b"context"),
    ],
)
def test_a_change_survives_its_encoding(one: MembershipChange) -> None:
    assert decode_change(encode_change(one)) == one


@pytest.mark.parametrize(
    "data",
    [
        b"\x02",
        b"\x02\x00\x00\x00\x00\x00",
        b"\x01\x09\x00\x00\x00\x00",
        b"\x01\x00\x02\x00\x00\x00" + b"\x00" * 9,
        b"\x01\x00\x01\x00\x00\x00\x07" + b"\x01" * 8,
    ],
)
def test_bytes_that_are_no_change_are_refused(data: bytes) -> None:
    with pytest.raises(MembershipError, match="not a membership change"):
        decode_change(data)


def test_a_change_of_unknown_bytes_becomes_an_empty_entry() -> None:
    leader = followed(elected(member()), 2)
    leader = run(leader, Propose((Payload(EntryKind.CHANGE, b"\xff"),)))
    entry = leader.log.entry(2)
    assert (entry.kind, entry.data) == (EntryKind.NORMAL, b"")


def test_without_validation_any_change_is_appended_as_it_is() -> None:
    """RAFT_SEMANTICS 9: validation can be switched off."""
    leader = followed(elected(member(Config(id=1, disable_change_validation=True))), 2)
    leader = run(leader, change(learner(4)), change(learner(5)), LEAVE)
    kinds = [entry.kind for entry in leader.log.entries()][1:]
    assert kinds == [EntryKind.CHANGE] * 3


def test_a_single_change_is_proposed_in_its_own_form() -> None:
    """RAFT_SEMANTICS 9: the old-style change, never joint."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.step(1, ProposeChange(MembershipChange((learner(4),)), single=True))
    cluster.deliver()
    assert cluster.states[1].log.entry(2).kind is EntryKind.CHANGE_SINGLE
    assert cluster.states[2].membership.learners == (4,)


def test_4_2_1_a_members_answer_is_ignored_once_it_is_gone() -> None:
    leader = followed(elected(member()), 2, 3)
    leader = run(leader, ApplyChange(MembershipChange((removed(3),))))
    assert run(leader, acked(leader, 3)) == leader
    assert run(leader, AppendResponse(3, 1, 1, 1, True)) == leader


def test_5_2_requests_of_unknown_members_are_processed() -> None:
    """RAFT_SEMANTICS 1: a member may not know its newest peers yet."""
    state = member(voters=(1, 2, 3))
    assert run(state, RequestVote(7, 1, 1, 0, 0)).vote == 7
    taken = run(state, AppendEntries(7, 1, 1, 0, 0, 0, log_of(1)))
    assert (taken.leader, taken.log.last_index) == (7, 1)
    leader = elected(member(ONE))
    asked = run(leader, ForwardProposal(7, 1, (normal(b"x"),)))
    assert asked.log.last_index == 2
    assert run(leader, Tick()).role is Role.LEADER
