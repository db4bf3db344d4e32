"""RocksDB's list of files that ends early or is an old copy: the gap that it does not notice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.storage.base import Space
from raftkv.storage.files import OsFiles
from raftkv.storage.manifest import missing_batches, newest_sequence
from raftkv.storage.member import MemberStorage
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from tests.storage.member_model import Writer, everything
from tests.storage.opening import opened
from tests.storage.test_quarantine import Crashed, Truth, quarantined, turns

FILES = OsFiles()


def flush(store: RocksStore) -> None:
    """What RocksDB does in the background: rows into tables, and a new log."""
    for space in Space:
        store._families[space].flush()  # pyright: ignore[reportPrivateUsage]


def manifest(store: Path) -> Path:
    return store / (store / "CURRENT").read_text().strip()


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Crashed, bytes]]:
    """A member whose older logs are in tables, compacted beyond them; and an older MANIFEST."""
    base = tmp_path_factory.mktemp("manifest")
    storage = opened(base / "live")
    store = storage.store
    assert isinstance(store, RocksStore)
    writer = Writer(storage)
    entries = turns(writer, 10)
    flush(store)
    older = manifest(base / "live" / "member" / "store").read_bytes()
    entries += turns(writer, 10)
    flush(store)
    batch = store.batch()
    writer.compact(batch, 19)
    writer.write(batch)
    entries += turns(writer, 10)
    shutil.copytree(base / "live", base / "crashed")
    truth = Truth(writer.state(), everything(store), tuple(entries), writer.promise())
    storage.close()
    yield Crashed(base / "crashed", truth), older
    shutil.rmtree(base)


def ends_of_records(content: bytes) -> list[int]:
    """Where a MANIFEST may end without a checksum that fails."""
    ends: list[int] = []
    position = 0
    while position + 7 <= len(content) and content[position + 6]:
        position += 7 + int.from_bytes(content[position + 4 : position + 6], "little")
        ends.append(position)
    return ends


def verdict(crashed: Crashed) -> tuple[str, MemberStorage]:
    storage = quarantined(crashed.root)
    try:
        return crashed.truth.verdict(storage), storage
    finally:
        storage.close()


def test_a_manifest_cut_at_the_end_of_any_record_is_noticed(
    flushed: tuple[Crashed, bytes], tmp_path: Path
) -> None:
    original = flushed[0]
    content = manifest(original.store).read_bytes()
    *ends, whole = ends_of_records(content)
    assert whole == len(content)
    assert len(ends) > 20
    gaps = 0
    for end in ends:
        copy = original.copy(tmp_path / "copy")
        os.truncate(manifest(copy.store), end)
        gaps += missing_batches(copy.store, FILES) is not None
        assert verdict(copy)[0] == "log", end
    assert gaps > 10


def test_an_older_manifest_put_back_is_noticed(
    flushed: tuple[Crashed, bytes], tmp_path: Path
) -> None:
    original, older = flushed
    copy = original.copy(tmp_path / "copy")
    manifest(copy.store).write_bytes(older)
    complaint = missing_batches(copy.store, FILES)
    assert complaint is not None
    assert "what lies between is missing" in complaint
    assert verdict(copy)[0] == "log"


def test_a_whole_store_misses_nothing_whatever_was_flushed(
    flushed: tuple[Crashed, bytes], tmp_path: Path
) -> None:
    copy = flushed[0].copy(tmp_path / "copy")
    assert missing_batches(copy.store, FILES) is None
    assert verdict(copy)[0] == "whole"
    assert missing_batches(copy.store, FILES) is None


def test_a_log_of_many_blocks_is_followed_to_its_end(tmp_path: Path) -> None:
    """Batches longer than a block, and ends of blocks too short for a header."""
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    written = 0
    at_first = manifest(tmp_path / "store").read_bytes()
    for size in (10, 40_000, 32_000, 100_000, *range(32_650, 32_770, 7)):
        batch = store.batch()
        batch.put(Space.META, b"%d" % size, b"keeps the older log")
        for _ in range(2):
            batch.put(Space.LOG, b"%d" % size, bytes(size // 2))
        store.write(batch)
        store.sync()
        written += 3
        if size == 32_000:
            store._families[Space.LOG].flush()  # pyright: ignore[reportPrivateUsage]
    assert missing_batches(tmp_path / "store", FILES) is None
    shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    flush(store)
    # The contract with RocksDB: what is parsed is what it counts.
    counted = store._db.latest_sequence_number()  # pyright: ignore[reportPrivateUsage]
    assert counted == written
    assert newest_sequence(tmp_path / "store", FILES) == counted
    store.close()
    older, newer = sorted((tmp_path / "crashed").glob("*.log"))
    assert newer.stat().st_size > 500_000
    assert missing_batches(tmp_path / "crashed", FILES) is None
    manifest(tmp_path / "crashed").write_bytes(at_first)
    assert missing_batches(tmp_path / "crashed", FILES) is None  # the older log tells the rest
    manifest(tmp_path / "crashed").write_bytes(b"")
    assert missing_batches(tmp_path / "crashed", FILES) is None  # for RocksDB to refuse
    shutil.copy(manifest(tmp_path / "store"), manifest(tmp_path / "crashed"))
    older.unlink()
    assert missing_batches(tmp_path / "crashed", FILES) is None  # it is in tables now
    manifest(tmp_path / "crashed").write_bytes(at_first)
    assert missing_batches(tmp_path / "crashed", FILES) is not None


@pytest.mark.parametrize(
    "current",
    [b"", b"MANIFEST-999999\n", b"\xff\xfe", b"\0", b"MANIFEST-0\0\0\0", b"MANIFEST-/../x"],
)
def test_what_cannot_be_parsed_is_left_to_rocksdb(tmp_path: Path, current: bytes) -> None:
    store = tmp_path / "store"
    RocksStore(store, Mode.CREATE).close()
    (store / "CURRENT").write_bytes(current)
    assert missing_batches(store, FILES) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 40,
        b"\0\0\0\0\x02\0\x01\x04\x80",  # a number that does not end
        b"\0\0\0\0\x03\0\x01\x7f\x01\x04",  # an unknown field
        b"\0\0\0\0\x40\0\x01\x04",  # a record that does not end
    ],
)
def test_a_manifest_of_junk_is_left_to_rocksdb(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "store"
    RocksStore(store, Mode.CREATE).close()
    manifest(store).write_bytes(content)
    assert missing_batches(store, FILES) is None


def test_a_log_of_junk_is_left_to_rocksdb(tmp_path: Path) -> None:
    store = tmp_path / "store"
    RocksStore(store, Mode.CREATE).close()
    for number, content in enumerate((b"", b"\0\0\0\0\x02\0\x01xx", b"\0" * 64)):
        (store / f"9000{number}.log").write_bytes(content)
    assert missing_batches(store, FILES) is None


def test_logs_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """RocksDB writes six digits, and more from the millionth file on."""
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    at_first = manifest(tmp_path / "store").read_bytes()
    for count in range(2):
        batch = store.batch()
        batch.put(Space.META, b"%d" % count, b"keeps the older log")
        batch.put(Space.LOG, b"%d" % count, b"")
        store.write(batch)
        store.sync()
        if not count:
            store._families[Space.LOG].flush()  # pyright: ignore[reportPrivateUsage]
    at_last = tmp_path / "at-last"
    shutil.copytree(tmp_path / "store", at_last)
    store.close()
    older, newer = sorted(at_last.glob("*.log"))
    older.rename(at_last / "999999.log")
    newer.rename(at_last / "1000000.log")
    manifest(at_last).write_bytes(at_first)
    assert missing_batches(at_last, FILES) is None
