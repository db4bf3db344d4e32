"""Leases: what is replicated of them. When one is up its keeper decides, and proposes it.

=====================  ==================================================================
row of the tag ``L``   what it holds
=====================  ==================================================================
behind it nothing      who keeps the leases, how many there are, how many were ever granted
behind it the id       seconds to live, what was left of them when the keeper looked, which
                       grant made it (an id may be granted again), whether it is that of a
                       client session (:mod:`raftkv.kv.sessions`), and how many keys it has
=====================  ==================================================================

Which keys a lease has is kept by :class:`~raftkv.kv.engine.Slice` with every put and delete, one
row a key (:func:`raftkv.kv.rows.attached_key`), and so is their number. That is bounded, for at its
end all go in one revision; etcd has that rule, but no bound.

No clock is read here: time passes at the keeper, the leader's task in
:mod:`raftkv.kv.client.keeper`. What a keeper decided is void from the next one's
:class:`~raftkv.kv.requests.TakeOver` on, as that one may have renewed what this one ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from attrs import evolve, frozen

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.kv import bounds, rows
from raftkv.kv.engine import Revision, Slice
from raftkv.kv.model import Done, KvResult, LeaseResult, Refusal, Refused
from raftkv.kv.requests import LEASE_TTL_MAX, Checkpoint, Expire, Grant, Revoke, TakeOver
from raftkv.storage.base import Reader, Space

LEASES_MAX: Final = 200_000
"""Leases that live at once; more are refused."""

_MACHINE: Final = Space.MACHINE
_TABLE_KEY: Final = rows.LEASES
_TABLE: Final = struct.Struct("<QIQ")  # keeper, how many there are, how many were ever granted
_LEASE: Final = struct.Struct("<qqQ?Q")  # as in Granted
_FIRST: Final = rows.LEASES + b"\0"  # behind the table, before every lease: ids are positive
_STOP: Final = rows.LEASES + b"\x80"
_ID_BITS: Final = 63
_WORD: Final = 2**64 - 1


@frozen(slots=True)
class Granted:
    """A lease as it is replicated.

    ``remaining`` are the seconds that were left when its keeper looked last; 0: all of ``ttl``.
    ``grant`` counts the grants of the store. Where it ``is_session``, that is the session's number.
    ``keys`` is how many keys it has, each as often as :func:`raftkv.kv.rows.weight_of` says.
    """

    id: int
    ttl: int
    remaining: int = 0
    grant: int = 0
    is_session: bool = False
    keys: int = 0

    @property
    def left(self) -> int:
        """Seconds that a new keeper must give it."""
        return self.remaining or self.ttl


@frozen(slots=True)
class Table:
    """All leases together: the keeper's term, their number, and how many were ever granted."""

    keeper: int = 0
    count: int = 0
    grants: int = 0


# --- reading --------------------------------------------------------------------------------------


def read_table(reader: Reader) -> Table:
    """Who keeps the leases, and how many there are. Raises StorageCorruptError."""
    row = reader.get(_MACHINE, _TABLE_KEY)
    if row is None:
        return Table()
    if len(row) != _TABLE.size:
        raise _corrupt("the KV's table of leases")
    return Table(*_TABLE.unpack(row))


def read_lease(reader: Reader, lease: int) -> Granted | None:
    """The lease of that id, or None. Raises StorageCorruptError."""
    row = reader.get(_MACHINE, rows.lease_key(lease)) if 0 < lease < 1 << _ID_BITS else None
    return None if row is None else _decode(lease, row)


def read_leases(reader: Reader, after: int, limit: int) -> list[Granted]:
    """The next leases behind the id ``after`` (0: from the first on), ascending; at most so many.

    Raises StorageCorruptError.
    """
    start = rows.lease_key(after) + b"\0" if after else _FIRST
    found = islice(reader.scan(_MACHINE, start, _STOP), limit)
    return [_decode(rows.lease_of_key(key), row) for key, row in found]


def read_attached(reader: Reader, lease: int, after: bytes = b"") -> Iterator[bytes]:
    """The keys of a lease behind ``after``, in order; none if there is no such lease."""
    if 0 < lease < 1 << _ID_BITS:
        start, stop = rows.attached_bounds(lease)
        if after:
            start = rows.attached_key(lease, after) + b"\0"
        for row_key, _ in reader.scan(_MACHINE, start, stop):
            yield rows.key_attached(row_key)


def is_granted(writes: Reader, lease: int) -> bool:
    """Whether there is such a lease."""
    return read_lease(writes, lease) is not None


def not_granted(lease: int) -> Refused:
    """What asks for a lease that there is not is refused with this."""
    return Refused(
        f"requested lease not found: {lease:x}; it was never granted, was revoked or has expired",
        Refusal.LEASE_NOT_FOUND,
    )


def refuse_keys(writes: Reader, lease: int, keys: Sequence[bytes]) -> Refused | None:
    """Why ``keys``, which differ, may not all be attached to ``lease``; None if they may."""
    known = read_lease(writes, lease)
    if known is None:
        return not_granted(lease)
    room = bounds.REVISION_KEYS_MAX - known.keys
    if sum(map(rows.weight_of, keys)) <= room:
        return None
    new = [key for key in keys if writes.get(_MACHINE, rows.attached_key(lease, key)) is None]
    if not new or sum(map(rows.weight_of, new)) <= room:
        return None
    return Refused(
        f"request is too large: lease {lease:x} would have more than {bounds.REVISION_KEYS_MAX}"
        " keys, too many to be deleted in one revision when it ends; grant another lease for more",
        Refusal.TOO_LARGE,
    )


# --- commands -------------------------------------------------------------------------------------


def grant(writes: Slice, command: Grant, *, is_session: bool = False) -> KvResult:
    """Make a lease, be it for a client session; makes no revision."""
    lease, ttl = command.lease, command.ttl
    if lease < 0:
        return Refused(f"a lease id must be positive, not {lease}; 0 has one chosen")
    if not 0 < ttl <= LEASE_TTL_MAX:
        return Refused(f"too large lease TTL: {ttl} s, from 1 to {LEASE_TTL_MAX} are allowed")
    table = read_table(writes)
    if lease and is_granted(writes, lease):
        return Refused(f"lease already exists: {lease:x}", Refusal.LEASE_EXISTS)
    if table.count >= LEASES_MAX:
        return Refused(
            f"too many leases: there are {table.count} already; revoke some, or attach several "
            "keys to one",
            Refusal.TOO_MANY_LEASES,
        )
    number = table.grants + 1
    if not lease:
        lease = _choose(writes, number)
    _write_table(writes, Table(table.keeper, table.count + 1, number))
    writes.put_row(
        rows.lease_key(lease), _encode(Granted(lease, ttl, 0, number, is_session=is_session))
    )
    writes.leases.append((lease, ttl, number))
    return LeaseResult(lease, ttl, writes.revision)


def revoke(writes: Slice, command: Revoke) -> KvResult:
    """End a lease and delete its keys, in one revision, in key order; none if it has no keys."""
    if not is_granted(writes, command.lease):
        return not_granted(command.lease)
    _end(writes, command.lease)
    _count_down(writes, 1)
    return Done(writes.revision)


def take_over(writes: Slice, command: TakeOver) -> KvResult:
    """Let another keep the leases from here on; again is no error."""
    table = read_table(writes)
    if command.keeper < table.keeper:
        return _not_keeper(command.keeper, table)
    _write_table(writes, Table(command.keeper, table.count, table.grants))
    return Done(writes.revision)


def expire(writes: Slice, command: Expire) -> KvResult:
    """Revoke leases whose time is up, in the order given, each in a revision of its own.

    One that there is not any more is passed over. Together they have no more keys than one may
    have: the result says how many of the last ones are left for another command.
    """
    table = read_table(writes)
    if command.keeper != table.keeper:
        return _not_keeper(command.keeper, table)
    ended = keys = left = 0
    for place, lease in enumerate(command.leases):
        known = _find(writes, lease, command.since)
        if known is None:
            continue
        keys += known.keys
        if ended and keys > bounds.REVISION_KEYS_MAX:
            left = len(command.leases) - place
            break
        _end(writes, lease)
        ended += 1
    _count_down(writes, ended)
    return Done(writes.revision, left)


def checkpoint(writes: Slice, command: Checkpoint) -> KvResult:
    """Remember what remains of leases. One that there is not any more is passed over."""
    table = read_table(writes)
    if command.keeper != table.keeper:
        return _not_keeper(command.keeper, table)
    for lease, remaining in command.remaining:
        known = _find(writes, lease, command.since)
        if known is not None:
            left = remaining if 0 < remaining < known.ttl else 0
            writes.put_row(rows.lease_key(lease), _encode(evolve(known, remaining=left)))
    return Done(writes.revision)


def _find(writes: Slice, lease: int, since: int) -> Granted | None:
    """The lease, if it is one of the first ``since`` that were granted."""
    known = read_lease(writes, lease)
    return None if known is None or 0 < since < known.grant else known


def _end(writes: Slice, lease: int) -> None:
    """End a lease that there is, and delete its keys."""
    revision = Revision(writes)
    for key in list(read_attached(writes, lease)):
        row = writes.current(key)
        if row is None or rows.lease_of(row) != lease:
            # I43: nothing else may be deleted with it, and nothing of it be left.
            raise InvariantError(f"I43: a key of lease {lease:x} does not know of it")
        revision.delete(key, row)
    revision.close()
    known = read_lease(writes, lease)
    if known is None or known.keys:
        raise InvariantError(f"I43: without its keys lease {lease:x} is counted as {known}")
    writes.delete_row(rows.lease_key(lease))
    if known.is_session:
        writes.ended.append(known.grant)
    writes.leases.append((lease, 0, 0))


def _count_down(writes: Slice, ended: int) -> None:
    if ended:
        table = read_table(writes)
        _write_table(writes, Table(table.keeper, table.count - ended, table.grants))


# --- rows -----------------------------------------------------------------------------------------


def _write_table(writes: Slice, table: Table) -> None:
    writes.put_row(_TABLE_KEY, _TABLE.pack(table.keeper, table.count, table.grants))


def _decode(lease: int, row: bytes) -> Granted:
    if len(row) != _LEASE.size:
        raise _corrupt(f"the row of lease {lease:x}")
    return Granted(lease, *_LEASE.unpack(row))


def _encode(lease: Granted) -> bytes:
    return _LEASE.pack(lease.ttl, lease.remaining, lease.grant, lease.is_session, lease.keys)


def _choose(writes: Slice, number: int) -> int:
    """An id for the so-many-th grant that no lease has."""
    while not (lease := _id_of(number)) or is_granted(writes, lease):
        number += 1
    return lease


def _id_of(number: int) -> int:
    """A number mixed as splitmix64 does: scattered, so that no id is guessed or mistyped."""
    mixed = number * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
    return (mixed ^ mixed >> 31) >> (64 - _ID_BITS)


def _not_keeper(keeper: int, table: Table) -> Refused:
    return Refused(
        f"the leases are kept by the leader of term {table.keeper}, not of term {keeper}",
        Refusal.NOT_KEEPER,
    )


def _corrupt(what: str) -> StorageCorruptError:
    return StorageCorruptError(
        f"{what} is not what raftkv wrote; remove this member's data directory and let it join "
        "again, or restore a backup"
    )
