"""Electing one of many: candidates stand in line, the first leads until it resigns or dies.

What :mod:`~raftkv.recipes.lock` says about pauses holds here, too: ``leadership.revision`` is a
fencing token, and ``leadership.is_mine`` a condition that makes a write void once another leads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from raftkv.errors import CompactedError, DeadlineError, LeaseNotFoundError
from raftkv.kv.client import Kv, op, when
from raftkv.kv.model import KeyValue
from raftkv.kv.requests import Compare
from raftkv.recipes.line import head_of_line, name_of, standing


class Leadership:
    """Being elected. ``revision`` is the fencing token, ``lease`` the id of the lease."""

    __slots__ = ("_kv", "key", "lease", "revision")

    def __init__(self, kv: Kv, key: bytes, revision: int, lease: int) -> None:
        self._kv = kv
        self.key = key
        self.revision = revision
        self.lease = lease

    @property
    def is_mine(self) -> Compare:
        """A condition for transactions: this candidate leads still."""
        return when.create_revision(self.key) == self.revision

    async def proclaim(self, value: str | bytes, *, timeout: float = 5.0) -> None:
        """Tell observers another value without a new election.

        Raises LeaseNotFoundError if the leadership was lost.
        """
        done = await self._kv.txn(
            when=[self.is_mine],
            then=[op.put(self.key, value, lease=self.lease)],
            timeout=timeout,
        )
        if not done.succeeded:
            raise LeaseNotFoundError(f"the leadership of {self.key!r} was lost")


class Election:
    """One leader among those who campaign under the same name.

    ``async with Election(kv, "scheduler", ttl=10).campaign("host-7") as leadership:`` waits until
    it is elected, leads in the body, and resigns at the end. ``ttl``, in seconds, is how long a
    leader that died is still taken for one.
    """

    def __init__(self, kv: Kv, name: str | bytes, *, ttl: int = 10) -> None:
        self._kv = kv
        self._line = name_of("the name of an election", name)
        self._ttl = ttl

    @asynccontextmanager
    async def campaign(
        self, value: str | bytes = b"", *, timeout: float | None = None
    ) -> AsyncGenerator[Leadership]:
        """Stand for election with ``value``, which observers see; lead in the body.

        ``timeout``, in seconds, is for everything up to the body, as that of
        :meth:`raftkv.recipes.Lock.held`: None waits for ever, 0 leads only if nobody else stands.
        Raises DeadlineError if it was not elected in time, or the cluster does not answer.
        LeaseNotFoundError comes out of the body if the leadership was lost (the body is cancelled).
        Who is cancelled while waiting stands no longer.
        """
        said = value.encode() if isinstance(value, str) else bytes(value)
        failed = f"the election {self._line[:-1]!r} was not won"
        async with standing(
            self._kv, self._line, said, ttl=self._ttl, timeout=timeout, failed=failed
        ) as place:
            yield Leadership(self._kv, place.key, place.revision, place.lease)

    async def leader(self) -> KeyValue | None:
        """Who leads now: its ``value`` is what it proclaimed last; None if nobody does."""
        return await head_of_line(self._kv, self._line)

    @asynccontextmanager
    async def observe(self) -> AsyncGenerator[AsyncGenerator[KeyValue]]:
        """Every leader from now on, the present one first, and whatever each proclaims.

        One that led for less than it takes to look may be passed over; the last one never is.
        """
        leaders = self._leaders()
        try:
            yield leaders
        finally:
            await leaders.aclose()

    async def _leaders(self) -> AsyncGenerator[KeyValue]:
        told: KeyValue | None = None
        while True:
            try:
                found = await self._kv.range(prefix=self._line, keys_only=True)
                first = await head_of_line(self._kv, self._line)
                if first is not None and first != told:
                    told = first
                    yield first
                # From the older of the two reads on: what happened between them is seen again.
                await self._change(found.revision + 1)
            except (DeadlineError, CompactedError):
                continue

    async def _change(self, revision: int) -> None:
        async with self._kv.watch(prefix=self._line, start=revision) as changes:
            async for _ in changes:
                return
