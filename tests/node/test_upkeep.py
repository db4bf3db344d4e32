"""What members tell each other of their boots, and when the log is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from attrs import evolve

from raftkv.core import Config, Input, Propose, Role, Snapshot, start
from raftkv.core.types import Membership
from raftkv.node.disk import Disk
from raftkv.node.disks import Disks
from raftkv.node.hashes import StateHashes
from raftkv.node.notes import Booted, HashHere, decode_note
from raftkv.node.peers import Peers
from raftkv.node.roster import Member
from raftkv.node.upkeep import AGAIN, SEEN, Upkeep
from raftkv.runtime.base import Clock
from raftkv.storage.base import Batch, Identity
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Hello, Lane, Transport
from tests.node.rig import QUICK

MEMBERS = tuple(Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))
VOTERS = Membership((1, 2, 3))


class World:
    """One member's upkeep, on a disk that syncs when it is told to."""

    def __init__(self, number: int = 1, boot: int = 2) -> None:
        storage = open_memory(5, number)
        self.store = storage.store
        self.identity = Identity(5, number, b"%d" % number * 16, boot, b"t" * 16)
        self.now = 0
        self.batch: Batch = self.store.batch()
        self.syncs: list[Callable[[], None]] = []
        self.sent: list[tuple[int, bytes]] = []
        self.is_up = True
        self.given: list[Input] = []
        self.regressed: list[str] = []
        self.reconnected: list[int] = []
        self.peers = Peers(MEMBERS[number - 1], MEMBERS, 5, Disks(self.store, self.identity))
        self.leader = 0
        self.hashes = StateHashes(
            number,
            storage,
            None,
            cast("Transport", self),
            cast("object", None),  # pyright: ignore[reportArgumentType] - nothing is hashed here
            cast("object", None),  # pyright: ignore[reportArgumentType] - as above
            quiet_until=0,
        )
        self.upkeep = Upkeep(
            self.identity,
            QUICK,
            cast("Clock", self),
            cast("Disk", self),
            self.peers,
            cast("Transport", self),
            self.hashes,
        )
        self.upkeep.give = self.given.append
        self.upkeep.on_regressed = self.regressed.append
        self.upkeep.reconnect = self.reconnected.extend

    @property
    def hello(self) -> Hello:
        identity = self.identity
        return Hello(5, identity.member_id, identity.disk_uuid, identity.boot, "", b"t" * 16)

    def monotonic_ns(self) -> int:
        return self.now

    def sync_soon(self, done: Callable[[], None]) -> None:
        self.syncs.append(done)

    def synced(self) -> None:
        syncs, self.syncs = self.syncs, []
        for done in syncs:
            done()

    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        assert lane is Lane.BULK
        if self.is_up:
            self.sent.append((peer, frame))
        return self.is_up

    def tick(self, role: Role = Role.FOLLOWER) -> None:
        state = start(Config(id=self.identity.member_id), snapshot=Snapshot(1, 1, 0, VOTERS))
        self.upkeep.tick(evolve(state, role=role))

    def notes(self) -> list[object]:
        given = [*self.given]
        self.given.clear()
        return [
            decode_note(payload.data)
            for one in given
            if isinstance(one, Propose)
            for payload in one.payloads
        ]


def test_nobody_is_told_that_its_boot_was_seen_before_that_is_durable() -> None:
    here, there = World(1), World(2)
    here.upkeep.on_up(2, there.hello)
    here.upkeep.turn()
    here.upkeep.turn()
    here.tick()
    assert here.sent == []
    here.synced()
    ((to, frame),) = here.sent
    assert (to, frame[0]) == (2, SEEN)
    there.upkeep.on_frame(1, frame, VOTERS)
    assert not there.upkeep.admission.is_open  # one of two others
    there.upkeep.on_frame(3, frame, VOTERS)
    assert there.upkeep.admission.is_open
    # A second connection of the same boot is told at once: nothing has to be stored.
    here.upkeep.on_up(2, there.hello)
    here.upkeep.turn()
    assert len(here.sent) == 2


def test_a_boot_that_is_stored_by_a_tick_is_told_when_it_is_durable() -> None:
    here, there = World(1), World(2)
    here.upkeep.turn()
    here.synced()
    here.upkeep.on_up(2, there.hello)
    here.tick()  # which stores what is not stored yet, too
    assert here.sent == []
    here.synced()
    assert [to for to, _ in here.sent] == [2]


def test_what_could_not_be_sent_is_sent_later_and_to_nobody_who_left() -> None:
    here, there, third = World(1), World(2), World(3)
    here.is_up = False
    here.upkeep.on_up(2, there.hello)
    here.upkeep.on_up(3, third.hello)
    here.upkeep.turn()
    here.synced()
    here.peers.down(3)
    here.is_up = True
    here.upkeep.turn()
    here.upkeep.turn()
    assert [to for to, _ in here.sent] == [2]


def test_who_waits_asks_again_and_is_answered() -> None:
    here, there = World(1), World(2)
    here.upkeep.on_up(2, there.hello)
    here.upkeep.turn()
    here.synced()
    here.sent.clear()
    there.tick()
    assert there.sent == []
    there.now += 10**9
    there.tick()
    assert {(to, frame) for to, frame in there.sent} == {(1, bytes([AGAIN])), (3, bytes([AGAIN]))}
    here.upkeep.on_frame(2, bytes([AGAIN]), VOTERS)
    here.upkeep.turn()
    assert [to for to, _ in here.sent] == [2]


def test_the_leader_has_the_log_tell_of_each_boot_and_of_nobody_who_is_no_member() -> None:
    here, there = World(1), World(2)
    here.peers.up(2, there.hello)
    here.peers.disks.met(evolve(there.hello, member_id=9))
    here.tick()
    assert here.notes() == []
    here.tick(Role.LEADER)
    notes = here.notes()
    assert [(note.member, note.boot) for note in notes if isinstance(note, Booted)] == [
        (1, 2),
        (2, 2),
    ]
    here.tick(Role.LEADER)
    assert here.notes() == []  # they are on their way
    here.now += 10**9
    here.tick(Role.LEADER)
    assert here.notes() == notes  # or were lost


def test_the_log_tells_of_who_comes_in_with_the_next_tick() -> None:
    here, other = World(), World(2)
    here.tick(Role.LEADER)
    here.notes()
    here.tick(Role.LEADER)
    assert here.notes() == []
    here.upkeep.on_up(2, other.hello)
    here.tick(Role.LEADER)
    assert [note.member for note in here.notes() if isinstance(note, Booted)] == [1, 2]


def test_the_leader_asks_for_hashes_once_an_interval() -> None:
    here = World(1)
    here.tick(Role.LEADER)
    assert HashHere() not in here.notes()
    here.now += round(QUICK.state_hash_seconds * 1e9)
    here.tick(Role.LEADER)
    assert HashHere() in here.notes()
    here.tick(Role.LEADER)
    assert HashHere() not in here.notes()


def test_a_table_that_knows_a_later_boot_shows_who_is_an_old_copy() -> None:
    old, newer, other = World(2, boot=2), World(2, boot=5), World(1)
    other.upkeep.on_up(2, old.hello)
    witness = World(3)
    witness.peers.up(2, newer.hello)
    frame = bytes([SEEN]) + bytes(24) + witness.peers.disks.told()
    other.upkeep.on_frame(3, frame, VOTERS)
    assert other.reconnected == [2]  # its next handshake tells it
    for _ in range(2):
        old.upkeep.on_frame(3, frame, VOTERS)
    (told,) = old.regressed
    assert "a later start of this data directory than 2" in told
    assert not other.regressed


@pytest.mark.parametrize("frame", [bytes([SEEN]), bytes([SEEN]) + bytes(25)])
def test_frames_that_are_none_are_dropped(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    here = World(1)
    here.upkeep.on_frame(2, frame, VOTERS)
    assert "what member n2 knows of disks is dropped" in caplog.text
    assert not here.upkeep.admission.is_open


@pytest.mark.parametrize("frame", [b"\x1e", bytes([31]) + bytes(48), bytes([32]) + bytes(48)])
def test_hashes_that_are_none_or_late_are_passed_over(frame: bytes) -> None:
    here = World(1)
    here.hashes.on_frame(2, frame, 2**63)
    here.tick(Role.LEADER)
    assert here.upkeep.odd == ""
