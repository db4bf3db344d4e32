"""Raft paper sections 5.1, 5.2, 5.4.1 and 5.6: terms, elections, who may win them, and timing."""

from __future__ import annotations

from itertools import combinations

import pytest
from attrs import evolve

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Campaign,
    Config,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    Persisted,
    PreVote,
    PreVoteResponse,
    RequestVote,
    Role,
    State,
    Tick,
    TimeoutNow,
    VoteResponse,
    has_ready,
    ready,
    start,
)
from tests.core.cluster import (
    ONE,
    Cluster,
    append,
    elected,
    log_of,
    member,
    run,
    sent_by,
    settled,
    snapshot_at,
    terms_of,
    ticked,
)


def candidate(state: State) -> State:
    """The member after it started an election and stored its own vote."""
    return settled(run(state, Campaign()))[0]


# --- §5.1: terms --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
@pytest.mark.parametrize(
    ("message", "leader"),
    [
        (AppendEntries(2, 1, 9, 0, 0, 0), 2),
        (Heartbeat(2, 1, 9, 0), 2),
        (InstallSnapshot(2, 1, 9, snapshot_at(0, 0)), 2),
        (RequestVote(2, 1, 9, 0, 0), 0),
        (VoteResponse(2, 1, 9, True), 0),
        (PreVoteResponse(2, 1, 9, True), 0),
        (AppendResponse(2, 1, 9, 0), 0),
        (HeartbeatResponse(2, 1, 9), 0),
    ],
)
def test_5_1_a_higher_term_makes_a_follower_of_anybody(
    role: str, message: Message, leader: int
) -> None:
    """§5.1: whoever sees a larger term than its own takes it and becomes a follower."""
    state = member(terms=(1,))
    if role == "candidate":
        state = candidate(state)
    if role == "leader":
        state = elected(state)
    state = run(state, message)
    assert (state.term, state.role, state.leader) == (9, Role.FOLLOWER, leader)


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(2, 1, 3, 2, 2, 2, log_of(1, 2, 3)[2:]),
        Heartbeat(2, 1, 3, 2),
        InstallSnapshot(2, 1, 3, snapshot_at(9, 3)),
        RequestVote(2, 1, 3, 9, 9),
        VoteResponse(2, 1, 3, False),
        PreVoteResponse(2, 1, 3, False),
        AppendResponse(2, 1, 3, 2),
        HeartbeatResponse(2, 1, 3, 1),
        TimeoutNow(2, 1, 3),
    ],
)
@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_5_1_a_message_of_an_older_term_changes_nothing(role: str, message: Message) -> None:
    """§5.1: a request with a stale term number is rejected."""
    state = member(terms=(1, 2), term=5)
    if role == "candidate":
        state = candidate(state)
    if role == "leader":
        state = elected(state)
    assert run(state, message) == state


def test_5_1_an_old_pre_vote_is_refused_with_the_term_it_lacks() -> None:
    """RAFT_SEMANTICS 2: unlike an old Vote, which is ignored."""
    state = member(term=5)
    assert sent_by(state, PreVote(2, 1, 4, 9, 9)) == [PreVoteResponse(1, 2, 5, True)]
    assert sent_by(state, RequestVote(2, 1, 4, 9, 9)) == []


@pytest.mark.parametrize(
    "config", [Config(id=1, check_quorum=True), Config(id=1, pre_vote=True)], ids=str
)
@pytest.mark.parametrize(
    "message", [AppendEntries(2, 1, 3, 0, 0, 0), Heartbeat(2, 1, 3, 0)], ids=str
)
def test_5_1_a_stale_leader_is_told_of_the_new_term_where_campaigns_would_not(
    config: Config, message: Message
) -> None:
    """RAFT_SEMANTICS 2: an empty acceptance that carries the own, higher term."""
    assert sent_by(member(config, term=5), message) == [AppendResponse(1, 2, 5, 0)]
    assert sent_by(member(config, term=5), InstallSnapshot(2, 1, 3, snapshot_at(9, 3))) == []


# --- §5.2: elections ----------------------------------------------------------------------------


def test_5_2_members_start_as_followers_without_a_leader() -> None:
    state = start(ONE, voters=(1, 2, 3))
    assert (state.role, state.leader, state.term, state.vote) == (Role.FOLLOWER, 0, 0, 0)
    assert not has_ready(state)


def test_5_2_a_follower_that_hears_nothing_campaigns_in_the_next_term() -> None:
    """§5.2: increments its term, votes for itself, asks all others."""
    state = member(terms=(1, 2))
    quiet = ticked(state, state.timeout_ticks - 1)
    assert quiet.role is Role.FOLLOWER
    state, sent = settled(run(quiet, Tick()))
    assert (state.role, state.term, state.vote) == (Role.CANDIDATE, 3, 1)
    assert sent == [RequestVote(1, 2, 3, 2, 2), RequestVote(1, 3, 3, 2, 2)]
    assert state.votes == ((1, True),)


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(2, 1, 1, 0, 0, 0),
        Heartbeat(2, 1, 1, 0),
        InstallSnapshot(2, 1, 1, snapshot_at(0, 0)),
        RequestVote(2, 1, 1, 1, 1),
    ],
    ids=str,
)
def test_5_2_a_follower_that_hears_a_leader_or_grants_a_vote_waits_anew(message: Message) -> None:
    state = ticked(member(term=1), 9)
    assert run(state, message).election_elapsed == 0


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(2, 1, 1, 0, 0, 0),
        Heartbeat(2, 1, 1, 0),
        InstallSnapshot(2, 1, 1, snapshot_at(0, 0)),
    ],
    ids=str,
)
def test_5_2_hearing_the_leader_again_draws_no_new_timeout(message: Message) -> None:
    state = run(member(term=1), message)
    again = run(state, message)
    assert (again.rng, again.timeout_ticks) == (state.rng, state.timeout_ticks)
    assert again.rng == member(term=1).rng


def test_5_2_a_refused_vote_does_not_delay_an_own_campaign() -> None:
    state = ticked(member(terms=(1, 1)), 9)
    assert run(state, RequestVote(2, 1, 1, 1, 1)).election_elapsed == 9


@pytest.mark.parametrize("voters", range(1, 8))
def test_5_2_a_candidate_wins_with_votes_of_a_majority_and_not_with_one_less(voters: int) -> None:
    everybody = tuple(range(1, voters + 1))
    for granting in range(voters):
        state = candidate(start(ONE, voters=everybody))
        for other in everybody[1 : 1 + granting]:
            state = run(state, VoteResponse(other, 1, 1, False))
        votes = 1 + granting
        assert (state.role is Role.LEADER) == (votes * 2 > voters)


@pytest.mark.parametrize("voters", range(2, 8))
def test_5_2_a_candidate_that_cannot_win_any_more_follows(voters: int) -> None:
    everybody = tuple(range(1, voters + 1))
    for refusing in range(voters):
        state = candidate(start(ONE, voters=everybody))
        for other in everybody[1 : 1 + refusing]:
            state = run(state, VoteResponse(other, 1, 1, True))
        lost = (voters - refusing) * 2 <= voters
        assert (state.role is Role.FOLLOWER) == lost
        assert (state.term, state.vote, state.leader) == (1, 1, 0)


def test_5_2_the_first_answer_of_a_voter_counts() -> None:
    state = candidate(start(ONE, voters=(1, 2, 3, 4, 5)))
    state = run(state, *[VoteResponse(2, 1, 1, False)] * 5)
    assert state.role is Role.CANDIDATE
    state = run(state, VoteResponse(3, 1, 1, True), VoteResponse(3, 1, 1, False))
    assert state.role is Role.CANDIDATE


def test_5_2_a_vote_is_no_pre_vote_and_the_reverse() -> None:
    state = candidate(member())
    assert run(state, PreVoteResponse(2, 1, 1, False)).votes == state.votes
    state = candidate(member(Config(id=1, pre_vote=True)))
    assert state.role is Role.PRE_CANDIDATE
    assert run(state, VoteResponse(2, 1, 0, False)).votes == state.votes


def test_5_2_a_vote_that_arrives_after_the_election_changes_nothing() -> None:
    leader = elected(member())
    assert run(leader, VoteResponse(3, 1, 1, False)) == leader
    assert run(leader, VoteResponse(3, 1, 1, True)) == leader


def test_5_2_a_vote_of_somebody_who_is_no_voter_does_not_count() -> None:
    state = candidate(start(ONE, voters=(1, 2, 3), learners=(4, 5)))
    state = run(state, VoteResponse(4, 1, 1, False), VoteResponse(5, 1, 1, False))
    assert run(state, VoteResponse(6, 1, 1, False)).role is Role.CANDIDATE


def test_5_2_a_candidate_does_not_count_its_own_vote_before_it_is_stored() -> None:
    """Figure 2: term and vote on stable storage before any answer; also with a single voter."""
    state, todo = ready(run(start(ONE, voters=(1,)), Campaign()))
    assert (todo.hard_state, todo.must_sync) == (HardState(1, 1, 0), True)
    assert state.role is Role.CANDIDATE
    assert run(state, Persisted(todo.number)).role is Role.LEADER


def test_5_2_a_vote_leaves_only_after_it_is_stored() -> None:
    """Figure 2: persistent state is updated on stable storage before responding."""
    _, todo = ready(run(member(), RequestVote(2, 1, 1, 0, 0)))
    assert todo.messages == ()
    assert (todo.hard_state, todo.must_sync) == (HardState(1, 2, 0), True)
    assert todo.messages_after_persist == (VoteResponse(1, 2, 1, False),)


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(2, 1, 1, 0, 0, 0),
        Heartbeat(2, 1, 1, 0),
        InstallSnapshot(2, 1, 1, snapshot_at(0, 0)),
    ],
    ids=str,
)
def test_5_2_a_candidate_that_hears_the_leader_of_its_term_follows_it(message: Message) -> None:
    state = run(candidate(member()), message)
    assert (state.role, state.term, state.vote, state.leader) == (Role.FOLLOWER, 1, 1, 2)


def test_5_2_a_pre_candidate_that_hears_the_leader_of_its_term_follows_it() -> None:
    state = candidate(member(Config(id=1, pre_vote=True), term=1))
    state = run(state, AppendEntries(2, 1, 1, 0, 0, 0, log_of(1)))
    assert (state.role, state.term, state.leader) == (Role.FOLLOWER, 1, 2)
    assert terms_of(state) == [1]


def test_5_2_a_new_leader_asserts_itself_at_once() -> None:
    """§5.2: sends to all others, to prevent new elections; §5.4.2: with an entry of its term."""
    state = candidate(member(terms=(1, 1)))
    sent = sent_by(state, VoteResponse(2, 1, 2, False))
    appends = [one for one in sent if isinstance(one, AppendEntries)]
    assert [(one.to, one.term) for one in appends] == [(2, 2), (3, 2)]
    assert [[entry.term for entry in one.entries] for one in appends] == [[2], [2]]


def test_5_2_a_leader_beats_each_heartbeat_interval() -> None:
    """§5.2: periodic heartbeats maintain authority."""
    state = elected(member(Config(id=1, heartbeat_ticks=3)))
    sent = [len(sent_by(ticked(state, n), Tick())) for n in range(6)]
    assert sent == [0, 0, 2, 0, 0, 2]


def test_5_2_split_votes_elect_nobody_and_the_next_timeout_decides() -> None:
    """§5.2: neither of two candidates wins, a new term begins, one comes first."""
    cluster = Cluster(4)
    for node in (1, 2):
        cluster.step(node, Campaign())
    first = {1: 3, 2: 4, 3: 1, 4: 2}
    cluster.lost = lambda message: (
        isinstance(message, RequestVote) and first[message.sender] != message.to
    )
    cluster.deliver()
    assert cluster.leaders() == []
    assert {state.term for state in cluster.states.values()} == {1}
    cluster.heal()
    cluster.elect(1)
    assert {state.term for state in cluster.states.values()} == {2}


def test_5_2_timeouts_are_drawn_anew_from_the_whole_interval() -> None:
    """§5.2: randomised from [election, 2 * election - 1] ticks so that split votes are rare."""
    drawn: set[int] = set()
    for seed in range(1, 200):
        state = start(Config(id=1, election_ticks=10, seed=seed), voters=(1, 2, 3))
        again = candidate(state)
        drawn |= {state.timeout_ticks, again.timeout_ticks}
        assert state.rng != again.rng
    assert drawn == set(range(10, 20))


def test_5_2_members_draw_different_timeouts() -> None:
    states = [start(evolve(ONE, id=node), voters=(1, 2, 3)) for node in (1, 2, 3)]
    assert len({state.rng for state in states}) == 3


def test_5_2_at_most_one_leader_is_elected_in_a_term() -> None:
    """Figure 3, Election Safety: each member gives one vote per term, and keeps it over a crash."""
    cluster = Cluster(3)
    cluster.step(1, Campaign())
    cluster.step(2, Campaign())
    cluster.deliver()
    asked = [state.vote for state in cluster.states.values()]
    assert sorted(asked) in ([1, 1, 2], [1, 2, 2])
    assert len(cluster.leaders()) == 1
    cluster.crash(3)
    cluster.restart(3)
    other = 3 - cluster.states[3].vote
    assert sent_by(cluster.states[3], RequestVote(other, 3, 1, 9, 9)) == [
        VoteResponse(3, other, 1, True)
    ]


@pytest.mark.parametrize(
    ("vote", "leader", "sender", "granted"),
    [
        (0, 0, 2, True),
        (0, 0, 3, True),
        (2, 0, 2, True),
        (3, 0, 2, False),
        (1, 0, 2, False),
        (0, 3, 2, False),
        (3, 3, 2, False),
        (2, 3, 2, True),
        (0, 2, 2, False),
    ],
)
def test_5_2_a_vote_is_given_once_in_a_term(
    vote: int, leader: int, sender: int, granted: bool
) -> None:
    """§5.2 and figure 2: votedFor is nobody or the candidate; no vote beside a known leader."""
    state = member(terms=(1,), term=3, vote=vote)
    if leader:
        state = run(state, Heartbeat(leader, 1, 3, 0))
    assert sent_by(state, RequestVote(sender, 1, 3, 5, 2)) == [
        VoteResponse(1, sender, 3, not granted)
    ]
    after = run(state, RequestVote(sender, 1, 3, 5, 2))
    assert after.vote == (sender if granted else vote)


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
def test_5_2_candidates_and_leaders_vote_for_nobody_else_in_their_term(role: Role) -> None:
    state = candidate(member()) if role is Role.CANDIDATE else elected(member())
    assert state.role is role
    assert sent_by(state, RequestVote(2, 1, 1, 9, 9)) == [VoteResponse(1, 2, 1, True)]


# --- §5.4.1: the election restriction -----------------------------------------------------------

LOGS = [(), (1,), (1, 1), (1, 2), (1, 1, 1), (1, 1, 2), (3,)]


@pytest.mark.parametrize("mine", LOGS)
@pytest.mark.parametrize("theirs", LOGS)
@pytest.mark.parametrize("pre", [False, True])
def test_5_4_1_a_vote_goes_only_to_a_log_at_least_as_up_to_date(
    mine: tuple[int, ...], theirs: tuple[int, ...], pre: bool
) -> None:
    """§5.4.1: the later last term wins; with equal terms, the longer log."""
    state = member(terms=mine, term=3)
    last_term = theirs[-1] if theirs else 0
    request = (PreVote if pre else RequestVote)(2, 1, 4, len(theirs), last_term)
    answers = sent_by(state, request)
    up_to_date = (last_term, len(theirs)) >= (mine[-1] if mine else 0, len(mine))
    (answer,) = answers
    assert isinstance(answer, PreVoteResponse if pre else VoteResponse)
    assert answer.rejected is not up_to_date
    # Granted: the term of the request. Refused: the own, which a Vote has raised by now.
    assert answer.term == (4 if up_to_date or not pre else 3)


def test_5_4_1_a_member_that_lacks_a_committed_entry_cannot_be_elected() -> None:
    """§5.4.1: some voter of every majority has it, and denies its vote."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.cut(4, 5)
    cluster.propose(1, b"committed")
    committed = cluster.states[1].commit
    assert committed == 2
    for together in combinations((1, 2, 3, 5), 2):
        world = Cluster(5, logs={n: (1, 1) if n < 4 else (1,) for n in range(1, 6)})
        world.cut(4, *together)
        world.step(4, Campaign())
        world.deliver()
        assert world.leaders() == []


def test_5_4_1_a_granted_vote_is_for_the_newest_entry_even_if_unstored() -> None:
    """The comparison is with everything appended, since an answer waits until it is stored."""
    state = run(member(term=1), append(member(), 2, log_of(1, 1), term=1))
    assert sent_by(state, RequestVote(3, 1, 2, 1, 1)) == [VoteResponse(1, 3, 2, True)]


# --- §5.6: timing and availability --------------------------------------------------------------


def test_5_6_a_steady_leader_stays_while_its_heartbeats_come_faster_than_timeouts() -> None:
    cluster = Cluster(5)
    cluster.elect(3)
    cluster.tick(100)
    assert cluster.leaders() == [3]
    assert {state.term for state in cluster.states.values()} == {1}


def test_5_6_a_crashed_leader_is_replaced_within_two_election_timeouts() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(1)
    cluster.tick(2 * 10)
    (leader,) = cluster.leaders()
    assert leader in (2, 3)
    assert cluster.states[leader].term > 1
