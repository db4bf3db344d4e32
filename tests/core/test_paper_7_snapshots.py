"""Raft paper section 7 and RAFT_SEMANTICS section 8: compaction and snapshots."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    APPEND_THREAD,
    AppendEntries,
    AppendResponse,
    Applied,
    Campaign,
    Compact,
    Config,
    HardState,
    InstallSnapshot,
    Membership,
    Persisted,
    ProgressState,
    Propose,
    Receive,
    RequestVote,
    Role,
    Snapshot,
    SnapshotStatus,
    SnapshotTaken,
    State,
    StorageAppendResponse,
    VoteResponse,
    has_ready,
    ready,
    start,
    step,
)
from raftkv.errors import InvariantError
from tests.core.cluster import (
    ONE,
    Cluster,
    acked,
    beat,
    elected,
    followed,
    log_of,
    member,
    normal,
    run,
    sent_by,
    settled,
    snapshot_at,
    ticked,
)


def install(state: State, snapshot: Snapshot, term: int = 0) -> InstallSnapshot:
    """What leader 2 sends."""
    return InstallSnapshot(2, state.id, term or max(state.term, snapshot.term), snapshot)


def behind(config: Config = ONE) -> State:
    """A leader at term 2 whose log starts after index 3 and ends at 4; peer 2 has nothing of it."""
    leader = elected(member(config, terms=(1, 1, 1)))
    leader = followed(leader, 3)
    leader = run(leader, SnapshotTaken(Snapshot(3, 1, leader.log.chain_at(3), leader.membership)))
    return run(leader, Compact(3))


def sending(config: Config = ONE) -> tuple[State, InstallSnapshot]:
    """``behind`` after peer 2 rejected all, and the snapshot it is sent."""
    leader = behind(config)
    leader, sent = settled(run(leader, AppendResponse(2, 1, 2, 3, True)))
    (message,) = sent
    assert isinstance(message, InstallSnapshot)
    return leader, message


def state_of(leader: State, peer: int = 2) -> tuple[ProgressState, int, int, bool]:
    """How the leader sees a peer: state, match, next, flow paused."""
    progress = leader.peer(peer)
    assert progress is not None
    return progress.state, progress.match, progress.next, progress.flow_paused


# --- compaction ---------------------------------------------------------------------------------


def test_7_compaction_keeps_the_position_it_ends_at_for_the_consistency_check() -> None:
    """§7: last included index and term."""
    state = member(terms=(1, 1, 2, 2), commit=4, applied=3)
    compacted = run(state, Compact(3))
    log = compacted.log
    assert (log.first_index, log.base_index, log.base_term) == (4, 3, 2)
    assert log.matches(3, 2)
    assert (
        run(compacted, AppendEntries(2, 1, 3, 4, 2, 4, log_of(1, 1, 2, 2, 3)[4:])).log.last_index
        == 5
    )


@pytest.mark.parametrize(
    ("index", "allowed"), [(0, False), (1, True), (3, True), (4, False), (9, False)]
)
def test_7_only_what_is_applied_is_compacted(index: int, allowed: bool) -> None:
    state = member(terms=(1, 1, 2, 2), commit=4, applied=3)
    compacted = run(state, Compact(index))
    assert compacted.log.base_index == (index if allowed else 0)


def test_7_only_what_is_stored_is_compacted() -> None:
    state = member(Config(id=1, async_storage_writes=False))
    state = run(state, AppendEntries(2, 1, 1, 0, 0, 2, log_of(1, 1)))
    state, todo = ready(state)
    state = run(state, Applied(2))
    assert len(todo.committed) == 2
    assert run(state, Compact(1)).log.base_index == 0
    assert run(state, Persisted(todo.number), Compact(1)).log.base_index == 1


def test_7_an_older_image_does_not_replace_a_newer_one() -> None:
    state = run(member(), SnapshotTaken(snapshot_at(5, 1)), SnapshotTaken(snapshot_at(4, 1)))
    assert state.snapshot == snapshot_at(5, 1)
    newer = evolve(snapshot_at(5, 1), data=b"again")
    assert run(state, SnapshotTaken(newer)).snapshot == newer


# --- sending ------------------------------------------------------------------------------------


def test_7_a_follower_that_needs_compacted_entries_is_sent_a_snapshot() -> None:
    leader, message = sending()
    assert message.snapshot.index == 3
    assert state_of(leader) == (ProgressState.SNAPSHOT, 0, 4, False)


def test_7_nothing_is_appended_to_a_follower_while_a_snapshot_is_under_way() -> None:
    leader, _ = sending()
    sent = sent_by(leader, Propose((normal(b"x"),)), beat(leader, 2))
    assert [message.to for message in sent] == [3]


def test_8_no_snapshot_goes_to_a_peer_that_is_not_active() -> None:
    """RAFT_SEMANTICS 8: a dead peer would hold the image for nothing."""
    leader = followed(elected(member(Config(id=1, check_quorum=True), terms=(1, 1, 1))), 3)
    leader = run(leader, Compact(3), AppendResponse(2, 1, 2, 3, True), beat(leader, 3))
    leader, _ = settled(ticked(leader, 10))
    progress = leader.peer(2)
    assert progress is not None
    assert not progress.active
    leader = run(leader, SnapshotTaken(snapshot_at(3, 1)))
    sent = sent_by(leader, Propose((normal(b"x"),)))
    assert [message.to for message in sent] == [3]
    assert [type(message) for message in sent_by(leader, beat(leader, 2))] == [InstallSnapshot]


def test_8_without_an_image_one_is_wanted_and_sent_when_it_is_there() -> None:
    """RAFT_SEMANTICS 8: a storage may answer "not now", then nothing is sent."""
    leader = followed(elected(member(terms=(1, 1, 1))), 3)
    leader = run(leader, Compact(3), AppendResponse(2, 1, 2, 3, True))
    leader, todo = ready(leader)
    assert todo.snapshot_wanted
    assert todo.messages == ()
    leader = run(leader, SnapshotTaken(snapshot_at(2, 1)), beat(leader, 2))
    leader, todo = ready(leader)
    assert todo.snapshot_wanted  # too old
    leader = run(leader, SnapshotTaken(snapshot_at(3, 1)), beat(leader, 2))
    leader, todo = ready(leader)
    assert not todo.snapshot_wanted
    assert [type(message) for message in todo.messages] == [InstallSnapshot]


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [(True, (ProgressState.PROBE, 0, 4, True)), (False, (ProgressState.PROBE, 0, 1, True))],
)
def test_8_the_reported_outcome_says_where_to_probe(
    delivered: bool, expected: tuple[ProgressState, int, int, bool]
) -> None:
    """RAFT_SEMANTICS 8: after the snapshot, or after match; then wait for an answer."""
    leader, _ = sending()
    leader = run(leader, SnapshotStatus(2, delivered))
    assert state_of(leader) == expected
    assert sent_by(leader, Propose((normal(b"x"),)))[0].to == 3


def test_8_a_report_counts_in_snapshot_state_only_and_for_known_peers() -> None:
    leader = followed(elected(member()), 2)
    assert run(leader, SnapshotStatus(2, False)) == leader
    assert run(leader, SnapshotStatus(3, True)) == leader
    assert run(leader, SnapshotStatus(7, True)) == leader
    follower = member()
    assert run(follower, SnapshotStatus(2, False)) == follower


def test_8_an_acknowledgement_ends_the_snapshot_state_without_a_report() -> None:
    """RAFT_SEMANTICS 4: as soon as match + 1 reaches the first index."""
    leader, _ = sending()
    leader, sent = settled(run(leader, AppendResponse(2, 1, 2, 3)))
    assert state_of(leader) == (ProgressState.REPLICATE, 3, 5, False)
    assert [m.entries[0].index for m in sent if isinstance(m, AppendEntries)] == [4]


def test_8_an_acknowledgement_below_the_first_index_does_not_end_it() -> None:
    leader, _ = sending()
    leader = run(leader, AppendResponse(2, 1, 2, 1))
    assert state_of(leader)[:2] == (ProgressState.SNAPSHOT, 1)


def test_8_a_rejected_probe_after_a_snapshot_starts_again_at_match() -> None:
    """The snapshot was said to be delivered but was ignored."""
    leader, _ = sending()
    leader = run(leader, SnapshotStatus(2, True), beat(leader, 2))
    leader, _ = settled(leader)
    sent = sent_by(leader, AppendResponse(2, 1, 2, 3, True))
    assert [type(message) for message in sent] == [InstallSnapshot]


# --- receiving ----------------------------------------------------------------------------------


def test_7_a_snapshot_replaces_the_whole_log_of_who_is_behind() -> None:
    """§7: also a conflicting log; the membership comes with it."""
    state = member(terms=(1, 1))
    snapshot = snapshot_at(9, 3, voters=(1, 2, 4))
    state, todo = ready(run(state, install(state, snapshot)))
    assert todo.snapshot == snapshot
    assert todo.hard_state == HardState(3, 0, 9)
    assert todo.messages == ()
    assert todo.messages_after_persist == (AppendResponse(1, 2, 3, 9),)
    assert (state.log.base_index, state.log.last_index, state.commit) == (9, 9, 9)
    assert state.membership == Membership((1, 2, 4))
    assert [(one.id, one.match) for one in state.progress] == [(1, 9), (2, 0), (4, 0)]


def test_7_a_snapshot_of_a_prefix_keeps_the_entries_after_it() -> None:
    """§7: retained and still valid; here the whole log stays, only the commit moves."""
    state = member(terms=(1, 1, 1, 1), commit=1)
    state, todo = ready(run(state, install(state, snapshot_at(3, 1), term=2)))
    assert todo.snapshot is None
    assert (state.log.base_index, state.log.last_index, state.commit) == (0, 4, 3)
    assert todo.messages_after_persist == (AppendResponse(1, 2, 2, 3),)


def test_7_an_old_snapshot_is_answered_with_the_own_commit() -> None:
    state = member(terms=(1, 1, 1), commit=3)
    for index in (1, 2, 3):
        after, sent = settled(run(state, install(state, snapshot_at(index, 1))))
        assert after.log == state.log
        assert sent == [AppendResponse(1, 2, 1, 3)]


@pytest.mark.parametrize(
    ("membership", "taken"),
    [
        (Membership((1, 2)), True),
        (Membership((2,), (1, 2)), True),
        (Membership((2,), (), (1,)), True),
        (Membership((2, 3)), False),
        (Membership((2,), (2, 3), (4,)), False),
    ],
)
def test_8_a_snapshot_that_does_not_know_the_receiver_is_ignored(
    membership: Membership, taken: bool
) -> None:
    """RAFT_SEMANTICS 8: neither voter, outgoing voter nor learner there."""
    state = member(terms=(1,), commit=1)
    snapshot = evolve(snapshot_at(5, 1), membership=membership)
    after, sent = settled(run(state, install(state, snapshot)))
    assert after.log.last_index == (5 if taken else 1)
    assert sent == [AppendResponse(1, 2, 1, 5 if taken else 1)]


def test_8_a_member_with_an_unstored_snapshot_neither_campaigns_nor_applies() -> None:
    state, _ = ready(run(member(), install(member(), snapshot_at(5, 1))))
    assert not state.is_promotable
    assert run(state, Campaign()) == state
    assert ticked(state, 100).role is Role.FOLLOWER
    state = run(state, AppendEntries(2, 1, 1, 5, 1, 6, log_of(*[1] * 6)[5:]))
    state, todo = ready(state)
    assert todo.committed == ()
    assert (state.applied, state.commit) == (0, 6)
    state = run(state, Persisted(todo.number))
    assert (state.applied, state.is_promotable) == (5, True)
    _, todo = ready(state)
    assert [entry.index for entry in todo.committed] == [6]


def test_8_a_snapshot_is_acknowledged_even_by_a_report_of_an_old_term() -> None:
    """RAFT_SEMANTICS 13: entries in it are not, the snapshot always is."""
    state, todo = ready(run(member(), install(member(), snapshot_at(5, 1))))
    state = run(state, RequestVote(3, 1, 7, 9, 9))
    assert state.term == 7
    state = run(state, Persisted(todo.number))
    assert (state.incoming, state.applied) == (None, 5)


def test_8_a_report_for_an_older_snapshot_leaves_the_newer_one_unstored() -> None:
    state, first = ready(run(member(), install(member(), snapshot_at(5, 1))))
    state, second = ready(run(state, install(state, snapshot_at(8, 1))))
    assert second.snapshot == snapshot_at(8, 1)
    state = run(state, Persisted(first.number))
    assert (state.incoming, state.applied) == (snapshot_at(8, 1), 5)
    state = run(state, Persisted(second.number))
    assert (state.incoming, state.applied) == (None, 8)


def test_8_a_snapshot_is_handed_out_for_storing_once() -> None:
    state, todo = ready(run(member(), install(member(), snapshot_at(5, 1))))
    assert todo.snapshot == snapshot_at(5, 1)
    state, todo = ready(run(state, AppendEntries(2, 1, 1, 5, 1, 5)))
    assert todo.snapshot is None
    assert todo.responses == (AppendResponse(1, 2, 1, 5),)
    assert not has_ready(state)


def test_7_a_leader_ignores_a_snapshot_of_its_own_term() -> None:
    leader = elected(member())
    assert run(leader, install(leader, snapshot_at(9, 1))) == leader


def test_7_a_candidate_takes_a_snapshot_of_its_own_term_and_follows() -> None:
    candidate = run(member(), Campaign())
    state = run(candidate, install(candidate, snapshot_at(9, 1)))
    assert (state.role, state.leader, state.log.last_index) == (Role.FOLLOWER, 2, 9)


def test_7_a_member_far_behind_catches_up_by_snapshot_then_log() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut(3)
    cluster.propose(1, b"a", b"b")
    cluster.image(1)
    cluster.propose(1, b"c")
    cluster.heal()
    cluster.tick(4, 1)
    assert cluster.states[3].log.base_index == 3
    assert cluster.states[3].log.last_chain == cluster.states[1].log.last_chain
    assert cluster.commands(3) == [b"c"]
    cluster.crash(3)
    cluster.restart(3)
    assert (cluster.states[3].log.base_index, cluster.states[3].log.last_index) == (3, 4)
    assert cluster.commands(3) == [b"c"]


# --- restart (RAFT_SEMANTICS 12) ----------------------------------------------------------------


def test_12_a_member_restarts_from_snapshot_hard_state_and_entries() -> None:
    entries = log_of(1, 1, 2, 2)
    snapshot = Snapshot(2, 1, entries[1].chain, Membership((1, 2, 3), (), (4,)))
    state = start(
        Config(id=1), hard_state=HardState(3, 2, 3), snapshot=snapshot, entries=entries[2:]
    )
    assert (state.role, state.leader, state.term, state.vote) == (Role.FOLLOWER, 0, 3, 2)
    assert (state.commit, state.applied, state.membership) == (3, 2, snapshot.membership)
    state, todo = ready(state)
    assert [entry.index for entry in todo.committed] == [3]
    assert (todo.hard_state, todo.entries, todo.must_sync) == (None, (), False)
    assert state.snapshot == snapshot


def test_12_a_start_from_a_snapshot_of_nothing_leaves_none_to_send() -> None:
    """It brings the first membership; there is no image at index 0."""
    state = start(Config(id=1), snapshot=snapshot_at(0, 0, voters=(1, 2)))
    assert (state.snapshot, state.membership) == (None, Membership((1, 2)))


def test_12_a_restarted_machine_says_how_far_it_is() -> None:
    entries = log_of(1, 1, 1)
    state = start(
        Config(id=1),
        voters=(1, 2),
        hard_state=HardState(1, 0, 3),
        entries=entries,
        applied=2,
        membership=Membership((2, 1, 3)),
    )
    assert (state.applied, state.membership) == (2, Membership((1, 2, 3)))
    _, todo = ready(state)
    assert [entry.index for entry in todo.committed] == [3]


@pytest.mark.parametrize("commit", [0, 1, 5])
def test_12_a_commit_index_outside_the_log_is_fatal(commit: int) -> None:
    entries = log_of(1, 1, 1, 1)
    snapshot = Snapshot(2, 1, entries[1].chain, Membership((1,)))
    with pytest.raises(InvariantError, match="commit index"):
        start(
            Config(id=1), hard_state=HardState(1, 0, commit), snapshot=snapshot, entries=entries[2:]
        )


def test_12_a_restarted_member_never_takes_membership_from_log_entries() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    entries = tuple(cluster.states[1].log.entries())
    state = start(Config(id=1), voters=(1,), hard_state=HardState(1, 1, 0), entries=entries)
    assert state.membership == Membership((1,))


# --- answers ------------------------------------------------------------------------------------


def test_8_a_snapshots_report_is_addressed_by_the_append_thread() -> None:
    _, todo = ready(run(member(), install(member(), snapshot_at(5, 1))))
    report = StorageAppendResponse(APPEND_THREAD, 1, 1, 0, 0, snapshot_at(5, 1), todo.number)
    assert todo.responses == (AppendResponse(1, 2, 1, 5), report)
    assert step(member(), Receive(VoteResponse(2, 1, 0, True))) == member()


def test_7_a_leader_that_gets_the_answer_of_a_snapshot_commits_with_it() -> None:
    leader, _ = sending()
    leader = run(leader, Propose((normal(b"x"),)))
    leader, _ = settled(leader)
    assert leader.commit == 4
    leader, _ = settled(run(leader, AppendResponse(2, 1, 2, 3)))
    assert run(leader, acked(leader, 2)).commit == 5
