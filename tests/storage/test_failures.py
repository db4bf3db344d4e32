"""Writes, syncs, disks and witnesses that fail: the store ends, no acknowledged entry is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from errno import ENOSPC
from pathlib import Path

import pytest
from rocksdict import Rdict, WriteBatch, WriteOptions

from raftkv.errors import (
    ClosedError,
    Error,
    IdentityError,
    StorageCorruptError,
    StorageFailedError,
    StorageFullError,
    StorageLockedError,
    StorageStallError,
    UsageError,
)
from raftkv.storage.base import Damage, Loss, Recovered, Space, WitnessRecord
from raftkv.storage.directory import open_rocks
from raftkv.storage.files import OsFiles
from raftkv.storage.log import StoredLog
from raftkv.storage.member import WITNESS_SYNCS_MAX, MemberStorage
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.storage.rocks import Mode, RocksStore, classify
from raftkv.storage.witness import FileWitness
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer, everything
from tests.storage.opening import Scripted, WatchedFiles, as_a_new_process, one_turn, opened

ROOT = Path(__file__).parents[2]


# --- failures -------------------------------------------------------------------------------


def everything_is_refused(storage: MemberStorage, writer: Writer, wanted: type[Error]) -> None:
    store = storage.store
    calls = {
        "get": lambda: store.get(Space.META, b"identity"),
        "scan": lambda: list(store.scan(Space.LOG)),
        "batch": store.batch,
        "view": store.view,
        "sync": store.sync,
        "storage sync": lambda: storage.sync(writer.promise()),
    }
    for call in calls.values():
        with pytest.raises(wanted):
            call()


@pytest.mark.parametrize("point", ["write.before", "write.after", "sync.before", "sync.after"])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IO error: While fsync: x.log: Input/output error", StorageFailedError),
        ("IO error: No space left on device: While appending to file", StorageFullError),
        ("Corruption: strange", StorageFailedError),
        ("something nobody has seen", StorageFailedError),
    ],
)
def test_a_failed_write_or_sync_ends_the_store_for_good(
    tmp_path: Path, point: str, text: str, wanted: type[Error]
) -> None:
    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint)
    writer = Writer(storage)
    one_turn(writer)
    state = writer.state()
    view, scan = storage.store.view(), storage.store.scan(Space.META)
    next(scan)
    failpoint.raising[point] = Exception(text)
    with pytest.raises(wanted, match=r"open the node again|damaged|something") as failure:
        one_turn(writer)
    assert text in str(failure.value)
    failpoint.raising.clear()  # the disk recovers, the store does not
    everything_is_refused(storage, writer, wanted)
    for read in (lambda: view.get(Space.META, b"identity"), lambda: list(scan)):
        with pytest.raises(wanted):
            read()
    view.close()
    storage.close()
    with pytest.raises(
        StorageFailedError, match=r"in this process.*open the node in a new process"
    ):
        opened(tmp_path)
    assert (tmp_path / "member" / "failed").read_text() == str(failure.value)
    as_a_new_process()
    again = opened(tmp_path)
    assert not (tmp_path / "member" / "failed").exists()
    assert again.log.recover() in (state, writer.state())
    again.close()


class Told:
    """Stands in for a database handle and notes what it is told."""

    def __init__(self, inner: Rdict) -> None:
        self._inner = inner
        self.calls: list[str] = []

    def write(self, batch: WriteBatch, options: WriteOptions) -> None:
        self.calls.append(f"write sync={options.sync} no_slowdown={options.no_slowdown}")
        self._inner.write(batch, options)

    def flush_wal(self, sync: bool) -> None:
        self.calls.append(f"flush_wal {sync}")
        self._inner.flush_wal(sync)

    def close(self) -> None:
        self._inner.close()


def test_a_write_never_waits_for_the_disk_and_a_sync_always_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    told = Told(store._db)  # pyright: ignore[reportPrivateUsage] - nothing else sees an fsync
    monkeypatch.setattr(store, "_db", told)
    batch = store.batch()
    batch.put(Space.META, b"a", b"1")
    store.write(batch)
    assert told.calls == ["write sync=False no_slowdown=True"]
    assert store.sync() == 1
    assert told.calls[1:] == ["flush_wal True"]
    store.close()
    store = RocksStore(tmp_path / "store")
    assert store.get(Space.META, b"a") == b"1"
    store.close()


def test_a_stall_is_tried_again_with_the_same_batch(tmp_path: Path) -> None:
    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint)
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.vote(batch, 1, MEMBER)
    writer.append(batch, [b"x"])
    before, position = everything(storage.store), storage.store.written
    failpoint.raising["write.before"] = Exception("Result incomplete: Write stall")
    for _ in range(3):
        with pytest.raises(StorageStallError, match="try the same batch again"):
            writer.write(batch)
        assert (everything(storage.store), storage.store.written) == (before, position)
    failpoint.raising.clear()
    assert writer.write(batch) == position + 1
    writer.sync()
    storage.close()
    again = opened(tmp_path)
    assert again.log.recover() == writer.state()
    again.close()


OPENER = """
import sys
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng
open_rocks(sys.argv[1], cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng()).close()
"""


def test_a_fresh_process_writes_anew_what_a_failed_sync_left_behind(tmp_path: Path) -> None:
    """The log may be in the page cache alone: all of it is in synced tables afterwards."""
    failpoint = Scripted()
    storage = opened(tmp_path / "live", failpoint=failpoint)
    writer = Writer(storage)
    one_turn(writer)
    failpoint.raising["sync.before"] = OSError("IO error: While fsync: Input/output error")
    with pytest.raises(StorageFailedError):
        one_turn(writer)
    state = writer.state()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    storage.close()
    for _ in range(2):
        with pytest.raises(StorageFailedError, match="open the node in a new process"):
            opened(tmp_path / "live")
    command = [sys.executable, "-c", OPENER, str(tmp_path / "live")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert not (tmp_path / "live" / "member" / "failed").exists()
    store = tmp_path / "killed" / "member" / "store"
    suspect = {wal.name for wal in store.glob("*.log") if wal.stat().st_size}
    assert suspect
    opened(tmp_path / "killed").close()
    assert not suspect & {wal.name for wal in store.glob("*.log")}
    with RocksLook(store) as found:
        assert found == state


class RocksLook:
    """What a store holds in its tables, its logs taken away."""

    def __init__(self, store: Path) -> None:
        self._copy = store.with_name("tables-alone")
        shutil.copytree(store, self._copy)
        for wal in self._copy.glob("*.log"):
            wal.unlink()

    def __enter__(self) -> Recovered:
        self._store = RocksStore(self._copy)
        return StoredLog(self._store).recover()

    def __exit__(self, *_: object) -> None:
        self._store.close()


def test_another_directory_at_the_same_place_is_not_blamed(tmp_path: Path) -> None:
    """An inode is given again once its directory is gone."""
    failpoint = Scripted()
    storage = opened(tmp_path / "data", failpoint=failpoint)
    failpoint.raising["sync.before"] = OSError("IO error: While fsync: Input/output error")
    with pytest.raises(StorageFailedError):
        one_turn(Writer(storage))
    storage.close()
    place = OsFiles().place(tmp_path / "data" / "member")

    class SamePlace(OsFiles):
        def place(self, path: Path) -> tuple[int, int]:
            return place

    other = open_rocks(
        tmp_path / "other", cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng(9), files=SamePlace()
    )
    other.close()
    os.truncate(tmp_path / "other" / "member" / "witness", 100)
    with pytest.raises(StorageFailedError, match="open the node in a new process"):
        opened(tmp_path / "other", files=SamePlace())  # whose it is cannot be told


def test_a_marker_that_cannot_be_written_is_not_missed(tmp_path: Path) -> None:
    class NoMore(OsFiles):
        def write(self, path: Path, data: bytes) -> None:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint, files=NoMore())
    with pytest.raises(StorageFailedError, match=r"could not be noted .*wrong rows"):
        storage.condemn(Damage(Loss.ALL, "wrong rows"))
    failpoint.raising["sync.before"] = OSError("IO error: While fsync: Input/output error")
    with pytest.raises(StorageFailedError):
        one_turn(Writer(storage))
    storage.close()
    with pytest.raises(StorageFailedError, match="open the node in a new process"):
        opened(tmp_path)


def test_a_witness_that_cannot_be_read_again_ends_the_store(tmp_path: Path) -> None:
    files = WatchedFiles()
    storage = opened(tmp_path, files=files)
    writer = Writer(storage)
    one_turn(writer)
    files.failing = "read"
    with pytest.raises(StorageFailedError, match="witness could not be read"):
        storage.check_witness()
    everything_is_refused(storage, writer, StorageFailedError)
    storage.close()


@pytest.mark.parametrize("failing", ["write", "datasync"])
def test_a_failed_witness_ends_the_store_for_good(tmp_path: Path, failing: str) -> None:
    files = WatchedFiles()
    storage = opened(tmp_path, files=files)
    writer = Writer(storage)
    one_turn(writer)
    files.failing = failing
    batch = storage.store.batch()
    writer.vote(batch, 9, MEMBER)
    writer.write(batch)
    with pytest.raises(StorageFailedError, match=r"witness could not be written.*Input/output"):
        writer.sync()
    files.failing = ""
    everything_is_refused(storage, writer, StorageFailedError)
    storage.close()
    as_a_new_process()
    opened(tmp_path).close()


def test_a_vote_waits_for_the_witness_on_disk_and_the_64th_entry_too(tmp_path: Path) -> None:
    files = WatchedFiles()
    storage = opened(tmp_path, files=files)
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.vote(batch, 1, 0)
    writer.write(batch)
    files.calls.clear()
    writer.sync()
    assert files.calls == ["write", "datasync"]
    batch = storage.store.batch()
    writer.vote(batch, 1, MEMBER)
    writer.write(batch)
    files.calls.clear()
    writer.sync()
    assert files.calls == ["write", "datasync"]
    files.calls.clear()
    for _ in range(2 * WITNESS_SYNCS_MAX):
        one_turn(writer)
    cycle = ["write"] * WITNESS_SYNCS_MAX + ["datasync"]
    assert files.calls == cycle * 2
    storage.close()


def test_a_disk_that_is_full_at_the_opening_is_named(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.failing = "full"
    with pytest.raises(StorageFullError, match=r"is full.*free space, then open"):
        opened(tmp_path / "data", files=files)


def test_the_witness_follows_the_store_and_never_leads(tmp_path: Path) -> None:
    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint)
    writer = Writer(storage)
    failpoint.seen.clear()
    one_turn(writer)
    assert failpoint.seen == [
        "write.before",
        "write.after",
        "sync.before",
        "sync.after",
        "witness.before",
        "witness.after",
    ]
    storage.close()


def test_a_promise_made_before_a_truncation_does_not_accuse_the_store(tmp_path: Path) -> None:
    """The end of the log was replaced after the promise was made, before its sync ran."""
    storage = opened(tmp_path / "data")
    writer = Writer(storage)
    for data in (b"1", b"2", b"3"):
        one_turn(writer, data)
    promised = writer.promise()
    batch = storage.store.batch()
    writer.vote(batch, 5, 0)
    writer.append(batch, [b"other"], replace=3)
    writer.write(batch)
    storage.sync(promised)
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    storage.close()
    again = opened(tmp_path / "crashed")
    assert again.log.recover() == writer.state()
    again.close()


def test_a_witness_accuses_only_its_own_loss() -> None:
    disk = MemoryDisk()
    storage = open_memory(CLUSTER, MEMBER, disk=disk)
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.vote(batch, 2, MEMBER)
    writer.append(batch, [b"a", b"b"])
    position = writer.write(batch)
    assert storage.sync(writer.promise()) == position
    storage.close()
    mark = disk.witness.mark
    assert mark is not None
    lying = WitnessRecord(mark.record.identity, 2, MEMBER, 2, 2, 4711)
    disk.witness.mark = type(mark)(lying, mark.cuts)
    with pytest.raises(StorageCorruptError, match="entry 2 is another than the promised one"):
        open_memory(CLUSTER, MEMBER, disk=disk)
    disk.witness.mark = type(mark)(mark.record, mark.cuts + 1)
    with pytest.raises(StorageCorruptError, match="log was replaced 0 times, the witness knows"):
        open_memory(CLUSTER, MEMBER, disk=disk)
    disk.witness.mark = mark
    open_memory(CLUSTER, MEMBER, disk=disk).close()


# --- a full disk, in earnest -----------------------------------------------------------------

FILLER = """
import resource, signal, sys
from raftkv.errors import StorageFailedError
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer
storage = open_rocks(sys.argv[1], cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng())
writer = Writer(storage)
if sys.argv[2] == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
acknowledged = writer.last.index
try:
    for _ in range(100_000):
        batch = storage.store.batch()
        if writer.hard_state.term == 0:
            writer.vote(batch, 1, MEMBER)
        writer.append(batch, [b"x" * 50_000])
        writer.write(batch)
        writer.sync()
        acknowledged = writer.last.index
except StorageFailedError as error:
    try:
        storage.store.get(next(iter(type(storage.store).__mro__)), b"")
    except StorageFailedError:
        print(type(error).__name__, acknowledged, error)
    storage.close()
"""


def filled(root: Path, how: str) -> tuple[str, int, str]:
    command = [sys.executable, "-c", FILLER, str(root), how]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    name, acknowledged, text = run.stdout.split(" ", 2)
    return name, int(acknowledged), text


def test_a_file_that_may_not_grow_stops_the_store_and_loses_nothing(tmp_path: Path) -> None:
    name, acknowledged, text = filled(tmp_path, "limit")
    assert name == "StorageFailedError"
    assert "File too large" in text
    assert acknowledged > 10
    storage = opened(tmp_path)
    assert len(storage.log.recover().entries) >= acknowledged
    storage.close()


def test_a_full_disk_stops_the_store_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        name, acknowledged, text = filled(disk / "data", "disk")
        assert name == "StorageFullError"
        assert "free space, then open the node again" in text
        assert acknowledged > 10
        grown = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(grown, check=True)
        storage = opened(disk / "data")
        assert len(storage.log.recover().entries) >= acknowledged
        one_turn(Writer(storage))
        storage.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- handles and threads ---------------------------------------------------------------------


def test_a_store_that_fails_to_close_still_lets_go_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opened(tmp_path)
    store = storage.store
    assert isinstance(store, RocksStore)

    class Failing(Told):
        def close(self) -> None:
            super().close()
            raise OSError("IO error: While closing: Input/output error")

    inner = store._db  # pyright: ignore[reportPrivateUsage] - rocksdict fails only on bad disks
    monkeypatch.setattr(store, "_db", Failing(inner))
    del inner
    with pytest.raises(StorageFailedError, match="Input/output error"):
        storage.close()
    storage.close()
    opened(tmp_path).close()


def test_closing_waits_for_nobody_who_still_reads(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    view = storage.store.view()
    with pytest.raises(UsageError, match="1 views of the store are open"):
        storage.close()
    one_turn(Writer(storage))  # and the refused close did no harm
    half_read, unread = storage.store.scan(Space.META), view.scan(Space.META)
    next(half_read)
    view.close()
    storage.close()
    for scan in (half_read, unread):
        assert list(scan) == []
    opened(tmp_path).close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    writer = Writer(storage)
    storage.close()
    everything_is_refused(storage, writer, ClosedError)


def test_a_view_is_read_in_another_thread_while_the_store_is_written(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    writer = Writer(storage)
    for _ in range(5):
        one_turn(writer)
    view, wanted = storage.store.view(), everything(storage.store)
    seen: list[object] = []
    started, written = threading.Event(), threading.Event()

    def read() -> None:
        rows = view.scan(Space.LOG)
        first = next(rows)
        started.set()
        written.wait()
        seen.extend([[first, *rows], everything(view)])

    thread = threading.Thread(target=read)
    thread.start()
    started.wait()
    for _ in range(5):
        one_turn(writer)
    written.set()
    thread.join()
    assert seen == [wanted[Space.LOG], wanted]
    view.close()
    storage.close()


def test_opening_and_closing_leaves_no_file_open(tmp_path: Path) -> None:
    opened(tmp_path).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        opened(tmp_path).close()
        with pytest.raises(IdentityError):
            opened(tmp_path, member=9)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Result incomplete: Write stall", StorageStallError),
        ("IO error: lock hold by current process, acquire time 1", StorageLockedError),
        (
            "IO error: While lock file: /x/LOCK: Resource temporarily unavailable",
            StorageLockedError,
        ),
        ("IO error: No space left on device: While appending to file: x", StorageFullError),
        ("IO error: While fsync: Disk quota exceeded", StorageFullError),
        (str(OSError(ENOSPC, os.strerror(ENOSPC))), StorageFullError),
        ("Corruption: block checksum mismatch", StorageCorruptError),
        ("IO error: No such file or directory: While open a file: 1.sst", StorageCorruptError),
        ("Invalid argument: x/CURRENT: does not exist", StorageCorruptError),
        ("Invalid argument: Column families not opened: x", StorageCorruptError),
        ("IO error: While fsync: Input/output error", StorageFailedError),
        ("Result incomplete: something else", StorageFailedError),
        ("", StorageFailedError),
        ("Shutdown in progress", StorageFailedError),
    ],
)
def test_each_text_of_rocksdb_has_one_meaning(text: str, wanted: type[Error]) -> None:
    classified = classify(Exception(text), "writing to", "/data/n1")
    assert type(classified) is wanted
    assert "/data/n1" in str(classified)


def test_making_does_not_replace_what_is_there(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    batch = store.batch()
    batch.put(Space.META, b"a", b"1")
    store.write(batch)
    store.close()
    with pytest.raises(StorageFailedError, match="exists"):
        RocksStore(tmp_path / "store", Mode.CREATE)
    store = RocksStore(tmp_path / "store")
    assert store.get(Space.META, b"a") == b"1"
    store.close()


def test_a_closed_witness_file_says_so(tmp_path: Path) -> None:
    file = OsFiles().open_slots(tmp_path / "witness", create=True)
    witness = FileWitness(file, "here")
    assert witness.recall() is None
    witness.close()
    witness.close()
    with pytest.raises(OSError, match="closed"):
        witness.recall()
