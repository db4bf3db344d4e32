"""Carrying an image of the machine to a member whose log ends before ours begins.

The core decides when and to whom; it sees one InstallSnapshot message. Here the message goes first,
then the image behind it in pieces, on the bulk lane, at the pace of that lane::

    kind u8 | transfer u64 | number u32 | flags u8 | CRC-32 of the payload u32 | payload

BEGIN carries the message, PIECE a part of a chunk (flags: ends the chunk, ends the image), and the
receiver answers ACCEPTED or BROKEN. It keeps whole chunks in its store, unseen by the machine, so
that its memory holds one chunk at a time; only a complete image reaches the core, as the message.
What is lost or out of order breaks the transfer, and the core begins another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError
from typing import Final
from zlib import crc32

import anyio
from attrs import evolve, frozen

from raftkv.core.messages import InstallSnapshot
from raftkv.errors import WireError
from raftkv.node.images import CHUNK_BYTES_MAX, Images, Manifest, Source, pieces
from raftkv.runtime.base import Clock, Promise, Spawner, Worker
from raftkv.storage.base import AppliedMark, Batch
from raftkv.transport.base import Lane, Transport
from raftkv.transport.codec import decode_messages, encode_messages

_log = logging.getLogger("raftkv.node")

_HEAD: Final = Struct("<BQIBI")


class _Kind(IntEnum):
    """What a bulk frame is. The numbers are on the wire: they never change."""

    BEGIN = 1
    PIECE = 2
    ACCEPTED = 3
    BROKEN = 4


class _Flag(IntFlag):
    """What a piece ends."""

    CHUNK = 1
    IMAGE = 2


@frozen(slots=True)
class _Frame:
    kind: int
    transfer: int
    number: int
    flags: int
    payload: bytes


def _encode(
    kind: _Kind, transfer: int, number: int = 0, flags: int = 0, payload: bytes = b""
) -> bytes:
    return _HEAD.pack(kind, transfer, number, flags, crc32(payload)) + payload


def _decode(frame: bytes) -> _Frame:
    try:
        kind, transfer, number, flags, crc = _HEAD.unpack_from(frame)
    except StructError as error:
        raise WireError(f"a bulk frame of {len(frame)} bytes: {error}") from error
    payload = frame[_HEAD.size :]
    if crc32(payload) != crc:
        raise WireError(f"piece {number} of a snapshot fails its checksum")
    return _Frame(kind, transfer, number, flags, payload)


class _Sending:
    """A snapshot on its way to one peer."""

    def __init__(self, transfer: int, answer: Promise[object]) -> None:
        self.transfer = transfer
        self.answer = answer
        self.deadline_ns = 0  # set when the last piece is queued

    def settle(self, accepted: bool) -> None:
        if not self.answer.done():
            self.answer.set_result(accepted)


class Sender:
    """Sends snapshots, at most one at a time to each peer."""

    def __init__(
        self,
        images: Images,
        transport: Transport,
        worker: Worker,
        spawner: Spawner,
        clock: Clock,
        promise: Callable[[], Promise[object]],
        *,
        piece_bytes_max: int,
        answer_ns_max: int,
    ) -> None:
        self._images = images
        self._transport = transport
        self._worker = worker
        self._spawner = spawner
        self._clock = clock
        self._promise = promise
        self._piece_bytes_max = piece_bytes_max
        self._answer_ns_max = answer_ns_max
        self._transfers = 0
        self._sending: dict[int, _Sending] = {}
        self.on_ended: Callable[[int, bool], None] | None = None
        """Told for each snapshot that the peer has it, or that it will not get it."""

    def begin(self, message: InstallSnapshot, applied: AppliedMark) -> None:
        """Send the newest image there is, which is at least as new as the one the core names."""
        peer = message.to
        if peer in self._sending:
            return  # the core's patience is shorter than the way: the first attempt goes on
        source = self._images.source(applied)
        if source is None:
            self._ended(peer, False)
            return
        self._transfers += 1
        sending = _Sending(self._transfers, self._promise())
        self._sending[peer] = sending
        newest = evolve(message, snapshot=source.snapshot)

        async def send() -> None:
            delivered = False
            try:
                delivered = await self._send(sending, newest, source)
            finally:
                source.view.close()
                del self._sending[peer]
                self._ended(peer, delivered)

        self._spawner.spawn(f"snapshot to {peer}", send)

    def _ended(self, peer: int, delivered: bool) -> None:
        if self.on_ended is not None:
            self.on_ended(peer, delivered)

    def answered(self, peer: int, transfer: int, accepted: bool) -> None:
        """The receiver says how it went."""
        sending = self._sending.get(peer)
        if sending is not None and sending.transfer == transfer:
            sending.settle(accepted)

    def lost(self, peer: int) -> None:
        """The connection to the peer broke, and with it what was on its way."""
        sending = self._sending.get(peer)
        if sending is not None:
            sending.settle(False)

    def sweep(self, now_ns: int) -> None:
        """Give up peers that never answered."""
        for sending in self._sending.values():
            if 0 < sending.deadline_ns <= now_ns:
                sending.settle(False)

    async def _send(self, sending: _Sending, message: InstallSnapshot, source: Source) -> bool:
        peer, transfer = message.to, sending.transfer
        index = message.snapshot.index
        _log.info("sending the snapshot at entry %d to member %d", index, peer)
        head = encode_messages((message,))
        if not await self._put(sending, peer, _encode(_Kind.BEGIN, transfer, payload=head)):
            return False
        number = 0
        chunk = await self._next(source)
        while True:
            following = None if chunk is None else await self._next(source)
            for piece, ends_chunk in pieces(chunk or b"", self._piece_bytes_max):
                flags = _Flag.CHUNK if ends_chunk and chunk is not None else _Flag(0)
                if ends_chunk and following is None:
                    flags |= _Flag.IMAGE
                frame = _encode(_Kind.PIECE, transfer, number, flags, piece)
                if not await self._put(sending, peer, frame):
                    return False
                number += 1
            if following is None:
                break
            chunk = following
        sending.deadline_ns = self._clock.monotonic_ns() + self._answer_ns_max
        return bool(await sending.answer)

    async def _next(self, source: Source) -> bytes | None:
        # Shielded: the view must not be closed under a thread that reads it.
        with anyio.CancelScope(shield=True):
            return await self._worker.run(lambda: next(source.chunks, None))

    async def _put(self, sending: _Sending, peer: int, frame: bytes) -> bool:
        if not await self._transport.drained(peer, Lane.BULK):
            return False
        # An answer before the end says that the receiver has given up, or is gone.
        return not sending.answer.done() and self._transport.send(peer, frame, Lane.BULK)


class _Receiving:
    """A snapshot while it arrives."""

    def __init__(self, peer: int, transfer: int, message: InstallSnapshot) -> None:
        self.peer = peer
        self.transfer = transfer
        self.message = message
        self.expected = 0
        self.chunks = 0
        self.crc = 0
        self.parts: list[bytes] = []
        self.size_bytes = 0

    @property
    def index(self) -> int:
        return self.message.snapshot.index


@frozen(slots=True)
class Arrived:
    """A complete image, its chunks in the store, and the message it belongs to."""

    message: InstallSnapshot
    manifest: Manifest


class Receiver:
    """Takes in snapshots, one at a time: a newer one replaces what had begun."""

    def __init__(self, me: int, images: Images, transport: Transport, sender: Sender) -> None:
        self._me = me
        self._images = images
        self._transport = transport
        self._sender = sender
        self._receiving: _Receiving | None = None

    def on_frame(self, peer: int, data: bytes, open_batch: Callable[[], Batch]) -> Arrived | None:
        """A bulk frame; the completed snapshot if this was its last piece."""
        try:
            frame = _decode(data)
            match frame.kind:
                case _Kind.BEGIN:
                    self._begin(peer, frame, open_batch)
                case _Kind.PIECE:
                    return self._piece(peer, frame, open_batch)
                case _Kind.ACCEPTED | _Kind.BROKEN:
                    self._sender.answered(peer, frame.transfer, frame.kind == _Kind.ACCEPTED)
                case kind:
                    raise WireError(f"a bulk frame of unknown kind {kind}")
        except WireError as error:
            _log.warning("snapshot from member %d broken off: %s", peer, error)
            self._break(peer, open_batch)
        return None

    def _begin(self, peer: int, frame: _Frame, open_batch: Callable[[], Batch]) -> None:
        (message, *more) = decode_messages(frame.payload)  # which refuses impossible indexes
        if not isinstance(message, InstallSnapshot) or more:
            raise WireError("a transfer begins with one InstallSnapshot message")
        if message.sender != peer or message.to != self._me:
            raise WireError(f"an InstallSnapshot of {message.sender} to {message.to}")
        before = self._receiving
        if before is not None:
            self._answer(_Kind.BROKEN, before)
            self._images.forget(open_batch(), before.index)
        self._images.forget(open_batch(), message.snapshot.index)
        self._receiving = _Receiving(peer, frame.transfer, message)

    def _piece(self, peer: int, frame: _Frame, open_batch: Callable[[], Batch]) -> Arrived | None:
        now = self._receiving
        if now is None or now.peer != peer or now.transfer != frame.transfer:
            # Of a transfer that was broken off, or whose beginning was lost: tell the sender.
            self._transport.send(peer, _encode(_Kind.BROKEN, frame.transfer), Lane.BULK)
            return None
        if frame.number != now.expected:
            raise WireError(f"piece {frame.number} arrived instead of {now.expected}")
        now.expected += 1
        now.size_bytes += len(frame.payload)
        if now.size_bytes > CHUNK_BYTES_MAX:
            raise WireError(f"a chunk of an image exceeds {CHUNK_BYTES_MAX} bytes")
        now.parts.append(frame.payload)
        if frame.flags & _Flag.CHUNK:
            chunk = b"".join(now.parts)
            now.parts.clear()
            now.size_bytes = 0
            now.crc = crc32(chunk, now.crc)
            self._images.put_chunk(open_batch(), now.index, now.chunks, chunk)
            now.chunks += 1
        if not frame.flags & _Flag.IMAGE:
            return None
        self._receiving = None
        self._answer(_Kind.ACCEPTED, now)
        return Arrived(now.message, Manifest(now.index, now.chunks, now.crc))

    def lost(self, peer: int, open_batch: Callable[[], Batch]) -> None:
        """The connection to the peer broke: nothing more will come."""
        if self._receiving is not None and self._receiving.peer == peer:
            self._break(peer, open_batch)

    def _break(self, peer: int, open_batch: Callable[[], Batch]) -> None:
        now = self._receiving
        if now is not None and now.peer == peer:
            self._receiving = None
            self._images.forget(open_batch(), now.index)
            self._answer(_Kind.BROKEN, now)

    def _answer(self, kind: _Kind, what: _Receiving) -> None:
        self._transport.send(what.peer, _encode(kind, what.transfer), Lane.BULK)
