"""Each law refuses what it is there to refuse: a member or a world changed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from raftkv.core import (
    AppendResponse,
    Change,
    ChangeKind,
    EntryKind,
    HardState,
    Log,
    Membership,
    MembershipChange,
    Payload,
    Role,
    State,
    VoteResponse,
    encode_change,
)
from raftkv.core.ready import ChainBroken
from raftkv.testing.explore.guide import Guide
from raftkv.testing.explore.laws import (
    Committed,
    Elected,
    History,
    LocalLaws,
    Moved,
    News,
    judge,
)
from raftkv.testing.explore.local import Local, Stored
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.space import Space
from raftkv.testing.invariants import ViolationError

LEAVE = Payload(EntryKind.CHANGE, encode_change(MembershipChange((Change(ChangeKind.VOTER, 4),))))


@pytest.fixture(scope="module")
def guide() -> Guide:
    """Member 1 leads, everybody has all of its log, and one entry more is on its way."""
    guide = Guide(Space(Scope(name="laws", about="three members")))
    guide.elect(1, 2, 3)
    guide.settle(1, 2, 3)
    guide.propose(1)
    guide.settle(1, 2, 3)
    guide.propose(1)
    return guide


def longer(log: Log, *terms: int, payload: Payload | None = None) -> Log:
    for term in terms:
        log, _ = log.propose(term, (payload or Payload(EntryKind.NORMAL, b"other"),))
    return log


def cut(state: State, index: int) -> Log:
    return state.log.truncate(index)


def lowered(state: State) -> State:
    progress = [evolve(one, match=one.match - 1) for one in state.progress]
    return evolve(state, progress=tuple(progress))


def overtaken(state: State) -> State:
    progress = [evolve(one, next=one.match) for one in state.progress]
    return evolve(state, progress=tuple(progress))


def two_changes(state: State) -> State:
    return evolve(state, log=longer(state.log, state.term, state.term, payload=LEAVE))


STEPS: list[tuple[str, int, Callable[[State], State]]] = [
    ("I1", 1, lambda s: evolve(s, term=s.term - 1)),
    ("I2", 1, lambda s: evolve(s, vote=3)),
    ("I4", 1, lambda s: evolve(s, commit=s.commit - 1)),
    ("I4", 2, lambda s: evolve(s, apply=evolve(s.apply, applied=s.applied - 1))),
    ("I3", 2, lambda s: evolve(s, commit=s.log.last_index + 1)),
    ("I5", 2, lambda s: evolve(s, log=longer(s.log, s.term + 1))),
    ("I6", 1, lambda s: evolve(s, log=longer(cut(s, s.log.last_index), s.term))),
    ("I7", 1, lowered),
    ("I7", 1, overtaken),
    ("I8", 2, lambda s: evolve(s, log=longer(cut(s, s.commit), s.term))),
    ("I14", 1, lambda s: evolve(s, term=s.term + 1, commit=s.commit + 1)),
    ("I17", 1, two_changes),
    ("I20", 2, lambda s: evolve(s, role=Role.CANDIDATE)),
]


@pytest.mark.parametrize(("invariant", "node", "change"), STEPS)
def test_a_step_that_breaks_a_law_is_refused(
    guide: Guide, invariant: str, node: int, change: Callable[[State], State]
) -> None:
    before = guide.state(node)
    if invariant == "I20":
        before = evolve(before, membership=Membership((1, 3)))
    with pytest.raises(ViolationError) as refused:
        LocalLaws(node).stepped(before, change(before))
    assert refused.value.invariant == invariant


def test_what_a_member_says_must_be_stored(guide: Guide) -> None:
    stored = guide.space.member(guide.world, 2).stored
    term, last = stored.hard_state.term, stored.log.last_index
    laws = LocalLaws(2)
    with pytest.raises(ViolationError, match="I9"):
        laws.leave_at_once([VoteResponse(2, 1, term, False)])
    for message in (
        VoteResponse(2, 1, term + 1, False),
        VoteResponse(2, 3, term, False),
        AppendResponse(2, 1, term + 1, last),
        AppendResponse(2, 1, term, last + 1),
    ):
        with pytest.raises(ViolationError, match="I9"):
            laws.leave_after_write(stored, message)
    laws.leave_after_write(stored, VoteResponse(2, 1, term, False))
    laws.leave_after_write(stored, AppendResponse(2, 1, term, last))
    assert laws.news() == News(acknowledged=((term, last, stored.log.last_chain),))


@pytest.mark.parametrize("hard", [HardState(0, 0, 1), HardState(2, 3, 1), HardState(2, 0, 1)])
def test_a_stored_vote_is_kept(guide: Guide, hard: HardState) -> None:
    stored = guide.space.member(guide.world, 2).stored
    assert (stored.hard_state.term, stored.hard_state.vote) == (2, 1)
    with pytest.raises(ViolationError, match="I2"):
        LocalLaws(2).store(stored, Stored(hard, stored.image, stored.log))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Membership((1, 2, 3)), Membership((1, 4, 5))),
        (Membership((1, 2, 3)), Membership((4, 5), (1, 2))),
        (Membership((1, 2), (1, 2, 3)), Membership((1,))),
    ],
)
def test_memberships_that_follow_each_other_meet(
    guide: Guide, old: Membership, new: Membership
) -> None:
    state = guide.state(2)
    with pytest.raises(ViolationError, match="I18"):
        LocalLaws(2).changed_membership(
            evolve(state, membership=old), evolve(state, membership=new)
        )


def test_work_without_end_and_a_broken_chain_are_findings() -> None:
    laws = LocalLaws(1)
    assert laws.endless().invariant == "I51"
    assert laws.alarmed((ChainBroken(2, 5),)).invariant == "I11"


# --- worlds ---------------------------------------------------------------------------------


def members(guide: Guide) -> list[Local]:
    return [guide.space.member(guide.world, node) for node in (1, 2, 3)]


def history(guide: Guide) -> History:
    return guide.space.histories.values[guide.world[-2]]


def refused(found: list[Local], news: News, past: History) -> str:
    with pytest.raises(ViolationError) as error:
        judge(found, news, past)
    return error.value.invariant


def test_what_happened_is_remembered(guide: Guide) -> None:
    past = history(guide)
    assert past.leaders == ((2, 1),)
    assert [one.term for one in past.committed] == [2, 2]


def test_a_term_has_one_leader_and_only_one_election(guide: Guide) -> None:
    for node in (1, 2):
        state = evolve(guide.state(node), role=Role.LEADER)
        news = News(elected=(Elected(state, state.membership),))
        assert refused(members(guide), news, history(guide)) == "I10"


def test_a_leader_has_the_votes_of_a_majority_and_all_that_was_committed(guide: Guide) -> None:
    past = evolve(history(guide), leaders=())
    state = guide.state(2)
    news = News(elected=(Elected(state, state.membership),))
    assert refused(members(guide), news, past) == "I20"
    later = evolve(guide.state(1), term=3, log=cut(guide.state(1), 3))
    voted = [
        evolve(one, stored=evolve(one.stored, hard_state=HardState(3, 1, 1)))
        for one in members(guide)
    ]
    assert refused(voted, News(elected=(Elected(later, later.membership),)), past) == "I12"


def test_a_commit_is_of_a_leader_and_on_a_majority(guide: Guide) -> None:
    past, leader = history(guide), guide.state(1)
    follower = evolve(guide.state(2), log=leader.log, commit=leader.log.last_index)
    assert refused(members(guide), News(moved=(Moved(follower, leads=False),)), past) == "I16"
    ahead = evolve(leader, commit=leader.log.last_index)
    assert refused(members(guide), News(moved=(Moved(ahead, leads=True),)), past) == "I15"
    other = History(past.base_index, past.leaders, (Committed(1, 2), Committed(2, 2)))
    assert refused(members(guide), News(moved=(Moved(guide.state(2), leads=False),)), other) == (
        "I16"
    )


def test_a_leader_of_a_later_term_has_what_an_older_one_commits(guide: Guide) -> None:
    leader = guide.state(1)
    found = members(guide)
    ahead = evolve(leader, commit=leader.log.last_index)
    stored = [evolve(one, stored=evolve(one.stored, log=leader.log)) for one in found]
    rival = evolve(guide.state(2), role=Role.LEADER, term=3, log=cut(leader, 4))
    with_rival = [stored[0], evolve(stored[1], state=rival), stored[2]]
    news = News(moved=(Moved(ahead, leads=True),))
    assert len(judge(stored, news, history(guide)).committed) == 3
    assert refused(with_rival, news, history(guide)) == "I12"


def test_logs_match_and_a_leader_is_told_the_truth(guide: Guide) -> None:
    past, leader = history(guide), guide.state(1)
    other = longer(cut(leader, 3), 2, 2)
    assert refused(members(guide), News(log=other), past) == "I11"
    assert refused(members(guide), News(acknowledged=((2, 3, 99),)), past) == "I9"
    assert judge(members(guide), News(acknowledged=((1, 3, 99),)), past) is past
