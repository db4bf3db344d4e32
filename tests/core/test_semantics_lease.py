"""``Config.measured_lease`` and ``transfer_ends_lease``: reads by the clock (thesis 6.4.1).

The plain lease, as in the model, holds from one quorum check to the next, and a follower's promise
not to vote ends when it forgets its leader. The measured one counts from the sending of heartbeats
that a quorum answered, and whoever answers keeps its promise whatever happens to it meanwhile.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    ApplyChange,
    Campaign,
    Config,
    ForgetLeader,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    MembershipChange,
    Message,
    PreVote,
    PreVoteResponse,
    Propose,
    Read,
    ReadMode,
    RequestVote,
    Role,
    State,
    Tick,
    TimeoutNow,
    TransferLeader,
    Transition,
    VoteResponse,
    start,
)
from tests.core.cluster import (
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

PLAIN = Config(id=1, check_quorum=True, read_mode=ReadMode.LEASE)
MEASURED = evolve(PLAIN, measured_lease=True)


def leading(config: Config, *others: int) -> State:
    """A leader whose first entry is committed, at its tick 0."""
    others = others or (2, 3)
    return followed(elected(member(config, voters=(1, *others))), *others)


def answers(state: State) -> bool:
    """Whether a lease read is answered at once."""
    return bool(run(state, Read(b"r", lease=True)).outbox.reads)


def answered(state: State, tick: int, *peers: int) -> State:
    """These peers answer the heartbeats of a tick."""
    return run(state, *[beat(state, peer, sent_tick=tick) for peer in peers])


# --- the leader's side --------------------------------------------------------------------------


def test_a_plain_lease_holds_from_quorum_check_to_quorum_check() -> None:
    leader = leading(PLAIN)
    assert answers(leader)
    assert answers(ticked(leader, 19))
    assert not answers(ticked(leader, 20))


def test_a_measured_lease_begins_with_the_first_heartbeat_that_a_quorum_answered() -> None:
    leader = leading(MEASURED)
    assert not answers(leader)
    leader = ticked(leader, 1)
    assert not answers(leader)
    assert answers(answered(leader, 1, 2))


def test_a_lease_read_that_waited_does_not_send_the_answering_peer_anything_twice() -> None:
    """It is answered in the middle of the acknowledgement that commits the term's first entry."""
    config = evolve(MEASURED, append_bytes_max=1)  # one entry per append
    leader = elected(member(config, voters=(1, 2, 3)))
    propose = Propose((normal(b"a"), normal(b"b")))
    leader, _ = settled(run(ticked(leader, 1), Read(b"r", lease=True), propose))
    leader, _ = settled(run(leader, beat(leader, 2, sent_tick=1)))
    after = run(leader, acked(leader, 2, 1))
    assert [one.context for one in after.outbox.reads] == [b"r"]
    sent = [one for one in after.messages if isinstance(one, AppendEntries) and one.to == 2]
    assert [[entry.index for entry in one.entries] for one in sent] == [[2], [3]]
    peer = after.peer(2)
    assert peer is not None
    assert (peer.match, peer.next, len(peer.inflight)) == (1, 4, 2)


@pytest.mark.parametrize("election", [2, 4, 10, 16, 100])
def test_a_measured_lease_ends_before_a_clock_a_fifth_faster_lets_anybody_vote(
    election: int,
) -> None:
    """A voter's promise lasts election_ticks - 1 whole periods of its clock, after it was asked."""
    leader = leading(evolve(MEASURED, election_ticks=election))
    leader = answered(ticked(leader, 1), 1, 2)
    lasting = 0
    while answers(leader):
        lasting += 1
        leader = ticked(leader, 1)
    # The leader's clock may be a fifth slower, the voter's a fifth faster.
    assert lasting * 1.2 <= (election - 1) * 0.8 + 1e-9
    assert lasting == (election - 1) * 2 // 3


def test_a_measured_lease_counts_from_the_sending_not_from_the_answer() -> None:
    """A late answer proves no more than that its heartbeat was seen after it was sent."""
    leader = ticked(leading(MEASURED), 8)
    assert not answers(answered(leader, 1, 2, 3))
    assert answers(answered(leader, 8, 2))


def test_a_measured_lease_needs_a_quorum_of_fresh_answers() -> None:
    leader = ticked(leading(MEASURED, 2, 3, 4, 5), 9)
    leader = answered(leader, 9, 2)
    assert not answers(leader)
    assert not answers(answered(leader, 1, 3))
    assert answers(answered(leader, 9, 3))


def test_a_measured_lease_needs_both_halves_of_a_joint_configuration() -> None:
    leader = leading(MEASURED)
    steps = (voter(4), voter(5), removed(2), removed(3))
    leader = run(leader, ApplyChange(MembershipChange(steps, Transition.EXPLICIT)))
    leader = ticked(leader, 1)
    assert not answers(answered(leader, 1, 2, 3))
    assert not answers(answered(leader, 1, 4, 5))
    assert answers(answered(leader, 1, 2, 4))


def test_an_echo_from_the_future_counts_as_now() -> None:
    leader = ticked(leading(MEASURED), 2)
    leader = answered(leader, 99, 2)
    assert answers(leader)
    assert not answers(ticked(leader, 10))


def test_an_older_echo_does_not_shorten_a_measured_lease() -> None:
    leader = answered(ticked(leading(MEASURED), 9), 9, 2)
    assert answers(answered(leader, 1, 2))


def test_a_single_voter_needs_nobody_for_its_measured_lease() -> None:
    config = evolve(MEASURED, single_voter_reads_wait=True)
    leader = settled(elected(member(config, voters=(1,))))[0]
    assert answers(ticked(leader, 1))


def test_heartbeats_carry_the_leaders_clock_and_answers_echo_it() -> None:
    leader = ticked(leading(MEASURED), 6)
    sent = sent_by(leader, Tick())
    assert [one.sent_tick for one in sent if isinstance(one, Heartbeat)] == [7, 7]
    (answer,) = sent_by(member(), Heartbeat(2, 1, 0, 0, 3, 7))
    assert answer == HeartbeatResponse(1, 2, 0, 3, 7)


# --- the followers' side ------------------------------------------------------------------------


def promised(config: Config, *, pre_vote: bool = False) -> State:
    """A follower of leader 2 in term 4 that has just answered a heartbeat."""
    state = member(evolve(config, pre_vote=pre_vote), term=4)
    for _ in range(3):  # long after its start, so that nothing of that holds its vote back
        state = run(ticked(state, 6), Heartbeat(2, 1, 4, 0, 0, 5))
    return settled(state)[0]


def votes(state: State, term: int = 5) -> bool:
    """Whether member 3 is given a vote, or a pre-vote."""
    sent = sent_by(state, RequestVote(3, 1, term, 9, 9)) + sent_by(state, PreVote(3, 1, term, 9, 9))
    answers = [one for one in sent if isinstance(one, VoteResponse | PreVoteResponse)]
    return any(not one.rejected for one in answers)


LETTING_GO: dict[str, tuple[list[ForgetLeader | Message], int]] = {
    "nothing": ([], 5),
    "forgetting the leader": ([ForgetLeader()], 5),
    "a late refusal of an old campaign": ([PreVoteResponse(3, 1, 5, True)], 5),
    "an old answer of a higher term": ([AppendResponse(3, 1, 5, 0)], 6),
}


@pytest.mark.parametrize("what", LETTING_GO)
def test_who_answered_a_heartbeat_gives_no_vote_for_an_election_timeout(what: str) -> None:
    """The promise on which the measured lease stands, whatever happens meanwhile."""
    inputs, term = LETTING_GO[what]
    config = Config(id=1, check_quorum=True, measured_lease=True)
    for ticks in range(10):
        state = ticked(promised(config), ticks)
        held = run(state, *inputs)
        assert not votes(held, term)
        # Not even the term of who asks is taken over.
        assert run(held, RequestVote(3, 1, 9, 9, 9), PreVote(3, 1, 9, 9, 9)) == held
    assert votes(run(ticked(promised(config), 10), *inputs), term)


@pytest.mark.parametrize("what", LETTING_GO)
def test_a_plain_lease_is_let_go_by_whoever_forgets_its_leader(what: str) -> None:
    """As in the model, and why the measured lease does not rely on that."""
    inputs, term = LETTING_GO[what]
    state = promised(Config(id=1, check_quorum=True))
    assert votes(run(state, *inputs), term) is bool(inputs)


@pytest.mark.parametrize("pre_vote", [False, True])
def test_who_answered_a_heartbeat_does_not_campaign_either_unless_it_is_handed_the_lead(
    pre_vote: bool,
) -> None:
    config = Config(id=1, check_quorum=True, measured_lease=True)
    state = promised(config, pre_vote=pre_vote)
    assert run(state, Campaign()).role is Role.FOLLOWER
    assert run(ticked(state, 10), Campaign()).role is not Role.FOLLOWER
    assert run(state, TimeoutNow(2, 1, 4)).role is Role.CANDIDATE
    plain = promised(evolve(config, measured_lease=False), pre_vote=pre_vote)
    assert run(plain, Campaign()).role is not Role.FOLLOWER


def test_a_handed_over_leadership_is_given_votes_in_spite_of_the_promise() -> None:
    state = promised(Config(id=1, check_quorum=True, measured_lease=True))
    assert run(state, RequestVote(3, 1, 5, 9, 9, transfer=True)).vote == 3
    state = run(state, AppendResponse(3, 1, 5, 0))
    assert run(state, RequestVote(3, 1, 5, 9, 9, transfer=True)).vote == 3


@pytest.mark.parametrize("measured", [False, True])
def test_a_restarted_member_gives_no_vote_while_its_forgotten_promise_may_last(
    measured: bool,
) -> None:
    config = Config(id=1, check_quorum=True, measured_lease=measured)
    state = start(config, voters=(1, 2, 3), hard_state=HardState(4, 0, 0))
    held = [not votes(ticked(state, ticks)) for ticks in range(12)]
    assert held == [measured] * 10 + [False] * 2


def test_a_new_member_has_promised_nothing() -> None:
    config = Config(id=1, check_quorum=True, measured_lease=True)
    assert votes(start(config, voters=(1, 2, 3)))


def test_no_clock_a_fifth_off_lets_two_members_answer_by_lease() -> None:
    """A leader is cut off; nobody else is elected before its lease ends."""
    cluster = Cluster(3, config=evolve(MEASURED, pre_vote=True, id=1))
    cluster.elect(1)
    cluster.tick(5)
    assert answers(cluster.states[1])
    cluster.cut(1)
    cluster.step(2, ForgetLeader())
    cluster.step(3, ForgetLeader())
    slow, fast = 0, 0
    while cluster.leaders() == [1] and fast < 100:
        fast += 3
        cluster.tick(3, 2, 3)
        slow += 2
        cluster.tick(2, 1)
        if cluster.leaders() != [1]:
            assert not answers(cluster.states[1])
    assert fast < 100


# --- handing over -------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("config", [PLAIN, MEASURED], ids=["plain", "measured"])
def test_a_leader_that_hands_over_answers_nothing_by_lease(config: Config, ends: bool) -> None:
    """The target's campaign overrides every promise."""
    leader = leading(evolve(config, transfer_ends_lease=ends))
    leader = answered(ticked(leader, 1), 1, 2, 3)
    assert answers(leader)
    assert answers(run(leader, TransferLeader(2))) is not ends


def test_a_lease_given_up_for_a_campaign_under_way_stays_so_for_the_term() -> None:
    """The transfer is aborted here, but TimeoutNow has left and may arrive at any time."""
    leader = leading(evolve(MEASURED, transfer_ends_lease=True))
    leader = run(leader, TransferLeader(2))
    leader, _ = settled(leader)
    for _ in range(12):
        leader = run(leader, Tick(), beat(leader, 2, sent_tick=99))
    assert leader.leading.transferee == 0
    assert not answers(leader)


def test_a_lease_comes_back_after_a_transfer_that_asked_nobody_to_campaign() -> None:
    leader = elected(member(evolve(MEASURED, transfer_ends_lease=True)))
    leader = followed(leader, 3)
    leader = run(leader, TransferLeader(2))  # it lacks the newest entry, so it is not told to yet
    assert not answers(answered(ticked(leader, 1), 1, 3))
    for _ in range(10):
        leader = run(leader, Tick(), beat(leader, 3, sent_tick=99))
    assert leader.leading.transferee == 0
    assert answers(leader)


def test_a_later_term_has_a_lease_again_and_a_clock_from_zero() -> None:
    leader = ticked(leading(evolve(MEASURED, transfer_ends_lease=True)), 3)
    leader = settled(run(leader, TransferLeader(2)))[0]
    follower = settled(run(leader, AppendEntries(2, 1, 2, 1, 1, 1)))[0]
    again = followed(elected(follower), 2, 3)
    assert again.lead_ticks == 0
    assert answers(answered(ticked(again, 1), 1, 2))
