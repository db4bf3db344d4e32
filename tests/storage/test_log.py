"""Raft's records in a store, against a list; and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raftkv.core.log import chain_of
from raftkv.core.types import Entry, EntryKind, HardState, Membership, Snapshot
from raftkv.encoding import encode_entry
from raftkv.errors import InvariantError, StorageCorruptError, StorageFormatError
from raftkv.storage.base import AppliedMark, Damage, Identity, Loss, Recovered, Space, WitnessRecord
from raftkv.storage.log import StoredLog
from raftkv.storage.memory import MemoryDisk, MemoryStore, open_memory
from raftkv.storage.records import FORMAT, encode_damage, seal
from raftkv.storage.rocks import Mode, RocksStore
from tests.storage.member_model import (
    CLUSTER,
    MEMBER,
    VOTERS,
    Writer,
    follow,
    rows_match,
)

payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


class ALogAndAList(RuleBasedStateMachine):
    """Turns of a member, crashes between them: what is read back is a state it passed through."""

    @initialize()
    def begin(self) -> None:
        self.disk = MemoryDisk()
        self.open()

    def open(self) -> None:
        self.storage = open_memory(CLUSTER, MEMBER, disk=self.disk)
        self.writer = Writer(self.storage)
        self.states: list[Recovered] = [self.writer.state()]  # since the last sync, which is first
        assert rows_match(self.storage.store, self.states[0])

    def turn(self, *steps: str, data: st.DataObject) -> None:
        batch = self.storage.store.batch()
        writer = self.writer
        for step in steps:
            if step == "vote":
                writer.vote(
                    batch, writer.hard_state.term + 1, data.draw(st.sampled_from([0, 7, 8]))
                )
            elif step == "append":
                replace = data.draw(st.integers(0, writer.uncommitted))
                writer.append(batch, data.draw(payloads), replace)
            elif step == "commit" and writer.uncommitted:
                writer.commit(
                    batch, writer.last.index - data.draw(st.integers(0, writer.uncommitted))
                )
            elif step == "compact" and writer.applied.index > writer.snapshot.index:
                first = writer.snapshot.index + 1
                writer.compact(batch, data.draw(st.integers(first, writer.applied.index)))
            elif step == "install":
                index = writer.applied.index + data.draw(st.integers(1, 9))
                term = max(1, writer.hard_state.term) + data.draw(st.integers(0, 1))
                writer.install(batch, index, term, data.draw(st.integers(1, 2**64 - 1)))
        writer.write(batch)
        self.states.append(writer.state())

    @rule(data=st.data())
    def election(self, data: st.DataObject) -> None:
        self.turn("vote", data=data)

    @rule(data=st.data(), steps=st.sets(st.sampled_from(["vote", "commit", "compact"])))
    def replication(self, data: st.DataObject, steps: set[str]) -> None:
        order = ("vote", "append", "commit", "compact")
        self.turn(*(step for step in order if step in steps | {"append"}), data=data)

    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        self.turn("install", data=data)

    @rule()
    def sync(self) -> None:
        assert self.writer.sync() == self.storage.store.written
        del self.states[:-1]

    @rule(data=st.data())
    def power_cut(self, data: st.DataObject) -> None:
        store = self.storage.store
        assert isinstance(store, MemoryStore)
        keep = data.draw(st.integers(0, store.unsynced))
        # Turns that changed nothing wrote nothing, so several states may share a position.
        store.crash(keep)
        states = self.states
        self.open()
        assert self.states[0] in states

    @rule()
    def end_of_the_process(self) -> None:
        last = self.states[-1]
        self.storage.close()
        self.open()
        assert self.states[0] == last

    @invariant()
    def what_was_written_is_read_back(self) -> None:
        recovered = StoredLog(self.storage.store).recover()
        assert recovered == self.writer.state()
        assert rows_match(self.storage.store, recovered)


TestALogAndAList = ALogAndAList.TestCase
TestALogAndAList.settings = settings(stateful_step_count=30, deadline=None)


def a_log(store: MemoryStore, size: int = 5, snapshot: Snapshot | None = None) -> list[Entry]:
    """Entries of terms 1, 1, 2, 2, 3 ... after a snapshot, committed but for the last."""
    log = StoredLog(store)
    batch = store.batch()
    base = snapshot or Snapshot(0, 0)
    if snapshot is not None:
        log.install_snapshot(batch, snapshot)
    previous: Entry | Snapshot = base
    entries: list[Entry] = []
    for number in range(size):
        previous = follow(previous, base.term + number // 2 + 1, b"data-%d" % number)
        entries.append(previous)
    log.append(batch, tuple(entries))
    log.save_hard_state(batch, HardState(9, 7, max(base.index, previous.index - 1)))
    store.write(batch)
    return entries


def key(index: int, group: int = 0) -> bytes:
    return group.to_bytes(4, "big") + index.to_bytes(8, "big")


def put(store: MemoryStore, space: Space, at: bytes, value: bytes) -> None:
    batch = store.batch()
    batch.put(space, at, value)
    store.write(batch)


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_a_missing_entry_is_named(lost: int) -> None:
    store = MemoryStore()
    a_log(store)
    batch = store.batch()
    batch.delete(Space.LOG, key(lost))
    store.write(batch)
    with pytest.raises(StorageCorruptError, match=f"entry {lost} is missing.*add it again"):
        StoredLog(store).recover()


def test_a_missing_end_is_noticed_by_the_commit_index() -> None:
    store = MemoryStore()
    a_log(store)
    batch = store.batch()
    batch.delete_range(Space.LOG, key(4), key(6))
    store.write(batch)
    with pytest.raises(StorageCorruptError, match="ends at entry 3, but entry 4 was committed"):
        StoredLog(store).recover()


@pytest.mark.parametrize("at", [1, 3, 5])
def test_every_flipped_bit_of_an_entry_is_noticed(at: int) -> None:
    store = MemoryStore()
    a_log(store)
    record = store.get(Space.LOG, key(at))
    assert record is not None
    for bit in range(len(record) * 8):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        put(store, Space.LOG, key(at), bytes(flipped))
        with pytest.raises((StorageCorruptError, StorageFormatError), match=f"entry {at} "):
            StoredLog(store).recover()
    put(store, Space.LOG, key(at), record)
    StoredLog(store).recover()


def test_a_record_cut_short_or_too_long_is_noticed() -> None:
    store = MemoryStore()
    a_log(store)
    record = store.get(Space.LOG, key(2))
    assert record is not None
    for wrong in [record[:size] for size in range(len(record))] + [record + b"\0"]:
        put(store, Space.LOG, key(2), wrong)
        with pytest.raises(StorageCorruptError, match="entry 2"):
            StoredLog(store).recover()


def test_an_entry_in_the_wrong_place_is_noticed() -> None:
    store = MemoryStore()
    entries = a_log(store)
    put(store, Space.LOG, key(2), encode_entry(entries[2], FORMAT))
    with pytest.raises(StorageCorruptError, match="the record of entry 2 holds entry 3"):
        StoredLog(store).recover()


def test_a_well_formed_entry_of_another_history_breaks_the_chain() -> None:
    store = MemoryStore()
    entries = a_log(store)
    stranger = Entry(2, 3, EntryKind.NORMAL, b"other", chain_of(4711, 2, 3, 0, b"other"))
    put(store, Space.LOG, key(3), encode_entry(stranger, FORMAT))
    with pytest.raises(StorageCorruptError, match="entry 3 does not continue the chain"):
        StoredLog(store).recover()
    assert entries[2] != stranger


def test_a_change_of_kind_alone_breaks_the_chain() -> None:
    store = MemoryStore()
    entries = a_log(store)
    kept = entries[2]
    changed = Entry(kept.term, kept.index, EntryKind.CHANGE, kept.data, kept.chain)
    put(store, Space.LOG, key(3), encode_entry(changed, FORMAT))
    with pytest.raises(StorageCorruptError, match="entry 3 does not continue the chain"):
        StoredLog(store).recover()


def test_a_falling_term_is_noticed() -> None:
    store = MemoryStore()
    entries = a_log(store)
    chain = chain_of(entries[2].chain, 1, 4, 0, b"")
    put(store, Space.LOG, key(4), encode_entry(Entry(1, 4, EntryKind.NORMAL, b"", chain), FORMAT))
    with pytest.raises(StorageCorruptError, match="entry 4 is of term 1, after one of term 2"):
        StoredLog(store).recover()


@pytest.mark.parametrize(
    ("hard_state", "complaint"),
    [
        (HardState(9, 7, 16), "ends at entry 15, but entry 16 was committed"),
        (HardState(9, 7, 9), "only entry 9 is committed, but the snapshot stands at 10"),
        (HardState(6, 7, 14), "ends in term 7, but the hard state knows 6"),
    ],
)
def test_a_hard_state_that_contradicts_the_log_is_noticed(
    hard_state: HardState, complaint: str
) -> None:
    store = MemoryStore()
    a_log(store, snapshot=Snapshot(10, 4, 99, VOTERS))
    batch = store.batch()
    StoredLog(store).save_hard_state(batch, hard_state)
    store.write(batch)
    with pytest.raises(StorageCorruptError, match=complaint):
        StoredLog(store).recover()


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        (AppliedMark(16, 7, 1), "ends at entry 15, but entry 16 was applied"),
        (AppliedMark(12, 5, 1), "what was applied at 12 is not the entry in the log"),
    ],
)
def test_an_applied_mark_that_contradicts_the_log_is_noticed(
    mark: AppliedMark, complaint: str
) -> None:
    store = MemoryStore()
    a_log(store, snapshot=Snapshot(10, 4, 99, VOTERS))
    batch = store.batch()
    StoredLog(store).mark_applied(batch, mark)
    store.write(batch)
    with pytest.raises(StorageCorruptError, match=complaint):
        StoredLog(store).recover()


@pytest.mark.parametrize("name", ["hard-state", "snapshot", "applied", "cuts"])
def test_every_flipped_bit_and_every_cut_of_a_small_record_is_noticed(name: str) -> None:
    store = MemoryStore()
    a_log(store, snapshot=Snapshot(10, 4, 99, VOTERS))
    at = bytes(4) + name.encode()
    record = store.get(Space.META, at)
    assert record is not None
    damaged = [record[:size] for size in range(len(record))]
    for bit in range(len(record) * 8):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    damaged += [seal(b""), seal(record[1:-4] + b"\0") if name != "snapshot" else seal(b"\0")]
    for wrong in damaged:
        put(store, Space.META, at, wrong)
        if name == "applied" and wrong == seal(record[1:-4] + b"\0"):
            continue
        with pytest.raises((StorageCorruptError, StorageFormatError)):
            StoredLog(store).recover()


@pytest.mark.parametrize("membership", [b"\x80", b"\xa0", b"\xa1\x66voters\x01", b"\xf6", b""])
def test_a_membership_of_another_shape_is_noticed(membership: bytes) -> None:
    store = MemoryStore()
    body = bytes(24) + len(membership).to_bytes(4, "little") + membership
    put(store, Space.META, bytes(4) + b"applied", seal(body))
    with pytest.raises(StorageCorruptError, match="applied mark record does not decode"):
        StoredLog(store).recover()


@pytest.mark.parametrize(
    ("space", "at"),
    [(Space.META, bytes(4) + b"hard-state"), (Space.LOG, key(1))],
)
def test_a_record_of_a_newer_format_asks_for_the_newer_raftkv(space: Space, at: bytes) -> None:
    store = MemoryStore()
    a_log(store)
    record = store.get(space, at)
    assert record is not None
    put(store, space, at, b"\x02" + record[1:])
    with pytest.raises(StorageFormatError, match=r"format 2, this raftkv reads format 1: open it"):
        StoredLog(store).recover()


def test_groups_share_a_store_without_meeting() -> None:
    store = MemoryStore()
    first, second = StoredLog(store), StoredLog(store, group=1)
    one, other = follow(Snapshot(0, 0), 1, b"one"), follow(Snapshot(0, 0), 2, b"other")
    for log, entry in ((first, one), (second, other)):
        batch = store.batch()
        log.append(batch, (entry,))
        log.save_hard_state(batch, HardState(entry.term, 0, 1))
        store.write(batch)
    assert StoredLog(store).recover().entries == (one,)
    assert StoredLog(store, group=1).recover().entries == (other,)


def test_a_gap_is_never_written() -> None:
    store = MemoryStore()
    entries = a_log(store, snapshot=Snapshot(10, 4, 99, VOTERS))
    log = StoredLog(store)
    for wrong in (17, 10):
        with pytest.raises(InvariantError, match=rf"entry {wrong} cannot follow a log of 11\.\.15"):
            log.append(store.batch(), (Entry(9, wrong, EntryKind.NORMAL, b"", 0),))
    with pytest.raises(InvariantError, match="entry 16 cannot be compacted"):
        log.compact(store.batch(), Snapshot(16, 9))
    log.append(store.batch(), ())
    assert log.recover().entries == tuple(entries)


def test_a_snapshot_raises_term_and_commit_but_keeps_a_vote_of_its_own_term() -> None:
    store = MemoryStore()
    a_log(store)
    for term, wanted in ((9, HardState(9, 7, 20)), (11, HardState(11, 0, 20))):
        log = StoredLog(store)
        batch = store.batch()
        log.install_snapshot(batch, Snapshot(20, term, 5, VOTERS))
        store.write(batch)
        recovered = StoredLog(store).recover()
        assert recovered.hard_state == wanted
        assert recovered.entries == ()
        assert recovered.applied == AppliedMark(20, term, 5, VOTERS)


def test_a_snapshot_keeps_its_membership_and_its_image() -> None:
    store = MemoryStore()
    membership = Membership((1, 2, 2**64 - 1), (1,), (4,), (5,), True, (6, 9))
    snapshot = Snapshot(3, 2, 77, membership, b"image" * 100_000)
    batch = store.batch()
    StoredLog(store).install_snapshot(batch, snapshot)
    store.write(batch)
    recovered = StoredLog(store).recover()
    assert recovered.snapshot == snapshot
    assert recovered.applied.membership == membership


def test_the_count_of_cuts_belongs_to_the_promise_not_to_the_moment() -> None:
    store = MemoryStore()
    entries = a_log(store)
    log = StoredLog(store)
    log.recover()
    promised = entries[-1].chain
    other = follow(entries[2], 8, b"replaced")
    log.append(store.batch(), (other,))
    assert (log.cuts_at(promised), log.cuts_at(other.chain), log.cuts) == (0, 1, 1)


def test_only_recent_ends_of_the_log_are_remembered() -> None:
    store = MemoryStore()
    log = StoredLog(store)
    previous: Entry | Snapshot = Snapshot(0, 0)
    ends: list[int] = []
    for _ in range(10_000):
        previous = follow(previous, 1, b"")
        log.append(store.batch(), (previous,))
        ends.append(previous.chain)
    log.append(store.batch(), (follow(Snapshot(0, 0), 2, b""),))
    assert [log.cuts_at(chain) for chain in (ends[-1], ends[-1000])] == [0, 0]
    assert len(log._tails) <= 4096  # pyright: ignore[reportPrivateUsage] - the bound itself


def test_a_big_log_is_read_back_from_disk_in_order(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    log = StoredLog(store)
    previous: Entry | Snapshot = Snapshot(0, 0)
    written: list[Entry] = []
    for size in (1, 300, 700, 1):
        batch = store.batch()
        new: list[Entry] = []
        for _ in range(size):
            previous = follow(previous, 1, b"x" * 20)
            new.append(previous)
        log.append(batch, tuple(new))
        log.save_hard_state(batch, HardState(1, 0, 0))
        store.write(batch)
        written += new
    store.close()
    store = RocksStore(tmp_path / "store")
    assert StoredLog(store).recover().entries == tuple(written)
    store.close()


# --- the mark of damage -----------------------------------------------------------------------

PROMISED = WitnessRecord(Identity(1, 2, bytes(range(16)), 3, bytes(range(16, 32))), 4, 5, 6, 7, 8)


def test_a_mark_of_damage_is_read_back_until_it_is_removed() -> None:
    store = MemoryStore()
    log = StoredLog(store)
    marks: list[tuple[Damage | None, WitnessRecord | None]] = [
        (Damage(Loss.LOG, "half of it is gone: naïve"), PROMISED),
        (Damage(Loss.LOG, ""), None),
        (Damage(Loss.ALL, "all of it"), None),
        (None, None),
    ]
    for damage, promised in marks:
        batch = store.batch()
        log.save_damage(batch, damage, promised)
        store.write(batch)
        recovered = StoredLog(store).recover()
        assert (recovered.damage, recovered.promised) == (damage, promised)


def test_what_is_lost_altogether_has_no_promise_that_would_make_it_whole() -> None:
    store = MemoryStore()
    batch = store.batch()
    StoredLog(store).save_damage(batch, Damage(Loss.ALL, "x"), PROMISED)
    store.write(batch)
    assert StoredLog(store).recover().promised is None


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00" * 20, b"\x02" + encode_damage(Damage(Loss.LOG, "x"), PROMISED)[1:], b"x" * 200],
)
def test_a_mark_of_damage_that_does_not_decode_is_damage(body: bytes) -> None:
    store = MemoryStore()
    batch = store.batch()
    batch.put(Space.META, bytes(4) + b"damage", seal(body))
    store.write(batch)
    with pytest.raises(StorageCorruptError, match="mark of damage does not decode"):
        StoredLog(store).recover()
