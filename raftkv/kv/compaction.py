"""Forgetting the past: first the floor moves, then the rows below it go, some at a time."""

from __future__ import annotations

from raftkv.kv.engine import Slice
from raftkv.kv.model import CompactResult, Done, KvResult, Refusal, Refused
from raftkv.kv.requests import Compact, Sweep


def compact(writes: Slice, command: Compact) -> KvResult:
    """Move the floor."""
    if command.revision > writes.revision:
        return Refused(
            "required revision is a future revision", Refusal.FUTURE_REVISION, writes.revision
        )
    if command.revision <= writes.floor:
        return Refused("required revision has been compacted", Refusal.COMPACTED, writes.floor)
    writes.floor = command.revision
    return CompactResult(writes.revision, writes.floor)


def sweep(writes: Slice, command: Sweep) -> KvResult:
    """Remove rows that no revision from the floor on needs."""
    return Done(writes.revision)
