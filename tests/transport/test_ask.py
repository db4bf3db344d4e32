"""A question from somebody who is no member: asked, answered, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from raftkv.errors import ConfigError, InvariantError, TransportError, WireError
from raftkv.transport import wire
from raftkv.transport.base import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, Code, Transport
from raftkv.transport.memory import MemoryNetwork
from raftkv.transport.session import Acceptor
from raftkv.transport.tcp import TcpTransport
from tests.transport.certificates import Authority
from tests.transport.tcp_world import QUICK, serving, stranger, transport, unused_address
from tests.transport.world import Recorder, hello, runtime

World = tuple[Transport, str, Recorder]


@asynccontextmanager
async def _tcp() -> AsyncGenerator[World]:
    async with serving(1) as member:
        yield transport(), member.transport.address, member.recorder


@asynccontextmanager
async def _memory() -> AsyncGenerator[World]:
    network, recorder = MemoryNetwork(runtime()), Recorder()
    async with network.endpoint("one:1").serve(hello(1), recorder):
        yield network.endpoint("two:1"), "one:1", recorder


@pytest.fixture(params=[_tcp, _memory])
def world(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[World]]:
    return request.param


Made = Callable[[], AbstractAsyncContextManager[World]]


async def test_who_is_no_member_gets_an_answer(world: Made) -> None:
    async with world() as (asker, address, recorder):
        assert await asker.ask(address, b"who am I?") == b"answer to who am I?"
        assert recorder.questions == [b"who am I?"]
        assert not recorder.asked  # nobody came in
        assert not recorder.ups


async def test_many_ask_at_once(world: Made) -> None:
    async with world() as (asker, address, _):
        answers: list[bytes] = []

        async def one(number: int) -> None:
            answers.append(await asker.ask(address, b"%d" % number))

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
        assert sorted(answers) == sorted(b"answer to %d" % number for number in range(20))


async def test_where_nobody_listens_there_is_no_answer() -> None:
    address = unused_address()
    with pytest.raises(TransportError, match=f"cannot ask {address}: connection refused"):
        await transport().ask(address, b"?")
    with pytest.raises(TransportError, match="cannot ask nowhere: nobody is there"):
        await MemoryNetwork(runtime()).endpoint("two:1").ask("nowhere", b"?")


async def test_an_address_that_cannot_be_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="is not loopback"):
        await transport().ask("192.0.2.1:7400", b"?")
    with pytest.raises(ConfigError, match="is not loopback"):
        transport().checked("192.0.2.1:7400")
    with pytest.raises(ConfigError, match="must not be empty"):
        MemoryNetwork(runtime()).endpoint("one:1").checked("")
    assert transport().checked("127.0.0.1:07400") == "127.0.0.1:7400"


async def test_the_longest_answer_arrives() -> None:
    async with serving(1) as member:
        long = b"x" * (ANSWER_BYTES_MAX - 100)
        member.recorder.on_question = lambda _: long  # pyright: ignore[reportAttributeAccessIssue]
        assert await transport().ask(member.transport.address, b"?") == long


async def test_who_answers_with_nonsense_or_not_at_all_is_named() -> None:
    said: list[bytes] = [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.encode_frame(1, b"x")]

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if said[0]:
                await stream.send(said[0])

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        for sentence in ("closed by the other side", "at most", "instead of ANSWER"):
            with pytest.raises(TransportError, match=sentence):
                await transport().ask(f"127.0.0.1:{port}", b"?")
            del said[0]
        tasks.cancel_scope.cancel()


async def test_who_is_silent_is_given_up() -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    limits = evolve(QUICK, connect_seconds=0.05, handshake_seconds=0.05)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        with pytest.raises(TransportError, match="did not answer in time"):
            await transport(limits).ask(f"127.0.0.1:{port}", b"?")
        tasks.cancel_scope.cancel()


async def test_over_tls_both_sides_show_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.tls(authority.issue("127.0.0.1"))
    member = TcpTransport("127.0.0.1:0", runtime=runtime(), tls=tls, limits=QUICK)
    recorder = Recorder()
    async with member.serve(hello(1), recorder):
        asker = TcpTransport("127.0.0.1:0", runtime=runtime(), tls=tls, limits=QUICK)
        assert await asker.ask(member.address, b"x") == b"answer to x"
        other = Authority(tmp_path, "other")
        foreign = other.tls(other.issue("127.0.0.1"))
        asker = TcpTransport("127.0.0.1:0", runtime=runtime(), tls=foreign, limits=QUICK)
        with pytest.raises(TransportError, match="certificate"):
            await asker.ask(member.address, b"y")
        with pytest.raises(TransportError):
            await transport().ask(member.address, b"z")
        assert recorder.questions == [b"x"]


async def test_a_question_ends_its_connection() -> None:
    async with serving(1) as member, stranger(member.transport.address) as one:
        await one.say(wire.encode_question(b"?"))
        frames = wire.FrameParser(ANSWER_BYTES_MAX).feed(await one.hear())
        assert [wire.decode_answer(frame) for frame in frames] == [b"answer to ?"]


def test_an_asker_of_another_version_is_refused_politely() -> None:
    acceptor = Acceptor(hello(1), lambda _: None, 4096, wire.Versions(3, 4), reply=lambda _: b"")
    answer, _ = acceptor.receive(wire.encode_question(b"?"))
    (frame,) = wire.FrameParser(4096).feed(answer)
    assert wire.decode_refusal(frame).code == Code.VERSION
    assert acceptor.refusal is not None
    assert not acceptor.is_asked


def test_questions_have_their_form() -> None:
    with pytest.raises(InvariantError, match="a question of"):
        wire.encode_question(b"x" * (QUESTION_BYTES_MAX + 1))
    frame = wire.Frame(19, wire.MAGIC + b"\x02\x00\x01\x00")
    assert wire.is_question(frame)
    with pytest.raises(WireError, match="which are none"):
        wire.decode_question(frame)
    with pytest.raises(WireError, match="instead of QUESTION"):
        wire.decode_question(wire.Frame(16, b""))
