"""Whose a data directory is, before it is opened: its witness tells, without the store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from attrs import frozen

from raftkv.errors import StorageError
from raftkv.storage.base import Identity
from raftkv.storage.files import Files, OsFiles
from raftkv.storage.witness import FileWitness


@frozen(slots=True)
class Whose:
    """What can be said of a data directory from outside."""

    is_new: bool
    """Whether nothing was ever made there."""
    identity: Identity | None
    """Whose it is; None for a new one, and where the witness cannot tell."""


def whose(data_dir: Path | str, files: Files | None = None) -> Whose:
    """Look at a data directory without opening, locking or changing it. Raises nothing.

    What is damaged is for the opening to say.
    """
    files = OsFiles() if files is None else files
    member = Path(data_dir) / "member"
    path = member / "witness"
    if not files.exists(member):
        return Whose(True, None)
    try:
        with closing(FileWitness(files.open_slots(path, create=False), str(path))) as witness:
            mark = witness.recall()
    except (OSError, StorageError):
        return Whose(False, None)
    return Whose(False, None if mark is None else mark.record.identity)
