"""When leases are up: never early, once, all of them, and what a next keeper may be told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv.deadlines import Deadlines, Kept
from raftkv.kv.leases import Granted

SECOND = 1_000_000_000
MINUTES = 300 * SECOND
GRACE = SECOND


def _kept(deadlines: Deadlines, lease: int) -> Kept:
    kept = deadlines.get(lease)
    assert kept is not None
    return kept


def _up(deadlines: Deadlines, now_ns: int) -> list[int]:
    up, _, _ = deadlines.look(now_ns, 1_000)
    return [kept.id for kept in up]


times = st.integers(0, 8 * SECOND)
ids = st.integers(1, 3)
ttls = st.integers(1, 12)
actions = st.one_of(
    st.tuples(st.just("grant"), ids, ttls),
    st.tuples(st.just("load"), ids, ttls),
    st.tuples(st.just("renew"), ids, st.just(0)),
    st.tuples(st.just("renew"), ids, st.just(0)),
    st.tuples(st.just("end"), ids, st.just(0)),
    st.tuples(st.just("look"), st.just(0), st.integers(1, 3)),
    st.tuples(st.just("look"), st.just(0), st.just(50)),
)


@given(st.lists(st.tuples(times, actions), max_size=60))
def test_a_lease_is_up_once_its_time_is_over_and_never_before(
    story: list[tuple[int, tuple[str, int, int]]],
) -> None:
    deadlines = Deadlines(MINUTES)
    due: dict[int, int] = {}  # the naive way: when each lease is up
    ttl_of: dict[int, int] = {}
    now = 0

    def look(limit: int) -> bool:
        up, low, more = deadlines.look(now, limit)
        for kept in up:
            assert due[kept.id] <= now
            del due[kept.id]
        for kept in low:
            assert kept.remaining_ns(now) < kept.stored_ns
            deadlines.checkpoint(kept, now)
            deadlines.taken_back(kept, kept.checkpoints)
        return more

    for passed, (what, lease, number) in story:
        now += passed
        if what == "grant":
            deadlines.granted(lease, number, now)
            ttl_of[lease] = number * SECOND
            due[lease] = now + ttl_of[lease] + ttl_of[lease] // 1000
        elif what == "load":
            deadlines.load(Granted(lease, number), now, GRACE)
            if lease not in ttl_of:
                ttl_of[lease] = number * SECOND
                due[lease] = now + ttl_of[lease] + GRACE + ttl_of[lease] // 1000
        elif what == "renew" and lease in due:
            deadlines.renew(_kept(deadlines, lease), now)
            due[lease] = now + ttl_of[lease] + ttl_of[lease] // 1000
        elif what == "end":
            deadlines.ended(lease)
            due.pop(lease, None)
            ttl_of.pop(lease, None)
        elif what == "look":
            look(number)
    now += 100 * SECOND
    while look(7):
        pass
    assert due == {}
    assert len(deadlines) == len(ttl_of)


def test_what_was_left_is_given_by_the_next_keeper_and_grace_beside_it() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.load(Granted(1, 100, 40), 0, GRACE)
    deadlines.load(Granted(2, 100), 0, GRACE)
    kept = _kept(deadlines, 1)
    assert kept.checkpoints == 1
    assert kept.remaining_ns(0) == 40 * SECOND
    assert kept.remaining_ns(50 * SECOND) == 0
    assert _up(deadlines, 40 * SECOND + GRACE) == []
    assert _up(deadlines, 40 * SECOND + GRACE + SECOND // 10) == [1]
    assert _up(deadlines, 100 * SECOND + GRACE) == []
    assert _up(deadlines, 101 * SECOND + SECOND // 10) == [2]


def test_who_renews_in_time_has_no_checkpoint_and_who_does_not_has_one() -> None:
    deadlines = Deadlines(MINUTES)
    for lease in (1, 2):
        deadlines.granted(lease, 60, 0)
    low: list[tuple[int, int]] = []
    for second in range(59):
        if second % 20 == 0:
            deadlines.renew(_kept(deadlines, 1), second * SECOND)
        for kept in deadlines.look(second * SECOND, 9)[1]:
            low.append((second, kept.id))
            assert deadlines.checkpoint(kept, second * SECOND) == 60 - second
    assert low == [(30, 2)]


def test_a_long_lease_has_a_checkpoint_now_and_then() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 1_500, 0)
    low: list[int] = []
    for second in range(1, 1_500):
        for kept in deadlines.look(second * SECOND, 9)[1]:
            low.append(second)
            deadlines.checkpoint(kept, second * SECOND)
    assert low == [300, 600, 900, 1200]


def test_a_checkpoint_that_failed_is_asked_for_again() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 10, 0)
    assert [kept.id for kept in deadlines.look(5 * SECOND, 9)[1]] == [1]
    assert deadlines.look(5 * SECOND, 9)[1] == []
    assert [kept.id for kept in deadlines.look(6 * SECOND, 9)[1]] == [1]


def test_a_checkpoint_always_says_something() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.load(Granted(1, 10), 0, 5 * SECOND)
    kept = _kept(deadlines, 1)
    assert deadlines.checkpoint(kept, 12 * SECOND) == 1
    assert kept.stored_ns == SECOND


def test_a_checkpoint_is_taken_back_unless_another_was_proposed_meanwhile() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 10, 0)
    kept = _kept(deadlines, 1)
    deadlines.checkpoint(kept, 5 * SECOND)
    before = kept.checkpoints
    deadlines.checkpoint(kept, 7 * SECOND)
    deadlines.taken_back(kept, before)
    assert (kept.checkpoints, kept.stored_ns) == (2, 3 * SECOND)
    deadlines.taken_back(kept, 2)
    assert (kept.checkpoints, kept.stored_ns) == (0, 10 * SECOND)


def test_the_end_of_a_lease_is_not_that_of_one_granted_under_its_id() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 5, 0)
    old = _kept(deadlines, 1)
    assert _up(deadlines, 6 * SECOND) == [1]
    deadlines.granted(1, 5, 6 * SECOND)
    deadlines.drop(old)
    assert not _kept(deadlines, 1).is_gone
    assert _up(deadlines, 10 * SECOND) == []
    deadlines.drop(_kept(deadlines, 1))
    assert deadlines.get(1) is None
    assert _up(deadlines, 99 * SECOND) == []


def test_a_renewal_never_makes_a_lease_shorter() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 10, 5 * SECOND)
    kept = _kept(deadlines, 1)
    deadlines.renew(kept, 3 * SECOND)
    assert kept.until_ns == 15 * SECOND


def test_leases_that_come_and_go_leave_no_trace() -> None:
    deadlines = Deadlines(MINUTES)
    deadlines.granted(1, 10, 0)
    for lease in range(2, 10_000):
        deadlines.granted(lease, 9_000_000, 0)
        deadlines.ended(lease)
    assert deadlines.entries < 2_000
    assert _up(deadlines, 11 * SECOND) == [1]
