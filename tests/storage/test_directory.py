"""A data directory from its making to its closing: whose it is, who may open it, what may fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.core.types import HardState
from raftkv.errors import (
    ForkedError,
    IdentityError,
    StorageCorruptError,
    StorageFailedError,
    StorageLockedError,
)
from raftkv.storage.base import Identity, Space
from raftkv.storage.directory import open_rocks
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.storage.rocks import RocksStore
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer
from tests.storage.opening import Scripted, one_turn, opened

ROOT = Path(__file__).parents[2]


# --- making and identity --------------------------------------------------------------------


def test_an_empty_directory_becomes_a_members(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    storage = opened(root)
    identity = storage.identity
    assert (identity.cluster_id, identity.member_id, identity.boot) == (CLUSTER, MEMBER, 1)
    assert len(identity.disk_uuid) == 16
    recovered = storage.log.recover()
    assert (recovered.hard_state, recovered.entries) == (HardState(), ())
    storage.close()
    storage.close()


def test_everything_is_for_its_owner_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    opened(root).close()
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "member").stat().st_mode & 0o777 == 0o700
    assert (root / "member" / "witness").stat().st_mode & 0o777 == 0o600


def test_each_opening_is_a_boot_of_the_same_disk(tmp_path: Path) -> None:
    identities: list[Identity] = []
    for _ in range(3):
        storage = opened(tmp_path)
        identities.append(storage.identity)
        storage.close()
    assert [identity.boot for identity in identities] == [1, 2, 3]
    assert len({identity.disk_uuid for identity in identities}) == 1


def test_each_opening_has_a_token_of_its_own_which_tells_copies_apart(tmp_path: Path) -> None:
    rng = FixedRng()

    def opening(name: str) -> Identity:
        storage = open_rocks(tmp_path / name, cluster_id=CLUSTER, member_id=MEMBER, rng=rng)
        storage.close()
        return storage.identity

    first = opening("data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    second, other = opening("data"), opening("copy")
    assert (second.boot, second.disk_uuid) == (other.boot, other.disk_uuid) == (2, first.disk_uuid)
    tokens = {one.boot_token for one in (first, second, other)}
    assert {len(token) for token in tokens} == {16}
    assert len(tokens) == 3
    # The witness knows, too, whose store it stands beside.
    witness = Path("member") / "witness"
    shutil.copy(tmp_path / "copy" / witness, tmp_path / "data" / witness)
    with pytest.raises(StorageCorruptError, match="two copies that were both opened as 2"):
        opening("data")


def test_each_opening_in_memory_has_a_token_of_its_own() -> None:
    disk = MemoryDisk()
    tokens: set[bytes] = set()
    for _ in range(3):
        storage = open_memory(CLUSTER, MEMBER, disk=disk)
        tokens.add(storage.identity.boot_token)
        storage.close()
    assert len(tokens) == 3


def test_another_disk_has_another_uuid(tmp_path: Path) -> None:
    rng = FixedRng()
    uuids: set[bytes] = set()
    for name in ("one", "two"):
        storage = open_rocks(tmp_path / name, cluster_id=CLUSTER, member_id=MEMBER, rng=rng)
        uuids.add(storage.identity.disk_uuid)
        storage.close()
    assert len(uuids) == 2


@pytest.mark.parametrize(
    ("cluster", "member", "complaint"),
    [
        (0xC2, MEMBER, "belongs to cluster c1, not to c2: give this node a directory of its own"),
        (CLUSTER, 8, "belongs to member 7, not to 8: give each member a directory of its own"),
    ],
)
def test_the_directory_of_another_is_refused_and_unharmed(
    tmp_path: Path, cluster: int, member: int, complaint: str
) -> None:
    opened(tmp_path).close()
    with pytest.raises(IdentityError, match=complaint):
        opened(tmp_path, cluster=cluster, member=member)
    storage = opened(tmp_path)
    assert storage.identity.boot == 2
    storage.close()
    disk = MemoryDisk()
    open_memory(CLUSTER, MEMBER, disk=disk).close()
    with pytest.raises(IdentityError, match=complaint):
        open_memory(cluster, member, disk=disk)
    open_memory(CLUSTER, MEMBER, disk=disk).close()


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(IdentityError, match=r"holds 'holiday.jpg' but no member"):
        opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LOCK", "holiday.jpg"]


@pytest.mark.parametrize("point", ["make.store", "make.before", "make.after", "boot.between"])
def test_a_making_that_broke_off_is_made_again(tmp_path: Path, point: str) -> None:
    broken = Scripted()
    broken.raising[point] = RuntimeError("power cut")
    with pytest.raises(RuntimeError, match="power cut"):
        opened(tmp_path, failpoint=broken)
    storage = opened(tmp_path)
    assert storage.log.recover().hard_state == HardState()
    one_turn(Writer(storage))
    storage.close()
    assert not (tmp_path / "member.new").exists()


def test_a_link_in_place_of_the_witness_is_not_followed(tmp_path: Path) -> None:
    opened(tmp_path).close()
    witness = tmp_path / "member" / "witness"
    witness.rename(tmp_path / "elsewhere")
    witness.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailedError, match="symbolic"):
        opened(tmp_path)


def test_a_file_in_place_of_the_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailedError, match=r"opening .*file.* failed"):
        opened(tmp_path / "file")


# --- second openers -------------------------------------------------------------------------


def test_a_second_node_of_this_process_is_refused(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    with pytest.raises(StorageLockedError, match="is open in another node or process: stop"):
        opened(tmp_path)
    with pytest.raises(StorageLockedError, match="is open in another node or process: stop"):
        RocksStore(tmp_path / "member" / "store")
    one_turn(Writer(storage))
    storage.close()
    opened(tmp_path).close()
    disk = MemoryDisk()
    memory = open_memory(CLUSTER, MEMBER, disk=disk)
    with pytest.raises(StorageLockedError):
        open_memory(CLUSTER, MEMBER, disk=disk)
    memory.close()


OPENER = """
import sys
from raftkv.errors import StorageLockedError
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng
try:
    open_rocks(sys.argv[1], cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng()).close()
except StorageLockedError as error:
    print(error)
else:
    print("opened")
"""


def other_process(root: Path) -> str:
    command = [sys.executable, "-c", OPENER, str(root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_second_process_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    assert "is open in another node or process: stop that one first" in other_process(tmp_path)
    storage.close()
    assert other_process(tmp_path) == "opened\n"


def test_a_failed_opening_lets_go_of_the_lock(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for _ in range(2):
        with pytest.raises(IdentityError):
            opened(tmp_path, member=8)
    (tmp_path / "member" / "witness").rename(tmp_path / "member" / "gone")
    for _ in range(2):
        with pytest.raises(StorageCorruptError):
            opened(tmp_path)


# From 3.12 on Python warns that forking beside threads (RocksDB's) is dangerous: just so.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


# --- fork ------------------------------------------------------------------------------------


@FORKS
def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    writer = Writer(storage)
    one_turn(writer)
    view, scan = storage.store.view(), storage.store.scan(Space.META)
    batch = storage.store.batch()
    batch.put(Space.MACHINE, b"child", b"was here")
    calls = [
        lambda: storage.store.get(Space.META, b"identity"),
        lambda: list(storage.store.scan(Space.LOG)),
        lambda: list(scan),
        lambda: view.get(Space.META, b"identity"),
        lambda: list(view.scan(Space.LOG)),
        lambda: storage.store.write(batch),
        lambda: storage.sync(writer.promise()),
        storage.store.batch,
        storage.store.view,
    ]
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        answers: list[str] = []
        for call in calls:
            try:
                call()
                answers.append("served")
            except ForkedError as error:
                answers.append("refused" if "open a node of its own" in str(error) else "?")
        storage.close()
        os.write(writable, " ".join(answers).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        assert pipe.read() == " ".join(["refused"] * len(calls))
    assert os.waitpid(pid, 0)[1] == 0
    view.close()
    assert list(scan)
    assert storage.store.get(Space.MACHINE, b"child") is None
    one_turn(writer)
    storage.close()


FORKER = """
import os, sys
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng
storage = open_rocks(sys.argv[1], cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng())
view = storage.store.view()
if os.fork() == 0:
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.wait()[1])
view.close()
storage.close()
sys.exit(status)
"""


def test_a_forked_child_that_ends_does_not_wait_for_threads_it_never_had(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKER, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=30).returncode == 7


@FORKS
def test_a_forked_child_does_not_keep_the_directory_locked(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    readable, writable = os.pipe()
    born, birth = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writable)
        os.write(birth, b"!")
        os.read(readable, 1)  # lives until the parent lets go
        os._exit(0)
    os.close(readable)
    try:
        os.read(born, 1)  # it lets go of the lock in its first moments
        storage.close()
        opened(tmp_path).close()
    finally:
        for descriptor in (writable, born, birth):
            os.close(descriptor)
        os.waitpid(pid, 0)
