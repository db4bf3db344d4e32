"""Bytes that disk and wire share: the entry record, and a locked CBOR profile for small parts.

An entry is a fixed header and its raw payload; encoding costs one ``struct`` call and no copy of the
payload is made before the final join. CBOR is for handshakes, membership and metadata only: at most
64 KiB, decoded under limits (RELIABILITY.md 7.3) because hostile CBOR burns seconds of CPU.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from raftkv.core.types import Entry, EntryKind
from raftkv.errors import WireError

_HEADER: Final = struct.Struct("<QQQBI")  # term, index, chain, kind, payload length
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size
RECORD_OVERHEAD_BYTES: Final = HEADER_BYTES + _CRC.size
_KINDS: Final = {int(kind): kind for kind in EntryKind}


def encode_entry(entry: Entry) -> bytes:
    """One record: header, payload, CRC-32 of both."""
    data = entry.data
    header = _HEADER.pack(entry.term, entry.index, entry.chain, entry.kind, len(data))
    return b"".join((header, data, _CRC.pack(crc32(data, crc32(header)))))


def decode_entry(buffer: bytes, offset: int = 0) -> tuple[Entry, int]:
    """The record at ``offset`` and the offset behind it. Raises WireError if it is damaged or cut short."""
    start = offset + HEADER_BYTES
    if start + _CRC.size > len(buffer):
        raise WireError(f"entry record cut short at byte {offset} of {len(buffer)}")
    term, index, chain, kind, size = _HEADER.unpack_from(buffer, offset)
    stop = start + size
    if stop + _CRC.size > len(buffer):
        raise WireError(f"entry record {index} cut short: {size} payload bytes announced")
    data = buffer[start:stop]
    (crc,) = _CRC.unpack_from(buffer, stop)
    if crc32(data, crc32(buffer[offset:start])) != crc:
        raise WireError(f"entry record {index} fails its checksum")
    known = _KINDS.get(kind)
    if known is None:
        raise WireError(f"entry record {index} is of unknown kind {kind}")
    return Entry(term, index, known, data, chain), stop + _CRC.size
