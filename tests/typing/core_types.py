"""What type checkers are told about the core. Never run: pyright reads it."""

from __future__ import annotations

from typing import assert_never, assert_type

from raftkv import core


def the_two_functions(state: core.State, one: core.Input) -> None:
    """``step`` and ``ready`` take and give values of known types."""
    assert_type(core.step(state, one), core.State)
    after, todo = core.ready(state)
    assert_type(after, core.State)
    assert_type(todo, core.Ready)
    assert_type(todo.hard_state, core.HardState | None)
    assert_type(todo.entries, tuple[core.Entry, ...])
    assert_type(todo.messages, tuple[core.PeerMessage, ...])
    assert_type(todo.committed, tuple[core.Entry, ...])
    assert_type(state.role, core.Role)


def answers_are_a_closed_union(answer: core.Answer) -> None:
    """A match over all cases needs no default."""
    match answer:
        case core.Accepted():
            assert_type(answer.first, int)
        case core.Refused():
            assert_type(answer.reason, core.Refusal)
        case _:
            assert_never(answer)


def nothing_is_any(state: core.State, todo: core.Ready) -> None:
    """Each line is an error that must be there: an ``Any`` would hide it."""
    state.term = 1  # pyright: ignore[reportAttributeAccessIssue] - State is frozen
    core.step(state, todo)  # pyright: ignore[reportArgumentType] - a Ready is no input
    core.step(state, core.Propose(b"x"))  # pyright: ignore[reportArgumentType] - takes payloads
    core.Config(1)  # pyright: ignore[reportCallIssue] - settings are keywords
    _: str = todo.number  # pyright: ignore[reportAssignmentType] - a number is an int
