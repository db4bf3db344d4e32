"""A member whose log ends before the others' begins gets an image; a long log is compacted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve

from raftkv.errors import ConfigError, MachineError, StorageCorruptError
from raftkv.node.images import CHUNK_BYTES_MAX
from raftkv.node.node import Node, running
from raftkv.storage.base import Batch, Reader, Space, Storage
from raftkv.storage.reading import LogReader
from raftkv.transport.base import Lane
from tests.node.rig import MACHINES, QUICK, Cluster, Journal, Ledger, cluster

SHORT = evolve(QUICK, retention_entries=20, snapshot_inflight_bytes_max=64)
"""Keeps few entries, and sends images in many pieces."""

kinds = pytest.mark.parametrize("kind", MACHINES)


async def _fill(made: Cluster, count: int, prefix: bytes = b"") -> list[bytes]:
    leader = await made.leader()
    commands = [b"%s%d" % (prefix, number) for number in range(count)]
    for command in commands:
        await leader.propose(command)
    return commands


@kinds
async def test_the_log_is_compacted_beyond_the_retention(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        await _fill(made, 200)
        await made.until(lambda: all(len(made.commands(number)) == 200 for number in made.nodes))
        for node in made.nodes.values():
            status = node.status()
            assert 20 <= status.last_index - status.first_index + 1 < 64
        for number in (1, 2, 3):
            await made.stop(number)
            assert 20 <= len(made.disks[number].rows[Space.LOG].keys) < 64


@kinds
async def test_a_compacted_log_survives_a_restart(kind: str) -> None:
    async with cluster(1, settings=SHORT, machine=MACHINES[kind]) as made:
        commands = await _fill(made, 200)
        first = made.nodes[1].status().first_index
        assert first > 1
        await made.stop(1)
        node = await made.start(1)
        await node.ready()
        assert made.commands(1) == commands
        assert node.status().first_index >= first
        assert await node.propose(b"more") == 201


@kinds
async def test_whatever_batch_is_the_last_the_log_goes_on_from_what_the_machine_has(
    kind: str,
) -> None:
    """Whose image is in memory comes back from its image and the entries behind that."""
    found: list[tuple[int, int]] = []

    def wrap(_number: int, storage: Storage) -> Storage:
        store, reader = storage.store, LogReader(storage.store)
        write = store.write

        def watched(batch: Batch) -> int:
            position = write(batch)
            found.append((reader.snapshot().index, reader.applied().index))
            return position

        setattr(store, "write", watched)  # noqa: B010 (what a Protocol has is no attribute to set)
        return storage

    async with cluster(1, settings=SHORT, machine=MACHINES[kind]) as made:
        await made.stop(1)
        made.wrap = wrap
        await made.start(1)
        await _fill(made, 200)
        assert made.nodes[1].status().first_index > 1
    assert max(found)[0] > 1
    assert [one for one in found if one[0] > one[1]] == []


@kinds
async def test_a_member_beyond_the_retention_gets_a_snapshot_and_goes_on(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        early = await _fill(made, 10, b"early")
        await made.stop(gone)
        late = await _fill(made, 500)
        if kind == "on-disk":  # a row that the image does not have
            rows = made.disks[gone].rows[Space.MACHINE]
            rows.keys.insert(0, b"")
            rows.values[b""] = b"not in the image"
        node = await made.start(gone)
        index = await node.read(timeout=20)
        assert node.status().applied >= index
        assert made.commands(gone) == early + late
        machine = made.machines[gone]
        if isinstance(machine, Journal):
            assert machine.restored == 1
        assert await node.propose(b"more") == 511
        # What it got is kept: it starts from it, without the others' help.
        await made.stop(gone)
        await made.start(gone)
        await made.until(lambda: len(made.commands(gone)) >= 511)
        assert made.commands(gone) == [*early, *late, b"more"]


@kinds
async def test_a_snapshot_that_loses_a_piece_is_sent_again(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        commands = await _fill(made, 300)
        pieces = 0

        def lose_the_third(_sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
            nonlocal pieces
            if lane is Lane.BULK and to == gone:
                pieces += 1
                if pieces == 3:
                    return None
            return frame

        made.network.tap = lose_the_third
        node = await made.start(gone)
        await node.ready()
        assert made.commands(gone) == commands
        assert pieces > 3


@kinds
async def test_a_piece_that_was_changed_on_its_way_is_noticed(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        commands = await _fill(made, 300)
        spoiled = 0

        def spoil_one(_sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
            nonlocal spoiled
            is_piece = lane is Lane.BULK and to == gone and frame[0] == 2
            if is_piece and len(frame) > 20 and not spoiled:
                spoiled += 1
                return frame[:-1] + bytes((frame[-1] ^ 1,))
            return frame

        made.network.tap = spoil_one
        node = await made.start(gone)
        await node.ready()
        assert spoiled
        assert made.commands(gone) == commands


@kinds
async def test_a_snapshot_broken_off_by_a_lost_connection_leaves_nothing_behind(kind: str) -> None:
    async with cluster(settings=SHORT, machine=MACHINES[kind]) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        commands = await _fill(made, 300)
        broken = 0

        def break_once(_sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
            nonlocal broken
            if lane is Lane.BULK and to == gone:
                broken += 1
                if broken == 4:
                    made.network.disconnect(leader.id, gone)
            return frame

        made.network.tap = break_once
        node = await made.start(gone)
        await node.ready()
        assert broken > 4
        assert made.commands(gone) == commands
        await made.stop(gone)
        rows = made.disks[gone].rows[Space.IMAGE].keys
        assert len(rows) <= 1 + 300 // 10 + 1  # the newest image of the in-memory kind, no other
        if kind == "on-disk":
            assert not rows


async def test_an_image_that_was_not_finished_is_removed_at_the_next_start() -> None:
    async with cluster(1, settings=SHORT) as made:
        commands = await _fill(made, 100)
        await made.stop(1)
        rows = made.disks[1].rows[Space.IMAGE]
        before = list(rows.keys)
        stray = b"c\0" + (10**6).to_bytes(8, "big") + bytes(4)
        rows.keys.append(stray)
        rows.keys.sort()
        rows.values[stray] = b"half"
        node = await made.start(1)
        await node.ready()
        assert made.commands(1) == commands
        await made.stop(1)
        assert made.disks[1].rows[Space.IMAGE].keys == before


@kinds
async def test_the_directory_of_another_kind_of_machine_is_refused(kind: str) -> None:
    async with cluster(1, settings=SHORT, machine=MACHINES[kind]) as made:
        commands = await _fill(made, 100)
        await made.stop(1)
        made.make_machine = MACHINES["on-disk" if kind == "in-memory" else "in-memory"]
        setup = made.setup(1)
        with pytest.raises(ConfigError, match="kind of machine"):
            async with running(Node(setup)):
                pass
        made.make_machine = MACHINES[kind]
        node = await made.start(1)
        await node.ready()
        assert made.commands(1) == commands


async def test_a_damaged_image_is_named_and_never_served() -> None:
    async with cluster(1, settings=SHORT) as made:
        await _fill(made, 150)
        await made.stop(1)
        rows = made.disks[1].rows[Space.IMAGE]
        chunk = next(key for key in rows.keys if key.startswith(b"c"))
        whole = rows.values[chunk]
        rows.values[chunk] = whole[:-1] + bytes((whole[-1] ^ 1,))
        with pytest.raises(StorageCorruptError, match="checksum"):
            async with running(Node(made.setup(1))):
                pass
        rows = made.disks[1].rows[Space.IMAGE]
        del rows.values[chunk]
        rows.keys.remove(chunk)
        with pytest.raises(StorageCorruptError, match="missing"):
            async with running(Node(made.setup(1))):
                pass


async def test_two_members_can_need_an_image_at_once() -> None:
    async with cluster(5, settings=SHORT) as made:
        leader = await made.leader()
        gone = [node.id for node in made.followers(leader)[:2]]
        for number in gone:
            await made.stop(number)
        commands = await _fill(made, 300)
        for number in gone:
            await made.start(number)
        for number in gone:
            await made.nodes[number].ready()
            assert made.commands(number) == commands


class _TooLong(Ledger):
    """Gives its image in a chunk that no receiver takes."""

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        yield b"fits"
        yield bytes(CHUNK_BYTES_MAX + 1)


class _Raising(Ledger):
    """Cannot give its image."""

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        raise ValueError("no image today")


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (_TooLong, f"gave a chunk of {CHUNK_BYTES_MAX + 1} bytes; at most {CHUNK_BYTES_MAX}"),
        (_Raising, "raised ValueError: no image today"),
    ],
)
async def test_a_machine_on_disk_that_cannot_give_its_image_stops_its_sender(
    machine: type[Ledger], sentence: str
) -> None:
    async with cluster(settings=SHORT, machine=machine) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        await _fill(made, 200)
        sender = (await made.leader()).id
        await made.start(gone)
        await made.until(lambda: sender in made.failures)
        cause = made.failures[sender].__cause__
        assert isinstance(cause, MachineError)
        assert f"snapshot_durable() of the state machine {sentence}" in str(cause)
