"""Tasks with an owner and a name, and their failures without the wrapping."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import cast

from anyio import get_cancelled_exc_class
from anyio.abc import TaskGroup


class TaskSpawner:
    """The Spawner port over one task group."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    def spawn(self, name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
        """Start ``body`` as a task of the group."""
        self._tasks.start_soon(body, name=f"raftkv {name}")


@contextmanager
def unwrapped() -> Generator[None]:
    """Let the error behind a group out instead of the group; for blocks that are all ours."""
    try:
        yield
    except BaseExceptionGroup as group:
        cause = first_cause(group)
        raise cause from cause.__cause__


def first_cause(error: BaseException) -> BaseException:
    """The error behind a group of them: the first that is no cancellation."""
    cancelled = get_cancelled_exc_class()
    while isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        error = next((one for one in inner if not isinstance(one, cancelled)), inner[0])
    return error
