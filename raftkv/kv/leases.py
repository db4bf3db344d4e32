"""Leases: what is replicated of them. When one is up, its keeper decides, and proposes it.

Which keys a lease has is kept by :class:`~raftkv.kv.engine.Slice` with every put and delete
(:func:`raftkv.kv.rows.attached_key`).
"""

from __future__ import annotations

import struct
from typing import Final

from raftkv.kv import rows
from raftkv.kv.engine import Revision, Slice
from raftkv.kv.model import Done, KvResult, LeaseResult, Refusal, Refused
from raftkv.kv.requests import Checkpoint, Expire, Grant, Revoke, TakeOver
from raftkv.storage.base import Space

_MACHINE: Final = Space.MACHINE
_TTL: Final = struct.Struct("<q")


def is_granted(writes: Slice, lease: int) -> bool:
    """Whether there is such a lease."""
    return writes.get(_MACHINE, rows.lease_key(lease)) is not None


def not_granted(lease: int) -> Refused:
    """What asks for a lease that there is not is refused with this."""
    return Refused(f"requested lease not found: {lease:x}; grant it first", Refusal.LEASE_NOT_FOUND)


def grant(writes: Slice, command: Grant) -> KvResult:
    """Make a lease."""
    if is_granted(writes, command.lease):
        return Refused(f"lease already exists: {command.lease:x}", Refusal.LEASE_EXISTS)
    writes.put_row(rows.lease_key(command.lease), _TTL.pack(command.ttl))
    return LeaseResult(command.lease, command.ttl, writes.revision)


def revoke(writes: Slice, command: Revoke) -> KvResult:
    """End a lease and delete its keys, in one revision, in key order."""
    if not is_granted(writes, command.lease):
        return not_granted(command.lease)
    _end(writes, command.lease)
    return Done(writes.revision)


def _end(writes: Slice, lease: int) -> None:
    revision = Revision(writes)
    for row_key, _ in list(writes.scan(_MACHINE, *rows.attached_bounds(lease))):
        key = rows.key_attached(row_key)
        row = writes.current(key)
        if row is not None:
            revision.delete(key, row)
    revision.close()
    writes.delete_row(rows.lease_key(lease))
    writes.ended.append(lease)


def take_over(writes: Slice, command: TakeOver) -> KvResult:
    """Let another keep the leases from here on."""
    return Refused(f"no leases to keep for {command.keeper}", Refusal.NOT_KEEPER)


def expire(writes: Slice, command: Expire) -> KvResult:
    """Revoke leases whose time is up."""
    return Refused(f"{command.keeper} does not keep the leases", Refusal.NOT_KEEPER)


def checkpoint(writes: Slice, command: Checkpoint) -> KvResult:
    """Remember what remains of leases."""
    return Refused(f"{command.keeper} does not keep the leases", Refusal.NOT_KEEPER)
