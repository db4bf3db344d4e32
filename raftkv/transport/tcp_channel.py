"""A connected socket as bytes in and bytes out, in the clear or through TLS. Knows no frames."""

from __future__ import annotations

import socket
from typing import Protocol

from raftkv.errors import WireError
from raftkv.transport.tcp_reactor import Reactor, Stop
from raftkv.transport.tcp_settings import Limits

__all__ = ["Channel", "Cipher", "User", "tune"]

_STRANGER_READ_BYTES = 16 * 2**10


class Cipher(Protocol):
    """TLS without I/O: bytes of the wire on one side, ours on the other. Raises WireError."""

    @property
    def is_ready(self) -> bool:
        """Whether its handshake is over, and the peer's certificate is good."""
        ...

    def begin(self) -> bytes:
        """What to send before anything was received."""
        ...

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Bytes of the wire; answers (bytes for us, bytes to send)."""
        ...

    def send(self, data: bytes) -> bytes:
        """Bytes of ours; answers what to send. Only when ready."""
        ...

    def farewell(self) -> bytes:
        """What to send last: an alert, or that this is the end."""
        ...


class User(Protocol):
    """Whose channel it is. Called on the loop."""

    def on_ready(self) -> None:
        """The channel can be used."""
        ...

    def on_data(self, data: bytes) -> None:
        """Bytes arrived. A WireError raised here ends the channel with its sentence."""
        ...

    def on_writable(self) -> None:
        """Everything written before was taken by the kernel."""
        ...

    def on_end(self, reason: str, *, hostile: bool) -> None:
        """The channel is closed, not by us: why, and whether a rule was broken. Called once."""
        ...


class Channel:
    """One connection. It is closed by either side once; :meth:`close` never calls the user back."""

    def __init__(
        self, sock: socket.socket, reactor: Reactor, cipher: Cipher | None, limits: Limits
    ) -> None:
        self.is_closed = False
        self.is_trusted = False
        """Set by the user after its handshake: larger reads from then on."""
        self._sock = sock
        self._reactor = reactor
        self._cipher = cipher
        self._limits = limits
        self._unsent = bytearray()
        self._stop_reading: Stop | None = None
        self._stop_writing: Stop | None = None
        self._user: User | None = None

    @property
    def unsent_bytes(self) -> int:
        """Written, and not taken by the kernel yet."""
        return len(self._unsent)

    def start(self, user: User) -> None:
        """Begin to read, and to call ``user``."""
        self._user = user
        self._stop_reading = self._reactor.when_readable(self._sock, self._readable)
        if self._cipher is None:
            user.on_ready()
        else:
            self._put(self._cipher.begin())

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, and the rest when it takes more."""
        if not self.is_closed:
            self._put(data if self._cipher is None else self._cipher.send(data))

    def close(self) -> None:
        """Say farewell as far as the kernel takes it without waiting, and close."""
        if self.is_closed:
            return
        if self._cipher is not None:
            self._put(self._cipher.farewell())
        self.is_closed = True
        for stop in (self._stop_reading, self._stop_writing):
            if stop is not None:
                stop()
        self._sock.close()
        self._unsent.clear()

    # --- the reactor's calls ---

    def _readable(self) -> None:
        if self.is_closed:
            return
        size = self._limits.read_bytes_max if self.is_trusted else _STRANGER_READ_BYTES
        try:
            data = self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(reason_of(error))
            return
        if not data:
            self._end("it was closed by the other side")
            return
        try:
            self._take(data)
        except WireError as error:
            self._end(str(error), hostile=True)

    def _take(self, data: bytes) -> None:
        user, cipher = self._user, self._cipher
        if user is None:
            return
        if cipher is None:
            user.on_data(data)
            return
        was_ready = cipher.is_ready
        clear, answer = cipher.receive(data)
        self._put(answer)
        if cipher.is_ready and not was_ready and not self.is_closed:
            user.on_ready()
        if clear and not self.is_closed:
            user.on_data(clear)

    def _writable(self) -> None:
        if self.is_closed:
            return
        self._flush()
        if not self._unsent and self._stop_writing is not None:
            self._stop_writing()
            self._stop_writing = None
            if self._user is not None:
                self._user.on_writable()

    # --- the way out ---

    def _put(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            if not self.is_closed and self._stop_writing is None:
                self._stop_writing = self._reactor.when_writable(self._sock, self._writable)

    def _flush(self) -> None:
        sent = self._send(self._unsent)
        del self._unsent[:sent]

    def _send(self, data: bytes | bytearray) -> int:
        """How many bytes the kernel takes. A broken connection takes all: reading will tell."""
        if not data:
            return 0
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return len(data)

    def _end(self, reason: str, *, hostile: bool = False) -> None:
        user = self._user
        if self.is_closed or user is None:
            return
        self.close()
        user.on_end(reason, hostile=hostile)


def reason_of(error: OSError) -> str:
    """An operating system's error as words for a log."""
    return (error.strerror or str(error)).lower()


def tune(sock: socket.socket, limits: Limits) -> None:
    """Small frames leave at once, and a dead peer is noticed."""
    tcp = socket.IPPROTO_TCP
    keepalive = max(1, round(limits.keepalive_seconds))
    sock.setblocking(False)
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, keepalive)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, max(1, keepalive // 3))
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(
        tcp, socket.TCP_USER_TIMEOUT, max(1, round(limits.unacknowledged_seconds * 1000))
    )
