"""Raft paper section 8 and thesis 6.4: linearizable reads by quorum round, and by lease."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    ApplyChange,
    Campaign,
    Config,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    MembershipChange,
    Message,
    Propose,
    Read,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadMode,
    ReadState,
    Ready,
    RequestVote,
    State,
    Tick,
    Transition,
    ready,
)
from tests.core.cluster import (
    ONE,
    Cluster,
    acked,
    beat,
    elected,
    followed,
    member,
    normal,
    removed,
    run,
    sent_by,
    settled,
    ticked,
    voter,
)

LEASE = Config(id=1, check_quorum=True, read_mode=ReadMode.LEASE)


def leading(config: Config = ONE, voters: tuple[int, ...] = (1, 2, 3)) -> State:
    """A leader whose first entry is committed."""
    others = [node for node in voters if node != 1]
    return followed(elected(member(config, voters=voters)), *others)


def taken(state: State) -> Ready:
    """The Ready alone."""
    return ready(state)[1]


def positions(messages: list[Message] | tuple[Message, ...]) -> list[tuple[int, int]]:
    """To whom heartbeats went, with which read position."""
    return [(one.to, one.read_position) for one in messages if isinstance(one, Heartbeat)]


# --- §8: the empty entry ------------------------------------------------------------------------


def test_8_a_leader_commits_an_empty_entry_at_the_start_of_its_term() -> None:
    """§8: it learns so which entries are committed."""
    leader = elected(member(terms=(1, 1)))
    entry = leader.log.entry(3)
    assert (entry.term, entry.kind, entry.data) == (2, EntryKind.NORMAL, b"")
    assert leader.commit == 0
    assert followed(leader, 2).commit == 3


# --- thesis 6.4: a quorum round -----------------------------------------------------------------


def test_6_4_a_read_is_answered_when_a_quorum_has_confirmed_the_leader() -> None:
    leader, todo = ready(run(leading(), Read(b"r")))
    assert todo.reads == ()
    assert positions(todo.messages) == [(2, 1), (3, 1)]
    leader, todo = ready(run(leader, beat(leader, 2, 1)))
    assert todo.reads == (ReadState(1, b"r"),)
    assert taken(run(leader, beat(leader, 3, 1))).reads == ()


@pytest.mark.parametrize("voters", range(2, 8))
def test_6_4_the_quorum_is_a_majority_with_the_leader_itself(voters: int) -> None:
    leader = settled(run(leading(voters=tuple(range(1, voters + 1))), Read(b"r")))[0]
    for confirmed in range(2, voters + 1):
        leader = run(leader, beat(leader, confirmed, 1))
        assert bool(leader.outbox.reads) == (confirmed * 2 > voters)


def test_6_4_the_answer_is_the_commit_index_when_the_read_began() -> None:
    leader = run(leading(), Read(b"r"), Propose((normal(b"x"),)))
    leader, _ = settled(leader)
    leader = run(leader, acked(leader, 2))
    assert leader.commit == 2
    assert taken(run(leader, beat(leader, 2, 1))).reads == (ReadState(1, b"r"),)


def test_6_4_no_read_is_answered_before_a_commit_in_the_leaders_term() -> None:
    """Thesis 6.4, step 1: before, its commit index may be behind."""
    leader = elected(member(terms=(1, 1), commit=2))
    leader, _ = settled(leader)
    leader, todo = ready(run(leader, Read(b"r"), Read(b"s")))
    assert (todo.reads, todo.messages) == ((), ())
    leader = run(leader, beat(leader, 2, 1), beat(leader, 3, 1))
    leader, todo = ready(run(leader, acked(leader, 2)))
    assert todo.reads == ()
    assert positions(todo.messages) == [(2, 1), (3, 1), (2, 2), (3, 2)]
    _, todo = ready(run(leader, beat(leader, 3, 2)))
    assert todo.reads == (ReadState(3, b"r"), ReadState(3, b"s"))


def test_6_4_one_round_confirms_all_reads_before_it() -> None:
    leader, _ = settled(run(leading(), Read(b"a"), Read(b"b"), Read(b"c")))
    leader, todo = ready(run(leader, beat(leader, 2, 2)))
    assert [one.context for one in todo.reads] == [b"a", b"b"]
    leader, todo = ready(run(leader, beat(leader, 3, 3)))
    assert [one.context for one in todo.reads] == [b"c"]


def test_6_4_a_quorum_round_begun_before_the_read_does_not_count() -> None:
    """I24: the confirmation must have begun after the request."""
    leader, _ = settled(run(leading(), Tick()))
    leader, _ = settled(run(leader, Read(b"r")))
    assert taken(run(leader, beat(leader, 2, 0), beat(leader, 3, 0))).reads == ()
    leader = run(leader, beat(leader, 2, 1), Read(b"s"))
    leader, _ = settled(leader)
    assert taken(run(leader, beat(leader, 2, 1), beat(leader, 3, 1))).reads == ()


def test_6_4_each_heartbeat_carries_the_newest_unconfirmed_position() -> None:
    """RAFT_SEMANTICS 10: the periodic ones too; nothing when nothing waits."""
    leader = leading()
    assert positions(taken(run(leader, Tick())).messages) == [(2, 0), (3, 0)]
    leader, _ = settled(run(leader, Read(b"a"), Read(b"b")))
    assert positions(taken(run(leader, Tick())).messages) == [(2, 2), (3, 2)]
    leader, _ = settled(run(leader, beat(leader, 2, 2)))
    assert positions(taken(run(leader, Tick())).messages) == [(2, 0), (3, 0)]
    assert positions(taken(run(leader, Read(b"c"))).messages) == [(2, 3), (3, 3)]


def test_6_4_a_position_never_given_confirms_nothing() -> None:
    leader, _ = settled(run(leading(), Read(b"a")))
    assert taken(run(leader, beat(leader, 2, 2), beat(leader, 3, 9))).reads == ()


def test_6_4_learners_and_strangers_confirm_nothing() -> None:
    leader = followed(elected(member(voters=(1, 2, 3), learners=(4,))), 2)
    leader, _ = settled(run(leader, Read(b"a")))
    leader = run(leader, beat(leader, 4, 1), beat(leader, 7, 1), beat(leader, 1, 1))
    assert taken(leader).reads == ()


def test_6_4_in_a_joint_configuration_both_halves_confirm() -> None:
    leader = leading()
    steps = (voter(4), voter(5), removed(2), removed(3))
    leader = run(leader, ApplyChange(MembershipChange(steps, Transition.EXPLICIT)))
    leader, _ = settled(run(leader, Read(b"a")))
    old = run(leader, beat(leader, 2, 1), beat(leader, 3, 1))
    assert old.outbox.reads == ()
    new = run(leader, beat(leader, 4, 1), beat(leader, 5, 1))
    assert new.outbox.reads == ()
    assert len(run(old, beat(leader, 4, 1)).outbox.reads) == 1
    assert len(run(new, beat(leader, 2, 1)).outbox.reads) == 1


def test_6_4_a_smaller_membership_answers_what_its_quorum_has_confirmed() -> None:
    """Else the read would wait for ever: who confirmed does not answer twice."""
    leader = leading(voters=(1, 2))
    leader, _ = settled(run(leader, Read(b"a")))
    leader = run(leader, ApplyChange(MembershipChange((removed(2),))))
    assert leader.outbox.reads == (ReadState(1, b"a"),)


def test_6_4_a_deposed_leader_never_answers() -> None:
    """The stale read that the round is there to prevent."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(1)
    cluster.elect(2)
    cluster.propose(2, b"new")
    cluster.step(1, Read(b"stale"))
    cluster.deliver()
    assert 1 in cluster.leaders()
    cluster.heal()
    cluster.tick(5)
    assert cluster.reads[1] == []
    assert cluster.leaders() == [2]


def test_6_4_a_reader_sees_every_write_acknowledged_before() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for node in (1, 2, 3):
        cluster.propose(1, b"w%d" % node)
        commit = cluster.states[1].commit
        cluster.step(node, Read(b"r"))
        cluster.deliver()
        assert [(one.context, one.index >= commit) for one in cluster.reads[node]] == [(b"r", True)]


# --- forwarded reads ----------------------------------------------------------------------------


def test_6_4_a_follower_asks_the_leader_and_answers_by_itself() -> None:
    follower = run(member(), Heartbeat(2, 1, 1, 0))
    follower, sent = settled(run(follower, Read(b"r"), Read(b"s", lease=True)))
    assert sent[1:] == [ReadIndexRequest(1, 2, b"r"), ReadIndexRequest(1, 2, b"s", True)]
    _, todo = ready(run(follower, ReadIndexResponse(2, 1, 1, 7, b"r")))
    assert todo.reads == (ReadState(7, b"r"),)


def test_6_4_a_follower_that_was_taken_for_leader_passes_the_question_on() -> None:
    follower = run(member(), Heartbeat(2, 1, 1, 0))
    sent = sent_by(follower, ReadIndexRequest(3, 1, b"r"))
    assert sent == [ReadIndexRequest(3, 2, b"r")]


def test_6_4_the_leader_answers_whoever_asked() -> None:
    leader, sent = settled(run(leading(), ReadIndexRequest(3, 1, b"r")))
    assert positions(tuple(sent)) == [(2, 1), (3, 1)]
    leader, todo = ready(run(leader, beat(leader, 2, 1)))
    assert todo.reads == ()
    assert todo.messages == (ReadIndexResponse(1, 3, 1, 1, b"r"),)


def test_6_4_without_a_leader_a_read_is_dropped() -> None:
    for state in (member(), settled(run(member(), Campaign()))[0]):
        assert run(state, Read(b"r"), ReadIndexRequest(3, 1, b"s")) == state


def test_6_4_only_a_follower_takes_an_answer() -> None:
    """RAFT_SEMANTICS 3: candidates ignore it."""
    candidate, _ = settled(run(member(), Campaign()))
    assert run(candidate, ReadIndexResponse(2, 1, 1, 7, b"r")) == candidate


# --- who steps down -----------------------------------------------------------------------------


def test_6_4_a_step_down_forgets_reads_under_way_but_not_those_that_wait_for_a_commit() -> None:
    """RAFT_SEMANTICS 3: they wait for the first commit of a later term of ours."""
    leader, _ = settled(run(leading(), Read(b"under way")))
    leader, _ = settled(run(leader, RequestVote(2, 1, 9, 9, 9)))
    again = elected(leader)
    again, _ = settled(run(again, acked(again, 2)))
    assert run(again, beat(again, 2, 1), beat(again, 3, 1)).outbox.reads == ()
    fresh = run(elected(member()), Read(b"waiting"))
    fresh, _ = settled(run(fresh, RequestVote(2, 1, 9, 9, 9)))
    again = elected(fresh)
    again, _ = settled(run(again, acked(again, 2)))
    assert run(again, beat(again, 2, 1)).outbox.reads == (ReadState(2, b"waiting"),)


# --- a single voter -----------------------------------------------------------------------------


def test_10_a_single_voter_answers_at_once() -> None:
    """RAFT_SEMANTICS 10: with the commit index, even before a commit in its term."""
    leader = elected(member(voters=(1,), learners=(2,)))
    assert taken(run(leader, Read(b"r"))).reads == (ReadState(1, b"r"),)
    assert taken(run(leader, ReadIndexRequest(2, 1, b"s"))).messages == (
        ReadIndexResponse(1, 2, 1, 1, b"s"),
    )


def test_10_a_single_voter_within_a_joint_configuration_asks() -> None:
    leader = leading()
    steps = MembershipChange((removed(2), removed(3)), Transition.EXPLICIT)
    leader = run(leader, ApplyChange(steps))
    assert leader.membership.voters == (1,)
    assert taken(run(leader, Read(b"r"))).reads == ()


# --- thesis 6.4.1: leases -----------------------------------------------------------------------


def test_6_4_1_with_a_lease_the_leader_answers_at_once() -> None:
    leader = leading(LEASE)
    todo = taken(run(leader, Read(b"r")))
    assert (todo.reads, todo.messages) == ((ReadState(1, b"r"),), ())


def test_6_4_1_a_lease_read_too_waits_for_a_commit_in_the_leaders_term() -> None:
    leader = elected(member(LEASE, terms=(1,), commit=1))
    leader, todo = ready(run(leader, Read(b"r")))
    assert todo.reads == ()
    assert taken(run(leader, acked(leader, 2))).reads == (ReadState(2, b"r"),)


def test_6_4_1_a_single_read_may_ask_for_the_lease() -> None:
    leader = leading(Config(id=1, check_quorum=True))
    assert taken(run(leader, Read(b"r", lease=True))).reads == (ReadState(1, b"r"),)
    assert taken(run(leader, Read(b"r"))).reads == ()
    without = leading()
    assert taken(run(without, Read(b"r", lease=True))).reads == ()


def test_6_4_1_a_leader_without_quorum_gives_up_its_lease_by_stepping_down() -> None:
    """Thesis 6.2: within two quorum checks."""
    leader = leading(LEASE)
    leader, _ = settled(ticked(leader, 2 * 10))
    leader = run(leader, Read(b"r"))
    assert leader.outbox.reads == ()
    assert leader.leader == 0


def test_6_4_1_heartbeats_with_answers_keep_the_lease() -> None:
    leader = leading(LEASE)
    for _ in range(50):
        leader, _ = settled(run(leader, Tick(), beat(leader, 2)))
    assert taken(run(leader, Read(b"r"))).reads == (ReadState(1, b"r"),)


def test_6_4_the_read_of_a_lone_survivor_is_not_answered() -> None:
    leader = leading(evolve(ONE, check_quorum=True))
    leader, _ = settled(run(leader, Read(b"r")))
    leader, _ = settled(ticked(leader, 40))
    late = HeartbeatResponse(2, 1, 1, 1)
    assert run(leader, late).outbox.reads == ()


def test_6_4_a_removed_leader_does_not_answer_in_place_of_the_single_voter() -> None:
    """That voter may have elected itself already, and taken writes."""
    config = Config(
        id=1, step_down_on_removal=True, hand_over_first=True, single_voter_reads_wait=True
    )
    leader = leading(config, voters=(1, 2))
    leader = run(leader, ApplyChange(MembershipChange((removed(1),))))
    assert (leader.leader, leader.membership.voters) == (1, (2,))
    leader, todo = ready(run(leader, Read(b"r")))
    assert todo.reads == ()
    assert positions(todo.messages) == [(2, 1)]
    assert taken(run(leader, beat(leader, 2, 1))).reads == (ReadState(1, b"r"),)
