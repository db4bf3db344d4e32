"""The judges of damaged directories can condemn: each lie that they look for is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from attrs import evolve

from raftkv.storage.base import Space
from raftkv.testing.campaigns.flip import files_of, flip_a_bit
from raftkv.testing.campaigns.frame import Case, FindingError
from raftkv.testing.campaigns.inprocess import check_content
from raftkv.testing.campaigns.known import Author, Known, copied, look, opened, scratch
from raftkv.testing.campaigns.torn import Moments, offsets
from raftkv.testing.campaigns.writer import Writer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    base = tmp_path_factory.mktemp("known")
    author = Author(base / "live", Random(7))
    return base / "whole", author.crash(20, 300, base / "whole")


def test_an_undamaged_directory_is_identical(written: tuple[Path, Known], tmp_path: Path) -> None:
    whole, known = written
    for can_recover in (False, True):
        copy = copied(whole, tmp_path / f"copy-{can_recover:d}")
        assert look(copy, known, can_recover=can_recover) == "identical"


def test_a_change_of_any_space_is_found(written: tuple[Path, Known], tmp_path: Path) -> None:
    whole, known = written
    for space in (Space.MACHINE, Space.IMAGE, Space.META):
        copy = copied(whole, tmp_path / space.value)
        storage = opened(copy)
        batch = storage.store.batch()
        batch.put(space, b"\xff" * 9, b"nobody wrote this")
        storage.store.write(batch)
        storage.store.sync()
        storage.close()
        with pytest.raises(FindingError, match=f"space {space.value} has"):
            look(copy, known, can_recover=True)


def test_less_than_was_acknowledged_is_found(written: tuple[Path, Known], tmp_path: Path) -> None:
    whole, known = written
    copy = copied(whole, tmp_path / "copy")
    storage = opened(copy)
    Author(copy, Random(8)).turns(Writer(storage), 1, 10)
    storage.close()
    with pytest.raises(FindingError, match="other state than was acknowledged"):
        look(copy, known, can_recover=False)


def _older(known: Known) -> Known:
    hard = known.state.hard_state
    return evolve(known, state=evolve(known.state, hard_state=evolve(hard, term=hard.term - 1)))


def _later(known: Known) -> Known:
    hard = known.state.hard_state
    return evolve(known, state=evolve(known.state, hard_state=evolve(hard, term=hard.term + 1)))


def _fewer_entries(known: Known) -> Known:
    return evolve(known, entries={})


def _other_end(known: Known) -> Known:
    entries = known.state.entries
    return evolve(known, state=evolve(known.state, entries=entries[:-1]))


def _other_rows(known: Known) -> Known:
    return evolve(known, rows={**known.rows, Space.MACHINE: []})


def _other_images(known: Known) -> Known:
    return evolve(known, images=frozenset[tuple[bytes, bytes]]())


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (_older, "with a vote that never was"),
        (_later, "term and vote are said to be known"),
        (_fewer_entries, "is none that ever was"),
        (_other_end, "what was promised is another"),
        (_other_rows, "the rows are not those of entry"),
        (_other_images, "a piece of an image that never was"),
    ],
)
def test_a_quarantined_member_that_shows_what_never_was_is_found(
    written: tuple[Path, Known], tmp_path: Path, change: Callable[[Known], Known], verdict: str
) -> None:
    whole, known = written
    copy = copied(whole, tmp_path / "copy")
    wal = max((copy / "member" / "store").glob("*.log"))
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 5)  # the last record, which was acknowledged
    assert look(copied(copy, tmp_path / "as it is"), known, can_recover=True) == "quarantined"
    with pytest.raises(FindingError, match=verdict):
        look(copy, change(known), can_recover=True)


def test_exactly_one_bit_of_one_data_file_is_flipped(
    written: tuple[Path, Known], tmp_path: Path
) -> None:
    whole, _ = written
    names = {file.name for file in files_of(whole)}
    assert {"witness", "CURRENT"} < names
    assert not names & {"LOG", "LOCK", "ballast"}
    hit: set[str] = set()
    for seed in range(60):
        copy = copied(whole, tmp_path / "copy")
        flip_a_bit(copy, Random(seed))
        changed = [
            (before, after)
            for before, after in zip(files_of(whole), files_of(copy), strict=True)
            if before.read_bytes() != after.read_bytes()
        ]
        ((before, after),) = changed
        old, new = (int.from_bytes(file.read_bytes(), "big") for file in (before, after))
        assert (old ^ new).bit_count() == 1
        hit.add(before.name)
    assert len(hit) > len(names) // 2


def test_short_records_are_cut_at_every_byte_and_long_ones_around_every_border() -> None:
    short = Moments([100, 400, 700, 1000], [], 4)
    assert offsets(short, Random(1)) == list(range(100, 1000))
    long = Moments([1_000, 101_000, 201_000, 301_000], [], 4)
    chosen = offsets(long, Random(1))
    assert all(1_000 <= offset < 301_000 for offset in chosen)
    assert len({offset // 32_768 for offset in chosen}) > 8
    assert [long.at(offset) for offset in (999, 1_000, 100_999, 101_000)] == [0, 1, 1, 2]


def test_content_that_differs_is_told_in_numbers() -> None:
    with pytest.raises(
        FindingError, match=r"of 2 keys 1 are missing .*1 are different .*1 are new"
    ):
        check_content("n1", {b"a": b"x", b"c": b"1"}, {b"a": b"1", b"b": b"1"})
    check_content("n1", {b"a": b"1"}, {b"a": b"1"})


def test_what_lies_in_memory_is_kept_after_a_finding(tmp_path: Path) -> None:
    case = Case(1, tmp_path)

    def find() -> None:
        with scratch(case) as base:
            (base / "evidence").write_text("here")
            raise FindingError("found")

    with pytest.raises(FindingError):
        find()
    assert (tmp_path / "kept" / "evidence").read_text() == "here"


def test_an_author_needs_an_opening(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one boot"):
        Author(tmp_path / "live", Random(1)).write(0, 1, 1)
