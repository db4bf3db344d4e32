"""Whether somebody can give back what is lost, as the damaged directory itself tells."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.core.log import chain_of
from raftkv.core.membership import encode_change
from raftkv.core.types import (
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MembershipChange,
    Snapshot,
)
from raftkv.errors import StorageCorruptError
from raftkv.storage.base import AppliedMark, Damage, Loss, Recovered, Space
from raftkv.storage.memory import MemoryDisk, MemoryStore, open_memory
from raftkv.storage.others import has_others, newest_membership, readable_membership
from raftkv.storage.reading import LogKeys
from tests.storage.member_model import CLUSTER, MEMBER, Writer

ALONE = Membership((MEMBER,), removed=())
GROWN = Membership((MEMBER, 8, 9), removed=())
SHRUNK = Membership((MEMBER,), removed=(8, 9))
WATCHED = Membership((MEMBER,), learners=(8,), removed=())
NOTHING = Membership()


@pytest.mark.parametrize(
    ("known", "said", "expected"),
    [
        (GROWN, False, True),
        (GROWN, True, True),
        (SHRUNK, False, False),
        (SHRUNK, True, False),
        (ALONE, False, False),
        (ALONE, True, True),  # what tells of the others may be just what is lost
        (WATCHED, False, False),
        (NOTHING, False, False),
        (NOTHING, True, True),
        (Membership((8, 9), learners=(MEMBER,)), False, True),
        (Membership((MEMBER,), outgoing=(MEMBER, 8)), False, True),
    ],
)
def test_other_voters_are_those_that_the_store_knows_of(
    known: Membership, said: bool, expected: bool
) -> None:
    assert has_others(MEMBER, known, said=said) is expected


def _change(kind: ChangeKind, node: int) -> bytes:
    return encode_change(MembershipChange((Change(kind, node),)))


def _lived(applied: Membership, changes: list[bytes], committed: int) -> MemoryDisk:
    """A disk with an image of the one membership, and changes after that in its log."""
    disk = MemoryDisk()
    storage = open_memory(CLUSTER, MEMBER, disk=disk)
    log, batch = storage.log, storage.store.batch()
    log.install_snapshot(batch, Snapshot(1, 0, 5, applied))
    chain, entries = 5, list[Entry]()
    for index, data in enumerate(changes, 2):
        chain = chain_of(chain, 1, index, EntryKind.CHANGE, data)
        entries.append(Entry(1, index, EntryKind.CHANGE, data, chain))
    log.append(batch, tuple(entries))
    log.save_hard_state(batch, HardState(1, MEMBER, 1 + committed))
    storage.store.write(batch)
    storage.sync(Writer(storage).promise())
    storage.close()
    return disk


def _behind(disk: MemoryDisk) -> None:
    """Let the witness know of an entry more than the store has."""
    mark = disk.witness.mark
    assert mark is not None
    promised = evolve(mark.record, last_index=mark.record.last_index + 1)
    disk.witness.mark = evolve(mark, record=promised)


def _open(disk: MemoryDisk, *, said: bool) -> Recovered:
    storage = open_memory(CLUSTER, MEMBER, disk=disk, can_recover=True, has_others=said)
    try:
        return storage.log.recover()
    finally:
        storage.close()


ADD = [_change(ChangeKind.LEARNER, 8), _change(ChangeKind.VOTER, 8)]


def test_who_grew_recovers_whatever_cluster_it_is_opened_with() -> None:
    disk = _lived(GROWN, [], 0)
    _behind(disk)
    for _ in range(2):
        assert _open(disk, said=False).damage is not None


def test_growth_that_is_only_in_the_log_counts_once_it_is_committed() -> None:
    grown = _lived(ALONE, ADD, 2)
    _behind(grown)
    assert _open(grown, said=False).damage is not None
    proposed = _lived(ALONE, ADD, 1)
    _behind(proposed)
    with pytest.raises(StorageCorruptError, match="alone in its cluster"):
        _open(proposed, said=False)


def test_who_is_the_last_one_does_not_wait_for_those_who_were_removed() -> None:
    disk = _lived(Membership((MEMBER, 8), removed=()), [_change(ChangeKind.REMOVE, 8)], 1)
    _behind(disk)
    before = disk.rows
    with pytest.raises(StorageCorruptError, match=r"was promised; as far as .* restore a backup"):
        _open(disk, said=True)
    assert disk.rows is before


def test_what_cannot_be_read_is_as_the_user_says() -> None:
    for said in (True, False):
        disk = _lived(GROWN, [], 0)
        store = MemoryStore(disk)
        batch = store.batch()
        batch.put(Space.META, LogKeys(0).applied, b"junk")
        store.write(batch)
        store.close()
        if said:
            assert _open(disk, said=True).damage is not None
            # Begun anew, it knows nobody: but it would not have been, were there nobody.
            assert _open(disk, said=False).damage is not None
        else:
            with pytest.raises(StorageCorruptError, match="open it with join="):
                _open(disk, said=False)


def test_a_change_that_cannot_be_ends_what_is_known() -> None:
    entry = Entry(1, 2, EntryKind.CHANGE, _change(ChangeKind.REMOVE, MEMBER), 0)
    assert newest_membership(AppliedMark(1, 0, 5, ALONE), (entry,), 9) == ALONE
    assert readable_membership(None) == NOTHING


def test_a_condemned_store_of_who_is_alone_keeps_what_it_has() -> None:
    for applied in (ALONE, SHRUNK):
        disk = _lived(applied, [], 0)
        storage = open_memory(CLUSTER, MEMBER, disk=disk)
        storage.condemn(Damage(Loss.LOG, "a row cannot be read"))
        before = storage.log.recover()
        storage.close()
        assert _open(disk, said=False) == before
        assert disk.notes.notes == {}
    disk = _lived(GROWN, [], 0)
    storage = open_memory(CLUSTER, MEMBER, disk=disk)
    storage.condemn(Damage(Loss.LOG, "a row cannot be read"))
    storage.close()
    assert _open(disk, said=False).damage is not None
