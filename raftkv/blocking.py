"""The same names from ordinary threads, without await.

``open_node`` starts a thread with an event loop of its own, and every call hops over and waits
there, some 100 us; any number of threads may call at once. The node does not notice what its
callers do: they may block as they like. An interrupt (Ctrl-C) ends the wait of the main thread, and
leaving the context closes the node in order. It waits for no other thread: what those are amid then
raises ClosedError, or OutcomeUnknownError for a write that had left.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from os import PathLike
from typing import Generic, TypeVar, overload

from raftkv.blocking_recipes import Barrier, Counter, Election, Gathering, Leadership, Queue
from raftkv.handle import Node as AsyncNode
from raftkv.kv import KvResult
from raftkv.kv.client.leases import Lease
from raftkv.kv.client.upkeep import KvStatus
from raftkv.kv.settings import KvSettings
from raftkv.machine import DurableStateMachine, Machine, StateMachine
from raftkv.node.members import Members as AsyncMembers
from raftkv.node.settings import Settings
from raftkv.node.status import Event, Events, MemberStatus, Status
from raftkv.open import open_node as open_async
from raftkv.recipes import Held
from raftkv.recipes.store import Kv as AsyncKv
from raftkv.runtime.hosting import HostThread, Portal
from raftkv.transport.tcp_tls import Tls
from raftkv.twins import Twin, entered, without_await
from raftkv.watches import BlockingWatch

__all__ = [
    "Barrier",
    "BlockingWatch",
    "Counter",
    "Election",
    "Gathering",
    "Kv",
    "Leadership",
    "Members",
    "Node",
    "Queue",
    "open_node",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Kv(Twin[AsyncKv]):
    """``node.kv`` without await; every method as its namesake of the async ``Kv``."""

    put = without_await(AsyncKv.put)
    delete = without_await(AsyncKv.delete)
    get = without_await(AsyncKv.get)
    range = without_await(AsyncKv.range)
    count = without_await(AsyncKv.count)
    txn = without_await(AsyncKv.txn)
    grant = without_await(AsyncKv.grant)
    revoke = without_await(AsyncKv.revoke)
    keep_alive = without_await(AsyncKv.keep_alive)
    time_to_live = without_await(AsyncKv.time_to_live)
    leases = without_await(AsyncKv.leases)
    compact = without_await(AsyncKv.compact)
    hash = without_await(AsyncKv.hash)
    alarms = without_await(AsyncKv.alarms)
    disarm = without_await(AsyncKv.disarm)

    def status(self) -> KvStatus:
        """Where this member's store stands now, whatever the others have."""
        return self._portal.look(self._inner.status)

    def lease(self, ttl: int = 10, *, timeout: float = 5.0) -> AbstractContextManager[Lease]:
        """Hold a lease while the context is open: it is renewed in the node's thread meanwhile.

        A thread cannot be cancelled: if the lease is lost, the body goes on, and LeaseNotFoundError
        is raised when it is left. ``lease.seconds_left`` tells how long it surely lives.
        """
        return entered(self._portal, lambda: self._inner.lease(ttl, timeout=timeout))

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
    ) -> BlockingWatch:
        """Watch ``key``, or the keys from it up to ``stop``, or with ``prefix``; all without any.

        ``with kv.watch(...) as changes: for change in changes: ...``; arguments and guarantees are
        those of the async ``watch``.
        """
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
        return BlockingWatch(self._portal, watch)

    def lock(
        self, name: str | bytes, *, ttl: int = 10, timeout: float | None = None
    ) -> AbstractContextManager[Held]:
        """Wait for a lock of the cluster and hold it in the body."""
        return entered(self._portal, lambda: self._inner.lock(name, ttl=ttl, timeout=timeout))

    def election(self, name: str | bytes, *, ttl: int = 10) -> Election:
        """One leader among those who campaign under ``name``."""
        return Election(self._portal, self._inner.election(name, ttl=ttl))

    def counter(self, key: str | bytes) -> Counter:
        """A number that many add to."""
        return Counter(self._portal, self._inner.counter(key))

    def barrier(self, key: str | bytes) -> Barrier:
        """A barrier that is there, or is not."""
        return Barrier(self._portal, self._inner.barrier(key))

    def gathering(self, name: str | bytes, parties: int, *, ttl: int = 10) -> Gathering:
        """A barrier that opens once so many have come."""
        return Gathering(self._portal, self._inner.gathering(name, parties, ttl=ttl))

    def queue(self, name: str | bytes, *, ttl: int = 10) -> Queue:
        """A first-in, first-out queue."""
        return Queue(self._portal, self._inner.queue(name, ttl=ttl))


class Members(Twin[AsyncMembers]):
    """``node.members`` without await; every method as its namesake of the async ``Members``."""

    def list(self) -> tuple[MemberStatus, ...]:
        """All members as far as this one knows, ascending by name."""
        return self._portal.look(self._inner.list)

    add = without_await(AsyncMembers.add)
    promote = without_await(AsyncMembers.promote)
    remove = without_await(AsyncMembers.remove)
    replace = without_await(AsyncMembers.replace)
    move = without_await(AsyncMembers.move)
    promoted = without_await(AsyncMembers.promoted)


class Node(Generic[R_co]):
    """A running member, for threads; every method as its namesake of the async ``Node``."""

    def __init__(self, portal: Portal, inner: AsyncNode[R_co]) -> None:
        self._portal = portal
        self._inner = inner

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
        """The key-value store. Raises UsageError if the node runs a machine of your own."""
        return Kv(self._portal, self._inner.kv)

    @property
    def members(self) -> Members:
        """Who is in the cluster, and changing that."""
        return Members(self._portal, self._inner.members)

    def propose(self, command: bytes, *, timeout: float = 5.0) -> R_co:
        """Replicate a command; its result once it is committed and applied here."""
        return self._portal.call(partial(self._inner.propose, command, timeout=timeout))

    def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        """Wait until this member holds everything acknowledged before the call."""
        return self._portal.look(partial(self._inner.read, lease=lease, timeout=timeout))

    def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until a leader is known and this member has caught up with it."""
        self._portal.look(partial(self._inner.ready, timeout=timeout))

    def transfer_leadership(self, target: str | int, *, timeout: float = 5.0) -> None:
        """Hand leadership to the member of that name or id."""
        self._portal.call(partial(self._inner.transfer_leadership, target, timeout=timeout))

    def status(self) -> Status:
        """How things stand, as far as this member knows."""
        return self._portal.look(self._inner.status)

    def events(self) -> Iterator[Event]:
        """The changes of this member from now on; ends when the node does."""
        events = self._portal.look(self._inner.events)
        while (event := self._portal.look(_next, events)) is not None:
            yield event

    def close(self) -> None:
        """Hand over the leadership if we have it, stop, and release the data directory."""
        self._portal.look(self._inner.close)


async def _next(events: Events) -> Event | None:
    return await anext(events, None)


@overload
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
) -> AbstractContextManager[Node[KvResult]]: ...
@overload
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: StateMachine[R] | DurableStateMachine[R],
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
) -> AbstractContextManager[Node[R]]: ...
@contextmanager
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: Machine[R] | None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
) -> Generator[Node[KvResult | R]]:
    """Run one member of a cluster while the context is open, on a loop in a thread of its own.

    Arguments, errors and guarantees are those of :func:`raftkv.open_node`; the machine runs in the
    node's thread. A node that stops by itself lets calls raise NodeStoppedError, and leaving the
    context too.
    """
    opening = open_async(
        data_dir,
        name=name,
        cluster=cluster,
        join=join,
        listen=listen,
        machine=machine,  # pyright: ignore[reportArgumentType] - either overload's
        token=token,
        tls=tls,
        insecure=insecure,
        settings=settings,
        kv=kv,
    )
    with HostThread(name) as thread, thread.entered(opening) as node:
        yield Node(thread.portal, node)
