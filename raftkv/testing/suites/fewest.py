"""The fewest and smallest steps that still fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

from raftkv.testing.suites.play import Step

TRIES_MAX: Final = 250
"""Shorter ways that are tried; each is a run of a cluster."""
_ARGUMENTS: Final = {"propose": ("member", "commands"), "wait": ("ticks",)}


def fewest(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> tuple[Step, ...]:
    """Leave out of failing steps what can be left out: steps, then commands, then time.

    What ``fails`` was asked last among its yeses is what comes back.
    """
    best = tuple(steps)
    tried = {best}
    while True:
        for shorter in _shorter(best):
            if shorter in tried:
                continue
            tried.add(shorter)
            if len(tried) > TRIES_MAX:
                return best
            if fails(shorter):
                best = shorter
                break
        else:
            return best


def _shorter(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """What is a little less than ``steps``, the most promising first."""
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps), size):
            yield (*steps[:start], *steps[start + size :])
        size //= 2
    for place, step in enumerate(steps):
        for smaller in _smaller(step):
            yield (*steps[:place], smaller, *steps[place + 1 :])


def _smaller(step: Step) -> Iterator[Step]:
    match step:
        case ("propose", member, tuple()):
            commands = cast("tuple[bytes, ...]", step[2])
            for at in range(len(commands) if len(commands) > 1 else 0):
                yield ("propose", member, (*commands[:at], *commands[at + 1 :]))
        case ("wait", int(ticks)) if ticks > 1:
            yield ("wait", 1)
            yield ("wait", ticks // 2)
        case ("restart", member):
            yield ("crash", member)
        case _:
            pass


def program(name: str, steps: Sequence[Step]) -> str:
    """The steps as lines that can be put into a test."""
    return "\n".join(
        [
            f"These {len(steps)} steps suffice:",
            f"state = {name}()",
            *(f"state.{step[0]}({_arguments(step)})" for step in steps),
            "state.teardown()",
        ]
    )


def _arguments(step: Step) -> str:
    names = _ARGUMENTS.get(step[0], ("member",))
    return ", ".join(
        f"{name}={_as_list(one)!r}" for name, one in zip(names, step[1:], strict=False)
    )


def _as_list(value: object) -> object:
    return [*cast("tuple[object, ...]", value)] if isinstance(value, tuple) else value
