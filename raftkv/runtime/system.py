"""The real world: clocks, chance, threads and doorbells of the machine we run on.

The one module that may know ``time``, ``secrets``, ``threading``, ``asyncio`` and ``os``; all
others get them as a :class:`~raftkv.runtime.base.Runtime`. It talks to the backend's own loop
because a hop through ``anyio.to_thread`` costs 37-60 us, and this way 10-18.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Final, Generic, Protocol, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint, current_token

from raftkv.errors import ClosedError
from raftkv.runtime.base import Promise, Runtime, Waker, Worker

T = TypeVar("T")


class SystemClock:
    """The kernel's clocks."""

    # Bound as they are, without a Python frame around them: they are asked several times a turn.
    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)

    def boottime_ns(self) -> int:
        """Like monotonic, but goes on during suspend."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Return once the monotonic clock has reached the value."""
        await anyio.sleep(max(0, monotonic_ns - time.monotonic_ns()) / 1e9)
        # A loop may wake us within its clock's resolution before the time: wait for the rest.
        # (Time itself is waited for, not an event that could be set.)
        while (left := monotonic_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110
            await anyio.sleep(left / 1e9)


class SystemRng:
    """The kernel's generator."""

    def below(self, bound: int) -> int:
        """A number from 0 up to and excluding ``bound``."""
        return secrets.randbelow(bound)

    def token(self, size_bytes: int) -> bytes:
        """Unpredictable bytes."""
        return secrets.token_bytes(size_bytes)


class _Process:
    """Which process this is; a forked child learns of it at once."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.pid = os.getpid()


_process: Final = _Process()


class SystemEnvironment:
    """The process and thread we run in."""

    thread_id = staticmethod(threading.get_ident)

    def pid(self) -> int:
        """The process id, without a system call: it is asked for with every command."""
        return _process.pid

    def runs(self, loop: object) -> bool:
        """Whether the event loop runs, asked in the thread that made it."""
        if isinstance(loop, asyncio.AbstractEventLoop):
            return loop.is_running()
        return self.loop() is loop

    def loop(self) -> object:
        """The event loop that runs in the calling thread; None if none does."""
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            try:
                return current_token().native_token
            except anyio.NoEventLoopError:
                return None


class _AsyncioWaker:
    """A doorbell of one asyncio loop."""

    __slots__ = ("_future", "_loop", "_rung")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._rung = False

    def set(self) -> None:
        """Ring."""
        if not self._rung:
            self._rung = True
            future = self._future
            if future is not None and not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring; the loop always gets a turn first."""
        if self._rung:
            await asyncio.sleep(0)
        else:
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        self._rung = False


class _EventWaker:
    """A doorbell for any other backend."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Ring."""
        self._event.set()

    async def wait(self) -> None:
        """Return at the next ring; the loop always gets a turn first."""
        await self._event.wait()
        await checkpoint()
        self._event = anyio.Event()


class _EventPromise(Generic[T]):
    """A promise for any backend but asyncio, whose futures are promises already."""

    __slots__ = ("_done", "_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._done = False
        self._error: BaseException | None = None
        self._value: T | None = None

    def set_result(self, value: T, /) -> None:
        """Wake the waiter with a value."""
        self._value = value
        self._done = True
        self._event.set()

    def set_exception(self, error: BaseException, /) -> None:
        """Wake the waiter with an error."""
        self._error = error
        self._done = True
        self._event.set()

    def done(self) -> bool:
        """Whether it was kept, broken, or its waiter was cancelled."""
        return self._done

    def __await__(self) -> Generator[object, None, T]:
        """Wait for it."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            await self._event.wait()
        finally:
            self._done = True  # a cancelled waiter will not look again
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    token = current_token().native_token
    return token if isinstance(token, asyncio.AbstractEventLoop) else None


def make_waker() -> Waker:
    """A new doorbell for the running loop."""
    loop = _asyncio_loop()
    return _EventWaker() if loop is None else _AsyncioWaker(loop)


def make_promise() -> Promise[object]:
    """A new promise for the running loop."""
    try:
        return asyncio.get_running_loop().create_future()
    except RuntimeError:  # another backend than asyncio
        return _EventPromise[object]()


class _TrioToken(Protocol):
    """What trio offers to other threads."""

    def run_sync_soon(self, callback: Callable[[], object], /) -> None: ...


def poster() -> Callable[[Callable[[], None]], object]:
    """How another thread has the running loop call a function."""
    token = current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        return token.call_soon_threadsafe
    return cast("_TrioToken", token).run_sync_soon


class _Job(Generic[T]):
    """Work for a thread and whom to tell about it."""

    __slots__ = ("_done", "_outcome", "_work")

    def __init__(self, work: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        self._work = work
        self._done = done
        self._outcome: T | BaseException | None = None

    def run(self) -> None:
        """In the worker's thread."""
        try:
            self._outcome = self._work()
        except BaseException as error:  # whatever it is, its owner must hear of it
            self._outcome = error

    def report(self) -> None:
        """On the loop."""
        self._done(cast("T | BaseException", self._outcome))


async def outcome_of(worker: Worker, job: Callable[[], T]) -> T:
    """The result of a job that is submitted to a worker; cancellation abandons the wait alone."""
    promise = make_promise()

    def done(outcome: T | BaseException) -> None:
        if promise.done():
            return  # the waiter was cancelled
        if isinstance(outcome, BaseException):
            promise.set_exception(outcome)
        else:
            promise.set_result(outcome)

    worker.submit(job, done)
    return cast("T", await promise)


class SystemWorker:
    """One thread with a queue, reporting to the loop that made it.

    The thread is no daemon: what it was given to write is written before the interpreter ends.
    """

    def __init__(self, name: str) -> None:
        self._post = poster()
        # None ends it.
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"raftkv-{name}")
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Run ``job`` in the thread, then call ``done`` with its outcome on the loop."""
        if self._closed:
            raise ClosedError(f"the worker {self._thread.name} is closed")
        self._jobs.put(cast("_Job[object]", _Job(job, done)))

    async def run(self, job: Callable[[], T]) -> T:
        """Run ``job`` in the thread and return its result."""
        return await outcome_of(self, job)

    async def close(self) -> None:
        """Let the jobs submitted so far end, then end the thread."""
        if self._closed:
            return
        with anyio.CancelScope(shield=True):
            idle = self.run(lambda: None)
            try:
                await idle
            finally:
                # Also when asyncio's own cancellation, which respects no shield, cut the wait
                # short: a thread that nobody ends would keep the process from ending.
                self._closed = True
                self._jobs.put(None)
            self._thread.join()  # idle by now: at once

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            try:
                self._post(job.report)
            except RuntimeError:
                # The loop is gone (trio's RunFinishedError is one, too): nobody is left to be told.
                return


class SystemWorkers:
    """Makes threads."""

    def worker(self, name: str) -> Worker:
        """A new thread of that name, reporting to the running loop."""
        return SystemWorker(name)


def never(_point: str) -> bool:
    """No misbehaviour in production."""
    return False


def system_runtime() -> Runtime:
    """The world as it is."""
    return Runtime(
        clock=SystemClock(),
        rng=SystemRng(),
        workers=SystemWorkers(),
        environment=SystemEnvironment(),
        waker=make_waker,
        promise=make_promise,
        buggify=never,
    )
