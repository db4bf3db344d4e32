"""The sender's side of a snapshot: reads a frozen view, and keeps at it until the peer has it all.

What a transfer costs the leader is bounded: a window of unconfirmed chunks, one view of the store
(which keeps replaced rows from being reclaimed), one chunk at a time read in the ``snapshot``
worker, and so many bytes a second, for all peers together.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from zlib import crc32

import anyio
from attrs import evolve

from raftkv.core.messages import InstallSnapshot
from raftkv.node.images import Images, Source
from raftkv.node.pace import Pace
from raftkv.node.snapshots import (
    Flag,
    Frame,
    Kind,
    encode,
    encode_chunk,
    encode_end,
    transfer_of,
)
from raftkv.runtime.base import Clock, Spawner, Waker, Worker
from raftkv.storage.base import AppliedMark
from raftkv.transport.base import Lane, Transport
from raftkv.transport.codec import encode_messages

_log = logging.getLogger("raftkv.node")


class _Sending:
    """A snapshot on its way to one peer."""

    def __init__(
        self, transfer: int, message: InstallSnapshot, source: Source, waker: Waker, now_ns: int
    ) -> None:
        self.transfer = transfer
        self.message = message
        self.source = source
        self.waker = waker
        # Chunks from `acked` on that were read; the peer has those before. `sent` is the next one
        # to send, and behind the last one (`total`, once it is known) comes the end.
        self.window: deque[tuple[bytes, int]] = deque()  # chunk, checksum of all up to its end
        self.window_bytes = 0
        self.acked = 0
        self.sent = 0
        self.total: int | None = None
        self.crc = 0
        self.is_held = False
        self.must_ask = True
        self.asked_ns: int | None = None
        self.heard_ns = now_ns  # of the peer, or asked it
        self.moved_ns = now_ns  # the peer had more than before
        self.delivered: bool | None = None

    @property
    def read(self) -> int:
        """How many chunks were read so far."""
        return self.acked + len(self.window)

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send now."""
        if self.is_held or self.must_ask or self.delivered is not None:
            return False
        return self.sent < self.read or self.sent == self.total

    def ask_again(self) -> None:
        """Nobody knows what the peer has."""
        self.must_ask = True
        self.asked_ns = None
        self.waker.set()

    def end(self, delivered: bool) -> None:
        """The peer has it, or will never."""
        if self.delivered is None:
            self.delivered = delivered
        self.waker.set()

    def progress(self, number: int, again: bool, now_ns: int) -> None:
        """The peer has ``number`` chunks."""
        if not self.acked <= number <= self.read:
            self.end(False)  # it forgot what it had confirmed, and the view has moved on
            return
        if number > self.acked:
            self.moved_ns = now_ns
        while self.acked < number:
            self.window_bytes -= len(self.window.popleft()[0])
            self.acked += 1
        self.sent = number if again else max(self.sent, number)
        if again:
            self.must_ask = False
        self.heard_ns = now_ns
        self.waker.set()


class Sender:
    """Sends snapshots, at most one at a time to each peer. Loop thread only."""

    def __init__(
        self,
        images: Images,
        transport: Transport,
        worker: Worker,
        spawner: Spawner,
        clock: Clock,
        waker: Callable[[], Waker],
        *,
        boot: int,
        bytes_per_second: float,
        inflight_bytes_max: int,
        retry_ns: int,
        patience_ns: int,
    ) -> None:
        self._images = images
        self._transport = transport
        self._worker = worker
        self._spawner = spawner
        self._clock = clock
        self._waker = waker
        self._boot = boot
        self._pace = Pace(clock, bytes_per_second)
        self._inflight_bytes_max = inflight_bytes_max
        self._retry_ns = retry_ns
        self._patience_ns = patience_ns
        self._transfers = 0
        self._sending: dict[int, _Sending] = {}
        self.on_ended: Callable[[int, bool], None] | None = None
        """Told for each snapshot that the peer has it, or that it will not get it."""
        self.name_of: Callable[[int], str] = str
        """What to call a member in the log."""

    def begin(self, message: InstallSnapshot, applied: AppliedMark) -> bool:
        """Send the newest image there is, which is at least as new as the one the core names.

        One that is on its way already goes on, under the newest term. False if there is none yet:
        the core names the beginning of the cluster, which an in-memory machine has no image of.
        """
        peer = message.to
        sending = self._sending.get(peer)
        if sending is not None:
            newer = evolve(message, snapshot=sending.message.snapshot)
            if sending.is_held or newer != sending.message:
                sending.is_held = False
                sending.message = newer
                sending.ask_again()
            return True
        source = self._images.source(applied)
        if source is None:
            self._ended(peer, False)
            return False
        self._transfers += 1
        sending = self._sending[peer] = _Sending(
            transfer_of(self._boot, self._transfers),
            evolve(message, snapshot=evolve(source.snapshot, data=message.snapshot.data)),
            source,
            self._waker(),
            self._clock.monotonic_ns(),
        )
        self._spawner.spawn(f"snapshot to {peer}", lambda: self._send(peer, sending))
        return True

    def answered(self, peer: int, frame: Frame) -> None:
        """The receiver says how it goes."""
        sending = self._sending.get(peer)
        if sending is None or sending.transfer != frame.transfer:
            return
        if frame.kind == Kind.PROGRESS:
            again = bool(frame.flags & Flag.AGAIN)
            sending.progress(frame.number, again, self._clock.monotonic_ns())
        else:
            sending.end(frame.kind == Kind.ACCEPTED)

    def lost(self, peer: int) -> None:
        """The connection to the peer broke, and with it what was on its way."""
        sending = self._sending.get(peer)
        if sending is not None:
            sending.ask_again()

    def hold(self) -> None:
        """Nobody wants the snapshots now; who asks for one soon goes on with it."""
        for sending in self._sending.values():
            sending.is_held = True

    def oldest_index(self) -> int | None:
        """The entry of the oldest snapshot on its way; None if there is none."""
        return min((one.message.snapshot.index for one in self._sending.values()), default=None)

    def sweep(self, now_ns: int) -> None:
        """Ask peers that have fallen silent, and give up those that stay so."""
        for sending in self._sending.values():
            if now_ns - sending.moved_ns >= self._patience_ns:
                sending.end(False)
            elif now_ns - sending.heard_ns >= self._retry_ns and not sending.must_ask:
                sending.ask_again()
            elif sending.must_ask:
                sending.waker.set()

    def _ended(self, peer: int, delivered: bool) -> None:
        if self.on_ended is not None:
            self.on_ended(peer, delivered)

    async def _send(self, peer: int, sending: _Sending) -> None:
        index, name = sending.message.snapshot.index, self.name_of(peer)
        _log.info("sending the snapshot at entry %d to member %s", index, name)
        try:
            try:
                await self._run(peer, sending)
            finally:
                sending.window.clear()
                sending.source.view.close()
            if not sending.delivered:
                # Not at once: a peer that cannot take our image would be sent it without end.
                await self._clock.sleep_until(self._clock.monotonic_ns() + self._retry_ns)
        finally:
            del self._sending[peer]
        self._ended(peer, bool(sending.delivered))

    async def _run(self, peer: int, sending: _Sending) -> None:
        while sending.delivered is None:
            if sending.must_ask and not sending.is_held:
                self._ask(peer, sending)
                await sending.waker.wait()
            elif self._may_read(sending):
                await self._read(sending)
            elif sending.has_unsent:
                await self._send_next(peer, sending)
            else:
                await sending.waker.wait()

    def _ask(self, peer: int, sending: _Sending) -> None:
        now = self._clock.monotonic_ns()
        if sending.asked_ns is None or now - sending.asked_ns >= self._retry_ns:
            sending.asked_ns = sending.heard_ns = now
            head = encode_messages((sending.message,))
            begin = encode(Kind.BEGIN, sending.transfer, payload=head)
            self._transport.send(peer, begin, Lane.BULK)

    def _may_read(self, sending: _Sending) -> bool:
        return (
            not sending.is_held
            and sending.total is None
            and sending.sent == sending.read
            and sending.window_bytes < self._inflight_bytes_max
        )

    async def _read(self, sending: _Sending) -> None:
        chunk = await self._next(sending.source)
        if chunk is None:
            sending.total = sending.read
        else:
            sending.crc = crc32(chunk, sending.crc)
            sending.window.append((chunk, sending.crc))
            sending.window_bytes += len(chunk)

    async def _next(self, source: Source) -> bytes | None:
        # Shielded: the view must not be closed under a thread that reads it.
        with anyio.CancelScope(shield=True):
            return await self._worker.run(lambda: next(source.chunks, None))

    async def _send_next(self, peer: int, sending: _Sending) -> None:
        ends = sending.sent == sending.total
        size = 0 if ends else len(sending.window[sending.sent - sending.acked][0])
        await self._pace.take(size)
        if not await self._transport.drained(peer, Lane.BULK):
            sending.must_ask = True
            sending.asked_ns = self._clock.monotonic_ns()  # not at once: there is no connection
            return
        if not sending.has_unsent:
            return  # while we waited the peer told otherwise
        number, transfer = sending.sent, sending.transfer
        if number == sending.total:
            frame = encode_end(transfer, number, sending.crc)
        else:
            chunk, crc = sending.window[number - sending.acked]
            frame = encode_chunk(transfer, number, crc, chunk)
        if self._transport.send(peer, frame, Lane.BULK):
            sending.sent += 1
        else:
            sending.ask_again()
