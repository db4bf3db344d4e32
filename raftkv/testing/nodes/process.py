"""One member as a simulated process: it runs, stands still, is killed, and is started again."""

from __future__ import annotations

from asyncio import Future, Task
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from typing import Generic, TypeVar

from attrs import frozen

from raftkv.core import Input, Ready, State
from raftkv.errors import RemovedError
from raftkv.handle import Node
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import make_waker
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.loop import OWNER, Owner, VirtualLoop
from raftkv.testing.nodes.runtime import (
    CrashedError,
    Pace,
    Promises,
    SimClock,
    SimEnvironment,
    SimRng,
    SimWorkers,
)

R = TypeVar("R")

StepHook = Callable[[str, State, Input, State], None]
"""Name of the node, its State before, the input, its State after."""
ReadyHook = Callable[[str, State, Ready, State], None]
"""Name of the node, its State before, the work that was taken from it, its State after."""
StartHook = Callable[[str, State], None]
"""Name of the node, the State that it begins with."""


class Looker:
    """Counts the steps of all nodes, and lets hooks see them. A hook that raises stops the node."""

    __slots__ = ("on_ready", "on_start", "on_step", "states", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.states: dict[str, State] = {}
        """The newest State of each node that was ever started, by name."""
        self.on_step: list[StepHook] = []
        self.on_ready: list[ReadyHook] = []
        self.on_start: list[StartHook] = []

    def at(self, name: str) -> NodeLooker:
        """For the node of that name."""
        return NodeLooker(name, self)


class NodeLooker:
    """The Observer port for one node."""

    __slots__ = ("_all", "_name")

    def __init__(self, name: str, looker: Looker) -> None:
        self._name = name
        self._all = looker

    def started(self, state: State) -> None:
        """The core begins here."""
        self._all.states[self._name] = state
        for hook in self._all.on_start:
            hook(self._name, state)

    def stepped(self, before: State, given: Input, after: State) -> None:
        """An input was stepped."""
        looker = self._all
        looker.steps += 1
        looker.states[self._name] = after
        for hook in looker.on_step:
            hook(self._name, before, given, after)

    def drained(self, before: State, todo: Ready, after: State) -> None:
        """Work was taken."""
        looker = self._all
        looker.states[self._name] = after
        for hook in looker.on_ready:
            hook(self._name, before, todo, after)


@frozen(kw_only=True)
class Host:
    """The machine that a process runs on: it outlives the process."""

    name: str
    loop: VirtualLoop
    choices: Choices
    clock: SimClock
    pace: Pace
    looker: Looker
    buggify_permille: int = 0


class Process(Generic[R]):
    """One life of a member. Its runtime is all that its node knows of the world."""

    def __init__(self, host: Host, pid: int) -> None:
        self.host = host
        self.pid = pid
        self.owner = Owner(host.name)
        self.node: Node[R] | None = None
        self.failure: BaseException | None = None
        """Why it ended by itself, if not in order."""
        self.is_crashed = False
        self.was_open = False
        """Whether its opening succeeded."""
        self._task: Task[None] | None = None
        self._on_end: Callable[[str, BaseException | None], None] | None = None
        loop, choices = host.loop, host.choices
        loop.own(self.owner)
        self._loop = loop
        self._context: Context = copy_context()
        self._context.run(OWNER.set, self.owner)
        self._paused_ns = 0
        self._asleep = False
        self._stop: Future[None] = loop.create_future()
        self._settled: Future[None] = loop.create_future()
        self._ended: Future[None] = loop.create_future()
        self.rng = SimRng(choices.choose(2**32), host.name, pid)
        self.workers = SimWorkers(loop, self._context, choices, host.pace)
        self._promises = Promises(self.owner)
        self.runtime = Runtime(
            clock=host.clock,
            rng=self.rng,
            workers=self.workers,
            environment=SimEnvironment(loop, pid),
            waker=make_waker,
            promise=self._promises.make,
            buggify=self._buggify,
            observer=host.looker.at(host.name),
        )

    @property
    def is_running(self) -> bool:
        """Whether its node is open, paused or not."""
        return self.node is not None

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self.owner.is_paused

    @property
    def has_ended(self) -> bool:
        """Whether it is over, in order or not."""
        return self._ended.done()

    def begin(
        self,
        open_it: Callable[[], AbstractAsyncContextManager[Node[R]]],
        on_end: Callable[[str, BaseException | None], None],
    ) -> None:
        """Run a node from its opening to its end; ``open_it`` is called in the process.

        ``on_end`` hears the member's name and why it ended, None if in order; not after a crash.
        """
        self._on_end = on_end
        self._task = self._loop.create_task(
            self._live(open_it), name=f"raftkv member {self.host.name}", context=self._context
        )
        # Cancelled before it began, it ends without a step.
        self._task.add_done_callback(lambda _task: self._end())

    async def settled(self) -> None:
        """Wait until it is open. Raises why it did not open."""
        await _until(self._settled)
        if self.node is None and self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Close the node in order, and wait for its end."""
        self.stop_soon()
        await self.ended()

    def stop_soon(self) -> None:
        """Begin to close the node in order."""
        if not self._stop.done():
            self._stop.set_result(None)

    async def ended(self) -> None:
        """Wait for its end, whatever it be."""
        await _until(self._ended)

    def cancel(self) -> None:
        """Cancel the task that opens the node and waits for its end, as an application may do."""
        if self._task is not None:
            self._task.cancel()

    def kill(self) -> None:
        """Nothing of it runs from now on. Who waits for it outside is told."""
        if self._ended.done():
            return
        self.is_crashed = True
        self.node = None
        self.failure = CrashedError(f"the process {self.host.name} was killed")
        self._loop.kill(self.owner)
        self._promises.break_all()
        self._end()

    def pause(self, *, asleep: bool = False) -> None:
        """It stands still, as after SIGSTOP. ``asleep``: its machine does, too."""
        if not self.owner.is_paused:
            self._asleep = asleep
            self._paused_ns = self._loop.now_ns
            self._loop.pause(self.owner)

    def resume(self) -> None:
        """It goes on with all that became ready meanwhile."""
        if self.owner.is_paused:
            if self._asleep:
                self.host.clock.sleep(self._loop.now_ns - self._paused_ns)
            self._loop.resume(self.owner)

    async def _live(self, open_it: Callable[[], AbstractAsyncContextManager[Node[R]]]) -> None:
        try:
            async with open_it() as node:
                self.node = node
                self.was_open = True
                if not self._settled.done():
                    self._settled.set_result(None)
                await self._stop
        except RemovedError as error:
            self.failure = None if self._settled.done() else error
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.node = None
            self._end()
            if self._on_end is not None and self.owner.is_alive:
                self._on_end(self.host.name, self.failure)

    def _end(self) -> None:
        for future in (self._settled, self._ended):
            if not future.done():
                future.set_result(None)

    def _buggify(self, _point: str) -> bool:
        return self.host.choices.chance(self.host.buggify_permille)


async def _until(future: Future[None]) -> None:
    """Wait for it beside others: who is cancelled does not cancel it."""
    waiter: Future[None] = future.get_loop().create_future()

    def tell(_done: Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(tell)
    await waiter
