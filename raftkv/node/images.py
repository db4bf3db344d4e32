"""The machine's image: kept for restart, given to members that need it, taken from others.

An on-disk machine *is* its image: its rows and the applied mark are in the store, and a frozen view
of the store at any moment is a snapshot to send. An in-memory machine is asked for its state when
the log grows too long; the chunks are kept in the space ``image``, and after a restart the machine
is restored from them and the log after them is applied again. Taking an image goes on in pieces
between turns of the loop; the machine applies nothing meanwhile.

Rows of the space: ``c`` + index (8 bytes) + number (4 bytes) -> one chunk; ``m`` -> index, count of
chunks, and a checksum over all of them, of the newest whole image. Rows of an image without that
record are left-overs of one that was not finished, and are removed at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, TypeVar
from zlib import crc32

from attrs import frozen

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
from raftkv.storage.base import AppliedMark, Batch, Reader, Space, Storage, View

T = TypeVar("T")

CHUNK_BYTES_MAX: Final = 1024 * 1024  # the port's promise for one chunk of a machine

_KEY: Final = Struct(">cQI")
_PREFIX: Final = Struct(">cQ")
_MANIFEST_KEY: Final = b"m"
_MANIFEST: Final = Struct("<BQII")  # format, index, chunks, checksum
_FORMAT: Final = 1


@frozen(slots=True)
class Manifest:
    """A whole image in the space: the log position it is of, and what it consists of."""

    index: int
    chunks: int
    crc: int


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

    def __init__(self, machine: AnyMachine, storage: Storage) -> None:
        self._durable = machine if isinstance(machine, DurableStateMachine) else None
        self._in_memory = machine if isinstance(machine, StateMachine) else None
        self._store = storage.store
        self._log = storage.log
        self._manifest: Manifest | None = None
        self._mark = AppliedMark()
        self._taking: _Taking | None = None

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
        if kept != mark.index:
            raise ConfigError(
                f"the directory's state machine has applied up to entry {mark.index}, and its image"
                f" is of entry {kept}: it was an on-disk machine, and machine= is an in-memory one;"
                " open it with the kind of machine it was made with"
            )
        self._mark = mark
        self._restore()

    def sweep(self, batch: Batch) -> None:
        """Remove what an unfinished image left behind."""
        kept = self._manifest.index if self._manifest is not None else -1
        for key, _ in self._store.scan(Space.IMAGE, b"c", b"d"):
            if _KEY.unpack(key)[1] != kept:
                batch.delete(Space.IMAGE, key)

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
            self.put_chunk(batch, index, taking.count, chunk)
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

    def put_chunk(self, batch: Batch, index: int, number: int, chunk: bytes) -> None:
        """Keep a chunk of an image that is not whole yet."""
        batch.put(Space.IMAGE, _KEY.pack(b"c", index, number), chunk)

    def forget(self, batch: Batch, index: int) -> None:
        """Remove the chunks of an image that will not become whole."""
        if self._manifest is None or self._manifest.index != index:
            batch.delete_range(
                Space.IMAGE, _PREFIX.pack(b"c", index), _PREFIX.pack(b"c", index + 1)
            )

    def install(self, batch: Batch, snapshot: Snapshot, manifest: Manifest) -> None:
        """Put a received image, whose chunks are in the store, in place of machine and log.

        Everything goes into ``batch``. Write it, then call :meth:`installed`.
        """
        if self._taking is not None:
            self.forget(batch, self._taking.mark.index)
            self._taking = None
        self._log.install_snapshot(batch, snapshot)
        durable = self._durable
        if durable is None:
            mark = AppliedMark(snapshot.index, snapshot.term, snapshot.chain, snapshot.membership)
            self._adopt(batch, manifest, mark)
            return
        last = next(self._store.scan(Space.MACHINE, reverse=True), None)
        if last is not None:
            batch.delete_range(Space.MACHINE, b"", last[0] + b"\x00")
        chunks = _chunks(self._store, manifest)
        _guard("restore_durable", lambda: durable.restore_durable(chunks, batch))
        batch.delete_range(Space.IMAGE, b"c", b"d")

    def installed(self) -> None:
        """The batch with the image is written: the machine takes it up."""
        durable = self._durable
        if durable is not None:
            _guard("open", lambda: durable.open(self._store))
        else:
            self._restore()

    def _adopt(self, batch: Batch, manifest: Manifest, mark: AppliedMark) -> None:
        """Make the image the newest one and remove the one before."""
        old = self._manifest
        if old is not None and old.index != manifest.index:
            start, stop = _PREFIX.pack(b"c", old.index), _PREFIX.pack(b"c", old.index + 1)
            batch.delete_range(Space.IMAGE, start, stop)
        record = _MANIFEST.pack(_FORMAT, manifest.index, manifest.chunks, manifest.crc)
        batch.put(Space.IMAGE, _MANIFEST_KEY, record)
        self._manifest = manifest
        self._mark = mark

    def _restore(self) -> None:
        machine, manifest = self._in_memory, self._manifest
        if machine is not None and manifest is not None:
            _guard("restore", lambda: machine.restore(_chunks(self._store, manifest)))


def snapshot_of(mark: AppliedMark) -> Snapshot:
    """The snapshot position of a machine that has applied up to ``mark``."""
    return Snapshot(mark.index, mark.term, mark.chain, mark.membership)


def pieces(chunk: bytes, size_max: int) -> Iterable[tuple[bytes, bool]]:
    """A chunk in pieces that fit into frames, and whether each is its last."""
    for start in range(0, max(len(chunk), 1), size_max):
        stop = start + size_max
        yield chunk[start:stop], stop >= len(chunk)


def _chunks(reader: Reader, manifest: Manifest) -> Iterator[bytes]:
    """The chunks of a whole image, in order.

    Raises StorageCorruptError if one is not as written.
    """
    crc = 0
    for number in range(manifest.chunks):
        chunk = reader.get(Space.IMAGE, _KEY.pack(b"c", manifest.index, number))
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
        form, index, count, crc = _MANIFEST.unpack(record)
    except StructError as error:
        raise StorageCorruptError(f"the record of the newest image is damaged: {error}") from error
    if form != _FORMAT:
        raise StorageCorruptError(
            f"the image is of format {form}, this version reads {_FORMAT}: upgrade raftkv here"
        )
    return Manifest(index, count, crc)


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
