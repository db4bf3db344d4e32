"""Alarms that members raised, and what the store refuses meanwhile.

An alarm is a row for its kind and the member that raised it; the head knows which kinds there are.
It stands until somebody disarms it, however often the member starts anew: that there is room again
is a matter for a person, or for who freed it.

``NO_SPACE``, as in etcd: puts, transactions with a put in either branch, and grants of leases are
refused, those for client sessions included; reads, deletes, compaction, revoking and expiry go on,
so that room can be made, also in sessions that are open, although these keep what such commands
gave until it is answered. (etcd 3.4 overlooks puts in a transaction inside a transaction; here they
are refused, too.) ``CORRUPT`` is kept and shown, and refuses nothing: a member whose data differs
from that of the others stops.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from raftkv.errors import StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.engine import Slice
from raftkv.kv.model import Done, KvResult, Refusal, Refused
from raftkv.kv.requests import (
    AlarmKind,
    Grant,
    KvCommand,
    OpenSession,
    Operation,
    Put,
    SetAlarm,
    Txn,
)
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE
_ALARM: Final = struct.Struct(">cBQ")
_KIND: Final = struct.Struct(">cB")

NO_SPACE_TEXT: Final = (
    "mvcc: database space exceeded: the store is at its quota; delete keys, compact, and disarm the"
    " alarm, or raise the quota and disarm it"
)


def set_alarm(writes: Slice, command: SetAlarm) -> KvResult:
    """Raise or disarm the alarm of one member; what is so already stays so."""
    kind = command.kind
    place = _ALARM.pack(rows.ALARMS, kind, command.member)
    if command.active:
        writes.put_row(place, b"")
    elif writes.get(_MACHINE, place) is not None:
        writes.delete_row(place)
    bounds = _KIND.pack(rows.ALARMS, kind), _KIND.pack(rows.ALARMS, kind + 1)
    is_raised = any(True for _ in writes.scan(_MACHINE, *bounds))
    writes.alarms = writes.alarms | 1 << kind if is_raised else writes.alarms & ~(1 << kind)
    return Done(writes.revision)


@frozen(slots=True)
class KvAlarm:
    """An alarm that the member with that id raised."""

    kind: AlarmKind
    member: int


def read_alarms(reader: Reader) -> tuple[KvAlarm, ...]:
    """Every alarm raised, in order."""
    found: list[KvAlarm] = []
    for row_key, _ in reader.scan(_MACHINE, rows.ALARMS, bytes((rows.ALARMS[0] + 1,))):
        try:
            _, kind, member = _ALARM.unpack(row_key)
            found.append(KvAlarm(AlarmKind(kind), member))
        except (struct.error, ValueError) as error:
            raise StorageCorruptError(
                f"the key of a KV alarm row is not what raftkv wrote ({row_key.hex()}); "
                "remove this member's data directory and let it join again, or restore a backup"
            ) from error
    return tuple(found)


def refuse(writes: Slice, command: KvCommand) -> Refused | None:
    """Why ``command`` may not be applied while the alarms are raised; None if it may.

    Called only while there are any.
    """
    if writes.alarms & 1 << AlarmKind.NO_SPACE and takes_room(command):
        return Refused(NO_SPACE_TEXT, Refusal.NO_SPACE)
    return None


def takes_room(command: KvCommand) -> bool:
    """Whether ``command`` may make the store larger in a way that the quota is about."""
    if isinstance(command, Txn):
        return _puts(command.then) or _puts(command.otherwise)
    return isinstance(command, Put | Grant | OpenSession)


def _puts(operations: Iterable[Operation]) -> bool:
    return any(
        isinstance(one, Put) or (isinstance(one, Txn) and (_puts(one.then) or _puts(one.otherwise)))
        for one in operations
    )
