"""Who may come in: members, with the disk they had, and no earlier than they were."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.errors import StorageFormatError, WireError
from raftkv.node.disks import Disks
from raftkv.node.notes import Booted
from raftkv.node.peers import Member, Peers
from raftkv.storage.base import Identity, Space, Store
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Code, Hello

ME = Identity(5, 1, b"m" * 16, 1, b"m" * 16)
MEMBERS = tuple(Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))


def _peers(store: Store) -> Peers:
    return Peers(MEMBERS[0], MEMBERS, 5, Disks(store, ME))


def _hello(
    member: int = 2,
    boot: int = 3,
    disk: bytes = b"d" * 16,
    cluster: int = 5,
    token: bytes = b"t" * 16,
    last_index: int = 0,
) -> Hello:
    return Hello(cluster, member, disk, boot, boot_token=token, last_index=last_index)


def _sentence(peers: Peers, hello: Hello) -> str:
    refusal = peers.refusal(hello)
    return "" if refusal is None else refusal.sentence


def _saved(peers: Peers, store: Store) -> Peers:
    """What is known after a restart."""
    batch = store.batch()
    peers.disks.save(batch)
    assert not peers.disks.has_unsaved
    assert not peers.disks.must_sync
    store.write(batch)
    return _peers(store)


def test_members_are_found_by_name_and_id() -> None:
    peers = _peers(open_memory(5, 1).store)
    assert peers.member("n2") == peers.member(2) == MEMBERS[1]
    assert peers.member("n9") is None
    assert peers.name_of(3) == "n3"
    assert peers.name_of(0) == ""
    assert peers.address_of(9) == ""
    assert dict(peers.addresses) == {2: "n2:1", 3: "n3:1"}


def test_strangers_are_refused_with_a_reason() -> None:
    peers = _peers(open_memory(5, 1).store)
    assert peers.refusal(_hello()) is None
    assert "cluster" in _sentence(peers, _hello(cluster=6))
    assert _sentence(peers, _hello(member=0x9F)) == "member 9f is not of this cluster"
    assert peers.refusal(_hello(member=1)) is not None  # ourselves


def test_a_removed_leader_is_let_in_until_it_has_gone_but_not_with_another_disk() -> None:
    peers = _peers(open_memory(5, 1).store)
    peers.disks.met(_hello())
    peers.adopt(MEMBERS[:1] + MEMBERS[2:], frozenset({2}))
    refused = peers.refusal(_hello())
    assert refused is not None
    assert refused.code is Code.REMOVED
    assert _sentence(peers, _hello()).startswith("member 2 was removed from this cluster")
    peers.removals_are_settled = bool
    peers.hear(MEMBERS)
    assert _sentence(peers, _hello()).startswith("member n2 is being removed; others may")
    peers.departing = 2
    assert peers.refusal(_hello()) is None
    assert "not the one it had" in _sentence(peers, _hello(disk=b"e" * 16))
    assert "went back in time" in _sentence(peers, _hello(boot=2))


def test_another_disk_or_an_earlier_start_is_refused_also_after_our_restart() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello())
    assert peers.is_up(2)
    assert peers.disks.has_unsaved
    assert peers.disks.must_sync
    for known in (peers, _saved(peers, storage.store)):
        assert known.refusal(_hello()) is None
        assert known.refusal(_hello(boot=4)) is None
        assert "back in time" in _sentence(known, _hello(boot=2))
        assert "data directory" in _sentence(known, _hello(disk=b"e" * 16))
        assert known.refusal(_hello(member=3, boot=1)) is None
    peers.down(2)
    assert not peers.is_up(2)


def test_another_copy_opened_equally_often_is_refused_also_after_our_restart() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello())
    for known in (peers, _saved(peers, storage.store)):
        refusal = _sentence(known, _hello(token=b"u" * 16))
        assert "another start 3" in refusal
        assert "may come in to recover" in refusal
        assert known.refusal(_hello(boot=4, token=b"u" * 16)) is None


def test_a_new_start_whose_log_ends_before_what_it_acknowledged_is_refused() -> None:
    storage = open_memory(5, 1)
    peers = _saved(_peers(storage.store), storage.store)
    peers.disks.acknowledged(2, 7)  # nobody whom we have seen
    assert not peers.disks.has_unsaved
    peers.up(2, _hello(last_index=5))
    peers = _saved(peers, storage.store)
    peers.disks.acknowledged(2, 9)
    assert peers.disks.has_unsaved
    assert not peers.disks.must_sync
    peers.disks.acknowledged(2, 8)  # less than is known
    for known in (peers, _saved(peers, storage.store)):
        assert known.refusal(_hello(last_index=5)) is None  # a connection of the same start
        refusal = _sentence(known, _hello(boot=4, last_index=8))
        assert "start 4 has a log up to entry 8, start 3 acknowledged entry 9" in refusal
        assert known.refusal(_hello(boot=4, last_index=9)) is None
        known.up(2, _hello(boot=4, last_index=9))
        assert "entry 9" in _sentence(known, _hello(boot=5, last_index=8))


def test_who_went_back_in_time_is_told_so_and_let_in_to_recover_but_not_with_another_disk() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello(boot=7))
    for known in (peers, _saved(peers, storage.store)):
        for late in (_hello(boot=5, token=b"u" * 16), _hello(boot=7, token=b"u" * 16)):
            refusal = known.refusal(late)
            assert refusal is not None
            assert refusal.code == Code.REGRESSED
            assert known.refusal(evolve(late, recovering=True)) is None
        other = known.refusal(_hello(boot=8, disk=b"e" * 16))
        assert other is not None
        assert other.code == Code.IDENTITY
        assert "remove the member, then add it anew" in other.sentence
        assert known.refusal(_hello(boot=8, disk=b"e" * 16)) == other
        assert known.refusal(evolve(_hello(disk=b"e" * 16), recovering=True)) == other


def test_an_old_copy_that_recovered_is_known_and_what_came_between_is_not_its_future() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello(boot=7))
    copy = _hello(boot=5, token=b"u" * 16)
    peers.up(2, evolve(copy, recovering=True))
    for known in (peers, _saved(peers, storage.store)):
        assert known.refusal(copy) is None  # it is whole again, and says so
        for boot in (6, 7):  # the original's, or the copy's next: nobody can tell
            refusal = known.refusal(_hello(boot=boot))
            assert refusal is not None
            assert refusal.code == Code.REGRESSED
        assert known.refusal(_hello(boot=8)) is None


def test_a_boot_is_durable_once_its_save_is() -> None:
    storage = open_memory(5, 1)
    disks = _peers(storage.store).disks
    disks.met(_hello())
    batch = storage.store.batch()
    saved = disks.save(batch)
    disks.met(_hello(member=3))
    assert not disks.is_durable(_hello())
    disks.saved(saved)
    assert disks.is_durable(_hello())
    assert not disks.is_durable(_hello(member=3))
    assert not disks.is_durable(_hello(boot=4))
    storage.store.write(batch)
    assert Disks(storage.store, ME).is_durable(_hello())


@pytest.mark.parametrize("source", ["another member", "the log"])
def test_a_boot_that_was_heard_of_before_it_came_becomes_durable_all_the_same(source: str) -> None:
    # Found by a cluster in simulation: such a member was never greeted, and waited for ever.
    storage = open_memory(5, 1)
    disks, other = Disks(storage.store, ME), Disks(open_memory(5, 3).store, evolve(ME, member_id=3))
    other.met(_hello())
    if source == "another member":
        disks.hear(other.told())
    else:
        disks.logged(next(booted for booted in other.unlogged() if booted.member == 2))
    disks.save(storage.store.batch())  # with the next batch: nobody waits for it
    assert not disks.is_durable(_hello())
    disks.met(_hello())
    assert disks.must_sync
    disks.saved(disks.save(storage.store.batch()))
    assert disks.is_durable(_hello())


def test_what_one_member_knows_of_disks_another_learns_if_it_is_newer() -> None:
    one, two = (_peers(open_memory(5, 1).store).disks for _ in range(2))
    one.met(_hello(boot=7))
    two.met(_hello(boot=6))
    met = _hello(boot=6)
    assert not two.is_outdated(met)
    two.hear(one.told())
    assert two.is_outdated(met)
    refusal = two.refusal(_hello(boot=6))
    assert refusal is not None
    assert refusal.code == Code.REGRESSED
    assert one.told() == two.told()
    assert not two.is_regressed
    one.hear(_peers(open_memory(5, 1).store).disks.told())  # who knows less teaches nothing
    assert one.told() == two.told()
    with pytest.raises(WireError, match="table of disks"):
        two.hear(b"half a row")


def test_a_copy_that_was_let_in_to_recover_does_not_hide_the_highest_boot_from_others() -> None:
    one, two = (_peers(open_memory(5, 1).store).disks for _ in range(2))
    one.met(_hello(boot=7))
    one.met(evolve(_hello(boot=5), recovering=True))
    two.met(_hello(boot=5))
    two.hear(one.told())
    assert two.refusal(_hello(boot=5)) is None
    refusal = two.refusal(_hello(boot=6))
    assert refusal is not None
    assert refusal.code == Code.REGRESSED


@pytest.mark.parametrize(
    ("boot", "token", "regressed"),
    [(1, b"m", False), (2, b"m", True), (1, b"x", True)],
)
def test_a_member_hears_that_its_own_disk_is_an_old_copy(
    boot: int, token: bytes, regressed: bool
) -> None:
    other = Disks(open_memory(5, 2).store, Identity(5, 2, b"d" * 16, 3))
    other.met(_hello(member=1, disk=b"m" * 16, boot=boot, token=token * 16))
    by_table, by_log = (Disks(open_memory(5, 1).store, ME) for _ in range(2))
    by_table.hear(other.told())
    assert by_table.is_regressed == regressed
    by_log.logged(Booted(1, b"m" * 16, boot, token * 16))
    assert by_log.is_regressed == regressed


def test_the_log_tells_every_boot_once() -> None:
    storage = open_memory(5, 1)
    disks = _peers(storage.store).disks
    disks.met(_hello(boot=7))
    notes = list(disks.unlogged())
    assert notes == [Booted(1, b"m" * 16, 1, b"m" * 16), Booted(2, b"d" * 16, 7, b"t" * 16)]
    for note in notes:
        disks.logged(note)
    assert list(disks.unlogged()) == []
    batch = storage.store.batch()
    disks.save(batch)
    storage.store.write(batch)
    assert list(Disks(storage.store, ME).unlogged()) == []
    disks.met(_hello(boot=8))
    assert [note.boot for note in disks.unlogged()] == [8]
    disks.met(evolve(_hello(boot=5), recovering=True))
    assert list(disks.unlogged()) == []


def test_a_table_of_strangers_does_not_grow_beyond_what_can_be_told_on() -> None:
    store = open_memory(5, 1).store
    peers = _peers(store)
    told = b"".join(
        number.to_bytes(8, "little")
        + b"d" * 16
        + (7).to_bytes(8, "little")
        + b"t" * 16
        + (7).to_bytes(8, "little")
        for number in range(100, 10_000)
    )
    peers.disks.hear(told)
    assert peers.disks.count == 4096
    assert len(peers.disks.told()) < 256 * 1024
    # Those who matter are learned all the same, and what is new of those who are known.
    assert peers.refusal(_hello(2)) is None
    peers.disks.met(_hello(2))
    peers.disks.logged(Booted(3, b"e" * 16, 2, b"t" * 16))
    assert peers.disks.knows(2)
    assert peers.disks.knows(3)
    newer = (2).to_bytes(8, "little") + b"d" * 16 + (9).to_bytes(8, "little") + b"u" * 16
    peers.disks.hear(newer + (9).to_bytes(8, "little"))
    assert "start 3 after 9" in _sentence(peers, _hello(2, token=b"v" * 16))


def test_of_two_directories_of_one_member_the_log_says_which_counts() -> None:
    store = open_memory(5, 1).store
    peers = _peers(store)
    other, right = _hello(disk=b"o" * 16, token=b"o" * 16), _hello(disk=b"r" * 16, token=b"r" * 16)
    peers.disks.met(other)
    peers.disks.acknowledged(2, 9)
    for one in (right, other):  # the second is of somebody who led without having heard the first
        peers.disks.logged(Booted(2, one.disk_uuid, one.boot, one.boot_token))
        assert peers.disks.is_outdated(other)
    peers = _saved(peers, store)
    assert peers.refusal(right) is None
    assert peers.refusal(evolve(right, boot=4, boot_token=b"s" * 16)) is None
    refusal = peers.refusal(other)
    assert refusal is not None
    assert refusal.code == Code.IDENTITY
    # It stays so with a boot of the right one that the log does not tell of yet, after a restart.
    peers.disks.met(evolve(right, boot=4, boot_token=b"s" * 16))
    peers = _saved(peers, store)
    assert [note.boot for note in peers.disks.unlogged() if note.member == 2] == [4]
    peers.disks.logged(Booted(2, other.disk_uuid, 9, other.boot_token))
    assert peers.refusal(evolve(right, boot=5)) is None
    # Of ourselves we know it.
    peers.disks.logged(Booted(1, b"o" * 16, 1, b"o" * 16))
    assert not peers.disks.is_regressed


@pytest.mark.parametrize("row", [b"", b"\x01short", b"\x02" + bytes(65)])
def test_a_record_of_another_format_is_refused_by_name(row: bytes) -> None:
    store = open_memory(5, 1).store
    batch = store.batch()
    batch.put(Space.META, b"peer/" + bytes(8), row)
    store.write(batch)
    with pytest.raises(StorageFormatError, match="upgrade raftkv"):
        _peers(store)
