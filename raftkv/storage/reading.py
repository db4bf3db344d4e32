"""Raft's records read back from any Reader, each one checked.

Where and how they are stored is told in :mod:`raftkv.storage.log`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, cast

from raftkv.core.log import chain_of
from raftkv.core.types import Entry, HardState, Snapshot
from raftkv.errors import StorageCorruptError
from raftkv.storage.base import AppliedMark, Damage, Reader, Space, WitnessRecord
from raftkv.storage.records import (
    corrupt,
    decode_damage,
    decode_log_record,
    decode_mark,
    unseal,
)

GROUP: Final = Struct(">I")
LOG_KEY: Final = Struct(">IQ")
HARD_STATE: Final = Struct("<QQQ")  # term, vote, commit
CUTS: Final = Struct("<Q")


class LogKeys:
    """The keys of one group's records in the space ``meta``."""

    __slots__ = ("applied", "cuts", "damage", "hard_state", "snapshot")

    def __init__(self, group: int) -> None:
        prefix = GROUP.pack(group)
        self.hard_state: Final = prefix + b"hard-state"
        self.snapshot: Final = prefix + b"snapshot"
        self.applied: Final = prefix + b"applied"
        self.cuts: Final = prefix + b"cuts"
        self.damage: Final = prefix + b"damage"


class LogChecker:
    """Holds the log's rows, given one after the other, against what must come next."""

    __slots__ = ("_chain", "_group", "_index", "_term")

    def __init__(self, snapshot: Snapshot, group: int = 0) -> None:
        self._group = group
        self._index = snapshot.index
        self._term = snapshot.term
        self._chain: int = snapshot.chain

    def check(self, key: bytes, value: bytes) -> Entry:
        """The entry of the next row. Raises StorageCorruptError naming it."""
        index = self._index + 1
        if key != LOG_KEY.pack(self._group, index):
            corrupt(f"the log has a gap: entry {index} is missing before key {key.hex()}")
        entry = decode_log_record(value, index)
        if entry.index != index:
            corrupt(f"the record of entry {index} holds entry {entry.index}")
        if entry.term < self._term:
            corrupt(f"entry {index} is of term {entry.term}, after one of term {self._term}")
        if entry.chain != chain_of(self._chain, entry.term, index, entry.kind, entry.data):
            corrupt(f"entry {index} does not continue the chain of the entries before it")
        self._index, self._term, self._chain = index, entry.term, entry.chain
        return entry


class LogReader:
    """One group's records. Every method raises StorageCorruptError naming what is damaged."""

    def __init__(self, reader: Reader, group: int = 0) -> None:
        self._reader = reader
        self._group = group
        self.keys: Final = LogKeys(group)

    def hard_state(self) -> HardState:
        """Term, vote and commit."""
        body = self._meta(self.keys.hard_state, "hard state")
        if body is None:
            return HardState()
        try:
            return HardState(*HARD_STATE.unpack(body))
        except StructError:
            corrupt("the hard state record has a wrong length")

    def snapshot(self) -> Snapshot:
        """The compaction point."""
        body = self._meta(self.keys.snapshot, "snapshot position")
        if body is None:
            return Snapshot(0, 0)
        mark, data = decode_mark(body, "snapshot position")
        return Snapshot(mark.index, mark.term, mark.chain, mark.membership, data)

    def applied(self) -> AppliedMark:
        """How far the machine's durable state reaches."""
        body = self._meta(self.keys.applied, "applied mark")
        if body is None:
            return AppliedMark()
        return decode_mark(body, "applied mark")[0]

    def cuts(self) -> int:
        """How often the end of the log was replaced."""
        body = self._meta(self.keys.cuts, "count of cuts")
        if body is None:
            return 0
        try:
            return cast("int", CUTS.unpack(body)[0])
        except StructError:
            corrupt("the count of cuts has a wrong length")

    def damage(self) -> tuple[Damage | None, WitnessRecord | None]:
        """The mark of damage, and what has to be there again."""
        body = self._meta(self.keys.damage, "mark of damage")
        return (None, None) if body is None else decode_damage(body)

    def entries(self, snapshot: Snapshot, *, is_inside: bool = False) -> Iterator[Entry]:
        """Every entry after the snapshot: no gap, terms ascending, each chain value proven.

        A snapshot that ``is_inside`` the log may have entries before it, which are not looked at.
        """
        checker = LogChecker(snapshot, self._group)
        start, stop = GROUP.pack(self._group), GROUP.pack(self._group + 1)
        if is_inside:
            start = LOG_KEY.pack(self._group, snapshot.index + 1)
        for key, value in self._reader.scan(Space.LOG, start, stop):
            yield checker.check(key, value)

    def intact_entries(
        self, snapshot: Snapshot, *, is_inside: bool = False
    ) -> tuple[tuple[Entry, ...], StorageCorruptError | None]:
        """The entries before the first damage, and the damage."""
        entries: list[Entry] = []
        try:
            for entry in self.entries(snapshot, is_inside=is_inside):
                entries.append(entry)  # noqa: PERF402 (what came before an error is wanted)
        except StorageCorruptError as error:
            return tuple(entries), error
        return tuple(entries), None

    def _meta(self, key: bytes, what: str) -> bytes | None:
        value = self._reader.get(Space.META, key)
        return None if value is None else unseal(value, what)


def check_positions(
    hard_state: HardState, snapshot: Snapshot, entries: tuple[Entry, ...], applied: AppliedMark
) -> None:
    """Raise StorageCorruptError unless what was read back fits together."""
    last_index = snapshot.index + len(entries)
    last_term = entries[-1].term if entries else snapshot.term
    if hard_state.commit > last_index:
        corrupt(f"the log ends at entry {last_index}, but entry {hard_state.commit} was committed")
    if hard_state.commit < snapshot.index:
        corrupt(
            f"only entry {hard_state.commit} is committed, but the snapshot stands at"
            f" {snapshot.index}"
        )
    if hard_state.term < last_term:
        corrupt(f"the log ends in term {last_term}, but the hard state knows {hard_state.term}")
    if applied.index > last_index:
        corrupt(f"the log ends at entry {last_index}, but entry {applied.index} was applied")
    if applied.index > snapshot.index:
        entry = entries[applied.index - snapshot.index - 1]
        if (entry.term, entry.chain) != (applied.term, applied.chain):
            corrupt(f"what was applied at {applied.index} is not the entry in the log")
