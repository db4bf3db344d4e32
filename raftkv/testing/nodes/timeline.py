"""Virtual time bit by bit, for synchronous code that wants to look on in between."""

from __future__ import annotations

import asyncio
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


class Timeline:
    """A virtual loop that stands still between calls of :meth:`run`. Close it in the end."""

    def __init__(self, choices: Choices) -> None:
        self.loop = VirtualLoop(choices)

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Let time pass until ``body`` is done; its result.

        Raises what it raises, DeadlockError if everybody waits and no timer is set.
        """

        async def main() -> T:
            return await body()

        return self.loop.run_until_complete(main())

    def begin(self, body: Callable[[], Coroutine[object, object, None]]) -> Running:
        """Have something go on beside, whenever time passes; to be called within :meth:`run`."""
        return Running(self.loop.create_task(body()))

    def close(self, kill: Callable[[], object]) -> None:
        """End it: ``kill`` kills the processes that still run, and cancels other tasks.

        Raises LeftoverError if a task is left that belongs to none.
        """
        loop = self.loop
        try:
            kill()
            for _ in range(2):  # who was told to end gets the turns for it
                loop.call_soon(loop.stop)
                loop.run_forever()
            loop.bury()
            left = loop.waiting()
        finally:
            loop.close()
        if left:
            raise LeftoverError("tasks are left: " + "; ".join(left))
