"""What arrives of a snapshot: whole or refused, the old state or the new, also across crashes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core.messages import InstallSnapshot
from raftkv.core.types import Membership, Snapshot
from raftkv.kv.commands import encode
from raftkv.kv.machine import KvMachine
from raftkv.kv.requests import Put
from raftkv.machine import Command, DurableStateMachine
from raftkv.node import snapshots
from raftkv.node.applier import AnyMachine
from raftkv.node.disk import Disk
from raftkv.node.images import CHUNK_BYTES_MAX, Images
from raftkv.node.receiving import Receiver
from raftkv.node.sending import Sender
from raftkv.node.snapshots import Arrived, Flag, Frame, Kind
from raftkv.node.status import EventHub
from raftkv.runtime.base import Clock, Worker
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import AppliedMark, Batch, Space
from raftkv.storage.memory import MemoryDisk, MemoryStore, open_memory
from raftkv.transport.base import Lane, Transport
from raftkv.transport.codec import encode_messages
from tests.node.rig import Journal, Ledger

MEMBERS = Membership((1, 2, 3))
ME, LEADER, OTHER = 3, 1, 2
PATIENCE_NS = 10**9


class FakeDisk:
    """The disk as the receiver sees it: one open batch, written when the test says so."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.batch: Batch = store.batch()
        self.syncs = 0

    def sync_soon(self, done: Callable[[], None]) -> None:
        self.syncs += 1
        done()

    def write(self) -> None:
        self._store.write(self.batch)
        self.batch = self._store.batch()


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


class Member:
    """One member's receiving half, and its machine. ``disk`` outlives it."""

    def __init__(self, disk: MemoryDisk, machine: AnyMachine) -> None:
        self.machine = machine
        self.storage = open_memory(7, ME, disk=disk)
        self.store = cast("MemoryStore", self.storage.store)
        self.recovered = self.storage.log.recover()
        self.images = Images(machine, self.storage, cast("Worker", self))
        self.reclaimed = 0
        self.images.start(self.recovered.applied)
        self.disk = FakeDisk(self.store)
        self.images.sweep(self.disk.batch)
        self.disk.write()
        self.clock = FakeClock()
        self.events = EventHub(system_runtime().waker, 8)
        self.sent: list[tuple[int, Frame]] = []
        self.unneeded: list[InstallSnapshot] = []
        self.receiver = Receiver(
            ME,
            self.images,
            cast("Disk", self.disk),
            cast("Transport", self),
            cast("Sender", self),
            cast("Clock", self.clock),
            self.events,
            patience_ns=PATIENCE_NS,
        )

    # As Worker, Transport and Sender.

    def submit(self, job: Callable[[], None], done: Callable[[object], None]) -> None:
        self.reclaimed += 1
        done(job())

    def send(self, peer: int, frame: bytes, lane: Lane) -> bool:
        assert lane is Lane.BULK
        self.sent.append((peer, snapshots.decode(frame)))
        return True

    def answered(self, peer: int, frame: Frame) -> None:
        raise AssertionError(f"{peer} answers what was never sent")

    def said(self) -> list[tuple[int, int, int]]:
        """To whom it said what, since the last time: peer, kind, number."""
        sent, self.sent = self.sent, []
        return [(peer, frame.kind, frame.number) for peer, frame in sent]

    def give(self, frame: bytes, peer: int = LEADER) -> bool:
        """A frame in a turn of its own; whether it completed an image, which is installed."""
        arrived = self.receiver.on_frame(peer, frame, self.applied)
        self.disk.write()
        if isinstance(arrived, InstallSnapshot):
            self.unneeded.append(arrived)
        if not isinstance(arrived, Arrived):
            return False
        self.install(arrived)
        return True

    def install(self, arrived: Arrived) -> None:
        """As the loop does it when the core takes the snapshot."""
        snapshot = arrived.message.snapshot
        self.images.install(self.disk.batch, snapshot, arrived.manifest)
        self.disk.write()
        self.images.installed()

    @property
    def applied(self) -> int:
        """Up to where the machine has applied."""
        return self.storage.log.recover().applied.index

    def content(self) -> tuple[int, object]:
        """What the log says to be applied, and what the machine holds."""
        machine = self.machine
        applied = self.storage.log.recover().applied.index
        if isinstance(machine, Journal):
            return applied, tuple(machine.commands)
        return applied, tuple(self.store.scan(Space.MACHINE))

    @property
    def has_leftovers(self) -> bool:
        staged = next(self.store.scan(Space.STAGED), None)
        kept = [key for key, _ in self.store.scan(Space.IMAGE) if key[:1] == b"r"]
        return staged is not None or bool(kept)


KINDS: dict[str, Callable[[], AnyMachine]] = {"kv": KvMachine, "ledger": Ledger, "journal": Journal}


def filled(kind: str, index: int, disk: MemoryDisk | None = None) -> Member:
    """A member that has applied commands that depend on ``index`` up to there."""
    member = Member(MemoryDisk() if disk is None else disk, KINDS[kind]())
    batch = member.store.batch()
    data = [b"%d/%d" % (number, index) for number in range(index)]
    if kind == "kv":
        data = [encode(Put(b"key%d" % number, one * 9)) for number, one in enumerate(data)]
    commands = [Command(index, one) for one in data]
    mark = AppliedMark(index, 1, 99, MEMBERS)
    snapshot = Snapshot(index, 1, 99, MEMBERS)
    member.storage.log.install_snapshot(batch, snapshot)
    machine = member.machine
    if isinstance(machine, Journal):
        machine.apply(commands)
        images = member.images
        images.begin(mark)
        while not images.advance(batch):
            pass
    else:
        cast("DurableStateMachine[object]", machine).apply_durable(commands, batch)
    member.store.write(batch)
    member.store.sync()
    return member


def image(kind: str, index: int) -> tuple[list[bytes], object]:
    """The chunks of an image at ``index``, and what a machine restored from it holds."""
    member = filled(kind, index)
    source = member.images.source(AppliedMark(index, 1, 99, MEMBERS))
    assert source is not None
    chunks = list(source.chunks)
    source.view.close()
    content = member.content()
    member.storage.close()
    return chunks, content


def begin(index: int, transfer: int = 5, term: int = 2, sender: int = LEADER) -> bytes:
    message = InstallSnapshot(sender, ME, term, Snapshot(index, 1, 99, MEMBERS))
    return snapshots.encode(Kind.BEGIN, transfer, payload=encode_messages((message,)))


def frames(chunks: list[bytes], transfer: int = 5) -> list[bytes]:
    """Every chunk and the end, as a sender makes them."""
    made: list[bytes] = []
    crc = 0
    for number, chunk in enumerate(chunks):
        crc = crc32(chunk, crc)
        made.append(snapshots.encode_chunk(transfer, number, crc, chunk))
    return [*made, snapshots.encode_end(transfer, len(chunks), crc)]


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_a_whole_image_takes_the_place_of_the_old_state(kind: str) -> None:
    chunks, new = image(kind, 40)
    member = filled(kind, 12)
    member.give(begin(40))
    assert member.said() == [(LEADER, Kind.PROGRESS, 0)]
    for number, frame in enumerate(frames(chunks)[:-1]):
        assert not member.give(frame)
        assert member.said() == [(LEADER, Kind.PROGRESS, number + 1)]
    assert member.give(frames(chunks)[-1])
    assert member.said() == [(LEADER, Kind.ACCEPTED, 0)]
    assert member.content() == new
    assert not member.has_leftovers
    # At the start and after the install the room of what was replaced is given back.
    assert member.reclaimed == (0 if kind == "journal" else 2)
    member.storage.close()


@kinds
@given(data=st.data())
def test_a_crash_at_any_write_leaves_the_old_state_or_the_new(
    kind: str, data: st.DataObject
) -> None:
    chunks, new = image(kind, 25)
    disk = MemoryDisk()
    member = filled(kind, 12, disk)
    old = member.content()
    steps = [begin(25), *frames(chunks)]
    stop = data.draw(st.integers(0, len(steps)), label="frames before the crash")
    synced = data.draw(st.integers(0, stop), label="of those synced")
    for number, frame in enumerate(steps[:stop]):
        member.give(frame)
        if number + 1 == synced:
            member.store.sync()
    keep = data.draw(st.integers(0, member.store.unsynced), label="unsynced batches kept")
    member.store.crash(keep)
    again = Member(disk, KINDS[kind]())
    kept = synced + keep  # each frame is a batch of its own, and the last one the install
    assert again.content() == (new if kept == len(steps) else old)
    if kept < len(steps):
        # What is there of the image is gone on with, and nothing of it is mixed with another.
        again.give(begin(25))
        ((_, _, number),) = again.said()
        assert number == max(0, kept - 1)
        for frame in frames(chunks)[number:]:
            again.give(frame)
        assert again.content() == new
    assert not again.has_leftovers
    again.storage.close()


@kinds
def test_a_restart_goes_on_where_it_was(kind: str) -> None:
    chunks, new = image(kind, 40)
    disk = MemoryDisk()
    member = filled(kind, 12, disk)
    member.give(begin(40))
    half = len(chunks) // 2
    for frame in frames(chunks)[:half]:
        member.give(frame)
    member.store.close()
    again = Member(disk, KINDS[kind]())
    again.give(begin(40, term=3))
    assert again.said() == [(LEADER, Kind.PROGRESS, half)]
    for frame in frames(chunks)[half:]:
        again.give(frame)
    assert again.content() == new
    again.storage.close()


def _spoil(how: str, chunks: list[bytes], other: list[bytes], rng: random.Random) -> list[bytes]:
    """An image that is none, as a sender with a damaged disk or another version would send it."""
    chunks = list(chunks)
    place = rng.randrange(len(chunks))
    match how:
        case "truncated":
            del chunks[place:]
        case "cut within a chunk":
            whole = b"".join(chunks)
            chunks = [whole[: rng.randrange(len(whole))]]
        case "flipped":
            chunk = bytearray(chunks[place])
            chunk[rng.randrange(len(chunk))] ^= 1 << rng.randrange(8)
            chunks[place] = bytes(chunk)
        case "mixed":
            chunks[place] = other[min(place, len(other) - 1)]
        case "newer":
            chunks[0] = chunks[0][:10] + bytes((2 + rng.randrange(200), 0)) + chunks[0][12:]
        case "swapped":
            second = (place + 1) % len(chunks)
            chunks[place], chunks[second] = chunks[second], chunks[place]
        case _:
            chunks += [rng.randbytes(rng.randrange(1, 99))]
    return chunks


HOW = ["truncated", "cut within a chunk", "flipped", "mixed", "newer", "swapped", "prolonged"]


@pytest.mark.parametrize("variant", range(56))
def test_what_is_no_whole_image_is_refused_before_the_old_state_is_touched(
    variant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.kv.image.CHUNK_BYTES", 300)
    rng = random.Random(variant)
    chunks, new = image("kv", 40)
    other, _ = image("kv", 41)
    assert len(chunks) > 5
    member = filled("kv", 12)
    old = member.content()
    member.give(begin(40))
    spoiled = _spoil(HOW[variant % len(HOW)], chunks, other, rng)
    assert spoiled != chunks
    for frame in frames(spoiled):
        assert not member.give(frame)
        assert member.content() == old
    assert (LEADER, Kind.BROKEN, 0) in member.said()
    assert len(member.events.alarms) == 1
    assert "state stays what it was" in member.events.alarms[0]
    assert not member.has_leftovers
    # Nothing of it is in the way of one that is whole.
    member.give(begin(40, transfer=6))
    for frame in frames(chunks, transfer=6):
        member.give(frame)
    assert member.content() == new
    member.storage.close()


@kinds
def test_a_newer_transfer_takes_the_place_of_one_that_arrives(kind: str) -> None:
    chunks, _ = image(kind, 40)
    newer, new = image(kind, 30)  # fewer rows: one that stayed from before would be seen
    member = filled(kind, 12)
    member.give(begin(40))
    for frame in frames(chunks)[:-1]:
        member.give(frame)
    member.said()
    member.give(begin(30, transfer=1, term=3, sender=OTHER), OTHER)
    assert member.said() == [(LEADER, Kind.BROKEN, 0), (OTHER, Kind.PROGRESS, 0)]
    assert not member.give(frames(chunks)[-1])  # too late
    assert member.said() == [(LEADER, Kind.BROKEN, 0)]
    for frame in frames(newer, transfer=1):
        member.give(frame, OTHER)
    assert member.content() == new
    assert not member.has_leftovers
    member.storage.close()


@kinds
@pytest.mark.parametrize("index", [3, 12])
def test_an_image_of_what_is_applied_is_answered_by_the_core_alone(kind: str, index: int) -> None:
    """Who sends it lost our answers, and the entries that would bring others."""
    member = filled(kind, 12)
    old = member.content()
    assert not member.give(begin(index))
    assert member.said() == [(LEADER, Kind.ACCEPTED, 0)]
    assert [one.snapshot.index for one in member.unneeded] == [index]
    assert not member.has_leftovers
    assert member.content() == old
    member.storage.close()


@kinds
def test_the_rows_of_a_replaced_transfer_are_gone_also_if_both_share_a_batch(kind: str) -> None:
    chunks, _ = image(kind, 40)
    newer, new = image(kind, 30)
    member = filled(kind, 12)
    for frame in (begin(40), *frames(chunks)[:-1], begin(30, transfer=6)):
        member.receiver.on_frame(LEADER, frame, 12)  # all in one turn
    for frame in frames(newer, transfer=6):
        member.give(frame)
    assert member.content() == new
    member.storage.close()


def test_a_leader_of_an_older_term_does_not_take_the_place_of_a_newer_one() -> None:
    chunks, new = image("ledger", 40)
    member = filled("ledger", 12)
    member.give(begin(40, term=3))
    member.said()
    member.give(begin(50, transfer=1, term=2, sender=OTHER), OTHER)
    assert member.said() == [(OTHER, Kind.BROKEN, 0)]
    for frame in frames(chunks):
        member.give(frame)
    assert member.content() == new
    member.storage.close()


@kinds
def test_the_image_that_a_member_lives_from_is_not_received_again(kind: str) -> None:
    chunks, new = image(kind, 40)
    disk = MemoryDisk()
    member = filled(kind, 12, disk)
    for frame in (begin(40), *frames(chunks), begin(40, transfer=6)):
        member.give(frame)
    other = [b"\0\0\0\1x"] * len(chunks)  # the same state, cut another way, or none at all
    for frame in frames(other, transfer=6)[:-1]:
        member.give(frame)
    member.store.close()
    again = Member(disk, KINDS[kind]())
    assert again.content() == new
    again.storage.close()


def test_frames_that_no_sender_makes_change_nothing() -> None:
    chunks, new = image("ledger", 40)
    member = filled("ledger", 12)
    old = member.content()
    member.give(begin(40))
    two = encode_messages([snapshots.decode_begin(snapshots.decode(begin(40)).payload)] * 2)
    for frame in (
        b"\x02short",
        begin(40)[:-1] + b"?",
        begin(40, sender=OTHER),
        snapshots.encode(Kind.BEGIN, 5, payload=two),
        snapshots.encode(cast("Kind", 9), 5),
        snapshots.encode(Kind.END, 5, 0, payload=b"no checksum"),
    ):
        member.said()
        assert not member.give(frame)
        assert member.said() == [(LEADER, Kind.PROGRESS, 0)]
        assert member.content() == old
    for frame in frames(chunks):
        member.give(frame)
    assert member.content() == new
    member.storage.close()


def test_a_chunk_longer_than_the_port_allows_is_refused() -> None:
    member = filled("journal", 12)
    old = member.content()
    member.give(begin(40))
    for frame in frames([bytes(CHUNK_BYTES_MAX + 1)]):
        assert not member.give(frame)
    assert (LEADER, Kind.BROKEN, 0) in member.said()
    assert member.content() == old
    assert not member.has_leftovers
    member.storage.close()


def test_a_lost_chunk_is_asked_for_once_and_a_repeated_one_changes_nothing() -> None:
    chunks, new = image("ledger", 40)
    member = filled("ledger", 12)
    sent = frames(chunks)
    member.give(begin(40))
    for frame in (sent[0], sent[0], sent[2], sent[3], sent[-1]):
        member.give(frame)
    answers = [(frame.kind, frame.number, frame.flags) for _, frame in member.sent]
    assert answers == [
        (Kind.PROGRESS, 0, Flag.AGAIN),
        (Kind.PROGRESS, 1, 0),
        (Kind.PROGRESS, 1, Flag.AGAIN),
        (Kind.PROGRESS, 1, Flag.AGAIN),  # the end is the last to come: nothing else would tell
    ]
    for frame in sent[1:]:
        member.give(frame)
    assert member.content() == new
    member.storage.close()


def test_a_chunk_that_was_changed_on_its_way_is_asked_for_again() -> None:
    chunks, new = image("kv", 40)
    member = filled("kv", 12)
    first, *rest = frames(chunks)
    member.give(begin(40))
    member.said()
    member.give(first[:-1] + bytes((first[-1] ^ 1,)))
    assert member.said() == [(LEADER, Kind.PROGRESS, 0)]
    for frame in (first, *rest):
        member.give(frame)
    assert member.content() == new
    member.storage.close()


@pytest.mark.parametrize("why", ["silence", "the log overtook it"])
@kinds
def test_what_nobody_goes_on_with_is_dropped(kind: str, why: str) -> None:
    chunks, _ = image(kind, 40)
    member = filled(kind, 12)
    old = member.content()
    member.give(begin(40))
    member.clock.now_ns = PATIENCE_NS // 2
    member.give(frames(chunks)[0])
    member.said()
    member.receiver.sweep(PATIENCE_NS + 1, 12)
    member.disk.write()
    assert member.said() == []
    if why == "silence":
        member.receiver.sweep(PATIENCE_NS * 3 // 2, 12)
    else:
        member.receiver.sweep(PATIENCE_NS + 1, 40)
    member.disk.write()
    assert member.said() == [(LEADER, Kind.BROKEN, 0)]
    assert not member.has_leftovers
    assert member.content() == old
    assert not member.give(frames(chunks)[1])
    assert member.said() == [(LEADER, Kind.BROKEN, 0)]
    member.storage.close()


def test_an_end_that_belongs_to_other_chunks_is_refused() -> None:
    chunks, _ = image("ledger", 40)
    member = filled("ledger", 12)
    old = member.content()
    member.give(begin(40))
    for frame in (*frames(chunks)[:-1], snapshots.encode_end(5, len(chunks), 1)):
        assert not member.give(frame)
    assert member.said()[-1] == (LEADER, Kind.BROKEN, 0)
    assert member.content() == old
    assert not member.has_leftovers
    member.storage.close()


def test_long_transfers_are_synced_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.node.receiving._UNSYNCED_BYTES_MAX", 100)
    chunks, _ = image("ledger", 60)
    member = filled("ledger", 12)
    member.give(begin(60))
    for frame in frames(chunks):
        member.give(frame)
    assert member.disk.syncs == sum(map(len, chunks)) // 104  # 13 bytes each, so every 8th
    member.storage.close()


def test_a_record_of_another_format_is_not_gone_on_with() -> None:
    chunks, new = image("ledger", 40)
    disk = MemoryDisk()
    member = filled("ledger", 12, disk)
    old = member.content()
    member.give(begin(40))
    member.give(frames(chunks)[0])
    record = member.store.get(Space.IMAGE, b"r")
    assert record is not None
    batch = member.store.batch()
    batch.put(Space.IMAGE, b"r", b"\x09" + record[1:])
    member.store.write(batch)
    member.store.close()
    again = Member(disk, Ledger())
    assert again.content() == old
    assert not list(again.store.scan(Space.STAGED))
    again.give(begin(40))
    assert again.said() == [(LEADER, Kind.PROGRESS, 0)]
    for frame in frames(chunks):
        again.give(frame)
    assert again.content() == new
    again.storage.close()
