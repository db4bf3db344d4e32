"""One member's data directory on disk, from the lock to the close.

::

    <data-dir>/LOCK               held while open (flock); empty
    <data-dir>/member/store/      RocksDB; store.* beside it: see :mod:`raftkv.storage.place`
    <data-dir>/member/store-options/  rewritten at each opening: what only a file can tell RocksDB
    <data-dir>/member/witness     what was last promised (two slots)
    <data-dir>/member/ballast     room to give back when the disk is full
    <data-dir>/member/condemned   only after damage was found at run time: the next opening rebuilds
    <data-dir>/member/failed      only after a failed write or sync: why
    <data-dir>/member.new/        only while a member is being made; renamed to ``member`` when
    complete

An empty directory is made a member's by its first opening: all of it is prepared beside and renamed
into place, so a crash leaves an empty directory or a complete one.

**A torn tail.** When RocksDB refuses its write-ahead log, which is common after an ordinary crash
amid a large write, the store is read up to the damage without being changed and held against the
witness. If it has everything that was promised, the rest never was: it is cut off, and the opening
goes on. Everything else is damage: see :mod:`raftkv.storage.opening`.

**After a failed write or sync** the kernel may show pages that it could not put on the disk, for as
long as they are cached. So this process never opens that directory again. Another may: RocksDB
reads its write-ahead logs back and writes what they hold into new tables, synced, before the
opening returns, so what is served then is on the disk. The file ``failed`` is for humans, and
removed by then.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from raftkv.errors import (
    IdentityError,
    StorageCorruptError,
    StorageFailedError,
    StorageFullError,
    StorageLockedError,
)
from raftkv.runtime.base import Rng
from raftkv.storage.ballast import BALLAST_BYTES, Ballast
from raftkv.storage.base import Identity
from raftkv.storage.files import Files, Lock, OsFiles
from raftkv.storage.member import Failpoint, MemberStorage, Notes, no_failpoint
from raftkv.storage.opening import BOOT_TOKEN_BYTES, Opening, first_identity, open_member
from raftkv.storage.place import STORE, RocksPlace
from raftkv.storage.records import corrupt
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.storage.witness import FileWitness, Witness

_LOCK: Final = "LOCK"
_MEMBER: Final = "member"
_NEW: Final = "member.new"
_WITNESS: Final = "witness"
_BALLAST: Final = "ballast"
_FAILED: Final = "failed"
_UUID_BYTES: Final = 16


class FileNotes(Notes):
    """Notes as files in a directory."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files

    def get(self, name: str) -> bytes | None:
        """The note; None if there is none."""
        return self._files.read(self._directory / name)

    def put(self, name: str, note: bytes) -> None:
        """Put or replace it."""
        self._files.write(self._directory / name, note)

    def remove(self, name: str) -> None:
        """Remove it; no error if there is none."""
        self._files.remove(self._directory / name)


def open_rocks(
    data_dir: Path | str,
    *,
    cluster_id: int,
    member_id: int,
    rng: Rng,
    can_recover: bool = False,
    has_others: bool = True,
    ballast_bytes: int = BALLAST_BYTES,
    files: Files | None = None,
    failpoint: Failpoint = no_failpoint,
) -> MemberStorage:
    """Open a member's data directory, or make an empty or missing one that member's.

    Everything is read back and checked, held against the witness, and the boot counter raised
    durably before this returns. Blocks for as long as that takes.

    ``can_recover`` says that the caller heeds ``Recovered.damage``: a damaged directory is then
    opened with what is intact, if there are other members who can give back what is lost. Whether
    there are is known to the directory; ``has_others`` is heeded where it cannot tell.
    ``ballast_bytes`` are kept in reserve for a full disk; 0: none. ``rng`` gives a new directory
    its disk uuid, and each opening its token. ``failpoint`` is for tests.

    Raises StorageLockedError if it is open elsewhere, IdentityError if it belongs to another
    cluster or member, StorageFormatError if a newer raftkv wrote it, StorageCorruptError if it is
    damaged or has lost what this member promised and cannot recover, StorageFullError or
    StorageFailedError if the disk refuses, or did so before in this process.
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
            ballast = Ballast(root / _MEMBER / _BALLAST, ballast_bytes, files)
            directory = _Directory(root / _MEMBER, files, lock, ballast)
            try:
                storage = directory.open(expected, rng, can_recover, has_others, failpoint)
            except (StorageFullError, OSError) as error:
                if not _is_full(error) or not ballast.drop():
                    raise
                storage = directory.open(expected, rng, can_recover, has_others, failpoint)
            ballast.restore()
            return storage
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
        store = RocksStore(new / STORE, Mode.CREATE)
        try:
            failpoint("make.store")
            first_identity(store, witness, identity)
        finally:
            store.close()
    finally:
        witness.close()
    files.sync_directory(new / STORE)
    files.sync_directory(new)
    failpoint("make.before")
    files.rename(new, root / _MEMBER)
    failpoint("make.after")


class _Directory:
    """A member's directory, locked."""

    def __init__(self, member: Path, files: Files, lock: Lock, ballast: Ballast) -> None:
        self._member = member
        self._files = files
        self._lock = lock
        self._ballast = ballast
        self._notes = FileNotes(member, files)
        self._disk_uuid = b""

    def open(
        self,
        expected: Identity,
        rng: Rng,
        can_recover: bool,
        has_others: bool,
        failpoint: Failpoint,
    ) -> MemberStorage:
        """Open the member in it."""
        place = RocksPlace(self._member, self._files, failpoint)
        if can_recover:
            place.finish()
            place.sweep()
        path = self._member / _WITNESS
        if not can_recover and not self._files.exists(path):
            corrupt(f"{path} is missing, so nothing tells whether the store beside it is complete")
        witness = FileWitness(self._files.open_slots(path, create=can_recover), str(path))
        try:
            self._refuse_after_failure(witness)
            storage = open_member(
                Opening(
                    place=place,
                    witness=witness,
                    notes=self._notes,
                    expected=expected,
                    can_recover=can_recover,
                    has_others=has_others,
                    new_token=lambda: rng.token(BOOT_TOKEN_BYTES),
                    failpoint=failpoint,
                    on_failure=self._failed,
                    release=self._lock.release,
                )
            )
        except BaseException:
            witness.close()
            raise
        self._disk_uuid = storage.identity.disk_uuid
        self._notes.remove(_FAILED)
        return storage

    def _refuse_after_failure(self, witness: Witness) -> None:
        """Raise StorageFailedError if a write or sync here has failed in this process."""
        disk_uuid, reason = _failed_here.get(self._files.place(self._member), (b"", ""))
        if not reason:
            return
        try:
            mark = witness.recall()
        except StorageCorruptError:
            mark = None
        # An inode may have been given to another directory since.
        if mark is None or mark.record.identity.disk_uuid == disk_uuid:
            raise StorageFailedError(
                f"a write or sync of {self._member} has failed in this process, which may not see"
                " what is on the disk as long as the kernel keeps those pages: open the node in a"
                f" new process ({reason})"
            )

    def _failed(self, failure: StorageFailedError) -> None:
        """Remember a failed write or sync, here and for whoever looks into the directory."""
        if isinstance(failure, StorageFullError):
            self._ballast.drop()
        # What fails here was worth no more than a try.
        with suppress(OSError):
            place = self._files.place(self._member)
            _failed_here.setdefault(place, (self._disk_uuid, str(failure)))
            self._notes.put(_FAILED, str(failure).encode())


_failed_here: Final[dict[tuple[int, int], tuple[bytes, str]]] = {}


def _is_full(error: StorageFullError | OSError) -> bool:
    return isinstance(error, StorageFullError) or error.errno in (ENOSPC, EDQUOT)


@contextmanager
def _named(root: Path) -> Generator[None]:
    """Give the operating system's errors our names."""
    try:
        yield
    except OSError as error:
        if _is_full(error):
            raise StorageFullError(
                f"the disk of {root} is full ({error}); free space, then open the node again"
            ) from error
        raise StorageFailedError(
            f"opening {root} failed ({error}); repair it and open the node again"
        ) from error
