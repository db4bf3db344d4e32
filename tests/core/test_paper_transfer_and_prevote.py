"""Thesis 3.10 (transfer of leadership), 6.2 (quorum checks), 9.6 (pre-votes), forgetting."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    AppendEntries,
    ApplyChange,
    Campaign,
    Config,
    ForgetLeader,
    Heartbeat,
    MembershipChange,
    PreVote,
    PreVoteResponse,
    Propose,
    ReadMode,
    Refusal,
    Refused,
    RequestVote,
    Role,
    State,
    Tick,
    TimeoutNow,
    TransferLeader,
    TransferLeadership,
    VoteResponse,
    ready,
)
from tests.core.cluster import (
    ONE,
    Cluster,
    acked,
    beat,
    elected,
    followed,
    learner,
    member,
    normal,
    removed,
    run,
    sent_by,
    settled,
    ticked,
)

CHECKED = Config(id=1, check_quorum=True)
PRE = Config(id=1, pre_vote=True)


def leading(config: Config = ONE) -> State:
    """A leader whose log all three voters have."""
    return followed(elected(member(config)), 2, 3)


# --- thesis 3.10: leadership transfer -----------------------------------------------------------


def test_3_10_a_complete_target_is_told_to_campaign_at_once() -> None:
    assert sent_by(leading(), TransferLeader(2)) == [TimeoutNow(1, 2, 1)]


def test_3_10_a_target_that_lacks_entries_gets_them_first() -> None:
    """Thesis 3.10, step 2: its log must be as complete as the leader's to win."""
    leader, _ = settled(run(leading(), Propose((normal(b"x"),))))
    leader, sent = settled(run(leader, TransferLeader(2)))
    assert [type(one) for one in sent] == [AppendEntries]
    assert sent_by(leader, acked(leader, 3)) != [TimeoutNow(1, 2, 1)]
    sent = sent_by(leader, acked(leader, 2))
    assert sent[-1] == TimeoutNow(1, 2, 1)


def test_3_10_an_answer_below_the_last_index_does_not_complete_the_target() -> None:
    leader, _ = settled(run(leading(), Propose((normal(b"x"), normal(b"y")))))
    leader, _ = settled(run(leader, TransferLeader(2)))
    assert TimeoutNow(1, 2, 1) not in sent_by(leader, acked(leader, 2, 2))


def test_3_10_no_proposal_is_taken_meanwhile() -> None:
    """Thesis 3.10, step 1."""
    leader = run(leading(), TransferLeader(2))
    leader, todo = ready(run(leader, Propose((normal(b"x"),), 7)))
    assert todo.answers == (Refused(7, Refusal.TRANSFERRING),)
    assert leader.log.last_index == 1


def test_3_10_the_target_campaigns_without_pre_vote_and_overrides_leases() -> None:
    target = run(member(evolve(PRE, check_quorum=True)), Heartbeat(2, 1, 1, 0))
    target, sent = settled(run(target, TimeoutNow(2, 1, 1)))
    assert target.role is Role.CANDIDATE
    assert sent[-2:] == [RequestVote(1, n, 2, 0, 0, transfer=True) for n in (2, 3)]
    voter = run(member(CHECKED), Heartbeat(2, 1, 1, 0))
    assert run(voter, RequestVote(3, 1, 2, 0, 0)).vote == 0
    assert run(voter, RequestVote(3, 1, 2, 0, 0, transfer=True)).vote == 3


@pytest.mark.parametrize(
    "config",
    [ONE, PRE, CHECKED, Config(id=1, pre_vote=True, check_quorum=True, measured_lease=True)],
    ids=["plain", "pre-vote", "check-quorum", "all"],
)
def test_3_10_the_lead_changes_hands_and_nothing_is_lost(config: Config) -> None:
    cluster = Cluster(3, config=config)
    cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.tick(2)
    cluster.step(1, TransferLeader(3))
    cluster.deliver()
    assert cluster.leaders() == [3]
    cluster.propose(3, b"b")
    assert cluster.commands(1) == cluster.commands(2) == [b"a", b"b"]


def test_3_10_a_transfer_ends_after_an_election_timeout_and_proposals_go_on() -> None:
    """Thesis 3.10: if the target did not take over."""
    leader = run(ticked(leading(), 5), TransferLeader(2))
    assert leader.election_elapsed == 0
    for _ in range(9):
        leader = run(leader, Tick())
        assert leader.leading.transferee == 2
    leader = run(leader, Tick(), Propose((normal(b"x"),)))
    assert leader.leading.transferee == 0
    assert leader.log.last_index == 2


@pytest.mark.parametrize("target", [1, 4, 7])
def test_3_10_learners_strangers_and_oneself_are_no_targets(target: int) -> None:
    leader = followed(elected(member(voters=(1, 2, 3), learners=(4,))), 2, 3, 4)
    assert run(leader, TransferLeader(target)) == leader


def test_3_10_naming_oneself_cancels_a_pending_transfer() -> None:
    """RAFT_SEMANTICS 11."""
    leader = run(leading(), TransferLeader(2), TransferLeader(1))
    assert leader.leading.transferee == 0
    assert run(leader, Propose((normal(b"x"),))).log.last_index == 2


@pytest.mark.parametrize("target", [4, 7])
def test_3_10_an_impossible_target_leaves_a_pending_transfer_alone(target: int) -> None:
    leader = followed(elected(member(voters=(1, 2, 3), learners=(4,))), 2, 3, 4)
    assert run(leader, TransferLeader(2), TransferLeader(target)).leading.transferee == 2


def test_3_10_the_same_target_again_changes_nothing_and_another_replaces_it() -> None:
    leader = run(ticked(leading(), 3), TransferLeader(2))
    waited = ticked(leader, 4)
    assert run(waited, TransferLeader(2)) == waited
    other, sent = settled(run(settled(waited)[0], TransferLeader(3)))
    assert sent == [TimeoutNow(1, 3, 1)]
    assert (other.leading.transferee, other.election_elapsed) == (3, 0)


def test_3_10_a_follower_passes_the_wish_on_and_drops_it_without_a_leader() -> None:
    follower, _ = settled(run(member(), Heartbeat(2, 1, 1, 0)))
    assert sent_by(follower, TransferLeader(3)) == [TransferLeadership(3, 2, 1, 3)]
    assert run(member(), TransferLeader(3)) == member()
    candidate, _ = settled(run(member(), Campaign()))
    assert run(candidate, TransferLeader(3)) == candidate
    leader = leading()
    assert sent_by(leader, TransferLeadership(3, 1, 1, 3)) == [TimeoutNow(1, 3, 1)]


def test_3_10_a_removed_target_ends_the_transfer() -> None:
    """RAFT_SEMANTICS 9."""
    leader = run(leading(), TransferLeader(3))
    assert run(leader, ApplyChange(MembershipChange((removed(2),)))).leading.transferee == 3
    for step in (removed(3), learner(3)):
        assert run(leader, ApplyChange(MembershipChange((step,)))).leading.transferee == 0


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.PRE_CANDIDATE, Role.LEADER])
def test_3_10_only_a_follower_heeds_timeout_now(role: Role) -> None:
    """RAFT_SEMANTICS 3 and 11."""
    state, _ = settled(run(member(PRE), Campaign()))
    if role is Role.CANDIDATE:
        state, _ = settled(run(state, PreVoteResponse(2, 1, 1, False)))
    if role is Role.LEADER:
        state = leading()
    assert state.role is role
    assert run(state, TimeoutNow(2, 1, state.term)) == state


def test_3_10_a_learner_told_to_campaign_does_not() -> None:
    state = run(member(voters=(2, 3), learners=(1,)), Heartbeat(2, 1, 1, 0))
    assert run(state, TimeoutNow(2, 1, 1)) == state


# --- thesis 6.2: quorum checks ------------------------------------------------------------------


def test_6_2_a_leader_that_hears_no_quorum_steps_down_in_its_term() -> None:
    leader = ticked(leading(CHECKED), 10)
    assert leader.role is Role.LEADER  # it heard from both since it was elected
    assert ticked(leader, 9).role is Role.LEADER
    gone = ticked(leader, 10)
    assert (gone.role, gone.leader, gone.term, gone.vote) == (Role.FOLLOWER, 0, 1, 1)


def test_6_2_hearing_from_a_quorum_keeps_a_leader() -> None:
    leader = leading(CHECKED)
    for _ in range(5):
        leader = ticked(run(leader, beat(leader, 3)), 10)
        assert leader.role is Role.LEADER


def test_6_2_without_quorum_checks_a_leader_alone_stays() -> None:
    assert ticked(leading(), 100).role is Role.LEADER


def test_6_2_learners_are_no_quorum() -> None:
    leader = followed(elected(member(CHECKED, voters=(1, 2, 3), learners=(4, 5))), 2, 3, 4, 5)
    leader = ticked(leader, 10)
    leader = ticked(run(leader, beat(leader, 4), beat(leader, 5)), 10)
    assert leader.role is Role.FOLLOWER


def test_6_2_a_leader_that_steps_down_at_its_check_beats_no_more() -> None:
    leader, _ = settled(ticked(leading(CHECKED), 19))
    assert sent_by(leader, Tick()) == []


@pytest.mark.parametrize(("elapsed", "held"), [(0, True), (9, True), (10, False)])
@pytest.mark.parametrize("kind", [RequestVote, PreVote])
def test_6_2_votes_are_held_back_for_a_base_timeout_after_the_leader_was_heard(
    kind: type[RequestVote] | type[PreVote], elapsed: int, held: bool
) -> None:
    """RAFT_SEMANTICS 2: without an answer; the base value, not the drawn one."""
    seeds = [evolve(CHECKED, seed=seed) for seed in range(1, 20)]
    state = next(one for one in (member(config) for config in seeds) if one.timeout_ticks > 10)
    state, _ = settled(run(state, Heartbeat(2, 1, 1, 0)))
    state = ticked(state, elapsed)
    after, sent = settled(run(state, kind(3, 1, 5, 9, 9)))
    assert (sent == []) is held
    if held:
        assert after == state


def test_6_2_a_leader_holds_its_vote_back_too() -> None:
    leader = leading(CHECKED)
    assert run(leader, RequestVote(3, 1, 9, 9, 9)) == leader
    assert run(leading(), RequestVote(3, 1, 9, 9, 9)).vote == 3


def test_6_2_without_a_known_leader_there_is_no_lease() -> None:
    assert run(member(CHECKED), RequestVote(3, 1, 9, 9, 9)).vote == 3


# --- thesis 9.6: pre-votes ----------------------------------------------------------------------


def test_9_6_a_pre_candidate_changes_no_term_vote_or_timer() -> None:
    state = ticked(member(PRE, terms=(1,), term=4, vote=3), 5)
    state, sent = settled(run(state, Campaign()))
    assert (state.role, state.term, state.vote, state.leader) == (Role.PRE_CANDIDATE, 4, 3, 0)
    assert state.election_elapsed == 5
    assert sent == [PreVote(1, 2, 5, 1, 1), PreVote(1, 3, 5, 1, 1)]
    assert state.votes == ((1, True),)


def test_9_6_a_won_pre_vote_starts_the_election() -> None:
    state, _ = settled(run(member(PRE, term=4), Campaign()))
    state, sent = settled(run(state, PreVoteResponse(2, 1, 5, False)))
    assert (state.role, state.term, state.vote) == (Role.CANDIDATE, 5, 1)
    assert sent == [RequestVote(1, 2, 5, 0, 0), RequestVote(1, 3, 5, 0, 0)]
    assert state.votes == ((1, True),)


def test_9_6_a_lost_pre_vote_leaves_a_follower_of_the_same_term() -> None:
    state, _ = settled(run(member(PRE, term=4), Campaign()))
    refusals = [PreVoteResponse(n, 1, 4, True) for n in (2, 3)]
    state = run(state, *refusals)
    assert (state.role, state.term) == (Role.FOLLOWER, 4)


def test_9_6_a_refusal_with_a_higher_term_is_heeded() -> None:
    state, _ = settled(run(member(PRE, term=4), Campaign()))
    state = run(state, PreVoteResponse(2, 1, 9, True))
    assert (state.role, state.term) == (Role.FOLLOWER, 9)


def test_9_6_a_granted_pre_vote_changes_nothing_at_the_voter() -> None:
    state = ticked(member(PRE, term=4, vote=3), 5)
    after, sent = settled(run(state, PreVote(2, 1, 5, 0, 0)))
    assert sent == [PreVoteResponse(1, 2, 5, False)]
    assert after == evolve(state, told=after.told)


@pytest.mark.parametrize(("term", "granted"), [(4, False), (5, True), (9, True)])
def test_9_6_a_pre_vote_for_a_later_term_asks_neither_vote_nor_leader(
    term: int, granted: bool
) -> None:
    """RAFT_SEMANTICS 3."""
    state = settled(run(member(PRE, term=4, vote=3), Heartbeat(3, 1, 4, 0)))[0]
    (answer,) = sent_by(state, PreVote(2, 1, term, 0, 0))
    assert answer == PreVoteResponse(1, 2, term if granted else 4, not granted)


def test_9_6_a_pre_vote_of_the_own_term_follows_the_rules_of_a_vote() -> None:
    assert sent_by(member(PRE, term=4), PreVote(2, 1, 4, 0, 0))[0] == PreVoteResponse(
        1, 2, 4, False
    )
    voted = member(PRE, term=4, vote=2)
    assert sent_by(voted, PreVote(2, 1, 4, 0, 0))[0] == PreVoteResponse(1, 2, 4, False)
    assert sent_by(voted, PreVote(3, 1, 4, 0, 0))[0] == PreVoteResponse(1, 3, 4, True)


def test_9_6_a_member_that_was_cut_off_does_not_disturb_when_it_returns() -> None:
    cluster = Cluster(3, config=Config(id=1, pre_vote=True, check_quorum=True))
    cluster.elect(1)
    cluster.cut(3)
    cluster.tick(100)
    cluster.propose(1, b"x")
    assert cluster.states[3].term == 1
    cluster.heal()
    cluster.tick(30)
    assert cluster.leaders() == [1]
    assert {state.term for state in cluster.states.values()} == {1}
    assert cluster.commands(3) == [b"x"]


def test_9_6_without_pre_votes_its_return_would_cost_a_term() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(3)
    cluster.tick(100)
    assert cluster.states[3].term > 1


def test_9_6_a_pre_candidate_cannot_lead_by_pre_votes_alone() -> None:
    cluster = Cluster(3, config=PRE)
    cluster.lost = lambda message: isinstance(message, RequestVote)
    cluster.step(1, Campaign())
    cluster.deliver()
    assert cluster.states[1].role is Role.CANDIDATE


# --- forgetting the leader (RAFT_SEMANTICS 11) --------------------------------------------------


def test_11_a_follower_that_forgets_its_leader_keeps_the_rest() -> None:
    state = ticked(run(member(CHECKED, terms=(1,), vote=2), Heartbeat(2, 1, 1, 0)), 3)
    forgot = run(state, ForgetLeader())
    assert forgot == evolve(state, leader=0)
    assert run(forgot, Heartbeat(2, 1, 1, 0)).leader == 2


def test_11_who_forgot_its_leader_grants_pre_votes_despite_the_lease() -> None:
    state = settled(run(member(CHECKED), Heartbeat(2, 1, 1, 0)))[0]
    assert sent_by(state, PreVote(3, 1, 2, 0, 0)) == []
    forgot = run(state, ForgetLeader())
    assert sent_by(forgot, PreVote(3, 1, 2, 0, 0)) == [PreVoteResponse(1, 3, 2, False)]


def test_11_with_lease_reads_no_leader_is_forgotten() -> None:
    config = evolve(CHECKED, read_mode=ReadMode.LEASE)
    state = run(member(config), Heartbeat(2, 1, 1, 0))
    assert run(state, ForgetLeader()) == state


def test_11_leaders_and_candidates_forget_nobody() -> None:
    candidate, _ = settled(run(member(), Campaign()))
    for state in (leading(), candidate):
        assert run(state, ForgetLeader()) == state


def test_11_a_vote_of_the_same_term_needs_more_than_forgetting() -> None:
    """The vote of the term is kept."""
    state = run(member(term=1, vote=2), Heartbeat(2, 1, 1, 0), ForgetLeader())
    assert sent_by(state, RequestVote(3, 1, 1, 9, 9)) == [VoteResponse(1, 3, 1, True)]
