"""Opening a member's directory in tests, with failures made to order."""

from __future__ import annotations

import os
from errno import EIO, ENOSPC
from pathlib import Path

from raftkv.storage import directory
from raftkv.storage.directory import open_rocks
from raftkv.storage.files import OsFiles
from raftkv.storage.member import MemberStorage
from raftkv.storage.witness import SlotFile
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer


def as_a_new_process() -> None:
    """Forget which directories failed here, as only another process may."""
    directory._failed_here.clear()  # pyright: ignore[reportPrivateUsage] - nobody else may


class Scripted:
    """A failpoint that does what is asked at a name, once it was reached often enough."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.raising: dict[str, Exception] = {}

    def __call__(self, name: str) -> None:
        self.seen.append(name)
        if name in self.raising:
            raise self.raising[name]


def opened(
    root: Path,
    *,
    cluster: int = CLUSTER,
    member: int = MEMBER,
    failpoint: Scripted | None = None,
    files: OsFiles | None = None,
    can_recover: bool = False,
    ballast_bytes: int = 0,
) -> MemberStorage:
    return open_rocks(
        root,
        cluster_id=cluster,
        member_id=member,
        rng=FixedRng(),
        failpoint=failpoint or Scripted(),
        files=files,
        can_recover=can_recover,
        ballast_bytes=ballast_bytes,
    )


def one_turn(writer: Writer, data: bytes = b"data") -> None:
    batch = writer.storage.store.batch()
    if writer.hard_state.term == 0:
        writer.vote(batch, 1, MEMBER)
    writer.append(batch, [data])
    writer.write(batch)
    writer.sync()


class FailingSlots(SlotFile):
    """A witness file whose writes or syncs fail once asked to."""

    def __init__(self, inner: SlotFile, files: WatchedFiles) -> None:
        self._inner = inner
        self._files = files

    def read(self, size: int) -> bytes:
        if self._files.failing == "read":
            raise OSError(EIO, "Input/output error")
        return self._inner.read(size)

    def write(self, offset: int, data: bytes) -> None:
        if self._files.failing == "write":
            raise OSError(EIO, "Input/output error")
        self._files.calls.append("write")
        self._inner.write(offset, data)

    def datasync(self) -> None:
        if self._files.failing == "datasync":
            raise OSError(EIO, "Input/output error")
        self._files.calls.append("datasync")
        self._inner.datasync()

    def close(self) -> None:
        self._inner.close()


class WatchedFiles(OsFiles):
    """Files that tell what was done to the witness, and fail when asked to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing = ""

    def open_slots(self, path: Path, *, create: bool) -> SlotFile:
        return FailingSlots(super().open_slots(path, create=create), self)

    def make_directory(self, path: Path) -> None:
        if self.failing == "full":
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        super().make_directory(path)
