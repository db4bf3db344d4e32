"""The node's hand on its disk: one batch at a time, one sync at a time, and what waits for it.

A turn of the loop collects everything it wants stored in one open batch and writes it unsynced. A
sync in the ``wal`` worker then makes every batch written so far durable, while the loop goes on;
batches written meanwhile wait for the next sync. What a Ready promises to others is handed out only
when the sync that covers it has returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import frozen

from raftkv.core.messages import PeerMessage, StorageAppendResponse
from raftkv.core.ready import Ready
from raftkv.core.types import Snapshot
from raftkv.errors import InvariantError, StorageFailedError, StorageStallError
from raftkv.runtime.base import Clock, Waker, Worker
from raftkv.storage.base import Batch, Recovered, Storage, WitnessRecord

_RETRY_NS: Final = 5_000_000
_SYNCS_REMEMBERED: Final = 512


@frozen(slots=True)
class Promise:
    """A Ready that asked to be durable, and what may leave once it is."""

    number: int
    messages: tuple[PeerMessage, ...]
    is_urgent: bool
    """Whether this member goes on with it itself, as a leader that counts its own write."""


def _always() -> bool:
    return True


def _keep(_messages: list[PeerMessage]) -> None:
    raise InvariantError("nobody sends what the disk releases")


class Disk:
    """Writes in order, never twice, and stops for good at the first failure."""

    def __init__(
        self,
        storage: Storage,
        recovered: Recovered,
        worker: Worker,
        clock: Clock,
        waker: Waker,
        stall_ns: int,
    ) -> None:
        self._storage = storage
        self._store = storage.store
        self._log = storage.log
        self._worker = worker
        self._clock = clock
        self._waker = waker
        self._stall_ns = stall_ns
        self._batch: Batch | None = None
        self._unwritten: list[Promise] = []
        self._unsynced: list[Promise] = []
        self._syncing: list[Promise] | None = None
        self._sync_began_ns = 0
        self._durable: list[Promise] = []
        self._failure: BaseException | None = None
        # Whom to tell of a sync that no Ready asks for: of the open batch, of written ones, now.
        self._done_unwritten: list[Callable[[], None]] = []
        self._done_unsynced: list[Callable[[], None]] = []
        self._done_syncing: list[Callable[[], None]] = []
        self.on_durable: Callable[[list[PeerMessage]], None] = _keep
        """Sends what a sync releases, at once: who waits for it need not wait for our next turn."""
        self.is_awaited: Callable[[], bool] = _always
        """Whether something here goes on once what was stored is durable; else a turn can wait."""
        self.sync_ns: deque[int] = deque(maxlen=_SYNCS_REMEMBERED)
        self.syncs = 0
        # What is saved; ``_written`` is the part that the next sync lets the witness remember.
        self._term = recovered.hard_state.term
        self._vote = recovered.hard_state.vote
        last = recovered.entries[-1] if recovered.entries else recovered.snapshot
        self._last = (last.index, last.term, last.chain)
        self._written = (self._term, self._vote, self._last)

    @property
    def batch(self) -> Batch:
        """The open batch of this turn."""
        if self._batch is None:
            self._batch = self._store.batch()
        return self._batch

    @property
    def has_promises(self) -> bool:
        """Whether the open batch carries something that others wait for."""
        return bool(self._unwritten)

    @property
    def is_idle(self) -> bool:
        """Whether everything that has to be durable is."""
        return self._syncing is None and not self._unsynced and not self._unwritten

    def syncing_ns(self, now_ns: int) -> int:
        """For how long the sync that is under way has been; 0 if none is."""
        return 0 if self._syncing is None else now_ns - self._sync_began_ns

    @property
    def has_durable(self) -> bool:
        """Whether ``take_durable`` has something to give."""
        return bool(self._durable)

    def save(self, ready: Ready) -> None:
        """Put what a Ready wants stored into the open batch; its snapshot was put there before."""
        if ready.entries:
            self._log.append(self.batch, ready.entries)
            last = ready.entries[-1]
            self._last = (last.index, last.term, last.chain)
        elif ready.snapshot is not None:
            snapshot = ready.snapshot
            self._last = (snapshot.index, snapshot.term, snapshot.chain)
        hard_state = ready.hard_state
        if hard_state is not None:
            self._log.save_hard_state(self.batch, hard_state)
            self._term, self._vote = hard_state.term, hard_state.vote
        stores = ready.must_sync or ready.snapshot is not None
        if stores or ready.responses:
            urgent = ready.snapshot is not None or self._concerns_us(ready)
            promise = Promise(ready.number, ready.messages_after_persist, urgent)
            if stores:
                self._unwritten.append(promise)
            else:
                self._promise_behind(promise)

    def _concerns_us(self, ready: Ready) -> bool:
        """Whether it answers ourselves, beside the report that our log's end is durable."""
        own = self._storage.identity.member_id
        for message in ready.responses:
            if message.to == own and not isinstance(message, StorageAppendResponse):
                return True
        return False

    def _promise_behind(self, promise: Promise) -> None:
        """A Ready that stores nothing anybody counts on waits for the writes before it alone.

        It may have moved the commit index, which every member can learn again.
        """
        for waiting in (self._unwritten, self._unsynced, self._syncing):
            if waiting:
                waiting.append(promise)
                return
        self._durable.append(promise)

    def compact(self, point: Snapshot) -> None:
        """Forget entries up to and including the point, in the open batch."""
        self._log.compact(self.batch, point)

    def sync_soon(self, done: Callable[[], None]) -> None:
        """Have the open batch synced although no Ready waits for that, then call ``done``."""
        self._done_unwritten.append(done)

    async def write(self) -> None:
        """Write the open batch, if there is one, and have it synced if anything waits for that.

        A stall of the store is waited out, within bounds; any other failure is for good.
        """
        batch = self._batch
        if batch is not None:
            self._batch = None
            if batch.size_bytes:
                await self._write(batch)
                # Only now: a sync that ends while the store stalls must not vouch for this batch.
                self._written = (self._term, self._vote, self._last)
        if self._unwritten or self._done_unwritten:
            self._unsynced += self._unwritten
            self._unwritten.clear()
            self._done_unsynced += self._done_unwritten
            self._done_unwritten.clear()
            self._sync()

    def take_durable(self) -> list[Promise]:
        """What became durable since the last call. Raises what the disk answered instead."""
        if self._failure is not None:
            raise self._failure
        durable = self._durable
        if durable:
            self._durable = []
        return durable

    async def _write(self, batch: Batch) -> None:
        give_up_ns = 0
        while True:
            try:
                self._store.write(batch)
                return
            except StorageStallError as stall:
                now = self._clock.monotonic_ns()
                give_up_ns = give_up_ns or now + self._stall_ns
                if now >= give_up_ns:
                    raise StorageFailedError(
                        f"the store stalled for {self._stall_ns / 1e9:.0f} s: its disk is too slow"
                        " for what is written; the node stops rather than pile up work"
                    ) from stall
                await self._clock.sleep_until(now + _RETRY_NS)

    def _sync(self) -> None:
        if self._syncing is not None or not (self._unsynced or self._done_unsynced):
            return
        self._syncing, self._unsynced = self._unsynced, []
        self._done_syncing, self._done_unsynced = self._done_unsynced, []
        self._sync_began_ns = self._clock.monotonic_ns()
        term, vote, last = self._written
        promised = WitnessRecord(self._storage.identity, term, vote, *last)
        storage, now_ns = self._storage, self._clock.monotonic_ns

        def job() -> int:
            start = now_ns()
            storage.sync(promised)
            return now_ns() - start

        self._worker.submit(job, self._synced)

    def _synced(self, outcome: int | BaseException) -> None:
        covered = self._syncing or []
        self._syncing = None
        if isinstance(outcome, BaseException):
            # No second try: the kernel may have marked the pages clean. Nothing is promised any
            # more.
            self._failure = outcome
            self._waker.set()
            return
        self.syncs += 1
        self.sync_ns.append(outcome)
        messages = [message for promise in covered for message in promise.messages]
        if messages:
            self.on_durable(messages)
        if covered:
            self._durable.append(Promise(covered[-1].number, (), is_urgent=False))
        told, self._done_syncing = self._done_syncing, []
        for done in told:
            done()
        self._sync()
        # A follower has answered by now: that its log's end is durable can wait for the next turn,
        # whatever brings that, unless something committed waits to be applied.
        if not messages or self.is_awaited() or any(promise.is_urgent for promise in covered):
            self._waker.set()
