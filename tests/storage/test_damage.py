"""Files that were cut, emptied, deleted, flipped or put back: named and refused, or harmless.

Allowed after damage: the same data, or a typed refusal. Forbidden: wrong data, or less of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

from raftkv.core.types import HardState
from raftkv.errors import StorageCorruptError, StorageError, StorageFormatError
from raftkv.storage.base import Identity, Loss, Recovered, Space, WitnessRecord
from raftkv.storage.directory import open_rocks
from raftkv.storage.log import StoredLog
from raftkv.storage.member import MemberStorage
from raftkv.storage.rocks import Mode, RocksStore
from raftkv.storage.witness import SLOT_BYTES, WitnessMark, decode_slot, encode_slot
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer, everything

FLIPS = int(os.environ.get("RAFTKV_FLIPS", "90"))
Rows = dict[Space, list[tuple[bytes, bytes]]]


def opened(root: Path) -> MemberStorage:
    return open_rocks(root, cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng())


def turns(writer: Writer, number: int, *, size: int = 200) -> None:
    """Turns as a node makes them, each synced and so acknowledged."""
    for turn in range(number):
        batch = writer.storage.store.batch()
        if writer.hard_state.term == 0:
            writer.vote(batch, 3, MEMBER)
        writer.append(batch, [b"%d" % turn * size])
        writer.commit(batch, writer.last.index - 1)
        writer.write(batch)
        writer.sync()


class Crashed:
    """A directory as a killed process left it, and what was in it."""

    def __init__(self, root: Path, state: Recovered, rows: Rows) -> None:
        self.root = root
        self.state = state
        self.rows = rows

    @property
    def store(self) -> Path:
        return self.root / "member" / "store"

    @property
    def witness(self) -> Path:
        return self.root / "member" / "witness"

    def wals(self) -> list[Path]:
        return sorted(self.store.glob("*.log"))

    def copy(self, to: Path) -> Crashed:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.root, to)
        return Crashed(to, self.state, self.rows)

    def complaint(self) -> str:
        """What opening says."""
        with pytest.raises(StorageCorruptError) as refused:
            opened(self.root)
        return str(refused.value)

    def is_intact(self) -> None:
        """Opens with the very same data."""
        storage = opened(self.root)
        try:
            assert storage.log.recover() == self.state
            assert everything(storage.store) == self.rows
        finally:
            storage.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashed]:
    """Two boots: rows in SST files from the first, in the newest log from the second."""
    base = tmp_path_factory.mktemp("damage")
    live = base / "live"
    storage = opened(live)
    turns(Writer(storage), 30)
    storage.close()
    storage = opened(live)
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.compact(batch, 10)
    writer.write(batch)
    turns(writer, 20)
    shutil.copytree(live, base / "crashed")
    state, rows = writer.state(), everything(storage.store)
    storage.close()
    yield Crashed(base / "crashed", state, rows)
    shutil.rmtree(base)


@pytest.fixture
def crashed(original: Crashed, tmp_path: Path) -> Crashed:
    return original.copy(tmp_path / "copy")


def test_a_crash_alone_loses_nothing(crashed: Crashed) -> None:
    crashed.is_intact()
    crashed.is_intact()


def test_a_torn_tail_of_our_own_is_cut(crashed: Crashed) -> None:
    """Beyond the last acknowledged record lies half of one that nobody was promised."""
    with crashed.wals()[-1].open("ab") as wal:
        wal.write(b"\x17\x2a\x99\x01\x00\x01" + b"half a record" * 9)
    crashed.is_intact()
    crashed.is_intact()


def test_an_unacknowledged_batch_that_was_torn_is_cut(original: Crashed, tmp_path: Path) -> None:
    """The process died between a write and its sync, and only half of the write is there."""
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    writer = Writer(storage)
    turns(writer, 1)
    state, rows = writer.state(), everything(storage.store)
    batch = storage.store.batch()
    writer.append(batch, [b"never acknowledged" * 1000])
    writer.write(batch)
    shutil.copytree(copy.root, tmp_path / "crashed")
    storage.close()
    after = Crashed(tmp_path / "crashed", state, rows)
    wal = after.wals()[-1]
    os.truncate(wal, wal.stat().st_size - 7_000)
    after.is_intact()


def test_an_acknowledged_record_that_was_torn_is_no_tail(crashed: Crashed) -> None:
    wal = crashed.wals()[-1]
    os.truncate(wal, wal.stat().st_size - 5)
    complaint = crashed.complaint()
    assert "its log ends at entry 49, but entry 50 was promised" in complaint
    assert "truncated record" in complaint
    assert "add it again" in complaint
    assert str(crashed.root) in complaint


def test_every_cut_of_the_newest_log_is_noticed(original: Crashed, tmp_path: Path) -> None:
    size = original.wals()[-1].stat().st_size
    random = Random(5)
    for cut in (0, 1, 7, *sorted(random.sample(range(8, size), 25))):
        copy = original.copy(tmp_path / "copy")
        os.truncate(copy.wals()[-1], cut)
        assert re.search("has lost what this member promised|boot", copy.complaint()), cut


def test_a_deleted_newest_log_is_noticed(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    assert "it is from opening 1, the witness from 2" in crashed.complaint()


def test_a_boot_is_promised_before_anything_is_written_in_it(
    original: Crashed, tmp_path: Path
) -> None:
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    state, rows = storage.log.recover(), everything(storage.store)
    shutil.copytree(copy.root, tmp_path / "crashed")
    storage.close()
    after = Crashed(tmp_path / "crashed", state, rows)
    after.copy(tmp_path / "whole").is_intact()
    after.wals()[-1].unlink()
    assert "it is from opening 2, the witness from 3" in after.complaint()


def test_a_deleted_older_log_is_noticed_though_the_newest_is_whole(
    original: Crashed, tmp_path: Path
) -> None:
    """An older log is still needed when one space was flushed and another was not."""
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    store = storage.store
    assert isinstance(store, RocksStore)
    writer = Writer(storage)
    turns(writer, 5)
    store._families[Space.LOG].flush()  # pyright: ignore[reportPrivateUsage] - as RocksDB may
    turns(writer, 5)
    state, rows = writer.state(), everything(store)
    shutil.copytree(copy.root, tmp_path / "crashed")
    storage.close()
    after = Crashed(tmp_path / "crashed", state, rows)
    after.copy(tmp_path / "whole").is_intact()
    older = next(wal for wal in after.wals() if wal.stat().st_size)
    assert older != after.wals()[-1]
    cut = after.copy(tmp_path / "cut")
    os.truncate(cut.store / older.name, older.stat().st_size // 2)
    assert "what lies between is missing" in cut.complaint()
    older.unlink()
    assert "what lies between is missing" in after.complaint()


def test_a_refusal_leaves_the_directory_as_it_was(crashed: Crashed) -> None:
    os.truncate(crashed.wals()[-1], 0)

    def data() -> dict[str, bytes]:
        files = (file for file in crashed.store.iterdir() if file.suffix in (".log", ".sst"))
        return {file.name: file.read_bytes() for file in files if file.stat().st_size}

    before, witness = data(), crashed.witness.read_bytes()
    first = crashed.complaint()
    assert crashed.complaint() == first
    assert crashed.witness.read_bytes() == witness
    assert before.items() <= data().items()


def test_a_lost_vote_is_noticed_though_the_log_is_whole(original: Crashed, tmp_path: Path) -> None:
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    writer = Writer(storage)
    older = tmp_path / "older"
    shutil.copytree(copy.store, older)
    batch = storage.store.batch()
    writer.vote(batch, 4, 8)
    writer.write(batch)
    writer.sync()
    storage.close()
    shutil.rmtree(copy.store)
    shutil.copytree(older, copy.store)
    assert "it knows term 3, the witness 4" in copy.complaint()
    # The same term without its vote: the term came with a heartbeat, the vote was given later.
    store = RocksStore(copy.store)
    batch = store.batch()
    StoredLog(store).save_hard_state(batch, HardState(4, 0, writer.hard_state.commit))
    store.write(batch)
    store.close()
    assert "the vote for member 8 in term 4 is gone" in copy.complaint()


def test_an_old_copy_put_back_is_noticed(original: Crashed, tmp_path: Path) -> None:
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    turns(Writer(storage), 3)
    storage.close()
    shutil.rmtree(copy.store)
    shutil.copytree(original.store, copy.store)
    assert "it is from opening 2, the witness from 3" in copy.complaint()


def test_an_old_witness_put_back_lets_a_whole_store_pass(original: Crashed, tmp_path: Path) -> None:
    copy = original.copy(tmp_path / "copy")
    storage = opened(copy.root)
    writer = Writer(storage)
    turns(writer, 3)
    state, rows = writer.state(), everything(storage.store)
    storage.close()
    shutil.copy(original.witness, copy.witness)
    Crashed(copy.root, state, rows).is_intact()


def test_a_store_without_its_witness_is_refused(crashed: Crashed) -> None:
    crashed.witness.unlink()
    assert "witness is missing" in crashed.complaint()


def test_an_emptied_or_cut_witness_is_refused(crashed: Crashed) -> None:
    os.truncate(crashed.witness, SLOT_BYTES - 1)
    assert "both slots of the witness" in crashed.complaint()
    os.truncate(crashed.witness, 0)
    assert "is empty, so nothing tells what was promised" in crashed.complaint()


def test_a_witness_without_its_store_is_refused(crashed: Crashed) -> None:
    shutil.rmtree(crashed.store)
    assert "store is missing" in crashed.complaint()


def test_one_damaged_slot_of_the_witness_is_survived(original: Crashed, tmp_path: Path) -> None:
    for slot in (0, 1):
        copy = original.copy(tmp_path / "copy")
        content = bytearray(copy.witness.read_bytes())
        content[slot * SLOT_BYTES + 40] ^= 1
        copy.witness.write_bytes(content)
        copy.is_intact()


def test_a_witness_of_another_disk_is_refused(crashed: Crashed, tmp_path: Path) -> None:
    other = open_rocks(tmp_path / "other", cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng(9))
    other.close()
    shutil.copy(tmp_path / "other" / "member" / "witness", crashed.witness)
    assert "were made by different disks" in crashed.complaint()


def test_a_witness_of_a_newer_format_asks_for_the_newer_raftkv(crashed: Crashed) -> None:
    body = bytearray(crashed.witness.read_bytes()[: SLOT_BYTES - 4])
    body[8] = 2
    slot = bytes(body) + crc32(body).to_bytes(4, "little")
    crashed.witness.write_bytes(slot * 2)
    with pytest.raises(StorageFormatError, match=r"format 2, this raftkv reads format 1: open it"):
        opened(crashed.root)


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("how", ["deleted", "emptied", "cut"])
def test_damage_to_the_files_of_rocksdb_names_them(
    crashed: Crashed, pattern: str, how: str
) -> None:
    file = sorted(crashed.store.glob(pattern))[-1]
    if how == "deleted":
        file.unlink()
    else:
        os.truncate(file, 0 if how == "emptied" else file.stat().st_size // 2)
    complaint = crashed.complaint()
    assert str(crashed.store) in complaint
    assert file.exists() == (how != "deleted")  # nothing new was put in its place
    assert "add it again" in complaint


def test_a_store_that_does_not_say_whose_it_is_is_refused(crashed: Crashed) -> None:
    store = RocksStore(crashed.store)
    batch = store.batch()
    batch.delete(Space.META, b"identity")
    store.write(batch)
    store.close()
    assert "does not say whose it is" in crashed.complaint()


def test_a_flipped_bit_anywhere_is_refused_or_harmless(original: Crashed, tmp_path: Path) -> None:
    """Everything is read back after the opening, so that damage in a block shows."""
    random = Random(int(os.environ.get("RAFTKV_FLIP_SEED", "1")))
    files = [
        file.relative_to(original.root)
        for file in sorted((original.root / "member").rglob("*"))
        if file.is_file() and file.stat().st_size and not file.name.startswith("LOG")
    ]
    complaints: list[str] = []
    for number in range(FLIPS):
        copy = original.copy(tmp_path / "copy")
        file = copy.root / files[number % len(files)]
        content = bytearray(file.read_bytes())
        bit = random.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            storage = opened(copy.root)
        except StorageCorruptError as error:
            complaints.append(str(error))
            continue
        try:
            same = storage.log.recover() == original.state
            same = same and everything(storage.store) == original.rows
        except StorageCorruptError as error:
            complaints.append(str(error))
            continue
        finally:
            storage.close()
        assert same, f"bit {bit} of {file} changed what is read"
    assert len(complaints) >= FLIPS // 5
    for complaint in complaints:
        assert str(tmp_path) in complaint or "log entry" in complaint
        assert "add it again" in complaint


@pytest.mark.parametrize("space", list(Space))
def test_damage_in_a_block_is_never_a_short_answer(tmp_path: Path, space: Space) -> None:
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    random = Random(1)
    rows = [(b"%05d" % number, random.randbytes(60)) for number in range(3000)]
    batch = store.batch()
    for key, value in rows:
        batch.put(space, key, value)
    store.write(batch)
    store.close()
    RocksStore(tmp_path / "store").close()
    table = max((tmp_path / "store").glob("*.sst"), key=_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 4
    table.write_bytes(content)
    store = RocksStore(tmp_path / "store")
    view = store.view()
    readers: list[Callable[[], list[tuple[bytes, bytes]]]] = [
        lambda: list(store.scan(space)),
        lambda: list(store.scan(space, reverse=True)),
        lambda: list(store.scan(space, b"00001", b"02999")),
        lambda: list(view.scan(space)),
        lambda: list(view.scan(space, reverse=True)),
    ]
    for read in readers:
        with pytest.raises(StorageCorruptError, match=r"damaged.*add it again"):
            read()
    for get in (store.get, view.get):
        answers = set[str]()
        for key, value in rows:
            try:
                answers.add("right" if get(space, key) == value else "wrong")
            except StorageError:
                answers.add("refused")
        assert answers == {"right", "refused"}
    view.close()
    store.close()


def _size(file: Path) -> int:
    return file.stat().st_size


def test_a_slot_is_what_the_format_says() -> None:
    identity = Identity(1, 2, bytes(range(16)), 3, bytes(range(16, 32)))
    mark = WitnessMark(WitnessRecord(identity, 4, 5, 6, 7, 8), 9)
    for loss in Loss:
        marked = WitnessMark(mark.record, 9, loss)
        assert decode_slot(encode_slot(marked, 11), "here") == (11, marked)
    slot = encode_slot(mark, 10)
    assert len(slot) == SLOT_BYTES
    assert slot[:9] == b"raftkv-w\x01"
    assert decode_slot(slot, "here") == (10, mark)
    for bit in range(SLOT_BYTES * 8):
        flipped = bytearray(slot)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_slot(bytes(flipped), "here") is None
    assert decode_slot(slot[:-1], "here") is None
    strange = bytearray(encode_slot(WitnessMark(mark.record, 9, Loss.ALL), 10)[:-4])
    strange[strange.rindex(2)] = 3  # a loss that there is not
    assert decode_slot(bytes(strange) + crc32(strange).to_bytes(4, "little"), "here") is None
    assert decode_slot(b"", "here") is None
