"""The KV's rows in the space ``machine``: which there are, their keys and their bytes.

=====  ===========================  ==========================================================
tag    key behind the tag           row
=====  ===========================  ==========================================================
``A``  kind, member                 an alarm that is raised (:mod:`raftkv.kv.alarms`)
``C``  nothing                      how far the sweep has come (:mod:`raftkv.kv.compaction`)
``H``  key escaped, newest first    a version that a write replaced or ended, and when it ended
``K``  the key itself               the version in force now: a current read is one get
``L``  lease, or nothing            a lease, or who keeps them (:mod:`raftkv.kv.leases`)
``M``  nothing                      head: where the store stands (:class:`Head`)
``O``  session, sequence            the outcome of a command in a client session
``R``  revision, sub-revision       events: which keys this revision changed, in order
``S``  session and what it keeps    a client session (:mod:`raftkv.kv.sessions`)
``T``  lease, the key itself        nothing: the key is attached to the lease
``V``  revision, sub-revision       a long value, written once; versions point to it
=====  ===========================  ==========================================================

A version lives in ``K`` until something replaces or deletes it; then its row moves to ``H``
together with the revision that ended it. So a version is stored once, a deletion needs no tombstone
among the versions (it is the gap between one's end and the next one's birth), a range now is one
scan of ``K``, and a range at a past revision merges ``K`` with ``H``. A version that ended in the
revision that made it (one transaction inside another may delete what an earlier one put) was never
in force, and stands in ``H`` for its events alone. ``R`` is the history in time
order, with a pointer from each event to the version before it: what watches resume from and what
compaction walks, at a cost of the events passed rather than of the keys that exist. A delete of
many keys packs its events into few rows.

In ``H`` a key is escaped so that its revisions sort behind it and before every longer key: 0x00
becomes 0x00 0xff and 0x00 0x00 ends it. Revisions are inverted there, the newest first. The letters
and layouts are on disk: they never change; ``FORMAT`` grows instead.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from raftkv.errors import InvariantError, StorageCorruptError, StorageFormatError
from raftkv.kv.model import FIRST_REVISION, KeyValue, Span, prefix_stop

FORMAT: Final = 2
_FIRST_FORMAT: Final = 1  # its head knew no size and no alarms, its long versions no length
HEAD_KEY: Final = b"M"
CURRENT: Final = b"K"
CURRENT_STOP: Final = b"L"
HISTORY: Final = b"H"
HISTORY_STOP: Final = b"I"
OUTCOMES: Final = b"O"
OUTCOMES_STOP: Final = b"P"
EVENTS: Final = b"R"
EVENTS_STOP: Final = b"S"
VALUES: Final = b"V"
ALARMS: Final = b"A"
SWEEP_KEY: Final = b"C"
LEASES: Final = b"L"
SESSIONS: Final = b"S"
ATTACHED: Final = b"T"

INLINE_BYTES_MAX: Final = 1024
"""Longer values stand in a ``V`` row of their own: replacing or deleting them moves no bulk."""

EVENTS_BYTES_MAX: Final = 32 * 1024
"""An events row is closed once it is longer: a huge delete becomes many rows of this size."""

_HEAD: Final = struct.Struct("<BQQQB")  # format, revision, floor, size, alarms
_FIRST_HEAD: Final = struct.Struct("<BQQ")  # format, revision, floor
_VERSION: Final = struct.Struct(
    "<BQIQQq"
)  # kind, mod revision, sub, create revision, version, lease
_LENGTH: Final = struct.Struct("<I")
_END: Final = struct.Struct("<Q")  # a history row is this and the version's row
_EVENT: Final = struct.Struct("<BQII")  # kind, previous revision and sub (0: none), key length
_EVENT_RAW: Final = struct.Struct(
    "<B12sI"
)  # the same with the previous place as it stands in a row
_PLACE: Final = struct.Struct(">QI")  # revision, sub-revision, sorting in time order

_INLINE: Final = 0
_LONG: Final = 1
_TOP_REVISION: Final = 2**64 - 1
_TOP_SUB: Final = 2**32 - 1
_ESCAPED_END: Final = b"\0\0"
_PLACE_BYTES: Final = _PLACE.size
_VERSION_BYTES: Final = _VERSION.size
_ID: Final = struct.Struct(">q")  # a lease; ids are positive, so they sort as they count
_LEASE: Final = struct.Struct("<q")  # the lease inside a version's row, at its header's end
_LEASE_AT: Final = _VERSION_BYTES - _LEASE.size
_NO_LEASE: Final = bytes(_LEASE.size)
_KEYS: Final = struct.Struct("<Q")  # what the keys of a lease weigh, at the end of its row
_MADE: Final = struct.Struct("<QI")  # the place inside a version's row, behind its first byte
_NEVER: Final = bytes(_MADE.size)

PUT_EVENT: Final = 0
DELETE_EVENT: Final = 1


UNMEASURED: Final = -1
"""The size in a head of the first format."""


@frozen(slots=True)
class Head:
    """Where the store stands: its ``revision``, and ``floor``, the oldest one that can be read.

    ``size`` is what keys, values, history and kept outcomes take in bytes, as
    :mod:`raftkv.kv.sizes` counts it.
    ``alarms`` has bit ``1 << kind`` set for each kind of alarm that any member has raised.
    """

    revision: int = FIRST_REVISION
    floor: int = 0
    size: int = 0
    alarms: int = 0


def encode_head(head: Head) -> bytes:
    """The head's row."""
    return _HEAD.pack(FORMAT, head.revision, head.floor, head.size, head.alarms)


def decode_head(row: bytes | None) -> Head:
    """The head; a store without one is fresh. Raises StorageFormatError or StorageCorruptError."""
    if row is None:
        return Head()
    if row[:1] == bytes((_FIRST_FORMAT,)):
        if len(row) != _FIRST_HEAD.size:
            raise _corrupt("the KV's head row", row)
        _, revision, floor = _FIRST_HEAD.unpack(row)
        return Head(revision, floor, UNMEASURED)
    if row[:1] != bytes((FORMAT,)):
        raise StorageFormatError(
            f"the KV rows have format {row[0] if row else None}, this raftkv reads {FORMAT}; "
            "open the directory with the version that wrote it"
        )
    if len(row) != _HEAD.size:
        raise _corrupt("the KV's head row", row)
    return Head(*_HEAD.unpack(row)[1:])


# --- versions of a key --------------------------------------------------------------------------


@frozen(slots=True)
class Version:
    """One version of a key: the header of its row. If ``long``, its value stands in a ``V`` row.

    The row of an inline version ends with the value, that of a long one with the value's length.
    """

    long: bool
    mod_revision: int
    sub: int
    create_revision: int
    version: int
    lease: int


def decode_version(row: bytes) -> Version:
    """The header of a version's row. Raises StorageCorruptError."""
    if len(row) < _VERSION_BYTES or row[0] > _LONG:
        raise _corrupt("a KV version row", row)
    kind, mod_revision, sub, create_revision, version, lease = _VERSION.unpack_from(row)
    return Version(kind == _LONG, mod_revision, sub, create_revision, version, lease)


def mod_revision_of(row: bytes) -> int:
    """When the version in ``row`` was made. Raises StorageCorruptError."""
    if len(row) < _VERSION_BYTES or row[0] > _LONG:
        raise _corrupt("a KV version row", row)
    return _VERSION.unpack_from(row)[1]


def next_version(old: bytes | None, value: bytes, revision: int, sub: int, lease: int) -> bytes:
    """The row of the version that a put makes out of ``old``, the row in force before.

    None if the key did not exist. ``value`` is not in it if it :func:`is_long`. Raises
    InvariantError if what is in force cannot be older.
    """
    if old is None:
        create_revision, version = revision, 1
    elif len(old) < _VERSION_BYTES:
        raise _corrupt("a KV version row", old)
    else:
        _, mod_revision, _, create_revision, version, _ = _VERSION.unpack_from(old)
        if not 0 < create_revision <= mod_revision < revision or not version:
            # I28: never two versions of a key in one revision, nor one of a revision to come.
            raise InvariantError(
                f"I28: at revision {revision}, a version {version} of revision {mod_revision},"
                f" created in {create_revision}"
            )
        version += 1
    if len(value) > INLINE_BYTES_MAX:
        head = _VERSION.pack(_LONG, revision, sub, create_revision, version, lease)
        return head + _LENGTH.pack(len(value))
    return _VERSION.pack(_INLINE, revision, sub, create_revision, version, lease) + value


def is_long(value: bytes) -> bool:
    """Whether ``value`` stands in a ``V`` row of its own."""
    return len(value) > INLINE_BYTES_MAX


def key_value(key: bytes, row: bytes, *, with_value: bool = True) -> KeyValue | None:
    """The public record of the version in ``row``; None if a ``V`` row has the value wanted."""
    if len(row) < _VERSION_BYTES or row[0] > _LONG:
        raise _corrupt("a KV version row", row)
    kind, mod_revision, _, create_revision, version, lease = _VERSION.unpack_from(row)
    if not with_value:
        return KeyValue(key, b"", create_revision, mod_revision, version, lease)
    if kind == _LONG:
        return None
    return KeyValue(key, row[_VERSION_BYTES:], create_revision, mod_revision, version, lease)


def value_bytes(row: bytes) -> int | None:
    """How long the value of the version in ``row`` is; None if only its ``V`` row can tell."""
    if len(row) < _VERSION_BYTES or row[0] > _LONG:
        raise _corrupt("a KV version row", row)
    if row[0] == _INLINE:
        return len(row) - _VERSION_BYTES
    if len(row) == _VERSION_BYTES:
        return None  # written by the first format
    if len(row) != _VERSION_BYTES + _LENGTH.size:
        raise _corrupt("a KV version row", row)
    return int(_LENGTH.unpack_from(row, _VERSION_BYTES)[0])


def lease_of(row: bytes) -> int:
    """The lease that the version in ``row`` is attached to, or 0."""
    if row.startswith(_NO_LEASE, _LEASE_AT):
        return 0
    if len(row) < _VERSION_BYTES:
        raise _corrupt("a KV version row", row)
    return _LEASE.unpack_from(row, _LEASE_AT)[0]


def lease_key(lease: int) -> bytes:
    """Where a lease stands."""
    return LEASES + _ID.pack(lease)


def lease_of_key(row_key: bytes) -> int:
    """The id of the lease that stands there. Raises StorageCorruptError."""
    if len(row_key) != len(LEASES) + _ID.size:
        raise _corrupt("the key of a KV lease row", row_key)
    return _ID.unpack_from(row_key, len(LEASES))[0]


def attached_key(lease: int, key: bytes) -> bytes:
    """Where it stands that ``key`` is attached to ``lease``; in key order for each lease."""
    return ATTACHED + _ID.pack(lease) + key


def attached_bounds(lease: int) -> tuple[bytes, bytes | None]:
    """Between which row keys the keys attached to ``lease`` stand."""
    start = ATTACHED + _ID.pack(lease)
    return start, prefix_stop(start)


def key_attached(row_key: bytes) -> bytes:
    """The key in an :func:`attached_key`."""
    return row_key[len(ATTACHED) + _ID.size :]


def current_key(key: bytes) -> bytes:
    """Where the version of ``key`` that is in force stands."""
    return CURRENT + key


def current_bounds(span: Span) -> tuple[bytes, bytes]:
    """Between which row keys the versions in force of the keys in ``span`` stand."""
    return CURRENT + span.start, CURRENT_STOP if span.stop is None else CURRENT + span.stop


def weight_of(key: bytes) -> int:
    """As how many keys it counts where keys are bounded: one, and one for each whole KiB of it."""
    return 1 + (len(key) >> 10)


def with_keys(row: bytes, weight: int) -> bytes:
    """A lease's row where its keys weigh so much more, or less. They stand at its end."""
    place = len(row) - _KEYS.size
    if place < 0:
        raise _corrupt("a KV lease row", row)
    weighed = _KEYS.unpack_from(row, place)[0] + weight
    if weighed < 0:
        raise InvariantError(f"I43: the keys of a lease weigh {weighed}")
    return row[:place] + _KEYS.pack(weighed)


def value_key(revision: int, sub: int) -> bytes:
    """Where the long value written at that place stands."""
    return VALUES + _PLACE.pack(revision, sub)


# --- history ------------------------------------------------------------------------------------


def encode_ended(end: int, row: bytes) -> bytes:
    """The history row of the version in ``row`` that revision ``end`` replaced or deleted."""
    return _END.pack(end) + row


def decode_ended(row: bytes) -> tuple[int, bytes]:
    """The ending revision and the version's row."""
    if len(row) < _END.size:
        raise _corrupt("a KV history row", row)
    return _END.unpack_from(row)[0], row[_END.size :]


def history_prefix(key: bytes) -> bytes:
    """What all history rows of ``key`` begin with, and no other row."""
    return HISTORY + key.replace(b"\0", b"\0\xff") + _ESCAPED_END


def behind_history(prefix: bytes) -> bytes:
    """The first place behind all history rows with this :func:`history_prefix`."""
    return prefix[:-1] + b"\x01"


def history_bounds(span: Span) -> tuple[bytes, bytes]:
    """Between which row keys the ended versions of the keys in ``span`` stand."""
    start = HISTORY + span.start.replace(b"\0", b"\0\xff")
    if span.stop is None:
        return start, HISTORY_STOP
    return start, HISTORY + span.stop.replace(b"\0", b"\0\xff")


def history_key(key: bytes, revision: int, sub: int) -> bytes:
    """Where the version of ``key`` made at that place stands once it is ended."""
    return history_prefix(key) + inverted_place(revision, sub)


def ended_key(key: bytes, row: bytes) -> bytes:
    """Where the version of ``key`` in ``row`` stands once it is ended."""
    if len(row) < _VERSION_BYTES:
        raise _corrupt("a KV version row", row)
    return history_key(key, *_MADE.unpack_from(row, 1))


def inverted_place(revision: int, sub: int) -> bytes:
    """A place as bytes that sort the newest first."""
    return _PLACE.pack(_TOP_REVISION - revision, _TOP_SUB - sub)


def newest_at(revision: int) -> bytes:
    """The suffix from which on, within one key, versions made at ``revision`` or before stand."""
    return inverted_place(revision, _TOP_SUB)


def split_history_key(row_key: bytes) -> tuple[bytes, int]:
    """The :func:`history_prefix` that names the key, and the version's revision."""
    place = len(row_key) - _PLACE_BYTES
    if place < len(HISTORY) + len(_ESCAPED_END):
        raise _corrupt("the key of a KV history row", row_key)
    return row_key[:place], _TOP_REVISION - _PLACE.unpack_from(row_key, place)[0]


def key_of_history_prefix(prefix: bytes) -> bytes:
    """The key whose :func:`history_prefix` this is. Raises StorageCorruptError if it is none."""
    escaped = prefix[len(HISTORY) : -len(_ESCAPED_END)]
    key = escaped.replace(b"\0\xff", b"\0")
    if history_prefix(key) != prefix:
        raise _corrupt("the key of a KV history row", prefix)
    return key


# --- events -------------------------------------------------------------------------------------


@frozen(slots=True)
class EventRecord:
    """One key changed: how, and the place of the version before it ((0, 0) if it did not exist)."""

    kind: int
    previous_revision: int
    previous_sub: int
    key: bytes


def events_key(revision: int, sub: int) -> bytes:
    """Where the events of ``revision`` from sub-revision ``sub`` on stand."""
    return EVENTS + _PLACE.pack(revision, sub)


def split_events_key(row_key: bytes) -> tuple[int, int]:
    """The revision and the sub-revision of the row's first event. Raises StorageCorruptError."""
    if len(row_key) != len(EVENTS) + _PLACE_BYTES:
        raise _corrupt("the key of a KV events row", row_key)
    revision, sub = _PLACE.unpack_from(row_key, len(EVENTS))
    return revision, sub


def encode_event(kind: int, old: bytes | None, key: bytes) -> bytes:
    """One event; ``old`` is the row of the version before it, if the key existed."""
    return _EVENT_RAW.pack(kind, _NEVER if old is None else old[1:13], len(key)) + key


def decode_events(row: bytes) -> Iterator[EventRecord]:
    """The events of a row in order of their sub-revisions. Raises StorageCorruptError."""
    offset = 0
    while offset < len(row):
        start = offset + _EVENT.size
        if start > len(row):
            raise _corrupt("a KV events row", row)
        kind, revision, sub, length = _EVENT.unpack_from(row, offset)
        offset = start + length
        if offset > len(row) or kind > DELETE_EVENT:
            raise _corrupt("a KV events row", row)
        yield EventRecord(kind, revision, sub, row[start:offset])


def pack_events(events: Iterable[bytes], revision: int) -> Iterator[tuple[bytes, bytes]]:
    """Rows (key, bytes) for one revision's encoded events, none much over ``EVENTS_BYTES_MAX``."""
    sub, size, pending = 0, 0, list[bytes]()
    for event in events:
        pending.append(event)
        size += len(event)
        if size > EVENTS_BYTES_MAX:
            yield events_key(revision, sub), b"".join(pending)
            sub, size, pending = sub + len(pending), 0, []
    if pending:
        yield events_key(revision, sub), b"".join(pending)


def _corrupt(what: str, row: bytes) -> StorageCorruptError:
    return StorageCorruptError(
        f"{what} is not what raftkv wrote ({len(row)} bytes: {row[:24].hex()}…); "
        "remove this member's data directory and let it join again, or restore a backup"
    )
