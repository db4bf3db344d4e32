"""Cancellation at every await in turn: where a caller can be cancelled, it once will be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Generic, TypeVar, cast

import anyio

T = TypeVar("T")

AnyTask = asyncio.Task[object]


class CancelledAt(Generic[T]):
    """Await this to run ``body`` in the calling task and cancel it at its ``number``-th await.

    An await counts when it suspends the task. The first is number 1; a body with fewer of them
    runs to its end. ``number`` 0 counts only. With ``edge`` the cancellation is asyncio's own
    (``Task.cancel``, once, which respects no shield), else that of a cancel scope of anyio around
    the body. Either way what the body awaited has not happened yet when the cancellation comes.

        for number in count(1):
            attempt = CancelledAt(lambda: node.kv.put("a", b"1"), number)
            await attempt
            if not attempt.was_cancelled:
                break
    """

    def __init__(
        self, body: Callable[[], Coroutine[object, object, T]], number: int, *, edge: bool = False
    ) -> None:
        self._body = body
        self._number = number
        self._edge = edge
        self._is_cut = False
        self._is_over = False
        self.awaits = 0
        """How many there were."""
        self.was_cancelled = False
        """Whether the body ended by the cancellation; it may also have swallowed it, or been done
        with what mattered."""
        self.result: T | None = None
        """What the body returned, if it did."""

    def __await__(self) -> Generator[object, None, CancelledAt[T]]:
        """Run it. What the body raises comes out, but not its cancellation by us."""
        return self._run().__await__()

    async def _run(self) -> CancelledAt[T]:
        with anyio.CancelScope() as scope:
            try:
                self.result = await _Driven(self._body().__await__(), self._awaited, scope)
            except asyncio.CancelledError:
                if not self._is_cut:
                    raise
                cast("AnyTask", asyncio.current_task()).uncancel()
                self.was_cancelled = True
            finally:
                self._is_over = True
        self.was_cancelled = self.was_cancelled or scope.cancelled_caught
        return self

    def _awaited(self, scope: anyio.CancelScope) -> None:
        self.awaits += 1
        if self.awaits == self._number:
            if not self._edge:
                scope.cancel()
                return
            # In a turn of its own: now the task runs.
            asyncio.get_running_loop().call_soon(self._cut, cast("AnyTask", asyncio.current_task()))

    def _cut(self, task: AnyTask) -> None:
        if not self._is_over:
            self._is_cut = True
            task.cancel()


class _Driven(Generic[T]):
    """A coroutine's await, step by step."""

    def __init__(
        self,
        steps: Generator[object, None, T],
        awaited: Callable[[anyio.CancelScope], None],
        scope: anyio.CancelScope,
    ) -> None:
        self._steps = steps
        self._awaited = awaited
        self._scope = scope

    def __await__(self) -> Generator[object, None, T]:
        steps = self._steps
        try:
            future = next(steps)
            while True:
                self._awaited(self._scope)
                try:
                    yield future
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as error:
                    future = steps.throw(error)
                else:
                    future = next(steps)
        except StopIteration as end:
            return cast("T", end.value)
