"""``node.kv`` as applications hold it: the store's client, and the recipes that stand on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from raftkv.kv.client import Kv as Client
from raftkv.recipes.barrier import Barrier, Gathering
from raftkv.recipes.counter import Counter
from raftkv.recipes.election import Election
from raftkv.recipes.lock import Held, Lock
from raftkv.recipes.queue import Queue


class Kv(Client):
    """An etcd-like key-value store. Made by ``raftkv.open_node``, as ``node.kv``.

    Keys and values are ``str`` (encoded as UTF-8) or ``bytes``; results are always bytes. A key has
    1 byte to 64 KiB, a request at most 1.5 MiB in all.

    Every call has a deadline, ``timeout`` in seconds. After it writes raise OutcomeUnknownError if
    the command had left, else UnavailableError (surely not done); reads raise DeadlineError.
    Cancelling a write abandons the wait, not the write.

    Reads are linearizable: they show every write acknowledged before they began. ``lease=True``
    trusts the leader's clock instead of asking a majority; ``serializable=True`` asks nobody and
    shows what this member has, perhaps stale, even without a leader.
    """

    __slots__ = ()

    def lock(
        self, name: str | bytes, *, ttl: int = 10, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Held]:
        """Wait for a lock of the cluster and hold it in the body; see :class:`raftkv.recipes.Lock`.

        ``ttl``, in seconds, is how long a dead holder keeps others waiting. Raises DeadlineError if
        it was not had in ``timeout`` seconds, whether it is held or the cluster does not answer.
        None waits for ever, once the cluster answers; 0 does not wait in line, but lets the cluster
        answer.
        """
        return Lock(self, name, ttl=ttl).held(timeout=timeout)

    def election(self, name: str | bytes, *, ttl: int = 10) -> Election:
        """One leader of those who campaign for ``name``; see :class:`raftkv.recipes.Election`."""
        return Election(self, name, ttl=ttl)

    def counter(self, key: str | bytes) -> Counter:
        """A number that many add to."""
        return Counter(self, key)

    def barrier(self, key: str | bytes) -> Barrier:
        """A barrier that is there, or is not."""
        return Barrier(self, key)

    def gathering(self, name: str | bytes, parties: int, *, ttl: int = 10) -> Gathering:
        """A barrier that opens once so many have come."""
        return Gathering(self, name, parties, ttl=ttl)

    def queue(self, name: str | bytes, *, ttl: int = 10) -> Queue:
        """A first-in, first-out queue; see :class:`raftkv.recipes.Queue`."""
        return Queue(self, name, ttl=ttl)
