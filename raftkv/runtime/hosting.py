"""A thread with an event loop of its own, for a node whose host may stall its loop, or has none.

The loop may end amid a call: an interrupt ends it, or something in it that ends threads. What the
call hears then depends on what it was for: of a call that may have changed something nobody knows
whether it did, so that is OutcomeUnknownError; one that only looks is ClosedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from types import TracebackType
from typing import Generic, Protocol, TypeVar, TypeVarTuple, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from raftkv.errors import ClosedError, Error, OutcomeUnknownError, WrongThreadError
from raftkv.runtime.system import SystemEnvironment, make_promise, poster

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

    Every method raises ClosedError once the thread ends, and then nothing was begun;
    WrongThreadError in that thread itself, which would wait for itself for ever.
    """

    def __init__(self, name: str, inner: BlockingPortal) -> None:
        self._name = name
        self._inner = inner
        self._environment = SystemEnvironment()
        self._thread_id = inner.call(self._environment.thread_id)
        self._ended = False

    def call(self, func: Callable[[*Ts], Awaitable[T] | T], *args: *Ts) -> T:
        """Run ``func`` there, await what it returns, and return that.

        Raises OutcomeUnknownError if the thread ends meanwhile.
        """
        try:
            return self.start_task_soon(func, *args).result()
        except CancelledError:
            raise self.ended(writes=True) from None

    def look(self, func: Callable[[*Ts], Awaitable[T] | T], *args: *Ts) -> T:
        """The same for what changes nothing: ClosedError if the thread ends meanwhile."""
        try:
            return self.start_task_soon(func, *args).result()
        except CancelledError:
            raise self.ended(writes=False) from None

    def start_task_soon(self, func: Callable[[*Ts], Awaitable[T] | T], *args: *Ts) -> Answer[T]:
        """Have ``func`` run there; the future of what it returns."""
        self._check()
        try:
            return cast("Answer[T]", self._inner.start_task_soon(func, *args))
        except RuntimeError as error:  # it ended since
            raise self.ended(writes=False) from error

    def wrap_async_context_manager(
        self, context: AbstractAsyncContextManager[T]
    ) -> AbstractContextManager[T]:
        """Enter and leave ``context`` there, by a task of its own.

        If the thread ends before, ``context`` is left by that, and who leaves it later hears
        ClosedError, unless leaving it has raised something else.
        """
        self._check()
        kept = _Kept(context, lambda: self.ended(writes=False))
        return _Entered(self._inner.wrap_async_context_manager(kept), kept)

    def end(self) -> None:
        """For the thread: nobody is let in any more."""
        self._ended = True

    def ended(self, *, writes: bool) -> Error:
        """What a call hears that the end of the thread has cut short."""
        if writes:
            return OutcomeUnknownError(
                f"the node {self._name} ended amid the call: what it asked for may or may not"
                " happen; read before trying again"
            )
        return ClosedError(f"the node {self._name} is closed: open it again")

    def _check(self) -> None:
        if self._ended:
            raise self.ended(writes=False)
        if self._environment.thread_id() == self._thread_id:
            raise WrongThreadError(
                f"this is the thread of the node {self._name} itself, which would wait for itself"
                " for ever: call from another one, such as the one that opened it"
            )


class _Kept(AbstractAsyncContextManager[None]):
    """A context that keeps what it gives and raises, for the thread that uses it.

    What its wrapping raises is then the end of the loop, and nothing else.
    """

    def __init__(
        self, context: AbstractAsyncContextManager[object], ended: Callable[[], Error]
    ) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.suppresses = False
        self.ended = ended
        self._context = context
        self._is_inside = False

    async def __aenter__(self) -> None:
        try:
            self.value = await self._context.__aenter__()
            self._is_inside = True
        except anyio.get_cancelled_exc_class():
            self.error = self.ended()
        except Exception as error:
            self.error = error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_inside:
            return
        try:
            self.suppresses = bool(await self._context.__aexit__(kind, error, trace))
        except Exception as raised:
            self.error = raised


class _Entered(AbstractContextManager[T], Generic[T]):
    """A context of the loop, for a thread."""

    def __init__(self, wrapped: AbstractContextManager[None], kept: _Kept) -> None:
        self._wrapped = wrapped
        self._kept = kept

    def __enter__(self) -> T:
        kept = self._kept
        try:
            self._wrapped.__enter__()
        except (RuntimeError, CancelledError):
            raise kept.ended() from None
        if kept.error is not None:
            with suppress(RuntimeError, CancelledError):
                self._wrapped.__exit__(None, None, None)
            raise kept.error
        return cast("T", kept.value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        kept = self._kept
        try:
            self._wrapped.__exit__(kind, error, trace)
        except (RuntimeError, CancelledError):
            # The end of the loop has left the context already, and knew nothing of our error.
            if error is None and kept.error is None:
                raise kept.ended() from None
            if error is not None:
                return False
        if kept.error is not None and kept.error is not error:
            raise kept.error
        return kept.error is None and kept.suppresses


class HostThread:
    """An asyncio loop in a thread of its own, while the context is open.

    Leaving the context cancels what still runs there, and waits for its end.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._cm: AbstractContextManager[BlockingPortal] = start_blocking_portal(
            "asyncio", name=f"raftkv-{name}"
        )
        self._stop: Callable[[], object] | None = None
        self._portal: Portal | None = None

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
        if self._stop is not None:
            # A context that another thread has entered would wait for ever for its end; what was
            # entered here, too, if an interrupt cut a wait short.
            with suppress(RuntimeError, CancelledError):  # the loop ends by itself
                self._stop()
        with suppress(CancelledError):
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
        return self.portal.wrap_async_context_manager(context)

    async def run(self, call: Callable[[], Awaitable[T]], *, writes: bool = True) -> T:
        """Await ``call()`` in the thread's loop, from any other loop.

        Cancelling the caller cancels the call. If the thread ends meanwhile that is
        OutcomeUnknownError, or ClosedError for what only looks (``writes=False``).
        """
        promise, post = make_promise(), poster()
        portal = self.portal
        future = portal.start_task_soon(call)

        def settle() -> None:
            if promise.done():
                return
            if future.cancelled():
                promise.set_exception(portal.ended(writes=writes))
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
