"""Entries that the members write for themselves: no machine sees them, no caller waits for them.

A note takes effect on each member where it is applied, so all do the same at the same index::

    format u8 (2; commands have 1) | kind u8 | body

``HashHere`` asks every member for the hash of its machine's state as of this very entry
(:mod:`raftkv.node.hashes`). ``Booted`` tells everybody with which disk a member began which boot
(:mod:`raftkv.node.disks`).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from attrs import frozen

from raftkv.errors import WireError

FORMAT: Final = 2
_HEAD: Final = Struct("<BB")
_BOOTED: Final = Struct("<Q16sQ16s")  # member, disk uuid, boot, boot token
# The numbers are on disk and on the wire: they never change.
_HASH_HERE: Final = 1
_BOOT: Final = 2


@frozen(slots=True)
class HashHere:
    """The state's hash is to be taken at this entry."""


@frozen(slots=True)
class Booted:
    """A member began a boot."""

    member: int
    disk_uuid: bytes
    boot: int
    token: bytes


Note = HashHere | Booted


def is_note(data: bytes) -> bool:
    """Whether the payload of an entry is a note."""
    return data[:1] == b"\x02"


def encode_note(note: Note) -> bytes:
    """The payload of an entry."""
    if isinstance(note, HashHere):
        return _HEAD.pack(FORMAT, _HASH_HERE)
    body = _BOOTED.pack(note.member, note.disk_uuid, note.boot, note.token)
    return _HEAD.pack(FORMAT, _BOOT) + body


def decode_note(data: bytes) -> Note:
    """The note in a payload that is one. Raises WireError if no version of ours wrote it."""
    try:
        _, kind = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if kind == _HASH_HERE and not body:
            return HashHere()
        if kind == _BOOT:
            return Booted(*_BOOTED.unpack(body))
    except StructError as error:
        raise WireError(f"a note of {len(data)} bytes: {error}") from error
    raise WireError(f"a note of kind {kind} with {len(data)} bytes: upgrade raftkv on this member")
