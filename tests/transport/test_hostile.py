"""A live listener against strangers: each is closed with one line, and the members go on."""

from __future__ import annotations

import socket
import struct
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import ConfigError
from raftkv.transport.base import Lane
from raftkv.transport.tcp import Limits, TcpTransport
from raftkv.transport.tcp_settings import parse_address
from raftkv.transport.wire import (
    Code,
    FrameParser,
    Greeting,
    Refusal,
    Versions,
    decode_refusal,
    decode_welcome,
    encode_frame,
    encode_greeting,
    encode_refusal,
    encode_welcome,
)
from tests.transport.conftest import LogLines
from tests.transport.tcp_world import QUICK, Member, Stranger, members, serving, stranger
from tests.transport.world import Recorder, hello, runtime

GREETING = Greeting(hello(7), 1, Lane.RAFT)


@asynccontextmanager
async def guest(one: Member, greeting: Greeting = GREETING) -> AsyncGenerator[Stranger]:
    """A peer of the test's own making that was let in."""
    async with stranger(one.transport.address) as visitor:
        await visitor.say(encode_greeting(greeting))
        (frame,) = FrameParser(4096).feed(await visitor.hear_some())
        assert decode_welcome(frame) == (1, hello(1))
        yield visitor


async def still_serves(world: dict[int, Member]) -> None:
    """The members of the world go on as if nothing had happened."""
    one, two = world[1].transport, world[2].recorder
    count = len(two.frames)
    assert one.send(2, b"still here")
    await two.until(lambda: len(two.frames) == count + 1)
    assert world[1].recorder.downs == []


STRANGE: dict[str, tuple[bytes, str]] = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "where at most 4096 may come"),
    "oversized": (struct.pack("<IBI", 2**32 - 1, 16, 0), "where at most 4096 may come"),
    "checksum": (b"\x04\x00\x00\x00\x10aaaabbbb", "fails its checksum"),
    "no hello": (encode_frame(1, b"x"), "a frame of type 1 instead of HELLO"),
    "no magic": (encode_frame(16, b"y" * 80), "a HELLO that is not raftkv's"),
    "eager": (encode_greeting(GREETING) + b"x", "goes on before it is answered"),
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_a_stranger_that_talks_nonsense_is_closed_with_one_line(
    kind: str, lines: LogLines
) -> None:
    data, sentence = STRANGE[kind]
    async with members(1, 2) as world:
        async with stranger(world[1].transport.address) as visitor:
            await visitor.say(data)
            assert await visitor.hear() == b""
        await lines.until_line(sentence)
        (line,) = lines.loud()
        assert line.startswith("connection from 127.0.0.1:")
        await still_serves(world)


REFUSED: dict[str, tuple[Greeting, Code, str]] = {
    "cluster": (
        Greeting(hello(7, cluster=0xBAD), 1, Lane.RAFT),
        Code.CLUSTER,
        "cluster bad is not ours, c1",
    ),
    "version": (
        Greeting(hello(7), 1, Lane.RAFT, Versions(0, 0)),
        Code.VERSION,
        "we speak protocol versions 1, not 0",
    ),
    "receiver": (Greeting(hello(7), 9, Lane.RAFT), Code.RECEIVER, "this is member 1, not 9"),
    "ourselves": (Greeting(hello(1), 1, Lane.RAFT), Code.IDENTITY, "member 1 is ourselves"),
    "disk": (Greeting(hello(8), 1, Lane.BULK), Code.IDENTITY, "the disk of 8 is another one"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_whoever_does_not_belong_is_told_why_with_one_line(
    kind: str, lines: LogLines
) -> None:
    greeting, code, sentence = REFUSED[kind]
    async with members(1, 2) as world:
        world[1].recorder.refusal = lambda peer: (
            f"the disk of {peer.member_id} is another one" if peer.member_id == 8 else None
        )
        async with stranger(world[1].transport.address) as visitor:
            await visitor.say(encode_greeting(greeting))
            (frame,) = FrameParser(4096).feed(await visitor.hear())
            assert decode_refusal(frame) == Refusal(code, sentence)
        await lines.until_line(f"refused: {sentence}")
        assert len(lines.loud()) == 1
        await still_serves(world)


BROKEN: dict[str, tuple[bytes, str]] = {
    "oversized": (
        struct.pack("<IBI", QUICK.frame_bytes_max + 1, 1, 0),
        f"where at most {QUICK.frame_bytes_max} may come",
    ),
    "checksum": (b"\x04\x00\x00\x00\x01aaaabbbb", "fails its checksum"),
    "lane": (encode_frame(Lane.BULK, b"x"), "a frame of type 2 on lane RAFT"),
    "again": (encode_greeting(GREETING), "a frame of type 16 on lane RAFT"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_peer_that_breaks_the_rules_is_closed_with_one_line(
    kind: str, lines: LogLines
) -> None:
    data, sentence = BROKEN[kind]
    async with members(1, 2) as world:
        async with guest(world[1]) as visitor:
            await visitor.say(encode_frame(Lane.RAFT, b"good") + data)
            await visitor.hear()
        await lines.until_line("connection from member 7 at 127.0.0.1:", sentence)
        assert len(lines.loud()) == 1
        await still_serves(world)


async def test_frames_before_a_bad_one_in_another_write_are_delivered() -> None:
    async with serving(1) as one:
        async with guest(one) as visitor:
            await visitor.say(encode_frame(Lane.RAFT, b"good"))
            await one.recorder.until(lambda: one.recorder.payloads(7) == [b"good"])
            await visitor.say(b"\xff" * 9)
            await visitor.hear()
        assert one.recorder.payloads(7) == [b"good"]


async def test_an_announced_length_costs_no_memory() -> None:
    async with serving(1) as one, guest(one) as visitor:
        await visitor.say(encode_frame(Lane.RAFT, b"warm"))
        await one.recorder.until(lambda: len(one.recorder.frames) == 1)
        tracemalloc.start()
        try:
            await visitor.say(struct.pack("<IBI", QUICK.frame_bytes_max, 1, 0) + b"x" * 100)
            async with stranger(one.transport.address) as other:
                await other.say(struct.pack("<IBI", 2**32 - 1, 1, 0))
                await other.hear()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2**20


SLOW = attrs.evolve(QUICK, handshake_seconds=0.08)  # for handshakes that never end


@pytest.mark.parametrize("said", [b"", b"\x50", encode_greeting(GREETING)[:-1]])
async def test_a_stranger_that_says_nothing_or_not_all_runs_out_of_time(
    said: bytes, lines: LogLines
) -> None:
    async with serving(1, SLOW) as one:
        async with stranger(one.transport.address) as visitor:
            if said:
                await visitor.say(said)
            assert await visitor.hear() == b""
        await lines.until_line("it did not introduce itself in time")
        assert len(lines.loud()) == 1


async def test_a_stranger_that_dribbles_runs_out_of_time(lines: LogLines) -> None:
    async with serving(1, SLOW) as one, stranger(one.transport.address) as visitor:
        closed = anyio.Event()

        async def dribble() -> None:
            try:
                for byte in encode_greeting(GREETING) * 10_000:
                    await visitor.say(bytes([byte]))
                    await anyio.sleep(0.004)  # its own pace; far from done when time is up
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                closed.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dribble)
            await lines.until_line("closed")
            await closed.wait()
        assert len(lines.loud()) == 1


async def test_half_a_frame_runs_out_of_time_and_silence_between_frames_does_not(
    lines: LogLines,
) -> None:
    limits = attrs.evolve(QUICK, frame_seconds=0.08)
    async with (
        serving(1, limits) as one,
        guest(one) as patient,
        guest(one, attrs.evolve(GREETING, lane=Lane.BULK)) as visitor,
    ):
        whole = encode_frame(Lane.BULK, b"x" * 100)
        await visitor.say(whole + whole[:50])
        assert await visitor.hear() == b""
        await lines.until_line("a frame was not finished in time")
        # The other one was idle for as long, between frames.
        await patient.say(encode_frame(Lane.RAFT, b"patient"))
        await one.recorder.until(lambda: one.recorder.payloads(7) == [b"patient"])
        assert len(lines.loud()) == 1


async def test_the_oldest_stranger_gives_way_and_members_still_get_in(lines: LogLines) -> None:
    limits = attrs.evolve(QUICK, strangers_max=8)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(1, limits))
        crowd = [await stack.enter_async_context(stranger(one.transport.address)) for _ in range(8)]
        async with guest(one):
            assert await crowd[0].hear() == b""
            await lines.until_line("too many connections without handshake")
            # Just one had to go, and the one that was let in is no stranger any more.
            await stack.enter_async_context(stranger(one.transport.address))
            async with guest(one, attrs.evolve(GREETING, lane=Lane.BULK)):
                assert await crowd[1].hear() == b""
        assert len(lines.having("too many")) == 2


async def test_a_hundred_idle_strangers_do_not_keep_members_apart(lines: LogLines) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(1))
        two = await stack.enter_async_context(serving(2))
        for _ in range(100):
            await stack.enter_async_context(stranger(one.transport.address))
        two.transport.set_peers({1: one.transport.address})
        await two.recorder.until(lambda: len(two.recorder.ups) == 2)
        assert two.transport.send(1, b"through")
        await one.recorder.until(lambda: one.recorder.payloads(2) == [b"through"])
        # Two of the 64 places were the members' for a moment.
        assert 36 <= len(lines.having("too many")) <= 38


async def test_a_connection_anew_replaces_the_older_one_of_its_lane(lines: LogLines) -> None:
    async with serving(1) as one, guest(one) as old:
        bulk = attrs.evolve(GREETING, lane=Lane.BULK)
        async with guest(one, bulk) as other_lane, guest(one) as new:
            assert await old.hear() == b""
            await new.say(encode_frame(Lane.RAFT, b"new"))
            await other_lane.say(encode_frame(Lane.BULK, b"other"))
            await one.recorder.until(lambda: len(one.recorder.frames) == 2)
            assert lines.loud() == []


@settings(max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4), st.booleans())
def test_fuzzed_bytes_do_no_harm(pieces: list[bytes], after_hello: bool) -> None:
    async def run() -> None:
        async with members(1, 2) as world:
            address = world[1].transport.address
            async with stranger(address) as visitor:
                if after_hello:
                    await visitor.say(encode_greeting(GREETING))
                    await visitor.hear_some()
                try:
                    for piece in pieces:
                        await visitor.say(piece)
                except anyio.BrokenResourceError:
                    pass
            await still_serves(world)
            assert world[1].recorder.payloads(7) == []

    for backend in ("asyncio", "trio"):
        anyio.run(run, backend=backend)


# --- hostile acceptors ---


@asynccontextmanager
async def impostor(answer: bytes) -> AsyncGenerator[str]:
    """A listener that answers every greeting with these bytes, and then listens."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive()
                if answer:
                    await stream.send(answer)
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


IMPOSTORS: dict[str, tuple[bytes, str]] = {
    "silent": (b"", "it did not answer in time"),
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "where at most 4096 may come"),
    "member": (encode_welcome(1, hello(3)), "member 3 answers there, not 2"),
    "cluster": (encode_welcome(1, hello(2, cluster=1)), "it is of cluster 1, not c1"),
    "version": (encode_welcome(7, hello(2)), "it chose version 7; we speak 1"),
    "disk": (encode_welcome(1, hello(2, boot=66)), "we refuse it: boot 66 was long ago"),
    "refuses": (
        encode_refusal(Refusal(Code.IDENTITY, "I do\nnot\x1b[2J know you")),
        r"it refuses us: I do?not?[2J know you (code 4)",
    ),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
async def test_a_dialer_keeps_away_from_an_impostor_with_one_line(
    kind: str, lines: LogLines
) -> None:
    answer, sentence = IMPOSTORS[kind]
    async with serving(1, QUICK if answer else SLOW) as one, impostor(answer) as address:
        one.recorder.refusal = lambda peer: (
            f"boot {peer.boot} was long ago" if peer.boot == 66 else None
        )
        one.transport.set_peers({2: address})
        await lines.until_line("cannot connect to member 2", sentence)
        assert len(lines.loud()) == 1
        assert one.recorder.ups == []
        assert not one.transport.send(2, b"x")


async def test_a_peer_that_talks_where_it_should_listen_is_dropped(lines: LogLines) -> None:
    chatter = encode_welcome(1, hello(2)) + encode_frame(Lane.RAFT, b"x")
    async with serving(1) as one, impostor(chatter) as address:
        one.transport.set_peers({2: address})
        await lines.until_line("goes on after its answer")
        assert one.recorder.frames == []


async def test_a_dial_into_the_void_ends_in_time(lines: LogLines) -> None:
    limits = attrs.evolve(QUICK, connect_seconds=0.05)
    end, recorder = TcpTransport("127.0.0.1:0", runtime=runtime(), limits=limits), Recorder()
    # A listener whose queue is full answers no more connections: the kernel drops them.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        where = parse_address(address)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((where.host, where.port))
            end.set_peers({2: address})
            async with end.serve(hello(1), recorder):
                await lines.until_line("cannot connect to member 2", "it did not answer in time")
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no address"),
        ("host", "no address"),
        (":1", "no address"),
        ("host:", "no address"),
        ("host:x", "no address"),
        ("host:-1", "no address"),
        ("host:٣", "no address"),
        ("host:000001", "no address"),
        ("host:0", "port must be from 1"),
        ("host:65536", "port must be from 1"),
        ("::1:80", "in brackets"),
        ("[host]:1", "only IPv6"),
        ("a b:1", "no host"),
        ("user@host:1", "no host"),
        ("http://host:1", "in brackets"),
        ("h\u00f6st:1", "no host"),
        ("a..b:1", "no host"),
        ("x" * 64 + ":1", "no host"),
    ],
)
def test_an_address_that_cannot_be_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_address(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_bytes_max": 100},
        {"frame_bytes_max": 2**32, "raft_queue_bytes_max": 2**33, "bulk_queue_bytes_max": 2**33},
        {"raft_queue_bytes_max": 8 * 2**20},
        {"bulk_queue_bytes_max": 1},
        {"read_bytes_max": 1},
        {"strangers_max": 0},
        {"connect_seconds": 0},
        {"handshake_seconds": -1},
        {"frame_seconds": float("nan")},
        {"backoff_seconds_min": 0},
        {"backoff_seconds_min": 3, "backoff_seconds_max": 2},
        {"keepalive_seconds": 0},
        {"unacknowledged_seconds": 0},
    ],
)
def test_limits_that_contradict_each_other_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Limits(**settings)
