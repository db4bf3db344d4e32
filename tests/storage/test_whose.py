"""Whose a data directory is, told from outside."""

from __future__ import annotations

from pathlib import Path

from raftkv.runtime.system import system_runtime
from raftkv.storage.directory import open_rocks
from raftkv.storage.whose import Whose, whose


def test_a_directory_tells_whose_it_is_without_being_opened(tmp_path: Path) -> None:
    assert whose(tmp_path / "none") == Whose(True, None)
    assert not (tmp_path / "none").exists()
    rng = system_runtime().rng
    storage = open_rocks(tmp_path, cluster_id=77, member_id=5, rng=rng)
    try:
        found = whose(tmp_path)  # while it is open, too
    finally:
        storage.close()
    assert found == whose(tmp_path)
    assert not found.is_new
    assert found.identity is not None
    assert (found.identity.cluster_id, found.identity.member_id) == (77, 5)
    assert found.identity.disk_uuid == storage.identity.disk_uuid


def test_a_witness_that_cannot_tell_leaves_it_to_the_opening(tmp_path: Path) -> None:
    rng = system_runtime().rng
    open_rocks(tmp_path, cluster_id=77, member_id=5, rng=rng).close()
    witness = tmp_path / "member" / "witness"
    witness.write_bytes(b"x" * 1024)
    assert whose(tmp_path) == Whose(False, None)
    witness.unlink()
    assert whose(tmp_path) == Whose(False, None)
