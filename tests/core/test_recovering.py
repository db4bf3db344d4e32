"""A member that lost what it promised: neither votes nor counts until it is whole again.

What raftkv/core/recovering.py argues, sentence by sentence; the simulator tries the rest.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Applied,
    ApplyChange,
    AskTerm,
    Campaign,
    Config,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Log,
    Membership,
    MembershipChange,
    Payload,
    Persisted,
    PreVote,
    PreVoteResponse,
    Promise,
    ReadIndexRequest,
    ReadIndexResponse,
    Recovering,
    RecoveringChanged,
    Regressed,
    Repaired,
    RequestVote,
    Role,
    State,
    TellTerm,
    TimeoutNow,
    VoteResponse,
    encode_change,
    has_ready,
    ready,
    start,
)
from tests.core.cluster import (
    elected,
    followed,
    log_of,
    member,
    removed,
    run,
    sent_by,
    settled,
    snapshot_at,
    ticked,
    voter,
)

ONE = Config(id=1, campaign_when_stored=True)
LOG, ALL = Recovering.LOG, Recovering.ALL
both_losses = pytest.mark.parametrize("loss", [LOG, ALL])


def damaged(
    loss: Recovering,
    *terms: int,
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    voters: tuple[int, ...] = (1, 2, 3),
    promised: tuple[Entry, ...] = (),
    config: Config = ONE,
) -> State:
    """A member whose disk gave back a log of these terms, and that there was more."""
    entries = log_of(*terms)
    return start(
        config,
        voters=voters,
        hard_state=HardState(term or max(terms, default=0), vote, commit),
        entries=entries,
        recovering=loss,
        promised=Promise(promised[-1].index, promised[-1].chain) if promised else None,
    )


def context_of(state: State) -> bytes:
    assert state.recovery is not None
    return state.recovery.context


def covered(state: State, index: int, *, leader: int = 2) -> State:
    """The leader of the term has answered the member's question with ``index``."""
    return run(state, ReadIndexResponse(leader, 1, state.term, index, context_of(state)))


def told(state: State, **terms: int) -> State:
    """Voters (``n2=5``: voter 2) tell their terms."""
    for name, term in terms.items():
        state = run(state, TellTerm(int(name[1:]), 1, term, context_of(state)))
    return state


def followed_up(state: State, *terms: int, term: int = 0, commit: int = 0) -> State:
    """Member 2 leads and has brought a log of these terms, all stored here."""
    at = term or max(terms)
    state = run(state, AppendEntries(2, 1, at, 0, 0, commit, log_of(*terms)))
    return settled(state)[0]


# --- what it does not do ------------------------------------------------------------------------


@both_losses
def test_it_gives_no_vote_and_no_pre_vote(loss: Recovering) -> None:
    state = damaged(loss, 1, 1)
    assert sent_by(state, RequestVote(2, 1, 5, 9, 4)) == [VoteResponse(1, 2, 5, rejected=True)]
    assert sent_by(state, PreVote(2, 1, 5, 9, 4)) == [PreVoteResponse(1, 2, 1, rejected=True)]


@both_losses
def test_it_never_campaigns(loss: Recovering) -> None:
    state = damaged(loss, 1, 1)
    for after in (ticked(state, 100), run(state, Campaign()), run(state, TimeoutNow(2, 1, 1))):
        assert after.role is Role.FOLLOWER
        assert not after.is_promotable
        assert after.term == 1


@both_losses
def test_what_it_answers_to_a_leader_is_flagged(loss: Recovering) -> None:
    state = damaged(loss, 1, 1)
    assert sent_by(state, Heartbeat(2, 1, 1, 0, 7, 8)) == [
        HeartbeatResponse(1, 2, 1, 7, 8, recovering=True)
    ]
    (taken,) = sent_by(state, AppendEntries(2, 1, 1, 2, 1, 0, log_of(1, 1, 1)[2:]))
    (refused,) = sent_by(state, AppendEntries(2, 1, 1, 9, 1, 0))
    assert isinstance(taken, AppendResponse)
    assert isinstance(refused, AppendResponse)
    assert (taken.index, taken.recovering, taken.rejected) == (3, True, False)
    assert (refused.recovering, refused.rejected) == (True, True)


def test_a_heartbeat_beyond_its_log_does_not_stop_it_nor_make_the_loss_greater() -> None:
    """The leader does not know of the loss yet."""
    state, sent = settled(run(damaged(LOG, 1, 1), Heartbeat(2, 1, 1, 9)))
    assert state.recovering is LOG
    assert AppendResponse(1, 2, 1, 9, True, 2, 1, recovering=True) in sent


@both_losses
def test_a_heartbeat_commits_nothing_in_it(loss: Recovering) -> None:
    """An old copy may hold a deposed leader's entries where the committed ones stood."""
    state = run(damaged(loss, 1, 1, 1, term=2, commit=1), Heartbeat(2, 1, 2, 3))
    assert state.commit == 1
    state = run(state, AppendEntries(2, 1, 2, 1, 1, 3, log_of(1, 2, 2)[1:]))  # which compares
    assert (state.commit, state.log.last_term) == (3, 2)


def test_a_stored_commit_beyond_what_is_left_of_the_log_is_no_contradiction() -> None:
    assert damaged(LOG, 1, 1, commit=9).commit == 2


def test_a_restarted_member_keeps_the_lease_that_it_may_have_promised_before() -> None:
    config = evolve(ONE, measured_lease=True)
    assert damaged(ALL, config=config).hold_ticks == config.election_ticks


# --- what it asks -------------------------------------------------------------------------------


def test_it_asks_its_leader_how_far_to_reach_until_it_is_told() -> None:
    state = run(damaged(LOG, 1, 1), Heartbeat(2, 1, 1, 0))
    question = ReadIndexRequest(1, 2, context_of(state), recovering=True)
    state, sent = settled(ticked(settled(state)[0], 1))
    assert sent == [question]
    state, sent = settled(ticked(state, ONE.election_ticks))
    assert sent == []
    state, sent = settled(ticked(state, 1))
    assert sent == [question]
    state, sent = settled(ticked(covered(state, 3), 30))
    assert sent == []
    assert state.recovering is LOG


def test_it_asks_nobody_while_it_knows_no_leader_and_at_once_when_it_does() -> None:
    state, sent = settled(ticked(damaged(LOG, 1, 1), 50))
    assert sent == []
    state, _ = settled(run(state, Heartbeat(2, 1, 1, 0)))
    assert len(settled(ticked(state, 1))[1]) == 1


def test_with_everything_lost_it_asks_every_other_voter_of_both_halves_for_its_term() -> None:
    joint = Membership((1, 2, 3), (3, 4), (5,))
    state = start(ONE, snapshot=evolve(snapshot_at(3, 1), membership=joint), recovering=ALL)
    _, sent = settled(ticked(state, 1))
    assert sent == [AskTerm(1, other, context_of(state)) for other in (2, 3, 4)]
    state = told(state, n2=1, n4=1)
    state, sent = settled(ticked(state, 1 + ONE.election_ticks))
    assert sent == [AskTerm(1, 3, context_of(state))]


@pytest.mark.parametrize("state", [member(term=7), damaged(LOG, term=7), damaged(ALL, term=7)])
def test_anybody_tells_its_term(state: State) -> None:
    asked = AskTerm(3, 1, b"context")
    assert sent_by(state, asked) == [TellTerm(1, 3, 7, b"context")]
    assert run(state, asked).term == 7


def test_each_recovery_has_a_name_of_its_own() -> None:
    names = {context_of(damaged(LOG, 1, config=evolve(ONE, seed=seed))) for seed in (1, 2, 3)} | {
        context_of(run(member(), Regressed()))
    }
    assert len(names) == 4


def test_answers_to_another_recovery_are_for_nobody() -> None:
    state = followed_up(damaged(ALL, 1), 1, 1, commit=2)
    other = context_of(damaged(ALL, 1, config=evolve(ONE, seed=9)))
    after = run(state, ReadIndexResponse(2, 1, 1, 1, other), TellTerm(2, 1, 9, other))
    assert after == state
    whole = followed_up(member(), 1, 1, commit=2)
    assert run(whole, ReadIndexResponse(2, 1, 1, 1, other)).outbox.reads == ()
    assert run(whole, TellTerm(2, 1, 9, other)) == whole


# --- whole again --------------------------------------------------------------------------------


def test_it_is_whole_when_its_stored_log_is_committed_up_to_the_answer_of_a_round() -> None:
    state = damaged(LOG, 1)
    state = run(state, AppendEntries(2, 1, 1, 0, 0, 0, log_of(1, 1, 1)))
    state = covered(state, 3)
    assert state.recovering is LOG, "nothing of it is stored, nor known to be committed"
    state, todo = ready(state)
    stored = run(state, Persisted(todo.number))
    assert stored.recovering is LOG, "not known to be committed"
    two, three = (AppendEntries(2, 1, 1, 3, 1, commit) for commit in (2, 3))
    assert run(state, three).recovering is LOG, "not stored"
    assert run(stored, two).recovering is LOG
    assert run(stored, three).recovering is None


def test_being_committed_as_far_as_its_leader_says_is_not_enough() -> None:
    """What was committed with its help may lie beyond: only a fresh round knows."""
    assert followed_up(damaged(LOG, 1), 1, 1, 1, commit=3).recovering is LOG


def test_the_first_answer_stays_good() -> None:
    state = covered(covered(followed_up(damaged(LOG, 1), 1, 1, commit=1), 2), 9)
    assert run(state, AppendEntries(2, 1, 1, 2, 1, 2)).recovering is None


def test_a_snapshot_counts_once_it_is_stored() -> None:
    state = damaged(LOG, voters=())
    state = run(state, InstallSnapshot(2, 1, 1, snapshot_at(5, 1)))
    state = covered(state, 5)
    assert state.recovering is LOG
    assert settled(state)[0].recovering is None


def test_with_everything_lost_all_other_voters_must_have_told_their_terms() -> None:
    """A mere majority would not do: of five, another one may hold our forgotten vote."""
    state = damaged(ALL, 1, voters=(1, 2, 3, 4, 5))
    state = covered(followed_up(state, 1, 1, commit=2), 2)
    state = told(state, n2=1, n3=1, n4=1)
    assert state.recovering is ALL
    assert told(state, n5=1).recovering is None


def test_with_everything_lost_what_is_covered_must_be_applied_for_it_may_add_voters() -> None:
    state = covered(told(damaged(ALL, 1, voters=(1, 2)), n2=1), 2)
    state = run(state, AppendEntries(2, 1, 1, 0, 0, 2, log_of(1, 1)))
    state, todo = ready(state)
    state = run(state, Persisted(todo.number))
    assert run(state, Applied(2)).recovering is None
    state = run(state, ApplyChange(MembershipChange((voter(3),))), Applied(2))
    assert state.recovering is ALL
    assert told(state, n3=1).recovering is None
    without = run(state, ApplyChange(MembershipChange((removed(3),))))
    assert without.recovering is None, "who was removed is asked no more"


def test_it_takes_the_highest_term_it_hears_with_its_vote_there_spent() -> None:
    state = told(damaged(ALL, 1, 1, term=1), n2=5, n3=4)
    assert (state.term, state.vote, state.recovering) == (5, 0, ALL)
    state = covered(followed_up(state, 1, 1, term=5, commit=2), 2)
    assert (state.term, state.vote, state.recovering) == (5, 1, None)
    (answer,) = sent_by(state, RequestVote(3, 1, 5, 9, 5))
    assert answer == VoteResponse(1, 3, 5, rejected=True)


def test_a_term_that_nobody_had_reached_has_a_vote_to_give() -> None:
    state = told(damaged(ALL, 1, 1), n2=5, n3=4)
    state = covered(followed_up(state, 1, 1, term=6, commit=2), 2)
    assert (state.term, state.vote, state.recovering) == (6, 0, None)


def test_a_vote_that_the_disk_still_knows_is_not_another_one() -> None:
    state = told(damaged(ALL, 1, 1, term=3, vote=2), n2=3, n3=3)
    state = covered(followed_up(state, 1, 1, term=3, commit=2), 2)
    assert (state.term, state.vote, state.recovering) == (3, 2, None)


def test_a_log_that_is_lost_leaves_the_vote_free() -> None:
    state = covered(followed_up(damaged(LOG, 1, 1, term=3), 1, 1, term=3, commit=2), 2)
    assert (state.term, state.vote, state.recovering) == (3, 0, None)


def test_the_change_is_stored_with_what_it_stands_on() -> None:
    state, todo = ready(run(member(), Regressed()))
    assert todo.recovering == RecoveringChanged(ALL)
    assert todo.must_sync
    assert not todo.is_empty
    assert not has_ready(state)
    state, todo = ready(covered(followed_up(damaged(LOG, 1), 1, 1, commit=2), 2))
    assert todo.recovering == RecoveringChanged(None)
    assert todo.must_sync
    assert not has_ready(state)


# --- repaired by peers --------------------------------------------------------------------------

BEFORE = log_of(1, 1, 2, 2)


def test_an_exact_repair_makes_a_lost_log_whole_at_once() -> None:
    state = run(damaged(LOG, 1, 1, term=2, promised=BEFORE), Repaired(BEFORE[2:]))
    assert state.recovering is None
    state, todo = ready(state)
    assert todo.entries == BEFORE[2:]
    assert todo.recovering == RecoveringChanged(None)
    assert state.log.last_chain == BEFORE[-1].chain


@pytest.mark.parametrize(
    ("kinds", "commit"), [("nnnn", 1), ("nnCn", 1), ("nCnC", 2), ("CnCC", 3), ("nCCn", 2)]
)
def test_a_repaired_log_shows_which_changes_were_committed(kinds: str, commit: int) -> None:
    """All but the last: else two votes could win an election in a membership long gone."""
    log = Log.starting_at(0, 0)
    for kind in kinds:
        payload = Payload(EntryKind.NORMAL, b"x")
        if kind == "C":
            payload = Payload(EntryKind.CHANGE, encode_change(MembershipChange()))
        log, _ = log.propose(1, (payload,))
    whole = log.slice(1, 5)
    lost = start(
        ONE,
        voters=(1, 2, 3),
        hard_state=HardState(1, 0, 4),
        entries=whole[:1],
        recovering=LOG,
        promised=Promise(4, log.last_chain),
    )
    assert lost.commit == 1
    state = run(lost, Repaired(whole[1:]))
    assert (state.recovering, state.log.last_index, state.commit) == (None, 4, commit)
    while has_ready(state):
        state, _ = ready(state)
    campaigning = run(state, Campaign())
    assert (campaigning.role is Role.FOLLOWER) == ("C" in kinds[1:commit]), "applied first"


def test_what_the_repair_brings_too_much_is_left_out() -> None:
    state = damaged(LOG, 1, 1, term=2, promised=BEFORE)
    state = run(state, Repaired(log_of(1, 1, 2, 2, 2)))
    assert (state.recovering, state.log.last_index) == (None, 4)


@pytest.mark.parametrize(
    "entries",
    [
        (),
        BEFORE[:2],
        BEFORE[2:3],  # not all of it
        BEFORE[3:],  # with a gap
        log_of(1, 1, 2, 3)[2:],  # another entry
        (BEFORE[2], evolve(BEFORE[3], data=b"?")),  # damaged
        (evolve(BEFORE[2], chain=7), BEFORE[3]),
    ],
)
def test_any_other_repair_changes_nothing(entries: tuple[Entry, ...]) -> None:
    state = damaged(LOG, 1, 1, term=2, promised=BEFORE)
    assert run(state, Repaired(entries)) == state


def test_a_repair_is_for_who_lost_a_log_and_knows_what_it_was() -> None:
    for state in (
        member(terms=(1, 1), term=2),
        damaged(LOG, 1, 1, term=2),
        run(damaged(LOG, 1, 1, term=2, promised=BEFORE), Regressed()),
    ):
        assert run(state, Repaired(BEFORE[2:])) == state


def test_a_leader_may_bring_back_what_was_promised_as_well() -> None:
    state = damaged(LOG, 1, 1, term=2, promised=BEFORE)
    state = run(state, AppendEntries(2, 1, 2, 2, 1, 0, BEFORE[2:]))
    assert state.recovering is None


def test_another_log_of_the_same_length_is_not_what_was_promised() -> None:
    state = damaged(LOG, 1, 1, term=2, promised=BEFORE)
    state = run(state, AppendEntries(2, 1, 3, 2, 1, 0, log_of(1, 1, 3, 3)[2:]))
    assert state.recovering is LOG


# --- an old copy ---------------------------------------------------------------------------------


def test_a_leader_that_regressed_leads_no_more() -> None:
    leader = followed(elected(member()), 2)
    state = run(leader, Regressed())
    assert (state.role, state.leader, state.term) == (Role.FOLLOWER, 0, leader.term)
    assert state.recovering is ALL


def test_a_follower_that_regressed_keeps_its_leader_and_asks_it() -> None:
    state = run(followed_up(member(), 1, 1, commit=2), Regressed())
    assert state.leader == 2
    asked = [one for one in settled(ticked(state, 1))[1] if isinstance(one, ReadIndexRequest)]
    assert [one.to for one in asked] == [2]


def test_a_second_notice_changes_nothing_and_a_lost_log_may_become_more() -> None:
    state = run(damaged(LOG, 1, 1, promised=BEFORE), Regressed())
    assert state.recovering is ALL
    assert run(state, Regressed()) == state


def test_a_heartbeat_that_proves_a_loss_is_such_a_notice() -> None:
    state = run(member(evolve(ONE, reprobe_lost=True), terms=(1, 1)), Heartbeat(2, 1, 1, 3))
    assert state.recovering is ALL
