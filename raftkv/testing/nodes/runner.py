"""One virtual loop for several calls, as fixtures and tests need it that are no coroutine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

from raftkv.testing.choices import Choices
from raftkv.testing.nodes.loop import LeftoverError, VirtualLoop

T = TypeVar("T")


class Running:
    """Something that goes on beside."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        """Tell it to end."""
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended, cancelled or not. Raises what it raised."""
        with suppress(asyncio.CancelledError):
            await self._task


class VirtualRunner:
    """Runs one awaitable after another in the same virtual time, which stands still between them.

    To be closed in the end, which raises LeftoverError as ``run_virtual`` does.
    """

    def __init__(self, choices: Choices, *, shuffle_permille: int = 0) -> None:
        self._threads = frozenset(threading.enumerate())
        self.loop = VirtualLoop(choices, shuffle_permille=shuffle_permille)
        """Its loop: where time is, and tasks are."""
        self._runner = asyncio.Runner(debug=False, loop_factory=lambda: self.loop)

    def run(self, awaitable: Awaitable[T]) -> T:
        """Run it to its end, and all tasks beside it as far as they come meanwhile.

        Raises what it raises, or DeadlockError.
        """
        return self._runner.run(_awaited(awaitable))

    def begin(self, body: Callable[[], Coroutine[object, object, None]]) -> Running:
        """Have something go on beside, whenever time passes; to be called within :meth:`run`."""
        return Running(self.loop.create_task(body()))

    def close(self, *, is_strict: bool = True) -> None:
        """End the loop.

        Raises LeftoverError if a task, a thread or a failure that nobody heard of is left, unless
        it is not ``is_strict``, as after a failure that explains why.
        """
        loop = self.loop
        loop.bury()
        left = (*loop.waiting(), *loop.complaints)
        self._runner.close()
        threads = [one.name for one in threading.enumerate() if one not in self._threads]
        if (left or threads) and is_strict and not loop.has_given_up:
            raise LeftoverError(f"left at the end: {'; '.join((*left, *threads))}")


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
