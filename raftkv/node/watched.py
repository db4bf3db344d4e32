"""The core's two functions, with somebody who looks on."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.core import Input, Ready, State, ready, step
from raftkv.runtime.base import Observer

Step = Callable[[State, Input], State]
Drain = Callable[[State], tuple[State, Ready]]


def watched(observer: Observer | None) -> tuple[Step, Drain]:
    """``step`` and ``ready``; without an observer the core's own, at no cost."""
    if observer is None:
        return step, ready

    def watched_step(state: State, given: Input) -> State:
        after = step(state, given)
        observer.stepped(state, given, after)
        return after

    def watched_ready(state: State) -> tuple[State, Ready]:
        after, todo = ready(state)
        observer.drained(state, todo, after)
        return after, todo

    return watched_step, watched_ready
