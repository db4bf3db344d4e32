"""A line of waiters: who came first is at its head, and each watches only who stands before it.

A place is a key below ``name/`` that is attached to its owner's lease; the revision that created it
orders the line and is a fencing token: it grows from one head to the next. No herd: a place that
goes wakes the one behind it. The recipe of etcd's concurrency package and of ZooKeeper.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from attrs import frozen

from raftkv.errors import (
    CompactedError,
    DeadlineError,
    InvalidArgumentError,
    InvariantError,
    LeaseNotFoundError,
    OutcomeUnknownError,
)
from raftkv.kv.client import Kv, op, when
from raftkv.kv.client.leases import Lease
from raftkv.kv.model import KeyValue, RangeResult
from raftkv.kv.requests import SortOrder, SortTarget

SEPARATOR: Final = b"/"
_REQUEST_SECONDS: Final = 5.0  # for what it takes to stand in line, where the caller sets no limit


def name_of(what: str, name: str | bytes) -> bytes:
    """The prefix of a recipe's keys. Raises InvalidArgumentError for an empty name."""
    encoded = name.encode() if isinstance(name, str) else bytes(name)
    if not encoded:
        raise InvalidArgumentError(f"{what} is empty: give it a name, such as 'jobs/nightly'")
    return encoded + SEPARATOR


@frozen(slots=True)
class Place:
    """A key in a line, the revision that created it, and the lease that it goes with."""

    key: bytes
    revision: int
    lease: int


@asynccontextmanager
async def standing(
    kv: Kv, line: bytes, value: bytes, *, ttl: int, timeout: float | None, failed: str
) -> AsyncGenerator[Place]:
    """Stand in line until one is its head, run the body, and leave the line.

    ``timeout`` is for all that comes before the body, granting the lease included; see
    :meth:`raftkv.recipes.Lock.held`. Raises DeadlineError, which begins with ``failed``.
    """
    seconds = timeout or _REQUEST_SECONDS
    leased = kv.lease(ttl, timeout=seconds)
    why = f"the cluster did not answer within {seconds:g} s"
    is_head = False
    try:
        with anyio.move_on_after(None if timeout is None else seconds) as patience:
            async with leased as lease:
                try:
                    place = await join(kv, line, lease, value, timeout=seconds)
                    if timeout == 0:
                        if await before(kv, line, place) is not None:
                            raise DeadlineError(f"{failed}: another one is before us")
                    else:
                        why = f"its turn did not come within {seconds:g} s"
                        await wait_for_head(kv, line, place)
                    patience.deadline = math.inf
                    if patience.cancel_called:  # just now: the body would be cancelled
                        raise DeadlineError(f"{failed}: {why}")
                except BaseException:
                    if timeout == 0 or patience.cancel_called:
                        lease.hurry()
                    raise
                is_head = True
                yield place
    except OutcomeUnknownError as error:
        if is_head:
            raise
        # Perhaps there is a lease or a place: nobody keeps them alive.
        raise DeadlineError(f"{failed}: {why}") from error
    if not is_head:
        raise DeadlineError(f"{failed}: {why}")


async def join(kv: Kv, line: bytes, lease: Lease, value: bytes, *, timeout: float) -> Place:
    """Stand at the end of the line, once for each lease."""
    key = line + b"%016x" % lease.id
    done = await kv.txn(
        when=[when.absent(key)],
        then=[op.put(key, value, lease=lease.id)],
        otherwise=[op.get(key)],
        timeout=timeout,
    )
    if done.succeeded:
        return Place(key, done.revision, lease.id)
    # An earlier attempt of ours whose answer was lost: a lease has one owner.
    (found,) = done.results
    if not isinstance(found, KeyValue):
        raise LeaseNotFoundError(f"lease {lease.id:x} ended while it joined {line!r}")
    return Place(key, found.create_revision, lease.id)


async def before(kv: Kv, line: bytes, place: Place) -> KeyValue | None:
    """Who stands directly before the place; None at the head.

    Raises LeaseNotFoundError if the place itself is gone.
    """
    found = await kv.txn(
        when=[when.create_revision(place.key) == place.revision],
        then=[
            op.range(
                prefix=line,
                limit=1,
                sort_by=SortTarget.CREATE,
                order=SortOrder.DESCEND,
                max_create_revision=place.revision - 1,
                keys_only=True,
            )
        ],
    )
    if not found.succeeded:
        raise LeaseNotFoundError(f"the place in {line!r} is gone: its lease ended")
    (ahead,) = found.results
    if not isinstance(ahead, RangeResult):
        # To take anything else for an empty line would be to hold what another one holds.
        raise InvariantError(f"a range in a transaction gave a {type(ahead).__name__}")
    return ahead.items[0] if ahead.items else None


async def head_of_line(kv: Kv, line: bytes) -> KeyValue | None:
    """Who stands first; None if nobody does."""
    found = await kv.range(prefix=line, limit=1, sort_by=SortTarget.CREATE, order=SortOrder.ASCEND)
    return found.items[0] if found.items else None


async def wait_for_head(kv: Kv, line: bytes, place: Place) -> None:
    """Return once the place is the first of its line.

    A cluster that does not answer for a while is waited for: the lease says how long that may be.
    """
    while True:
        try:
            ahead = await before(kv, line, place)
            if ahead is None:
                return
            await gone(kv, ahead)
        except (DeadlineError, OutcomeUnknownError, CompactedError):
            continue  # the transaction reads, so that it does not matter what became of it


async def gone(kv: Kv, seen: KeyValue) -> None:
    """Return once the key of ``seen`` was deleted after that; at once if it was."""
    async with kv.watch(seen.key, start=seen.mod_revision + 1, puts=False) as changes:
        async for _ in changes:
            return
