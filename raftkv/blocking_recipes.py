"""Locks, elections, counters, barriers and queues from ordinary threads, without await.

``node.kv`` of :mod:`raftkv.blocking` makes them. Every method is as its namesake in
:mod:`raftkv.recipes`, with one difference that threads cannot help: what is lost while the body of
a ``with`` runs cannot cut the body short. The error comes when it is left; a body that must stop
earlier asks ``kv.txn(when=[held.is_mine], ...)`` with what it writes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager

from raftkv.kv.model import KeyValue
from raftkv.kv.requests import Compare
from raftkv.recipes import Barrier as AsyncBarrier
from raftkv.recipes import Counter as AsyncCounter
from raftkv.recipes import Election as AsyncElection
from raftkv.recipes import Gathering as AsyncGathering
from raftkv.recipes import Held, Item
from raftkv.recipes import Leadership as AsyncLeadership
from raftkv.recipes import Lock as AsyncLock
from raftkv.recipes import Queue as AsyncQueue
from raftkv.twins import Twin, entered, without_await

__all__ = ["Barrier", "Counter", "Election", "Gathering", "Leadership", "Lock", "Queue"]


class Lock(Twin[AsyncLock]):
    """A lock of the cluster, for threads."""

    def held(self, *, timeout: float | None = None) -> AbstractContextManager[Held]:
        """Wait for the lock, for ``timeout`` seconds at most (None: for ever), and hold it."""
        return entered(self._portal, lambda: self._inner.held(timeout=timeout))

    holder = without_await(AsyncLock.holder)


class Leadership(Twin[AsyncLeadership]):
    """Being elected, for threads."""

    @property
    def key(self) -> bytes:
        """The candidate's key."""
        return self._inner.key

    @property
    def revision(self) -> int:
        """The fencing token."""
        return self._inner.revision

    @property
    def lease(self) -> int:
        """The id of the candidate's lease."""
        return self._inner.lease

    @property
    def is_mine(self) -> Compare:
        """A condition for transactions: this candidate leads still."""
        return self._inner.is_mine

    proclaim = without_await(AsyncLeadership.proclaim)


class Election(Twin[AsyncElection]):
    """An election, for threads."""

    @contextmanager
    def campaign(
        self, value: str | bytes = b"", *, timeout: float | None = None
    ) -> Generator[Leadership]:
        """Stand for election with ``value``, which observers see; lead in the body."""
        standing = entered(self._portal, lambda: self._inner.campaign(value, timeout=timeout))
        with standing as leadership:
            yield Leadership(self._portal, leadership)

    leader = without_await(AsyncElection.leader)

    @contextmanager
    def observe(self) -> Generator[Iterator[KeyValue]]:
        """Every leader from now on, the present one first, and whatever each proclaims."""
        with entered(self._portal, self._inner.observe) as leaders:

            async def following() -> KeyValue | None:
                return await anext(leaders, None)

            yield iter(lambda: self._portal.look(following), None)


class Counter(Twin[AsyncCounter]):
    """A number that many add to, for threads."""

    get = without_await(AsyncCounter.get)
    add = without_await(AsyncCounter.add)


class Barrier(Twin[AsyncBarrier]):
    """A barrier that somebody holds down, for threads."""

    hold = without_await(AsyncBarrier.hold)
    release = without_await(AsyncBarrier.release)
    wait = without_await(AsyncBarrier.wait)


class Gathering(Twin[AsyncGathering]):
    """A barrier for a number of parties, for threads."""

    def joined(self) -> AbstractContextManager[None]:
        """Wait for the others, run the body, and wait for them again."""
        return entered(self._portal, self._inner.joined)


class Queue(Twin[AsyncQueue]):
    """A first-in, first-out queue, for threads."""

    put = without_await(AsyncQueue.put)
    get = without_await(AsyncQueue.get)
    get_nowait = without_await(AsyncQueue.get_nowait)
    count = without_await(AsyncQueue.count)

    def taken(self) -> AbstractContextManager[Item]:
        """Take the first item for the length of the body, and wait for one if there is none."""
        return entered(self._portal, self._inner.taken)
