"""The records of a store: how each value is sealed, and what the shared ones look like.

A value begins with its format version and ends with a CRC-32 of what lies between. What fails its
checks is a StorageCorruptError that names the record.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final, NoReturn, cast
from zlib import crc32

from raftkv.core.types import Entry, Membership
from raftkv.encoding import Plain, decode_entry, dumps, loads
from raftkv.errors import StorageCorruptError, StorageFormatError, WireError
from raftkv.storage.base import AppliedMark, Damage, Identity, Loss, WitnessRecord

FORMAT: Final = b"\x01"
REBUILD: Final = (
    "remove this member from the cluster, empty its data directory and add it again, or restore a"
    " backup"
)
_CRC: Final = Struct("<I")
_MARK: Final = Struct("<QQQI")  # index, term, chain, length of the membership that follows
# loss, whether it comes with a promise (else zeros): cluster, member, disk uuid, boot, boot token,
# term, vote, last index/term/chain; the sentence follows
_DAMAGE: Final = Struct("<B?QQ16sQ16sQQQQQ")
_LOSSES: Final = (Loss.LOG, Loss.ALL)  # the order is on disk


def seal(body: bytes) -> bytes:
    """A record: format version, body, CRC-32 of the body."""
    return b"".join((FORMAT, body, _CRC.pack(crc32(body))))


def unseal(record: bytes, what: str) -> bytes:
    """The body of a record. Raises StorageCorruptError or StorageFormatError naming ``what``."""
    if len(record) < 1 + _CRC.size:
        corrupt(f"the {what} record is cut short")
    body = record[1 : -_CRC.size]
    if _CRC.unpack(record[-_CRC.size :])[0] != crc32(body):
        corrupt(f"the {what} record fails its checksum")
    check_format(record, what)
    return body


def check_format(record: bytes, what: str) -> None:
    """Raise StorageFormatError unless the record's version byte is ours."""
    if not record:
        corrupt(f"the {what} record is empty")
    if record[:1] != FORMAT:
        raise StorageFormatError(
            f"the {what} record is of storage format {record[0]}, this raftkv reads format"
            f" {FORMAT[0]}: open it with the raftkv version that wrote it"
        )


def corrupt(what: str) -> NoReturn:
    """Raise StorageCorruptError: what is wrong, and what to do."""
    raise StorageCorruptError(f"{what}; {REBUILD}")


def decode_log_record(record: bytes, index: int) -> Entry:
    """The entry in a record of the log, which should be ``index``."""
    check_format(record, f"log entry {index}")
    try:
        entry, stop = decode_entry(record, len(FORMAT))
    except WireError as error:
        corrupt(f"log entry {index} is damaged ({error})")
    if stop != len(record):
        corrupt(f"log entry {index} has {len(record) - stop} bytes too many")
    return entry


def encode_mark(index: int, term: int, chain: int, encoded_membership: bytes) -> bytes:
    """A position in the log with the membership in force there."""
    return _MARK.pack(index, term, chain, len(encoded_membership)) + encoded_membership


def decode_mark(body: bytes, what: str) -> tuple[AppliedMark, bytes]:
    """A position in the log, and the bytes that follow it."""
    try:
        index, term, chain, size = _MARK.unpack_from(body)
        membership = _decode_membership(loads(body[_MARK.size : _MARK.size + size]))
    except (StructError, WireError, TypeError, KeyError) as error:
        corrupt(f"the {what} record does not decode ({error})")
    return AppliedMark(index, term, chain, membership), body[_MARK.size + size :]


def encode_damage(damage: Damage, promised: WitnessRecord | None) -> bytes:
    """A mark of damage, with what has to be there again if that is known."""
    it = promised or _NO_PROMISE
    who = it.identity
    body = _DAMAGE.pack(
        _LOSSES.index(damage.loss),
        promised is not None,
        who.cluster_id,
        who.member_id,
        who.disk_uuid,
        who.boot,
        who.boot_token,
        it.term,
        it.vote,
        it.last_index,
        it.last_term,
        it.last_chain,
    )
    return body + damage.what.encode()


def decode_damage(body: bytes) -> tuple[Damage, WitnessRecord | None]:
    """What ``encode_damage`` made. Raises StorageCorruptError."""
    try:
        loss, is_promised, cluster, member, uuid, boot, token, *promise = _DAMAGE.unpack_from(body)
        damage = Damage(_LOSSES[cast("int", loss)], body[_DAMAGE.size :].decode())
    except (StructError, IndexError, UnicodeDecodeError) as error:
        corrupt(f"the mark of damage does not decode ({error})")
    if not is_promised:
        return damage, None
    return damage, WitnessRecord(Identity(cluster, member, uuid, boot, token), *promise)


def encode_membership(membership: Membership) -> bytes:
    """A membership in CBOR."""
    return dumps(
        {
            "voters": membership.voters,
            "outgoing": membership.outgoing,
            "learners": membership.learners,
            "learners_next": membership.learners_next,
            "auto_leave": membership.auto_leave,
            "removed": membership.removed,
        }
    )


def _decode_membership(value: Plain) -> Membership:
    if type(value) is not dict:
        raise TypeError("a membership is a map")
    auto_leave = value["auto_leave"]
    if type(auto_leave) is not bool:
        raise TypeError("auto_leave is true or false")
    return Membership(
        _ids(value["voters"]),
        _ids(value["outgoing"]),
        _ids(value["learners"]),
        _ids(value["learners_next"]),
        auto_leave,
        None if value["removed"] is None else _ids(value["removed"]),
    )


def _ids(value: Plain) -> tuple[int, ...]:
    if type(value) is not list or not all(type(node) is int for node in value):
        raise TypeError("member ids are a list of numbers")
    return tuple(cast("list[int]", value))


_NO_PROMISE: Final = WitnessRecord(Identity(0, 0, bytes(16), 0), 0, 0, 0, 0, 0)
