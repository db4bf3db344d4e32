"""A first-in, first-out queue of the cluster.

Items are keys whose names grow, so the first key is the next item. A name is a revision that the
store gave out for it: unique, and greater than that of every item whose ``put`` had returned when
this one began. That is all that *first* can mean among clients: of two that put at the same time
either may be first, and an item that was put after another had returned comes after it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from attrs import frozen

from raftkv.errors import CompactedError, DeadlineError
from raftkv.kv.client import Kv, op, when
from raftkv.kv.model import KeyValue
from raftkv.recipes.line import name_of

_PAGE = 64


@frozen(slots=True)
class Item:
    """What was put, and the revision that made it."""

    value: bytes
    revision: int


class Queue:
    """Items in order; many may put, and many may take.

    ``get`` takes an item out for good: it is lost if its taker dies before it is done with it.
    ``taken`` gives it back in that case. ``ttl``, in seconds, is how long after a death that takes.
    """

    def __init__(self, kv: Kv, name: str | bytes, *, ttl: int = 10) -> None:
        self._kv = kv
        prefix = name_of("the name of a queue", name)
        self._turn = prefix + b"turn"
        self._items = prefix + b"items/"
        self._claims = prefix + b"claims/"
        self._ttl = ttl

    async def put(self, value: str | bytes) -> int:
        """Append an item; the revision that made it.

        Raises OutcomeUnknownError if it may or may not have been appended.
        """
        # The revision of a write is a number that nobody else has: it becomes the item's name.
        turn = await self._kv.put(self._turn, b"")
        stored = await self._kv.put(self._items + b"%020d" % turn.revision, value)
        return stored.revision

    async def get(self) -> Item:
        """Take the first item, and wait for one if there is none.

        Cancelled while it waits it takes nothing; once an item is taken, cancellation waits until
        it is returned. That holds for anyio's scopes: asyncio's own cancellation, as by
        ``asyncio.timeout``, waits for nothing, and the item may be lost; ``taken`` loses none.
        OutcomeUnknownError: an item may have been taken.
        """
        while True:
            found = await self._first_to_come()
            if await self._remove(found):
                return Item(found.value, found.create_revision)

    async def get_nowait(self) -> Item | None:
        """Take the first item; None if there is none."""
        while True:
            try:
                found, _ = await self._first_free()
            except CompactedError:
                continue
            if found is None:
                return None
            if await self._remove(found):
                return Item(found.value, found.create_revision)

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[Item]:
        """Take the first item for the length of the body, and wait for one if there is none.

        Leaving the body removes it. An exception in the body, cancellation, or the death of the
        process gives it back, at its place: each item is worked on at least once, by one at a time
        as far as a lease can promise (:mod:`~raftkv.recipes.lock`). It waits for ever once it has
        its lease; granting that has 5 seconds, after which it raises DeadlineError or
        OutcomeUnknownError.
        """
        async with self._kv.lease(self._ttl) as lease:
            while True:
                found = await self._first_to_come()
                claim = self._claims + found.key.removeprefix(self._items)
                done = await self._kv.txn(
                    when=[
                        when.absent(claim),
                        when.create_revision(found.key) == found.create_revision,
                    ],
                    then=[op.put(claim, b"", lease=lease.id)],
                )
                if done.succeeded:
                    break
            yield Item(found.value, found.create_revision)
            await self._kv.txn(
                when=[when.lease(claim) == lease.id],
                then=[op.delete(found.key), op.delete(claim)],
            )

    async def count(self) -> int:
        """How many items there are, taken ones that may come back included."""
        return await self._kv.count(prefix=self._items)

    async def _first_to_come(self) -> KeyValue:
        """The first item that nobody has taken, as soon as there is one."""
        while True:
            try:
                found, revision = await self._first_free()
                if found is not None:
                    return found
                await self._wait(revision + 1)
            except (DeadlineError, CompactedError):
                continue

    async def _first_free(self) -> tuple[KeyValue | None, int]:
        """The first item that nobody has taken, and the revision as of which that is true."""
        start, revision = self._items, 0
        stop = self._items[:-1] + b"0"  # behind all that begins with it: '/' is before '0'
        while True:
            page = await self._kv.range(start, stop, limit=_PAGE, revision=revision)
            revision = revision or page.revision
            claims = await self._kv.range(
                prefix=self._claims, keys_only=True, revision=revision, serializable=True
            )
            taken = {one.key.removeprefix(self._claims) for one in claims.items}
            for item in page.items:
                if item.key.removeprefix(self._items) not in taken:
                    return item, revision
            if not page.more:
                return None, revision
            start = page.items[-1].key + b"\0"

    async def _remove(self, found: KeyValue) -> bool:
        claim = self._claims + found.key.removeprefix(self._items)
        # An item that is taken but not returned would be lost.
        with anyio.CancelScope(shield=True):
            done = await self._kv.txn(
                when=[
                    when.absent(claim),
                    when.create_revision(found.key) == found.create_revision,
                ],
                then=[op.delete(found.key)],
            )
            return done.succeeded
        return False

    async def _wait(self, revision: int) -> None:
        """Until an item is put, or one comes back."""
        prefix = self._items.removesuffix(b"items/")
        async with self._kv.watch(prefix=prefix, start=revision) as changes:
            async for change in changes:
                if any(event.kv.key != self._turn for event in change.events):
                    return
