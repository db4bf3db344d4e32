"""Who may come in: members, with the disk they had, and no earlier than they were."""

from __future__ import annotations

from raftkv.node.peers import Member, Peers
from raftkv.storage.base import Store
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Hello

MEMBERS = tuple(Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))


def _peers(store: Store) -> Peers:
    return Peers(MEMBERS[0], MEMBERS, 5, store)


def _hello(member: int = 2, boot: int = 3, disk: bytes = b"d" * 16, cluster: int = 5) -> Hello:
    return Hello(cluster, member, disk, boot)


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
    assert "cluster" in (peers.refusal(_hello(cluster=6)) or "")
    assert "not of this cluster" in (peers.refusal(_hello(member=9)) or "")
    assert peers.refusal(_hello(member=1)) is not None  # ourselves


def test_another_disk_or_an_earlier_start_is_refused_also_after_our_restart() -> None:
    storage = open_memory(5, 1)
    peers = _peers(storage.store)
    peers.up(2, _hello())
    assert peers.is_up(2)
    assert peers.has_unsaved
    batch = storage.store.batch()
    peers.save(batch)
    assert not peers.has_unsaved
    storage.store.write(batch)
    for known in (peers, _peers(storage.store)):
        assert known.refusal(_hello()) is None
        assert known.refusal(_hello(boot=4)) is None
        assert "back in time" in (known.refusal(_hello(boot=2)) or "")
        assert "data directory" in (known.refusal(_hello(disk=b"e" * 16)) or "")
        assert known.refusal(_hello(member=3, boot=1)) is None
    peers.down(2)
    assert not peers.is_up(2)
