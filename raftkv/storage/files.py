"""Files and directories beside RocksDB, as a small port and its real implementation.

Everything the data directory needs from the operating system goes through :class:`Files`, so that a
simulated disk can stand in. Errors are OSError; :mod:`raftkv.storage.directory` gives them their
names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

from raftkv.storage.witness import SlotFile

_OWNER_ONLY: Final = 0o700
SMALL_BYTES: Final = 64 * 1024


class Lock(Protocol):
    """A held lock."""

    def release(self) -> None:
        """Let go. Idempotent."""
        ...


class Files(Protocol):
    """The few calls that a data directory needs."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything at ``path``."""
        ...

    def names(self, path: Path) -> list[str]:
        """What lies in the directory ``path``, sorted."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make ``path`` and what leads to it, for its owner only; durable in its parent."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in ``path`` durable."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename at once and durably; both lie in the same directory."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove ``path`` and all below it; no error if there is nothing."""
        ...

    def read(self, path: Path, start: int = 0, size_bytes: int = SMALL_BYTES) -> bytes | None:
        """So much of a file from ``start`` on, less at its end; None if there is none."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Put a small file in place, whole or not at all, durably."""
        ...

    def remove(self, path: Path) -> None:
        """Remove the file ``path`` durably; no error if there is none."""
        ...

    def allocate(self, path: Path, size_bytes: int) -> None:
        """Make a file of that size that has its room on the disk already; nothing if it fails."""
        ...

    def size(self, path: Path) -> int:
        """Bytes of the file at ``path``, or of all files below it; 0 if there is nothing."""
        ...

    def free_bytes(self, path: Path) -> int:
        """How much the disk of ``path`` can still take from us."""
        ...

    def place(self, path: Path) -> tuple[int, int]:
        """What tells this directory from every other, by whatever name: device and inode."""
        ...

    def lock(self, path: Path) -> Lock | None:
        """Take the lock file ``path``; None if somebody has it, in this process or another."""
        ...

    def open_slots(self, path: Path, *, create: bool) -> SlotFile:
        """Open a small file for reading and writing in place."""
        ...


class OsFiles(Files):
    """The operating system's."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything at ``path``."""
        return os.path.lexists(path)

    def names(self, path: Path) -> list[str]:
        """What lies in the directory ``path``, sorted."""
        return sorted(os.listdir(path))

    def make_directory(self, path: Path) -> None:
        """Make ``path`` and what leads to it, for its owner only; durable in its parent."""
        if os.path.isdir(path):
            return
        if not os.path.isdir(path.parent):
            self.make_directory(path.parent)
        os.mkdir(path, _OWNER_ONLY)
        self.sync_directory(path.parent)

    def sync_directory(self, path: Path) -> None:
        """Make the names in ``path`` durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename at once and durably; both lie in the same directory."""
        os.rename(old, new)
        self.sync_directory(new.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove ``path`` and all below it; no error if there is nothing."""
        if os.path.lexists(path):
            shutil.rmtree(path)

    def read(self, path: Path, start: int = 0, size_bytes: int = SMALL_BYTES) -> bytes | None:
        """So much of a file from ``start`` on, less at its end; None if there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            return os.pread(descriptor, size_bytes, start)
        finally:
            os.close(descriptor)

    def write(self, path: Path, data: bytes) -> None:
        """Put a small file in place, whole or not at all, durably."""
        beside = path.with_name(path.name + ".new")
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            _write_all(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.rename(beside, path)

    def remove(self, path: Path) -> None:
        """Remove the file ``path`` durably; no error if there is none."""
        if os.path.lexists(path):
            os.unlink(path)
            self.sync_directory(path.parent)

    def allocate(self, path: Path, size_bytes: int) -> None:
        """Make a file of that size that has its room on the disk already; nothing if it fails."""
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def size(self, path: Path) -> int:
        """Bytes of the file at ``path``, or of all files below it; 0 if there is nothing."""
        if not os.path.isdir(path):
            return os.lstat(path).st_size if os.path.lexists(path) else 0
        return sum(
            os.lstat(os.path.join(above, name)).st_size
            for above, _, names in os.walk(path)
            for name in names
        )

    def free_bytes(self, path: Path) -> int:
        """How much the disk of ``path`` can still take from us."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def place(self, path: Path) -> tuple[int, int]:
        """What tells this directory from every other, by whatever name: device and inode."""
        found = os.stat(path)
        return found.st_dev, found.st_ino

    def lock(self, path: Path) -> Lock | None:
        """Take the lock file ``path``; None if somebody has it, in this process or another."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return _FileLock(descriptor)

    def open_slots(self, path: Path, *, create: bool) -> SlotFile:
        """Open a small file for reading and writing in place."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        return _OsSlotFile(os.open(path, flags, 0o600))


class _FileLock(Lock):
    """flock on an open descriptor: kept from a second opener in this process too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let go. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """The kernel may take a part only, as where the disk is full: then the next call says so."""
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        if not written:
            raise OSError(f"{len(left)} bytes of {len(data)} could not be written")
        left, offset = left[written:], offset + written


class _OsSlotFile(SlotFile):
    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def _open(self) -> int:
        if self._descriptor is None:
            raise OSError("the file is closed")
        return self._descriptor

    def read(self, size: int) -> bytes:
        """The first ``size`` bytes, fewer if the file is shorter."""
        return os.pread(self._open(), size, 0)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``; it survives the end of the process."""
        _write_all(self._open(), data, offset)

    def datasync(self) -> None:
        """Wait until what was written survives the end of the machine."""
        os.fdatasync(self._open())

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_held: Final[WeakSet[_FileLock]] = WeakSet()


def _let_go_in_child() -> None:
    """A forked child must not keep the parent's lock alive after the parent has ended."""
    for lock in _held:
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)
