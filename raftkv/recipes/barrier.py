"""Barriers: one that somebody holds down, and one that opens when enough have come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from raftkv.errors import (
    CompactedError,
    DeadlineError,
    InvalidArgumentError,
    OutcomeUnknownError,
)
from raftkv.kv.client import Kv, op, when
from raftkv.recipes.line import gone, name_of


class Barrier:
    """Whoever waits goes on when nobody holds the barrier: it exists, or it does not."""

    def __init__(self, kv: Kv, key: str | bytes) -> None:
        self._kv = kv
        self._key = key

    async def hold(self) -> bool:
        """Put the barrier down; False if it was down already."""
        done = await self._kv.txn(when=[when.absent(self._key)], then=[op.put(self._key, b"")])
        return done.succeeded

    async def release(self) -> bool:
        """Lift it, and let everybody go who waits; False if it was not down."""
        return bool((await self._kv.delete(self._key)).deleted)

    async def wait(self) -> None:
        """Return once it is not down; at once if it is not."""
        while True:
            try:
                seen = await self._kv.get(self._key)
                if seen is None:
                    return
                await gone(self._kv, seen)
            except (DeadlineError, CompactedError):
                continue
            else:
                return


class Gathering:
    """A barrier for a number of parties (ZooKeeper's double barrier).

    ``async with Gathering(kv, "start", 3).joined():`` enters the body once three have come, and
    leaves it once all of them have left theirs. A party that dies is as one that left; ``ttl``, in
    seconds, is how long that takes.
    """

    def __init__(self, kv: Kv, name: str | bytes, parties: int, *, ttl: int = 10) -> None:
        if type(parties) is not int or parties < 1:
            raise InvalidArgumentError(f"a gathering has 1 or more parties, not {parties!r}")
        self._kv = kv
        self._prefix = name_of("the name of a gathering", name)
        self._line = self._prefix + b"in/"
        self._open = self._prefix + b"open"
        self._parties = parties
        self._ttl = ttl

    @asynccontextmanager
    async def joined(self) -> AsyncGenerator[None]:
        """Wait for the others, run the body, and wait for them again.

        Coming takes two writes, each with a deadline of 5 seconds, after which it raises
        DeadlineError or OutcomeUnknownError; for the others it waits for ever.
        LeaseNotFoundError comes out of the body if the others take this party for dead by now.
        """
        async with self._kv.lease(self._ttl) as lease:
            key = self._line + b"%016x" % lease.id
            await self._come(key, lease.id)
            opened = await self._all_came()
            yield
            await self._leave(key)
            await self._all_left(opened)

    async def _come(self, key: bytes, lease: int) -> None:
        """The first to come shuts the door that a gathering of before may have left open."""
        come = op.put(key, b"", lease=lease)
        await self._kv.txn(
            when=[when.version(prefix=self._line) == 0],
            then=[op.delete(self._open), come],
            otherwise=[come],
        )

    async def _leave(self, key: bytes) -> None:
        """The last to leave shuts the door, in the same step, so that nobody comes in between."""
        mine = await self._kv.get(key)
        revision = mine.create_revision if mine else 0
        await self._kv.txn(
            when=[when.create_revision(prefix=self._line) == revision],
            then=[op.delete(key), op.delete(self._open)],
            otherwise=[op.delete(key)],
        )

    async def _all_came(self) -> int:
        """The revision that opened the door: who completes the number opens it for all."""
        while True:
            try:
                found = await self._kv.range(prefix=self._line, count_only=True)
                if found.count >= self._parties:
                    await self._kv.txn(
                        when=[when.absent(self._open)], then=[op.put(self._open, b"")]
                    )
                door = await self._kv.get(self._open)
                if door is not None:
                    return door.create_revision
                await self._change(found.revision + 1)
            except (DeadlineError, OutcomeUnknownError, CompactedError):
                continue  # a door that was perhaps opened is looked at again

    async def _all_left(self, opened: int) -> None:
        while True:
            try:
                found = await self._kv.range(prefix=self._line, count_only=True)
                door = await self._kv.get(self._open)
                if not found.count or door is None or door.create_revision != opened:
                    return
                await self._change(found.revision + 1)
            except (DeadlineError, CompactedError):
                continue

    async def _change(self, revision: int) -> None:
        async with self._kv.watch(prefix=self._prefix, start=revision) as changes:
            async for _ in changes:
                return
