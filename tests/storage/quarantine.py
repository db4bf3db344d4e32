"""A member that was killed amid its work, and what its damaged directory may still say.

The oracle is a list of entries. Whatever was done to the files, an opening may find the very same
data; or it is marked as damaged, and then what it has is a part of the truth: each entry the one
that was written, each row that of an applied entry, and term and vote as promised if it says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from attrs import evolve, frozen

from raftkv.core.types import Entry
from raftkv.storage.base import Loss, Recovered, Space, Store, WitnessRecord
from raftkv.storage.member import MemberStorage
from raftkv.storage.rocks import RocksStore
from tests.storage.member_model import VOTERS, Writer, everything, row_of
from tests.storage.opening import Scripted, opened

FLIPS = int(os.environ.get("RAFTKV_FLIPS", "40"))
TERM, VOTE = 3, 8
Edit = Callable[[Store], None]


def quarantined(root: Path, failpoint: Scripted | None = None) -> MemberStorage:
    return opened(root, can_recover=True, failpoint=failpoint)


@frozen
class Truth:
    """All that a member ever wrote, and what it had promised when it was killed."""

    state: Recovered
    rows: dict[Space, list[tuple[bytes, bytes]]]
    entries: tuple[Entry, ...]
    promised: WitnessRecord

    def verdict(self, storage: MemberStorage) -> str:
        """``whole``, or how much is missing; fails if what there is was never written."""
        found = storage.log.recover()
        rows = everything(storage.store)
        if found.damage is None:
            assert found == evolve(self.state, damage=None, promised=None)
            assert rows == self.rows
            return "whole"
        ends = {entry.index: entry for entry in self.entries}
        for entry in found.entries:
            assert entry == ends[entry.index]
        for point in (found.snapshot, found.applied):
            if point.index:
                at = ends[point.index]
                assert (point.term, point.chain) == (at.term, at.chain)
                assert point.membership == VOTERS
        wanted = [row_of(ends[index]) for index in range(1, found.applied.index + 1)]
        assert rows[Space.MACHINE] == wanted
        hard = found.hard_state
        last = found.snapshot.index + len(found.entries)
        assert found.applied.index <= max(hard.commit, found.snapshot.index) <= last
        if found.damage.loss is Loss.LOG:
            known = self.state.hard_state
            assert (hard.term, hard.vote) == (known.term, known.vote)
            assert found.promised == self.promised
            assert "needs nothing from you" in found.damage.what
        else:
            assert found.promised is None
            assert "nothing proves how this member voted" in found.damage.what
        assert "; remove this member" not in found.damage.what
        return found.damage.loss.value


@frozen
class Crashed:
    """A directory as a killed process left it."""

    root: Path
    truth: Truth

    @property
    def member(self) -> Path:
        return self.root / "member"

    @property
    def store(self) -> Path:
        return self.member / "store"

    @property
    def witness(self) -> Path:
        return self.member / "witness"

    def wals(self) -> list[Path]:
        return sorted(self.store.glob("*.log"))

    def copy(self, to: Path) -> Crashed:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.root, to)
        return Crashed(to, self.truth)

    def opens(self) -> tuple[str, Recovered]:
        """The verdict of an opening, which the next one must repeat, and what was recovered."""
        storage = quarantined(self.root)
        try:
            verdict, found = self.truth.verdict(storage), storage.log.recover()
        finally:
            storage.close()
        storage = quarantined(self.root)
        try:
            assert storage.log.recover() == found
            assert self.truth.verdict(storage) == verdict
        finally:
            storage.close()
        return verdict, found

    def damaged(self) -> tuple[Loss, str, Recovered]:
        """What an opening says is damaged."""
        _, found = self.opens()
        assert found.damage is not None
        return found.damage.loss, found.damage.what, found


def turns(writer: Writer, number: int, size: int = 40) -> list[Entry]:
    """Turns as a node makes them, each synced and so acknowledged."""
    made: list[Entry] = []
    for turn in range(number):
        batch = writer.storage.store.batch()
        if writer.hard_state.term == 0:
            writer.vote(batch, TERM, VOTE)
        writer.append(batch, [b"%d" % turn * size])
        writer.commit(batch, writer.last.index - 1)
        writer.write(batch)
        writer.sync()
        made.append(writer.entries[-1])
    return made


def edited(crashed: Crashed, edit: Edit) -> tuple[Loss, str, Recovered]:
    """What an opening makes of a store whose records were edited behind its back."""
    store = RocksStore(crashed.store)
    edit(store)
    store.close()
    return crashed.damaged()


def spoil(space: Space, number: int) -> Edit:
    def edit(store: Store) -> None:
        key, value = list(store.scan(space))[number]
        batch = store.batch()
        batch.put(space, key, value[:-1] + bytes([value[-1] ^ 1]))
        store.write(batch)

    return edit
