"""A node on a loop of its own, in a thread of its own, used from another loop.

The host may stall its own loop as it likes: heartbeats go on. Each call hops over and back, some
100 us in all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Generic, Protocol, TypeVar, cast

import anyio

from raftkv.errors import ClosedError
from raftkv.handle import Node
from raftkv.kv.client.upkeep import KvStatus
from raftkv.kv.client.watching import Watch
from raftkv.node.members import Members
from raftkv.node.status import Event, Events, MemberStatus, Status
from raftkv.node.tasks import first_cause
from raftkv.recipes.store import Kv
from raftkv.runtime.base import Clock
from raftkv.runtime.hosting import HostThread
from raftkv.runtime.system import make_promise, poster, system_runtime
from raftkv.twins import CHANGES_NOTHING
from raftkv.watches import HostedWatch

R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class _OverThere(Protocol):
    """What stands here for something in another thread."""

    @property
    def _thread(self) -> HostThread: ...
    @property
    def _inner(self) -> object: ...


def _runs_over_there(kind: type[object]) -> Callable[[type[T]], type[T]]:
    """Have a subclass of ``kind`` pass every coroutine method on to the inner one of its own.

    Names, arguments and docstrings are inherited; so is a method that is added later.
    """

    def complete(stand_in: type[T]) -> type[T]:
        for name in dir(kind):
            method: object = getattr(kind, name)
            if not name.startswith("_") and iscoroutinefunction(method):
                setattr(stand_in, name, _passed_on(method, name))
        return stand_in

    return complete


def _passed_on(
    method: Callable[..., Coroutine[object, object, object]], name: str
) -> Callable[..., Coroutine[object, object, object]]:
    writes = method not in CHANGES_NOTHING

    @wraps(method)
    async def call(self: _OverThere, *args: object, **options: object) -> object:
        thread, inner = self._thread, self._inner  # pyright: ignore[reportPrivateUsage] - a method
        return await thread.run(partial(getattr(inner, name), *args, **options), writes=writes)

    return call


@_runs_over_there(Kv)
class HostedKv(Kv):
    """The key-value store of a node in another thread."""

    def __init__(self, thread: HostThread, inner: Kv) -> None:
        # Not the base's: everything is done by the inner one, over there.
        self._thread = thread
        self._inner = inner

    @property
    def _lease_clock(self) -> Clock:
        # A lease is held where its context is: in the host's loop.
        return system_runtime().clock

    @property
    def _election(self) -> float:
        return self._inner._election

    def watch(
        self,
        key: str | bytes | None = None,
        stop: str | bytes | None = None,
        *,
        prefix: str | bytes | None = None,
        start: int = 0,
        previous: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress_seconds: float | None = None,
        fragment: bool = False,
        serializable: bool = False,
        timeout: float = 5.0,
    ) -> Watch:
        """As :meth:`Kv.watch`."""
        watch = self._inner.watch(
            key,
            stop,
            prefix=prefix,
            start=start,
            previous=previous,
            puts=puts,
            deletes=deletes,
            progress_seconds=progress_seconds,
            fragment=fragment,
            serializable=serializable,
            timeout=timeout,
        )
        return HostedWatch(self._thread, watch)

    def status(self) -> KvStatus:
        """As :meth:`Kv.status`; waits for one turn of the node's loop."""
        return self._thread.portal.look(self._inner.status)


@_runs_over_there(Members)
class HostedMembers(Members):
    """The members as a node in another thread knows them."""

    def __init__(self, thread: HostThread, inner: Members) -> None:
        # Not the base's: everything is done by the inner one, over there.
        self._thread = thread
        self._inner = inner

    def list(self) -> tuple[MemberStatus, ...]:
        """As :meth:`Members.list`; waits for one turn of the node's loop."""
        return self._thread.portal.look(self._inner.list)


class HostedEvents(Events):
    """The changes of a node in another thread."""

    def __init__(self, thread: HostThread, inner: Events) -> None:
        # Not the base's: the queue is over there.
        self._thread = thread
        self._inner = inner

    async def __anext__(self) -> Event:
        """The next event; ends when the node does."""
        event = await self._thread.run(self._next, writes=False)
        if event is None:
            raise StopAsyncIteration
        return event

    async def _next(self) -> Event | None:
        return await anext(self._inner, None)

    def close(self) -> None:
        """Stop listening."""
        self._thread.portal.look(self._inner.close)


class HostedNode(Node[R_co]):
    """The same names as a node's, for the loop of the host."""

    def __init__(self, thread: HostThread, inner: Node[R_co]) -> None:
        # Not the base's: the node and its parts live over there.
        self._thread = thread
        self._inner = inner
        self._closed = False

    def _alive(self) -> HostThread:
        if self._closed:
            raise ClosedError(f"the node {self._inner.name} is closed: open it again")
        return self._thread

    def end(self) -> None:
        """For who opened it: the thread ends."""
        self._closed = True

    @property
    def name(self) -> str:
        """The member's name."""
        return self._inner.name

    @property
    def id(self) -> int:
        """The member's id."""
        return self._inner.id

    @property
    def kv(self) -> Kv:
        """The key-value store."""
        return HostedKv(self._alive(), self._inner.kv)

    @property
    def members(self) -> Members:
        """Who is in the cluster, and changing that."""
        return HostedMembers(self._alive(), self._inner.members)

    def check(self) -> None:
        """As :meth:`Node.check`."""
        self._alive().portal.look(self._inner.check)

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> R_co:
        """As :meth:`Node.propose`."""
        return await self._alive().run(partial(self._inner.propose, command, timeout=timeout))

    async def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        """As :meth:`Node.read`."""
        call = partial(self._inner.read, lease=lease, timeout=timeout)
        return await self._alive().run(call, writes=False)

    async def ready(self, *, timeout: float = 30.0) -> None:
        """As :meth:`Node.ready`."""
        await self._alive().run(partial(self._inner.ready, timeout=timeout), writes=False)

    async def transfer_leadership(self, target: str | int, *, timeout: float = 5.0) -> None:
        """As :meth:`Node.transfer_leadership`."""
        await self._alive().run(partial(self._inner.transfer_leadership, target, timeout=timeout))

    def status(self) -> Status:
        """As :meth:`Node.status`; waits for one turn of the node's loop."""
        return self._alive().portal.look(self._inner.status)

    def events(self) -> Events:
        """As :meth:`Node.events`."""
        thread = self._alive()
        return HostedEvents(thread, thread.portal.look(self._inner.events))

    async def close(self) -> None:
        """As :meth:`Node.close`."""
        if not self._closed:
            await self._thread.run(self._inner.close, writes=False)


@asynccontextmanager
async def hosted(
    name: str, make: Callable[[], AbstractAsyncContextManager[Node[R]]]
) -> AsyncGenerator[Node[R]]:
    """Run what ``make`` opens in a thread of its own while the context is open.

    A node that stops by itself cancels the body and raises NodeStoppedError, as in one's own loop.
    """
    raised: BaseException | None = None
    with HostThread(name) as thread:
        try:
            async with anyio.create_task_group() as tasks:
                life = _Life(thread, make)
                try:
                    # Not by start(): cancelled, that would wait for a task that waits for our end.
                    tasks.start_soon(life.run, name=f"raftkv {name} in its thread")
                    yield await life.opened()
                except BaseException as error:
                    raised = error
                    raise
                finally:
                    life.end()
        except BaseExceptionGroup as group:
            cause = raised if isinstance(raised, Exception) else first_cause(group)
            raise cause from cause.__cause__


class _Life(Generic[R]):
    """One node over there, and its task over here."""

    def __init__(
        self, thread: HostThread, make: Callable[[], AbstractAsyncContextManager[Node[R]]]
    ) -> None:
        self._thread = thread
        self._make = make
        self._opened = make_promise()
        self._post = poster()
        self._stop: anyio.Event | None = None
        self._node: HostedNode[R] | None = None
        self._ending = False

    async def run(self) -> None:
        """From opening to the end; a failure over there is raised here."""
        # Shielded: leaving early would block this loop until the other one has ended.
        with anyio.CancelScope(shield=True):
            await self._thread.run(self._live, writes=False)

    async def opened(self) -> HostedNode[R]:
        """The node, once it is open. Whoever gives up waiting calls :meth:`end`."""
        inner = cast("Node[R]", await self._opened)
        self._node = HostedNode(self._thread, inner)
        return self._node

    async def _live(self) -> None:
        """Over there."""
        async with self._make() as node:
            self._stop = anyio.Event()
            self._post(partial(self._tell, node))
            if not self._ending:
                await self._stop.wait()

    def _tell(self, node: Node[R]) -> None:
        if not self._opened.done():
            self._opened.set_result(node)

    def end(self) -> None:
        """The body is left."""
        self._ending = True
        if self._node is not None:
            self._node.end()
        if self._stop is not None:
            self._thread.portal.start_task_soon(self._stop.set)
