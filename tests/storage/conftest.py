"""One directory of a killed member for a module, and a fresh copy of it for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.member_model import Writer, everything
from tests.storage.opening import opened
from tests.storage.quarantine import Crashed, Truth, turns


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashed]:
    """Two boots: 1 to 30 in tables from the first, up to 50 in the newest log; compacted at 10."""
    base = tmp_path_factory.mktemp("quarantine")
    storage = opened(base / "live")
    entries = turns(Writer(storage), 30)
    storage.close()
    storage = opened(base / "live")
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.compact(batch, 10)
    writer.write(batch)
    entries += turns(writer, 20)
    shutil.copytree(base / "live", base / "crashed")
    truth = Truth(writer.state(), everything(storage.store), tuple(entries), writer.promise())
    storage.close()
    yield Crashed(base / "crashed", truth)
    shutil.rmtree(base)


@pytest.fixture
def crashed(original: Crashed, tmp_path: Path) -> Crashed:
    return original.copy(tmp_path / "copy")
