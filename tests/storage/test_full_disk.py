"""The ballast: room in reserve, so that a member that filled its disk can be opened again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from raftkv.errors import StorageFailedError, StorageFullError
from raftkv.storage.ballast import Ballast
from raftkv.storage.files import OsFiles
from tests.storage.member_model import Writer
from tests.storage.opening import Scripted, as_a_new_process, one_turn, opened

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]


class SmallDisk(OsFiles):
    """As much room as is said, and none for what fails."""

    def __init__(self, free: int = 100 * MIB) -> None:
        self.free = free
        self.failing: dict[str, int] = {}

    def _fail(self, call: str) -> None:
        if call in self.failing:
            raise OSError(self.failing[call], os.strerror(self.failing[call]))

    def free_bytes(self, path: Path) -> int:
        self._fail("free_bytes")
        return self.free

    def allocate(self, path: Path, size_bytes: int) -> None:
        self._fail("allocate")
        super().allocate(path, size_bytes)

    def remove(self, path: Path) -> None:
        self._fail("remove")
        super().remove(path)


# --- the file itself --------------------------------------------------------------------------


def test_a_ballast_takes_its_room_and_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    ballast = Ballast(path, MIB, OsFiles())
    assert not ballast.drop()
    ballast.restore()
    assert path.stat().st_size == MIB
    assert path.stat().st_blocks * 512 >= MIB
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    ballast.restore()
    assert path.stat().st_ino == before
    assert ballast.drop()
    assert not path.exists()


def test_a_ballast_of_another_size_is_made_anew_and_one_of_none_removed(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    for size in (MIB, 2 * MIB):
        Ballast(path, size, OsFiles()).restore()
        assert path.stat().st_size == size
    Ballast(path, 0, OsFiles()).restore()
    assert not path.exists()


@pytest.mark.parametrize(("free", "is_made"), [(3 * MIB - 1, False), (3 * MIB, True)])
def test_a_ballast_is_made_only_where_twice_as_much_stays_free(
    tmp_path: Path, free: int, is_made: bool
) -> None:
    Ballast(tmp_path / "ballast", MIB, SmallDisk(free)).restore()
    assert (tmp_path / "ballast").exists() == is_made


@pytest.mark.parametrize("call", ["free_bytes", "allocate", "remove"])
@pytest.mark.parametrize("code", [ENOSPC, EIO])
def test_a_disk_that_refuses_the_ballast_is_no_error(tmp_path: Path, call: str, code: int) -> None:
    files = SmallDisk()
    files.failing[call] = code
    ballast = Ballast(tmp_path / "ballast", MIB, files)
    ballast.restore()
    assert not (tmp_path / "ballast").exists()
    (tmp_path / "ballast").touch()
    assert ballast.drop() == (call != "remove")


def test_an_allocation_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _start: int, _size: int) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        OsFiles().allocate(tmp_path / "ballast", MIB)
    assert not (tmp_path / "ballast").exists()


# --- in a member's life -----------------------------------------------------------------------


def ballast_of(root: Path) -> Path:
    return root / "member" / "ballast"


def test_a_full_disk_ends_the_node_and_the_ballast(tmp_path: Path) -> None:
    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint, ballast_bytes=MIB)
    assert ballast_of(tmp_path).stat().st_size == MIB
    failpoint.raising["sync.before"] = OSError("IO error: No space left on device: While appending")
    with pytest.raises(StorageFullError):
        one_turn(Writer(storage))
    assert ballast_of(tmp_path).exists()
    storage.close()
    assert not ballast_of(tmp_path).exists()
    as_a_new_process()
    opened(tmp_path, ballast_bytes=MIB).close()
    assert ballast_of(tmp_path).exists()


def test_another_failure_leaves_the_ballast_alone(tmp_path: Path) -> None:
    failpoint = Scripted()
    storage = opened(tmp_path, failpoint=failpoint, ballast_bytes=MIB)
    failpoint.raising["sync.before"] = OSError("IO error: While fsync: Input/output error")
    with pytest.raises(StorageFailedError):
        one_turn(Writer(storage))
    storage.close()
    assert ballast_of(tmp_path).exists()


def test_an_opening_on_a_full_disk_gives_the_ballast_up_and_tries_again(tmp_path: Path) -> None:
    opened(tmp_path, ballast_bytes=MIB).close()

    class Failing(Scripted):
        def __call__(self, name: str) -> None:
            super().__call__(name)
            if name == "sync.before" and ballast_of(tmp_path).exists():
                raise OSError("IO error: No space left on device: While appending")

    files = SmallDisk(free=0)
    failpoint = Failing()
    storage = opened(tmp_path, failpoint=failpoint, files=files, ballast_bytes=MIB)
    assert failpoint.seen.count("boot.between") == 1
    assert not ballast_of(tmp_path).exists()
    storage.close()


def test_an_opening_on_a_full_disk_without_a_ballast_says_so(tmp_path: Path) -> None:
    opened(tmp_path).close()
    failpoint = Scripted()
    failpoint.raising["sync.before"] = OSError("IO error: No space left on device: While appending")
    with pytest.raises(StorageFullError, match="free space, then open the node again"):
        opened(tmp_path, failpoint=failpoint)


# --- in earnest -------------------------------------------------------------------------------

FILLER = """
import sys
from raftkv.errors import StorageFullError
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer

def opening():
    return open_rocks(
        sys.argv[1], cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng(), ballast_bytes=20 << 20
    )

acknowledged = 0
try:
    storage = opening()
    if sys.argv[2] == "fill":
        writer = Writer(storage)
        try:
            for _ in range(10_000):
                batch = storage.store.batch()
                if writer.hard_state.term == 0:
                    writer.vote(batch, 1, MEMBER)
                writer.append(batch, [b"x" * 50_000])
                writer.write(batch)
                writer.sync()
                acknowledged = writer.last.index
        except StorageFullError:
            print("full", acknowledged)
    else:
        writer = Writer(storage)
        batch = storage.store.batch()
        writer.commit(batch, writer.last.index)
        writer.compact(batch, writer.last.index)
        writer.write(batch)
        writer.sync()
        print("open", writer.last.index)
    storage.close()
except StorageFullError:
    print("refused", acknowledged)
"""


def in_another_process(root: Path, what: str) -> tuple[str, int]:
    command = [sys.executable, "-c", FILLER, str(root), what]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    word, number = run.stdout.split()
    return word, int(number)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB in a file."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    OsFiles().allocate(image, 80 * MIB)
    make = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image)]
    mount = ["mount", "-o", "loop", str(image), str(disk)]
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing")
    subprocess.run(make, check=True)
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and a loop device")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_member_that_filled_its_disk_can_be_opened_to_make_room(small_disk: Path) -> None:
    root = small_disk / "data"
    word, acknowledged = in_another_process(root, "fill")
    assert word == "full"
    assert acknowledged > 50
    assert not ballast_of(root).exists()
    filling = small_disk / "somebody-else"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert OsFiles().free_bytes(small_disk) < MIB
    # Without the ballast it would stay so: RocksDB does not open on a full disk.
    assert in_another_process(root, "open")[0] == "refused"
    filling.unlink()
    word, recovered = in_another_process(root, "open")
    assert word == "open"
    assert recovered >= acknowledged
