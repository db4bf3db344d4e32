"""Notes, the pace of background reading, and who is told of a sync."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import Entry, EntryKind
from raftkv.errors import InvariantError, StorageCorruptError, WireError
from raftkv.node.applier import Applier
from raftkv.node.commands import encode_commands
from raftkv.node.notes import Booted, HashHere, decode_note, encode_note, is_note
from raftkv.node.scrub import PIECE_BYTES_MAX, Reading, Scrubber
from raftkv.node.waiters import InFlight
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import AppliedMark, Piece
from raftkv.storage.memory import open_memory
from tests.node.rig import Journal

booted = st.builds(
    Booted,
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
)


@given(booted)
def test_a_note_comes_back_equal_and_is_no_command(note: Booted) -> None:
    data = encode_note(note)
    assert is_note(data)
    assert decode_note(data) == note
    assert not is_note(encode_commands(1, 1, 1, [data]))
    assert decode_note(encode_note(HashHere())) == HashHere()
    assert not is_note(b"")


@given(st.binary(max_size=60))
def test_made_up_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        note = decode_note(b"\x02" + data)
    except WireError:
        return
    assert encode_note(note) == b"\x02" + data


def test_a_note_stands_between_slices_and_one_that_nobody_knows_stops_the_member() -> None:
    storage = open_memory(5, 1)
    machine = Journal()
    applier = Applier(machine, storage.log, InFlight(1, 1), AppliedMark(), 10)
    data = [
        encode_commands(2, 1, 1, [b"before"]),
        encode_note(HashHere()),
        encode_commands(2, 1, 2, [b"after"]),
        b"\x02\x63later",
    ]
    applier.add(tuple(Entry(1, n, EntryKind.NORMAL, one, n) for n, one in enumerate(data, 1)))
    batch = storage.store.batch()
    assert applier.next_note() is None
    applier.apply_slice(batch)
    assert machine.commands == [b"before"]
    assert applier.next_note() == HashHere()
    applier.noted(batch)
    assert applier.mark.index == 2
    assert applier.next_note() is None
    applier.apply_slice(batch)
    assert machine.commands == [b"before", b"after"]
    with pytest.raises(InvariantError, match="entry 4"):
        applier.next_note()


class Hands:
    """A clock that sleeps at once, and a worker that works at once."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        return self.now

    boottime_ns = wall_ns = monotonic_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        self.now = max(self.now, monotonic_ns)


class Rows:
    """So many pieces of equal size, then damage or the end."""

    def __init__(self, count: int, piece: Piece, *, damaged: bool = False) -> None:
        self._left = count
        self._piece = piece
        self._damaged = damaged

    def step(self, bytes_max: int) -> Piece:
        assert bytes_max == PIECE_BYTES_MAX
        self._left -= 1
        if not self._left and self._damaged:
            raise StorageCorruptError("a row fails its checksum")
        return Piece(self._piece.rows, self._piece.bytes, not self._left)


@pytest.mark.parametrize(
    ("piece", "seconds"),
    [(Piece(1, 64_000, False), 9 * 0.064), (Piece(1000, 64_000, False), 9 * 0.256)],
)
async def test_reading_keeps_its_pace_and_short_rows_count_for_more(
    piece: Piece, seconds: float
) -> None:
    clock = Hands()
    worker = system_runtime().workers.worker("test")
    try:
        reading = Reading(worker, clock, 1_000_000.0)
        assert await reading.all_of(Rows(10, piece)) == 10 * piece.rows
        assert clock.now == round(seconds * 1e9)
        clock.now += 10**9  # what was not used does not add up
        await reading.all_of(Rows(10, piece))
        assert clock.now == 10**9 + 2 * round(seconds * 1e9)
        with pytest.raises(StorageCorruptError, match="fails its checksum"):
            await reading.all_of(Rows(3, piece, damaged=True))
    finally:
        await worker.close()


async def test_the_scrubber_reads_everything_again_and_again_until_damage_ends_it() -> None:
    clock = Hands()
    storage = open_memory(5, 1)
    worker = system_runtime().workers.worker("test")
    alarms: list[str] = []
    scrubber = Scrubber(storage, Reading(worker, clock, 1e9), worker, clock, 60.0)
    scrubber.on_alarm = alarms.append

    def damage_later() -> str | None:
        if scrubber.passes == 2:
            raise StorageCorruptError("enough")
        return "one half of the witness is damaged" if scrubber.passes else None

    storage.check_witness = damage_later  # type: ignore[method-assign]
    try:
        with pytest.raises(StorageCorruptError, match="enough"):
            await scrubber.run()
    finally:
        await worker.close()
    assert scrubber.passes == 2
    assert scrubber.rows > 0
    assert clock.now >= 3 * 60 * 10**9
    assert len(alarms) == 1
    assert "one half of the witness" in alarms[0]
    storage.close()  # no view is left open
