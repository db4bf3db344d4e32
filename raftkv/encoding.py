"""Bytes that disk and wire share: the entry record, and a locked CBOR profile for small parts.

An entry is a fixed header and its raw payload; encoding costs one ``struct`` call and no copy of
the payload is made before the final join. CBOR is for handshakes, membership and metadata only: at
most 64 KiB, decoded under limits because hostile CBOR burns seconds of CPU and gigabytes of memory.

The profile (:func:`dumps`, :func:`loads`) is JSON's shapes with bytes and without fractions: null,
booleans, integers of 64 bits, text, bytes, lists, and maps whose keys are text. Refused are every
semantic tag (dates, big numbers, regular expressions, shared references ...), every other simple
value, indefinite lengths, repeated keys, nesting beyond 16, and trailing bytes. Equal values have
equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Final, NoReturn, TypeAlias, cast
from zlib import crc32

from cbor2 import CBORDecoder, CBORError
from cbor2 import dumps as _cbor_dumps

from raftkv.core.types import Entry, EntryKind
from raftkv.errors import InvalidArgumentError, WireError

Plain: TypeAlias = "bool | int | str | bytes | list[Plain] | dict[str, Plain] | None"
"""What :func:`loads` answers: exactly these types, no subclasses."""

PlainInput: TypeAlias = (
    "bool | int | str | bytes | Sequence[PlainInput] | Mapping[str, PlainInput] | None"
)
"""What :func:`dumps` takes: tuples count as lists."""

CBOR_BYTES_MAX: Final = 64 * 1024
CBOR_DEPTH_MAX: Final = 16

_HEADER: Final = struct.Struct("<QQQBI")  # term, index, chain, kind, payload length
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size
RECORD_OVERHEAD_BYTES: Final = HEADER_BYTES + _CRC.size
_KINDS: Final = {int(kind): kind for kind in EntryKind}


def encode_entry(entry: Entry, prefix: bytes = b"") -> bytes:
    """One record: header, payload, CRC-32 of both; after ``prefix``, which the CRC leaves out."""
    data = entry.data
    header = _HEADER.pack(entry.term, entry.index, entry.chain, entry.kind, len(data))
    return b"".join((prefix, header, data, _CRC.pack(crc32(data, crc32(header)))))


def decode_entry(buffer: bytes, offset: int = 0) -> tuple[Entry, int]:
    """The record at ``offset`` and the offset behind it.

    Raises WireError if it is damaged or cut short.
    """
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


def dumps(value: PlainInput) -> bytes:
    """The one encoding of ``value`` in the profile. Raises InvalidArgumentError if it has none."""
    _check_plain(value, CBOR_DEPTH_MAX, InvalidArgumentError)
    encoded = _cbor_dumps(value, canonical=True)
    if len(encoded) > CBOR_BYTES_MAX:
        raise InvalidArgumentError(
            f"{len(encoded)} bytes of CBOR exceed the {CBOR_BYTES_MAX} allowed"
        )
    return encoded


def loads(data: bytes) -> Plain:
    """The value encoded in all of ``data``. Raises WireError for anything outside the profile."""
    if len(data) > CBOR_BYTES_MAX:
        raise WireError(f"{len(data)} bytes of CBOR exceed the {CBOR_BYTES_MAX} allowed")
    stream = BytesIO(data)
    try:
        value: object = CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED_TAGS,
            max_depth=CBOR_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except CBORError as error:
        raise WireError(f"malformed CBOR: {error}") from error
    # cbor2's own loads() ignores what follows the value: two readers could disagree about it.
    if stream.tell() != len(data):
        raise WireError(f"{len(data) - stream.tell()} bytes follow the CBOR value")
    _check_plain(value, CBOR_DEPTH_MAX, WireError)
    return cast("Plain", value)


def _refuse_tag(_value: object, _immutable: bool) -> NoReturn:
    raise WireError("semantic tags are refused")


# Every tag that cbor2 decodes by itself; the others reach the tag hook.
_REFUSED_TAGS: Final = dict.fromkeys(
    (*range(64), 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag
)


def _check_plain(
    value: object, depth: int, refusal: type[InvalidArgumentError | WireError]
) -> None:
    """Exact types only: a bool is not an int here, and cbor2's own types are no values of ours."""
    kind = type(value)
    if kind is int:
        if not -(2**63) <= cast("int", value) < 2**64:
            raise refusal("an integer does not fit into 64 bits")
    elif kind is list or kind is tuple:
        if depth == 0:
            raise refusal(f"nested deeper than {CBOR_DEPTH_MAX}")
        for item in cast("Sequence[object]", value):
            _check_plain(item, depth - 1, refusal)
    elif kind is dict:
        if depth == 0:
            raise refusal(f"nested deeper than {CBOR_DEPTH_MAX}")
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise refusal("a map key is not text")
            _check_plain(item, depth - 1, refusal)
    elif value is not None and kind is not bool and kind is not str and kind is not bytes:
        raise refusal(f"{kind.__name__} is not in the CBOR profile")
