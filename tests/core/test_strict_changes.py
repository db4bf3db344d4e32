"""The strict check: which membership changes a leader takes, with the members as they are now.

The oracle counts heads: who answers among the voters to come, against more than half of them.
"""

from __future__ import annotations

from itertools import product

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import (
    Accepted,
    ApplyChange,
    Change,
    ChangeKind,
    Config,
    InstallSnapshot,
    Membership,
    MembershipChange,
    ProgressState,
    Propose,
    Receive,
    Refusal,
    Refused,
    Snapshot,
    State,
    Tick,
    Transition,
    start,
)
from raftkv.core.membership import apply_change, normalised
from raftkv.core.progress import Progress, new_progress
from raftkv.errors import MembershipError
from tests.core.cluster import (
    beat,
    change,
    elected,
    followed,
    learner,
    member,
    normal,
    removed,
    run,
    settled,
    voter,
)

STRICT = Config(id=1, refuse_invalid_changes=True, promotion_lag_max=3)
LATE = 1000  # the leader's clock: far beyond an election timeout after it was elected


def leading(voters: int, dead: set[int], learners: tuple[int, ...] = ()) -> State:
    """Member 1 leads so many voters, of whom some have not answered for long; learners stream."""
    nodes = tuple(range(1, voters + 1))
    state = followed(elected(member(STRICT, voters=nodes)), *nodes[1:])
    for node in learners:
        state = run(state, ApplyChange(MembershipChange((learner(node),))))
    return evolve(
        state, lead_ticks=LATE, progress=tuple(_seen(one, state, dead) for one in state.progress)
    )


def _seen(one: Progress, state: State, dead: set[int]) -> Progress:
    if one.id in dead:
        return evolve(one, active=False, acked_tick=LATE - STRICT.election_ticks - 1)
    last = state.log.last_index
    return evolve(
        one,
        active=False,  # the quorum check has just set it back
        acked_tick=LATE - STRICT.election_ticks,
        state=ProgressState.REPLICATE,
        match=last,
        next=last + 1,
    )


def answer(state: State, *steps: Change, via: Transition = Transition.AUTO) -> Refusal | None:
    """What the leader says to a change; None: it takes it."""
    after = run(state, evolve(change(*steps, via=via), request=7))
    (told,) = after.outbox.answers
    if isinstance(told, Accepted):
        assert after.log.last_index == state.log.last_index + 1
        return None
    assert isinstance(told, Refused)
    assert after.log == state.log
    return told.reason


def oracle(voters: int, dead: set[int], gone: int = 0, new: int = 0) -> Refusal | None:
    """More than half of those who will vote must answer."""
    later = {*range(1, voters + 1), new} - {gone, 0}
    return None if 2 * len(later - dead) > len(later) else Refusal.UNHEALTHY


TABLE = [
    (voters, {*range(voters + 1 - dead, voters + 1)})
    for voters, dead in product(range(1, 8), range(4))
    if dead < voters
]


@pytest.mark.parametrize(("voters", "dead"), TABLE)
def test_a_voter_is_removed_if_most_of_the_others_answer(voters: int, dead: set[int]) -> None:
    leader = leading(voters, dead)
    for node in range(2, voters + 1):
        assert answer(leader, removed(node)) == oracle(voters, dead, gone=node), node


@pytest.mark.parametrize(("voters", "dead"), TABLE)
def test_a_learner_in_sync_becomes_a_voter_if_most_answer_then(voters: int, dead: set[int]) -> None:
    leader = leading(voters, dead, learners=(9,))
    assert answer(leader, voter(9)) == oracle(voters, dead, new=9)


@pytest.mark.parametrize(("voters", "dead"), TABLE)
def test_a_voter_is_replaced_if_most_answer_then(voters: int, dead: set[int]) -> None:
    leader = leading(voters, dead, learners=(9,))
    for node in range(2, voters + 1):
        assert answer(leader, removed(node), voter(9)) == oracle(voters, dead, node, 9), node


@pytest.mark.parametrize(("voters", "dead"), TABLE)
def test_learners_and_records_change_whoever_answers(voters: int, dead: set[int]) -> None:
    leader = leading(voters, dead, learners=(9,))
    assert answer(leader, learner(8)) is None
    assert answer(leader, removed(9)) is None
    assert answer(leader, Change(ChangeKind.UPDATE, 1)) is None
    assert answer(leader, voter(1)) is None  # it is one


@pytest.mark.parametrize("voters", range(1, 8))
def test_whoever_is_dead_may_be_removed_while_the_cluster_works(voters: int) -> None:
    for count in range(1, (voters + 1) // 2):
        dead = {*range(voters + 1 - count, voters + 1)}
        assert answer(leading(voters, dead), removed(voters)) is None


def test_a_voter_who_becomes_a_learner_counts_no_more() -> None:
    assert answer(leading(3, {3}), learner(2)) is Refusal.UNHEALTHY
    assert answer(leading(3, {3}), learner(3)) is None


def test_only_a_learner_becomes_a_voter() -> None:
    assert answer(leading(3, set()), voter(4)) is Refusal.NOT_A_LEARNER
    assert answer(leading(3, set()), voter(4), removed(3)) is Refusal.NOT_A_LEARNER


@pytest.mark.parametrize(
    ("its", "expected"),
    [
        ({"lag": 3}, None),
        ({"lag": 4}, Refusal.LEARNER_BEHIND),
        ({"state": ProgressState.PROBE}, Refusal.LEARNER_BEHIND),
        ({"state": ProgressState.SNAPSHOT}, Refusal.LEARNER_BEHIND),
        ({"acked_tick": LATE - STRICT.election_ticks - 1}, Refusal.LEARNER_BEHIND),
        ({"acked_tick": 0}, Refusal.LEARNER_BEHIND),
        ({"acked_tick": 0, "active": True}, None),
        ({"recovering": True}, Refusal.LEARNER_BEHIND),
    ],
)
def test_a_learner_is_in_sync_if_it_streams_answers_and_lacks_little(
    its: dict[str, object], expected: Refusal | None
) -> None:
    leader = leading(3, set(), learners=(9,))
    leader = run(leader, Propose((normal(b"x"),) * 6), Tick())
    leader = evolve(leader, lead_ticks=LATE)
    (one,) = [each for each in leader.progress if each.id == 9]
    given = {**its}
    lag = given.pop("lag", 0)
    assert isinstance(lag, int)
    behind = evolve(one, match=leader.log.last_index - lag, **given)
    others = tuple(behind if each.id == 9 else each for each in leader.progress)
    leader = evolve(leader, progress=others, outbox=leading(1, set()).outbox)
    assert answer(leader, voter(9)) is expected


def test_a_new_leader_has_heard_of_nobody_before_they_answer() -> None:
    """The quorum check forgets who answered; the clock of heartbeats does not."""
    nodes = (1, 2, 3)
    leader = elected(member(STRICT, voters=nodes))
    leader = evolve(leader, progress=tuple(evolve(one, active=False) for one in leader.progress))
    leader = settled(followed(leader, 1))[0]
    assert answer(_alone(leader), removed(3)) is Refusal.UNHEALTHY
    leader = run(leader, Tick())
    leader = run(leader, Receive(beat(leader, 2, sent_tick=leader.lead_ticks)))
    leader = evolve(leader, progress=tuple(evolve(one, active=False) for one in leader.progress))
    assert answer(_alone(leader), removed(3)) is None


def _alone(leader: State) -> State:
    """As if all it has was committed and applied."""
    last = leader.log.last_index
    return evolve(leader, commit=last, apply=evolve(leader.apply, applied=last, handed=last))


def test_without_the_strict_check_every_valid_change_is_taken() -> None:
    loose = evolve(STRICT, promotion_lag_max=0)
    leader = evolve(leading(3, {2, 3}), config=loose)
    assert answer(leader, voter(4)) is None


# --- removed ids --------------------------------------------------------------------------------

FIRST = Membership((1, 2, 3), removed=())


def progress_of(membership: Membership) -> tuple[Progress, ...]:
    return tuple(
        new_progress(node, match=0, next_index=1, active=False) for node in membership.members()
    )


def after(membership: Membership, *steps: Change, via: Transition = Transition.AUTO) -> Membership:
    found, _ = apply_change(membership, progress_of(membership), MembershipChange(steps, via), 1)
    return found


def test_a_removed_id_never_returns_as_anything() -> None:
    now = after(FIRST, removed(3))
    assert now == Membership((1, 2), removed=(3,))
    for steps in ((voter(3),), (learner(3),), (voter(3), learner(4))):
        with pytest.raises(MembershipError) as refused:
            after(now, *steps)
        assert refused.value.reason == "removed"
    assert after(now, removed(3)) == now


def test_who_leaves_through_a_joint_configuration_is_removed_when_it_is_left() -> None:
    joint = after(FIRST, removed(3), voter(4))
    assert joint.removed == ()
    left, _ = apply_change(joint, progress_of(joint), MembershipChange(), 1)
    assert (left.voters, left.removed) == ((1, 2, 4), (3,))


def test_a_membership_that_does_not_remember_lets_ids_return() -> None:
    forgetful = after(Membership((1, 2, 3)), removed(3))
    assert forgetful.removed is None
    assert after(forgetful, voter(3)).voters == (1, 2, 3)


def test_the_leader_refuses_a_removed_id_with_its_reason() -> None:
    config = evolve(STRICT, promotion_lag_max=0)
    leader = elected(member(config, voters=(1,)))
    leader = evolve(leader, membership=evolve(leader.membership, removed=(4,)))
    assert answer(leader, learner(4)) is Refusal.REMOVED_FOR_GOOD


def test_removed_ids_travel_with_a_snapshot() -> None:
    joining = start(Config(id=4))
    snapshot = Snapshot(9, 2, 0, Membership((1, 2), (), (4,), removed=(7, 3, 3)))
    state = run(joining, Receive(InstallSnapshot(1, 4, 2, snapshot)))
    assert state.membership.removed == (3, 7)
    assert normalised(state.membership) == state.membership


steps = st.lists(
    st.builds(Change, st.sampled_from(ChangeKind), st.integers(1, 6)), min_size=1, max_size=3
)


@given(st.lists(steps, max_size=12))
def test_whatever_is_changed_the_removed_and_the_members_never_meet(
    changes: list[list[Change]],
) -> None:
    now, ever = FIRST, {*FIRST.members()}
    for one in changes:
        try:
            now = after(now, *one, via=Transition.IMPLICIT)
            now, _ = apply_change(now, progress_of(now), MembershipChange(), 1)
        except MembershipError:
            continue
        ever |= {*now.members()}
        assert now.removed is not None
        assert not {*now.members()} & {*now.removed}
        assert {*now.removed} <= ever
        assert ever == {*now.members()} | {*now.removed}
