"""The simulated disk against RocksDB: the same while both run, and no worse after a crash."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.storage.base import Space
from raftkv.storage.batch import PUT
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.testing.campaigns import agree
from raftkv.testing.campaigns.frame import FindingError
from raftkv.testing.nodes.agreement import (
    Reopen,
    SimulatedSide,
    Step,
    Sync,
    Write,
    content_of,
    draw_steps,
    look,
    write,
)
from raftkv.testing.nodes.image import StoreImage


def drawn(seed: int, count: int) -> list[Step]:
    return draw_steps(Random(seed), count)


steps_of = st.builds(drawn, st.integers(0, 2**32), st.integers(3, 25))
# Copies and openings of RocksDB cost tens of milliseconds each.
FEW = settings(max_examples=max(6, settings().max_examples // 20), deadline=None)


@FEW
@given(steps=steps_of, seed=st.integers(0, 2**32))
def test_what_a_crash_leaves_of_rocksdb_is_allowed(steps: list[Step], seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="raftkv-agree-") as base:
        agree.damage_copies(Path(base), steps, Random(seed), Counter(), copies=3)


@FEW
@given(steps=steps_of)
def test_both_show_the_same_while_they_run(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(prefix="raftkv-agree-") as base:
        path = Path(base) / "store"
        simulated, real = SimulatedSide(memtable_bytes=1000), RocksStore(path, Mode.CREATE)
        for step in steps:
            views = [simulated.store.view(), real.view()]
            before = content_of(real)
            simulated.take(step) if not isinstance(step, Reopen) else None
            if isinstance(step, Write):
                write(real, step.changes)
            elif isinstance(step, Sync):
                assert simulated.store.sync() == real.sync()
            assert [content_of(view) for view in views] == [before, before]
            for view in views:
                view.close()
            if isinstance(step, Reopen):
                simulated.take(step)
                real.close()
                real = RocksStore(path)
            assert simulated.store.written == real.written
            assert content_of(simulated.store) == content_of(real)
        simulated.close()
        real.close()


def batch(key: bytes) -> Write:
    return Write(((PUT, Space.MACHINE, key, b"value"),))


def test_a_disk_that_allows_too_little_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = [batch(b"a"), Sync(), batch(b"b"), batch(b"c")]
    agree.damage_copies(tmp_path, steps, Random(1), Counter(), copies=4)

    # One whose cache survives power cuts.
    monkeypatch.setattr(StoreImage, "unsynced", property(lambda _image: 0))
    with pytest.raises(FindingError, match="other rows than any of the 1 outcomes"):
        agree.damage_copies(tmp_path, steps, Random(1), Counter(), copies=4)


def test_a_disk_whose_batches_are_never_torn_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoreImage.lose_power
    monkeypatch.setattr(
        StoreImage,
        "lose_power",
        lambda image, choices, is_harsh: real(image, choices, is_harsh=False),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    )
    steps: list[Step] = [batch(b"a"), Sync(), Write(((PUT, Space.LOG, b"b", bytes(5000)),))]
    with pytest.raises(FindingError, match="refused, then other rows"):
        agree.damage_copies(tmp_path, steps, Random(1), Counter(), copies=12)


def test_the_outcomes_of_a_power_cut_are_the_beginnings_of_what_was_written() -> None:
    side, contents = SimulatedSide(), list[bytes]()
    for step in (batch(b"a"), Sync(), batch(b"b"), batch(b"c")):
        side.take(step)
        contents.append(content_of(side.store))
    found = side.outcomes()
    assert {one.content for one in found if not one.is_refused} == {contents[1], *contents[2:]}
    assert {one.content for one in found if one.is_refused} == {contents[1], contents[2]}
    side.close()


def test_a_killed_writer_and_a_power_cut_are_part_of_the_campaign() -> None:
    assert [part.name for part in agree.DISKS.parts] == ["power", "kill", "pages"]
    lists = sum(part.cases for part in agree.DISKS.parts) * agree.LISTS_PER_CASE
    assert lists >= 2000


def test_looking_at_a_whole_store_refuses_nothing(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    write(store, ((PUT, Space.META, b"key", b"value"),))
    content = content_of(store)
    store.close()
    found = look(tmp_path / "store")
    assert (found.is_refused, found.content) == (False, content)
