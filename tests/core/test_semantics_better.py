"""The settings of ``Config`` that go beyond the model: each one off, as in the traces, and on.

The two about leases, and those about campaigns and handing over, have files of their own.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    Accepted,
    AppendResponse,
    ApplyChange,
    Campaign,
    ChainBroken,
    Change,
    Compact,
    Config,
    Entry,
    EntryKind,
    ForwardProposal,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    MembershipChange,
    Payload,
    ProgressState,
    ProposalRefused,
    Propose,
    ProposeChange,
    Read,
    ReadIndexRequest,
    ReadState,
    Ready,
    Recovering,
    Refusal,
    Refused,
    RequestVote,
    Role,
    SnapshotTaken,
    State,
    Tick,
    TransferLeader,
    Transition,
    VoteResponse,
    ready,
    start,
)
from raftkv.errors import InvariantError
from tests.core.cluster import (
    LEAVE,
    ONE,
    Cluster,
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
    snapshot_at,
    ticked,
    voter,
)

both = pytest.mark.parametrize("on", [False, True], ids=["off", "on"])


def leading(config: Config = ONE, voters: tuple[int, ...] = (1, 2, 3)) -> State:
    """A leader whose log everybody has."""
    return followed(elected(member(config, voters=voters)), *[n for n in voters if n != 1])


def taken(state: State) -> Ready:
    """The Ready alone."""
    return ready(state)[1]


# --- single_voter_reads_wait --------------------------------------------------------------------


@both
def test_a_single_voter_reads_after_a_commit_in_its_term(on: bool) -> None:
    """Before, it may not know yet that entries of its last leadership are committed."""
    config = Config(id=1, single_voter_reads_wait=on)
    state, _ = settled(member(config, terms=(1, 1), voters=(1,), commit=1))
    state, todo = ready(run(state, Campaign()))
    leader = run(state, VoteResponse(1, 1, 2, False))
    assert (leader.role, leader.commit) == (Role.LEADER, 1)
    leader, todo = ready(run(leader, Read(b"r")))
    assert todo.reads == (() if on else (ReadState(1, b"r"),))
    leader, todo = ready(run(leader, AppendResponse(1, 1, 2, 3)))
    assert todo.reads == ((ReadState(3, b"r"),) if on else ())
    assert taken(run(leader, Read(b"s"))).reads == (ReadState(3, b"s"),)


@both
def test_a_single_voter_is_not_read_past_by_a_leader_that_was_removed(on: bool) -> None:
    leader = leading(Config(id=1, single_voter_reads_wait=on), (1, 2))
    leader = run(leader, ApplyChange(MembershipChange((removed(1),))))
    todo = taken(run(leader, Read(b"r")))
    assert bool(todo.reads) is not on


# --- refuse_invalid_changes ---------------------------------------------------------------------

TWO = MembershipChange((voter(4), removed(2)))


def _pending(leader: State) -> State:
    return run(leader, change(learner(9)))


def _joint(leader: State) -> State:
    return run(leader, ApplyChange(MembershipChange((voter(4),), Transition.EXPLICIT)))


@both
@pytest.mark.parametrize(
    ("prepare", "proposed", "reason"),
    [
        (_pending, change(learner(4)), Refusal.CHANGE_PENDING),
        (_joint, change(learner(5)), Refusal.CHANGE_WHILE_JOINT),
        (None, LEAVE, Refusal.NOT_JOINT),
        (None, Propose((Payload(EntryKind.CHANGE, b"\xff"),)), Refusal.CHANGE_INVALID),
        (None, ProposeChange(TWO, single=True), None),
    ],
    ids=["pending", "joint", "not joint", "malformed", "two voters, joint"],
)
def test_an_impossible_change_is_refused_with_its_reason(
    prepare: object, proposed: Propose | ProposeChange, reason: Refusal | None, on: bool
) -> None:
    """Off: it becomes an empty entry, and the proposer is told nothing."""
    leader = leading(Config(id=1, refuse_invalid_changes=on))
    if callable(prepare):
        prepared = prepare(leader)
        assert isinstance(prepared, State)
        leader = prepared
    before = leader.log.last_index
    leader = run(leader, evolve(proposed, request=7))
    if reason is None:
        assert leader.log.entry(before + 1).kind is EntryKind.CHANGE_SINGLE
        return
    if on:
        assert leader.outbox.answers == (Refused(7, reason),)
        assert leader.log.last_index == before
    else:
        assert leader.outbox.answers == (Accepted(7, 1, before + 1, before + 1),)
        entry = leader.log.entry(before + 1)
        assert (entry.kind, entry.data) == (EntryKind.NORMAL, b"")


@pytest.mark.parametrize(
    ("steps", "via"),
    [((removed(1),), Transition.AUTO), ((learner(1),), Transition.IMPLICIT)],
)
def test_a_change_that_would_leave_no_voter_is_refused_and_not_fatal(
    steps: tuple[Change, ...], via: Transition
) -> None:
    """Off: it is taken, and applying it stops every member."""
    proposed = evolve(change(*steps, via=via), request=7)
    leader = elected(member(Config(id=1, refuse_invalid_changes=True), voters=(1,)))
    leader = run(leader, proposed)
    assert leader.outbox.answers == (Refused(7, Refusal.CHANGE_INVALID),)
    with pytest.raises(InvariantError):
        settled(run(elected(member(voters=(1,))), proposed))


def test_one_impossible_change_refuses_the_whole_proposal() -> None:
    leader = leading(Config(id=1, refuse_invalid_changes=True))
    payloads = (normal(b"x"), Payload(EntryKind.CHANGE, b""))
    after = run(leader, Propose(payloads, 7))
    assert after.outbox.answers == (Refused(7, Refusal.NOT_JOINT),)
    assert (after.log, after.leading) == (leader.log, leader.leading)


def test_a_possible_change_is_taken() -> None:
    cluster = Cluster(3, config=Config(id=1, refuse_invalid_changes=True))
    cluster.elect(1)
    cluster.step(1, change(voter(4), removed(3)))
    cluster.deliver()
    assert cluster.states[1].membership.voters == (1, 2, 4)


# --- applied_bounds_commit ----------------------------------------------------------------------


@both
def test_after_a_restart_nothing_applied_is_uncommitted(on: bool) -> None:
    """The commit index need not be synced with the machine's state."""
    config = Config(id=1, applied_bounds_commit=on)

    def restarted() -> State:
        return start(
            config, voters=(1,), hard_state=HardState(1, 1, 1), entries=log_of(1, 1, 1), applied=2
        )

    if not on:
        with pytest.raises(InvariantError, match="beyond the commit"):
            restarted()
        return
    state = restarted()
    assert (state.applied, state.commit) == (2, 2)
    assert taken(run(state, Tick())).is_empty


def test_what_is_applied_must_be_in_the_log_even_so() -> None:
    with pytest.raises(InvariantError, match="commit index 4"):
        start(
            Config(id=1, applied_bounds_commit=True),
            voters=(1,),
            hard_state=HardState(1, 1, 1),
            entries=log_of(1, 1, 1),
            applied=4,
        )


# --- reprobe_lost -------------------------------------------------------------------------------


@both
def test_a_member_that_lost_its_logs_end_says_so_instead_of_stopping(on: bool) -> None:
    state = member(Config(id=1, reprobe_lost=on), terms=(1, 1))
    if not on:
        with pytest.raises(InvariantError, match="truncated or lost"):
            run(state, Heartbeat(2, 1, 1, 3))
        return
    state, sent = settled(run(state, Heartbeat(2, 1, 1, 3)))
    assert sent == [
        HeartbeatResponse(1, 2, 1, recovering=True),
        AppendResponse(1, 2, 1, 3, True, 2, 1, recovering=True),
    ]
    assert state.commit == 0
    assert state.recovering is Recovering.ALL


def test_a_member_that_lost_its_logs_end_is_brought_up_again() -> None:
    cluster = Cluster(3, config=Config(id=1, reprobe_lost=True))
    cluster.elect(1)
    cluster.propose(1, b"a", b"b", b"c")
    disk = cluster.disks[2]
    cluster.disks[2] = evolve(
        disk, hard_state=evolve(disk.hard_state, commit=2), entries=disk.entries[:2]
    )
    cluster.crash(2)
    cluster.restart(2)
    assert cluster.states[2].log.last_index == 2
    cluster.tick(3, 1)
    assert cluster.states[2].log == cluster.states[1].log
    assert cluster.commands(2) == [b"a", b"b", b"c"]


# --- snapshot_timeout_ticks ---------------------------------------------------------------------


def snapshot_sent(config: Config) -> State:
    """A leader that waits for peer 2 to install a snapshot at index 3."""
    leader = followed(elected(member(config, terms=(1, 1, 1))), 3)
    leader = run(leader, SnapshotTaken(snapshot_at(3, 1)), Compact(3))
    leader, _ = settled(run(leader, AppendResponse(2, 1, 2, 3, True)))
    progress = leader.peer(2)
    assert progress is not None
    assert progress.state is ProgressState.SNAPSHOT
    return leader


@pytest.mark.parametrize("ticks", [0, 1, 7])
def test_a_peer_stuck_in_snapshot_state_is_probed_again(ticks: int) -> None:
    """0: never, as in the model."""
    leader = snapshot_sent(Config(id=1, snapshot_timeout_ticks=ticks))
    states: list[ProgressState | None] = []
    for _ in range(20):
        leader, _ = settled(run(leader, Tick()))
        progress = leader.peer(2)
        assert progress is not None
        states.append(progress.state)
    waiting = states.index(ProgressState.PROBE) + 1 if ProgressState.PROBE in states else 0
    assert waiting == ticks
    if ticks:
        progress = leader.peer(2)
        assert progress is not None
        assert (progress.next, progress.flow_paused) == (1, True)
        sent = sent_by(leader, beat(leader, 2))
        assert [type(one) for one in sent] == [InstallSnapshot]


def test_each_snapshot_has_the_whole_time() -> None:
    leader = snapshot_sent(Config(id=1, snapshot_timeout_ticks=7))
    leader = ticked(leader, 6)
    leader, _ = settled(run(leader, Tick(), beat(leader, 2)))
    progress = leader.peer(2)
    assert progress is not None
    assert (progress.state, progress.snapshot_ticks) == (ProgressState.SNAPSHOT, 0)
    again = ticked(leader, 6).peer(2)
    assert again is not None
    assert again.state is ProgressState.SNAPSHOT


# --- snapshots_for_members ----------------------------------------------------------------------


@both
def test_a_snapshot_older_than_the_membership_of_its_receiver_is_not_sent(on: bool) -> None:
    leader = leading(Config(id=1, snapshots_for_members=on))
    image = evolve(snapshot_at(1, 1), chain=leader.log.chain_at(1))
    leader = run(leader, SnapshotTaken(image), Compact(1))
    leader = run(leader, ApplyChange(MembershipChange((learner(4),))))
    leader, todo = ready(run(leader, AppendResponse(4, 1, 1, 1, True), beat(leader, 4)))
    assert todo.snapshot_wanted is on
    assert any(isinstance(one, InstallSnapshot) for one in todo.messages) is not on
    newer = evolve(image, membership=leader.membership)
    leader, todo = ready(run(leader, SnapshotTaken(newer), beat(leader, 4)))
    assert any(isinstance(one, InstallSnapshot) for one in todo.messages) is on


# --- report_dropped_reads -----------------------------------------------------------------------


@both
def test_reads_that_will_never_be_answered_are_reported(on: bool) -> None:
    config = Config(id=1, report_dropped_reads=on)
    dropped = (b"r",) if on else ()
    assert taken(run(member(config), Read(b"r"), Tick())).dropped_reads == dropped
    candidate, _ = settled(run(member(config), Campaign()))
    assert taken(run(candidate, Read(b"r"))).dropped_reads == dropped
    assert taken(run(candidate, ReadIndexRequest(2, 1, b"r"))).dropped_reads == ()
    assert taken(run(candidate, ReadIndexRequest(1, 1, b"r"))).dropped_reads == dropped


@both
def test_reads_of_ours_under_way_at_a_step_down_are_reported(on: bool) -> None:
    leader, _ = settled(run(leading(Config(id=1, report_dropped_reads=on)), Read(b"a")))
    leader = run(leader, ReadIndexRequest(2, 1, b"other's"), Read(b"b"))
    todo = taken(run(leader, RequestVote(2, 1, 9, 9, 9)))
    assert todo.dropped_reads == ((b"a", b"b") if on else ())


@both
def test_reads_that_wait_for_a_commit_at_a_step_down_are_reported(on: bool) -> None:
    leader = run(elected(member(Config(id=1, report_dropped_reads=on))), Read(b"a"))
    leader = run(leader, ReadIndexRequest(2, 1, b"other's"))
    leader, todo = ready(run(leader, RequestVote(2, 1, 9, 9, 9)))
    assert todo.dropped_reads == ((b"a",) if on else ())
    assert len(leader.leading.waiting_reads) == (0 if on else 2)


# --- answer_forwarded ---------------------------------------------------------------------------


@both
def test_who_forwarded_a_proposal_learns_that_it_was_refused(on: bool) -> None:
    leader = run(leading(Config(id=1, answer_forwarded=on)), TransferLeader(3))
    leader, _ = settled(leader)
    todo = taken(run(leader, ForwardProposal(2, 1, (normal(b"x"),), 7)))
    assert todo.answers == (Refused(7, Refusal.TRANSFERRING, 2),)
    assert todo.messages == ((ProposalRefused(1, 2, 7, int(Refusal.TRANSFERRING)),) if on else ())


def test_a_refusal_from_elsewhere_is_an_answer_here() -> None:
    state = member()
    todo = taken(run(state, ProposalRefused(2, 1, 7, int(Refusal.TRANSFERRING))))
    assert todo.answers == (Refused(7, Refusal.TRANSFERRING),)
    todo = taken(run(state, ProposalRefused(2, 1, 7, 99)))  # a newer member's reason
    assert todo.answers == (Refused(7, Refusal.NO_LEADER),)


# --- verify_chain -------------------------------------------------------------------------------


def damaged(entry: Entry) -> Entry:
    """The same place, other bytes."""
    return evolve(entry, data=entry.data + b"?")


@both
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_entry_that_does_not_continue_the_log_is_not_taken(broken: int, on: bool) -> None:
    state = member(Config(id=1, verify_chain=on), terms=(1,))
    entries = list(log_of(1, 1, 1, 1)[1:])
    entries[broken] = damaged(entries[broken])
    after = run(state, append(state, 2, tuple(entries)))
    if not on:
        assert after.log.last_index == 4
        return
    assert after.log == state.log
    todo = taken(after)
    assert todo.alarms == (ChainBroken(2, 2 + broken),)
    assert f"entry {2 + broken} from member 2" in todo.alarms[0].what
    assert todo.responses == ()


def test_a_log_that_differs_below_equal_terms_is_noticed_at_the_first_new_entry() -> None:
    """Both have (1, 1) at index 1, but not the same command: the next entry's chain tells."""
    other = evolve(log_of(1)[0], data=b"other", chain=7)
    state = start(Config(id=1), voters=(1, 2), hard_state=HardState(1, 0, 0), entries=(other,))
    todo = taken(run(state, append(state, 2, log_of(1, 1)[1:])))
    assert todo.alarms == (ChainBroken(2, 2),)


def test_after_an_alarm_the_right_entries_are_taken() -> None:
    state = member(terms=(1,))
    good = log_of(1, 1)[1:]
    state, _ = settled(run(state, append(state, 2, (damaged(good[0]),))))
    assert run(state, append(state, 2, good)).log.last_index == 2
