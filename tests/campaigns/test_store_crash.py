"""Lives of a directory, lived in this process: the judge of what is found can say no."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from raftkv.storage.base import Space
from raftkv.storage.directory import open_rocks
from raftkv.testing.campaigns.frame import Case, FindingError
from raftkv.testing.campaigns.store_crash import STORE_FAILPOINTS, Death, Life, kill_anywhere
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, FixedRng, Writer


class KilledError(BaseException):
    """SIGKILL, for a process that is also the test's."""


@pytest.fixture(autouse=True)
def killing(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, _number: int) -> None:
        assert pid == os.getpid()
        raise KilledError

    monkeypatch.setattr(os, "kill", kill)


def live(root: Path, death: Death | None, seed: str = "life") -> mmap.mmap:
    shared = mmap.mmap(-1, 16)
    Life(root, seed, shared, death).run()
    return shared


def test_a_life_that_nothing_kills_writes_and_the_next_finds_it_right(tmp_path: Path) -> None:
    root = tmp_path / "member"
    shared = live(root, Death("nowhere", 300))
    assert shared[1] > 60
    live(root, None)


@pytest.mark.parametrize("name", ["make.before", "boot.between", "write.before", "sync.after"])
def test_a_life_dies_at_its_failpoint(tmp_path: Path, name: str) -> None:
    assert name in STORE_FAILPOINTS
    with pytest.raises(KilledError):
        live(tmp_path / "member", Death(name, 300, count=1))


def test_a_state_older_than_the_acknowledged_one_is_found(tmp_path: Path) -> None:
    root = tmp_path / "member"
    live(root, Death("nowhere", 300))
    diary = root.with_suffix(".diary")
    told = diary.read_bytes()
    size = 1 + 16
    # As if one more had been acknowledged, which is not there.
    diary.write_bytes(told + b"A" + bytes(size - 1))
    with pytest.raises(FindingError, match="nobody may have left"):
        live(root, None)


def test_rows_that_are_not_those_of_the_entries_are_found(tmp_path: Path) -> None:
    root = tmp_path / "member"
    live(root, Death("nowhere", 300))
    storage = open_rocks(root, cluster_id=CLUSTER, member_id=MEMBER, rng=FixedRng())
    try:
        batch = storage.store.batch()
        applied = Writer(storage).applied.index
        batch.put(Space.MACHINE, applied.to_bytes(8, "big"), b"another")
        storage.store.write(batch)
    finally:
        storage.close()
    with pytest.raises(FindingError, match="rows"):
        live(root, None)


def test_a_life_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(_self: Life, _log: Path) -> int:
        return os.posix_spawnp("false", ["false"], os.environ)

    monkeypatch.setattr(Life, "fork", fork)
    with pytest.raises(FindingError, match=r"life\.log"):
        kill_anywhere(Case(3, tmp_path))
