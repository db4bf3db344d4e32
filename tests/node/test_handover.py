"""When a slow disk makes a leader go, and to whom: a table, against the sentences of the module."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core import Role
from raftkv.node.handover import heir_of, holds_others_up
from tests.core.cluster import elected, member

LEADER = evolve(elected(member(voters=(1, 2, 3))), commit=5, unstable=5)
PATIENCE_NS = 1000


def test_a_leader_goes_whose_disk_lacks_what_the_others_committed_for_too_long() -> None:
    assert holds_others_up(LEADER, PATIENCE_NS + 1, PATIENCE_NS)


@pytest.mark.parametrize(
    ("state", "syncing_ns"),
    [
        (LEADER, PATIENCE_NS),
        (evolve(LEADER, role=Role.FOLLOWER), PATIENCE_NS + 1),
        (evolve(LEADER, unstable=6), PATIENCE_NS + 1),  # nobody is known to be faster
        (evolve(LEADER, leading=evolve(LEADER.leading, transferee=2)), PATIENCE_NS + 1),
    ],
    ids=["in time", "no leader", "all slow", "going already"],
)
def test_everybody_else_stays(state: object, syncing_ns: int) -> None:
    assert isinstance(state, type(LEADER))
    assert not holds_others_up(state, syncing_ns, PATIENCE_NS)


def test_the_heir_is_the_connected_voter_with_most_of_the_log() -> None:
    one, two, three = LEADER.progress
    state = evolve(LEADER, progress=(one, evolve(two, match=3), evolve(three, match=4)))
    assert heir_of(state, lambda _: True) == 3
    assert heir_of(state, lambda peer: peer != 3) == 2
    assert heir_of(state, lambda _: False) == 0
    level = evolve(state, progress=(one, evolve(two, match=4), evolve(three, match=4)))
    assert heir_of(level, lambda _: True) == 2
    recovering = evolve(state, progress=(one, two, evolve(three, match=4, recovering=True)))
    assert heir_of(recovering, lambda _: True) == 2
    assert heir_of(evolve(state, role=Role.FOLLOWER), lambda _: True) == 0
