"""Disks that lose power: what was synced stays, what was not is gone, and no mount is left."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from raftkv.testing.campaigns.disks import DiskError, mounted_disks, why_no_disks
from raftkv.testing.campaigns.frame import FindingError
from raftkv.testing.campaigns.isolated import Told, in_child

pytestmark = pytest.mark.skipif(why_no_disks() is not None, reason=str(why_no_disks()))


def write(path: Path, data: bytes, *, is_synced: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, data)
    if is_synced:
        os.fsync(descriptor)
    os.close(descriptor)


def cut_and_look(base: Path) -> Told:
    with mounted_disks(base, 1, 24) as (disk,):
        write(disk.path / "synced", b"kept", is_synced=True)
        write(disk.path / "unsynced", b"lost", is_synced=False)
        disk.cut_power()
        try:
            write(disk.path / "late", b"no", is_synced=False)
            late = "written"
        except OSError:
            late = "refused"
        disk.revive()
        found = {
            file.name: file.read_text() for file in disk.path.iterdir() if file.name != "lost+found"
        }
    return {"late": late, "found": found, "left": os.path.ismount(disk.path)}


def test_a_power_cut_keeps_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    told = in_child(lambda: cut_and_look(tmp_path), tmp_path / "log")
    assert told == {"late": "refused", "found": {"synced": "kept"}, "left": False}


def test_nobody_else_sees_the_disks_and_none_is_left(tmp_path: Path) -> None:
    def look() -> Told:
        with mounted_disks(tmp_path, 2, 24) as disks:
            parent = Path(f"/proc/{os.getppid()}/mounts").read_text()
            mine = Path("/proc/self/mounts").read_text()
            paths = [str(disk.path) for disk in disks]
            return {
                "mine": all(path in mine for path in paths),
                "theirs": any(path in parent for path in paths),
            }

    assert in_child(look, tmp_path / "log") == {"mine": True, "theirs": False}
    assert_free(tmp_path)


def test_a_process_that_is_killed_leaves_no_mount_and_no_loop_device(tmp_path: Path) -> None:
    def die() -> Told:
        with mounted_disks(tmp_path, 1, 24):
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with pytest.raises(FindingError, match="died of SIGKILL"):
        in_child(die, tmp_path / "log")
    assert_free(tmp_path)


def assert_free(base: Path) -> None:
    assert str(base) not in Path("/proc/self/mounts").read_text()
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        assert str(base) not in backing.read_text()


def test_a_disk_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    def make() -> Told:
        try:
            with mounted_disks(tmp_path, 1, 0):
                return {"made": True}
        except DiskError as error:
            return {"refused": str(error)}

    assert "mkfs.ext4" in str(in_child(make, tmp_path / "log")["refused"])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(name: str, path: str = "") -> str | None:
        return None if name == "mount" else f"{path}/{name}"

    monkeypatch.setattr(shutil, "which", which)
    assert why_no_disks() == "mount is not installed"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_no_disks() == "mounting needs root"


def test_a_child_that_fails_in_any_way_is_a_finding(tmp_path: Path) -> None:
    def foreign() -> Told:
        raise ValueError("unexpected")

    def silent() -> Told:
        os._exit(5)

    log = tmp_path / "log"
    with pytest.raises(FindingError, match="unexpected"):
        in_child(foreign, log)
    with pytest.raises(FindingError, match="ended with status 5"):
        in_child(silent, log)
