"""PORT: everything a node needs from the world that is not disk or network."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Protocol, TypeVar

from attrs import frozen

from raftkv.core.inputs import Input
from raftkv.core.ready import Ready
from raftkv.core.state import State

T = TypeVar("T")


class Clock(Protocol):
    """Three clocks and a way to wait. Integers, nanoseconds."""

    def monotonic_ns(self) -> int:
        """Never jumps; stands still during suspend. For deadlines and ticks."""
        ...

    def boottime_ns(self) -> int:
        """Like monotonic, but goes on during suspend. For the leader's lease."""
        ...

    def wall_ns(self) -> int:
        """Unix time; may jump either way. For logs and certificates only."""
        ...

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Return once ``monotonic_ns()`` has reached the value.

        At once, after a checkpoint, if it has already.
        """
        ...


class Rng(Protocol):
    """Chance: one stream per node."""

    def below(self, bound: int) -> int:
        """A number from 0 up to and excluding ``bound`` (at least 1)."""
        ...

    def token(self, size_bytes: int) -> bytes:
        """Unpredictable bytes, for identities."""
        ...


class Worker(Protocol):
    """A named thread, or its simulated stand-in, that runs jobs one after another in order."""

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Run ``job`` off the loop, then call ``done`` with its result or exception on the loop.

        Returns at once. ``done`` must not raise. After :meth:`close`, raises ClosedError.
        """
        ...

    async def run(self, job: Callable[[], T]) -> T:
        """Run ``job`` off the loop and return its result.

        Cancellation abandons the wait, not the job.
        """
        ...

    async def close(self) -> None:
        """Let the jobs submitted so far end, then end the thread. Shielded from cancellation."""
        ...


class Spawner(Protocol):
    """The one way to start a task: named, owned by the node, its failure the node's failure."""

    def spawn(self, name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
        """Start ``body`` as a task.

        An exception of it cancels the owner's scope and is raised there.
        """
        ...


class Waker(Protocol):
    """A one-slot, repeatable event: the loop's doorbell. Loop thread only."""

    def set(self) -> None:
        """Ring; many rings before the next wait are one."""
        ...

    async def wait(self) -> None:
        """Return at the next ring, or at once if it rang since the last return; then reset."""
        ...


class Promise(Protocol[T]):
    """A value to come, awaited by one task: what stands for a request on its way. Loop thread only.

    The names are those of ``asyncio.Future``, which is one without a wrapper: thousands are made a
    second. If the waiting task is cancelled the promise is done, and nobody looks at its value.
    """

    def set_result(self, value: T, /) -> None:
        """Wake the waiter with a value; ask ``done`` first."""
        ...

    def set_exception(self, error: BaseException, /) -> None:
        """Wake the waiter with an error; ask ``done`` first."""
        ...

    def done(self) -> bool:
        """Whether it was kept, broken, or its waiter was cancelled."""
        ...

    def __await__(self) -> Generator[object, None, T]:
        """Wait for it."""
        ...


class Workers(Protocol):
    """Makes workers."""

    def worker(self, name: str) -> Worker:
        """A new worker of that name (``wal``, ``witness``, ``snapshot``)."""
        ...


class Environment(Protocol):
    """Where we are."""

    def pid(self) -> int:
        """The process id; differs after a fork."""
        ...

    def thread_id(self) -> int:
        """The calling thread's id."""
        ...

    def runs(self, loop: object) -> bool:
        """Whether that event loop runs, asked in the thread that made it."""
        ...

    def loop(self) -> object:
        """The event loop that runs in the calling thread, by identity; None if none does."""
        ...


class Observer(Protocol):
    """Sees what the core does, after it did it, and must not raise but to stop the node for good.

    It is told before anything is stored or sent because of it.
    """

    def started(self, state: State) -> None:
        """The core begins here."""
        ...

    def stepped(self, before: State, given: Input, after: State) -> None:
        """An input was stepped."""
        ...

    def drained(self, before: State, todo: Ready, after: State) -> None:
        """The work that a State asks for was taken from it, and will be done now."""
        ...


@frozen
class Runtime:
    """The world as one node sees it; give a node another one and it lives in a simulation."""

    clock: Clock
    rng: Rng
    workers: Workers
    environment: Environment
    waker: Callable[[], Waker]
    """Makes a new doorbell for the running event loop."""
    promise: Callable[[], Promise[object]]
    """Makes a new promise for the running event loop."""
    buggify: Callable[[str], bool]
    """Whether to misbehave at the named point; always False in production."""
    observer: Observer | None = None
    """Sees every step of the core; None in production."""
