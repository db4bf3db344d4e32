"""Worlds are moved as the simulator moves them; what is left out of them makes no difference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.core import Change, ChangeKind, MembershipChange, Role
from raftkv.errors import ConfigError
from raftkv.testing.choices import SeededChoices
from raftkv.testing.explore.guide import Guide, LostError, lead
from raftkv.testing.explore.local import Arrival, Happening
from raftkv.testing.explore.rename import Renaming
from raftkv.testing.explore.retell import Retold
from raftkv.testing.explore.scope import PAPER, Scope
from raftkv.testing.explore.scopes import SCOPES
from raftkv.testing.explore.space import Act, Deed, Space

EXAMPLES = 25  # each of a hundred worlds

FIXED = Scope(
    name="fixed",
    about="three members",
    elections=4,
    proposals=4,
    drops=3,
    crashes=3,
    duplicates=2,
    beats=4,
)
CHANGING = Scope(
    name="changing",
    about="five members, three of them at first",
    joiners=2,
    elections=5,
    proposals=3,
    drops=2,
    crashes=2,
    images=3,
    beats=9,
    changes=(
        MembershipChange((Change(ChangeKind.VOTER, 4), Change(ChangeKind.REMOVE, 3))),
        MembershipChange((Change(ChangeKind.VOTER, 5),)),
    ),
    alike=(),
)
AT_ONCE = Scope(
    name="at once",
    about="disks that take no time",
    elections=4,
    proposals=4,
    drops=3,
    crashes=3,
    slow_disks=False,
)
ASKING = Scope(
    name="asking",
    about="pre-votes",
    elections=8,
    proposals=2,
    drops=3,
    crashes=3,
    beats=2,
    settings={**PAPER, "pre_vote": True},
)


def assert_same(space: Space, world: tuple[int, ...], retold: Retold) -> None:
    for node in range(1, space.size + 1):
        local, member = space.member(world, node), retold.members[node]
        ours, theirs, disk = local.state, member.state, member.disk
        for name in ("term", "vote", "commit", "role", "leader", "log", "unstable", "handed"):
            assert getattr(ours, name) == getattr(theirs, name), name
        for name in ("apply", "membership", "votes", "incoming", "messages"):
            if name != "incoming" or ours.incoming is None or theirs.incoming is None:
                assert getattr(ours, name) == getattr(theirs, name), name
        assert [one.match for one in ours.peers_led] == [one.match for one in theirs.peers_led]
        assert local.stored.hard_state == disk.hard_state
        assert list(local.stored.log.entries()) == disk.entries
        assert local.stored.log.base_index == disk.base_index
        assert len(local.queue) == len(retold.batches.get(node, ()))
    for sender, to in space.place:
        there = [message for message, _ in retold.links.get((sender, to), ())]
        here = space.under_way(world, sender, to)
        assert [(type(one), one.term) for one in here] == [(type(one), one.term) for one in there]


@pytest.mark.parametrize("scope", [FIXED, CHANGING, AT_ONCE, ASKING], ids=lambda scope: scope.name)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32))
def test_a_world_is_moved_as_the_simulator_moves_it(scope: Scope, seed: int) -> None:
    """And the simulator, with all its invariants, has nothing against it."""
    choices = SeededChoices(seed)
    choices.begin()
    space, retold = Space(scope), Retold(scope)
    world = space.first()
    for _ in range(100):
        codes = space.codes(world)
        if not codes:
            break
        code = codes[choices.choose(len(codes))]
        world = space.after(world, code)
        retold.do(Deed.of(code))
        assert_same(space, world, retold)
    retold.checker.sweep()


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32), names=st.permutations([1, 2, 3]))
def test_a_member_does_the_same_under_another_name(seed: int, names: list[int]) -> None:
    """What symmetry stands on: renaming before a step or after it comes to the same."""
    renaming = Renaming(dict(enumerate(names, 1)))
    choices = SeededChoices(seed)
    choices.begin()
    space = Space(FIXED)
    world = space.first()
    for _ in range(40):
        codes = space.codes(world)
        if not codes:
            break
        code = codes[choices.choose(len(codes))]
        deed = Deed.of(code)
        if deed.act is not Act.DROP:
            before = space.member(world, deed.node)
            happening = happening_of(space, world, deed)
            after = space.driver.advance(before, happening)
            renamed = happening
            if isinstance(happening, Arrival):
                renamed = Arrival(renaming.peer_message(happening.message))
            again = space.driver.advance(renaming.local(before), renamed)
            assert again.local == renaming.local(after.local)
            sent = [renaming.peer_message(one) for one in after.sent]
            assert sorted(map(repr, again.sent)) == sorted(map(repr, sent))
        world = space.after(world, code)


def happening_of(space: Space, world: tuple[int, ...], deed: Deed) -> Happening:
    if deed.peer:
        return Arrival(space.under_way(world, deed.peer, deed.node)[0])
    return space.happening(deed)


def test_what_an_input_does_is_computed_once() -> None:
    space = Space(SCOPES["C"])
    world = space.first()
    code = Deed(Act.TIMEOUT, 1).code
    assert space.after(world, code) == space.after(world, code)
    assert space.computed == 1


def test_a_budget_ends() -> None:
    space = Space(Scope(name="", about="", elections=1))
    world = space.after(space.first(), Deed(Act.TIMEOUT, 1).code)
    acts = {Deed.of(code).act for code in space.codes(world)}
    assert acts == {Act.WRITE}


def test_nobody_begins_anything_over_a_full_link() -> None:
    space = Space(Scope(name="", about="", elections=3))
    guide = Guide(space)
    guide.timeout(1)
    assert Deed(Act.TIMEOUT, 1).code in space.codes(guide.world)
    guide.store(1)
    assert Deed(Act.TIMEOUT, 1).code not in space.codes(guide.world)
    assert Deed(Act.TIMEOUT, 2).code in space.codes(guide.world)


@pytest.mark.parametrize("deed", [Deed(Act.CRASH, 3, 0, 2), Deed(Act.DELIVER, 2, 1)])
def test_a_deed_is_one_number(deed: Deed) -> None:
    assert Deed.of(deed.code) == deed


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        ({"settings": {"check_quorum": True}}, "need clocks"),
        ({"changes": CHANGING.changes}, "not like the others"),
        ({"voters": 8, "alike": ()}, "between 1 and 7"),
    ],
)
def test_what_cannot_be_explored_soundly_is_refused(scope: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Scope(name="", about="", **scope)  # pyright: ignore[reportArgumentType]


# --- prefixes -------------------------------------------------------------------------------


def guided(name: str) -> Guide:
    guide = Guide(Space(SCOPES[name]))
    lead(guide)
    return guide


def test_figure_8_begins_where_an_old_entry_is_on_a_majority_and_not_committed() -> None:
    guide = guided("figure-8")
    leader = guide.state(1)
    assert leader.role is Role.LEADER
    (old, *_) = [one for one in leader.log.entries() if one.index > leader.commit]
    assert old.term < leader.term
    having = [
        node for node in range(1, 6)
        if guide.space.member(guide.world, node).stored.log.has_term(old.index)
        and guide.space.member(guide.world, node).stored.log.chain_at(old.index) == old.chain
    ]  # fmt: skip
    assert having == [1, 2, 3]
    rival = guide.state(5)
    assert rival.log.last_term > old.term
    assert rival.log.last_index == old.index


def test_a_joint_change_begins_half_way() -> None:
    guide = guided("joint")
    assert guide.state(1).membership.is_joint
    assert not guide.state(2).membership.is_joint
    assert guide.state(2).log.last_index >= guide.state(1).commit


def test_a_snapshot_begins_half_installed() -> None:
    guide = guided("snapshot")
    local = guide.space.member(guide.world, 3)
    assert local.state.incoming is not None
    assert local.stored.image.index < local.state.incoming.index


def test_a_prefix_that_leads_nowhere_says_so() -> None:
    guide = Guide(Space(FIXED))
    with pytest.raises(LostError, match="from 2 to 1"):
        guide.deliver(2, 1)
    with pytest.raises(LostError, match="not elected"):
        guide.elect(1)
