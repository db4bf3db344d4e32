"""The world as a simulated process sees it: its clocks, its chance, its workers.

A worker is a queue of jobs on the virtual loop. A job takes a time that the run decides; it is done
in one go at the end of it, or now and then at its beginning (then its effects are there before
anybody hears of them): between the two lies everything that a crash can do to a job under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from hashlib import blake2b
from typing import Final, TypeVar, cast

import anyio
from attrs import frozen

from raftkv.errors import ClosedError, OutcomeUnknownError
from raftkv.runtime.base import Promise, Worker
from raftkv.runtime.system import make_promise, outcome_of
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.loop import Owner, VirtualLoop

T = TypeVar("T")

WALL_NS: Final = 1_700_000_000_000_000_000
"""Unix time at the beginning of every run: some moment in 2023."""
_BILLION: Final = 1_000_000_000
_MASK: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15

Quantiles = tuple[int, ...]
"""How long something takes, in nanoseconds: one of these, each as often as the others.

The first is what happens when nothing special is decided.
"""


def drawn(quantiles: Quantiles, choices: Choices) -> int:
    """One of them; a single one is no decision."""
    return quantiles[choices.choose(len(quantiles)) if len(quantiles) > 1 else 0]


class CrashedError(OutcomeUnknownError):
    """The process was killed while this was under way in it: it may or may not have happened."""


@frozen(kw_only=True)
class Pace:
    """How long the jobs of workers take."""

    wal_ns: Quantiles = (250_000,)
    """A sync of the disk."""
    other_ns: Quantiles = (100_000,)
    """Any other job: a slice of a snapshot, of a pass of the scrubber."""
    early_permille: int = 0
    """So many jobs are done at the beginning of their time instead of the end."""


class SimClock:
    """The clocks of one process: they run faster or slower than the world's, and are set."""

    __slots__ = ("_base_ns", "_from_ns", "_loop", "_parts", "_slept_ns", "_wall_ns")

    def __init__(self, loop: VirtualLoop, *, ahead_ns: int = 0) -> None:
        self._loop = loop
        self._from_ns = loop.now_ns
        self._base_ns = loop.now_ns + ahead_ns
        self._parts = _BILLION
        self._wall_ns = WALL_NS - ahead_ns
        self._slept_ns = 0

    def monotonic_ns(self) -> int:
        """Goes on while the process stands still, but not while its machine sleeps."""
        passed = self._loop.now_ns - self._from_ns
        if self._parts != _BILLION:
            passed = passed * self._parts // _BILLION
        return self._base_ns + passed

    def boottime_ns(self) -> int:
        """Like monotonic, but goes on while the machine sleeps."""
        return self.monotonic_ns() + self._slept_ns

    def wall_ns(self) -> int:
        """Unix time."""
        return self.monotonic_ns() + self._slept_ns + self._wall_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Return once the monotonic clock has reached the value."""
        loop = self._loop
        if (left := monotonic_ns - self.monotonic_ns()) <= 0:
            await asyncio.sleep(0)
            return
        while left > 0:
            if self._parts != _BILLION:
                left = -(-left * _BILLION // self._parts)
            future = loop.create_future()
            timer = loop.call_later_ns(left, _wake, future)
            try:
                await future
            finally:
                timer.cancel()
            # The clock may have been slowed down meanwhile.
            left = monotonic_ns - self.monotonic_ns()

    # --- for those who run a cluster --------------------------------------------------------------

    def run_at(self, parts_per_billion: int) -> None:
        """From now on this much passes here while a second passes in the world."""
        self._rebase(self.monotonic_ns())
        self._parts = max(1, parts_per_billion)

    def jump_wall(self, by_ns: int) -> None:
        """Set the wall clock, as an operator or ntpd does."""
        self._wall_ns += by_ns

    def sleep(self, ns: int) -> None:
        """The machine slept for the last ``ns``: the monotonic clock did not notice."""
        self._rebase(self.monotonic_ns() - ns)
        self._slept_ns += ns

    def _rebase(self, monotonic_ns: int) -> None:
        self._base_ns, self._from_ns = monotonic_ns, self._loop.now_ns


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SimRng:
    """One stream of numbers, SplitMix64, for one process; the same seed and names, the same."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, *names: str | int) -> None:
        mixed = blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
        self._state = int.from_bytes(mixed, "little")

    def below(self, bound: int) -> int:
        """A number from 0 up to and excluding ``bound``."""
        return self._next() % bound

    def token(self, size_bytes: int) -> bytes:
        """Bytes; whoever knows the seed can predict them."""
        parts = [self._next().to_bytes(8, "little") for _ in range(-(-size_bytes // 8))]
        return b"".join(parts)[:size_bytes]

    def _next(self) -> int:
        self._state = z = (self._state + _GAMMA) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)


class SimEnvironment:
    """Where a process is: in the one thread and loop there are, under a number of its own."""

    __slots__ = ("_loop", "_pid")

    def __init__(self, loop: VirtualLoop, pid: int) -> None:
        self._loop = loop
        self._pid = pid

    def pid(self) -> int:
        """The number of the process."""
        return self._pid

    def thread_id(self) -> int:
        """The one there is."""
        return 1

    def runs(self, loop: object) -> bool:
        """Whether it is our loop, and runs."""
        return loop is self._loop and self._loop.is_running()

    def loop(self) -> object:
        """Our loop."""
        return self._loop


Job = tuple[Callable[[], object], Callable[[object], None]]


class SimWorker:
    """A thread that is none: jobs one after another, each at its time on the virtual loop."""

    def __init__(self, name: str, host: SimWorkers) -> None:
        self._name = name
        self._host = host
        self._jobs: deque[Job] = deque()
        self._closed = False

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Do ``job`` when its time has come, then call ``done`` with its outcome."""
        if self._closed:
            raise ClosedError(f"the worker {self._name} is closed")
        self._jobs.append((job, cast("Callable[[object], None]", done)))
        if len(self._jobs) == 1:
            self._begin()

    async def run(self, job: Callable[[], T]) -> T:
        """Do ``job`` when its time has come, and return its result."""
        return await outcome_of(self, job)

    async def close(self) -> None:
        """Let the jobs submitted so far end."""
        if self._closed:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self.run(lambda: None)
            finally:
                self._closed = True

    def _begin(self) -> None:
        host = self._host
        took_ns = host.took_ns(self._name)
        outcome: list[object] = []
        early = host.pace.early_permille
        if early and host.choices.chance(early):
            outcome.append(_outcome(self._jobs[0][0]))
        when_ns = host.loop.now_ns + took_ns
        host.loop.call_at_ns(when_ns, self._end, outcome, context=host.context)

    def _end(self, outcome: list[object]) -> None:
        job, done = self._jobs[0]
        if not outcome:
            outcome.append(_outcome(job))
        # The loop hears of it in a later turn, as from a thread: there is a moment between.
        loop = self._host.loop
        loop.call_soon(done, outcome[0], context=self._host.context)
        self._jobs.popleft()
        if self._jobs:
            self._begin()


def _outcome(job: Callable[[], object]) -> object:
    try:
        return job()
    except Exception as error:  # whatever it is, its owner must hear of it
        return error


class SimWorkers:
    """Makes the workers of one process."""

    def __init__(self, loop: VirtualLoop, context: Context, choices: Choices, pace: Pace) -> None:
        self.loop = loop
        self.context = context
        self.choices = choices
        self.pace = pace
        self.extra_ns: Callable[[str], int] | None = None
        """How much longer than usual a job of the worker of that name takes: a slow disk."""

    def took_ns(self, name: str) -> int:
        """How long the next job of that worker takes."""
        pace = self.pace
        took_ns = drawn(pace.wal_ns if name == "wal" else pace.other_ns, self.choices)
        return took_ns if self.extra_ns is None else took_ns + self.extra_ns(name)

    def worker(self, name: str) -> Worker:
        """A new worker of that name."""
        return SimWorker(name, self)


class Promises:
    """The promises of one process, so that those who wait outside of it hear of its end."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._made: list[Promise[object]] = []
        self._pruned = 256

    def make(self) -> Promise[object]:
        """A new one. Raises ClosedError once the process is dead: nothing is under way in it."""
        if not self._owner.is_alive:
            raise ClosedError(f"the process {self._owner.name} was killed: ask another one")
        made = self._made
        if len(made) > self._pruned:
            made[:] = [one for one in made if not one.done()]
            self._pruned = 2 * len(made) + 256
        promise = make_promise()
        made.append(promise)
        return promise

    def break_all(self) -> None:
        """The process was killed; who waits in it does not run any more, and hears nothing."""
        for promise in self._made:
            if not promise.done():
                promise.set_exception(CrashedError(f"the process {self._owner.name} was killed"))
        self._made.clear()
