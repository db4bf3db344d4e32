"""A damaged directory of a member with peers: opened with what is intact, never believed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from attrs import evolve

from raftkv.core.types import HardState, Membership
from raftkv.errors import IdentityError, StorageCorruptError
from raftkv.storage.base import Damage, Loss, Space, Store
from raftkv.storage.files import OsFiles
from raftkv.storage.log import StoredLog
from raftkv.storage.memory import MemoryDisk, MemoryStore, open_memory
from raftkv.storage.witness import SLOT_BYTES, WitnessMark
from tests.storage.member_model import CLUSTER, MEMBER, Writer, everything
from tests.storage.opening import Scripted, opened
from tests.storage.quarantine import (
    TERM,
    VOTE,
    Crashed,
    Truth,
    edited,
    quarantined,
    spoil,
    turns,
)

# --- behind the witness -----------------------------------------------------------------------


def test_a_whole_directory_is_not_marked(crashed: Crashed) -> None:
    assert crashed.opens()[0] == "whole"


def test_a_store_that_lost_its_end_keeps_the_rest_and_knows_what_to_get_back(
    crashed: Crashed,
) -> None:
    wal = crashed.wals()[-1]
    os.truncate(wal, wal.stat().st_size - 5)
    loss, what, found = crashed.damaged()
    assert loss is Loss.LOG
    assert "its log ends at entry 49, but entry 50 was promised" in what
    assert (found.snapshot.index, found.entries[-1].index, found.applied.index) == (10, 49, 48)
    assert found.promised is not None
    assert (found.promised.last_index, found.promised.last_chain) == (
        50,
        crashed.truth.entries[49].chain,
    )
    assert sorted(file.name for file in crashed.member.iterdir()) == [
        "store",
        "store-options",
        "witness",
    ]


def test_a_store_without_its_newest_log_is_as_it_was_before_that(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    loss, what, found = crashed.damaged()
    assert (loss, found.entries[-1].index) == (Loss.LOG, 30)
    assert "it is from opening 1, the witness from 2" in what


def test_the_next_boot_is_beyond_any_that_the_disk_ever_had(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    storage = quarantined(crashed.root)
    assert storage.identity.boot == 3
    assert storage.identity.disk_uuid == crashed.truth.promised.identity.disk_uuid
    storage.close()


def test_a_vote_that_only_the_witness_knows_is_kept(crashed: Crashed, tmp_path: Path) -> None:
    storage = opened(crashed.root)
    writer = Writer(storage)
    shutil.copytree(crashed.store, tmp_path / "older")
    batch = storage.store.batch()
    writer.vote(batch, 4, 9)
    writer.write(batch)
    writer.sync()
    truth = evolve(crashed.truth, state=writer.state(), promised=writer.promise())
    storage.close()
    shutil.rmtree(crashed.store)
    shutil.copytree(tmp_path / "older", crashed.store)
    loss, _, found = Crashed(crashed.root, truth).damaged()
    assert loss is Loss.LOG
    assert (found.hard_state.term, found.hard_state.vote) == (4, 9)


# --- where nothing proves the votes -----------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "empty", "damaged"])
def test_without_a_witness_everything_is_kept_and_nothing_is_proven(
    crashed: Crashed, how: str
) -> None:
    if how == "missing":
        crashed.witness.unlink()
    else:
        os.truncate(crashed.witness, 0 if how == "empty" else SLOT_BYTES - 1)
    loss, what, found = crashed.damaged()
    assert loss is Loss.ALL
    assert "witness" in what
    assert evolve(found, damage=None) == crashed.truth.state


def test_half_a_witness_does_not_prove_the_votes_of_a_store_that_lost_something(
    original: Crashed, tmp_path: Path
) -> None:
    for slot in (0, 1):
        copy = original.copy(tmp_path / "copy")
        content = bytearray(copy.witness.read_bytes())
        content[slot * SLOT_BYTES + 40] ^= 1
        copy.witness.write_bytes(content)
        assert copy.copy(tmp_path / "whole").opens()[0] == "whole"
        copy.wals()[-1].unlink()
        loss, what, _ = copy.damaged()
        assert loss is Loss.ALL
        assert "one half of its witness is damaged" in what


def test_a_witness_older_than_a_damaged_store_proves_nothing(
    crashed: Crashed, tmp_path: Path
) -> None:
    shutil.copy(crashed.witness, tmp_path / "witness")
    storage = opened(crashed.root)
    storage.close()
    shutil.copy(tmp_path / "witness", crashed.witness)
    (crashed.store / "CURRENT").write_bytes(b"")
    loss, _, _ = crashed.damaged()
    assert loss is Loss.LOG  # nothing readable says that the store was newer
    # A store that can be read, but for one entry, tells.
    other = tmp_path / "other"
    storage = opened(other)
    turns(Writer(storage), 5)
    storage.close()
    shutil.copy(other / "member" / "witness", tmp_path / "witness")
    storage = opened(other)
    batch = storage.store.batch()
    key = list(storage.store.scan(Space.LOG))[2][0]
    batch.put(Space.LOG, key, b"\x01nonsense")
    storage.store.write(batch)
    storage.close()
    shutil.copy(tmp_path / "witness", other / "member" / "witness")
    storage = quarantined(other)
    damage = storage.log.recover().damage
    storage.close()
    assert damage is not None
    assert damage.loss is Loss.ALL


def test_a_witness_of_another_disk_proves_nothing(crashed: Crashed, tmp_path: Path) -> None:
    storage = opened(tmp_path / "other")
    storage.close()
    content = bytearray((tmp_path / "other" / "member" / "witness").read_bytes())
    (tmp_path / "other" / "member" / "witness").write_bytes(content)
    disk = MemoryDisk(b"one disk's uuid.")
    memory = open_memory(CLUSTER, MEMBER, disk=disk)
    turns(Writer(memory), 3)
    memory.close()
    assert disk.witness.mark is not None
    record = disk.witness.mark.record
    stranger = evolve(record, identity=evolve(record.identity, disk_uuid=b"another one's id"))
    disk.witness.mark = WitnessMark(stranger, 0)
    memory = open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True)
    damage = memory.log.recover().damage
    assert memory.identity.disk_uuid == b"one disk's uuid."
    memory.close()
    assert damage is not None
    assert damage.loss is Loss.ALL
    assert "made by different disks" in damage.what


def test_a_witness_of_a_second_copy_of_the_directory_proves_nothing(
    crashed: Crashed, tmp_path: Path
) -> None:
    disk = MemoryDisk()
    memory = open_memory(CLUSTER, MEMBER, disk=disk)
    memory.close()
    assert disk.witness.mark is not None
    record = disk.witness.mark.record
    other = evolve(record, identity=evolve(record.identity, boot_token=b"another opening."))
    disk.witness.mark = WitnessMark(other, 0)
    memory = open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True)
    damage = memory.log.recover().damage
    memory.close()
    assert damage is not None
    assert damage.loss is Loss.ALL
    assert "two copies that were both opened" in damage.what


# --- begun anew -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_store_that_cannot_be_read_is_begun_anew_with_its_votes(
    crashed: Crashed, pattern: str, how: str
) -> None:
    file = sorted(crashed.store.glob(pattern))[-1]
    if how == "deleted":
        file.unlink()
    else:
        os.truncate(file, 0)
    loss, what, found = crashed.damaged()
    assert loss is Loss.LOG
    assert "begun anew, with nothing but what is known of its term and vote" in what
    assert "the old one is kept in" in what
    assert (found.snapshot.index, found.entries, found.applied.membership) == (0, (), Membership())
    assert (crashed.member / "store.damaged").is_dir()


def test_a_store_that_is_gone_is_begun_anew(crashed: Crashed) -> None:
    shutil.rmtree(crashed.store)
    loss, what, _ = crashed.damaged()
    assert loss is Loss.LOG
    assert "store is missing" in what


def test_only_one_damaged_store_is_ever_kept(crashed: Crashed) -> None:
    for round_number in range(2):
        (crashed.store / f"mine-{round_number}").touch()
        (crashed.store / "CURRENT").write_bytes(b"")
        quarantined(crashed.root).close()
    left = sorted(file.name for file in crashed.member.iterdir())
    assert left == ["store", "store-options", "store.damaged", "witness"]
    assert (crashed.member / "store.damaged" / "mine-1").exists()


def test_on_a_disk_without_room_the_damaged_store_makes_way(crashed: Crashed) -> None:
    class Full(OsFiles):
        def free_bytes(self, path: Path) -> int:
            return 1000

    (crashed.store / "CURRENT").write_bytes(b"")
    storage = opened(crashed.root, can_recover=True, files=Full())
    damage = storage.log.recover().damage
    storage.close()
    assert damage is not None
    assert "is removed, as the disk has no room for both" in damage.what
    left = sorted(file.name for file in crashed.member.iterdir())
    assert left == ["store", "store-options", "witness"]


def test_neither_a_store_nor_a_witness_is_nothing_to_go_on_with(crashed: Crashed) -> None:
    crashed.witness.unlink()
    (crashed.store / "CURRENT").write_bytes(b"")
    with pytest.raises(StorageCorruptError, match=r"any more which disk it was.*add it again"):
        quarantined(crashed.root)


def test_the_store_of_another_member_is_not_damage(crashed: Crashed) -> None:
    with pytest.raises(IdentityError):
        opened(crashed.root, member=8, can_recover=True)
    crashed.witness.unlink()
    with pytest.raises(IdentityError):
        opened(crashed.root, member=8, can_recover=True)


def test_a_damaged_entry_beyond_the_applied_ones_ends_the_log_before_it(crashed: Crashed) -> None:
    loss, what, found = edited(crashed, spoil(Space.LOG, -1))
    assert loss is Loss.LOG
    assert "log entry 50 is damaged" in what
    assert "with what it had applied up to entry 49 and its log up to entry 49" in what
    assert (found.snapshot.index, len(found.entries), found.applied.index) == (10, 39, 49)


def test_a_damaged_entry_that_was_applied_is_not_needed_any_more(crashed: Crashed) -> None:
    """Its effects are in the rows; the log goes on after the applied entry."""
    loss, what, found = edited(crashed, spoil(Space.LOG, 20))
    assert loss is Loss.LOG
    assert "log entry 31 is damaged" in what
    assert found.snapshot.index == found.applied.index == 49
    assert [entry.index for entry in found.entries] == [50]
    assert found.hard_state.commit == 49


@pytest.mark.parametrize("name", [b"hard-state", b"applied", b"snapshot", b"cuts"])
def test_damaged_marks_leave_nothing_to_build_on(crashed: Crashed, name: bytes) -> None:
    def edit(store: Store) -> None:
        batch = store.batch()
        batch.put(Space.META, bytes(4) + name, b"\x01nonsense")
        store.write(batch)

    loss, what, found = edited(crashed, edit)
    assert loss is Loss.LOG
    assert "fails its checksum" in what
    if name != b"cuts":
        assert (found.entries, found.applied.index) == ((), 0)


def test_a_store_that_forgot_whose_it_is_is_begun_anew(crashed: Crashed) -> None:
    def edit(store: Store) -> None:
        batch = store.batch()
        batch.delete(Space.META, b"identity")
        store.write(batch)

    loss, what, found = edited(crashed, edit)
    assert (loss, found.entries) == (Loss.LOG, ())
    assert "does not say whose it is" in what


def test_rows_of_others_in_the_space_meta_are_kept_with_the_rest(crashed: Crashed) -> None:
    def edit(store: Store) -> None:
        batch = store.batch()
        batch.put(Space.META, b"peer of mine", b"as I knew it")
        batch.put(Space.IMAGE, b"m", b"image")
        store.write(batch)
        spoil(Space.LOG, -1)(store)

    storage_truth = {Space.META: b"peer of mine", Space.IMAGE: b"m"}
    edited(crashed, edit)
    storage = quarantined(crashed.root)
    for space, key in storage_truth.items():
        assert storage.store.get(space, key) is not None
    storage.close()


@pytest.mark.parametrize(("table", "applied"), [(-1, 39), (-2, 0)], ids=["log", "rows"])
def test_a_damaged_table_costs_what_it_held(tmp_path: Path, table: int, applied: int) -> None:
    storage = opened(tmp_path)
    turns(Writer(storage), 40, size=2000)
    storage.close()
    storage = opened(tmp_path)  # writes tables
    storage.condemn(Damage(Loss.LOG, "a read failed"), keep_rows=True)
    storage.close()
    by_size = sorted((tmp_path / "member" / "store").glob("*.sst"), key=lambda f: f.stat().st_size)
    content = bytearray(by_size[table].read_bytes())
    content[100] ^= 1
    by_size[table].write_bytes(content)
    storage = quarantined(tmp_path)
    found = storage.log.recover()
    storage.close()
    assert found.damage is not None
    assert found.applied.index == applied
    assert (found.hard_state.term, found.hard_state.vote) == (TERM, VOTE)


def test_a_large_store_is_saved_in_many_batches_however_slow_the_disk(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    writer = Writer(storage)
    entries = turns(writer, 60, size=40_000)
    truth = Truth(writer.state(), everything(storage.store), tuple(entries), writer.promise())
    batch = storage.store.batch()
    for number in range(3000):
        batch.put(Space.IMAGE, b"%d" % number, bytes(1000))
    storage.store.write(batch)
    images = list(storage.store.scan(Space.IMAGE))
    storage.condemn(Damage(Loss.LOG, "a read failed"), keep_rows=True)
    storage.close()

    class Slow(Scripted):
        """Every third write stalls."""

        def __call__(self, name: str) -> None:
            super().__call__(name)
            if name == "write.before" and self.seen.count(name) % 3 == 0:
                raise OSError("Result incomplete: Write stall")

    slow = Slow()
    storage = opened(tmp_path, can_recover=True, failpoint=slow)
    assert truth.verdict(storage) == "log"
    found = storage.log.recover()
    assert (found.entries, found.applied) == (truth.state.entries, truth.state.applied)
    assert list(storage.store.scan(Space.IMAGE)) == images
    assert slow.seen.count("write.before") > 8
    storage.close()


def test_rows_that_were_adopted_are_saved_as_the_machines(tmp_path: Path) -> None:
    """Which of two families of RocksDB has them is the store's own affair."""
    storage = opened(tmp_path)
    turns(Writer(storage), 3)
    batch = storage.store.batch()
    batch.put(Space.STAGED, b"image", b"of a leader")
    batch.adopt_staged()
    batch.put(Space.STAGED, b"next image", b"half of it")
    storage.store.write(batch)
    storage.condemn(Damage(Loss.LOG, "a read failed"), keep_rows=True)
    storage.close()
    for _ in range(2):
        storage = quarantined(tmp_path)
        assert list(storage.store.scan(Space.MACHINE)) == [(b"image", b"of a leader")]
        assert list(storage.store.scan(Space.STAGED)) == [(b"next image", b"half of it")]
        storage.close()


def test_a_log_whose_terms_nobody_promised_leaves_nothing_to_build_on(crashed: Crashed) -> None:
    """The hard state is behind the log: no member ever writes that."""

    def edit(store: Store) -> None:
        batch = store.batch()
        StoredLog(store).save_hard_state(batch, HardState(1, 0, 49))
        store.write(batch)
        crashed.witness.unlink()

    loss, what, found = edited(crashed, edit)
    assert (loss, found.entries) == (Loss.ALL, ())
    assert "the log ends in term 3, but the hard state knows 1" in what


def test_an_empty_store_in_memory_is_begun_anew_alike() -> None:
    disk = MemoryDisk()
    storage = open_memory(CLUSTER, MEMBER, disk=disk)
    writer = Writer(storage)
    entries = turns(writer, 20)
    truth = Truth(writer.state(), everything(storage.store), tuple(entries), writer.promise())
    storage.close()
    store = MemoryStore(disk)
    spoil(Space.LOG, 4)(store)
    store.close()
    with pytest.raises(StorageCorruptError, match="log entry 5 is damaged"):
        open_memory(CLUSTER, MEMBER, disk=disk)
    for _ in range(2):
        storage = open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True)
        assert truth.verdict(storage) == "log"
        damage = storage.log.recover().damage
        storage.close()
        assert damage is not None
        assert "and the old one is gone" in damage.what
    disk.rows[Space.META].change((1, Space.META, b"identity", b""))
    disk.witness.mark = None
    with pytest.raises(StorageCorruptError, match="any more which disk it was"):
        open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True)
