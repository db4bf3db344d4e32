"""The machine's image: kept for restart, given to members that need it, taken from others.

An on-disk machine *is* its image: its rows and the applied mark are in the store, and a frozen view
of the store at any moment is a snapshot to send. An in-memory machine is asked for its state when
the log grows too long; the chunks are kept in the space ``image``, and after a restart the machine
is restored from them and the log after them is applied again. Taking an image goes on in pieces
between turns of the loop; the machine applies nothing meanwhile.

An image that arrives is *staged*: an on-disk machine's rows in the space ``staged``, an in-memory
one's chunks beside its own, and with each chunk, in the same batch, a record of how far it is. The
machine goes on from what it has. Once the image is complete and the core takes the snapshot, one
small batch puts it in the place of log and machine, so that a crash at any point leaves the old
state or the new. What is staged survives a restart and can be gone on with.

Rows of the space ``image``: ``c`` + slot (1 byte) + index (8 bytes) + number (4 bytes): one chunk
(slot 0: taken here, 1: received); ``m``: slot, index, count of chunks, and a checksum over all of
them, of the newest whole image; ``r``: the record of what is staged. Chunks that belong to neither
record are left-overs, and are removed at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, TypeVar
from zlib import crc32

from attrs import evolve, frozen

from raftkv.core.types import Snapshot
from raftkv.errors import (
    ConfigError,
    InvariantError,
    MachineError,
    StorageCorruptError,
    StorageError,
)
from raftkv.machine import DurableStateMachine, StateMachine
from raftkv.node.applier import AnyMachine
from raftkv.node.roster import FIRST_INDEX
from raftkv.runtime.base import Worker
from raftkv.storage.base import AppliedMark, Batch, Reader, Space, Storage, View

_log = logging.getLogger("raftkv.node")

T = TypeVar("T")

CHUNK_BYTES_MAX: Final = 1024 * 1024  # the port's promise for one chunk of a machine

_KEY: Final = Struct(">cBQI")
_PREFIX: Final = Struct(">cBQ")
_MANIFEST_KEY: Final = b"m"
_MANIFEST: Final = Struct("<BBQII")  # format, slot, index, chunks, checksum
_STAGED_KEY: Final = b"r"
_STAGED: Final = Struct("<BQQQIII")  # format, ids, index, chunks, checksum, length
_FORMAT: Final = 1
_TAKEN: Final = 0
_RECEIVED: Final = 1


@frozen(slots=True)
class Manifest:
    """A whole image in the space: the log position it is of, and what it consists of."""

    index: int
    chunks: int
    crc: int
    slot: int = _TAKEN


@frozen(slots=True)
class Staged:
    """An image that arrives, as far as it has: who sends it, and what came so far.

    ``message`` is the InstallSnapshot it belongs to, as bytes; ``carry`` the machine's.
    """

    peer: int
    transfer: int
    index: int
    message: bytes
    chunks: int = 0
    crc: int = 0
    carry: bytes = b""


@frozen(slots=True)
class Source:
    """An image to send. Its chunks are read from the view in one thread; then that is closed."""

    snapshot: Snapshot
    chunks: Iterator[bytes]
    view: View


class _Taking:
    """An in-memory machine's image while it is taken."""

    def __init__(self, mark: AppliedMark, chunks: Iterator[bytes]) -> None:
        self.mark = mark
        self.chunks = chunks
        self.count = 0
        self.crc = 0


class Images:
    """One machine's images. Loop thread only, but for the chunks of a Source."""

    def __init__(self, machine: AnyMachine, storage: Storage, worker: Worker) -> None:
        self._durable = machine if isinstance(machine, DurableStateMachine) else None
        self._in_memory = machine if isinstance(machine, StateMachine) else None
        self._store = storage.store
        self._worker = worker
        self._log = storage.log
        self._manifest: Manifest | None = None
        self._mark = AppliedMark()
        self._taking: _Taking | None = None
        self._staged: Staged | None = None
        self._last_staged: bytes | None = None  # the greatest key among the staged rows
        self.on_installed: Callable[[], None] | None = None
        """Called when an on-disk machine has taken up an image."""

    @property
    def must_take(self) -> bool:
        """Whether an image has to be taken before the log can be compacted."""
        return self._durable is None

    @property
    def is_taking(self) -> bool:
        """Whether an image is being taken: nothing may be applied until it is done."""
        return self._taking is not None

    @property
    def taken(self) -> AppliedMark:
        """What the newest image of an in-memory machine contains."""
        return self._mark

    def start(self, mark: AppliedMark) -> None:
        """Open the machine, or restore it from its newest image, which is of ``mark``.

        Raises StorageCorruptError if the image is damaged, MachineError if the machine raises,
        ConfigError if the directory was made with the other kind of machine.
        """
        staged = self._store.get(Space.IMAGE, _STAGED_KEY)
        self._staged = None if staged is None else _decode_staged(staged)
        last = next(self._store.scan(Space.STAGED, reverse=True), None)
        self._last_staged = None if last is None else last[0]
        record = self._store.get(Space.IMAGE, _MANIFEST_KEY)
        if self._durable is not None:
            if record is not None:
                raise ConfigError(
                    "the directory holds the image of an in-memory state machine, and machine= is"
                    " an on-disk one: open it with the kind of machine it was made with"
                )
            durable = self._durable
            _guard("open", lambda: durable.open(self._store))
            return
        self._manifest = None if record is None else _decode_manifest(record)
        kept = self._manifest.index if self._manifest is not None else 0
        if not kept and mark.index <= FIRST_INDEX:
            return  # nothing was ever applied but the cluster's beginning
        if kept != mark.index:
            raise ConfigError(
                f"the directory's state machine has applied up to entry {mark.index}, and its image"
                f" is of entry {kept}: it was an on-disk machine, and machine= is an in-memory one;"
                " open it with the kind of machine it was made with"
            )
        self._mark = mark
        self._restore()

    def sweep(self, batch: Batch) -> None:
        """Remove what belongs to no image: neither the newest, nor the one that arrives."""
        manifest, staged = self._manifest, self._staged
        kept: set[tuple[int, int]] = set()
        if manifest is not None:
            kept.add((manifest.slot, manifest.index))
        if staged is not None:
            kept.add((_RECEIVED, staged.index))
        for key, _ in self._store.scan(Space.IMAGE, b"c", b"d"):
            _, slot, index, _ = _KEY.unpack(key)
            if (slot, index) not in kept:
                batch.delete(Space.IMAGE, key)
        if staged is None:
            self._clear_staged_rows(batch)
            if self._durable is not None:
                self._reclaim()  # a crash may have come before it, the last time

    # --- taking ---------------------------------------------------------------------------------

    def begin(self, mark: AppliedMark) -> None:
        """Start to take the image of an in-memory machine that has applied up to ``mark``."""
        machine = self._in_memory
        if machine is not None and self._taking is None:
            self._taking = _Taking(mark, _guard("snapshot", machine.snapshot))

    def advance(self, batch: Batch) -> bool:
        """Take the next chunk into ``batch``; True if that was all and the image is whole."""
        taking = self._taking
        if taking is None:
            return True
        chunk = _guard("snapshot", lambda: next(taking.chunks, None))
        index = taking.mark.index
        if chunk is not None:
            _check_chunk("snapshot", chunk)
            taking.crc = crc32(chunk, taking.crc)
            batch.put(Space.IMAGE, _KEY.pack(b"c", _TAKEN, index, taking.count), chunk)
            taking.count += 1
            return False
        self._adopt(batch, Manifest(index, taking.count, taking.crc), taking.mark)
        self._log.mark_applied(batch, taking.mark)
        self._taking = None
        return True

    # --- giving and receiving -------------------------------------------------------------------

    def source(self, applied: AppliedMark) -> Source | None:
        """The newest image there is, to send; None if there is none yet."""
        durable, manifest = self._durable, self._manifest
        if durable is not None:
            view = self._store.view()
            return Source(snapshot_of(applied), _given(durable, view), view)
        if manifest is None:
            return None
        view = self._store.view()
        return Source(snapshot_of(self._mark), _chunks(view, manifest), view)

    # --- receiving ------------------------------------------------------------------------------

    @property
    def staged(self) -> Staged | None:
        """The image that arrives, as far as it has; also what an earlier boot received of one."""
        return self._staged

    def stage(self, batch: Batch, staged: Staged) -> None:
        """Begin to receive an image, in place of any other; or give one its newest message."""
        now = self._staged
        if now is None or (now.peer, now.transfer) != (staged.peer, staged.transfer):
            self.unstage(batch)
        self._put_staged(batch, staged)

    def stage_chunk(self, batch: Batch, chunk: bytes, crc: int) -> None:
        """Keep the next chunk; ``crc`` is the checksum of all of them up to its end.

        Raises what the machine does if it has no use for it; :meth:`unstage` then.
        """
        now = self._staged
        if now is None:
            raise InvariantError("a chunk arrived of an image that never began")
        carry = now.carry
        durable = self._durable
        if durable is None:
            batch.put(Space.IMAGE, _KEY.pack(b"c", _RECEIVED, now.index, now.chunks), chunk)
        else:
            rows, carry = _guard("restore_durable", lambda: durable.restore_durable(chunk, carry))
            batch.put_rows(Space.STAGED, rows)
            if rows:
                last = max(rows)[0]
                self._last_staged = max(self._last_staged or last, last)
        self._put_staged(batch, evolve(now, chunks=now.chunks + 1, crc=crc, carry=carry))

    def check_staged(self) -> Manifest:
        """The image is complete, says who sent it. Raises what the machine does if it is not."""
        now = self._staged
        if now is None:
            raise InvariantError("an image that never began is complete")
        durable = self._durable
        if durable is not None:
            _guard("check_restored", lambda: durable.check_restored(now.carry))
        return Manifest(now.index, now.chunks, now.crc, _RECEIVED)

    def unstage(self, batch: Batch) -> None:
        """Remove what was received of an image: it will not become whole, or nobody needs it."""
        now = self._staged
        if now is None:
            return
        self._staged = None
        batch.delete(Space.IMAGE, _STAGED_KEY)
        kept = self._manifest
        if kept is None or (kept.slot, kept.index) != (_RECEIVED, now.index):
            _forget(batch, _RECEIVED, now.index)
        self._clear_staged_rows(batch)

    def install(self, batch: Batch, snapshot: Snapshot, manifest: Manifest) -> None:
        """Put the staged image, which is whole, in place of machine and log.

        Everything goes into ``batch``, which is small. Write it, then call :meth:`installed`.
        """
        if self._taking is not None:
            _forget(batch, _TAKEN, self._taking.mark.index)
            self._taking = None
        self._log.install_snapshot(batch, snapshot)
        batch.delete(Space.IMAGE, _STAGED_KEY)
        self._staged = None
        machine = self._in_memory
        if machine is None:
            batch.adopt_staged()
            self._last_staged = None
            return
        # Before anything is written: an image that it cannot read leaves the directory as it was.
        _guard("restore", lambda: machine.restore(_chunks(self._store, manifest)))
        mark = AppliedMark(snapshot.index, snapshot.term, snapshot.chain, snapshot.membership)
        self._adopt(batch, manifest, mark)

    def installed(self) -> None:
        """The batch with the image is written: an on-disk machine takes it up."""
        durable = self._durable
        if durable is not None:
            _guard("open", lambda: durable.open(self._store))
            self._reclaim()
            if self.on_installed is not None:
                self.on_installed()

    def _reclaim(self) -> None:
        """Have the rows that an image replaced really removed, beside everything else."""
        self._worker.submit(lambda: self._store.reclaim(Space.STAGED), _tell_failure)

    def _put_staged(self, batch: Batch, staged: Staged) -> None:
        self._staged = staged
        batch.put(Space.IMAGE, _STAGED_KEY, _encode_staged(staged))

    def _clear_staged_rows(self, batch: Batch) -> None:
        # Not up to the last row in the store: the batch may hold rows that are not there yet.
        last, self._last_staged = self._last_staged, None
        if last is not None:
            batch.delete_range(Space.STAGED, b"", last + b"\0")

    def _adopt(self, batch: Batch, manifest: Manifest, mark: AppliedMark) -> None:
        """Make the image the newest one and remove the one before."""
        old = self._manifest
        if old is not None and (old.slot, old.index) != (manifest.slot, manifest.index):
            _forget(batch, old.slot, old.index)
        record = _MANIFEST.pack(
            _FORMAT, manifest.slot, manifest.index, manifest.chunks, manifest.crc
        )
        batch.put(Space.IMAGE, _MANIFEST_KEY, record)
        self._manifest = manifest
        self._mark = mark

    def _restore(self) -> None:
        machine, manifest = self._in_memory, self._manifest
        if machine is not None and manifest is not None:
            _guard("restore", lambda: machine.restore(_chunks(self._store, manifest)))


def _tell_failure(outcome: object) -> None:
    if isinstance(outcome, BaseException):
        _log.warning("the room of replaced rows is not free yet: %s", outcome)


def snapshot_of(mark: AppliedMark) -> Snapshot:
    """The snapshot position of a machine that has applied up to ``mark``."""
    return Snapshot(mark.index, mark.term, mark.chain, mark.membership)


def _forget(batch: Batch, slot: int, index: int) -> None:
    """Remove the chunks of an image."""
    start, stop = _PREFIX.pack(b"c", slot, index), _PREFIX.pack(b"c", slot, index + 1)
    batch.delete_range(Space.IMAGE, start, stop)


def _chunks(reader: Reader, manifest: Manifest) -> Iterator[bytes]:
    """The chunks of a whole image, in order.

    Raises StorageCorruptError if one is not as written.
    """
    crc = 0
    for number in range(manifest.chunks):
        chunk = reader.get(Space.IMAGE, _KEY.pack(b"c", manifest.slot, manifest.index, number))
        if chunk is None:
            raise StorageCorruptError(
                f"chunk {number} of the image at entry {manifest.index} is missing: restore a"
                " backup, or remove the member, empty its directory and add it again"
            )
        crc = crc32(chunk, crc)
        yield chunk
    if crc != manifest.crc:
        raise StorageCorruptError(
            f"the image at entry {manifest.index} fails its checksum: restore a backup, or remove"
            " the member, empty its directory and add it again"
        )


def _decode_manifest(record: bytes) -> Manifest:
    try:
        form, slot, index, count, crc = _MANIFEST.unpack(record)
    except StructError as error:
        raise StorageCorruptError(f"the record of the newest image is damaged: {error}") from error
    if form != _FORMAT:
        raise StorageCorruptError(
            f"the image is of format {form}, this version reads {_FORMAT}: upgrade raftkv here"
        )
    return Manifest(index, count, crc, slot)


def _encode_staged(staged: Staged) -> bytes:
    head = _STAGED.pack(
        _FORMAT,
        staged.peer,
        staged.transfer,
        staged.index,
        staged.chunks,
        staged.crc,
        len(staged.message),
    )
    return b"".join((head, staged.message, staged.carry))


def _decode_staged(record: bytes) -> Staged | None:
    """What an earlier boot received; None if only another version can go on with it."""
    if record[:1] != bytes((_FORMAT,)) or len(record) < _STAGED.size:
        return None
    _, peer, transfer, index, chunks, crc, length = _STAGED.unpack_from(record)
    behind = _STAGED.size + length
    message, carry = record[_STAGED.size : behind], record[behind:]
    return Staged(peer, transfer, index, message, chunks, crc, carry)


def _given(machine: DurableStateMachine[object], view: View) -> Iterator[bytes]:
    """The chunks that an on-disk machine gives, each as long as every receiver takes it."""
    chunks = _guard("snapshot_durable", lambda: machine.snapshot_durable(view))
    while (chunk := _guard("snapshot_durable", lambda: next(chunks, None))) is not None:
        _check_chunk("snapshot_durable", chunk)
        yield chunk


def _check_chunk(what: str, chunk: bytes) -> None:
    if len(chunk) > CHUNK_BYTES_MAX:
        raise MachineError(
            f"{what}() of the state machine gave a chunk of {len(chunk)} bytes;"
            f" at most {CHUNK_BYTES_MAX} are allowed"
        )


def _guard(what: str, call: Callable[[], T]) -> T:
    """Run a method of the machine; what it raises is the machine's failure."""
    try:
        return call()
    except (StorageError, MachineError, InvariantError):
        raise
    except Exception as error:
        raise MachineError(
            f"{what}() of the state machine raised {type(error).__name__}: {error}"
        ) from error
