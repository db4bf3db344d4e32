"""What is forgotten of a log, and when."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import (
    EntryKind,
    Log,
    Membership,
    Payload,
    Progress,
    ProgressState,
    Role,
    State,
    start,
)
from raftkv.core.progress import new_progress
from raftkv.node.retention import (
    History,
    excess,
    forget_memberships,
    is_long,
    membership_at,
    needed,
)
from raftkv.node.settings import Settings

SETTINGS = Settings(retention_entries=32, retention_bytes=10_000)


def _log(sizes: list[int]) -> Log:
    log = Log.starting_at(0, 0, 0)
    for size in sizes:
        log, _ = log.propose(1, (Payload(EntryKind.NORMAL, bytes(size)),))
    return log


@given(st.lists(st.integers(0, 600), max_size=120), st.integers(0, 120))
def test_what_is_left_fits_the_retention_and_nothing_unapplied_is_forgotten(
    sizes: list[int], applied: int
) -> None:
    log, applied = _log(sizes), min(applied, len(sizes))
    to = excess(log, applied, SETTINGS)
    assert to <= applied
    if not to:
        entries, size = applied, log.size_bytes
        assert entries <= 34
        assert size <= 10_625 or applied == 0
        return
    left = log.compact(to)
    assert applied - left.base_index <= 32
    assert left.size_bytes <= 10_000 or to == applied
    # Not more than needed: one entry less would not have fitted.
    fuller = log.compact(to - 1)
    assert applied - fuller.base_index > 32 or fuller.size_bytes > 10_000


def test_a_short_log_is_left_alone() -> None:
    assert excess(_log([0] * 34), 34, SETTINGS) == 0
    assert excess(_log([0] * 35), 35, SETTINGS) == 3
    assert excess(_log([0] * 35), 35, evolve(SETTINGS, retention_entries=100)) == 0


@given(st.lists(st.integers(0, 600), max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_what_a_peer_needs_is_kept_until_the_log_is_twice_as_long(
    sizes: list[int], applied: int, wanted: int
) -> None:
    log, applied = _log(sizes), min(applied, len(sizes))
    to = excess(log, applied, SETTINGS, wanted)
    assert to in (0, excess(log, applied, SETTINGS), min(wanted, applied))
    if to > wanted:
        assert is_long(log, applied, SETTINGS, 2.0)
    left = log.compact(to) if to else log
    assert not is_long(left, applied, SETTINGS, 2.0) or left.base_index == applied


def _leading(*peers: Progress) -> State:
    settings = SETTINGS.core(1, seed=1)
    state = start(settings, voters=(1, 2, 3))
    return evolve(state, role=Role.LEADER, progress=peers)


def test_what_peers_need_follows_what_they_have_or_are_being_sent() -> None:
    def peer(
        number: int, match: int, *, active: bool = True, pending: int | None = None
    ) -> Progress:
        made = new_progress(number, match=match, next_index=match + 1, active=active)
        if pending is None:
            return made
        return evolve(made, state=ProgressState.SNAPSHOT, pending_snapshot=pending)

    me = peer(1, 9)
    assert needed(_leading(me, peer(2, 5), peer(3, 7)), None) == 5
    assert needed(_leading(me, peer(2, 5, active=False), peer(3, 7)), None) == 7
    assert needed(_leading(me, peer(2, 0, pending=4), peer(3, 7)), None) == 4
    assert needed(_leading(me, peer(2, 0, active=False, pending=8), peer(3, 9)), None) == 8
    assert needed(_leading(me, peer(2, 8), peer(3, 9)), 3) == 3
    assert needed(_leading(me), None) is None
    follower = evolve(_leading(me, peer(2, 5)), role=Role.FOLLOWER)
    assert needed(follower, None) is None
    assert needed(follower, 6) == 6


def test_the_membership_at_the_compaction_point_is_the_one_of_that_time() -> None:
    history: History = [(0, Membership((1,))), (5, Membership((1, 2))), (9, Membership((1, 2, 3)))]
    assert [len(membership_at(history, index).voters) for index in (0, 4, 5, 8, 9, 99)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    forget_memberships(history, 6)
    assert history == [(5, Membership((1, 2))), (9, Membership((1, 2, 3)))]
    assert membership_at(history, 6) == Membership((1, 2))
