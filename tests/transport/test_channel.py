"""A channel against a socket pair: writes that the kernel does not take, reads, and the end."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator

import pytest
from anyio.lowlevel import checkpoint
from attrs import define, field

from raftkv.transport.tcp import Limits, TcpTransport
from raftkv.transport.tcp_channel import Channel
from tests.transport.world import Recorder, hello, runtime


@define
class HandReactor:
    """Sockets are ready when the test says so."""

    readable: Callable[[], None] | None = None
    writable: Callable[[], None] | None = None

    def when_readable(
        self, sock: socket.socket, callback: Callable[[], None]
    ) -> Callable[[], object]:
        self.readable = callback
        return lambda: setattr(self, "readable", None)

    def when_writable(
        self, sock: socket.socket, callback: Callable[[], None]
    ) -> Callable[[], object]:
        self.writable = callback
        return lambda: setattr(self, "writable", None)

    def soon(self, callback: Callable[[], None]) -> None:
        callback()


@define
class Listener:
    """A user that remembers."""

    data: list[bytes] = field(factory=list[bytes])
    ends: list[tuple[str, bool]] = field(factory=list[tuple[str, bool]])
    writable: int = 0

    def on_ready(self) -> None: ...

    def on_data(self, data: bytes) -> None:
        self.data.append(data)

    def on_writable(self) -> None:
        self.writable += 1

    def on_end(self, reason: str, *, hostile: bool) -> None:
        self.ends.append((reason, hostile))


@define
class Ends:
    channel: Channel
    other: socket.socket
    reactor: HandReactor
    user: Listener


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, other = socket.socketpair()
    ours.setblocking(False)
    reactor, user = HandReactor(), Listener()
    channel = Channel(ours, reactor, None, Limits())
    channel.start(user)
    yield Ends(channel, other, reactor, user)
    channel.close()
    other.close()


def test_what_is_written_while_the_kernel_is_full_follows_in_order(ends: Ends) -> None:
    big = bytes(range(256)) * 8192
    ends.channel.write(big)
    assert 0 < ends.channel.unsent_bytes < len(big)
    ends.channel.write(b"behind it")
    received = bytearray()
    while ends.reactor.writable is not None:
        received += ends.other.recv(65536)
        ends.reactor.writable()
    ends.channel.close()
    while data := ends.other.recv(65536):
        received += data
    assert received == big + b"behind it"
    assert ends.user.writable == 1


@pytest.mark.parametrize(("trusted", "size"), [(False, 16_384), (True, 100_000)])
def test_a_stranger_is_read_in_small_pieces(ends: Ends, trusted: bool, size: int) -> None:
    ends.channel.is_trusted = trusted
    ends.other.sendall(b"x" * 100_000)
    assert ends.reactor.readable is not None
    ends.reactor.readable()
    assert [len(data) for data in ends.user.data] == [size]


def test_the_other_sides_end_is_told_once_and_ours_never(ends: Ends) -> None:
    readable = ends.reactor.readable
    assert readable is not None
    ends.other.close()
    readable()
    readable()
    assert ends.user.ends == [("it was closed by the other side", False)]
    assert ends.channel.is_closed
    ends.channel.write(b"ignored")


async def test_a_connection_that_arrives_with_the_end_is_closed() -> None:
    # The accepting task may be awake already when it is cancelled: their order is chance.
    for _ in range(30):
        end = TcpTransport("127.0.0.1:0", runtime=runtime())
        async with end.serve(hello(1), Recorder()):
            await checkpoint()
            host, _, port = end.address.rpartition(":")
            with socket.create_connection((host, int(port))):
                await checkpoint()
    gc.collect()  # a socket left open warns, which fails the test
