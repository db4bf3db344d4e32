"""Carrying an image of the machine to a member whose log ends before ours begins: the frames.

The core decides when and to whom; it sees one InstallSnapshot message. The image travels on the
bulk lane, one frame a chunk, each with a checksum::

    kind u8 | transfer u64 | number u32 | flags u8 | CRC-32 u32 | payload

The checksum of a CHUNK goes on over all chunks from the first one to it, so that a chunk of another
image is noticed as well as a damaged one; that of other frames is of their payload.

======== ======================== ==========================================================
kind     payload, number          says
======== ======================== ==========================================================
BEGIN    message, 0               this transfer is of that snapshot: how far are you?
CHUNK    chunk, its number        from 0 on, in order
END      CRC-32 of all, how many  that was all
PROGRESS nothing, how many        the receiver has so many; flag AGAIN: go on from there
ACCEPTED nothing, 0               the receiver has the whole image
BROKEN   nothing, 0               the receiver will not take it, or knows nothing of it
======== ======================== ==========================================================

A transfer is one frozen view of one member's store: its number holds the boot and counts within
it. The sender keeps the view, and a window of chunks that the receiver has not confirmed, through
broken connections and restarts of the receiver; it asks again with BEGIN, and goes on from where
the receiver says that it is. A receiver knows one transfer: a newer one replaces it, one of an
older term than the one it knows is refused.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError
from typing import Final
from zlib import crc32

from attrs import frozen

from raftkv.core.messages import InstallSnapshot
from raftkv.errors import WireError
from raftkv.node.images import Manifest
from raftkv.transport.codec import decode_messages

_HEAD: Final = Struct("<BQIBI")
_CRC: Final = Struct("<I")
_BOOT_SHIFT: Final = 32


class Kind(IntEnum):
    """What a frame is. The numbers are on the wire: they never change."""

    BEGIN = 1
    CHUNK = 2
    END = 3
    PROGRESS = 4
    ACCEPTED = 5
    BROKEN = 6


class Flag(IntFlag):
    """What else a frame says."""

    AGAIN = 1


@frozen(slots=True)
class Frame:
    """A frame of a transfer."""

    kind: int
    transfer: int
    number: int
    flags: int
    crc: int
    payload: bytes


@frozen(slots=True)
class Arrived:
    """A complete image, staged, and the message it belongs to."""

    message: InstallSnapshot
    manifest: Manifest


def transfer_of(boot: int, count: int) -> int:
    """The number of a member's ``count``-th transfer in this boot."""
    return (boot << _BOOT_SHIFT) + count


def encode(
    kind: Kind, transfer: int, number: int = 0, flags: int = 0, payload: bytes = b""
) -> bytes:
    """The bytes of a frame."""
    return _HEAD.pack(kind, transfer, number, flags, crc32(payload)) + payload


def encode_chunk(transfer: int, number: int, crc: int, chunk: bytes) -> bytes:
    """The frame of a chunk; ``crc`` is the checksum over all chunks up to its end."""
    return _HEAD.pack(Kind.CHUNK, transfer, number, 0, crc) + chunk


def encode_end(transfer: int, chunks: int, crc: int) -> bytes:
    """The frame that ends an image of so many chunks, with the checksum over all of them."""
    return encode(Kind.END, transfer, chunks, payload=_CRC.pack(crc))


def decode(frame: bytes) -> Frame:
    """A frame from its bytes. Raises WireError; who takes a CHUNK checks it."""
    try:
        kind, transfer, number, flags, crc = _HEAD.unpack_from(frame)
    except StructError as error:
        raise WireError(f"a snapshot frame of {len(frame)} bytes: {error}") from error
    payload = frame[_HEAD.size :]
    if kind != Kind.CHUNK and crc32(payload) != crc:
        raise WireError("a snapshot frame fails its checksum")
    return Frame(kind, transfer, number, flags, crc, payload)


def decode_end(payload: bytes) -> int:
    """The checksum in an END frame. Raises WireError."""
    try:
        (crc,) = _CRC.unpack(payload)
    except StructError as error:
        raise WireError(f"the end of a snapshot: {error}") from error
    return int(crc)


def decode_begin(payload: bytes) -> InstallSnapshot:
    """The message in a BEGIN frame. Raises WireError, for impossible indexes too."""
    messages = decode_messages(payload)
    if len(messages) != 1 or not isinstance(messages[0], InstallSnapshot):
        raise WireError("a transfer begins with one InstallSnapshot message")
    return messages[0]
