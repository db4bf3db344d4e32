"""Frames and the handshake as bytes. No I/O: bytes in, values out, and back.

**A frame** is length (4 bytes), type (1), checksum (4) and payload; numbers are little endian. The
checksum is CRC-32 over length, type and payload: the one that the standard library has at C speed.
It is there against broken memory and middleboxes, not against attackers: those are TLS's business.
CRC-32C, which would have the better spectrum for storage, would cost a dependency or a
thousandfold of time.

**The handshake.** Whoever connects sends HELLO; the other side answers WELCOME or REFUSAL, in one
frame of at most 4 KiB each. From then on the dialer sends frames of its lane's type and the
acceptor sends nothing: every member sends on connections that it dialled itself. HELLO, WELCOME
and REFUSAL are the same in all versions of the protocol, so that versions can be negotiated; a
later version may append to HELLO and WELCOME, which earlier ones ignore.

Who is no member yet sends QUESTION instead, hears ANSWER (at most 64 KiB) or REFUSAL, and is done.
What the two contain is the business of the nodes.

A peer that breaks the rules is a :class:`~raftkv.errors.WireError`; the connection is closed then.
No memory is allocated for a length that was not compared with the limit of the phase.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

from attrs import frozen

from raftkv.errors import InvariantError, WireError
from raftkv.transport.base import (
    ANSWER_BYTES_MAX,
    QUESTION_BYTES_MAX,
    Code,
    Hello,
    Lane,
    Refusal,
)

__all__ = [
    "ANSWER_BYTES_MAX",
    "FRAME_OVERHEAD_BYTES",
    "HANDSHAKE_BYTES_MAX",
    "VERSIONS",
    "Code",
    "Frame",
    "FrameParser",
    "Greeting",
    "Refusal",
    "Versions",
    "decode_answer",
    "decode_greeting",
    "decode_question",
    "decode_refusal",
    "decode_welcome",
    "encode_answer",
    "encode_frame",
    "encode_greeting",
    "encode_question",
    "encode_refusal",
    "encode_welcome",
    "frame_header",
    "is_question",
    "is_refusal",
    "negotiate",
]

HANDSHAKE_BYTES_MAX: Final = 4096
ADDRESS_BYTES_MAX: Final = 300
DISK_UUID_BYTES_MAX: Final = 64
SENTENCE_BYTES_MAX: Final = 500
MAGIC: Final = b"\x89raftkv\n"

_HEADER: Final = struct.Struct("<IBI")  # payload length, type, checksum
_CHECKED: Final = struct.Struct("<IB")
FRAME_OVERHEAD_BYTES: Final = _HEADER.size

# magic, first and last version, cluster, sender, receiver, boot, boot token, last index,
# flags, lane, length of disk uuid and address
_HELLO: Final = struct.Struct("<8sHHQQQQ16sQQBBH")
# magic, version, cluster, sender, boot, boot token, last index, flags, uuid and address length
_WELCOME: Final = struct.Struct("<8sHQQQ16sQQBH")
_REFUSAL: Final = struct.Struct("<8sHH")  # magic, code, length of the sentence
# Flags of HELLO and WELCOME; a bit that is not known here is ignored.
_RECOVERING: Final = 1

# Frame types above the lanes' numbers.
_TYPE_HELLO: Final = 16
_TYPE_WELCOME: Final = 17
_TYPE_REFUSAL: Final = 18
_TYPE_QUESTION: Final = 19
_TYPE_ANSWER: Final = 20
_QUESTION: Final = struct.Struct("<8sHH")  # magic, first and last version; the question follows
_ANSWER: Final = struct.Struct("<8sH")  # magic, version; the answer follows


class Versions(NamedTuple):
    """The protocol versions that a member speaks, first and last."""

    first: int
    last: int


VERSIONS: Final = Versions(1, 1)


class Frame(NamedTuple):
    """A checked frame."""

    type: int
    payload: bytes


@frozen(slots=True)
class Greeting:
    """What a dialer says of itself, and whom it means to reach on which lane."""

    hello: Hello
    to: int
    lane: Lane
    versions: Versions = VERSIONS


# --- frames -------------------------------------------------------------------------------------


def frame_header(kind: int, payload: bytes) -> bytes:
    """What goes before ``payload`` on the wire."""
    size = len(payload)
    return _HEADER.pack(size, kind, crc32(payload, crc32(_CHECKED.pack(size, kind))))


def encode_frame(kind: int, payload: bytes) -> bytes:
    """A whole frame."""
    return frame_header(kind, payload) + payload


class FrameParser:
    """Cuts a stream into frames, however it arrives. ``limit`` is the largest payload, for now."""

    __slots__ = ("_buffer", "_wanted", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._wanted = FRAME_OVERHEAD_BYTES

    @property
    def is_mid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises WireError, which ends the stream."""
        if self._buffer:
            self._buffer += data
            # One comparison for each piece of a large frame, not a new look at its header.
            if len(self._buffer) < self._wanted:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames: list[Frame] = []
        offset, size = 0, len(data)
        self._wanted = FRAME_OVERHEAD_BYTES
        while size - offset >= FRAME_OVERHEAD_BYTES:
            length, kind, checksum = _HEADER.unpack_from(data, offset)
            if length > self.limit:
                raise WireError(f"a frame of {length} bytes, where at most {self.limit} may come")
            start = offset + FRAME_OVERHEAD_BYTES
            if start + length > size:
                self._wanted = FRAME_OVERHEAD_BYTES + length
                break
            payload = data[start : start + length]
            if crc32(payload, crc32(data[offset : offset + _CHECKED.size])) != checksum:
                raise WireError(f"a frame of {length} bytes fails its checksum")
            frames.append(Frame(kind, payload))
            offset = start + length
        if offset < size:
            self._buffer += data[offset:]
        return frames


# --- the handshake's payloads -------------------------------------------------------------------


def encode_greeting(greeting: Greeting) -> bytes:
    """The HELLO frame."""
    hello = greeting.hello
    address = hello.address.encode()
    header = _HELLO.pack(
        MAGIC,
        *greeting.versions,
        hello.cluster_id,
        hello.member_id,
        greeting.to,
        hello.boot,
        hello.boot_token,
        hello.last_index,
        _flags(hello),
        greeting.lane,
        len(hello.disk_uuid),
        len(address),
    )
    return encode_frame(_TYPE_HELLO, header + hello.disk_uuid + address)


def decode_greeting(frame: Frame) -> Greeting:
    """The greeting in a HELLO frame. Raises WireError."""
    payload = _opened(frame, _TYPE_HELLO, _HELLO, "HELLO")
    _, first, last, *fields, lane, uuid_size, address_size = _HELLO.unpack_from(payload)
    cluster, sender, to, boot, token, last_index, flags = fields
    if first > last:
        raise WireError(f"speaks versions {first} to {last}, which are none")
    if lane not in (Lane.RAFT, Lane.BULK):
        raise WireError(f"asks for the unknown lane {lane}")
    uuid, address = _identity(payload, _HELLO.size, uuid_size, address_size)
    recovering = bool(flags & _RECOVERING)
    hello = Hello(cluster, sender, uuid, boot, address, token, last_index, recovering)
    return Greeting(hello, to, Lane(lane), Versions(first, last))


def encode_welcome(version: int, hello: Hello) -> bytes:
    """The WELCOME frame."""
    address = hello.address.encode()
    header = _WELCOME.pack(
        MAGIC,
        version,
        hello.cluster_id,
        hello.member_id,
        hello.boot,
        hello.boot_token,
        hello.last_index,
        _flags(hello),
        len(hello.disk_uuid),
        len(address),
    )
    return encode_frame(_TYPE_WELCOME, header + hello.disk_uuid + address)


def decode_welcome(frame: Frame) -> tuple[int, Hello]:
    """The version and the other side in a WELCOME frame. Raises WireError."""
    payload = _opened(frame, _TYPE_WELCOME, _WELCOME, "WELCOME")
    _, version, *fields, uuid_size, address_size = _WELCOME.unpack_from(payload)
    cluster, sender, boot, token, last_index, flags = fields
    uuid, address = _identity(payload, _WELCOME.size, uuid_size, address_size)
    recovering = bool(flags & _RECOVERING)
    return version, Hello(cluster, sender, uuid, boot, address, token, last_index, recovering)


def encode_refusal(refusal: Refusal) -> bytes:
    """The REFUSAL frame; a long sentence is cut."""
    sentence = refusal.sentence.encode()[:SENTENCE_BYTES_MAX]
    header = _REFUSAL.pack(MAGIC, refusal.code, len(sentence))
    return encode_frame(_TYPE_REFUSAL, header + sentence)


def is_refusal(frame: Frame) -> bool:
    """Whether the frame is a REFUSAL."""
    return frame.type == _TYPE_REFUSAL


def decode_refusal(frame: Frame) -> Refusal:
    """The refusal in a REFUSAL frame, fit for a log. Raises WireError."""
    payload = _opened(frame, _TYPE_REFUSAL, _REFUSAL, "REFUSAL")
    _, code, size = _REFUSAL.unpack_from(payload)
    if size > SENTENCE_BYTES_MAX or _REFUSAL.size + size != len(payload):
        raise WireError(f"a REFUSAL of {len(payload)} bytes with a sentence of {size}")
    sentence = payload[_REFUSAL.size :].decode(errors="replace")
    return Refusal(code, _printable(sentence))


def encode_question(question: bytes) -> bytes:
    """The QUESTION frame of who is no member yet."""
    if len(question) > QUESTION_BYTES_MAX:
        raise InvariantError(f"a question of {len(question)} bytes")
    return encode_frame(_TYPE_QUESTION, _QUESTION.pack(MAGIC, *VERSIONS) + question)


def is_question(frame: Frame) -> bool:
    """Whether the frame is a QUESTION."""
    return frame.type == _TYPE_QUESTION


def decode_question(frame: Frame) -> tuple[Versions, bytes]:
    """The versions that the asker speaks, and what it asks. Raises WireError."""
    payload = _opened(frame, _TYPE_QUESTION, _QUESTION, "QUESTION")
    _, first, last = _QUESTION.unpack_from(payload)
    if first > last:
        raise WireError(f"speaks versions {first} to {last}, which are none")
    return Versions(first, last), payload[_QUESTION.size :]


def encode_answer(version: int, answer: bytes) -> bytes:
    """The ANSWER frame."""
    return encode_frame(_TYPE_ANSWER, _ANSWER.pack(MAGIC, version) + answer)


def decode_answer(frame: Frame) -> bytes:
    """What is answered. Raises WireError."""
    payload = _opened(frame, _TYPE_ANSWER, _ANSWER, "ANSWER")
    return payload[_ANSWER.size :]


def negotiate(ours: Versions, theirs: Versions) -> int | None:
    """The highest version that both speak."""
    best = min(ours.last, theirs.last)
    return best if best >= max(ours.first, theirs.first) else None


def _flags(hello: Hello) -> int:
    return _RECOVERING if hello.recovering else 0


def _opened(frame: Frame, kind: int, layout: struct.Struct, name: str) -> bytes:
    if frame.type != kind:
        raise WireError(f"a frame of type {frame.type} instead of {name}")
    if len(frame.payload) < layout.size or not frame.payload.startswith(MAGIC):
        raise WireError(f"a {name} that is not raftkv's")
    return frame.payload


def _identity(payload: bytes, start: int, uuid_size: int, address_size: int) -> tuple[bytes, str]:
    middle = start + uuid_size
    stop = middle + address_size
    if uuid_size > DISK_UUID_BYTES_MAX or address_size > ADDRESS_BYTES_MAX or stop > len(payload):
        raise WireError(f"a disk uuid of {uuid_size} and an address of {address_size} bytes")
    try:
        address = payload[middle:stop].decode("ascii")
    except UnicodeDecodeError as error:
        raise WireError("an address that is not ASCII") from error
    if not address.isprintable():
        raise WireError("an address that is not printable")
    return payload[start:middle], address


def _printable(text: str) -> str:
    # It ends in a log: no line breaks, no escape sequences for terminals.
    return "".join(each if each.isprintable() else "?" for each in text)
