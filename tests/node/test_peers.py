"""Who may come in: members, with the disk they had, and no earlier than they were."""

from __future__ import annotations

from raftkv.node.peers import Member, Peers
from raftkv.storage.base import Store
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Hello

MEMBERS = tuple(Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))


def _peers(store: Store) -> Peers:
    return Peers(MEMBERS[0], MEMBERS, 5, store)


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
    peers.save(batch)
    assert not peers.has_unsaved
    assert not peers.must_sync
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
    assert "not of this cluster" in _sentence(peers, _hello(member=9))
    assert peers.refusal(_hello(member=1)) is not None  # ourselves


def test_another_disk_or_an_earlier_start_is_refused_also_after_our_restart() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello())
    assert peers.is_up(2)
    assert peers.has_unsaved
    assert peers.must_sync
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
        assert "remove the member, then add it anew" in refusal
        assert known.refusal(_hello(boot=4, token=b"u" * 16)) is None


def test_a_new_start_whose_log_ends_before_what_it_acknowledged_is_refused() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.acknowledged(2, 7)  # nobody whom we have seen
    assert not peers.has_unsaved
    peers.up(2, _hello(last_index=5))
    peers = _saved(peers, storage.store)
    peers.acknowledged(2, 9)
    assert peers.has_unsaved
    assert not peers.must_sync
    peers.acknowledged(2, 8)  # less than is known
    for known in (peers, _saved(peers, storage.store)):
        assert known.refusal(_hello(last_index=5)) is None  # a connection of the same start
        refusal = _sentence(known, _hello(boot=4, last_index=8))
        assert "start 4 has a log up to entry 8, start 3 acknowledged entry 9" in refusal
        assert known.refusal(_hello(boot=4, last_index=9)) is None
        known.up(2, _hello(boot=4, last_index=9))
        assert "entry 9" in _sentence(known, _hello(boot=5, last_index=8))
