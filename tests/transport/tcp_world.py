"""Members on loopback, and strangers that write bytes of their own making."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from attrs import frozen

from raftkv.transport.tcp import Limits, TcpTransport
from raftkv.transport.tcp_settings import parse_address
from tests.transport.world import Recorder, hello, runtime

QUICK = Limits(backoff_seconds_min=0.001, backoff_seconds_max=0.02)


@frozen
class Member:
    """One end of a test's world."""

    transport: TcpTransport
    recorder: Recorder


def transport(limits: Limits = QUICK) -> TcpTransport:
    return TcpTransport("127.0.0.1:0", runtime=runtime(), limits=limits)


@asynccontextmanager
async def serving(member: int, limits: Limits = QUICK, *, boot: int = 1) -> AsyncGenerator[Member]:
    end, recorder = transport(limits), Recorder()
    async with end.serve(hello(member, boot=boot), recorder):
        yield Member(end, recorder)


@asynccontextmanager
async def members(*ids: int, limits: Limits = QUICK) -> AsyncGenerator[dict[int, Member]]:
    """Members that are all connected with each other, on both lanes and both ways."""
    async with AsyncExitStack() as stack:
        world = {one: await stack.enter_async_context(serving(one, limits)) for one in ids}
        for one, member in world.items():
            member.transport.set_peers(
                {other: world[other].transport.address for other in ids if other != one}
            )
        for member in world.values():
            recorder = member.recorder
            await recorder.until(lambda r=recorder: len(r.ups) == 4 * (len(ids) - 1))
        yield world


class Stranger:
    """A raw connection, on whichever backend runs."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    async def say(self, data: bytes) -> None:
        await self._stream.send(data)

    async def hear(self) -> bytes:
        """Everything until the other side closes."""
        heard = b""
        try:
            while True:
                heard += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return heard

    async def hear_some(self) -> bytes:
        return await self._stream.receive()


@asynccontextmanager
async def stranger(address: str) -> AsyncGenerator[Stranger]:
    where = parse_address(address)
    async with await anyio.connect_tcp(where.host, where.port) as stream:
        yield Stranger(stream)


def unused_address() -> str:
    """An address that nobody listens on (a moment ago)."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
