"""Raft paper sections 5.3, 5.4.2, 5.4.3 and 5.5: log replication, old terms, crashes.

Also thesis 10.2.1: the leader writes to its disk in parallel with replicating.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Campaign,
    Heartbeat,
    MalformedAppend,
    Persisted,
    Propose,
    RequestVote,
    Role,
    State,
    Tick,
    ready,
)
from tests.core.cluster import (
    Cluster,
    acked,
    append,
    elected,
    followed,
    log_of,
    member,
    normal,
    run,
    sent_by,
    settled,
    terms_of,
)

# Figure 7: the log of the leader of term 8, and of six possible followers.
LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


# --- §5.3: log replication ----------------------------------------------------------------------


def test_5_3_the_leader_appends_a_command_and_sends_it_to_all() -> None:
    leader = followed(elected(member()), 2, 3)
    sent = sent_by(leader, Propose((normal(b"x"),)))
    assert [(m.to, m.prev_index, m.prev_term) for m in sent if isinstance(m, AppendEntries)] == [
        (2, 1, 1),
        (3, 1, 1),
    ]
    assert all(m.entries[0].data == b"x" for m in sent if isinstance(m, AppendEntries))


def test_5_3_an_entry_has_the_leaders_term_and_the_next_index() -> None:
    leader = elected(member(terms=(1, 1)))
    leader = run(leader, Propose((normal(b"x"), normal(b"y"))))
    places = [(entry.index, entry.term, entry.data) for entry in leader.log.entries()]
    assert places[2:] == [(3, 2, b""), (4, 2, b"x"), (5, 2, b"y")]


def test_5_3_a_leader_never_overwrites_its_log() -> None:
    """Figure 3, Leader Append-Only: whatever followers have or answer."""
    cluster = Cluster(5, logs={1: (1, 1), 2: (1, 1), 3: (1, 1), 4: (1,), 5: (1, 1)})
    cluster.elect(1)
    before = tuple(cluster.states[1].log.entries())
    for node in (2, 3, 4, 5):
        for index in (0, 1, 2, 3, 9):
            cluster.step(1, AppendResponse(node, 1, 2, index, True, 1, 1))
            cluster.step(1, AppendResponse(node, 1, 2, index))
    cluster.propose(1, b"x")
    after = tuple(cluster.states[1].log.entries())
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("voters", range(1, 8))
def test_5_3_an_entry_commits_when_a_majority_has_stored_it(voters: int) -> None:
    everybody = tuple(range(1, voters + 1))
    leader = elected(member(voters=everybody))
    commits = [leader.commit]
    for peer in everybody[1:]:
        leader = run(leader, acked(leader, peer))
        commits.append(leader.commit)
    majority = voters // 2 + 1
    assert commits == [1 if stored >= majority else 0 for stored in range(1, voters + 1)]


def test_5_3_an_entry_counts_no_more_for_being_acknowledged_twice() -> None:
    leader = elected(member(voters=(1, 2, 3, 4, 5)))
    assert run(leader, *[acked(leader, 2)] * 5).commit == 0


def test_5_3_committing_commits_all_before() -> None:
    """§5.3: also entries of previous leaders."""
    leader = followed(elected(member(terms=(1, 1, 2))), 2)
    assert (leader.term, leader.commit) == (3, 4)
    assert leader.applied == 4


def test_5_3_followers_learn_the_commit_index_and_apply_in_order() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for command in (b"a", b"b", b"c"):
        cluster.propose(1, command)
    for node in (1, 2, 3):
        assert cluster.commands(node) == [b"a", b"b", b"c"]
        assert [entry.index for entry in cluster.applied[node]] == [1, 2, 3, 4]


def test_5_3_a_follower_commits_no_further_than_the_append_vouches_for() -> None:
    """Figure 2: min(leaderCommit, index of last new entry): what follows may be overwritten."""
    state = member(terms=(1, 1, 1))
    state = run(state, AppendEntries(2, 1, 2, 1, 1, 3))
    assert state.commit == 1
    state = run(state, AppendEntries(2, 1, 2, 1, 1, 3, log_of(1, 1)[1:]))
    assert state.commit == 2
    assert terms_of(state) == [1, 1, 1]


@given(
    terms=st.lists(st.integers(1, 3), min_size=1, max_size=8).map(sorted),
    places=st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 9)),
)
def test_5_3_what_an_append_leaves_alone_is_not_committed_by_it(
    terms: list[int], places: tuple[int, int, int]
) -> None:
    """Whatever stands behind an append that agrees may be another leader's still."""
    last = len(terms)
    prev, stop, commit = min(places[0], last), min(places[1], last), places[2]
    prev_term = terms[prev - 1] if prev else 0
    log = log_of(*terms)
    state = run(member(terms=tuple(terms)), AppendEntries(2, 1, 4, prev, prev_term, 0, log[:0]))
    after = run(state, AppendEntries(2, 1, 4, prev, prev_term, commit, log[prev:stop]))
    assert after.commit == min(commit, max(prev, stop))
    assert terms_of(after) == terms


@pytest.mark.parametrize("commit", [0, 1, 2])
def test_5_3_a_commit_index_never_moves_back(commit: int) -> None:
    state = member(terms=(1, 1, 1), commit=2)
    assert run(state, AppendEntries(2, 1, 2, 3, 1, commit)).commit == 2
    assert run(state, Heartbeat(2, 1, 2, commit)).commit == 2


@pytest.mark.parametrize(
    ("prev_index", "prev_term", "accepted"),
    [
        (0, 0, True),
        (1, 1, True),
        (2, 2, True),
        (3, 2, True),
        (1, 2, False),
        (2, 1, False),
        (3, 3, False),
        (4, 2, False),
        (9, 9, False),
    ],
)
def test_5_3_an_append_is_taken_only_where_the_entry_before_matches(
    prev_index: int, prev_term: int, accepted: bool
) -> None:
    """§5.3, the consistency check."""
    state = member(terms=(1, 2, 2))
    (answer,) = sent_by(state, AppendEntries(2, 1, 3, prev_index, prev_term, 0))
    assert isinstance(answer, AppendResponse)
    assert answer.rejected is not accepted
    assert answer.index == prev_index


@pytest.mark.parametrize(
    ("mine", "prev", "new", "result"),
    [
        ((), 0, (1,), (1,)),
        ((1,), 1, (1, 1), (1, 1, 1)),
        ((1, 1), 1, (1,), (1, 1)),
        ((1, 1, 1), 0, (1,), (1, 1, 1)),
        ((1, 1, 1), 1, (1, 1), (1, 1, 1)),
        ((1, 1, 1), 1, (2,), (1, 2)),
        ((1, 1, 1), 1, (1, 2), (1, 1, 2)),
        ((1, 1, 1), 0, (2, 2, 2), (2, 2, 2)),
        ((1, 1, 1), 0, (1, 2), (1, 2)),
        ((1, 2, 2), 1, (2, 3, 3), (1, 2, 3, 3)),
    ],
)
def test_5_3_a_follower_drops_only_what_conflicts(
    mine: tuple[int, ...], prev: int, new: tuple[int, ...], result: tuple[int, ...]
) -> None:
    """Figure 2: an existing entry and all after it go if its term differs; the rest stays."""
    state = member(terms=mine)
    entries = log_of(*mine[:prev], *new)[prev:]
    state, _ = settled(run(state, append(state, 2, entries, term=9)))
    assert terms_of(state) == list(result)
    assert [state.log.term_at(index) for index in range(1, len(result) + 1)] == list(result)
    assert tuple(state.log.entries())[: prev + len(new)] == log_of(*mine[:prev], *new)


@pytest.mark.parametrize("name", FIGURE_7)
def test_5_3_figure_7_every_follower_ends_with_the_leaders_log(name: str) -> None:
    """§5.3, figure 7: missing entries, extra ones, both; over one or several terms."""
    cluster = Cluster(3, logs={1: LEADER, 2: LEADER, 3: FIGURE_7[name]}, term=7)
    cluster.elect(1)
    assert cluster.states[1].term == 8
    cluster.tick(2, 1)
    leader = tuple(cluster.states[1].log.entries())
    assert [entry.term for entry in leader] == [*LEADER, 8]
    assert tuple(cluster.states[3].log.entries()) == leader
    assert cluster.states[3].log == cluster.states[1].log


@pytest.mark.parametrize("name", FIGURE_7)
def test_5_3_figure_7_only_logs_not_newer_give_their_vote(name: str) -> None:
    """§5.3: the leader of term 8 has votes of a, b, e and f; c and d deny theirs."""
    state = member(terms=FIGURE_7[name])
    granted = run(state, RequestVote(2, 1, 8, 10, 6)).vote == 2
    assert granted is (name in "abef")


def test_5_3_log_matching_equal_positions_and_terms_mean_equal_histories() -> None:
    """Figure 3, Log Matching: equal last entries, equal chains over everything before."""
    cluster = Cluster(3, logs=dict(enumerate([(1, 1, 2), (1, 3), (1, 1)], 1)))
    cluster.elect(2)
    cluster.propose(2, b"x", b"y")
    logs = [state.log for state in cluster.states.values()]
    assert len({log.last_chain for log in logs}) == 1
    assert logs[0] == logs[1] == logs[2]


def test_5_3_a_slow_follower_is_sent_entries_until_it_has_all() -> None:
    """§5.3: retries indefinitely, even after the leader has answered its client."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(3)
    for number in range(20):
        cluster.propose(1, b"%d" % number)
    assert cluster.states[1].commit == 21
    assert cluster.states[3].log.last_index == 1
    cluster.heal()
    cluster.tick(3, 1)
    assert cluster.states[3].log == cluster.states[1].log
    assert cluster.commands(3) == cluster.commands(1)


def test_5_3_a_rejection_says_where_logs_may_agree_and_skips_terms() -> None:
    """§5.3, the optimisation: one probe per term in conflict, not one per entry."""
    follower = member(terms=(1,) * 3 + (2,) * 50)
    (answer,) = sent_by(follower, AppendEntries(2, 1, 4, 60, 3, 0))
    assert answer == AppendResponse(1, 2, 4, 60, True, 53, 2)
    leader = elected(member(terms=(1,) * 3 + (3,) * 57))
    leader = followed(leader, 3)
    rejected = AppendResponse(2, 1, leader.term, 60, True, 53, 2)
    (probe,) = sent_by(leader, rejected)
    assert isinstance(probe, AppendEntries)
    assert (probe.prev_index, probe.prev_term) == (3, 1)


# --- §5.4.2: entries of previous terms ----------------------------------------------------------


def test_5_4_2_entries_of_old_terms_are_not_committed_by_counting() -> None:
    """§5.4.2: only an entry of the leader's own term is; the old ones follow along."""
    leader = elected(member(terms=(1, 1), voters=(1, 2, 3, 4, 5)))
    for peer in (2, 3, 4, 5):
        leader = run(leader, acked(leader, peer, 2))
    assert leader.commit == 0
    leader = run(leader, acked(leader, 2), acked(leader, 3))
    assert leader.commit == 3


def test_5_4_2_figure_8_a_replicated_entry_of_an_old_term_may_still_be_overwritten() -> None:
    """Figure 8, (a) to (d): that is why it must not count as committed in (c)."""
    cluster = Cluster(5, logs={1: (1, 2), 2: (1, 2), 3: (1,), 4: (1,), 5: (1, 3)}, term=3)
    # (c) S1 leads again, in term 4, and brings S3 the entry of term 2, but not yet its own one.
    cluster.lost = lambda message: (
        message.to > 3
        or message.sender > 3
        or (isinstance(message, AppendEntries) and any(e.term == 4 for e in message.entries))
    )
    cluster.elect(1)
    assert cluster.states[1].term == 4
    old = AppendEntries(1, 3, 4, 1, 1, 0, log_of(1, 2)[1:])
    cluster.put(old)
    cluster.deliver()
    assert cluster.logs()[3] == [1, 2]
    assert cluster.states[1].commit == 0
    # (d) S1 crashes; S5 is elected by S2, S3 and S4 and overwrites the entry of term 2.
    cluster.crash(1)
    cluster.heal()
    cluster.step(5, Campaign())
    cluster.deliver()
    if cluster.states[5].role is not Role.LEADER:  # its first campaign met term 4
        cluster.elect(5)
    assert cluster.logs()[3][:2] == [1, 3]


def test_5_4_2_figure_8_once_an_own_entry_is_committed_the_old_ones_are_safe() -> None:
    """Figure 8, (e): S5 cannot win any more."""
    cluster = Cluster(5, logs={1: (1, 2), 2: (1, 2), 3: (1,), 4: (1,), 5: (1, 3)}, term=3)
    cluster.cut(4, 5)
    cluster.elect(1)
    assert cluster.states[1].commit == 3
    cluster.crash(1)
    cluster.heal()
    for _ in range(3):
        cluster.step(5, Campaign())
        cluster.deliver()
        assert cluster.states[5].role is not Role.LEADER
    assert cluster.logs()[2] == [1, 2, 4]


def test_5_4_3_a_committed_entry_is_in_the_log_of_every_later_leader() -> None:
    """Figure 3, Leader Completeness, over leaders that come and go with two members cut off."""
    cluster = Cluster(5)
    committed: list[bytes] = []
    for turn in range(10):
        away = (turn % 5 + 1, (turn + 1) % 5 + 1)
        cluster.cut(*away)
        connected = [node for node in cluster.states if node not in away]
        for node in connected * 3:
            cluster.step(node, Campaign())
            cluster.deliver()
        states = [cluster.states[node] for node in connected]
        leader = max(states, key=lambda state: (state.role is Role.LEADER, state.term)).id
        kept = [entry.data for entry in cluster.states[leader].log.entries() if entry.data]
        assert kept == committed
        committed.append(b"%d" % turn)
        cluster.propose(leader, committed[-1])
        assert cluster.commands(leader) == committed


def test_5_4_3_all_members_apply_the_same_commands_in_the_same_order() -> None:
    """Figure 3, State Machine Safety."""
    cluster = Cluster(5)
    for turn in range(6):
        leader = turn % 5 + 1
        for node in (leader, leader):
            cluster.step(node, Campaign())
            cluster.deliver()
        cluster.propose(leader, b"%d" % turn)
    cluster.tick(3)
    assert len({tuple(cluster.commands(node)) for node in cluster.states}) == 1
    assert len(cluster.commands(1)) == 6


@pytest.mark.parametrize(
    ("prev", "terms", "kept", "bad"),
    [
        (2, (1, 2, 2), slice(1, 3), 3),  # starts at a committed entry, before where it says
        (2, (1, 1, 2, 2), slice(3, 4), 3),  # starts later than it says
        (0, (1, 1, 1, 2), slice(0, 4, 2), 2),  # has a gap
        (2, (1, 1, 2, 4), slice(2, 4), 4),  # of a term that its leader is not in yet
    ],
)
def test_5_3_entries_that_make_no_log_are_dropped_with_an_alarm(
    prev: int, terms: tuple[int, ...], kept: slice, bad: int
) -> None:
    """No leader sends them. A committed entry is not rewritten, and nobody is stopped."""
    state = member(terms=(1, 1), commit=2 if prev else 0)
    before = state.log
    state = run(state, AppendEntries(2, 1, 3, prev, 1 if prev else 0, 2, log_of(*terms)[kept]))
    assert state.log == before
    assert state.messages_after_append == ()
    state, todo = ready(state)
    assert todo.alarms == (MalformedAppend(2, bad),)
    assert f"from index {bad} on" in todo.alarms[0].what


def test_5_3_entries_whose_terms_fall_are_dropped_with_an_alarm() -> None:
    state = member(terms=(2, 2))
    entries = (*log_of(2, 2, 3), *log_of(2, 2, 2, 2)[3:])
    state = run(state, AppendEntries(2, 1, 3, 2, 2, 0, entries[2:]))
    assert state.log.last_index == 2
    assert ready(state)[1].alarms == (MalformedAppend(2, 4),)


# --- §5.5: crashes ------------------------------------------------------------------------------


def test_5_5_an_append_delivered_again_changes_nothing() -> None:
    """§5.5: RPCs are idempotent; retried without harm."""
    message = AppendEntries(2, 1, 1, 0, 0, 0, log_of(1, 1))
    once, _ = settled(run(member(), message))
    twice, sent = settled(run(once, message))
    assert terms_of(twice) == terms_of(once) == [1, 1]
    assert (twice.log, twice.commit) == (once.log, once.commit)
    assert sent == [AppendResponse(1, 2, 1, 2)]


def test_5_5_a_vote_request_delivered_again_gets_the_same_answer() -> None:
    request = RequestVote(2, 1, 1, 0, 0)
    once, first = settled(run(member(), request))
    twice, second = settled(run(once, request))
    assert first == second
    assert twice.vote == 2


def test_5_5_a_member_that_crashes_before_its_write_forgets_and_was_not_believed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(3)
    cluster.slow_disks.add(2)
    cluster.propose(1, b"x")
    assert cluster.states[2].log.last_index == 2
    assert cluster.states[1].commit == 1
    cluster.crash(2)
    cluster.restart(2)
    assert cluster.states[2].log.last_index == 1
    cluster.slow_disks.clear()
    cluster.step(1, Tick())
    cluster.deliver()
    cluster.tick(2, 1)
    assert cluster.states[1].commit == 2
    assert cluster.states[2].log == cluster.states[1].log


def test_5_5_a_member_comes_back_with_what_it_stored_and_catches_up() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.crash(3)
    cluster.propose(1, b"b")
    cluster.restart(3)
    assert (cluster.states[3].term, cluster.states[3].log.last_index) == (1, 2)
    cluster.tick(3, 1)
    assert cluster.commands(3) == [b"a", b"b"]


# --- thesis 10.2.1: the leader's disk -----------------------------------------------------------


def _proposing() -> State:
    return run(followed(elected(member()), 2, 3), Propose((normal(b"x"),)))


def test_10_2_1_the_leader_sends_entries_before_its_own_disk_has_them() -> None:
    _, todo = ready(_proposing())
    assert [m.to for m in todo.messages if isinstance(m, AppendEntries)] == [2, 3]
    assert [entry.data for entry in todo.entries] == [b"x"]
    assert todo.must_sync


def test_10_2_1_the_leader_does_not_count_itself_before_its_disk_has_the_entry() -> None:
    leader, todo = ready(_proposing())
    one = run(leader, acked(leader, 2))
    assert one.commit == 1
    assert run(one, Persisted(todo.number)).commit == 2


def test_10_2_1_followers_alone_may_commit_what_the_leaders_disk_does_not_have() -> None:
    """A majority without the leader; the leader then applies only once it has stored it."""
    leader, todo = ready(_proposing())
    leader = run(leader, acked(leader, 2), acked(leader, 3))
    assert leader.commit == 2
    leader, more = ready(leader)
    assert more.committed == ()
    _, last = ready(run(leader, Persisted(todo.number)))
    assert [entry.data for entry in last.committed] == [b"x"]


def test_10_2_1_a_follower_acknowledges_only_what_is_stored() -> None:
    state, todo = ready(run(member(), AppendEntries(2, 1, 1, 0, 0, 1, log_of(1))))
    assert todo.messages == ()
    assert todo.messages_after_persist == (AppendResponse(1, 2, 1, 1),)
    assert todo.must_sync
    assert todo.committed == ()
    _, more = ready(run(state, Persisted(todo.number)))
    assert [entry.index for entry in more.committed] == [1]
