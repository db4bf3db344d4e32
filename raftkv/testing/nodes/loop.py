"""A virtual-time event loop: hours pass in milliseconds, and one seed gives one course of events.

The loop is asyncio's own with its clock, its timers and its waiting replaced: time stands still
while nothing runs, jumps to the next timer when nothing is ready, and goes on by a microsecond with
each turn of the loop, so that whoever spins until a deadline gets there. There is no selector and
no thread: what would need one raises.

Every callback belongs to the *owner* in whose context it was scheduled. An owner can be paused (its
callbacks wait) and killed (none of them ever runs again, no ``finally`` either): this is what makes
a simulated process of :mod:`raftkv.testing.nodes.process` one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio.events import Handle, TimerHandle
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from heapq import heapify, heappop, heappush
from inspect import CORO_CREATED, getcoroutinestate
from typing import Final, Never, TypeVar, cast

import anyio

from raftkv.errors import Error, UsageError
from raftkv.testing.choices import Choices, ReplayedChoices

T = TypeVar("T")

TURN_NS: Final = 1_000
"""How long one turn of the loop takes."""
MOMENT_NS: Final = 1_000_000
"""Decisions of one such slice of time are one turn of the record."""
_TURNS_MAX: Final = 5_000_000
"""So many turns without one jump of the clock: somebody spins and waits for nothing."""
_PURGE_MIN: Final = 256
_NEVER_NS: Final = 10**18
"""A timer this late, in thirty years, is none: who sleeps for ever, sleeps so long."""

AnyTask = asyncio.Task[object]
AnyGenerator = AsyncGenerator[object, object]


class DeadlockError(Error):
    """Nothing is ready to run and no timer is set: those who wait would wait for ever."""

    def __init__(self, waiting: tuple[str, ...]) -> None:
        super().__init__(waiting)
        self.waiting = waiting
        """Each task that waits, and where."""

    def __str__(self) -> str:
        """With one line for each task that waits."""
        lines = "".join(f"\n  {one}" for one in self.waiting)
        return f"deadlock: nothing is ready to run and no timer is set; these wait:{lines}"


class LivelockError(Error):
    """Tasks keep each other busy, and none of them waits for time to pass; the tasks there are."""


class TimeLimitError(Error):
    """So much virtual time has passed, and it is not over; the tasks there are."""


class LeftoverError(Error):
    """Something went on after the end: a task, a thread, or a failure that nobody looked at."""


class Dead(BaseException):
    """Thrown into the coroutines of a killed owner at the very end, to take them apart."""


class Owner:
    """Whose callbacks they are: a simulated process."""

    __slots__ = ("held", "is_alive", "is_paused", "name", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_paused = False
        self.held: list[_Call | _Timer] = []
        """What became ready while it was paused, in that order."""
        self.tasks: list[AnyTask] = []

    def __repr__(self) -> str:
        """Its name."""
        return f"<Owner {self.name}>"


OWNER: Final[ContextVar[Owner | None]] = ContextVar("raftkv simulated process", default=None)


class _Call(Handle):
    """A callback that is ready, and whose it is."""

    __slots__ = ("owner",)
    owner: Owner | None
    run = Handle._run  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] - as a loop does; a method of ours would cost a frame


class _Timer(TimerHandle):
    """A callback with a time, and whose it is."""

    __slots__ = ("is_set", "owner")
    owner: Owner | None
    is_set: bool  # and not taken from the timers yet
    run = Handle._run  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] - as above


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time is virtual. Made by :func:`run_virtual`.

    ``shuffle_permille`` of its turns run what is ready in an order that ``choices`` draws, all
    others in the order in which it became ready.
    """

    def __init__(self, choices: Choices, *, shuffle_permille: int = 0) -> None:
        super().__init__()
        self.now_ns = 0
        """Virtual time since the loop was made."""
        self.limit_ns = _NEVER_NS
        """When it is too late: then TimeLimitError is raised, and tells who still waits."""
        self.choices = choices
        self.shuffle_permille = shuffle_permille
        self.turns = 0
        self.owners: list[Owner] = []
        self.complaints: list[str] = []
        """Failures that nobody was there to hear of."""
        self.has_given_up = False
        """Whether it came to a deadlock or livelock: then everything in it is stuck."""
        self.farewells = 0
        """Killed coroutines that complained when they were taken apart."""
        self._queue: deque[_Call | _Timer] = deque()
        self._generators: dict[int, Context] = {}
        self._timers: list[tuple[int, int, _Timer]] = []
        self._number = 0
        self._cancelled_timers = 0
        self._moment = 0
        self._turns_jumped = 0
        self._tasks: list[AnyTask] = []
        self._pruned = 64
        self._is_stopping = False
        self.set_exception_handler(_complain)
        choices.begin()

    # --- time -------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_ns / 1e9

    def call_at_ns(
        self, when_ns: int, call: Callable[..., object], *args: object, context: Context
    ) -> TimerHandle:
        """Call in ``context`` when virtual time has come so far."""
        handle = _Timer(when_ns / 1e9, call, args, self, context)
        handle.owner = context.get(OWNER)
        handle.is_set = when_ns < _NEVER_NS
        if handle.is_set:
            self._number += 1
            heappush(self._timers, (when_ns, self._number, handle))
        return handle

    def call_later_ns(
        self, delay_ns: int, call: Callable[..., object], *args: object
    ) -> TimerHandle:
        """Call after so much virtual time."""
        return self.call_at_ns(self.now_ns + delay_ns, call, *args, context=copy_context())

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call when virtual time has come so far."""
        chosen = copy_context() if context is None else context
        return self.call_at_ns(_ns(when), callback, *args, context=chosen)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call after so many virtual seconds."""
        chosen = copy_context() if context is None else context
        when_ns = self.now_ns + max(0, _ns(delay))
        return self.call_at_ns(when_ns, callback, *args, context=chosen)

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        if not isinstance(handle, _Timer) or not handle.is_set:
            return
        self._cancelled_timers += 1
        if self._cancelled_timers > _PURGE_MIN and 2 * self._cancelled_timers > len(self._timers):
            self._timers = [one for one in self._timers if not one[2].cancelled()]
            heapify(self._timers)
            self._cancelled_timers = 0

    # --- what is ready ----------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """Call in the next turn of the loop."""
        if context is None:
            context = copy_context()
        handle = _Call(callback, args, self, context)
        handle.owner = context.get(OWNER)
        self._queue.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """The same: there is no other thread."""
        return self.call_soon(callback, *args, context=context)

    def stop(self) -> None:
        """Stop after this turn."""
        self._is_stopping = True
        super().stop()

    def _run_once(self) -> None:
        """One turn: asyncio's ``run_forever`` calls it until the loop is stopped."""
        queue = self._queue
        timers = self._timers
        if not queue and not self._is_stopping:
            self._jump()
            timers = self._timers
        self._is_stopping = False
        self.turns = turns = self.turns + 1
        if turns - self._turns_jumped > _TURNS_MAX:
            self._turns_jumped = turns
            raise LivelockError("; ".join(self._give_up()))
        self.now_ns = now = self.now_ns + TURN_NS
        if now > self.limit_ns:
            self.limit_ns = _NEVER_NS
            seconds = f"{now / 1e9:.0f} virtual seconds have passed, and these wait or run:"
            raise TimeLimitError("\n  ".join((seconds, *self._give_up())))
        while timers and timers[0][0] <= now:
            handle = heappop(timers)[2]
            handle.is_set = False
            if handle.cancelled():
                self._cancelled_timers -= 1
            else:
                queue.append(handle)
        moment = now // MOMENT_NS
        if moment != self._moment:
            self._moment = moment
            self.choices.begin(moment)
        if self.shuffle_permille and len(queue) > 1 and self.choices.chance(self.shuffle_permille):
            self._shuffle()
        for _ in range(len(queue)):
            handle = queue.popleft()
            if handle._cancelled:
                continue
            owner = handle.owner
            if owner is None:
                handle.run()
            elif owner.is_alive:
                if owner.is_paused:
                    owner.held.append(handle)
                else:
                    handle.run()

    def _jump(self) -> None:
        """To the next timer that anybody is there for."""
        timers = self._timers
        while timers:
            when_ns, _, handle = timers[0]
            if handle.cancelled():
                heappop(timers)
                self._cancelled_timers -= 1
                continue
            owner = handle.owner
            if owner is not None and not owner.is_alive:
                heappop(timers)
                continue
            if when_ns - TURN_NS > self.now_ns:
                self.now_ns = when_ns - TURN_NS
                self._turns_jumped = self.turns
            return
        raise DeadlockError(self._give_up())

    def _give_up(self) -> tuple[str, ...]:
        waiting = self.waiting()
        self.has_given_up = True
        for owner in self.owners:
            self.kill(owner)
        self.bury()
        return waiting

    def _shuffle(self) -> None:
        queue = self._queue
        left = [*queue]
        queue.clear()
        while len(left) > 1:
            queue.append(left.pop(self.choices.choose(len(left))))
        queue += left

    # --- tasks and their owners -------------------------------------------------------------------

    def create_task(
        self,
        coro: Generator[object, None, T] | Coroutine[object, object, T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: bool,
    ) -> asyncio.Task[T]:
        """A task of whoever creates it, or of the owner in ``context``."""
        owner = OWNER.get() if context is None else context.get(OWNER)
        task = super().create_task(coro, name=name, context=context, **options)  # pyright: ignore[reportUnknownMemberType,reportCallIssue,reportArgumentType,reportUnknownVariableType] - typeshed does not know `eager_start`
        tasks = self._tasks if owner is None else owner.tasks
        tasks.append(cast("AnyTask", task))
        if len(tasks) > 64 and len(tasks) > self._pruned:
            tasks[:] = [one for one in tasks if not one.done()]
            self._pruned = 2 * len(tasks) + 64
        return task

    def pause(self, owner: Owner) -> None:
        """From now on nothing of it runs, until :meth:`resume`. Idempotent."""
        owner.is_paused = True

    def resume(self, owner: Owner) -> None:
        """Everything that became ready meanwhile runs now, in that order. Idempotent."""
        owner.is_paused = False
        held, owner.held = owner.held, []
        self._queue += held

    def kill(self, owner: Owner) -> None:
        """Nothing of it runs any more, for ever. Idempotent."""
        owner.is_alive = False
        owner.held.clear()

    def waiting(self) -> tuple[str, ...]:
        """Every task that is not done, and where it waits."""
        found = [_told(task) for task in self._tasks if not task.done()]
        for owner in self.owners:
            if owner.is_alive:
                state = " (paused)" if owner.is_paused else ""
                found += [
                    f"{owner.name}{state}: {_told(task)}" for task in owner.tasks if not task.done()
                ]
        return tuple(found)

    def own(self, owner: Owner) -> None:
        """Have the loop know of an owner, whose callbacks it then pauses and kills."""
        self.owners.append(owner)

    def bury(self) -> None:
        """Take the tasks of killed owners apart, at the very end.

        Their coroutines have to be ended some time, and that runs their ``finally`` blocks: now
        nobody is left who could see an effect of that.
        """
        level = logging.root.manager.disable
        logging.disable()  # what the dead have to say
        try:
            for owner in self.owners:
                if owner.is_alive:
                    continue
                context = copy_context()
                context.run(OWNER.set, owner)  # what they still set going does not run
                for task in owner.tasks:
                    if not task.done():
                        context.run(_take_apart, self, task)
                owner.tasks.clear()
        finally:
            logging.disable(level)

    def _asyncgen_firstiter_hook(self, agen: AnyGenerator) -> None:
        # By its number, which is another's once it is gone: weak references end before finalizers.
        self._generators[id(agen)] = copy_context()
        if OWNER.get() is None:
            # To be closed with the loop; those of a process end with the process.
            super()._asyncgen_firstiter_hook(agen)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - asyncio's, untyped

    def _asyncgen_finalizer_hook(self, agen: AnyGenerator) -> None:
        # Whoever happens to run now, it is the owner's to close; nobody's, if that is dead.
        context = self._generators.pop(id(agen))
        owner = context.get(OWNER)
        if not self.is_closed() and (owner is None or owner.is_alive):
            closing = cast("Coroutine[object, object, None]", agen.aclose())
            self.call_soon(self._close_generator, closing, context=context)

    def _close_generator(self, closing: Coroutine[object, object, None]) -> None:
        self.create_task(closing, name="closes a generator that nobody iterates over any more")

    # --- what there is not ------------------------------------------------------------------------

    def run_in_executor(self, executor: object, func: object, *args: object) -> Never:
        """Raises UsageError: a thread would run in its own time."""
        raise UsageError("no threads in virtual time: give work to a worker of the runtime")

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _ns(seconds: float) -> int:
    return round(min(seconds, _NEVER_NS / 1e9) * 1e9)


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, Dead):
        return
    cause = "" if error is None else f": {type(error).__name__}: {error}"
    cast("VirtualLoop", loop).complaints.append(f"{context.get('message')}{cause}")


def _told(task: AnyTask) -> str:
    """The task, and where it waits: the innermost line that is not asyncio's or anyio's."""
    awaited: object = task.get_coro()
    where = ""
    while awaited is not None:
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if code is not None and frame is not None:
            folder, _, file = code.co_filename.rpartition("/")
            if not where or not ("/anyio" in folder or "/asyncio" in folder):
                where = f"{code.co_qualname} ({file}:{frame.f_lineno})"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return f"{task.get_name()} in {where or 'its end'}"


_THROWS_MAX: Final = 100


def _take_apart(loop: VirtualLoop, task: AnyTask) -> None:
    task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue] - as asyncio.gather does
    coroutine = cast("Coroutine[object, object, object]", task.get_coro())
    for _ in range(_THROWS_MAX):
        try:
            if getcoroutinestate(coroutine) == CORO_CREATED:
                coroutine.send(None)  # what it wraps must begin before it can end
            coroutine.throw(Dead())
        except StopIteration:
            break
        except BaseException as error:
            # An end is an end, whatever it complains about: its world is gone.
            if not isinstance(error, Dead):
                loop.farewells += 1
            break
    asyncio.tasks._unregister_task(task)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType] - meant for loops of others


def virtual_loop() -> VirtualLoop:
    """The running loop. Raises UsageError if it is no virtual one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise UsageError("this belongs into virtual time: run it with run_virtual()")
    return loop


def run_virtual(
    main: Callable[[], Awaitable[T]],
    choices: Choices | None = None,
    *,
    shuffle_permille: int = 0,
) -> T:
    """Run a coroutine function in virtual time, and return its result.

    Without ``choices`` everything happens in order. ``shuffle_permille`` of the turns of the loop
    run what is ready in another order.

    Raises what ``main`` raises; DeadlockError if everybody waits and no timer is set; LeftoverError
    if a task or a thread is left at the end, or a failure that nobody heard of.
    """
    made: list[VirtualLoop] = []
    threads = frozenset(threading.enumerate())

    def factory() -> VirtualLoop:
        loop = VirtualLoop(choices or ReplayedChoices(()), shuffle_permille=shuffle_permille)
        made.append(loop)
        return loop

    async def watched() -> T:
        loop = made[0]
        try:
            result = await main()
        finally:
            loop.bury()
        _check_nothing_left(loop)
        return result

    result = anyio.run(
        watched, backend="asyncio", backend_options={"debug": False, "loop_factory": factory}
    )
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    if left:
        raise LeftoverError(f"threads are left: {', '.join(left)}; give work to simulated workers")
    return result


def _check_nothing_left(loop: VirtualLoop) -> None:
    me = asyncio.current_task()
    loop._tasks[:] = [task for task in loop._tasks if task is not me]  # pyright: ignore[reportPrivateUsage] - this module's own
    left = loop.waiting()
    if left:
        raise LeftoverError("tasks are left: " + "; ".join(left))
    if loop.complaints:
        raise LeftoverError("nobody heard of this: " + "; ".join(loop.complaints))
