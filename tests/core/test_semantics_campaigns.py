"""The settings of ``Config`` beyond the model that touch elections: each one off and on.

Campaigns wait for the disk, stop beside unapplied membership changes and learn from refusals; a
leader that leaves the membership hands over first.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    SAFEST,
    AppendEntries,
    ApplyChange,
    Campaign,
    Config,
    EntryKind,
    Heartbeat,
    MembershipChange,
    PreVote,
    PreVoteResponse,
    Propose,
    Ready,
    Refusal,
    Refused,
    RequestVote,
    Role,
    State,
    TimeoutNow,
    Unreachable,
    VoteResponse,
    ready,
)
from raftkv.testing import Options
from tests.core.cluster import (
    ONE,
    Cluster,
    acked,
    append,
    beat,
    change,
    elected,
    followed,
    learner,
    log_of,
    member,
    normal,
    removed,
    run,
    sent_by,
    settled,
    ticked,
)
from tests.core.worlds import ByHand

both = pytest.mark.parametrize("on", [False, True], ids=["off", "on"])


def leading(config: Config = ONE, voters: tuple[int, ...] = (1, 2, 3)) -> State:
    """A leader whose log everybody has."""
    return followed(elected(member(config, voters=voters)), *[n for n in voters if n != 1])


def taken(state: State) -> Ready:
    """The Ready alone."""
    return ready(state)[1]


# --- hand_over_first ----------------------------------------------------------------------------


def removing(on: bool, *, peers: int = 3) -> Cluster:
    """A cluster whose leader, 1, leaves; the change is committed and applied at 1 and 3 only."""
    config = Config(id=1, step_down_on_removal=True, hand_over_first=on)
    cluster = Cluster(peers, config=config)
    cluster.elect(1)
    cluster.step(1, change(removed(1)))
    return cluster


@both
def test_a_leader_that_leaves_hands_over(on: bool) -> None:
    cluster = removing(on)
    cluster.deliver()
    assert cluster.states[1].role is Role.FOLLOWER
    assert len(cluster.leaders()) == (1 if on else 0)
    for leader in cluster.leaders():
        cluster.propose(leader, b"x")
        assert cluster.commands(2) == cluster.commands(3) == [b"x"]
    assert cluster.states[1].membership.voters == (2, 3)


def test_a_leader_that_leaves_goes_only_when_a_voter_has_all_of_its_log() -> None:
    leader = leading(Config(id=1, step_down_on_removal=True, hand_over_first=True))
    leader, _ = settled(run(leader, Propose((normal(b"x"),))))
    leader = run(leader, acked(leader, 3))
    leader, _ = settled(run(leader, Propose((normal(b"y"),))))
    leader, sent = settled(run(leader, ApplyChange(MembershipChange((removed(1),)))))
    assert leader.role is Role.LEADER
    assert {message.to for message in sent} == {2, 3}
    leader, sent = settled(run(leader, acked(leader, 3, 2), beat(leader, 3)))
    assert leader.role is Role.LEADER
    leader, sent = settled(run(leader, acked(leader, 3)))
    assert (leader.role, leader.leader) == (Role.FOLLOWER, 0)
    assert sent[-1] == TimeoutNow(1, 3, 1)


def test_a_leader_that_leaves_hands_over_to_voters_only_and_goes_once() -> None:
    config = Config(id=1, step_down_on_removal=True, hand_over_first=True)
    leader = followed(elected(member(config, voters=(1, 2, 3), learners=(4,))), 2, 3, 4)
    leader, _ = settled(run(leader, ApplyChange(MembershipChange((removed(1),)))))
    leader, sent = settled(run(leader, beat(leader, 4)))
    assert (leader.role, sent) == (Role.LEADER, [])
    leader, sent = settled(run(leader, beat(leader, 2), beat(leader, 3)))
    assert sent == [TimeoutNow(1, 2, 1)]
    assert leader.role is Role.FOLLOWER


def test_a_leader_that_leaves_takes_no_proposals() -> None:
    config = Config(id=1, step_down_on_removal=True, hand_over_first=True)
    leader = followed(elected(member(config)), 2)
    leader = run(leader, ApplyChange(MembershipChange((learner(1),))))
    assert leader.role is Role.LEADER
    leader = run(leader, Propose((normal(b"x"),), 7))
    assert leader.outbox.answers == (Refused(7, Refusal.NOT_A_MEMBER),)


def test_a_leader_that_stays_without_step_down_hands_over_nothing() -> None:
    leader = leading(Config(id=1, hand_over_first=True))
    leader, _ = settled(run(leader, ApplyChange(MembershipChange((removed(1),)))))
    leader, sent = settled(run(leader, beat(leader, 2), beat(leader, 3)))
    assert (leader.role, sent) == (Role.LEADER, [])


# --- recheck_campaign ---------------------------------------------------------------------------


@both
def test_a_won_pre_vote_is_worth_nothing_beside_an_unapplied_change(on: bool) -> None:
    """A belt beside braces: no input raises the commit index of a pre-candidate."""
    config = Config(id=1, pre_vote=True, recheck_campaign=on)
    state, _ = settled(run(member(config, terms=(1,), voters=(1, 2, 3)), Campaign()))
    entry = log_of(1)[0]
    log = state.log.truncate(1).append((evolve(entry, kind=EntryKind.CHANGE),))
    state = evolve(state, log=log, commit=1)
    state = run(state, PreVoteResponse(2, 1, 2, False))
    assert (state.role, state.term) == ((Role.FOLLOWER, 1) if on else (Role.CANDIDATE, 2))


def test_a_won_pre_vote_with_everything_applied_leads_to_the_election() -> None:
    config = Config(id=1, pre_vote=True, recheck_campaign=True)
    state, _ = settled(run(member(config, terms=(1,), commit=1), Campaign()))
    assert run(state, PreVoteResponse(2, 1, 2, False)).role is Role.CANDIDATE


# --- campaign_when_stored -----------------------------------------------------------------------


@both
def test_votes_are_asked_for_once_term_vote_and_log_are_stored(on: bool) -> None:
    state = run(member(Config(id=1, campaign_when_stored=on)), append(member(), 2, log_of(1)))
    todo = taken(run(state, Campaign()))
    requests = [RequestVote(1, n, 2, 1, 1) for n in (2, 3)]
    waiting = [one for one in todo.messages_after_persist if isinstance(one, RequestVote)]
    at_once = [one for one in todo.messages if isinstance(one, RequestVote)]
    assert (at_once, waiting) == (([], requests) if on else (requests, []))
    assert todo.entries == log_of(1)


@both
def test_a_crash_amid_a_campaign_cannot_turn_votes_for_one_log_to_another(on: bool) -> None:
    """Off: 3 leads in term 2 without the committed entry that its grants were given for."""
    config = Config(id=1, campaign_when_stored=on)
    cluster = Cluster(3, config=config)
    cluster.elect(1)
    cluster.slow_disks.add(3)
    cluster.propose(1, b"x")  # committed by 1 and 2; 3 has it, but not on its disk
    assert cluster.states[1].commit == 2
    assert cluster.states[3].log.last_index == 2
    cluster.cut(1)
    cluster.step(3, Campaign())
    cluster.deliver()
    cluster.crash(3)
    cluster.restart(3)
    assert cluster.states[3].log.last_index == 1
    late = [VoteResponse(2, 3, 2, False)] if cluster.states[2].vote == 3 else []
    cluster.slow_disks.clear()
    cluster.step(3, Campaign())
    cluster.put(*late)
    cluster.deliver()
    assert cluster.leaders() == ([1] if on else [1, 3])


# --- refusals_tell_commit -----------------------------------------------------------------------


@both
@pytest.mark.parametrize("pre", [False, True])
def test_who_refuses_a_vote_tells_what_is_committed(pre: bool, on: bool) -> None:
    state = member(Config(id=1, refusals_tell_commit=on), terms=(1, 1, 2, 2), commit=3)
    ask = PreVote if pre else RequestVote
    (refused,) = sent_by(state, ask(2, 1, 5, 3, 1))
    (granted,) = sent_by(state, ask(2, 1, 5, 4, 2))
    for answer in (refused, granted):
        assert isinstance(answer, PreVoteResponse if pre else VoteResponse)
        told = (answer.commit, answer.commit_term)
        assert told == ((3, 2) if on and answer.rejected else (0, 0))


@pytest.mark.parametrize("pre", [False, True])
def test_a_refused_candidate_learns_what_is_committed_where_its_log_agrees(pre: bool) -> None:
    config = Config(id=1, pre_vote=pre, refusals_tell_commit=True)
    state, _ = settled(run(member(config, terms=(1, 1, 2)), Campaign()))
    answer = PreVoteResponse if pre else VoteResponse
    for commit, term, learned in ((2, 1, 2), (3, 2, 3), (3, 1, 0), (4, 2, 0), (0, 0, 0)):
        after = run(state, answer(2, 1, state.term, True, commit, term))
        assert after.commit == learned
        assert after.role is state.role  # commands alone change no voters
    known = run(state, answer(2, 1, state.term, True, 3, 2))
    assert run(known, answer(3, 1, state.term, True, 2, 1)).commit == 3


@pytest.mark.parametrize("pre", [False, True])
def test_a_candidate_that_learns_of_a_committed_change_stops_to_apply_it(pre: bool) -> None:
    """It may have asked the wrong voters."""
    config = Config(id=1, pre_vote=pre, refusals_tell_commit=True)
    cluster = Cluster(3, config=config)
    cluster.elect(2)
    cluster.step(2, change(learner(4)))
    cluster.lost = lambda message: isinstance(message, AppendEntries) and message.commit == 2
    cluster.deliver()
    state, _ = settled(run(cluster.states[1], Campaign()))
    assert state.commit == 1
    assert state.role in (Role.CANDIDATE, Role.PRE_CANDIDATE)
    answer = PreVoteResponse if pre else VoteResponse
    state = run(state, answer(3, 1, state.term, True, 2, 1))
    assert (state.commit, state.role, state.leader) == (2, Role.FOLLOWER, 0)
    state, _ = settled(state)
    assert state.membership.learners == (4,)


def test_a_follower_learns_from_a_late_refusal_and_a_leader_does_not() -> None:
    state = member(Config(id=1, refusals_tell_commit=True), terms=(1, 1))
    late = VoteResponse(2, 1, 1, True, 2, 1)
    assert run(state, late).commit == 2
    leader = elected(state)
    assert run(leader, evolve(late, term=leader.term)) == leader


# --- heirs_in_order -----------------------------------------------------------------------------


def following(own: int, on: bool) -> State:
    """A member that follows 1 and has drawn the longest timeout there is."""
    config = Config(id=own, election_ticks=10, heartbeat_ticks=2, heirs_in_order=on)
    state = run(member(config), Heartbeat(1, own, 1, 0))
    return evolve(state, timeout_ticks=19)


@both
def test_heirs_of_a_leader_that_is_cut_off_campaign_in_order(on: bool) -> None:
    for own, turn in ((2, 11), (3, 13)):
        severed = run(following(own, on), Unreachable(1))
        for ticks in (10, 11, 13, 19):
            due = ticks >= (turn if on else 19)
            assert (ticked(severed, ticks).role is Role.CANDIDATE) == due, (own, ticks)


def test_an_heir_waits_for_its_turn_though_chance_gave_it_less() -> None:
    state = run(evolve(following(3, True), timeout_ticks=11), Unreachable(1))
    assert ticked(state, 12).role is Role.FOLLOWER
    assert ticked(state, 13).role is Role.CANDIDATE


def test_an_heir_never_waits_longer_than_chance_would_have_it() -> None:
    config = Config(id=9, election_ticks=10, heartbeat_ticks=2, heirs_in_order=True)
    state = run(member(config, voters=tuple(range(1, 10))), Heartbeat(1, 9, 1, 0), Unreachable(1))
    assert ticked(state, 18).role is Role.FOLLOWER
    assert ticked(state, 19).role is Role.CANDIDATE


def test_a_lost_peer_that_does_not_lead_hastens_nobody() -> None:
    state = following(2, True)
    assert run(state, Unreachable(3)) == state
    assert run(member(Config(id=2, heirs_in_order=True)), Unreachable(1)).role is Role.FOLLOWER


def test_a_leader_that_is_heard_all_the_same_stays() -> None:
    state = run(following(2, True), Unreachable(1))
    for _ in range(5):
        state = run(ticked(state, 10), Heartbeat(1, 2, 1, 0))
        assert (state.role, state.leader) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("seed", range(20))
def test_three_members_have_a_new_leader_a_few_ticks_after_the_timeout(seed: int) -> None:
    settings = {**SAFEST, "election_ticks": 20, "heartbeat_ticks": 2, "seed": seed}
    world = ByHand(Options(voters=3, settings=settings))
    world.elect(world.members[1])
    world.elapse(4)
    leader = world.members[1].state.leader
    heirs = [one for one in (1, 2, 3) if one != leader]
    world.cut.add(leader)
    for heir in heirs:
        world.feed(world.members[heir], Unreachable(leader))
    world.elapse(23)
    assert {world.members[heir].state.leader for heir in heirs} == {heirs[0]}
