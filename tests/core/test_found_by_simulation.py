"""What the simulator found in the core: each fault as the shortest story that shows it."""

from __future__ import annotations

import pytest

from raftkv.core import (
    SAFEST,
    Campaign,
    Change,
    ChangeKind,
    Compact,
    Config,
    EntryKind,
    HardState,
    InstallSnapshot,
    Membership,
    MembershipChange,
    Payload,
    Persisted,
    PreVote,
    PreVoteResponse,
    ProgressState,
    Propose,
    Receive,
    Refused,
    RequestVote,
    Role,
    Snapshot,
    SnapshotTaken,
    State,
    VoteResponse,
    encode_change,
    has_ready,
    ready,
    start,
    step,
)
from raftkv.core.log import Log
from raftkv.core.prng import between, seeded
from raftkv.testing import Options
from tests.core.cluster import acked, elected, run, settled, snapshot_at
from tests.core.cluster import member as opened
from tests.core.worlds import ByHand

VOTERS = (1, 2, 3)


def stream(seed: int, length: int) -> list[int]:
    state, drawn = seeded(seed), list[int]()
    for _ in range(length):
        state, number = between(state, 0, 2**32)
        drawn.append(number)
    return drawn


def test_no_member_draws_the_timeouts_of_its_neighbour_a_little_later() -> None:
    """Seeds that were multiples of the increment gave one stream, shifted: votes split for ever."""
    streams = [stream(seed, 200) for seed in range(1, 30)]
    for place, one in enumerate(streams):
        for other in streams[place + 1 :]:
            assert not {*one} & {*other}


@pytest.mark.parametrize("waits", [False, True])
def test_votes_are_asked_for_once_the_own_is_stored(waits: bool) -> None:
    """A member that asked at once and crashed could campaign twice in one term."""
    state = step(start(Config(id=1, campaign_when_stored=waits), voters=VOTERS), Campaign())
    _, todo = ready(state)
    at_once = [one for one in todo.messages if isinstance(one, RequestVote)]
    later = [one for one in todo.messages_after_persist if isinstance(one, RequestVote)]
    assert [one.to for one in (later if waits else at_once)] == [2, 3]
    assert not (at_once if waits else later)


def test_a_budget_of_no_bytes_applies_one_entry_at_a_time() -> None:
    config = Config(id=1, append_bytes_max=0, apply_bytes_max=0)
    state = step(start(config, voters=(1,)), Campaign())
    state = step(state, Propose((Payload(EntryKind.NORMAL, b"x"),)))
    pages: list[int] = []
    while has_ready(state):
        state, todo = ready(state)
        pages.append(len(todo.committed))
        state = step(state, Persisted(todo.number))
        if state.role is Role.LEADER and state.log.last_index < 3:
            state = step(state, Propose((Payload(EntryKind.NORMAL, b"x"),) * 2))
    assert max(pages) == 1


def test_a_new_member_is_not_sent_a_snapshot_that_does_not_know_it() -> None:
    """It would ignore it, for ever."""
    world = ByHand(Options(voters=1, settings={**SAFEST, "election_ticks": 3}))
    world.elapse(8)
    leader = world.members[1]
    old = leader.state.snapshot
    assert old is not None
    joiner = world.spawn()
    change = MembershipChange((Change(ChangeKind.VOTER, joiner.id),))
    world.propose_change(leader, change, single=False)
    world.work(leader)
    sent: list[Snapshot] = []
    for turn in range(60):
        if turn % 5 == 0:
            world.elapse(1, settle=False)
        sent += [one.snapshot for one in world.wire if isinstance(one, InstallSnapshot)]
        if world.wire:
            world.arrive(0)
        for member in world.living():
            world.finish(member, 1)
            world.apply(member, 1)
            world.work(member)
    assert sent
    assert all(joiner.id in one.membership.members() for one in sent)
    assert joiner.machine.index == leader.machine.index > old.index


def leaving(**settings: bool) -> ByHand:
    """Two members; the leader removed itself, and has entries that the other was not sent."""
    world = ByHand(Options(voters=2, settings={**SAFEST, "election_ticks": 3, **settings}))
    world.elapse(8)
    leader = world.leader()
    assert leader is not None
    change = MembershipChange((Change(ChangeKind.REMOVE, leader.id),))
    world.propose_change(leader, change, single=False)
    world.propose(leader, (b"tail",))
    world.work(leader)
    return world


def test_a_removed_leader_leads_until_another_has_its_whole_log() -> None:
    world = leaving()
    old = world.leader()
    assert old is not None
    other = next(one for one in world.members.values() if one is not old)
    # The change reaches the other and is committed; what follows it stays behind.
    while old.state.membership.is_voter(old.id):
        assert old.state.role is Role.LEADER
        if world.wire:
            world.arrive(0)
        for member in (old, other):
            world.finish(member, 1)
            world.apply(member, 1)
            world.work(member)
    world.propose(old, (b"refused",))
    refused = [one for one in old.state.outbox.answers if isinstance(one, Refused)]
    assert [one.reason.name for one in refused] == ["NOT_A_MEMBER"]
    world.work(old)
    world.settle()
    assert old.state.role is Role.FOLLOWER
    world.elapse(12)
    assert other.state.role is Role.LEADER
    assert other.state.log.last_index > old.state.log.last_index
    assert other.state.membership == Membership((other.id,))


@pytest.mark.parametrize("hands_over", [False, True])
def test_a_shrunk_pair_elects_its_last_member_also_if_the_other_left_at_once(
    hands_over: bool,
) -> None:
    world = leaving(hand_over_first=hands_over)
    old = world.leader()
    assert old is not None
    for _ in range(200):
        # Appends that would tell the commit index or the tail are lost once the leader has left.
        if not old.state.membership.is_voter(old.id):
            world.wire.clear()
            break
        if world.wire:
            world.arrive(0)
        for member in world.living():
            world.finish(member, 1)
            world.apply(member, 1)
            world.work(member)
    world.elapse(60)
    last = next(one for one in world.members.values() if one is not old)
    assert last.state.membership == Membership((last.id,))
    assert world.leader() is last


def refused_voter(*, change: bool, role: Role = Role.PRE_CANDIDATE) -> State:
    """A member with five entries of term 1, two of them committed, that campaigns."""
    log = Log.starting_at(0, 0)
    for index in range(1, 6):
        made = encode_change(MembershipChange((Change(ChangeKind.LEARNER, 9),)))
        kind = EntryKind.CHANGE if change and index == 4 else EntryKind.NORMAL
        data = made if kind is EntryKind.CHANGE else b""
        log, _ = log.propose(1, (Payload(kind, data),))
    state = start(
        Config(id=1, pre_vote=True, refusals_tell_commit=True),
        hard_state=HardState(1, 0, 2),
        snapshot=Snapshot(0, 0, 0, Membership(VOTERS)),
        entries=tuple(log.entries()),
        applied=2,
    )
    return state if role is Role.FOLLOWER else step(state, Campaign())


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE])
def test_who_is_refused_learns_what_is_committed(role: Role) -> None:
    state = refused_voter(change=False, role=role)
    state = step(state, Receive(PreVoteResponse(2, 1, 1, True, 4, 1)))
    assert state.commit == 4
    assert state.role is role


def test_who_learns_of_a_change_asks_its_voters_later() -> None:
    state = refused_voter(change=True)
    state = step(state, Receive(PreVoteResponse(2, 1, 1, True, 4, 1)))
    assert state.commit == 4
    assert state.role is Role.FOLLOWER


@pytest.mark.parametrize(("commit", "commit_term"), [(4, 2), (9, 1), (1, 1), (0, 0)])
def test_what_does_not_match_is_not_learned(commit: int, commit_term: int) -> None:
    state = refused_voter(change=False)
    state = step(state, Receive(PreVoteResponse(2, 1, 1, True, commit, commit_term)))
    assert state.commit == 2


def test_a_leader_commits_by_counting_alone() -> None:
    state = refused_voter(change=False)
    state = step(state, Receive(PreVoteResponse(2, 1, 2, False)))
    state = step(state, Receive(PreVoteResponse(3, 1, 2, False)))
    state = step(state, Receive(VoteResponse(2, 1, 2, False)))
    state = step(state, Receive(VoteResponse(3, 1, 2, False)))
    assert state.role is Role.LEADER
    state = step(state, Receive(VoteResponse(2, 1, 2, True, 4, 1)))
    assert state.commit == 2


@pytest.mark.parametrize("tells", [False, True])
def test_a_refusal_tells_the_commit(tells: bool) -> None:
    log, _ = Log.starting_at(0, 0).propose(1, (Payload(EntryKind.NORMAL, b""),) * 3)
    state = start(
        Config(id=2, refusals_tell_commit=tells),
        hard_state=HardState(1, 0, 3),
        snapshot=Snapshot(0, 0, 0, Membership(VOTERS)),
        entries=tuple(log.entries()),
        applied=3,
    )
    for request in (PreVote(1, 2, 2, 1, 1), RequestVote(1, 2, 2, 1, 1)):
        _, todo = ready(step(state, Receive(request)))
        (answer,) = todo.messages_after_persist
        assert isinstance(answer, PreVoteResponse | VoteResponse)
        assert answer.rejected
        assert (answer.commit, answer.commit_term) == ((3, 1) if tells else (0, 0))


def test_the_answer_to_an_append_of_an_earlier_term_is_none_to_a_probe() -> None:
    """It says 0, which a new leader took for the place of its probe: it began again from 0.

    With its log compacted that meant a snapshot, which a follower that is further ahead does not
    take: it was sent for ever, and nothing else was.
    """
    state = elected(opened(Config(id=1), (1, 1, 1, 1), commit=4, applied=4))
    state = run(state, SnapshotTaken(snapshot_at(3, 1)), Compact(3))
    state, _ = settled(state)
    before = next(peer for peer in state.progress if peer.id == 2)
    assert (before.state, before.match, before.next) == (ProgressState.PROBE, 0, 5)
    state = run(state, acked(state, 2, 0))
    assert next(peer for peer in state.progress if peer.id == 2).next == 5
    state = run(state, acked(state, 2))
    assert next(peer for peer in state.progress if peer.id == 2).state is ProgressState.REPLICATE
