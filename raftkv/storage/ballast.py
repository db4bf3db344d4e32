"""A file that holds nothing but room, so that a full disk can be opened again.

RocksDB refuses to open on a disk that is full, so a member that filled it could not even be asked
to delete something. The ballast is allocated while there is plenty of room and removed when the
disk is full, at the end of the node or at its next opening; the next opening that finds three times
its size free makes it again. An opening writes what the last process left in memtables, which is at
most 64 MiB: hence the size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from raftkv.storage.files import Files

BALLAST_BYTES: Final = 64 * 1024 * 1024
_ROOM: Final = 3  # times its size: for itself, and twice as much for work to go on


class Ballast:
    """One member's ballast; ``size_bytes`` 0 switches it off."""

    def __init__(self, path: Path, size_bytes: int, files: Files) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._files = files

    def drop(self) -> bool:
        """Give its room back, at once and whatever else fails; whether there was any."""
        try:
            if not self._files.exists(self._path):
                return False
            self._files.remove(self._path)
        except OSError:
            return False
        return True

    def restore(self) -> None:
        """Make it if it is missing and there is room, or as large as it should be.

        A disk that refuses is no error: the node runs as well without.
        """
        try:
            if self._files.size(self._path) == self._size_bytes:
                return
            self._files.remove(self._path)
            if self._files.free_bytes(self._path.parent) >= _ROOM * self._size_bytes > 0:
                self._files.allocate(self._path, self._size_bytes)
        except OSError:
            return
