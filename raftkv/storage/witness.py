"""The witness: what this member last promised to others, remembered beside its store.

RocksDB cannot notice that its newest write-ahead log is gone, emptied, or cut at a record's end:
it opens shorter and says nothing. So each sync is followed by a record of term, vote, last
promised entry, disk and boot counter in a small file of its own, and an opening compares the two.
A store *ahead* of its witness is fine (a crash fell between the two); a store *behind* it has lost
what others were told.

**What is synced when.** The file is written after every sync of the store, and made durable
(``fdatasync``) whenever term or vote changed and at every 64th sync. Written but not yet durable
means that the record survives the end of the process, however violent, and is lost only if the
machine itself stops within the kernel's write-back interval (30 s). Then the witness is up to 64
syncs old, which costs nothing unless the store is damaged as well. Of such a double fault more than
the old record tells is not asked back: damage in the last records passes for a torn tail, and a
store that is begun anew for whole where the old record ends. Making each record durable was
measured and set aside.
Medians on one disk (2 cores shared with other work, the four ways taken in turn): the store's own
sync 0.150 ms, with the record written after it 0.153 ms, with a durable record in parallel on a
second thread 0.202 ms (the disk's flushes queue up), with a durable record after it 0.245 ms.

Two slots of 512 bytes (one sector each) are written in turn, each with a generation and a CRC, so a
torn write leaves the other slot valid.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Protocol, cast
from zlib import crc32

from attrs import frozen

from raftkv.errors import StorageCorruptError, StorageFormatError
from raftkv.storage.base import Identity, Loss, Recovered, WitnessRecord
from raftkv.storage.records import FORMAT, REBUILD

SLOT_BYTES: Final = 512
WITNESS_BYTES: Final = 2 * SLOT_BYTES
_MAGIC: Final = b"raftkv-w"
# magic, format, generation, cluster, member, disk uuid, boot, boot token, term, vote, last
# index/term/chain, cuts, loss
_SLOT: Final = Struct("<8sBQQQ16sQ16sQQQQQQB")
_LOSSES: Final = (None, Loss.LOG, Loss.ALL)  # the order is on disk
_CRC: Final = Struct("<I")
_BODY_BYTES: Final = SLOT_BYTES - _CRC.size


@frozen(slots=True)
class WitnessMark:
    """What a witness remembers: the promise, and how often the log's end had been replaced then.

    ``loss`` tells whether the store was marked as damaged then: what a damaged member gives to its
    witness is no proof of what it promised before.
    """

    record: WitnessRecord
    cuts: int
    loss: Loss | None = None


class Witness(Protocol):
    """Where the mark is kept."""

    def remember(self, mark: WitnessMark, *, durable: bool) -> None:
        """Replace the mark; wait for the disk if ``durable``. Raises OSError."""
        ...

    def recall(self) -> WitnessMark | None:
        """The newest mark; None if there never was one.

        Raises StorageCorruptError if it is unreadable, StorageFormatError if a newer raftkv wrote
        it.
        """
        ...

    @property
    def is_sure(self) -> bool:
        """Whether what ``recall`` answered is surely the newest mark that was ever given."""
        ...

    def close(self) -> None:
        """Release it. Idempotent."""
        ...


class MemoryWitness(Witness):
    """A witness in memory."""

    def __init__(self) -> None:
        self.mark: WitnessMark | None = None
        self.sure = True

    def remember(self, mark: WitnessMark, *, durable: bool) -> None:
        """Replace the mark."""
        self.mark = mark

    def recall(self) -> WitnessMark | None:
        """The newest mark; None if there never was one."""
        return self.mark

    @property
    def is_sure(self) -> bool:
        """What tests make of it."""
        return self.sure

    def close(self) -> None:
        """Nothing to release."""


class SlotFile(Protocol):
    """A small file that is read whole and written in place; errors are OSError."""

    def read(self, size: int) -> bytes:
        """The first ``size`` bytes, fewer if the file is shorter."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``; it survives the end of the process."""
        ...

    def datasync(self) -> None:
        """Wait until what was written survives the end of the machine."""
        ...

    def close(self) -> None:
        """Close the file. Idempotent."""
        ...


class FileWitness(Witness):
    """Two slots in a file, written in turn."""

    def __init__(self, file: SlotFile, where: str) -> None:
        self._file = file
        self._where = where
        self._generation = 0
        self._is_sure = False

    def remember(self, mark: WitnessMark, *, durable: bool) -> None:
        """Write the mark into the older slot; wait for the disk if ``durable``. Raises OSError."""
        generation = self._generation + 1
        self._file.write(generation % 2 * SLOT_BYTES, encode_slot(mark, generation))
        self._generation = generation
        if durable:
            self._file.datasync()

    def recall(self) -> WitnessMark | None:
        """The newest readable mark; None if the file is empty."""
        content = self._file.read(WITNESS_BYTES)
        if not content:
            return None
        slots = [
            decode_slot(content[start : start + SLOT_BYTES], self._where)
            for start in (0, SLOT_BYTES)
        ]
        readable = [slot for slot in slots if slot is not None]
        if not readable:
            raise StorageCorruptError(
                f"both slots of the witness {self._where} are damaged, so nothing tells whether the"
                f" store beside it is complete; {REBUILD}"
            )
        self._generation, mark = max(readable, key=_generation_of)
        # Generations alternate between the slots: one that is damaged may have been the newer.
        never_written = self._generation == 1 and not content.startswith(_MAGIC)
        self._is_sure = len(readable) == 2 or (never_written and not any(content[:SLOT_BYTES]))
        return mark

    @property
    def is_sure(self) -> bool:
        """Whether neither slot was damaged when ``recall`` read them."""
        return self._is_sure

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def encode_slot(mark: WitnessMark, generation: int) -> bytes:
    """One slot: the mark, zeros, and a CRC-32 of both."""
    record, identity = mark.record, mark.record.identity
    body = _SLOT.pack(
        _MAGIC,
        FORMAT[0],
        generation,
        identity.cluster_id,
        identity.member_id,
        identity.disk_uuid,
        identity.boot,
        identity.boot_token,
        record.term,
        record.vote,
        record.last_index,
        record.last_term,
        record.last_chain,
        mark.cuts,
        _LOSSES.index(mark.loss),
    ).ljust(_BODY_BYTES, b"\0")
    return body + _CRC.pack(crc32(body))


def decode_slot(slot: bytes, where: str) -> tuple[int, WitnessMark] | None:
    """Generation and mark; None if the slot is damaged or was never written."""
    if len(slot) != SLOT_BYTES or not slot.startswith(_MAGIC):
        return None
    body = slot[:_BODY_BYTES]
    if _CRC.unpack(slot[_BODY_BYTES:])[0] != crc32(body):
        return None
    if body[len(_MAGIC)] != FORMAT[0]:
        raise StorageFormatError(
            f"{where} is of storage format {body[len(_MAGIC)]}, this raftkv reads format"
            f" {FORMAT[0]}: open it with the raftkv version that wrote it"
        )
    _, _, generation, cluster, member, uuid, boot, token, *promise, cuts, loss = _SLOT.unpack_from(
        body
    )
    if loss >= len(_LOSSES):
        return None
    identity = Identity(cluster, member, uuid, boot, token)
    return generation, WitnessMark(
        WitnessRecord(identity, *promise), cuts, _LOSSES[cast("int", loss)]
    )


def _generation_of(slot: tuple[int, WitnessMark]) -> int:
    return slot[0]


def what_is_missing(
    mark: WitnessMark, identity: Identity, recovered: Recovered, cuts: int
) -> str | None:
    """What a store with this content lost of what the witness remembers; None if nothing.

    The store's batches survive in order or not at all, so one thing that is newer than the mark
    proves that everything up to the mark is there.
    """
    promised = mark.record
    if identity.boot < promised.identity.boot:
        return f"it is from opening {identity.boot}, the witness from {promised.identity.boot}"
    if identity.boot == promised.identity.boot and (
        identity.boot_token != promised.identity.boot_token
    ):
        return f"it and the witness are of two copies that were both opened as {identity.boot}"
    hard_state = recovered.hard_state
    if hard_state.term < promised.term:
        return f"it knows term {hard_state.term}, the witness {promised.term}"
    if hard_state.term == promised.term and promised.vote not in (0, hard_state.vote):
        return f"the vote for member {promised.vote} in term {promised.term} is gone"
    if cuts < mark.cuts:
        return f"its log was replaced {cuts} times, the witness knows of {mark.cuts}"
    if cuts > mark.cuts:
        return None  # the promised end was replaced on purpose after the mark was made
    snapshot = recovered.snapshot
    last_index = snapshot.index + len(recovered.entries)
    if last_index < promised.last_index:
        return f"its log ends at entry {last_index}, but entry {promised.last_index} was promised"
    if promised.last_index < snapshot.index:
        return None  # compacted since
    chain = (
        snapshot.chain
        if promised.last_index == snapshot.index
        else recovered.entries[promised.last_index - snapshot.index - 1].chain
    )
    if chain != promised.last_chain:
        return f"its entry {promised.last_index} is another than the promised one"
    return None
