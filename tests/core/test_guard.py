"""The checks that a running member makes of itself, which no flag of Python switches off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from attrs import evolve

from raftkv.core import (
    Change,
    ChangeKind,
    Config,
    Entry,
    EntryKind,
    Guard,
    Log,
    MembershipChange,
    Payload,
    Ready,
    Role,
    State,
    encode_change,
    ready,
    start,
)
from raftkv.errors import InvariantError

Case = Callable[[], None]

CHANGE = encode_change(MembershipChange((Change(ChangeKind.VOTER, 9),)))


def log_of(*terms: int, kind: EntryKind = EntryKind.NORMAL, data: bytes = b"x") -> Log:
    log = Log.starting_at(0, 0)
    for term in terms:
        log, _ = log.propose(term, (Payload(kind, data),))
    return log


def leading() -> State:
    """Member 1 of three leads term 2; the first two of its four entries are committed."""
    state = start(Config(id=1, inflight_max=2), voters=(1, 2, 3))
    heard = tuple(evolve(one, match=2, next=5) for one in state.progress)
    return evolve(
        state,
        term=2,
        vote=1,
        role=Role.LEADER,
        leader=1,
        log=log_of(1, 2, 2, 2),
        commit=2,
        apply=evolve(state.apply, applied=1),
        progress=heard,
    )


def seen(before: State, after: State) -> None:
    """A guard that saw ``before`` is shown ``after``."""
    guard = Guard(before)
    state, todo = ready(before)
    guard.check(state, todo)
    guard.check(*ready(after))


def behind(**changes: object) -> State:
    return evolve(leading(), role=Role.FOLLOWER, **changes)


def stored(state: State, *entries: Entry) -> tuple[State, Ready]:
    state, todo = ready(state)
    return state, evolve(todo, entries=entries)


def entry(index: int, term: int, kind: EntryKind = EntryKind.NORMAL) -> Entry:
    return Entry(term, index, kind, CHANGE if kind is not EntryKind.NORMAL else b"", 0)


def two_changes() -> None:
    guard = Guard(leading())
    guard.check(*stored(leading(), entry(5, 2, EntryKind.CHANGE)))
    guard.check(*stored(leading(), entry(6, 2), entry(7, 2, EntryKind.CHANGE_SINGLE)))


def a_change_after_that_of_before_the_start() -> None:
    log, _ = leading().log.propose(2, (Payload(EntryKind.CHANGE, CHANGE),))
    guard = Guard(evolve(leading(), log=log))
    guard.check(*stored(evolve(leading(), log=log), entry(6, 2, EntryKind.CHANGE)))


def a_change_after_a_committed_one() -> None:
    guard = Guard(leading())
    guard.check(*stored(leading(), entry(5, 2, EntryKind.CHANGE)))
    grown = evolve(leading(), log=log_of(1, 2, 2, 2, 2), commit=5)
    guard.check(*stored(grown, entry(6, 2, EntryKind.CHANGE)))


def two_changes_that_a_new_leader_sends_on() -> None:
    # It need not know yet that the first is committed: found by whole nodes in simulation.
    guard = Guard(behind())
    guard.check(*stored(behind(), entry(5, 2, EntryKind.CHANGE)))
    guard.check(*stored(behind(), entry(6, 2, EntryKind.CHANGE)))


def a_change_after_one_that_was_overwritten() -> None:
    guard = Guard(behind())
    guard.check(*stored(behind(), entry(5, 2), entry(6, 2, EntryKind.CHANGE)))
    guard.check(*stored(behind(term=3), entry(5, 3)))
    led = evolve(leading(), term=4)
    guard.check(*stored(led, entry(6, 4), entry(7, 4), entry(8, 4, EntryKind.CHANGE)))


def a_change_in_place_of_another() -> None:
    guard = Guard(behind())
    guard.check(*stored(behind(), entry(5, 2, EntryKind.CHANGE)))
    log, _ = leading().log.propose(3, (Payload(EntryKind.NORMAL, b""),) * 2)
    later = evolve(leading(), term=3, log=log)
    guard.check(*stored(later, entry(5, 3), entry(6, 3, EntryKind.CHANGE)))


def two_changes_taken_from_a_leader_at_once() -> None:
    guard = Guard(behind())
    changes = (entry(5, 2, EntryKind.CHANGE), entry(6, 2, EntryKind.CHANGE))
    guard.check(*stored(behind(), *changes))


def moved(**changes: object) -> State:
    first, second, third = leading().progress
    return evolve(leading(), progress=(first, evolve(second, **changes), third))


def other_end(state: State) -> State:
    log, _ = state.log.truncate(4).propose(2, (Payload(EntryKind.NORMAL, b"y"),))
    return evolve(state, log=log)


BROKEN: dict[str, tuple[str, Case]] = {
    "a term that decreases": ("I1", lambda: seen(leading(), behind(term=1))),
    "a second vote": ("I2", lambda: seen(behind(), behind(vote=3))),
    "a commit beyond the log": ("I3", lambda: seen(leading(), evolve(leading(), commit=5))),
    "more applied than committed": (
        "I3",
        lambda: seen(leading(), evolve(leading(), apply=evolve(leading().apply, applied=3))),
    ),
    "a gap below the log": (
        "I3",
        lambda: seen(behind(), behind(log=log_of(1, 2, 2, 2).compact(2))),
    ),
    "a commit that goes back": ("I4", lambda: seen(leading(), evolve(leading(), commit=1))),
    "entries applied twice": (
        "I4",
        lambda: seen(leading(), evolve(leading(), apply=evolve(leading().apply, applied=0))),
    ),
    "entries of decreasing terms": (
        "I5",
        lambda: Guard(leading()).check(*stored(leading(), entry(5, 2), entry(6, 1))),
    ),
    "an entry of a term to come": (
        "I5",
        lambda: Guard(leading()).check(*stored(leading(), entry(5, 3))),
    ),
    "a leader that rewrites its log": ("I6", lambda: seen(leading(), other_end(leading()))),
    "a match that goes back": ("I7", lambda: seen(leading(), moved(match=1))),
    "what is there sent again": ("I7", lambda: seen(leading(), moved(next=2))),
    "a committed entry replaced": ("I8", lambda: seen(behind(), behind(log=log_of(1, 1, 2)))),
    "two changes of membership": ("I17", two_changes),
    "a change beside one found at the start": ("I17", a_change_after_that_of_before_the_start),
    "a window without end": ("I51", lambda: seen(leading(), moved(inflight=((5, 1),) * 3))),
}

SOUND: dict[str, Case] = {
    "another term, another vote": lambda: seen(leading(), behind(term=3, vote=3)),
    "an end that was not committed": lambda: seen(behind(), other_end(behind())),
    "a log that grows": lambda: seen(
        leading(), evolve(leading(), log=log_of(1, 2, 2, 2, 2), commit=4)
    ),
    "a log compacted": lambda: seen(
        leading(), evolve(leading(), log=leading().log.compact(1), commit=4)
    ),
    "a member that lost what it had": lambda: seen(
        leading(), moved(match=0, next=1, recovering=True)
    ),
    "a change after a committed one": a_change_after_a_committed_one,
    "a change in place of another": a_change_in_place_of_another,
    "two changes taken from a leader at once": two_changes_taken_from_a_leader_at_once,
    "two changes sent on by a new leader": two_changes_that_a_new_leader_sends_on,
    "a change after one that was overwritten": a_change_after_one_that_was_overwritten,
}


def passed_over() -> list[str]:
    """The cases that are not judged as they should be."""
    wrong: list[str] = []
    for name, (number, case) in BROKEN.items():
        try:
            case()
        except InvariantError as error:
            if not str(error).startswith(f"{number}: "):
                wrong.append(f"{name}: {error}")
        else:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize(("number", "case"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_stops_the_member(number: str, case: Case) -> None:
    with pytest.raises(InvariantError, match=f"^{number}: "):
        case()


@pytest.mark.parametrize("case", SOUND.values(), ids=SOUND)
def test_what_is_allowed_passes(case: Case) -> None:
    case()


def test_no_flag_switches_the_checks_off() -> None:
    code = (
        "import sys; from tests.core.test_guard import passed_over; assert False;"
        " sys.exit(', '.join(passed_over()) or 0)"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
