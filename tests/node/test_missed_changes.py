"""Members that were away while the members changed: others tell them who they are now.

Found by clusters in simulation (level 2, seeds 15, 75 and 147).
"""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve

from raftkv.core import Config, Membership, Snapshot, start
from raftkv.encoding import dumps
from raftkv.node.admission import Admission
from raftkv.node.changes import Changes
from raftkv.node.disks import Disks
from raftkv.node.peers import Peers
from raftkv.node.roster import Member, Roster, Told, decode_told, encode_roster, encode_told
from raftkv.node.settings import Settings
from raftkv.node.waiters import InFlight
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Identity
from raftkv.storage.memory import open_memory
from raftkv.testing.nodes import SimCluster, run_virtual
from raftkv.transport.base import Hello
from raftkv.transport.memory import MemoryNetwork

NONSENSE = [
    dumps({"index": 20, "members": [], "voters": voters}) for voters in (1, ["4"], [4] * 65)
]
SETTINGS = Settings(tick_seconds=0.02, election_ticks=10, ballast_bytes=0)


def _member(number: int) -> Member:
    return Member(number, f"n{number}", f"n{number}:1")


def _changes() -> tuple[Changes, Peers]:
    identity = Identity(5, 1, b"m" * 16, 1, b"m" * 16)
    members = tuple(_member(number) for number in (1, 2, 3))
    peers = Peers(members[0], members, 5, Disks(open_memory(5, 1).store, identity))
    transport = MemoryNetwork(system_runtime()).endpoint("n1:1")
    return Changes(Roster(members, 10), peers, transport, InFlight(1, 1), 10), peers


def _told(*numbers: int, index: int = 20) -> bytes:
    return encode_roster(Roster(tuple(_member(number) for number in numbers), index))


def _hello(member: int) -> Hello:
    return Hello(5, member, b"d" * 16, 1, boot_token=b"t" * 16, last_index=0)


def test_who_missed_that_the_leader_became_a_member_catches_up() -> None:
    async def main() -> None:
        async with SimCluster(size=3, settings=SETTINGS) as cluster:
            leader = await cluster.leader()
            away = next(name for name in cluster.names if name != leader.name)
            with cluster.isolate(away):
                new = await cluster.add()
                await (await cluster.leader()).transfer_leadership(new.name)
                await new.kv.put("a", b"1")
            await cluster.node(away).ready(timeout=5)
            assert cluster.node(away).status().leader_name == new.name

    run_virtual(main)


def test_a_learner_that_missed_that_the_leader_became_a_member_catches_up() -> None:
    """It does not campaign, and goes on taking the one it heard last for the leader."""

    async def main() -> None:
        async with SimCluster(size=3, settings=SETTINGS) as cluster:
            old = await cluster.leader()
            away = await cluster.add(promote=False)
            others = [name for name in cluster.names if name not in (old.name, away.name)]
            with cluster.partition([old.name, away.name], others):
                await cluster.leader()
                new = await cluster.add()
                await (await cluster.leader()).transfer_leadership(new.name)
                await new.kv.put("a", b"1")
            await anyio.sleep(5)
            assert away.status().leader_name == new.name
            assert away.status().applied == new.status().applied

    run_virtual(main)


def test_who_missed_that_others_left_does_not_wait_for_them_when_it_is_back() -> None:
    async def main() -> None:
        async with SimCluster(size=5, settings=SETTINGS) as cluster:
            await cluster.leader()
            cluster.crash("n5")
            for name in ("n1", "n2"):
                await cluster.remove(name)
                await cluster.failed(name)
            await cluster.leader()
            cluster.crash("n4")
            node = await cluster.start("n5")
            await node.ready(timeout=10)  # two of the three members that there are
            await node.kv.put("a", b"1")

    run_virtual(main)


def test_members_that_others_tell_of_may_come_in() -> None:
    changes, peers = _changes()
    assert peers.refusal(_hello(4)) is not None
    changes.hear(_told(1, 2, 3, 4))
    assert peers.refusal(_hello(4)) is None
    assert peers.addresses == {2: "n2:1", 3: "n3:1", 4: "n4:1"}
    assert peers.name_of(4) == "n4"
    moved = Roster((_member(1), Member(2, "n2", "elsewhere:1"), _member(4)), 21)
    changes.hear(encode_roster(moved))
    assert peers.addresses == {2: "elsewhere:1", 3: "n3:1", 4: "n4:1"}
    peers.adopt(peers.members, frozenset({4}))
    assert peers.refusal(_hello(4)) is not None
    assert 4 not in peers.addresses


@pytest.mark.parametrize("told", [_told(1, 4, index=10), b"", b"\xff", _told(4)[:-1], *NONSENSE])
def test_who_knows_no_more_or_tells_nonsense_is_not_heard(told: bytes) -> None:
    changes, peers = _changes()
    changes.hear(told)
    assert peers.refusal(_hello(4)) is not None
    three = Membership((1, 2, 3))
    assert changes.remaining(three) is three


def test_voters_that_are_gone_are_not_waited_for() -> None:
    changes, _ = _changes()
    changes.hear(_told(1, 3, 4))
    assert changes.remaining(Membership((1, 2, 3), (2, 3))) == Membership((1, 3), (3,))
    changes.hear(_told(1, 2, 3, index=15))  # older than what is known
    assert changes.remaining(Membership((1, 2, 3))).voters == (1, 3)
    changes.hear(_told(3, 4, index=30))  # so are we, but that is for the log to tell
    assert changes.remaining(Membership((1, 2, 3))).voters == (1, 3)


def test_the_voters_that_others_tell_of_are_asked_and_no_others() -> None:
    """Of those who voted when an old disk was copied perhaps nobody has seen its newer boot."""
    changes, _ = _changes()
    old = Membership((1, 2, 3))
    members = Roster(tuple(_member(number) for number in (1, 2, 4, 5, 6)), 20)
    changes.hear(encode_told(members, None))
    assert changes.remaining(old).voters == (1, 2), "who votes now was not told"
    changes.hear(encode_told(members, Membership((1, 4, 5, 6), (1, 2), (2,))))
    assert changes.remaining(old) == Membership((1, 4, 5, 6), (1, 2))
    admission = Admission(Identity(5, 1, b"m" * 16, 7, b"m" * 16), 10)
    admission.seen_by(2)
    admission.seen_by(4)
    admission.look(changes.remaining(old))
    assert not admission.is_open, "one of three other voters"
    admission.seen_by(5)
    admission.look(changes.remaining(old))
    assert admission.is_open
    changes.hear(encode_told(evolve(members, index=30), Membership((1,), (), (2, 4, 5, 6))))
    assert changes.remaining(old).voters == (1, 2), "nobody else could be asked"


def test_what_is_told_names_the_voters_where_they_are_known() -> None:
    changes, _ = _changes()
    base = Snapshot(10, 1, 0, Membership((1, 2), (), (3,)))
    told = decode_told(changes.told(start(Config(id=1), snapshot=base, applied=10)))
    assert (told.roster, told.voters, told.outgoing) == (changes.roster, (1, 2), ())
    base = evolve(base, index=9)
    told = decode_told(changes.told(start(Config(id=1), snapshot=base, applied=9)))
    assert told == Told(changes.roster), "the roster is of a later membership"


def test_who_is_told_to_be_the_only_member_asks_those_it_knows() -> None:
    changes, _ = _changes()
    changes.hear(_told(1))
    assert changes.remaining(Membership((1, 2, 3))).voters == (1, 2, 3)


def test_who_knows_none_of_the_members_takes_no_part_before_they_have_seen_it() -> None:
    changes, _ = _changes()
    changes.hear(_told(1, 4, 5))
    admission = Admission(Identity(5, 1, b"m" * 16, 7, b"m" * 16), 10)
    now = changes.remaining(Membership((1, 2, 3), (2, 3)))
    assert now == Membership((1, 4, 5), (1, 4, 5))
    admission.look(now)
    assert not admission.is_open
    admission.seen_by(4)
    admission.seen_by(5)
    admission.look(now)
    assert admission.is_open
