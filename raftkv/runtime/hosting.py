"""A thread with an event loop of its own, for a node whose host may stall its loop, or has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol, TypeVar, TypeVarTuple, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from raftkv.errors import ClosedError
from raftkv.runtime.system import make_promise, poster

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


class Answer(Protocol[T_co]):
    """The future of what was begun in a thread's loop."""

    def exception(self) -> BaseException | None:
        """What it raised, if it did. Waits for its end."""
        ...

    def result(self) -> T_co:
        """What it returned. Waits for its end."""
        ...

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        ...

    def cancel(self) -> bool:
        """Cancel it; whether that was still possible."""
        ...

    def add_done_callback(self, call: Callable[[object], object], /) -> object:
        """Have ``call`` called at its end, in the thread's loop."""
        ...


class Portal:
    """The way into the loop of a :class:`HostThread`, for threads without a loop.

    Every method raises ClosedError once the thread ends, and then nothing was begun.
    """

    def __init__(self, name: str, inner: BlockingPortal) -> None:
        self._name = name
        self._inner = inner
        self._ended = False

    def call(self, func: Callable[[*Ts], Awaitable[T] | T], *args: *Ts) -> T:
        """Run ``func`` there, await what it returns, and return that."""
        return self.start_task_soon(func, *args).result()

    def start_task_soon(self, func: Callable[[*Ts], Awaitable[T] | T], *args: *Ts) -> Answer[T]:
        """Have ``func`` run there; the future of what it returns."""
        self._check()
        try:
            return cast("Answer[T]", self._inner.start_task_soon(func, *args))
        except RuntimeError:
            self._check()  # it ended since
            raise

    def wrap_async_context_manager(
        self, context: AbstractAsyncContextManager[T]
    ) -> AbstractContextManager[T]:
        """Enter and leave ``context`` there, by a task of its own."""
        self._check()
        return self._inner.wrap_async_context_manager(context)

    def end(self) -> None:
        """For the thread: nobody is let in any more."""
        self._ended = True

    def _check(self) -> None:
        if self._ended:
            raise ClosedError(f"the node {self._name} is closed: open it again")


class HostThread:
    """An asyncio loop in a thread of its own, while the context is open.

    Leaving the context waits for what still runs there.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._cm: AbstractContextManager[BlockingPortal] = start_blocking_portal(
            "asyncio", name=f"raftkv-{name}"
        )
        self._stop: Callable[[], object] | None = None
        self._portal: Portal | None = None
        self._inside = False

    def __enter__(self) -> HostThread:
        """Start the thread."""
        inner = self._cm.__enter__()
        self._stop = lambda: inner.call(inner.stop, True)
        self._portal = Portal(self._name, inner)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        if self._portal is not None:
            self._portal.end()
        if self._inside and self._stop is not None:
            # An interrupt cut a wait short: what was entered would wait for its end for ever.
            self._stop()
        self._cm.__exit__(None, None, None)

    @property
    def portal(self) -> Portal:
        """The way in, for threads without a loop. Raises RuntimeError before the context."""
        if self._portal is None:
            raise RuntimeError("the thread was not started")
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
            if promise.done():
                return
            if future.cancelled():
                promise.set_exception(RuntimeError("the thread's loop ended amid the call"))
            elif (error := future.exception()) is not None:
                promise.set_exception(error)
            else:
                promise.set_result(future.result())

        future.add_done_callback(lambda _: post(settle))
        try:
            return cast("T", await promise)
        except anyio.get_cancelled_exc_class():
            future.cancel()
            raise
