"""One member's storage: store, log, identity and witness together, in memory or on disk.

How it is opened is told in :mod:`raftkv.storage.opening`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from raftkv.errors import Error, StorageCorruptError, StorageError, StorageFailedError
from raftkv.storage.base import Damage, Identity, Loss, Storage, Store, View, WitnessRecord
from raftkv.storage.log import StoredLog
from raftkv.storage.records import decode_damage, encode_damage, seal, unseal
from raftkv.storage.scrub import RowsHash, Scrub
from raftkv.storage.witness import Witness, WitnessMark

# At most this many syncs between two durable witness records; see the witness module for the
# reasons.
WITNESS_SYNCS_MAX: Final = 64

CONDEMNED: Final = "condemned"
_KEEP_ROWS: Final = b"\x01"
_DROP_ROWS: Final = b"\x00"

AnyError = TypeVar("AnyError", bound=Error | None)

Failpoint = Callable[[str], object]
"""Called at named points of a write; tests raise or end the process there."""


def no_failpoint(_name: str) -> None:
    """What production does at a failpoint."""


def again(error: AnyError) -> AnyError:
    """The same error to be raised anew: one that is raised twice keeps the first stack alive."""
    return error if error is None else type(error)(*error.args)


class Notes(Protocol):
    """Small notes beside the store, each durable once put; errors are OSError."""

    def get(self, name: str) -> bytes | None:
        """The note; None if there is none."""
        ...

    def put(self, name: str, note: bytes) -> None:
        """Put or replace it."""
        ...

    def remove(self, name: str) -> None:
        """Remove it; no error if there is none."""
        ...


class MemoryNotes(Notes):
    """Notes in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """The note; None if there is none."""
        return self.notes.get(name)

    def put(self, name: str, note: bytes) -> None:
        """Put or replace it."""
        self.notes[name] = note

    def remove(self, name: str) -> None:
        """Remove it; no error if there is none."""
        self.notes.pop(name, None)


class FailStopStore(Store, Protocol):
    """A store that can be told that something beside it failed."""

    @property
    def refusal(self) -> Error | None:
        """Why nothing is served any more; None while all is well."""
        ...

    @property
    def corruption(self) -> StorageCorruptError | None:
        """The first damage that a read met; None while all is well."""
        ...

    def poison(self, error: StorageError) -> None:
        """Refuse every later call with ``error``, reads included."""
        ...


class MemberStorage(Storage):
    """The Storage port, over any store and witness."""

    def __init__(
        self,
        store: FailStopStore,
        log: StoredLog,
        identity: Identity,
        witness: Witness,
        notes: Notes,
        *,
        failpoint: Failpoint = no_failpoint,
        on_failure: Callable[[StorageFailedError], None] = lambda _failure: None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._log = log
        self._identity = identity
        self._witness = witness
        self._notes = notes
        self._failpoint = failpoint
        self._on_failure = on_failure
        self._release = release
        self._mark: WitnessMark | None = None
        self._durable: tuple[int, int, Loss | None] | None = None
        self._syncs = 0

    @property
    def store(self) -> FailStopStore:
        """The spaces."""
        return self._store

    @property
    def log(self) -> StoredLog:
        """Raft's part of them."""
        return self._log

    @property
    def identity(self) -> Identity:
        """Whose directory it is."""
        return self._identity

    def sync(self, promised: WitnessRecord) -> int:
        """Make what was written before the call durable, then let the witness know ``promised``.

        Answers the newest position that is durable. ``promised`` describes batches written before
        the call. Blocks: ``wal`` worker only. Raises StorageFailedError, which poisons the store.
        """
        # The mark of damage that is visible now is durable after the sync.
        loss = self._log.visible_loss()
        mark = WitnessMark(promised, self._log.cuts_at(promised.last_chain), loss)
        position = self._store.sync()
        self._failpoint("witness.before")
        self._remember(mark)
        self._failpoint("witness.after")
        return position

    @property
    def corruption(self) -> StorageCorruptError | None:
        """Damage that a read met, whoever read; None while all is well."""
        return self._store.corruption

    def scrub(self, view: View) -> Scrub:
        """Reads every row of every space once; the log's records and chain are checked, too."""
        return Scrub(view)

    def machine_hash(self, view: View) -> RowsHash:
        """Reads the machine's rows once, for their hash."""
        return RowsHash(view)

    def check_witness(self) -> str | None:
        """Read the witness again; what was wrong with it, which is mended, or None.

        Blocks: ``wal`` worker only. Raises StorageFailedError if it cannot be read or written.
        """
        mark = self._mark
        if mark is None:
            return None
        try:
            complaint = self._witness_complaint(mark)
        except OSError as error:
            raise self._poisoned("read", error) from error
        if complaint is not None:
            for _ in range(2):  # both of its halves
                self._remember(mark, durable=True)
        return complaint

    def _witness_complaint(self, mark: WitnessMark) -> str | None:
        try:
            if self._witness.recall() != mark:
                return "the witness remembers something else than was written last"
        except StorageError as error:
            return str(error)
        return None if self._witness.is_sure else "one half of the witness is damaged"

    def condemn(self, damage: Damage, *, keep_rows: bool = False) -> None:
        """Have the next opening begin this store anew, marked with at least this damage.

        Durable when it returns. The store goes on: the caller stops serving it. Blocks. Raises
        StorageFailedError.
        """
        kept = _KEEP_ROWS if keep_rows else _DROP_ROWS
        try:
            self._notes.put(CONDEMNED, seal(kept + encode_damage(damage, None)))
        except OSError as error:
            raise StorageFailedError(
                f"the damage could not be noted ({error}): {damage.what}"
            ) from error

    def close(self) -> None:
        """Close store and witness, and let go of the directory. Idempotent."""
        failure = self._store.refusal
        try:
            self._store.close()
        except StorageError:
            self._let_go(failure)  # RocksDB's complaint about a failed disk must not keep the lock
            raise
        self._let_go(failure)

    def _let_go(self, failure: Error | None) -> None:
        self._witness.close()
        try:
            if isinstance(failure, StorageFailedError):
                self._on_failure(failure)
        finally:
            self._release()

    def _remember(self, mark: WitnessMark, *, durable: bool = False) -> None:
        promise = (mark.record.term, mark.record.vote, mark.loss)
        self._syncs += 1
        durable = durable or promise != self._durable or self._syncs >= WITNESS_SYNCS_MAX
        try:
            self._witness.remember(mark, durable=durable)
        except OSError as error:
            raise self._poisoned("written", error) from error
        self._mark = mark
        if durable:
            self._durable = promise
            self._syncs = 0

    def _poisoned(self, doing: str, error: OSError) -> StorageFailedError:
        failure = StorageFailedError(
            f"the witness could not be {doing} ({error}); repair the disk and open the node again"
        )
        self._store.poison(failure)
        return failure


def read_condemnation(notes: Notes) -> tuple[Damage, bool] | None:
    """What ``condemn`` left, and whether the rows may be kept; one that is unreadable is absolute.

    Raises OSError.
    """
    note = notes.get(CONDEMNED)
    if note is None:
        return None
    try:
        body = unseal(note, "condemnation")
        return decode_damage(body[1:])[0], body[:1] == _KEEP_ROWS
    except StorageCorruptError:
        return Damage(Loss.ALL, "it was found to be damaged, but the note of how is, too"), False
