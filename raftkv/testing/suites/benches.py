"""What a store is tested on: something that outlives its openings, and can crash.

:class:`Bench` is what :class:`~raftkv.testing.suites.storage.StorageSuite` asks for. A store whose
data lie in a directory has most of one in :class:`DirectoryBench`.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from raftkv.errors import Error
from raftkv.storage.base import Store
from raftkv.testing.copies import copy_of_a_moment

Choose = Callable[[int], int]
"""A number from 0 up to and excluding the one given; 0: nothing bad happens."""


class Bench(ABC):
    """The place of one store, over any number of openings."""

    @abstractmethod
    def open(self) -> Store:
        """Open what is there; a new bench is empty. One opening at a time."""

    @abstractmethod
    def crash(self, choose: Choose) -> None:
        """End the open store without closing it, and lose of what it did not sync what is chosen.

        0 is the end of the process alone, which loses nothing. Everything else is a power cut: the
        newest batches that are not synced may be gone, and the first of them half written.
        """

    def synced(self) -> None:  # noqa: B027 (most need not know)
        """A sync of the open store has returned."""

    def close(self) -> None:  # noqa: B027 (not everybody has something to remove)
        """The bench is not needed any more; its store is closed or has crashed."""


class FaultyBench(Bench):
    """A bench whose disk can fail and rot."""

    @abstractmethod
    def fail(self, *, writing: bool) -> None:
        """Have the next write, or the next sync, of the open store fail."""

    @abstractmethod
    def damage(self, choose: Choose) -> bool:
        """Change something of what the closed store has on its disk; False if there is nothing."""


class DirectoryBench(Bench):
    """For a store in a directory.

    A crash is a copy of the directory as it is, from which the store goes on; in a power cut the
    files that match ``log_files`` lose the end that was not synced, or a part of it, at any byte.
    """

    log_files: str = "*.log"
    """Those that a batch is appended to, and that ``sync`` makes durable; the newest counts."""

    def __init__(self) -> None:
        self._base = Path(mkdtemp(prefix="raftkv-bench-"))
        self._copies = 0
        self._store: Store | None = None
        self._synced: dict[str, int] = {}

    @property
    def path(self) -> Path:
        """Where the store lies at the moment."""
        return self._base / f"store-{self._copies}"

    @abstractmethod
    def open_in(self, path: Path) -> Store:
        """Open the store in ``path``, which is a missing directory the first time.

        After a crash its log may end in the middle of a batch, which the store has to mend.
        """

    def open(self) -> Store:
        """Open what is there."""
        self._store = self.open_in(self.path)
        self._synced = self._sizes()
        return self._store

    def synced(self) -> None:
        """Note how long the logs are: so much of them survives."""
        self._synced = self._sizes()

    def _sizes(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self.path.glob(self.log_files)}

    def crash(self, choose: Choose) -> None:
        """Go on with a copy of the directory."""
        old, store = self.path, self._store
        self._copies += 1
        copy_of_a_moment(old, self.path)
        for name, size in self._sizes().items():
            kept = size - choose(size - min(size, self._synced.get(name, 0)) + 1)
            with (self.path / name).open("r+b") as file:
                file.truncate(kept)
        if store is not None:
            self._store = None
            with suppress(Error):  # it may have failed, and nobody will miss it
                store.close()
        shutil.rmtree(old)

    def flip_bit(self, choose: Choose) -> bool:
        """Change a bit in one of the files of the closed store, in a file that is not empty."""
        files = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        files = [file for file in files if file.stat().st_size]
        if not files:
            return False
        file = files[choose(len(files))]
        content = bytearray(file.read_bytes())
        content[choose(len(content))] ^= 1 << choose(8)
        file.write_bytes(content)
        return True

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self._base)
