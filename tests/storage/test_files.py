"""Small files beside the store: whole, whatever the kernel takes at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftkv.storage.files import OsFiles


def test_a_write_that_the_kernel_takes_in_parts_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def a_part(descriptor: int, data: memoryview, offset: int) -> int:
        return pwrite(descriptor, data[:100], offset)

    monkeypatch.setattr(os, "pwrite", a_part)
    data = bytes(range(256)) * 2
    files = OsFiles()
    file = files.open_slots(tmp_path / "witness", create=True)
    file.write(0, b"-" * 512)
    file.write(512, data)
    assert file.read(2000) == b"-" * 512 + data
    file.close()
    files.write(tmp_path / "note", data)
    assert (tmp_path / "note").read_bytes() == data


def test_a_write_of_which_the_kernel_takes_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_descriptor: int, _data: memoryview, _offset: int) -> int:
        return 0

    monkeypatch.setattr(os, "pwrite", nothing)
    with pytest.raises(OSError, match="512 bytes of 512 could not be written"):
        OsFiles().write(tmp_path / "note", bytes(512))
