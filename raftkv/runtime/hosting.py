"""A thread with an event loop of its own, for a node whose host may stall its loop, or has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from raftkv.runtime.system import make_promise, poster

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Outcome(Protocol[T_co]):
    """What a portal's future offers."""

    def exception(self) -> BaseException | None: ...

    def result(self) -> T_co: ...

    def cancelled(self) -> bool: ...


class HostThread:
    """An asyncio loop in a thread of its own, while the context is open.

    Leaving the context waits for what still runs there.
    """

    def __init__(self, name: str) -> None:
        self._cm: AbstractContextManager[BlockingPortal] = start_blocking_portal(
            "asyncio", name=f"raftkv-{name}"
        )
        self._portal: BlockingPortal | None = None
        self._inside = False

    def __enter__(self) -> HostThread:
        """Start the thread."""
        self._portal = self._cm.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        portal, self._portal = self._portal, None
        if self._inside and portal is not None:
            # An interrupt cut a wait short: what was entered would wait for its end for ever.
            portal.call(portal.stop, True)
        self._cm.__exit__(None, None, None)

    @property
    def portal(self) -> BlockingPortal:
        """The way in, for threads without a loop. Raises RuntimeError outside of the context."""
        if self._portal is None:
            raise RuntimeError("the thread is not running")
        return self._portal

    def entered(self, context: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """Enter an asynchronous context in the thread's loop, from a thread without one.

        If an interrupt (KeyboardInterrupt) ends the wait for entering or leaving it, leaving the
        thread cancels it and waits for its end.
        """
        self._inside = True
        return self.portal.wrap_async_context_manager(self._watched(context))

    @asynccontextmanager
    async def _watched(self, context: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
        try:
            async with context as value:
                yield value
        finally:
            self._inside = False

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await ``call()`` in the thread's loop, from any other loop.

        Cancelling the caller cancels the call.
        """
        promise, post = make_promise(), poster()
        future = self.portal.start_task_soon(call)

        def settle() -> None:
            outcome = cast("_Outcome[T]", future)
            if promise.done():
                return
            if outcome.cancelled():
                promise.set_exception(RuntimeError("the thread's loop ended amid the call"))
            elif (error := outcome.exception()) is not None:
                promise.set_exception(error)
            else:
                promise.set_result(outcome.result())

        future.add_done_callback(lambda _: post(settle))
        try:
            return cast("T", await promise)
        except anyio.get_cancelled_exc_class():
            future.cancel()
            raise
