"""The library that fails a disk's calls: it fails what it is told to, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from errno import EIO, ENOSPC
from pathlib import Path
from typing import cast

import pytest

from raftkv.testing.campaigns import shim as shim_module
from raftkv.testing.campaigns.shim import FOR_EVER, Shim, compile_shim, why_no_shim

# Writes ten times to each file, syncs each time; tells errno or count, and milliseconds.
_WRITER = """
import json, os, sys, time
told = {}
for path in sys.argv[1:]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    told[path] = calls = []
    for call in [lambda: os.write(descriptor, b"12345678"),
                 lambda: os.fsync(descriptor) or 0,
                 lambda: os.pwrite(descriptor, b"12345678", 0),
                 lambda: os.fdatasync(descriptor) or 0,
                 lambda: os.writev(descriptor, [b"1234", b"5678"])] * 2:
        began = time.monotonic()
        try:
            answer = call()
        except OSError as error:
            answer = -error.errno
        calls.append((answer, (time.monotonic() - began) * 1000))
print(json.dumps(told))
"""
WELL = [8, 0, 8, 0, 8] * 2


class Disk:
    """A directory with a shim, and the answers of a process that writes there."""

    def __init__(self, base: Path) -> None:
        self.directory = base / "data"
        self.directory.mkdir()
        self.shim = Shim(compile_shim(base), base / "rules", self.directory)

    def calls(self, path: Path) -> list[tuple[int, float]]:
        environment = {**os.environ, **self.shim.environment}
        command = [sys.executable, "-c", _WRITER, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return cast("list[tuple[int, float]]", json.loads(done.stdout)[str(path)])

    def answers(self, path: Path | None = None) -> list[int]:
        return [answer for answer, _ in self.calls(path or self.directory / "file")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    assert why_no_shim() is None
    made = Disk(tmp_path)
    yield made
    made.shim.close()


def test_nothing_fails_before_a_rule_says_so(disk: Disk) -> None:
    assert disk.answers() == WELL
    assert (disk.shim.seen(), disk.shim.failed(), disk.shim.first_failure_ns()) == (0, 0, 0)


def test_syncs_fail_from_a_chosen_one_on_for_ever(disk: Disk) -> None:
    disk.shim.syncs(EIO, skip=1)
    assert disk.answers() == [8, 0, 8, -EIO, 8, 8, -EIO, 8, -EIO, 8]
    assert (disk.shim.seen(), disk.shim.failed()) == (4, 3)
    assert disk.shim.first_failure_ns() > 0


def test_one_sync_fails_and_the_next_succeeds(disk: Disk) -> None:
    disk.shim.syncs(EIO, times=1)
    assert disk.answers() == [8, -EIO, 8, 0, 8, 8, 0, 8, 0, 8]


def test_writes_of_every_kind_are_cut_short_and_then_fail(disk: Disk) -> None:
    disk.shim.writes(ENOSPC, halve=2)
    assert disk.answers() == [4, 0, 4, 0, -ENOSPC, -ENOSPC, 0, -ENOSPC, 0, -ENOSPC]


def test_a_slow_sync_succeeds_late(disk: Disk) -> None:
    disk.shim.syncs(delay_seconds=0.05, times=2)
    calls = disk.calls(disk.directory / "file")
    assert [answer for answer, _ in calls] == WELL
    assert all(took >= 50 for _, took in (calls[1], calls[3]))
    assert disk.shim.failed() == 0


def test_other_directories_are_spared(disk: Disk, tmp_path: Path) -> None:
    disk.shim.writes(EIO)
    assert disk.answers(tmp_path / "elsewhere") == WELL
    (tmp_path / "data-too").mkdir()
    assert disk.answers(tmp_path / "data-too" / "file") == WELL


def test_the_diary_of_rocksdb_and_the_lock_are_spared(disk: Disk) -> None:
    disk.shim.writes(EIO)
    for name in ("LOG", "LOG.old.1", "LOCK"):
        assert disk.answers(disk.directory / name) == WELL
    assert disk.answers(disk.directory / "000001.log")[0] == -EIO


def test_only_files_with_a_suffix_fail_if_one_is_given(disk: Disk) -> None:
    disk.shim.only(".log")
    disk.shim.writes(EIO, times=FOR_EVER)
    assert disk.answers(disk.directory / "000001.sst") == WELL
    assert disk.answers(disk.directory / "000001.log")[0] == -EIO


def test_a_healed_disk_fails_no_more(disk: Disk) -> None:
    disk.shim.writes(EIO)
    disk.shim.syncs(EIO)
    disk.shim.heal()
    assert disk.answers() == WELL


def test_a_process_that_should_fail_and_cannot_does_not_begin(disk: Disk, tmp_path: Path) -> None:
    environment = {**os.environ, **disk.shim.environment, "RAFTKV_SHIM": str(tmp_path / "no rules")}
    done = subprocess.run([sys.executable, "-c", "print(1)"], env=environment, check=False)
    assert done.returncode < 0


def test_a_machine_without_a_compiler_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def which(_name: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", which)
    assert why_no_shim() == "no C compiler (cc) is here to make the preloaded library"
    with pytest.raises(RuntimeError, match="no C compiler"):
        compile_shim(tmp_path)


def test_a_compiler_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shim_module, "_SOURCE", tmp_path / "nothing.c")
    with pytest.raises(RuntimeError, match=r"refuses shim\.c"):
        compile_shim(tmp_path)
