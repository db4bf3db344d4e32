"""What marks a damaged directory, until when, through crashes; and any damage whatsoever."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import StorageCorruptError
from raftkv.storage.base import Damage, Loss
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.storage.witness import SLOT_BYTES
from tests.storage.member_model import CLUSTER, MEMBER, Writer
from tests.storage.opening import Scripted, opened
from tests.storage.quarantine import (
    FLIPS,
    VOTE,
    Crashed,
    quarantined,
    turns,
)

# --- the mark ---------------------------------------------------------------------------------


def test_a_mark_stays_until_it_is_removed(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    crashed.damaged()
    storage = quarantined(crashed.root)
    batch = storage.store.batch()
    storage.log.save_damage(batch, None)
    storage.store.write(batch)
    writer = Writer(storage)
    writer.sync()
    storage.close()
    storage = opened(crashed.root)
    assert storage.log.recover().damage is None
    storage.close()


def test_a_member_alone_is_refused_while_the_mark_is_there(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    quarantined(crashed.root).close()
    with pytest.raises(StorageCorruptError, match=r"is marked as damaged: .*lost what this member"):
        opened(crashed.root)


def test_what_is_lost_again_before_it_was_whole_is_lost_altogether(crashed: Crashed) -> None:
    """The witness was written by a damaged member then: it is no proof of what was before."""
    crashed.wals()[-1].unlink()
    assert crashed.damaged()[0] is Loss.LOG
    shutil.rmtree(crashed.store)
    loss, what, _ = crashed.damaged()
    assert loss is Loss.ALL
    assert "had not yet recovered from an earlier damage" in what


def test_what_is_lost_after_it_was_whole_again_is_a_damage_of_its_own(crashed: Crashed) -> None:
    crashed.wals()[-1].unlink()
    storage = quarantined(crashed.root)
    writer = Writer(storage)
    batch = storage.store.batch()
    storage.log.save_damage(batch, None)
    writer.write(batch)
    writer.sync()
    promised = writer.promise()
    storage.close()
    shutil.rmtree(crashed.store)
    storage = quarantined(crashed.root)
    found = storage.log.recover()
    storage.close()
    assert found.damage is not None
    assert found.damage.loss is Loss.LOG
    assert found.promised == promised


def test_a_damage_that_the_node_found_is_marked_in_store_and_witness() -> None:
    disk = MemoryDisk()
    storage = open_memory(CLUSTER, MEMBER, disk=disk)
    writer = Writer(storage)
    turns(writer, 3)
    batch = storage.store.batch()
    storage.log.save_damage(batch, Damage(Loss.ALL, "an old copy"))
    writer.write(batch)
    writer.sync()
    assert disk.witness.mark is not None
    assert disk.witness.mark.loss is Loss.ALL
    storage.close()
    storage = open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True)
    assert storage.log.recover().damage == Damage(Loss.ALL, "an old copy")
    storage.close()


# --- crashes on the way -----------------------------------------------------------------------

POINTS = (
    "write.before",
    "sync.before",
    "sync.after",
    "rebuild.before",
    "replace.complete",
    "replace.aside",
    "replace.after",
    "rebuild.after",
    "cut.before",
    "cut.after",
    "boot.between",
    "witness.before",
    "witness.after",
)


@pytest.mark.parametrize("way", ["anew", "in place", "cut"])
def test_a_crash_at_any_point_leaves_the_same_damage_or_the_mark(
    original: Crashed, tmp_path: Path, way: str
) -> None:
    reached = 0
    for point in POINTS:
        copy = original.copy(tmp_path / "copy")
        if way == "anew":
            (copy.store / "CURRENT").write_bytes(b"")
        elif way == "in place":
            copy.wals()[-1].unlink()
        else:
            os.truncate(copy.wals()[-1], copy.wals()[-1].stat().st_size - 5)
        broken = Scripted()
        broken.raising[point] = RuntimeError("power cut")
        try:
            quarantined(copy.root, broken).close()
        except (RuntimeError, StorageCorruptError, Exception):  # as the store names it
            reached += 1
        verdict, _ = copy.opens()
        assert verdict == "log", point
        assert not (copy.member / "store.making").exists()
        assert not (copy.member / "store.new").exists()
    assert reached >= 6


# --- found at run time ------------------------------------------------------------------------


def test_a_condemned_store_is_begun_anew_at_the_next_opening(crashed: Crashed) -> None:
    storage = opened(crashed.root)
    storage.condemn(Damage(Loss.LOG, "its rows differ from those of the others at entry 40"))
    storage.close()
    with pytest.raises(StorageCorruptError, match="was found to be damaged: its rows differ"):
        opened(crashed.root)
    storage = quarantined(crashed.root)
    found = storage.log.recover()
    storage.close()
    assert found.damage is not None
    assert found.damage.loss is Loss.LOG
    assert found.damage.what.startswith("its rows differ from those of the others at entry 40; ")
    assert (found.entries, found.applied.index, found.hard_state.vote) == ((), 0, VOTE)
    assert not (crashed.member / "condemned").exists()
    storage = quarantined(crashed.root)
    assert storage.log.recover() == found
    storage.close()


def test_a_store_condemned_for_unreadable_rows_keeps_what_can_be_read(crashed: Crashed) -> None:
    storage = opened(crashed.root)
    storage.condemn(Damage(Loss.ALL, "a read failed"), keep_rows=True)
    storage.close()
    loss, _, found = crashed.damaged()
    assert loss is Loss.ALL
    assert len(found.entries) == 40


def test_a_condemnation_that_cannot_be_read_is_absolute(crashed: Crashed) -> None:
    (crashed.member / "condemned").write_bytes(b"\x01half of")
    loss, what, found = crashed.damaged()
    assert (loss, found.entries) == (Loss.ALL, ())
    assert "the note of how is, too" in what


@pytest.mark.parametrize("point", ["rebuild.after", "condemned.rebuilt", "boot.between"])
def test_a_crash_amid_a_condemnation_repeats_it(crashed: Crashed, point: str) -> None:
    storage = opened(crashed.root)
    promise = Writer(storage).promise()
    storage.condemn(Damage(Loss.LOG, "wrong rows"))
    storage.close()
    broken = Scripted()
    broken.raising[point] = RuntimeError("power cut")
    with pytest.raises(RuntimeError, match="power cut"):
        quarantined(crashed.root, broken)
    loss, what, found = Crashed(crashed.root, evolve(crashed.truth, promised=promise)).damaged()
    assert (loss, found.promised) == (Loss.LOG, promise)
    assert "wrong rows" in what


def test_a_witness_is_read_again_and_mended(crashed: Crashed) -> None:
    storage = opened(crashed.root)
    writer = Writer(storage)
    turns(writer, 2)
    assert storage.check_witness() is None
    for slot in (0, 1):
        content = bytearray(crashed.witness.read_bytes())
        content[slot * SLOT_BYTES + 40] ^= 1
        crashed.witness.write_bytes(content)
        complaint = storage.check_witness()
        assert complaint is not None
        assert "witness" in complaint
        assert storage.check_witness() is None
    os.truncate(crashed.witness, 0)
    assert storage.check_witness() is not None
    assert storage.check_witness() is None
    crashed.witness.write_bytes(b"x" * 2 * SLOT_BYTES)
    assert "both slots" in (storage.check_witness() or "")
    turns(writer, 1)
    state = writer.state()
    storage.close()
    storage = opened(crashed.root)
    assert storage.log.recover() == state
    storage.close()


# --- anything, anywhere -----------------------------------------------------------------------


def files_of(original: Crashed) -> list[Path]:
    return [
        file.relative_to(original.root)
        for file in sorted(original.member.rglob("*"))
        if file.is_file() and file.stat().st_size and not file.name.startswith("LOG")
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=FLIPS, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_a_file_nothing_false_is_believed(
    original: Crashed, scratch: Path, data: st.DataObject
) -> None:
    """A flipped bit, a cut, an emptied or deleted file, or an older version of it put back."""
    copy = original.copy(scratch / "copy")
    file = copy.root / data.draw(st.sampled_from(files_of(original)), label="file")
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "delete"]), label="how")
    if how == "flip":
        bit = data.draw(st.integers(0, len(content) * 8 - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
    elif how == "cut":
        os.truncate(file, data.draw(st.integers(0, len(content) - 1), label="size"))
    else:
        file.unlink()
    with suppress(StorageCorruptError):  # a row in a table, found when it was read
        copy.opens()
