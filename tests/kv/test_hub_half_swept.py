"""Watchers on a member so late that it puts, compacts and half sweeps in one slice."""

from __future__ import annotations

import pytest

from raftkv.errors import StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING
from raftkv.kv.requests import Compact, DeleteOne, Put, Sweep, Txn
from raftkv.storage.base import Space
from tests.kv.watchers import Collector, Member

SHORT_LIVED = Txn(
    then=(
        Txn(then=(Put(b"k", b"put and deleted in one revision"),)),
        Txn(then=(DeleteOne(b"k"),)),
        Put(b"x", b""),
    )
)


@pytest.mark.parametrize("events", range(1, 6))
@pytest.mark.parametrize("previous", [False, True])
def test_a_revision_that_is_half_swept_when_it_is_seen_is_told_as_compacted(
    events: int, previous: bool
) -> None:
    member = Member(limits=None)
    reader = Collector(member, Wanted(EVERYTHING, previous), 0)
    member.do(SHORT_LIVED, Put(b"y", b""), Compact(3), Sweep(events))
    reader.drain()
    # The sweep of one event has removed nothing yet: what is there may as well be shown.
    assert reader.compacted == 3 or [change.revision for change in reader.got] == [2, 3]
    assert events == 1 or reader.compacted == 3
    Collector(member, Wanted(EVERYTHING), 3).drain().check()


def test_a_version_that_is_missing_above_the_floor_is_never_passed_over() -> None:
    member = Member(limits=None)
    Collector(member, Wanted(EVERYTHING), 0)
    member.propose(SHORT_LIVED)
    member.rig.apply(member.pending)
    batch = member.rig.store.batch()
    batch.delete_range(Space.MACHINE, rows.HISTORY, rows.HISTORY_STOP)
    member.rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match="missing"):
        member.hub.rows_written()
