"""The stable storage of a traced node, as FORMAT describes it: what a disk would hold."""

from __future__ import annotations

from typing import Final

from raftkv.core.types import Entry, HardState, Snapshot
from tests.core.trace_file import CommandError

EMPTY_SNAPSHOT: Final = Snapshot(0, 0)


class StableStorage:
    """A hard state, a snapshot, and entries after an anchor (index, term)."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.snapshot = EMPTY_SNAPSHOT
        self.anchor = (0, 0)
        self.entries: list[Entry] = []

    @property
    def first_index(self) -> int:
        """Index of the first entry that is here or would be."""
        return self.anchor[0] + 1

    @property
    def last_index(self) -> int:
        """Index of the last entry, or the anchor's."""
        return self.anchor[0] + len(self.entries)

    def term_at(self, index: int) -> int:
        """The term of an entry or of the anchor."""
        if index < self.anchor[0]:
            raise CommandError("requested index is unavailable due to compaction")
        if index == self.anchor[0]:
            return self.anchor[1]
        if index > self.last_index:
            raise CommandError("requested entry at index is unavailable")
        return self.entries[index - self.first_index].term

    def store(
        self, hard_state: HardState | None, entries: tuple[Entry, ...], snapshot: Snapshot | None
    ) -> None:
        """One write: the hard state if there is one, then a snapshot or entries."""
        if hard_state and hard_state != HardState():
            self.hard_state = hard_state
        if snapshot and snapshot.index:
            if entries:
                raise CommandError("can't apply snapshot and entries at the same time")
            self.install(snapshot)
        else:
            self.append(entries)

    def install(self, snapshot: Snapshot) -> None:
        """Replace everything but the hard state by a snapshot."""
        if snapshot.index <= self.snapshot.index:
            raise CommandError("requested index is older than the existing snapshot")
        self.snapshot = snapshot
        self.anchor = (snapshot.index, snapshot.term)
        self.entries = []

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Overwrite from the first entry on; what lies at or below the anchor is skipped."""
        kept = [entry for entry in entries if entry.index >= self.first_index]
        if not kept:
            return
        place = kept[0].index - self.first_index
        assert place <= len(self.entries), f"a gap before entry {kept[0].index}"
        self.entries = self.entries[:place] + kept

    def compact(self, index: int) -> None:
        """Forget entries up to and including ``index``; the snapshot stays as it is."""
        if index <= self.anchor[0]:
            raise CommandError("requested index is unavailable due to compaction")
        assert index <= self.last_index, f"compaction at {index} lies beyond {self.last_index}"
        anchor = (index, self.term_at(index))
        self.entries = self.entries[index - self.anchor[0] :]
        self.anchor = anchor
