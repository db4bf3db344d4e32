"""The scrubber: everything that is stored is read again, slowly, so that damage is found in time.

Damage that nobody reads is damage that waits for the day when another member is lost, too. So all
rows of all spaces are read over and over from frozen views, checksums verified, the log's records
held against its chain. Nothing of it may be noticed by who uses the node: a worker reads, in pieces
of 64 KiB, at the pace of ``Settings.scrub_bytes_per_second``. Where damage is found the store is
condemned and the node stops; opened again it recovers from the others. A member that is alone in
its cluster stops, too, and opened again has what it had: nobody could give back more.

The view keeps on the disk what is deleted during a pass. Not found is damage in the write-ahead
log, whose rows are in memory as well until they are written elsewhere: the next opening sees it.
Rows that are whole but wrong are for :mod:`raftkv.node.hashes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from raftkv.errors import InvariantError
from raftkv.runtime.base import Clock, Worker
from raftkv.storage.base import Piece, Pieces, Storage

PIECE_BYTES_MAX: Final = 64 * 1024
# Many short rows cost the processor more than their bytes cost the disk.
_ROW_BYTES_MIN: Final = 256


class Reading:
    """Reads views in a worker, at no more than so many bytes a second for all its readers."""

    def __init__(self, worker: Worker, clock: Clock, bytes_per_second: float) -> None:
        self._worker = worker
        self._clock = clock
        self._ns_per_byte = 1e9 / bytes_per_second
        self._free_ns = 0

    async def all_of(self, pieces: Pieces) -> int:
        """Read to the end; how many rows there were. Raises StorageCorruptError."""
        rows = 0
        while True:
            piece = await self._next(pieces)
            rows += piece.rows
            if piece.done:
                return rows
            await self._pause(piece)

    async def _next(self, pieces: Pieces) -> Piece:
        # Shielded: the view must not be closed under a thread that reads it.
        with anyio.CancelScope(shield=True):
            return await self._worker.run(lambda: pieces.step(PIECE_BYTES_MAX))
        raise InvariantError("a shield swallows nothing")

    async def _pause(self, piece: Piece) -> None:
        now = self._clock.monotonic_ns()
        size = max(piece.bytes, piece.rows * _ROW_BYTES_MIN)
        self._free_ns = max(self._free_ns, now) + round(size * self._ns_per_byte)
        await self._clock.sleep_until(self._free_ns)


class Scrubber:
    """Reads one member's store over and over."""

    def __init__(
        self, storage: Storage, reading: Reading, wal: Worker, clock: Clock, pause_seconds: float
    ) -> None:
        self._storage = storage
        self._reading = reading
        self._wal = wal
        self._clock = clock
        self.on_alarm: Callable[[str], None] = _nobody
        """Told of damage that was mended at once."""
        self._pause_ns = round(pause_seconds * 1e9)
        self.passes = 0
        """How often everything was read since the node started."""
        self.rows = 0
        """How many rows the last pass read."""

    async def run(self) -> None:
        """Pass after pass, with a pause before each. Raises StorageCorruptError where it ends."""
        while True:
            await self._clock.sleep_until(self._clock.monotonic_ns() + self._pause_ns)
            view = self._storage.store.view(cached=False)
            try:
                self.rows = await self._reading.all_of(self._storage.scrub(view))
            finally:
                view.close()
            complaint = await self._wal.run(self._storage.check_witness)
            if complaint is not None:
                self.on_alarm(f"{complaint}: it was written anew; look after the disk")
            self.passes += 1


def _nobody(_what: str) -> None:
    pass
