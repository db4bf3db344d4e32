"""One member's data directory on disk, from the lock to the close.

::

    <data-dir>/LOCK               held while open (flock); empty
    <data-dir>/member/store/      RocksDB
    <data-dir>/member/store-options/  rewritten at each opening: what only a file can tell RocksDB
    <data-dir>/member/witness     what was last promised (two slots)
    <data-dir>/member.new/        only while a member is being made; renamed to ``member`` when
    complete

An empty directory is made a member's by its first opening: all of it is prepared beside and renamed
into place, so a crash leaves an empty directory or a complete one.

**A torn tail.** When RocksDB refuses its write-ahead log, which is common after an ordinary crash
amid a large write, the store is read up to the damage without being changed and held against the
witness. If it has everything that was promised, the rest never was: it is cut off, and the opening
goes on. Otherwise StorageCorruptError names what is missing, and the directory stays as it was.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from raftkv.errors import (
    IdentityError,
    InvariantError,
    StorageCorruptError,
    StorageFailedError,
    StorageFullError,
    StorageLockedError,
)
from raftkv.runtime.base import Rng
from raftkv.storage.base import Identity
from raftkv.storage.files import Files, Lock, OsFiles
from raftkv.storage.log import StoredLog
from raftkv.storage.member import (
    BOOT_TOKEN_BYTES,
    Failpoint,
    MemberStorage,
    check_owner,
    examine,
    first_identity,
    next_boot,
    no_failpoint,
)
from raftkv.storage.records import REBUILD, corrupt
from raftkv.storage.rocks import Mode, RocksStore
from raftkv.storage.witness import FileWitness, Witness

_LOCK: Final = "LOCK"
_MEMBER: Final = "member"
_NEW: Final = "member.new"
_STORE: Final = "store"
_WITNESS: Final = "witness"
_UUID_BYTES: Final = 16


def open_rocks(
    data_dir: Path | str,
    *,
    cluster_id: int,
    member_id: int,
    rng: Rng,
    files: Files | None = None,
    failpoint: Failpoint = no_failpoint,
) -> MemberStorage:
    """Open a member's data directory, or make an empty or missing one that member's.

    Everything is read back and checked, held against the witness, and the boot counter raised
    durably before this returns. Blocks for as long as that takes.

    ``rng`` gives a new directory its disk uuid, and each opening its token. ``failpoint`` is for
    tests.

    Raises StorageLockedError if it is open elsewhere, IdentityError if it belongs to another
    cluster or member, StorageFormatError if a newer raftkv wrote it, StorageCorruptError if it is
    damaged or has lost what this member promised, StorageFullError or StorageFailedError if the
    disk refuses.
    """
    root = Path(data_dir)
    files = OsFiles() if files is None else files
    expected = Identity(cluster_id, member_id, b"", 0)
    with _named(root):
        files.make_directory(root)
        lock = files.lock(root / _LOCK)
        if lock is None:
            raise StorageLockedError(
                f"{root} is open in another node or process: stop that one first, or give this node"
                " a directory of its own"
            )
        try:
            if not files.exists(root / _MEMBER):
                _make_member(root, expected, rng, files, failpoint)
            token = rng.token(BOOT_TOKEN_BYTES)
            return _open_member(root / _MEMBER, expected, token, files, failpoint, lock)
        except BaseException:
            lock.release()
            raise


def _make_member(
    root: Path, expected: Identity, rng: Rng, files: Files, failpoint: Failpoint
) -> None:
    strangers = [name for name in files.names(root) if name not in (_LOCK, _NEW)]
    if strangers:
        raise IdentityError(
            f"{root} holds {strangers[0]!r} but no member: give the node an empty directory"
        )
    new = root / _NEW
    files.remove_tree(new)  # of a crash amid an earlier making; nothing was promised from it
    files.make_directory(new)
    identity = Identity(
        expected.cluster_id, expected.member_id, rng.token(_UUID_BYTES), expected.boot
    )
    witness = FileWitness(files.open_slots(new / _WITNESS, create=True), str(new / _WITNESS))
    try:
        store = RocksStore(new / _STORE, Mode.CREATE)
        try:
            failpoint("make.store")
            first_identity(store, witness, identity)
        finally:
            store.close()
    finally:
        witness.close()
    files.sync_directory(new / _STORE)
    files.sync_directory(new)
    failpoint("make.before")
    files.rename(new, root / _MEMBER)
    failpoint("make.after")


def _open_member(
    member: Path,
    expected: Identity,
    token: bytes,
    files: Files,
    failpoint: Failpoint,
    lock: Lock,
) -> MemberStorage:
    if not files.exists(member / _WITNESS):
        corrupt(
            f"{member / _WITNESS} is missing, so nothing tells whether the store beside it is"
            " complete"
        )
    witness = FileWitness(files.open_slots(member / _WITNESS, create=False), str(member / _WITNESS))
    try:
        mark = witness.recall()
        if mark is None:
            corrupt(f"{member / _WITNESS} is empty, so nothing tells what was promised")
        check_owner(mark.record.identity, expected, str(member))
        if not files.exists(member / _STORE):
            corrupt(f"{member / _STORE} is missing")
        store = _open_store(member, expected, witness, failpoint)
        try:
            return next_boot(
                store,
                witness,
                expected,
                str(member),
                token=token,
                failpoint=failpoint,
                release=lock.release,
            )
        except BaseException:
            store.close()
            raise
    except BaseException:
        witness.close()
        raise


def _open_store(
    member: Path, expected: Identity, witness: Witness, failpoint: Failpoint
) -> RocksStore:
    path = member / _STORE
    try:
        return RocksStore(path, failpoint=failpoint)
    except StorageCorruptError as refusal:
        _cut_torn_tail(member, expected, witness, failpoint, refusal)
    return RocksStore(path, failpoint=failpoint)


def _cut_torn_tail(
    member: Path,
    expected: Identity,
    witness: Witness,
    failpoint: Failpoint,
    refusal: StorageCorruptError,
) -> None:
    """Cut the write-ahead log where it is damaged, if everything promised lies before.

    Looking does not change the directory; only once the look has been held against the witness is
    the same recovery done for good, and its result compared with the look.
    """
    path = member / _STORE
    try:
        store = RocksStore(path, Mode.LOOK)
        try:
            seen = examine(store, StoredLog(store), witness, expected, str(member))
        finally:
            store.close()
    except StorageCorruptError as error:
        raise StorageCorruptError(f"{error} (RocksDB says: {refusal})") from refusal
    failpoint("cut.before")
    store = RocksStore(path, Mode.CUT)
    try:
        kept = examine(store, StoredLog(store), witness, expected, str(member))
        if kept != seen:
            raise InvariantError(f"{path} was cut at another place than was looked at; {REBUILD}")
        store.sync()
    finally:
        store.close()
    failpoint("cut.after")


@contextmanager
def _named(root: Path) -> Generator[None]:
    """Give the operating system's errors our names."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise StorageFullError(
                f"the disk of {root} is full ({error}); free space, then open the node again"
            ) from error
        raise StorageFailedError(
            f"opening {root} failed ({error}); repair it and open the node again"
        ) from error
