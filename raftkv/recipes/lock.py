"""A lock that one client of the cluster holds at a time, and what that can mean.

No lock over a network can stop a holder that does not know yet that it lost it: a process that was
paused, or cut off, may act for a moment while the next one holds the lock already. Two things help.
:class:`Held` cancels the body as soon as its lease can no longer be proven alive by the local
clock. And its ``revision`` is a *fencing token*: it grows from each holder to the next, so a
resource that remembers the greatest token it has seen, and refuses smaller ones, is safe whatever
is paused. Writes to the store itself are fenced by ``held.is_mine`` as a condition::

    await kv.txn(when=[held.is_mine], then=[op.put("report", b"done")])

Without either, a lock is an optimisation: it saves work that would be done twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from attrs import frozen

from raftkv.kv.client import Kv, when
from raftkv.kv.requests import Compare
from raftkv.recipes.line import head_of_line, name_of, standing


@frozen(slots=True)
class Held:
    """A lock while it is held. ``revision`` is the fencing token, ``lease`` the id of the lease."""

    key: bytes
    revision: int
    lease: int

    @property
    def is_mine(self) -> Compare:
        """A condition for transactions: the lock is still held by this holder."""
        return when.create_revision(self.key) == self.revision


class Lock:
    """A lock of the cluster: first come, first served.

    ``async with Lock(kv, "jobs/nightly", ttl=10).held() as held:`` waits for its turn, holds it in
    the body, and gives it back at the end. ``ttl``, in seconds, is how long a holder that died
    keeps others waiting, and how long a holder that is cut off goes on at most. An object may be
    used by many tasks at once: each use stands in line by itself, and a task that asks for a lock
    that it holds waits for itself.
    """

    def __init__(self, kv: Kv, name: str | bytes, *, ttl: int = 10) -> None:
        self._kv = kv
        self._line = name_of("the name of a lock", name)
        self._ttl = ttl

    @asynccontextmanager
    async def held(self, *, timeout: float | None = None) -> AsyncGenerator[Held]:
        """Wait for the lock, and hold it in the body.

        ``timeout``, in seconds, is for everything up to the body: the two writes that it takes to
        stand in line, and the wait. With ``timeout=0`` it is taken if it is free, and not waited
        for; to find that out the requests have 5 seconds. None waits in line for ever; to come to
        stand there each of the two writes has 5 seconds.

        Raises DeadlineError if it was not had in time, also if the cluster does not answer: a place
        in line that is left behind then goes with its lease, after ``ttl`` seconds at most. Raises
        LeaseNotFoundError if the lease ends while it waits, and out of the body if the lock was
        lost while held (the body is cancelled).

        At the end, and after a wait in vain, the lock is given back. That is waited for as
        ``kv.lease`` does at its end, two election timeouts at most; after a deadline that has
        passed, a quarter of one. Who is cancelled while waiting leaves the line at once.
        """
        failed = f"the lock {self._line[:-1]!r} was not taken"
        async with standing(
            self._kv, self._line, b"", ttl=self._ttl, timeout=timeout, failed=failed
        ) as place:
            yield Held(place.key, place.revision, place.lease)

    async def holder(self) -> bytes | None:
        """The key of who holds it now, for a human to look at; None if it is free."""
        first = await head_of_line(self._kv, self._line)
        return None if first is None else first.key
