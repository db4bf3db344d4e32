"""One member's storage: store, log, identity and witness together, in memory or on disk.

What happens at an opening, whatever the store: the log is read back and checked, the store is held
against the witness, and the boot counter is raised durably in both, the store first. A crash
between the two leaves the store ahead, which is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Final, Protocol, TypeVar

from attrs import evolve

from raftkv.errors import (
    Error,
    IdentityError,
    StorageCorruptError,
    StorageError,
    StorageFailedError,
)
from raftkv.storage.base import Identity, Recovered, Space, Storage, Store, WitnessRecord
from raftkv.storage.log import StoredLog
from raftkv.storage.records import REBUILD, corrupt, seal, unseal
from raftkv.storage.witness import Witness, WitnessMark, what_is_missing

# At most this many syncs between two durable witness records; see the witness module for the
# reasons.
WITNESS_SYNCS_MAX: Final = 64

_IDENTITY_KEY: Final = b"identity"
_IDENTITY: Final = Struct("<QQ16sQ16s")  # cluster, member, disk uuid, boot, boot token
BOOT_TOKEN_BYTES: Final = 16

AnyError = TypeVar("AnyError", bound=Error | None)

Failpoint = Callable[[str], object]
"""Called at named points of a write; tests raise or end the process there."""


def no_failpoint(_name: str) -> None:
    """What production does at a failpoint."""


def again(error: AnyError) -> AnyError:
    """The same error to be raised anew: one that is raised twice keeps the first stack alive."""
    return error if error is None else type(error)(*error.args)


class FailStopStore(Store, Protocol):
    """A store that can be told that something beside it failed."""

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
        *,
        failpoint: Failpoint = no_failpoint,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._log = log
        self._identity = identity
        self._witness = witness
        self._failpoint = failpoint
        self._release = release
        self._durable: tuple[int, int] | None = None
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
        mark = WitnessMark(promised, self._log.cuts_at(promised.last_chain))
        position = self._store.sync()
        self._failpoint("witness.before")
        self._remember(mark)
        self._failpoint("witness.after")
        return position

    def close(self) -> None:
        """Close store and witness, and let go of the directory. Idempotent."""
        try:
            self._store.close()
        except StorageError:
            self._let_go()  # RocksDB's complaint about a failed disk must not keep the lock
            raise
        self._let_go()

    def _let_go(self) -> None:
        self._witness.close()
        self._release()

    def _remember(self, mark: WitnessMark) -> None:
        promise = (mark.record.term, mark.record.vote)
        self._syncs += 1
        durable = promise != self._durable or self._syncs >= WITNESS_SYNCS_MAX
        try:
            self._witness.remember(mark, durable=durable)
        except OSError as error:
            failure = StorageFailedError(
                f"the witness could not be written ({error});"
                " repair the disk and open the node again"
            )
            self._store.poison(failure)
            raise failure from error
        if durable:
            self._durable = promise
            self._syncs = 0


def first_identity(store: Store, witness: Witness, identity: Identity) -> None:
    """Make an empty store and its witness those of a member, before its first opening."""
    write_identity(store, identity)
    empty = WitnessMark(WitnessRecord(identity, 0, 0, 0, 0, 0), 0)
    witness.remember(empty, durable=True)


def next_boot(
    store: FailStopStore,
    witness: Witness,
    expected: Identity,
    where: str,
    *,
    token: bytes,
    failpoint: Failpoint = no_failpoint,
    release: Callable[[], None] = lambda: None,
) -> MemberStorage:
    """Check a store against its witness and begin its next boot, known by ``token`` from then on.

    Raises IdentityError if it is another member's than ``expected`` (whose uuid and boot do not
    matter), StorageCorruptError if it is damaged or behind its witness.
    """
    log = StoredLog(store)
    before, recovered = examine(store, log, witness, expected, where)
    identity = evolve(before, boot=before.boot + 1, boot_token=token)
    write_identity(store, identity)
    failpoint("boot.between")
    storage = MemberStorage(store, log, identity, witness, failpoint=failpoint, release=release)
    storage.sync(_everything(identity, recovered))
    return storage


def examine(
    store: Store, log: StoredLog, witness: Witness, expected: Identity, where: str
) -> tuple[Identity, Recovered]:
    """What the store holds, if it holds all that its witness remembers of it."""
    identity = read_identity(store, where)
    check_owner(identity, expected, where)
    recovered = log.recover()
    mark = witness.recall()
    if mark is None:
        raise StorageCorruptError(
            f"the witness of {where} is missing, so nothing tells whether the store is complete;"
            f" {REBUILD}"
        )
    check_owner(mark.record.identity, expected, f"the witness of {where}")
    if mark.record.identity.disk_uuid != identity.disk_uuid:
        corrupt(f"the store and the witness of {where} were made by different disks")
    missing = what_is_missing(mark, identity, recovered, log.cuts)
    if missing is not None:
        corrupt(f"{where} has lost what this member promised to others: {missing}")
    return identity, recovered


def read_identity(store: Store, where: str) -> Identity:
    """Whose store it is. Raises StorageCorruptError if it does not say."""
    record = store.get(Space.META, _IDENTITY_KEY)
    if record is None:
        corrupt(f"the store of {where} does not say whose it is")
    try:
        return Identity(*_IDENTITY.unpack(unseal(record, "identity")))
    except StructError:
        corrupt("the identity record has a wrong length")


def write_identity(store: Store, identity: Identity) -> None:
    """Say durably whose store it is, and in which boot."""
    body = _IDENTITY.pack(
        identity.cluster_id,
        identity.member_id,
        identity.disk_uuid,
        identity.boot,
        identity.boot_token,
    )
    batch = store.batch()
    batch.put(Space.META, _IDENTITY_KEY, seal(body))
    store.write(batch)
    store.sync()


def check_owner(identity: Identity, expected: Identity, where: str) -> None:
    """Raise IdentityError unless cluster and member are the expected ones."""
    if identity.cluster_id != expected.cluster_id:
        raise IdentityError(
            f"{where} belongs to cluster {identity.cluster_id:x}, not to {expected.cluster_id:x}:"
            " give this node a directory of its own, or the cluster the directory was made for"
        )
    if identity.member_id != expected.member_id:
        raise IdentityError(
            f"{where} belongs to member {identity.member_id:x}, not to {expected.member_id:x}:"
            " give each member a directory of its own"
        )


def _everything(identity: Identity, recovered: Recovered) -> WitnessRecord:
    """The promise that covers all that was read back: it is durable by now."""
    hard_state, snapshot, entries = recovered.hard_state, recovered.snapshot, recovered.entries
    if entries:
        last = entries[-1]
        end = (last.index, last.term, last.chain)
    else:
        end = (snapshot.index, snapshot.term, snapshot.chain)
    return WitnessRecord(identity, hard_state.term, hard_state.vote, *end)
