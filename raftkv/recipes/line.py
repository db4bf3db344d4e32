"""A line of waiters: who came first is at its head, and each watches only who stands before it.

A place is a key below ``name/`` that is attached to its owner's lease; the revision that created it
orders the line and is a fencing token: it grows from one head to the next. No herd: a place that
goes wakes the one behind it. The recipe of etcd's concurrency package and of ZooKeeper.
"""

from __future__ import annotations

from typing import Final

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


def name_of(what: str, name: str | bytes) -> bytes:
    """The prefix of a recipe's keys. Raises InvalidArgumentError for an empty name."""
    encoded = name.encode() if isinstance(name, str) else bytes(name)
    if not encoded:
        raise InvalidArgumentError(f"{what} is empty: give it a name, such as 'jobs/nightly'")
    return encoded + SEPARATOR


@frozen(slots=True)
class Place:
    """A key in a line, and the revision that created it."""

    key: bytes
    revision: int


async def join(kv: Kv, line: bytes, lease: Lease, value: bytes) -> Place:
    """Stand at the end of the line, once for each lease."""
    key = line + b"%016x" % lease.id
    done = await kv.txn(
        when=[when.absent(key)],
        then=[op.put(key, value, lease=lease.id)],
        otherwise=[op.get(key)],
    )
    if done.succeeded:
        return Place(key, done.revision)
    # An earlier attempt of ours whose answer was lost: a lease has one owner.
    (found,) = done.results
    if not isinstance(found, KeyValue):
        raise LeaseNotFoundError(f"lease {lease.id:x} ended while it joined {line!r}")
    return Place(key, found.create_revision)


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
