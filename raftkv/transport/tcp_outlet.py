"""The way out: one lane to one peer, dialled, held, and dialled again."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_address
from os import strerror
from typing import Final, Protocol

import anyio

from raftkv.errors import TransportError, WireError
from raftkv.transport.base import Lane
from raftkv.transport.session import Dialer
from raftkv.transport.tcp_channel import Channel, Cipher, reason_of, tune
from raftkv.transport.tcp_context import Context
from raftkv.transport.tcp_settings import Address, Limits
from raftkv.transport.wire import FRAME_OVERHEAD_BYTES, Greeting, frame_header

__all__ = ["Hub", "Outlet", "dial"]

_log = logging.getLogger("raftkv.transport")

_JOIN_BYTES_MAX: Final = 2**20  # one write; more would copy a full queue at once
_ADDRESSES_MAX: Final = 4  # that a host's name stands for; each gets its share of time


class Hub(Protocol):
    """What an outlet asks of its transport."""

    def dialling_cipher(self, host: str) -> Cipher | None:
        """TLS for a connection to ``host``; None in the clear. Raises TransportError."""
        ...


class Outlet:
    """Frames of one lane to one peer.

    While connected it queues up to the lane's bound and sends everything queued in one turn of the
    loop in one write; while not, it drops.
    """

    def __init__(self, hub: Hub, context: Context, peer: int, address: Address, lane: Lane) -> None:
        self.peer = peer
        self.address = address
        self.deadline_ns = 0
        """When :meth:`expire` is due; 0 for never."""
        self._hub = hub
        self._context = context
        self._lane = lane
        limits = context.limits
        self._queue_bytes_max = (
            limits.raft_queue_bytes_max if lane is Lane.RAFT else limits.bulk_queue_bytes_max
        )
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._channel: Channel | None = None
        self._dialer: Dialer | None = None
        self._is_up = False
        self._was_up = False
        self._ended = anyio.Event()
        self._end_reason = ""
        self._last_reason: str | None = None
        self._waiters: list[anyio.Event] = []
        self._life = anyio.CancelScope()
        self._attempt: anyio.CancelScope | None = None
        self._nap: anyio.CancelScope | None = None

    # --- frames ---

    @property
    def queued_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        channel = self._channel
        return self._parts_bytes + (0 if channel is None else channel.unsent_bytes)

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False if it was dropped."""
        size = FRAME_OVERHEAD_BYTES + len(frame)
        if not self._is_up or self.queued_bytes + size > self._queue_bytes_max:
            return False
        if not self._parts:
            # When this turn is over: all its frames in one write.
            self._context.reactor.soon(self.flush)
        self._parts.append(frame_header(self._lane, frame))
        self._parts.append(frame)
        self._parts_bytes += size
        return True

    def flush(self) -> None:
        """Write what is queued, as far as the kernel takes it."""
        channel = self._channel
        while self._parts and self._is_up and channel is not None and not channel.unsent_bytes:
            channel.write(self._take())
        self._wake()

    def _take(self) -> bytes:
        parts = self._parts
        if self._parts_bytes <= _JOIN_BYTES_MAX:
            self._parts = []
            self._parts_bytes = 0
            return b"".join(parts)
        count = size = 0
        while count < len(parts) and size < _JOIN_BYTES_MAX:
            size += len(parts[count])
            count += 1
        taken, self._parts = parts[:count], parts[count:]
        self._parts_bytes -= size
        return b"".join(taken)

    async def drained(self) -> bool:
        """Wait until at most half of the queue is taken; False if the connection is not up."""
        while self._is_up and 2 * self.queued_bytes > self._queue_bytes_max:
            waiter = anyio.Event()
            self._waiters.append(waiter)
            await waiter.wait()
        return self._is_up

    def _wake(self) -> None:
        if self._waiters and (not self._is_up or 2 * self.queued_bytes <= self._queue_bytes_max):
            for waiter in self._waiters:
                waiter.set()
            self._waiters.clear()

    # --- the connection ---

    async def run(self) -> None:
        """Keep the peer connected until :meth:`stop`. A task of the transport's ``serve``."""
        failures = 0
        with self._life:
            while True:
                try:
                    await self._hold_connection()
                finally:
                    # If cancelled, nobody is left to be told.
                    self._drop_connection(tell=not self._life.cancel_called)
                self._report()
                failures = 0 if self._was_up else failures + 1
                await self._pause(failures)

    def stop(self) -> None:
        """Close the connection and end the task."""
        self._drop_connection(tell=True)
        self._life.cancel()

    def abandon(self) -> None:
        """The same without telling the receiver: its own end has come."""
        self._drop_connection(tell=False)
        self._life.cancel()

    def hurry(self) -> None:
        """The peer was seen alive: dial now rather than later."""
        if self._nap is not None:
            self._nap.cancel()

    def expire(self) -> None:
        """The deadline of the attempt passed."""
        self.deadline_ns = 0
        self._end_reason = "it did not answer in time"
        self._ended.set()
        if self._attempt is not None:
            self._attempt.cancel()

    async def _hold_connection(self) -> None:
        """Dial, and wait until the connection ends."""
        context = self._context
        self._was_up = False
        self._ended = anyio.Event()
        self._end_reason = "it did not answer in time"
        self.deadline_ns = context.deadline_ns(context.limits.connect_seconds)
        sock: socket.socket | None = None
        with anyio.CancelScope() as self._attempt:
            sock = await self._dial()
        self._attempt = None
        if sock is None:
            return
        try:
            cipher = self._hub.dialling_cipher(self.address.host)
        except TransportError as error:
            self._end_reason = str(error)
            sock.close()
            return
        self.deadline_ns = context.deadline_ns(context.limits.handshake_seconds)
        greeting = Greeting(context.hello, self.peer, self._lane)
        self._dialer = Dialer(greeting, context.receiver.accepts)
        self._channel = Channel(sock, context.reactor, cipher, context.limits)
        self._channel.start(self)
        await self._ended.wait()

    async def _dial(self) -> socket.socket | None:
        """A connected socket, or None with the reason left behind."""
        context = self._context
        try:
            return await dial(self.address, context.limits, context.loopback_only)
        except OSError as error:
            self._end_reason = reason_of(error)
            return None

    def _drop_connection(self, *, tell: bool) -> None:
        channel, self._channel = self._channel, None
        is_lost, self._is_up = self._is_up, False
        self.deadline_ns = 0
        self._dialer = None
        self._parts = []
        self._parts_bytes = 0
        self._wake()
        if channel is not None:
            channel.close()
        if is_lost and tell and self._lane is Lane.RAFT:
            self._context.receiver.on_down(self.peer)

    async def _pause(self, failures: int) -> None:
        limits, runtime = self._context.limits, self._context.runtime
        seconds = limits.backoff_seconds_min * 2 ** min(failures, 30)
        longest = round(min(seconds, limits.backoff_seconds_max) * 1e9)
        pause = longest - runtime.rng.below(longest // 2 + 1)
        with anyio.CancelScope() as self._nap:
            await runtime.clock.sleep_until(runtime.clock.monotonic_ns() + pause)
        self._nap = None

    def _report(self) -> None:
        """One line for each end of a connection, and for each new reason of not getting one."""
        if self._was_up:
            text = "connection to member %s at %s lost: %s"
        elif self._end_reason == self._last_reason:
            return
        else:
            text = "cannot connect to member %s at %s, and tries on: %s"
        self._last_reason = self._end_reason
        # Both lanes of a peer fare alike: BULK is for those who look closer.
        level = logging.WARNING if self._lane is Lane.RAFT else logging.DEBUG
        name = self._context.receiver.name_of(self.peer)
        _log.log(level, text, name, self.address, self._end_reason)

    # --- the channel's calls ---

    def on_ready(self) -> None:
        """Introduce ourselves."""
        if self._channel is not None and self._dialer is not None:
            self._channel.write(self._dialer.hello())

    def on_data(self, data: bytes) -> None:
        """Hear the answer, and nothing behind it."""
        dialer = self._dialer
        if dialer is None:
            return
        try:
            dialer.receive(data)
        except WireError:
            if dialer.refusal is not None:
                self._context.receiver.on_refused(self.peer, dialer.refusal)
            raise
        if dialer.peer is not None:
            self.deadline_ns = 0
            self._last_reason = None
            self._is_up = self._was_up = True
            self._context.receiver.on_up(self.peer, dialer.peer)

    def on_writable(self) -> None:
        """Go on sending."""
        self.flush()

    def on_end(self, reason: str, *, hostile: bool) -> None:
        """Have the task see to it; from now on ``put`` drops."""
        self._end_reason = reason
        self._ended.set()
        self._drop_connection(tell=True)


async def dial(address: Address, limits: Limits, loopback_only: bool) -> socket.socket:
    """A connected socket. Raises OSError, with the reason of the last address that was tried."""
    try:
        found = await _resolve(address)
    except OSError as error:
        raise OSError(f"its name cannot be resolved: {reason_of(error)}") from error
    refusal = OSError("its name stands for nothing")
    for family, where in found[:_ADDRESSES_MAX]:
        if loopback_only and not Address(where[0], where[1]).is_loopback:
            refusal = OSError(f"its name stands for {where[0]}, which is not loopback")
            continue
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            tune(sock, limits)
            await _connect(sock, where)
        except OSError as error:
            sock.close()
            refusal = error
        except BaseException:  # cancelled: by a deadline or by our owner
            sock.close()
            raise
        else:
            return sock
    raise refusal


async def _resolve(
    address: Address,
) -> list[tuple[int, tuple[str, int] | tuple[str, int, int, int]]]:
    """Families and socket addresses that the host stands for; a literal needs no look-up."""
    try:
        literal = ip_address(address.host)
    except ValueError:
        found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [(int(family), where) for family, _, _, _, where in found]
    family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
    return [(int(family), (address.host, address.port))]


async def _connect(sock: socket.socket, address: tuple[object, ...]) -> None:
    try:
        sock.connect(address)
    except BlockingIOError:
        await anyio.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, strerror(code)) from None
