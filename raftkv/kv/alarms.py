"""Alarms that a member raised, and what the store refuses meanwhile."""

from __future__ import annotations

from raftkv.kv.engine import Slice
from raftkv.kv.model import Done, KvResult, Refusal, Refused
from raftkv.kv.requests import AlarmKind, KvCommand, SetAlarm


def set_alarm(writes: Slice, command: SetAlarm) -> KvResult:
    """Raise or disarm an alarm."""
    bit = 1 << command.kind
    writes.alarms = writes.alarms | bit if command.active else writes.alarms & ~bit
    return Done(writes.revision)


def refuse(writes: Slice, command: KvCommand) -> Refused | None:
    """Why ``command`` may not be applied while the alarms are raised; None if it may.

    Called only while there are any.
    """
    if writes.alarms & 1 << AlarmKind.NO_SPACE:
        return Refused("mvcc: database space exceeded", Refusal.NO_SPACE)
    return None
