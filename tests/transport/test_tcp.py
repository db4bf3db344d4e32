"""Members over real sockets on loopback: frames, queues, reconnection, and the end."""

from __future__ import annotations

import gc
import logging
import socket
from pathlib import Path

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import ConfigError, RequestTooLargeError, TransportError, UsageError
from raftkv.transport.base import Lane
from raftkv.transport.tcp import Limits, TcpTransport
from tests.transport.conftest import LogLines
from tests.transport.tcp_world import QUICK, members, serving, stranger, transport, unused_address
from tests.transport.world import Recorder, hello, runtime


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000, QUICK.frame_bytes_max])
async def test_a_frame_of_any_size_up_to_the_limit_arrives(size: int) -> None:
    frame = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with members(1, 2) as world:
        one, two = world[1].transport, world[2].recorder
        assert one.send(2, b"before")
        assert one.send(2, frame)
        assert one.send(2, b"after")
        await two.until(lambda: len(two.frames) == 3)
        assert two.payloads(1) == [b"before", frame, b"after"]


async def test_a_frame_over_the_limit_is_the_callers_mistake() -> None:
    end = transport(Limits(frame_bytes_max=2000))
    assert not end.send(2, b"x" * 2000)
    with pytest.raises(RequestTooLargeError, match="2001 bytes exceeds frame_bytes_max, 2000"):
        end.send(2, b"x" * 2001)


async def test_what_is_queued_in_one_turn_leaves_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with members(1, 2) as world:
        writes: list[int] = []
        send = socket.socket.send

        def counted(sock: socket.socket, data: bytes) -> int:
            writes.append(len(data))
            return send(sock, data)

        monkeypatch.setattr(socket.socket, "send", counted)
        one, two = world[1].transport, world[2].recorder
        for _ in range(50):
            assert one.send(2, b"x" * 91)
        await two.until(lambda: len(two.frames) == 50)
        monkeypatch.undo()
        # (trio wakes itself up by a byte through a socket of its own.)
        assert [size for size in writes if size > 1] == [50 * 100]


async def test_a_full_lane_drops_and_drained_waits_for_half_of_it() -> None:
    limits = attrs.evolve(
        QUICK,
        frame_bytes_max=2**20,
        raft_queue_bytes_max=2**21,
        bulk_queue_bytes_max=2**21,
    )
    async with members(1, 2, limits=limits) as world:
        one, two = world[1].transport, world[2].recorder
        chunk = b"x" * 2**20
        assert one.send(2, chunk, Lane.BULK)
        assert not one.send(2, chunk, Lane.BULK)  # with its header it is too much
        assert one.send(2, b"", Lane.RAFT)  # a lane of its own
        sent = 1
        for _ in range(20):
            assert await one.drained(2, Lane.BULK)
            assert one.send(2, chunk[:-100], Lane.BULK)
            sent += 1
        await two.until(lambda: len(two.payloads(1, Lane.BULK)) == sent)


async def test_a_peer_that_does_not_read_costs_a_bounded_queue_and_no_other_peer() -> None:
    limits = attrs.evolve(
        QUICK, frame_bytes_max=2**20, raft_queue_bytes_max=2**22, bulk_queue_bytes_max=2**22
    )
    async with members(1, 2, 3, limits=limits) as world:
        one, two, three = world[1].transport, world[2].recorder, world[3].recorder
        # Member 2 stands still: its loop is ours, so it reads no more than we let it.
        refused = 0
        for n in range(400):
            if not one.send(2, b"x" * 2**20):
                refused += 1
            if n % 100 == 0:
                await checkpoint()
        assert refused > 300
        assert one.send(3, b"hello")
        await three.until(lambda: three.payloads(1) == [b"hello"])
        await two.until(lambda: len(two.frames) == 400 - refused)


async def test_a_peer_that_comes_late_is_found_at_the_same_address() -> None:
    address = unused_address()
    async with serving(1) as one:
        one.transport.set_peers({2: address})
        late = TcpTransport(address, runtime=runtime(), limits=QUICK)
        heard = Recorder()
        async with late.serve(hello(2), heard):
            await one.recorder.until(lambda: len(one.recorder.ups) == 2)
            assert one.transport.send(2, b"found")
            await heard.until(lambda: heard.payloads(1) == [b"found"])


async def test_a_peer_that_connects_to_us_ends_our_pause() -> None:
    # Our own next attempt would come in an hour.
    patient = attrs.evolve(QUICK, backoff_seconds_min=3600, backoff_seconds_max=3600)
    address = unused_address()
    async with serving(1, patient) as one:
        one.transport.set_peers({2: address})
        for _ in range(200):
            await checkpoint()
        late = TcpTransport(address, runtime=runtime(), limits=QUICK)
        async with late.serve(hello(2), Recorder()):
            late.set_peers({1: one.transport.address})
            await one.recorder.until(lambda: len(one.recorder.ups) == 4)


async def test_a_peer_that_left_the_membership_is_disconnected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with members(1, 2) as world:
        one, two = world[1], world[2]
        one.transport.set_peers({})
        assert not one.transport.send(2, b"gone")
        assert one.recorder.downs == [2]
        await two.recorder.until(lambda: two.recorder.downs == [1])


async def test_a_peer_that_moved_is_dialled_at_its_new_address() -> None:
    async with serving(1) as one, serving(2) as old, serving(2) as new:
        one.transport.set_peers({2: old.transport.address})
        await one.recorder.until(lambda: len(one.recorder.ups) == 2)
        one.transport.set_peers({2: new.transport.address})
        await one.recorder.until(lambda: len(one.recorder.ups) == 4)
        assert one.transport.send(2, b"moved")
        await new.recorder.until(lambda: new.recorder.payloads(1) == [b"moved"])
        assert old.recorder.frames == []


async def test_setting_the_same_peers_again_breaks_nothing() -> None:
    async with members(1, 2) as world:
        one, two = world[1], world[2]
        one.transport.set_peers({1: "127.0.0.1:1", 2: two.transport.address})
        assert one.transport.send(2, b"still here")
        await two.recorder.until(lambda: two.recorder.payloads(1) == [b"still here"])
        assert one.recorder.downs == two.recorder.downs == []


async def test_whoever_waits_for_a_lane_learns_that_its_peer_left() -> None:
    answers: list[bool] = []
    limits = attrs.evolve(
        QUICK, frame_bytes_max=2**22, raft_queue_bytes_max=2**26, bulk_queue_bytes_max=2**26
    )
    async with members(1, 2, limits=limits) as world, anyio.create_task_group() as tasks:
        one = world[1].transport

        async def wait() -> None:
            answers.append(await one.drained(2, Lane.RAFT))

        while one.send(2, b"x" * 2**22):
            pass  # far more than the kernel takes at once
        tasks.start_soon(wait)
        await checkpoint()
        assert answers == []
        one.set_peers({})
    assert answers == [False]


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with serving(1) as one:
        other = TcpTransport(one.transport.address, runtime=runtime())
        with pytest.raises(
            TransportError, match=r"cannot listen on 127\.0\.0\.1:\d+: address already"
        ):
            async with other.serve(hello(2), Recorder()):
                pass
        with pytest.raises(UsageError, match="already"):
            async with one.transport.serve(hello(1), Recorder()):
                pass


async def test_a_port_is_free_again_after_serve() -> None:
    address = unused_address()
    for _ in range(3):
        end = TcpTransport(address, runtime=runtime(), limits=QUICK)
        async with end.serve(hello(1), Recorder()):
            assert end.address == address


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    end = TcpTransport("192.0.2.1:0", runtime=runtime(), insecure=True)
    with pytest.raises(TransportError, match=r"cannot listen on 192\.0\.2\.1:0"):
        async with end.serve(hello(1), Recorder()):
            pass
    end = TcpTransport("no.such.host.invalid:0", runtime=runtime(), insecure=True)
    with pytest.raises(TransportError, match="cannot listen on no"):
        async with end.serve(hello(1), Recorder()):
            pass


async def test_members_meet_over_ipv6_and_by_name() -> None:
    async with serving(1) as one:
        six, heard = TcpTransport("[::1]:0", runtime=runtime(), limits=QUICK), Recorder()
        async with six.serve(hello(2), heard):
            assert six.address.startswith("[::1]:")
            port = one.transport.address.rpartition(":")[2]
            six.set_peers({1: f"localhost:{port}"})
            one.transport.set_peers({2: six.address})
            await heard.until(lambda: len(heard.ups) == 4)
            assert one.transport.send(2, b"six")
            assert six.send(1, b"name")
            await heard.until(lambda: heard.payloads(1) == [b"six"])
            await one.recorder.until(lambda: one.recorder.payloads(2) == [b"name"])


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.1:1", "example.org:1", "[::]:1"])
async def test_plain_text_beyond_loopback_must_be_asked_for(address: str) -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        TcpTransport(address, runtime=runtime())
    TcpTransport(address, runtime=runtime(), insecure=True).set_peers({2: address})
    end = TcpTransport("127.0.0.1:0", runtime=runtime())
    end.set_peers({2: "localhost:1", 3: "127.0.0.9:1", 4: "[::1]:1"})
    with pytest.raises(ConfigError, match="insecure=True"):
        end.set_peers({2: address})


async def test_a_name_that_stands_for_another_machine_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = anyio.Event()

    async def lie(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, object]]:
        asked.set()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    async with serving(1) as one:
        monkeypatch.setattr(anyio, "getaddrinfo", lie)
        one.transport.set_peers({2: "localhost:7400"})
        await asked.wait()
        while not caplog.records:
            await checkpoint()
        assert "192.0.2.7, which is not loopback" in caplog.records[0].message


async def test_a_failing_dial_is_one_line_for_each_new_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = unused_address()
    attempts = anyio.Event()

    class Jitter:
        """Counts the pauses: each draws once."""

        pauses = 0

        def below(self, bound: int) -> int:
            self.pauses += 1
            if self.pauses == 10:
                attempts.set()
            return bound - 1

        def token(self, size_bytes: int) -> bytes:
            raise AssertionError

    end = TcpTransport("127.0.0.1:0", runtime=attrs.evolve(runtime(), rng=Jitter()), limits=QUICK)
    end.set_peers({2: address})
    async with end.serve(hello(1), Recorder()):
        await attempts.wait()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [f"cannot connect to member 2 at {address}, and tries on: connection refused"]
    assert all(record.exc_info is None for record in caplog.records)


async def test_the_loss_of_a_peer_is_one_line_for_all_lanes_and_both_ways(lines: LogLines) -> None:
    async with members(1, 2) as world:
        one, two = world[1], world[2]
        one.recorder.names[2] = "n2"
        where = two.transport.address
        two.transport.set_peers({})
        await lines.until(lambda: len(ends(lines, logging.DEBUG)) >= 6)
        (told,) = ends(lines, logging.INFO)
    assert told == f"connection to member n2 at {where} lost: it was closed by the other side"


def ends(lines: LogLines, level: int) -> list[str]:
    """What was said from that level on about connections that ended."""
    told = [record.getMessage() for record in lines.records if record.levelno >= level]
    return [line for line in told if " lost: " in line or " closed: " in line]


async def test_a_receiver_may_close_the_connection_it_hears_from() -> None:
    async with members(1, 2) as world:
        one, two = world[1], world[2]

        def leave(*_: object) -> None:
            two.transport.set_peers({})

        two.recorder.on_each = leave
        for _ in range(10):
            assert one.transport.send(2, b"x")
        await one.recorder.until(lambda: one.recorder.downs == [2])
        assert len(two.recorder.frames) == 1


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def test_two_hundred_connections_leave_no_descriptor_and_no_task_behind() -> None:
    async with serving(1) as one:
        # One round first: the backend opens things of its own.
        counts: list[tuple[int, int]] = []
        for turn in range(51):
            async with serving(2) as two:
                two.transport.set_peers({1: one.transport.address})
                one.transport.set_peers({2: two.transport.address})
                await two.recorder.until(lambda: len(two.recorder.ups) == 4)
            one.transport.set_peers({})
            async with stranger(one.transport.address) as visitor:
                await visitor.say(b"\xff" * 20)
                await visitor.hear()
            if turn in (0, 50):
                gc.collect()
                counts.append((open_descriptors(), len(anyio.get_running_tasks())))
        assert counts[0] == counts[1]
