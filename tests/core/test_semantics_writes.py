"""RAFT_SEMANTICS sections 12 and 13: Readies, asynchronous writes, applying within a budget."""

from __future__ import annotations

import sys

import pytest
from attrs import evolve

from raftkv.core import (
    APPEND_THREAD,
    APPLY_THREAD,
    Accepted,
    AppendEntries,
    AppendResponse,
    Applied,
    ApplyChange,
    Campaign,
    Compact,
    Config,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Input,
    Log,
    MembershipChange,
    Message,
    Persisted,
    PreVoteResponse,
    Propose,
    ReadIndexResponse,
    Ready,
    ReceiveError,
    Refusal,
    Refused,
    RequestVote,
    Role,
    SoftState,
    State,
    StorageAppend,
    StorageAppendResponse,
    StorageApply,
    StorageApplyResponse,
    Tick,
    VoteResponse,
    digest,
    has_ready,
    ready,
    refuses,
    start,
    step,
    take_answers,
)
from raftkv.core.draft import Draft
from raftkv.core.log import chain_of
from raftkv.core.state import ApplyState
from raftkv.core.types import ENTRY_OVERHEAD_BYTES
from raftkv.errors import InvariantError
from tests.core.cluster import (
    ONE,
    Cluster,
    acked,
    append,
    elected,
    followed,
    log_of,
    member,
    normal,
    removed,
    run,
    settled,
    terms_of,
)


def taken(state: State) -> Ready:
    """The Ready alone."""
    return ready(state)[1]


# --- what a Ready says --------------------------------------------------------------------------


def test_a_member_with_nothing_to_do_has_nothing_ready() -> None:
    state = member(terms=(1, 1))
    assert not has_ready(state)
    todo = taken(state)
    assert todo.is_empty
    assert todo.number == 1


def test_what_is_handed_out_does_not_come_again() -> None:
    state, first = ready(run(member(), append(member(), 2, log_of(1))))
    assert not first.is_empty
    assert not has_ready(state)
    assert taken(state).is_empty


@pytest.mark.parametrize(
    ("what", "inputs"),
    [
        ("soft_state", [Heartbeat(2, 1, 1, 0)]),
        ("hard_state", [RequestVote(2, 1, 1, 0, 0)]),
        ("entries", [AppendEntries(2, 1, 1, 0, 0, 0, log_of(1))]),
        ("messages", [Heartbeat(2, 1, 1, 0)]),
        ("messages_after_persist", [RequestVote(2, 1, 1, 0, 0)]),
        ("responses", [Campaign()]),
        ("reads", [Heartbeat(2, 1, 1, 0), ReadIndexResponse(2, 1, 1, 0, b"r")]),
        ("answers", [Propose((normal(b"x"),), 7)]),
    ],
)
def test_has_ready_is_true_exactly_when_a_ready_says_something(
    what: str, inputs: list[Campaign | Propose | Message]
) -> None:
    state = member()
    for one in inputs:
        state = run(state, one)
        assert has_ready(state)
    assert getattr(taken(state), what)


def test_soft_and_hard_state_are_told_when_they_change() -> None:
    state, todo = ready(run(member(), Heartbeat(2, 1, 1, 0)))
    assert (todo.soft_state, todo.hard_state) == (SoftState(2, Role.FOLLOWER), HardState(1, 0, 0))
    state, todo = ready(run(state, Heartbeat(2, 1, 1, 0)))
    assert (todo.soft_state, todo.hard_state) == (None, None)
    state, todo = ready(run(state, Campaign()))
    assert (todo.soft_state, todo.hard_state) == (SoftState(0, Role.CANDIDATE), HardState(2, 1, 0))


@pytest.mark.parametrize(
    ("message", "must_sync"),
    [
        (Heartbeat(2, 1, 1, 1), False),
        (RequestVote(2, 1, 1, 9, 9), True),
        (Heartbeat(2, 1, 2, 0), True),
        (AppendEntries(2, 1, 1, 1, 1, 0, log_of(1, 1)[1:]), True),
        (AppendEntries(2, 1, 1, 1, 1, 1), False),
    ],
)
def test_must_sync_is_for_entries_term_and_vote(message: Message, must_sync: bool) -> None:
    """RAFT_SEMANTICS 12: a changed commit alone does not ask for it."""
    assert taken(run(member(terms=(1,)), message)).must_sync is must_sync


def test_a_proposal_is_answered_with_its_places() -> None:
    leader = elected(member())
    leader, answers = take_answers(run(leader, Propose((normal(b"x"), normal(b"y")), 7)))
    assert answers == (Accepted(7, 1, 2, 3),)
    todo = taken(leader)
    assert todo.answers == ()
    assert [entry.index for entry in todo.entries] == [2, 3]
    assert todo.responses
    assert take_answers(leader) == (leader, ())


def test_a_proposal_without_id_is_not_answered_when_taken() -> None:
    assert taken(run(elected(member()), Propose((normal(b"x"),)))).answers == ()


def test_without_a_leader_a_proposal_is_refused() -> None:
    """RAFT_SEMANTICS 7: also by candidates."""
    candidate, _ = settled(run(member(), Campaign()))
    pre, _ = settled(run(member(Config(id=1, pre_vote=True)), Campaign()))
    for state in (member(), candidate, pre):
        assert taken(run(state, Propose((normal(b"x"),), 7))).answers == (
            Refused(7, Refusal.NO_LEADER),
        )


def test_an_empty_proposal_is_the_callers_mistake() -> None:
    with pytest.raises(InvariantError, match="without payloads"):
        run(elected(member()), Propose(()))


# --- writes under way ---------------------------------------------------------------------------


def writing(*batches: bytes) -> tuple[State, list[Ready]]:
    """A leader with one write under way for each batch, none of them durable."""
    leader = followed(elected(member(voters=(1, 2, 3, 4, 5))), 2, 3, 4, 5)
    writes: list[Ready] = []
    for batch in batches:
        leader, todo = ready(run(leader, Propose((normal(batch),))))
        writes.append(todo)
    return leader, writes


def match_of(state: State, node: int = 1) -> int:
    """How far a member is known to have the leader's log."""
    progress = state.peer(node)
    assert progress is not None
    return progress.match


def test_several_writes_may_be_under_way_and_each_report_counts_for_its_own() -> None:
    leader, writes = writing(b"a", b"b", b"c")
    assert [todo.number for todo in writes] == list(range(writes[0].number, writes[0].number + 3))
    for done, todo in enumerate(writes, 1):
        leader = run(leader, Persisted(todo.number))
        assert match_of(leader) == 1 + done
        assert leader.unstable == 2 + done


def test_one_report_covers_all_writes_before_it() -> None:
    leader, writes = writing(b"a", b"b", b"c")
    leader = run(leader, Persisted(writes[1].number))
    assert (match_of(leader), leader.unstable, len(leader.writes)) == (3, 4, 1)
    leader = run(leader, Persisted(writes[2].number))
    assert (match_of(leader), leader.unstable, leader.writes) == (4, 5, ())


def test_a_report_that_comes_twice_or_late_changes_nothing() -> None:
    leader, writes = writing(b"a", b"b")
    leader = run(leader, Persisted(writes[1].number))
    assert run(leader, Persisted(writes[1].number)) == leader
    assert run(leader, Persisted(writes[0].number)) == leader


def test_the_responses_may_come_singly_instead() -> None:
    """As storage threads deliver them (RAFT_SEMANTICS 13)."""
    leader, writes = writing(b"a", b"b", b"c")
    singly = leader
    for todo in writes:
        singly = run(singly, *[one for one in todo.responses if one.to == 1])
    at_once = run(leader, Persisted(writes[-1].number))
    assert singly == at_once


def test_a_late_report_never_vouches_for_overwritten_entries() -> None:
    """The ABA problem: written, overwritten, and the first write's report comes last."""
    state = run(member(), append(member(), 2, log_of(1, 1, 1)))
    state, first = ready(state)
    state, second = ready(run(state, append(state, 3, log_of(1, 2, 2)[1:], term=2)))
    assert terms_of(state) == [1, 2, 2]
    assert [entry.index for entry in second.entries] == [2, 3]
    late = run(state, Persisted(first.number))
    assert late.unstable == 1  # not even entry 1, which is the same: the term is another one
    assert [one.number for one in late.writes] == [second.number]
    assert run(late, Persisted(second.number)).unstable == 4


def test_entries_overwritten_and_written_again_are_handed_out_again() -> None:
    """RAFT_SEMANTICS 13: at or after the cut they are no longer handed out."""
    state, _ = ready(run(member(), append(member(), 2, log_of(1, 1, 1))))
    state, todo = ready(run(state, append(state, 3, log_of(1, 2)[1:], term=2)))
    assert [(entry.index, entry.term) for entry in todo.entries] == [(2, 2)]
    state, todo = ready(run(state, append(state, 2, log_of(1, 2, 3)[2:], term=3)))
    assert [(entry.index, entry.term) for entry in todo.entries] == [(3, 3)]


def test_stable_entries_that_are_overwritten_are_not_stable_any_more() -> None:
    state, _ = settled(run(member(), append(member(), 2, log_of(1, 1, 1))))
    assert state.unstable == 4
    state = run(state, append(state, 3, log_of(1, 2)[1:], term=2))
    assert (state.unstable, state.handed, state.log.last_index) == (2, 2, 2)


def test_a_later_write_vouches_for_one_whose_report_was_lost_to_a_change_of_term() -> None:
    """RAFT_SEMANTICS 13: it names the log's end even though it has no entries itself."""
    state, first = ready(run(member(), append(member(), 2, log_of(1, 1))))
    state, second = ready(run(state, RequestVote(3, 1, 5, 9, 9)))
    assert second.entries == ()
    state = run(state, Persisted(first.number))
    assert state.unstable == 1
    assert run(state, Persisted(second.number)).unstable == 3


def test_a_report_of_a_wrong_place_or_term_vouches_for_nothing() -> None:
    state, _ = ready(run(member(), append(member(), 2, log_of(1, 1, 1))))
    for index, log_term, term in ((4, 1, 1), (2, 9, 1), (2, 1, 9), (0, 0, 1)):
        report = StorageAppendResponse(APPEND_THREAD, 1, term, index, log_term)
        assert run(state, report).unstable == 1
    good = run(state, StorageAppendResponse(APPEND_THREAD, 1, 1, 2, 1))
    assert good.unstable == 3
    assert run(good, StorageAppendResponse(APPEND_THREAD, 1, 1, 1, 1)).unstable == 3


def test_a_report_of_entries_not_yet_handed_out_counts_them_as_handed() -> None:
    """An embedder may have stored them by another way."""
    state = run(member(), append(member(), 2, log_of(1, 1)))
    state = run(state, StorageAppendResponse(APPEND_THREAD, 1, 1, 2, 1))
    assert (state.unstable, state.handed) == (3, 3)
    assert taken(state).entries == ()


def test_an_own_vote_of_an_abandoned_campaign_does_not_count_later() -> None:
    state, first = ready(run(member(), Campaign()))
    state, second = ready(run(state, Campaign()))
    assert state.term == 2
    state = run(state, Persisted(first.number))
    assert state.votes == ()
    assert run(state, Persisted(second.number)).votes == ((1, True),)


def test_a_write_that_is_done_is_forgotten() -> None:
    state, todo = ready(run(member(), Campaign()))
    assert [one.number for one in state.writes] == [todo.number]
    assert run(state, Persisted(todo.number)).writes == ()


def test_an_own_acknowledgement_from_before_a_step_down_does_not_count_later() -> None:
    leader, (write,) = writing(b"a")
    leader = run(leader, Heartbeat(2, 1, 2, 0))
    assert run(leader, Persisted(write.number)).unstable == leader.unstable
    assert leader.role is Role.FOLLOWER


# --- with storage threads -----------------------------------------------------------------------


def test_requests_to_threads_mean_nothing_to_a_member() -> None:
    state = member(terms=(1,))
    append_request = StorageAppend(1, APPEND_THREAD, HardState(9, 9, 9), (), None, ())
    assert run(state, append_request, StorageApply(1, APPLY_THREAD, log_of(1), ())) == state


def test_the_apply_threads_answer_is_an_applied_report() -> None:
    state = member(terms=(1, 1), commit=2)
    state, todo = ready(state)
    assert len(todo.committed) == 2
    by_message = run(state, StorageApplyResponse(APPLY_THREAD, 1, todo.committed))
    assert by_message == run(state, Applied(2))
    assert by_message.applied == 2
    assert run(state, StorageApplyResponse(APPLY_THREAD, 1, ())) == state


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (StorageAppendResponse(2, 1, 1, 1, 1), ReceiveError.LOCAL_MESSAGE),
        (StorageApplyResponse(2, 1, ()), ReceiveError.LOCAL_MESSAGE),
        (StorageAppend(2, 1, None, (), None, ()), ReceiveError.LOCAL_MESSAGE),
        (StorageApply(2, 1, (), ()), ReceiveError.LOCAL_MESSAGE),
        (StorageAppendResponse(APPEND_THREAD, 1, 1, 1, 1), None),
        (StorageApplyResponse(APPLY_THREAD, 1, ()), None),
        (AppendResponse(7, 1, 1, 0), ReceiveError.UNKNOWN_PEER),
        (VoteResponse(7, 1, 1, False), ReceiveError.UNKNOWN_PEER),
        (PreVoteResponse(7, 1, 1, False), ReceiveError.UNKNOWN_PEER),
        (HeartbeatResponse(7, 1, 1), ReceiveError.UNKNOWN_PEER),
        (ReadIndexResponse(7, 1, 1, 1, b""), ReceiveError.UNKNOWN_PEER),
        (AppendResponse(2, 1, 1, 0), None),
        (Heartbeat(7, 1, 1, 0), None),
        (RequestVote(7, 1, 1, 0, 0), None),
    ],
)
def test_what_should_not_be_taken_from_the_network(
    message: Message, error: ReceiveError | None
) -> None:
    """RAFT_SEMANTICS 1."""
    assert refuses(member(), message) is error


# --- applying -----------------------------------------------------------------------------------


def test_with_asynchronous_writes_only_what_is_stable_here_is_applied() -> None:
    state, todo = ready(run(member(), append(member(), 2, log_of(1, 1), commit=2)))
    assert (state.commit, todo.committed) == (2, ())
    assert len(taken(run(state, Persisted(todo.number))).committed) == 2


def test_with_synchronous_writes_what_the_same_ready_stores_may_be_applied() -> None:
    config = Config(id=1, async_storage_writes=False)
    todo = taken(run(member(config), append(member(), 2, log_of(1, 1), commit=2)))
    assert todo.entries == todo.committed == log_of(1, 1)


def test_applied_beyond_the_commit_is_fatal() -> None:
    with pytest.raises(InvariantError, match="applied beyond the commit"):
        run(member(terms=(1, 1), commit=1), Applied(2))


def test_an_old_applied_report_changes_nothing() -> None:
    state, _ = settled(member(terms=(1, 1), commit=2))
    assert state.applied == 2
    assert run(state, Applied(1)) == state


SIZE = ENTRY_OVERHEAD_BYTES + 3  # of each entry that log_of makes


def paged(budget: int, entries: int = 5) -> State:
    """A member with that many committed entries to apply, within a budget of so many of them."""
    config = Config(id=1, apply_bytes_max=budget)
    return member(config, terms=(1,) * entries, commit=entries)


def indexes(todo: Ready) -> list[int]:
    """Which entries are to be applied."""
    return [entry.index for entry in todo.committed]


@pytest.mark.parametrize(
    ("budget", "pages"),
    [
        (1, [[1], [2], [3], [4], [5]]),
        (SIZE, [[1], [2], [3], [4], [5]]),
        (2 * SIZE - 1, [[1], [2], [3], [4], [5]]),
        (2 * SIZE, [[1, 2], [3, 4], [5]]),
        (2 * SIZE + 1, [[1, 2], [3, 4], [5]]),
        (5 * SIZE, [[1, 2, 3, 4, 5]]),
        (9 * SIZE, [[1, 2, 3, 4, 5]]),
    ],
)
def test_a_page_holds_what_the_budget_allows_but_at_least_one_entry(
    budget: int, pages: list[list[int]]
) -> None:
    state = paged(budget)
    seen: list[list[int]] = []
    while has_ready(state):
        state, todo = ready(state)
        seen.append(indexes(todo))
        assert not has_ready(state)  # until it is applied
        state = run(state, Applied(todo.committed[-1].index))
    assert seen == pages


def test_what_is_handed_out_and_not_applied_counts_against_the_budget() -> None:
    """RAFT_SEMANTICS 12: across Readies."""
    state = member(Config(id=1, apply_bytes_max=3 * SIZE), terms=(1,) * 6, commit=2)
    state, todo = ready(state)
    assert indexes(todo) == [1, 2]
    state, todo = ready(run(state, Heartbeat(2, 1, 1, 6)))
    assert indexes(todo) == [3]
    assert not has_ready(state)
    state, todo = ready(run(state, Applied(2)))
    assert indexes(todo) == [4, 5]
    state, todo = ready(run(state, Applied(3)))
    assert indexes(todo) == [6]


def test_a_report_in_the_middle_of_a_page_frees_nothing_yet() -> None:
    state, todo = ready(paged(2 * SIZE))
    assert indexes(todo) == [1, 2]
    state = run(state, Applied(1))
    assert state.applied == 1
    assert not has_ready(state)
    assert indexes(taken(run(state, Applied(2)))) == [3, 4]


def test_a_page_that_spent_the_budget_exactly_pauses_until_it_is_applied() -> None:
    state, todo = ready(paged(2 * SIZE, entries=2))
    assert indexes(todo) == [1, 2]
    state = run(state, append(state, 2, log_of(1, 1, 1)[2:], commit=3))
    state, todo = ready(state)
    state = run(state, Persisted(todo.number))
    assert not has_ready(state)
    assert indexes(taken(run(state, Applied(2)))) == [3]


# --- purity -------------------------------------------------------------------------------------


def test_an_old_state_stays_usable_and_gives_the_same_again() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    old = cluster.states[1]
    before = (hash(old), digest(old), old.log.last_index)
    first = run(old, Propose((normal(b"x"),)))
    cluster.propose(1, b"y")
    assert (hash(old), digest(old), old.log.last_index) == before
    second = run(old, Propose((normal(b"x"),)))
    assert (first, hash(first), digest(first)) == (second, hash(second), digest(second))
    assert digest(first) != digest(old)


def test_states_that_differ_have_different_digests() -> None:
    state = member()
    others = [run(state, Tick()), run(state, Campaign()), member(terms=(1,)), start(ONE)]
    assert len({digest(one) for one in [state, *others]}) == 5


def test_logs_are_compared_and_shown_by_their_ends() -> None:
    log = Log.starting_at(0, 0).append(log_of(1, 2))
    assert log == Log.starting_at(0, 0).append(log_of(1, 2))
    assert log != Log.starting_at(0, 0).append(log_of(1, 1))
    assert log != "log"
    assert repr(log).startswith("Log(0/0 .. 2/2, chain=")
    entry = log_of(1)[0]
    assert entry.chain == chain_of(0, 1, 1, entry.kind, entry.data)


# --- what stops a member ------------------------------------------------------------------------


def test_a_second_leader_of_a_term_is_fatal() -> None:
    """Election safety is broken: a dead member is safe, a lying one is not."""
    leader = elected(member())
    for message in (Heartbeat(2, 1, 1, 0), AppendEntries(2, 1, 1, 0, 0, 0)):
        with pytest.raises(InvariantError, match="two leaders"):
            run(leader, message)


@pytest.mark.parametrize(
    "damage", [{"commit": 3}, {"apply": ApplyState(2, 2)}, {"commit": 2, "apply": ApplyState(3, 3)}]
)
def test_a_member_whose_indexes_contradict_each_other_stops_at_the_next_step(
    damage: dict[str, object],
) -> None:
    """Memory that does not hold what was put there: applied <= commit <= last index."""
    state = evolve(member(terms=(1, 1), commit=1), **damage)
    with pytest.raises(InvariantError, match="I3: applied"):
        run(state, Tick())


def test_a_member_outside_its_own_configuration_cannot_lead() -> None:
    candidate, _ = settled(run(member(), Campaign()))
    candidate = run(candidate, ApplyChange(MembershipChange((removed(1),))))
    with pytest.raises(InvariantError, match="not in its own configuration"):
        run(candidate, VoteResponse(2, 1, 1, False), VoteResponse(3, 1, 1, False))


def test_long_logs_and_large_commands_are_cut_and_compacted_like_short_ones() -> None:
    terms = (1,) * 300
    state = member(terms=terms, commit=100, applied=100)
    state = run(state, Compact(70))
    assert (len(state.log), state.log.first_index) == (230, 71)
    large = log_of(*terms[:199])[-1]
    data = b"x" * 5_000
    chain = chain_of(large.chain, 2, 200, large.kind, data)
    entry = evolve(large, term=2, index=200, data=data, chain=chain)
    state = run(state, append(state, 2, (entry,), commit=200))
    assert (state.log.last_index, state.log.last_chain, state.commit) == (200, chain, 200)
    assert state.log.slice(71, 200) == log_of(*terms[:199])[70:]
    state, _ = settled(state)
    state = run(state, Compact(200))
    assert (len(state.log), state.log.base_index, state.log.base_chain) == (0, 200, chain)
    assert state.log.size_bytes == 0


def test_cutting_nothing_leaves_a_log_as_it_is() -> None:
    log = Log.starting_at(0, 0).append(log_of(1, 1))
    assert log.truncate(3) is log
    assert log.append(()) is log
    assert log.compact(0) is log


def test_entries_with_a_gap_or_falling_terms_are_no_log() -> None:
    log = Log.starting_at(0, 0)
    with pytest.raises(InvariantError, match="do not follow"):
        log.append(log_of(1, 1)[1:])
    with pytest.raises(InvariantError, match="must not decrease"):
        log.append((*log_of(2), evolve(log_of(1, 1)[1])))


def test_a_member_that_acknowledged_nothing_new_still_counts_as_active() -> None:
    """RAFT_SEMANTICS 4: a response that changes nothing has no other effect."""
    leader = elected(member(Config(id=1, check_quorum=True)))
    after = run(leader, AppendResponse(3, 1, 1, 0), acked(leader, 3, 9))
    progress = after.peer(3)
    assert progress is not None
    assert progress.active
    assert progress.match == 0


@pytest.mark.parametrize(
    ("number", "damage"),
    [
        ("I1", {"term": 0}),
        ("I2", {"vote": 3}),
        ("I4", {"commit": 0}),
        ("I4", {"apply": ApplyState(0, 0)}),
    ],
)
def test_a_step_that_takes_something_back_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, number: str, damage: dict[str, object]
) -> None:
    """A bug anywhere in the core: what would have come of the step is never seen."""
    state = evolve(member(terms=(1, 1), commit=1), term=1, vote=2, apply=ApplyState(1, 1))

    def go_wrong(draft: Draft, _event: Input) -> None:
        for name, value in damage.items():
            setattr(draft, name, value)

    monkeypatch.setattr(sys.modules["raftkv.core.step"], "_dispatch", go_wrong)
    with pytest.raises(InvariantError, match=f"{number}: "):
        step(state, Tick())
