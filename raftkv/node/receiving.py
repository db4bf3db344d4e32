"""The receiver's side of a snapshot: stages what arrives, and refuses what is no image.

One transfer at a time, chunk by chunk into the store: memory holds no more than the frames that
wait. The machine goes on from what it has until the image is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from zlib import crc32

from attrs import evolve

from raftkv.core.messages import InstallSnapshot
from raftkv.errors import MachineError, StorageCorruptError, StorageFormatError, WireError
from raftkv.node.disk import Disk
from raftkv.node.images import CHUNK_BYTES_MAX, Images, Staged
from raftkv.node.sending import Sender
from raftkv.node.snapshots import (
    Arrived,
    Flag,
    Frame,
    Kind,
    decode,
    decode_begin,
    decode_end,
    encode,
)
from raftkv.node.status import EventHub
from raftkv.runtime.base import Clock
from raftkv.transport.base import Lane, Transport

_log = logging.getLogger("raftkv.node")

_UNSYNCED_BYTES_MAX: Final = 4 * 1024 * 1024  # then a sync; one huge one in the end would take long


class Receiver:
    """Takes in snapshots, one at a time. Loop thread only."""

    def __init__(
        self,
        me: int,
        images: Images,
        disk: Disk,
        transport: Transport,
        sender: Sender,
        clock: Clock,
        events: EventHub,
        *,
        patience_ns: int,
    ) -> None:
        self._me = me
        self._images = images
        self._disk = disk
        self._transport = transport
        self._sender = sender
        self._clock = clock
        self._events = events
        self._patience_ns = patience_ns
        self._heard_ns = clock.monotonic_ns()
        self._asked: int | None = None  # the chunk that we asked for when one was missing
        self._unsynced_bytes = 0
        self.name_of: Callable[[int], str] = str
        """What to call a member in the log."""

    def on_frame(self, peer: int, data: bytes, applied: int) -> Arrived | InstallSnapshot | None:
        """A frame of a snapshot; the completed snapshot if this was its last.

        Or what the core is to answer, without the image: it is of what is ``applied`` already.
        """
        try:
            frame = decode(data)
            match frame.kind:
                case Kind.BEGIN:
                    return self._begin(peer, frame, applied)
                case Kind.CHUNK:
                    self._chunk(peer, frame)
                case Kind.END:
                    return self._end(peer, frame)
                case Kind.PROGRESS | Kind.ACCEPTED | Kind.BROKEN:
                    self._sender.answered(peer, frame)
                case kind:
                    raise WireError(f"a snapshot frame of unknown kind {kind}")
        except WireError as error:
            _log.warning("a snapshot frame of member %s is dropped: %s", self.name_of(peer), error)
            staged = self._images.staged
            if staged is not None and staged.peer == peer:
                self._tell(staged, Flag.AGAIN)  # it was lost on its way, as far as we can tell
        return None

    def sweep(self, now_ns: int, applied: int) -> None:
        """Let go of an image that nobody sends any more, or that the machine has left behind."""
        staged = self._images.staged
        if staged is None:
            return
        if now_ns - self._heard_ns < self._patience_ns and applied < staged.index:
            return
        _log.info("what was received of the snapshot at entry %d is dropped", staged.index)
        self._images.unstage(self._disk.batch)
        self._answer(Kind.BROKEN, staged.peer, staged.transfer)

    def _begin(self, peer: int, frame: Frame, applied: int) -> InstallSnapshot | None:
        message = decode_begin(frame.payload)
        if message.sender != peer or message.to != self._me:
            raise WireError(f"an InstallSnapshot of {message.sender} to {message.to}")
        images, batch = self._images, self._disk.batch
        index = message.snapshot.index
        if index <= applied:
            # Its sender missed our acknowledgements, and can send no entries instead: to refuse it
            # would bring it again and again. The core acknowledges what we have.
            self._answer(Kind.ACCEPTED, peer, frame.transfer)
            return message
        before = images.staged
        staged = Staged(peer, frame.transfer, index, frame.payload)
        if before is not None:
            if (before.peer, before.transfer, before.index) == (peer, frame.transfer, index):
                staged = evolve(before, message=frame.payload)
            elif message.term < _message(before).term:
                self._answer(Kind.BROKEN, peer, frame.transfer)  # of a leader that was
                return None
            else:
                self._answer(Kind.BROKEN, before.peer, before.transfer)
        images.stage(batch, staged)
        self._heard_ns = self._clock.monotonic_ns()
        self._tell(staged, Flag.AGAIN)
        self._asked = None
        return None

    def _chunk(self, peer: int, frame: Frame) -> None:
        staged = self._known(peer, frame)
        if staged is None:
            return
        if frame.number != staged.chunks:
            # One before this was lost: ask once, the others on their way do not fit either. What
            # we have already comes again when an answer was lost.
            if frame.number > staged.chunks and self._asked != staged.chunks:
                self._tell(staged, Flag.AGAIN)
            return
        if crc32(frame.payload, staged.crc) != frame.crc:
            raise WireError(f"chunk {frame.number} of a snapshot fails its checksum")
        if len(frame.payload) > CHUNK_BYTES_MAX:
            self._refuse(staged, f"chunk {frame.number} has {len(frame.payload)} bytes")
            return
        try:
            self._images.stage_chunk(self._disk.batch, frame.payload, frame.crc)
        except (MachineError, StorageCorruptError, StorageFormatError) as error:
            self._refuse(staged, str(error))
            return
        self._unsynced_bytes += len(frame.payload)
        if self._unsynced_bytes >= _UNSYNCED_BYTES_MAX:
            self._unsynced_bytes = 0
            self._disk.sync_soon(_nothing)
        self._answer(Kind.PROGRESS, peer, frame.transfer, staged.chunks + 1)

    def _end(self, peer: int, frame: Frame) -> Arrived | None:
        staged = self._known(peer, frame)
        if staged is None:
            return None
        if frame.number != staged.chunks:
            self._tell(staged, Flag.AGAIN)
            return None
        if decode_end(frame.payload) != staged.crc:
            self._refuse(staged, "what arrived is not what was sent")
            return None
        try:
            manifest = self._images.check_staged()
        except (MachineError, StorageCorruptError, StorageFormatError) as error:
            self._refuse(staged, str(error))
            return None
        self._answer(Kind.ACCEPTED, peer, frame.transfer)
        return Arrived(_message(staged), manifest)

    def _known(self, peer: int, frame: Frame) -> Staged | None:
        """What is staged, if the frame belongs to it; else its sender is told."""
        staged = self._images.staged
        if staged is None or (staged.peer, staged.transfer) != (peer, frame.transfer):
            self._answer(Kind.BROKEN, peer, frame.transfer)
            return None
        self._heard_ns = self._clock.monotonic_ns()
        return staged

    def _refuse(self, staged: Staged, why: str) -> None:
        what = (
            f"the snapshot at entry {staged.index} from member {staged.peer} is refused, and the"
            f" state stays what it was: {why}"
        )
        self._events.alarm(what)
        self._images.unstage(self._disk.batch)
        self._answer(Kind.BROKEN, staged.peer, staged.transfer)

    def _tell(self, staged: Staged, flags: Flag) -> None:
        self._asked = staged.chunks
        self._answer(Kind.PROGRESS, staged.peer, staged.transfer, staged.chunks, flags)

    def _answer(
        self, kind: Kind, peer: int, transfer: int, number: int = 0, flags: int = 0
    ) -> None:
        self._transport.send(peer, encode(kind, transfer, number, flags), Lane.BULK)


def _message(staged: Staged) -> InstallSnapshot:
    return decode_begin(staged.message)


def _nothing() -> None:
    pass
