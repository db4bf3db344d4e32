"""A member that lost something is made whole by the others, and counts for nothing until then.

Members on real RocksDB directories over a network in memory; directories are damaged while closed.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attrs import evolve

from raftkv.errors import DeadlineError, NodeStoppedError, StorageCorruptError
from raftkv.node.status import Alarm, RecoveryChanged
from raftkv.runtime.system import SystemRng
from raftkv.storage.base import Storage, View
from raftkv.storage.directory import open_rocks
from raftkv.storage.member import CONDEMNED, MemberStorage
from raftkv.storage.rocks import RocksStore
from raftkv.storage.scrub import Scrub
from tests.node.rig import CLUSTER_ID, Cluster, Ledger, cluster


@asynccontextmanager
async def on_disk(where: Path, size: int = 3) -> AsyncGenerator[Cluster]:
    """Members whose directories are below ``where``, named by number; running."""

    def open_storage(number: int) -> Storage:
        return open_rocks(
            where / str(number),
            cluster_id=CLUSTER_ID,
            member_id=number,
            rng=SystemRng(),
            can_recover=True,
            ballast_bytes=0,
        )

    async with cluster(size, machine=Ledger, start=False) as made:
        made.open_storage = open_storage
        for member in made.members:
            await made.start(member.id)
        await made.leader()
        await made.settled()
        yield made


async def fill(made: Cluster, name: str, count: int = 10) -> list[bytes]:
    leader = await made.leader()
    commands = [b"%s %d" % (name.encode(), number) + bytes(100) for number in range(count)]
    for command in commands:
        await leader.propose(command)
    return commands


async def killed(made: Cluster, where: Path, *numbers: int) -> None:
    """End members as kill -9 does: with a write-ahead log that was not folded away in order."""
    for number in numbers:
        await made.nodes[number].read()
        shutil.copytree(where / str(number), where / f"killed {number}")
    for number in numbers:
        await made.stop(number)
        shutil.rmtree(where / str(number))
        (where / f"killed {number}").rename(where / str(number))


def store_of(where: Path, number: int) -> Path:
    return where / str(number) / "member" / "store"


def newest_log(where: Path, number: int) -> Path:
    """The write-ahead log that holds what was written last."""
    logs = sorted(store_of(where, number).glob("*.log"))
    return [log for log in logs if log.stat().st_size][-1]


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def flip_log(where: Path, number: int) -> None:
    log = newest_log(where, number)
    flip(log, log.stat().st_size // 2)


def cut_log(where: Path, number: int) -> None:
    log = newest_log(where, number)
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


def delete_log(where: Path, number: int) -> None:
    newest_log(where, number).unlink()


def flip_table(where: Path, number: int) -> None:
    table = max(store_of(where, number).glob("*.sst"), key=lambda path: path.stat().st_size)
    flip(table, table.stat().st_size // 3)


def delete_witness(where: Path, number: int) -> None:
    (where / str(number) / "member" / "witness").unlink()


def delete_store(where: Path, number: int) -> None:
    shutil.rmtree(store_of(where, number))


def older_store(where: Path, number: int) -> None:
    shutil.rmtree(store_of(where, number))
    shutil.copytree(where / "backup" / "member" / "store", store_of(where, number))


def older_directory(where: Path, number: int) -> None:
    shutil.rmtree(where / str(number))
    shutil.copytree(where / "backup", where / str(number))


WAYS: dict[str, Callable[[Path, int], None]] = {
    "log flipped": flip_log,
    "log cut": cut_log,
    "log deleted": delete_log,
    "table flipped": flip_table,
    "witness deleted": delete_witness,
    "store deleted": delete_store,
    "older store": older_store,
    "older directory": older_directory,
}


async def whole(made: Cluster, number: int, expected: list[bytes]) -> None:
    """Until the member is whole and holds exactly what was acknowledged."""
    node = made.nodes[number]
    await node.ready()
    assert node.status().recovering is None
    assert made.commands(number) == expected


# Each takes a second and a half: the ways take turns on the backends.
@pytest.mark.parametrize(
    ("way", "anyio_backend"),
    [(way, ("asyncio", "trio")[place % 2]) for place, way in enumerate(WAYS)],
)
async def test_a_damaged_member_is_made_whole_while_the_others_serve(
    way: str, tmp_path: Path
) -> None:
    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        await made.stop(3)
        shutil.copytree(tmp_path / "3", tmp_path / "backup")
        await made.start(3)
        await made.nodes[3].ready()
        await made.settled()
        expected += await fill(made, "second")
        await killed(made, tmp_path, 3)
        expected += await fill(made, "third", 3)
        WAYS[way](tmp_path, 3)
        node = await made.start(3)
        expected += await fill(made, "fourth", 3)
        await whole(made, 3, expected)
        assert node.status().alarms  # it said what it found
        # And it counts again: without it there is no majority.
        other = next(one for one in (1, 2) if one != node.status().leader)
        await made.stop(other)
        expected += await fill(made, "fifth", 3)
        await whole(made, 3, expected)
        # What it got is kept, the mark is gone.
        await made.stop(3)
        node = await made.start(3)
        await whole(made, 3, expected)
        if way != "older directory":  # its count of starts may still be below what others saw
            assert not node.status().alarms


def flip_entry(where: Path, number: int, command: bytes) -> None:
    """Damage the record that holds a command, wherever it is: the log, and the machine's row."""
    found = 0
    for path in sorted(store_of(where, number).glob("*.log")):
        content = path.read_bytes()
        at = content.find(command)
        if at >= 0:
            flip(path, at)
            found += 1
    assert found


@pytest.mark.parametrize(
    ("places", "anyio_backend"),
    [({1: 4}, "asyncio"), ({1: 3, 2: 6}, "trio"), ({1: 4, 2: 4}, "asyncio")],
    ids=["1 of 3", "2 of 3 at different entries", "2 of 3 at the same entry"],
)
async def test_acknowledged_entries_come_back_from_whoever_has_them_before_anybody_leads(
    places: dict[int, int], tmp_path: Path
) -> None:
    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        await killed(made, tmp_path, 1, 2, 3)
        for number, place in places.items():
            flip_entry(tmp_path, number, expected[place])
        for number in (1, 2, 3):
            await made.start(number)
        for number in (1, 2, 3):
            await whole(made, number, expected)
            assert bool(made.nodes[number].status().alarms) == (number in places)
        expected += await fill(made, "second", 3)
        for number in (1, 2, 3):
            await whole(made, number, expected)


async def test_an_entry_that_nobody_has_halts_the_cluster_until_one_comes_back(
    tmp_path: Path,
) -> None:
    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        await killed(made, tmp_path, 1, 2, 3)
        shutil.copytree(tmp_path / "3", tmp_path / "backup")
        for number in (1, 2, 3):
            flip_entry(tmp_path, number, expected[4])
        for number in (1, 2, 3):
            await made.start(number)
        nodes = [made.nodes[number] for number in (1, 2, 3)]
        halted = "nothing is decided again, the cluster stands still"
        await made.until(lambda: all(halted in "".join(node.status().alarms) for node in nodes))
        missing = {node.status().last_index + 1 for node in nodes}
        for node in nodes:
            status = node.status()
            assert not status.leader
            assert status.recovering is not None
            assert status.recovering.votes_known
            assert any(f"entry {index} is lost here" in status.alarms[-1] for index in missing)
        with pytest.raises(DeadlineError):
            await nodes[0].propose(b"in its place", timeout=0.5)
        with pytest.raises(DeadlineError):
            await nodes[0].ready(timeout=0.5)
        # An intact copy is enough, although it is an old one and has no vote itself.
        await made.stop(3)
        older_directory(tmp_path, 3)
        await made.start(3)
        for number in (1, 2, 3):
            await whole(made, number, expected)


async def test_recovering_and_being_whole_again_are_events(tmp_path: Path) -> None:
    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        await made.stop(3)
        shutil.copytree(tmp_path / "3", tmp_path / "backup")
        await made.start(3)
        await made.settled()
        await made.stop(3)
        older_directory(tmp_path, 3)
        node = await made.start(3)
        events = node.events()
        await whole(made, 3, expected)
        heard: list[object] = []
        while not heard or heard[-1] != RecoveryChanged(""):
            event = await anext(events)
            if isinstance(event, RecoveryChanged | Alarm):
                heard.append(event)
        assert any(isinstance(one, Alarm) and "went back in time" in one.what for one in heard)
        assert any(isinstance(one, RecoveryChanged) and one.what for one in heard)


async def test_damage_that_the_scrubber_finds_stops_the_node_and_the_next_start_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrub = MemberStorage.scrub

    def damaged(self: MemberStorage, view: View) -> Scrub:
        if self.identity.member_id == 3:
            raise StorageCorruptError("a block of a table fails its checksum")
        return scrub(self, view)

    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        await made.stop(3)
        made.settings = evolve(made.settings, scrub_pause_seconds=0.05, scrub_bytes_per_second=1e9)
        monkeypatch.setattr(MemberStorage, "scrub", damaged)
        await made.start(3)
        await made.ended(3)
        monkeypatch.undo()
        cause = made.failures[3].__cause__
        assert isinstance(cause, StorageCorruptError)
        node = await made.start(3)
        assert "fails its checksum" in node.status().alarms[0]
        await whole(made, 3, expected)


async def test_a_read_of_the_application_that_meets_damage_stops_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_disk(tmp_path) as made:
        expected = await fill(made, "first")
        store = made.storages[3].store
        assert isinstance(store, RocksStore)
        monkeypatch.setattr(store, "corruption", StorageCorruptError("a row cannot be read"))
        await made.ended(3)
        assert isinstance(made.failures[3], NodeStoppedError)
        node = await made.start(3)
        assert "a row cannot be read" in node.status().alarms[0]
        await whole(made, 3, expected)


async def test_whatever_cluster_said_a_damaged_store_is_judged_anew_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Founded alone, a member may have others by then: only its directory knows."""
    async with on_disk(tmp_path, size=1) as made:
        store = made.storages[1].store
        assert isinstance(store, RocksStore)
        monkeypatch.setattr(store, "corruption", StorageCorruptError("a row cannot be read"))
        await made.ended(1)
        assert (tmp_path / "1" / "member" / CONDEMNED).exists()
