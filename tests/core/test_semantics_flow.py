"""RAFT_SEMANTICS sections 4, 5 and 7: what is sent when, stale answers, limits, forwarding."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Applied,
    ApplyChange,
    Campaign,
    Config,
    EntryKind,
    ForwardProposal,
    Heartbeat,
    MembershipChange,
    Persisted,
    PreVoteResponse,
    Progress,
    ProgressState,
    Propose,
    Refusal,
    Refused,
    Role,
    State,
    Tick,
    TimeoutNow,
    TransferLeader,
    Transition,
    Unreachable,
    VoteResponse,
    ready,
)
from raftkv.core.types import ENTRY_OVERHEAD_BYTES
from tests.core.cluster import (
    LEAVE,
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
    voter,
)


def leading(config: Config = ONE) -> State:
    """A leader whose log all three voters have: both peers replicate."""
    return followed(elected(member(config)), 2, 3)


def peer_of(state: State, node: int = 2) -> Progress:
    """How the leader sees a peer."""
    progress = state.peer(node)
    assert progress is not None
    return progress


def appends(
    state: State, *inputs: Propose | AppendResponse | Tick | Unreachable
) -> list[list[int]]:
    """The entries of each append to peer 2 that the inputs cause."""
    sent = sent_by(state, *inputs)
    return _entries([one for one in sent if isinstance(one, AppendEntries)])


def _entries(messages: list[AppendEntries]) -> list[list[int]]:
    return [[entry.index for entry in one.entries] for one in messages if one.to == 2]


def propose(data: bytes = b"x", times: int = 1) -> Propose:
    """One proposal of so many commands."""
    return Propose((normal(data),) * times)


# --- probing and streaming ----------------------------------------------------------------------


def test_4_a_peer_is_probed_with_one_append_until_it_answers() -> None:
    leader = elected(member())
    progress = peer_of(leader)
    assert (progress.state, progress.flow_paused) == (ProgressState.PROBE, True)
    assert progress.is_paused
    assert appends(leader, propose(), propose()) == []


def test_4_an_answer_turns_probing_into_streaming() -> None:
    leader = elected(member())
    leader, _ = settled(run(leader, propose()))
    leader, sent = settled(run(leader, AppendResponse(2, 1, 1, 1)))
    progress = peer_of(leader)
    assert (progress.state, progress.match, progress.next) == (ProgressState.REPLICATE, 1, 3)
    assert not progress.is_paused
    assert [2] in _entries([one for one in sent if isinstance(one, AppendEntries)])
    assert appends(leader, propose(), propose()) == [[3], [4]]


def test_4_an_empty_append_in_a_probe_does_not_pause() -> None:
    """RAFT_SEMANTICS 4: the flag only if there were entries."""
    leader = followed(elected(member()), 2)
    leader, _ = settled(run(leader, Unreachable(2)))
    leader = run(leader, beat(leader, 2))
    progress = peer_of(leader)
    assert (progress.state, progress.flow_paused) == (ProgressState.PROBE, False)


def test_4_an_answer_at_match_ends_a_probe_and_one_below_does_not() -> None:
    leader = run(followed(elected(member(terms=(1,))), 2), Unreachable(2))
    assert peer_of(leader).state is ProgressState.PROBE
    assert run(leader, acked(leader, 2, 1)) == leader
    assert peer_of(run(leader, acked(leader, 2))).state is ProgressState.REPLICATE


def test_4_a_probed_peer_that_answers_a_heartbeat_is_probed_even_if_it_has_all() -> None:
    leader, _ = settled(run(leading(), Unreachable(2)))
    sent = sent_by(leader, beat(leader, 2))
    assert sent == [AppendEntries(1, 2, 1, 1, 1, 1)]


def test_4_an_unreachable_peer_is_probed_from_what_it_has() -> None:
    leader, _ = settled(run(leading(), propose(), propose()))
    assert peer_of(leader).next == 4
    leader = run(leader, Unreachable(2))
    progress = peer_of(leader)
    assert (progress.state, progress.next, progress.inflight) == (ProgressState.PROBE, 2, ())
    assert run(leader, Unreachable(2)) == leader
    assert run(leader, Unreachable(7)) == leader
    assert run(member(), Unreachable(2)) == member()


def test_4_a_heartbeats_answer_lets_a_paused_peer_be_probed_again() -> None:
    leader = elected(member())
    leader, sent = settled(run(leader, beat(leader, 2)))
    assert [type(one) for one in sent] == [AppendEntries]
    assert sent_by(leader, beat(leader, 3)) != []
    complete = leading()
    assert sent_by(complete, beat(complete, 2)) == []


def test_4_heartbeats_never_carry_a_commit_beyond_what_the_peer_has() -> None:
    leader, _ = settled(run(followed(elected(member()), 2), propose()))
    leader, _ = settled(run(leader, acked(leader, 2)))
    sent = sent_by(leader, Tick())
    assert [(one.to, one.commit) for one in sent if isinstance(one, Heartbeat)] == [(2, 2), (3, 0)]


def test_4_a_peer_that_has_all_is_told_a_newer_commit() -> None:
    """RAFT_SEMANTICS 4: an empty append if what was sent is below commit and next - 1."""
    leader, _ = settled(run(leading(), propose()))
    leader, _ = settled(run(leader, acked(leader, 2)))
    (news,) = sent_by(leader, acked(leader, 3)) or [None]
    assert news is None  # the broadcast has told it
    for inputs in ([Unreachable(3)], [Tick()]):  # what was told may be lost, or was told less
        told, _ = settled(run(leader, *inputs))
        assert peer_of(told, 3).sent_commit == 1
        sent = sent_by(told, acked(told, 3))
        assert [(one.to, one.commit) for one in sent if isinstance(one, AppendEntries)] == [(3, 2)]


# --- stale answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
def test_14_a_rejection_at_or_below_match_is_stale_while_streaming(index: int) -> None:
    leader = followed(elected(member(terms=(1,))), 2)
    assert peer_of(leader).match == 2
    rejected = AppendResponse(2, 1, 2, index, True, 0, 0)
    assert run(leader, rejected) == leader


def test_14_a_rejection_above_match_while_streaming_probes_from_match() -> None:
    """RAFT_SEMANTICS 4: the hint is not used."""
    leader, _ = settled(run(leading(), propose(), propose()))
    leader, sent = settled(run(leader, AppendResponse(2, 1, 1, 3, True, 0, 0)))
    progress = peer_of(leader)
    assert (progress.state, progress.match, progress.next) == (ProgressState.PROBE, 1, 2)
    assert _entries([one for one in sent if isinstance(one, AppendEntries)]) == [[2, 3]]


@pytest.mark.parametrize(("index", "stale"), [(0, True), (2, True), (3, False), (4, True)])
def test_14_a_rejection_of_another_probe_than_the_last_is_stale(index: int, stale: bool) -> None:
    leader = elected(member(terms=(1, 1, 1)))
    after = run(leader, AppendResponse(2, 1, 2, index, True, 1, 1))
    assert (peer_of(after).next == peer_of(leader).next) is stale
    if stale:
        assert evolve(after, progress=()) == evolve(leader, progress=())
    else:
        assert peer_of(after).next == 2


@pytest.mark.parametrize(
    ("hint", "hint_term", "following"),
    [
        (0, 0, 1),
        (1, 0, 2),
        (2, 0, 3),
        (9, 0, 6),
        (2, 1, 3),
        (6, 2, 4),
        (5, 1, 3),
        (5, 3, 6),
        (1, 9, 2),
    ],
)
def test_14_the_hint_says_where_to_probe_next(hint: int, hint_term: int, following: int) -> None:
    """RAFT_SEMANTICS 4: our last index up to the hint whose term is not above the hint's."""
    leader = elected(member(terms=(1, 1, 2, 3, 3, 3)))
    after = run(leader, AppendResponse(2, 1, 4, 6, True, hint, hint_term))
    assert peer_of(after).next == following


def test_14_an_old_acceptance_changes_nothing() -> None:
    leader, _ = settled(run(leading(), propose()))
    leader, _ = settled(run(leader, acked(leader, 2), acked(leader, 3)))
    assert run(leader, AppendResponse(2, 1, 1, 1)) == leader


# --- the follower's side ------------------------------------------------------------------------


def test_14_an_append_below_the_commit_is_accepted_at_the_commit_uncompared() -> None:
    state = member(terms=(1, 1, 1), commit=2)
    other = AppendEntries(2, 1, 2, 0, 0, 3, log_of(2, 2, 2))
    after, sent = settled(run(state, other))
    assert (after.log, after.commit) == (state.log, 2)
    assert sent == [AppendResponse(1, 2, 2, 2)]


def test_14_an_append_is_accepted_up_to_its_own_end_which_may_be_below_ours() -> None:
    state = member(terms=(1, 1, 1))
    assert sent_by(state, append(state, 2, log_of(1, 1)[1:])) == [AppendResponse(1, 2, 1, 2)]
    assert sent_by(state, AppendEntries(2, 1, 1, 1, 1, 0)) == [AppendResponse(1, 2, 1, 1)]


@pytest.mark.parametrize(
    ("terms", "prev", "prev_term", "hint"),
    [
        ((), 5, 1, (0, 0)),
        ((1, 1), 5, 1, (2, 1)),
        ((1, 1, 3, 3), 3, 2, (2, 1)),
        ((1, 2, 3, 3), 4, 2, (2, 2)),
        ((2, 2), 2, 1, (0, 0)),
        ((1, 3), 9, 9, (2, 3)),
    ],
)
def test_5_a_rejection_hints_at_the_last_entry_that_could_match(
    terms: tuple[int, ...], prev: int, prev_term: int, hint: tuple[int, int]
) -> None:
    state = member(terms=terms, term=9)
    sent = sent_by(state, AppendEntries(2, 1, 9, prev, prev_term, 0))
    assert sent == [AppendResponse(1, 2, 9, prev, True, *hint)]


def test_5_a_hint_does_not_look_below_the_compaction_point() -> None:
    """RAFT_SEMANTICS 5: the compacted index with term 0."""
    cluster = Cluster(3, logs=dict.fromkeys((1, 2, 3), (3, 3, 3)))
    cluster.elect(1)
    cluster.image(2)
    follower = cluster.states[2]
    base = follower.log.base_index
    assert base == 4
    (answer,) = sent_by(follower, AppendEntries(1, 2, 9, 7, 2, 0))
    assert answer == AppendResponse(2, 1, 9, 7, True, base - 1, 0)
    (answer,) = sent_by(follower, AppendEntries(1, 2, 9, 7, 4, 0))
    assert answer == AppendResponse(2, 1, 9, 7, True, base, 4)


# --- limits -------------------------------------------------------------------------------------

SIZE = ENTRY_OVERHEAD_BYTES + 10
TEN = b"0123456789"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, [[2], [3], [4], [5], [6]]),
        (SIZE, [[2], [3], [4], [5], [6]]),
        (2 * SIZE - 1, [[2], [3], [4], [5], [6]]),
        (2 * SIZE, [[2, 3], [4, 5], [6]]),
        (5 * SIZE, [[2, 3, 4, 5, 6]]),
    ],
)
def test_14_a_message_holds_what_its_limit_allows_but_at_least_one_entry(
    limit: int, expected: list[list[int]]
) -> None:
    leader, _ = settled(run(leading(Config(id=1, append_bytes_max=limit)), Unreachable(2)))
    leader, first = settled(run(leader, propose(TEN, 5)))
    assert _entries([one for one in first if isinstance(one, AppendEntries)]) == expected[:1]
    last = expected[0][-1]
    # Without entries to send, the answer to the last one is told the new commit index.
    assert [some for some in appends(leader, AppendResponse(2, 1, 1, last)) if some] == expected[1:]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_4_a_full_window_of_appends_pauses_the_stream(count: int) -> None:
    config = Config(id=1, inflight_max=count, append_bytes_max=0)
    leader, sent = settled(run(leading(config), *[propose()] * 5))
    assert len(_entries([one for one in sent if isinstance(one, AppendEntries)])) == count
    assert peer_of(leader).flow_paused
    assert len(peer_of(leader).inflight) == count
    # One is answered, one more goes.
    assert appends(leader, AppendResponse(2, 1, 1, 2)) == [[2 + count]]
    # All are answered, the window is filled again.
    more = appends(leader, AppendResponse(2, 1, 1, 1 + count))
    assert more == [[i] for i in range(2 + count, 7)][:count]


def test_14_a_window_of_bytes_is_full_at_its_limit_and_one_append_may_overshoot() -> None:
    config = Config(id=1, append_bytes_max=SIZE, inflight_bytes_max=SIZE)
    assert len(TEN) * 5 > SIZE > len(TEN) * 4
    leader, sent = settled(run(leading(config), *[propose(TEN)] * 8))
    assert len(_entries([one for one in sent if isinstance(one, AppendEntries)])) == 5
    assert peer_of(leader).inflight_bytes == 50
    assert appends(leader, AppendResponse(2, 1, 1, 2)) == [[7]]
    assert appends(leader, AppendResponse(2, 1, 1, 4)) == [[7], [8], [9]]


def test_4_a_full_window_is_probed_with_an_empty_append_after_a_heartbeats_answer() -> None:
    """RAFT_SEMANTICS 4: so a full window does not silence a peer for good."""
    leader, _ = settled(run(leading(Config(id=1, inflight_max=1)), propose(), propose()))
    leader, sent = settled(run(leader, beat(leader, 2)))
    assert _entries([one for one in sent if isinstance(one, AppendEntries)]) == [[]]
    assert peer_of(leader).flow_paused


def test_14_a_proposal_beyond_the_uncommitted_limit_is_refused() -> None:
    leader = leading(Config(id=1, uncommitted_bytes_max=25))
    leader = run(leader, propose(TEN), propose(TEN), Propose((normal(TEN),), 7))
    assert leader.outbox.answers == (Refused(7, Refusal.TOO_MUCH_UNCOMMITTED),)
    assert leader.leading.uncommitted_bytes == 20
    assert run(leader, propose(b"12345")).leading.uncommitted_bytes == 25


def test_14_a_first_oversized_proposal_passes_and_so_do_empty_ones() -> None:
    leader = run(leading(Config(id=1, uncommitted_bytes_max=5)), propose(TEN))
    assert leader.log.last_index == 2
    leader = run(leader, propose(b"x"))
    assert leader.log.last_index == 2
    assert run(leader, propose(b"")).log.last_index == 3


def test_14_the_uncommitted_size_falls_when_entries_are_applied() -> None:
    leader = leading(Config(id=1, uncommitted_bytes_max=25))
    leader, todo = ready(run(leader, propose(TEN), propose(TEN)))
    leader = run(leader, Persisted(todo.number), acked(leader, 2))
    leader, todo = ready(leader)
    assert len(todo.committed) == 2
    assert leader.leading.uncommitted_bytes == 20
    leader = run(leader, Applied(todo.committed[-1].index))
    assert leader.leading.uncommitted_bytes == 0
    assert run(leader, propose(TEN)).log.last_index == 4


def test_14_a_new_leader_counts_from_zero_whatever_its_log_holds() -> None:
    leader = elected(member(Config(id=1, uncommitted_bytes_max=5), terms=(1, 1)))
    leader = run(leader, propose(b"1"))
    assert leader.leading.uncommitted_bytes == 1
    # Its old entries are applied too, and the sum does not fall below zero.
    leader, _ = settled(run(leader, acked(leader, 2)))
    assert (leader.applied, leader.leading.uncommitted_bytes) == (4, 0)


def test_14_a_proposal_refused_for_its_size_changes_nothing_pending() -> None:
    leader = run(leading(Config(id=1, uncommitted_bytes_max=5)), propose(TEN))
    refused = run(leader, evolve(change(learner(4)), request=7))
    assert refused.leading == leader.leading
    assert refused.outbox.answers == (Refused(7, Refusal.TOO_MUCH_UNCOMMITTED),)


# --- forwarding ---------------------------------------------------------------------------------


def following(config: Config = ONE) -> State:
    """A follower of member 2."""
    return settled(run(member(config), Heartbeat(2, 1, 1, 0)))[0]


def test_14_a_follower_forwards_a_proposal_and_keeps_its_sender() -> None:
    payloads = (normal(b"x"),)
    assert sent_by(following(), Propose(payloads, 7)) == [ForwardProposal(1, 2, payloads, 7)]
    passed = sent_by(following(), ForwardProposal(3, 1, payloads, 7))
    assert passed == [ForwardProposal(3, 2, payloads, 7)]


def test_14_with_forwarding_disabled_a_follower_refuses() -> None:
    state = following(Config(id=1, disable_forwarding=True))
    after = run(state, Propose((normal(b"x"),), 7))
    assert after.outbox.answers == (Refused(7, Refusal.FORWARDING_DISABLED),)
    assert after.messages == ()


def test_14_a_forwarded_proposal_without_payloads_is_ignored() -> None:
    leader = leading()
    assert run(leader, ForwardProposal(2, 1, (), 7)) == leader


def test_14_a_forwarded_proposal_of_ours_that_comes_back_is_answered() -> None:
    leader = run(leading(), ForwardProposal(1, 1, (normal(b"x"),), 7))
    assert [type(one).__name__ for one in leader.outbox.answers] == ["Accepted"]
    others = run(leading(), ForwardProposal(2, 1, (normal(b"x"),), 7))
    assert others.outbox.answers == ()


# --- campaigns beside unapplied changes ---------------------------------------------------------


def with_unapplied_change(config: Config = ONE) -> Cluster:
    """Member 2 knows a membership change to be committed and has not applied it."""
    cluster = Cluster(3, config=config)
    cluster.elect(1)
    cluster.slow_machines.add(2)
    cluster.step(1, change(learner(4)))
    cluster.deliver()
    state = cluster.states[2]
    assert state.applied < state.commit
    return cluster


@pytest.mark.parametrize("pre_vote", [False, True])
def test_14_nobody_campaigns_beside_an_unapplied_change(pre_vote: bool) -> None:
    """RAFT_SEMANTICS 3: it might count the wrong voters."""
    cluster = with_unapplied_change(Config(id=1, pre_vote=pre_vote))
    cluster.step(2, Campaign())
    assert cluster.states[2].role is Role.FOLLOWER
    cluster.states[2] = ticked(cluster.states[2], 20)
    assert cluster.states[2].role is Role.FOLLOWER
    cluster.apply(2)
    cluster.step(2, Campaign())
    assert cluster.states[2].role is not Role.FOLLOWER


def test_14_nor_when_it_is_handed_the_lead() -> None:
    state = with_unapplied_change().states[2]
    assert run(state, TimeoutNow(1, 2, 1)) == state


def test_14_an_unapplied_command_does_not_prevent_a_campaign() -> None:
    state = member(terms=(1, 1), commit=2)
    assert run(state, Campaign()).role is Role.CANDIDATE


# --- leaving a joint configuration by itself ----------------------------------------------------


def test_14_a_new_leader_leaves_the_joint_configuration_of_an_old_one() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    # The leave that 1 proposes is lost.
    cluster.lost = lambda message: (
        message.sender == 1
        and isinstance(message, AppendEntries)
        and any(entry.kind is EntryKind.CHANGE and not entry.data for entry in message.entries)
    )
    cluster.step(1, change(removed(1), via=Transition.IMPLICIT))
    cluster.deliver()
    cluster.tick(1, 1)
    assert cluster.states[2].membership.is_joint
    assert cluster.states[2].membership.auto_leave
    cluster.crash(1)
    cluster.elect(2)
    cluster.deliver()
    for node in (2, 3):
        assert cluster.states[node].membership.voters == (2, 3)
        assert not cluster.states[node].membership.is_joint


def test_14_a_leave_that_was_refused_is_tried_again_at_the_next_applied_entry() -> None:
    """RAFT_SEMANTICS 9: refused while a transfer is pending."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.slow_machines.add(1)
    cluster.step(1, change(voter(4), removed(3)))
    cluster.deliver()
    cluster.lost = lambda message: message.to == 2
    cluster.propose(1, b"x")
    cluster.step(1, TransferLeader(2))
    cluster.apply(1)
    joint = cluster.states[1]
    assert joint.membership.is_joint
    assert all(entry.data for entry in joint.log.entries() if entry.kind is EntryKind.CHANGE)
    cluster.slow_machines.clear()
    cluster.heal()
    cluster.step(1, TransferLeader(1))
    cluster.propose(1, b"y")
    cluster.tick(2, 1)
    assert cluster.commands(1) == [b"x", b"y"]
    assert not cluster.states[1].membership.is_joint
    assert cluster.states[1].membership.voters == (1, 2, 4)


def test_9_a_leave_is_proposed_once() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.step(1, change(learner(2), learner(3)))
    cluster.deliver()
    for _ in range(3):
        cluster.propose(1, b"x")
    leaves = [entry for entry in cluster.states[1].log.entries() if entry.kind and not entry.data]
    assert len(leaves) == 1


def test_9_an_explicit_joint_configuration_is_not_left_by_itself() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.step(1, change(removed(3), via=Transition.EXPLICIT))
    cluster.deliver()
    cluster.propose(1, b"x")
    assert cluster.states[1].membership.is_joint
    cluster.step(1, LEAVE)
    cluster.deliver()
    assert not cluster.states[1].membership.is_joint


def test_9_only_a_leader_proposes_to_leave() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.slow_machines.add(1)
    cluster.step(1, change(voter(4), removed(3)))
    cluster.deliver()
    cluster.tick(1, 1)
    assert cluster.states[2].membership.is_joint
    assert cluster.states[2].log.last_index == cluster.states[1].log.last_index == 2


# --- a lost election ----------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [False, True])
def test_14_in_a_joint_configuration_losing_either_half_loses_the_election(pre: bool) -> None:
    config = Config(id=1, pre_vote=pre)
    steps = (voter(4), voter(5), removed(2), removed(3))
    state = run(member(config), ApplyChange(MembershipChange(steps, Transition.EXPLICIT)))
    state, _ = settled(run(state, Campaign()))
    answer = PreVoteResponse if pre else VoteResponse
    term = state.term
    for half in ((2, 3), (4, 5)):
        lost = run(state, *[answer(node, 1, term, True) for node in half])
        assert (lost.role, lost.leader, lost.term) == (Role.FOLLOWER, 0, term)
    one_each = run(state, answer(2, 1, term, True), answer(4, 1, term, True))
    assert one_each.role is state.role
