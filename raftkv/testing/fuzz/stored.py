"""The decoders of what is stored and replicated: records, witness slots, the KV's bytes, images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Final
from zlib import crc32

from raftkv.core.types import Entry, EntryKind, Membership
from raftkv.encoding import encode_entry
from raftkv.errors import InvalidArgumentError, StorageCorruptError, StorageFormatError
from raftkv.kv import image, rows
from raftkv.kv.alarms import read_alarms
from raftkv.kv.commands import decode as decode_command
from raftkv.kv.commands import encode as encode_command
from raftkv.kv.compaction import unswept
from raftkv.kv.leases import read_lease, read_table
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import Refused, Span
from raftkv.kv.requests import (
    AlarmKind,
    Checkpoint,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Range,
    Revoke,
    SetAlarm,
    SortOrder,
    SortTarget,
    Sweep,
    TakeOver,
    Txn,
)
from raftkv.kv.results import decode_result, encode_result
from raftkv.kv.sessions import KEPT_RESULT_BYTES_MAX
from raftkv.machine import Command
from raftkv.storage.base import Damage, Identity, Loss, Reader, Space, WitnessRecord
from raftkv.storage.memory import MemoryDisk, MemoryStore
from raftkv.storage.records import (
    FORMAT,
    decode_damage,
    decode_log_record,
    decode_mark,
    encode_damage,
    encode_mark,
    encode_membership,
    seal,
    unseal,
)
from raftkv.storage.witness import SLOT_BYTES, WitnessMark, decode_slot, encode_slot
from raftkv.testing.fuzz.targets import FRAME_BYTES_MAX, fix_entry
from raftkv.testing.fuzz.trial import Target

_MEMBERS: Final = Membership((1, 2, 3), (1, 2), (4,), (5,), True, (6, 7))
_IDENTITY: Final = Identity(11, 12, b"0123456789abcdef", 13, b"fedcba9876543210")
_WITNESSED: Final = WitnessRecord(_IDENTITY, 3, 1, 40, 2, 77)
_TXN: Final = Txn(
    (
        Compare(b"key", CompareTarget.VALUE, CompareResult.GREATER, b"given"),
        Compare(Span(b"from", None), CompareTarget.LEASE, CompareResult.NOT_EQUAL, 21),
    ),
    (Put(b"zoo", b"value", 21), DeleteSpan(Span(b"from", b"to")), Range(Span(b"a", None), 2)),
    (
        Txn(otherwise=(DeleteOne(b"key", previous=True),)),
        Range(Span(b"a", b"z"), 0, 2, SortOrder.DESCEND, SortTarget.MOD, True, False, 1, 9, 2, 8),
    ),
)
_COMMANDS: Final[tuple[KvCommand, ...]] = (
    Grant(21, 60),
    Put(b"key", b"value"),
    Put(b"key", b"value", 21, previous=True),
    Put(b"another", b"long" * 500),
    Put(b"key", b"", 21, ignore_value=True),
    OpenSession(22, 60),
    Once(2, 1, 0, encode_command(Put(b"once", b"value", previous=True))),
    Once(2, 2, 0, encode_command(_TXN)),
    _TXN,
    SetAlarm(11, AlarmKind.CORRUPT, True),
    TakeOver(3),
    Checkpoint(3, ((21, 40),), 5),
    Compact(3),
    Sweep(1),
    DeleteOne(b"key", previous=True),
)
_REMOVING: Final[tuple[KvCommand, ...]] = (
    Once(2, 3, 0, encode_command(OpenSession(23, 60))),
    Expire(3, (21, 22), 5),
    Revoke(21),
    DeleteSpan(Span(b"from", b"to")),
    DeleteSpan(Span(b"from", None), previous=True),
)


def _fix_record(data: bytes) -> bytes:
    return seal(data[1:-4])


def _read_mark(data: bytes) -> None:
    decode_mark(unseal(data, "mark"), "mark")


def _read_damage(data: bytes) -> None:
    decode_damage(unseal(data, "mark of damage"))


def _damages() -> Sequence[bytes]:
    damage = Damage(Loss.LOG, "table 7 fails its checksum")
    return [seal(encode_damage(damage, promised)) for promised in (None, _WITNESSED)]


def _fix_log_record(data: bytes) -> bytes:
    return fix_entry(data, len(FORMAT))


def _slots() -> Sequence[bytes]:
    return [encode_slot(WitnessMark(_WITNESSED, 2, loss), 5) for loss in (None, Loss.LOG, Loss.ALL)]


def _fix_slot(data: bytes) -> bytes:
    body = data[: SLOT_BYTES - 4].ljust(SLOT_BYTES - 4, b"\0")
    return body + crc32(body).to_bytes(4, "little")


def _check_kv_command(data: bytes) -> None:
    """It is read as nothing else, and every member does it or refuses it, beside others."""
    command = decode_command(data)
    if encode_command(command) != data:
        raise AssertionError(f"{command} would have been encoded as other bytes")
    store = _kv_store()
    machine = KvMachine()
    machine.open(store)
    with suppress(StorageFormatError):  # what a session carries may be of a newer version
        before, after = Command(1, encode_command(_TXN)), Command(1, encode_command(Revoke(21)))
        for result in machine.apply_durable([before, Command(2, data), after], store.batch()):
            if not isinstance(result, Refused):
                encode_result(result)


@cache
def _kv_store() -> MemoryStore:
    """A store with every kind of row. Nobody writes to it."""
    store = MemoryStore(MemoryDisk())
    machine = KvMachine()
    machine.open(store)
    batch = store.batch()
    commands = [encode_command(one) for one in _COMMANDS]
    machine.apply_durable([Command(1, one) for one in commands], batch)
    store.write(batch)
    return store


def _results() -> Sequence[bytes]:
    machine = KvMachine()
    machine.open(MemoryStore(MemoryDisk()))
    commands = [encode_command(one) for one in (*_COMMANDS, *_REMOVING)]
    batch = machine.store.batch()
    return [
        encode_result(one)
        for one in machine.apply_durable([Command(1, data) for data in commands], batch)
    ]


def _kv_rows() -> Sequence[bytes]:
    return [part for row in _kv_store().scan(Space.MACHINE) for part in row]


class _Everywhere(Reader):
    """A store in which these bytes are every row, and a row has them as its key."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get(self, space: Space, key: bytes) -> bytes:
        return self._data

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        yield self._data, self._data


_READERS: Final[Sequence[Callable[[bytes], object]]] = (
    lambda row: read_table(_Everywhere(row)),
    lambda row: read_lease(_Everywhere(row), 21),
    lambda row: read_alarms(_Everywhere(row)),
    lambda row: unswept(_Everywhere(row)),
    rows.lease_of,
    rows.value_bytes,
    rows.decode_head,
    rows.decode_version,
    lambda row: list(rows.decode_events(row)),
    lambda row: rows.key_value(b"key", rows.decode_ended(row)[1]),
    lambda row: rows.key_of_history_prefix(rows.split_history_key(row)[0]),
    rows.split_events_key,
)


def _read_kv_row(data: bytes) -> None:
    """As every kind of row: each reader takes it, or refuses it by itself."""
    for read in _READERS:
        with suppress(StorageCorruptError, StorageFormatError):
            read(data)


def _images() -> Sequence[bytes]:
    empty = b"".join(image.dump(MemoryStore(MemoryDisk())))
    return [b"".join(image.dump(_kv_store())), empty]


_IMAGE_HEAD: Final = len(next(image.dump(MemoryStore(MemoryDisk())))) - 8


def _fix_image(data: bytes) -> bytes:
    """The checksum of each group is right, as far as the groups are whole."""
    fixed = bytearray(data)
    head, at, crc = 0, _IMAGE_HEAD, 0
    while at + 8 <= len(fixed):
        count = int.from_bytes(fixed[at : at + 4], "little")
        place = at + 4 + 8 * count
        if place + 4 > len(fixed):
            break
        crc = crc32(fixed[head:place], crc)
        fixed[place : place + 4] = crc.to_bytes(4, "little")
        size = sum(
            int.from_bytes(fixed[start : start + 4], "little") for start in range(at + 4, place, 4)
        )
        head = at = place + 4 + size
        crc = crc32(fixed[place + 4 : at], crc)
    return bytes(fixed)


def _read_image(data: bytes) -> None:
    image.check_whole(image.restore(data, b"")[1])


def _check_image(data: bytes) -> None:
    """In pieces as in one."""
    found, carry = image.restore(data, b"")
    pieces: list[tuple[bytes, bytes]] = []
    rest, size = b"", max(1, len(data) // 5)
    for start in range(0, len(data), size):
        part, rest = image.restore(data[start : start + size], rest)
        pieces += part
    if (pieces, rest) != (found, carry):
        raise AssertionError("the rows depend on how the image is cut")


_REFUSALS: Final = (StorageCorruptError, StorageFormatError)
STORED_TARGETS: Final = (
    Target(
        name="log records",
        about="an entry of the log as stored",
        read=lambda data: decode_log_record(data, 31),
        refusals=_REFUSALS,
        valid=lambda: [FORMAT + encode_entry(Entry(2, 31, EntryKind.NORMAL, b"first", 41))],
        fix=_fix_log_record,
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="marks",
        about="a position in the log with the membership there",
        read=_read_mark,
        refusals=_REFUSALS,
        valid=lambda: [seal(encode_mark(4, 5, 6, encode_membership(_MEMBERS)) + b"data")],
        fix=_fix_record,
    ),
    Target(
        name="marks of damage",
        about="what a member lost, and what it had promised",
        read=_read_damage,
        refusals=_REFUSALS,
        valid=_damages,
        fix=_fix_record,
    ),
    Target(
        name="witness slots",
        about="the promise beside a store",
        read=lambda data: decode_slot(data, "witness"),
        refusals=_REFUSALS,
        valid=_slots,
        fix=_fix_slot,
        bytes_max=SLOT_BYTES + 8,
    ),
    Target(
        name="kv commands",
        about="commands of the KV",
        read=decode_command,
        check=_check_kv_command,
        refusals=(InvalidArgumentError, StorageFormatError),
        valid=lambda: [encode_command(one) for one in (*_COMMANDS, *_REMOVING)],
        bytes_max=FRAME_BYTES_MAX,
    ),
    Target(
        name="kv results",
        about="results that the KV keeps for its sessions",
        read=decode_result,
        refusals=_REFUSALS,
        valid=_results,
        bytes_max=KEPT_RESULT_BYTES_MAX,
    ),
    Target(
        name="kv rows",
        about="rows of the KV, as each kind that there is",
        read=_read_kv_row,
        refusals=_REFUSALS,
        valid=_kv_rows,
    ),
    Target(
        name="kv images",
        about="snapshots of the KV",
        read=_read_image,
        check=_check_image,
        refusals=_REFUSALS,
        valid=_images,
        fix=_fix_image,
        bytes_max=2**20,
    ),
)
