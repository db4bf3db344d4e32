"""A closed data directory with known content, and what may be read from it after damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from attrs import frozen

from raftkv.core.types import Entry
from raftkv.errors import StorageError
from raftkv.storage.base import Loss, Recovered, Space
from raftkv.storage.directory import open_rocks
from raftkv.storage.member import MemberStorage
from raftkv.testing.campaigns.frame import Case, FindingError
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, FixedRng, Writer, everything

Rows = Mapping[Space, list[tuple[bytes, bytes]]]


def opened(root: Path, *, can_recover: bool = False) -> MemberStorage:
    """Open a member's directory; ``can_recover`` as one who has peers does."""
    return open_rocks(
        root,
        cluster_id=CLUSTER,
        member_id=MEMBER,
        rng=FixedRng(),
        can_recover=can_recover,
        ballast_bytes=0,  # nobody fills a disk here, and copies would be large
    )


@frozen
class Known:
    """What was acknowledged in a directory: nothing less and nothing else may be read from it."""

    state: Recovered
    rows: Rows
    entries: Mapping[int, Entry]
    """Every entry that ever was, also those compacted since; none was ever replaced."""
    images: frozenset[tuple[bytes, bytes]]
    """Every chunk of an image that ever was, also those overwritten since."""


class Author:
    """Fills a directory by chance, keeping what is known of it. Only for a process of its own."""

    def __init__(self, root: Path, random: Random) -> None:
        self._root = root
        self._random = random
        self._entries: dict[int, Entry] = {}
        self._images: set[tuple[bytes, bytes]] = set()

    def write(self, boots: int, turns: int, size_bytes_max: int) -> Known:
        """So many openings, each with so many acknowledged turns and an orderly close."""
        known: Known | None = None
        for _ in range(boots):
            storage = opened(self._root)
            writer = Writer(storage)
            self.turns(writer, turns, size_bytes_max)
            known = self.known(writer)
            storage.close()
        if known is None:
            raise ValueError("at least one boot is needed")
        return known

    def crash(self, turns: int, size_bytes_max: int, whole: Path) -> Known:
        """One opening more, left in ``whole`` as a killed process leaves it: a log to replay."""
        storage = opened(self._root)
        writer = Writer(storage)
        self.turns(writer, turns, size_bytes_max)
        known = self.known(writer)
        copied(self._root, whole)
        storage.close()
        return known

    def turns(self, writer: Writer, turns: int, size_bytes_max: int) -> None:
        """So many acknowledged turns on an open storage."""
        for _ in range(turns):
            self._turn(writer, size_bytes_max)

    def known(self, writer: Writer) -> Known:
        """What is known now."""
        self._entries.update({entry.index: entry for entry in writer.entries})
        rows = everything(writer.storage.store)
        return Known(writer.state(), rows, self._entries, frozenset(self._images))

    def _turn(self, writer: Writer, size_bytes_max: int) -> None:
        random, batch = self._random, writer.storage.store.batch()
        if writer.hard_state.term == 0 or random.random() < 0.1:
            writer.vote(batch, writer.hard_state.term + 1, random.choice((0, MEMBER, 8)))
        payloads = [
            random.randbytes(random.randint(1, size_bytes_max))
            for _ in range(random.choice((1, 1, 2)))
        ]
        writer.append(batch, payloads)
        self._entries.update({entry.index: entry for entry in writer.entries})
        if random.random() < 0.7:
            writer.commit(batch, writer.last.index - random.randint(0, min(2, writer.uncommitted)))
        if random.random() < 0.2:
            key = b"c" + bytes(8) + random.randrange(8).to_bytes(4, "big")
            chunk = random.randbytes(size_bytes_max)
            batch.put(Space.IMAGE, key, chunk)
            self._images.add((key, chunk))
        if writer.applied.index - writer.snapshot.index > 12:
            writer.compact(batch, writer.applied.index - random.randint(2, 8))
        writer.write(batch)
        writer.sync()


def look(root: Path, known: Known, *, can_recover: bool) -> str:
    """Open a damaged copy and read everything; what came of it, in a word.

    ``identical``, ``refused`` (a typed error, at the opening, a read or the close, where RocksDB
    may meet the damage, too) or ``quarantined`` (open, and marked as damaged). Raises FindingError
    for wrong data, for less of it without saying so, and lets every foreign exception through.
    """
    try:
        outcome = _looked(root, known, can_recover)
        if outcome == "quarantined":
            _check_still_damaged(root)
    except StorageError:
        return "refused"
    return outcome


def _looked(root: Path, known: Known, can_recover: bool) -> str:
    storage = opened(root, can_recover=can_recover)
    try:
        recovered = storage.log.recover()
        if recovered.damage is None:
            _check_whole(storage, recovered, known)
            return "identical"
        if not can_recover:
            raise FindingError("a member without peers was opened although it is damaged")
        _check_damaged(storage, recovered, known)
        return "quarantined"
    finally:
        storage.close()


def _check_whole(storage: MemberStorage, recovered: Recovered, known: Known) -> None:
    if recovered != known.state:
        raise FindingError(f"other state than was acknowledged: {_brief(recovered)}")
    rows = everything(storage.store)
    for space in Space:
        if rows[space] != known.rows[space]:
            raise FindingError(
                f"space {space.value} has {len(rows[space])} rows, and they are not the"
                f" {len(known.rows[space])} that were acknowledged"
            )


def _check_damaged(storage: MemberStorage, recovered: Recovered, known: Known) -> None:
    """What a quarantined member shows must be true, if not all."""
    hard, whole = recovered.hard_state, known.state.hard_state
    for entry in recovered.entries:
        if known.entries.get(entry.index) != entry:
            raise FindingError(f"quarantined, but entry {entry.index} is none that ever was")
    if hard.term > whole.term or (hard.term == whole.term and hard.vote not in (0, whole.vote)):
        raise FindingError(f"quarantined, but with a vote that never was: {hard}")
    if recovered.damage is not None and recovered.damage.loss is Loss.LOG:
        last = known.state.entries[-1] if known.state.entries else known.state.snapshot
        if (hard.term, hard.vote) != (whole.term, whole.vote):
            raise FindingError(f"term and vote are said to be known, but are {hard}, not {whole}")
        promised = recovered.promised
        if promised is None or (promised.last_index, promised.last_chain) != (
            last.index,
            last.chain,
        ):
            raise FindingError(f"what was promised is another than {last.index}: {promised}")
    applied = recovered.applied.index
    wanted = [row for row in known.rows[Space.MACHINE] if int.from_bytes(row[0], "big") <= applied]
    if list(storage.store.scan(Space.MACHINE)) != wanted:
        raise FindingError(f"quarantined, but the rows are not those of entry {applied}")
    if not set(storage.store.scan(Space.IMAGE)) <= known.images:
        raise FindingError("quarantined, but with a piece of an image that never was")


def _check_still_damaged(root: Path) -> None:
    storage = opened(root, can_recover=True)
    try:
        if storage.log.recover().damage is None:
            raise FindingError("the second opening after the damage does not know of it")
    finally:
        storage.close()


def _brief(state: Recovered) -> str:
    return (
        f"{state.hard_state}, log {state.snapshot.index + 1}.."
        f"{state.snapshot.index + len(state.entries)}, applied {state.applied.index}"
    )


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a directory, without ballast, which is room and not data."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("ballast"))
    return target


@contextmanager
def scratch(case: Case) -> Generator[Path]:
    """A directory in memory, if there is such, for many copies; after a finding it is kept.

    Nobody's power is cut here, so nothing needs a disk, whose syncs would be most of the work.
    """
    memory = Path("/dev/shm")
    is_usable = memory.is_dir() and os.access(memory, os.W_OK)
    base = Path(mkdtemp(prefix="raftkv-", dir=memory if is_usable else case.directory))
    try:
        yield base
    except BaseException:
        shutil.copytree(base, case.directory / "kept")
        raise
    finally:
        shutil.rmtree(base)
