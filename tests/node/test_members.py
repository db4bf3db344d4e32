"""Members come and go while the cluster works: grown, shrunk, replaced, moved, refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

import raftkv
from raftkv.core import (
    Campaign,
    Change,
    ChangeKind,
    EntryKind,
    ForwardProposal,
    Membership,
    MembershipChange,
    Payload,
)
from raftkv.core.membership import encode_change
from raftkv.errors import (
    ConfigError,
    DeadlineError,
    InvalidArgumentError,
    MembershipError,
    OutcomeUnknownError,
    RemovedError,
    UnavailableError,
)
from raftkv.kv import KvResult
from raftkv.node.roster import ChangeNote, Member, encode_change_note
from raftkv.node.settings import Settings
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.transport.base import Lane
from raftkv.transport.codec import encode_messages
from tests.node.rig import QUICK, Journal, Ledger

Cluster = raftkv.Cluster[KvResult]
Node = raftkv.Node[KvResult]


@asynccontextmanager
async def _cluster(
    size: int, directory: Path | None = None, settings: Settings = QUICK
) -> AsyncGenerator[Cluster]:
    async with raftkv.open_cluster(directory, size=size, settings=settings) as cluster:
        await (await cluster.leader()).ready()
        yield cluster


@asynccontextmanager
async def _opened(
    world: Cluster,
    name: str,
    *,
    cluster: dict[str, str] | None = None,
    join: dict[str, str] | list[str] | None = None,
    ids: tuple[int, int] = (1, 1),
    disk: MemoryDisk | None = None,
    address: str = "",
) -> AsyncGenerator[Node]:
    """A member beside those that the cluster runs itself."""
    async with raftkv.open_node(
        "unused",
        name=name,
        cluster=cluster,
        join=join,
        settings=QUICK,
        transport=world.network.endpoint(address or f"{name}:1"),
        storage=open_memory(*ids, disk=disk),
    ) as node:
        yield node


async def _tick(cluster: Cluster) -> None:
    clock = cluster.network.runtime.clock
    await clock.sleep_until(clock.monotonic_ns() + QUICK.tick_ns)


async def _until(cluster: Cluster, holds: Callable[[], bool]) -> None:
    """The test's own time limit bounds the wait."""
    while not holds():
        await _tick(cluster)


def names(node: Node) -> list[str]:
    return [one.name for one in node.members.list()]


def voters(node: Node) -> list[str]:
    return [one.name for one in node.members.list() if one.is_voter]


class Writers:
    """Puts that go on while members change, through whoever is a member and not on its way out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.leaving: set[str] = set()
        self.busy: dict[str, int] = {}
        self.written: dict[bytes, bytes] = {}
        self.stopping = False

    async def run(self, number: int) -> None:
        count = 0
        while not self.stopping:
            nodes = [one for one in self._cluster.nodes if one.name not in self.leaving]
            node = nodes[(number + count) % len(nodes)]
            key = b"%d/%d" % (number, count)
            self.busy[node.name] = self.busy.get(node.name, 0) + 1
            # No exception is caught: each has its deadline of 5 seconds.
            await node.kv.put(key, b"value of " + key)
            self.busy[node.name] -= 1
            self.written[key] = b"value of " + key
            count += 1


@pytest.mark.parametrize("kind", ["on-disk", "in-memory"])
async def test_a_cluster_grows_and_shrinks_without_losing_or_failing_a_write(
    kind: str, tmp_path: Path
) -> None:
    async with _cluster(1, tmp_path if kind == "on-disk" else None) as cluster:
        writers = Writers(cluster)
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(writers.run, number)
            for size in (2, 3, 4, 5):
                node = await cluster.add()
                assert len(voters(node)) == size
            for size in (4, 3, 2, 1):
                # Whoever leads goes every other time, and hands over first.
                leader = (await cluster.leader()).name
                others = [node.name for node in cluster.nodes if node.name != leader]
                name = leader if size % 2 else others[0]
                writers.leaving.add(name)  # whose own commands would be lost with it
                await _until(cluster, lambda n=name: not writers.busy.get(n))
                before = len(writers.written)
                await cluster.remove(name)
                await _until(cluster, lambda n=before: len(writers.written) > n + 4)
            writers.stopping = True
        (last,) = cluster.nodes
        found = await last.kv.range(prefix="", limit=0)
        assert {item.key: item.value for item in found.items} == writers.written
        assert len(writers.written) > 40


async def test_all_members_hold_the_same_after_growing() -> None:
    async with _cluster(1) as cluster:
        first = await cluster.leader()
        for number in range(300):
            await first.kv.put(f"k{number}", b"v" * number)
        for _ in range(2):
            await cluster.add()
        await first.kv.put("last", b"1")
        for node in cluster.nodes:
            await node.read()
            found = await node.kv.range(prefix="", serializable=True)
            assert len(found.items) == 301
            assert names(node) == voters(node) == ["n1", "n2", "n3"]
            assert [one.address for one in node.members.list()] == ["n1:1", "n2:1", "n3:1"]


async def test_a_learner_receives_everything_and_counts_for_nothing() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        added = await first.members.add("n9", "n9:1", promote=False)
        assert (added.is_learner, added.is_voter, added.is_connected) == (True, False, False)
        assert first.status().membership.learners == (added.id,)
        await first.kv.put("alone", b"is enough")  # the learner is not even there
        with pytest.raises(MembershipError) as behind:
            await first.members.promote("n9", timeout=2)
        assert behind.value.reason == "behind"
        assert not behind.value.may_have_happened
        assert voters(first) == ["n1"]


async def test_a_learner_is_promoted_by_call_once_it_is_in_sync() -> None:
    async with _cluster(1) as cluster:
        first, second = cluster.node("n1"), await cluster.add(promote=False)
        for _ in range(5):
            await _tick(cluster)
        assert voters(first) == voters(second) == ["n1"]  # nobody promotes it by itself
        await second.kv.put("from a learner", b"1")
        await second.members.promote(second.id)
        assert voters(second) == ["n1", "n2"]
        await first.members.promote("n2")  # it is one already: nothing happens
        (one, two) = (await cluster.leader()).members.list()
        assert (one.lag, one.is_leader, two.is_leader) == (0, True, False)


async def test_a_new_member_asks_before_it_writes_anything() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        with pytest.raises(MembershipError, match=r"add it first.*node.members.add") as unknown:
            async with _opened(cluster, "n7", join=["n1:1", "nowhere:1"]):
                pass
        assert unknown.value.reason == "unknown"
        with pytest.raises(UnavailableError, match="nothing was written: cannot ask nowhere:1"):
            async with _opened(cluster, "n7", join=["nowhere:1"]):
                pass
        added = await first.members.add("n7", "n7:1", promote=False)
        cluster_id = first.status().cluster_id
        with pytest.raises(ConfigError, match="the storage given is of member 5 of cluster"):
            async with _opened(cluster, "n7", join=["n1:1"], ids=(cluster_id, 5)):
                pass
        ids = (cluster_id, added.id)
        async with _opened(cluster, "n7", join={"n1": "n1:1"}, ids=ids) as node:
            await node.ready()
        # Another empty directory cannot take the place of the one that was seen.
        with pytest.raises(MembershipError, match="data directory that it had before") as known:
            async with _opened(cluster, "n7", join=["n1:1"], ids=ids):
                pass
        assert known.value.reason == "known"


async def test_a_joined_member_comes_back_with_join_or_with_the_members_as_they_are() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        added = await first.members.add("n2", "n2:1")
        ids, disk = (first.status().cluster_id, added.id), MemoryDisk()
        async with _opened(cluster, "n2", join=["n1:1"], ids=ids, disk=disk) as node:
            await node.members.promoted("n2")
            await node.kv.put("k", b"1")
        now = {"n1": "n1:1", "n2": "n2:1"}
        for join, members in ((now, None), (None, now)):
            async with _opened(
                cluster, "n2", join=join, cluster=members, ids=ids, disk=disk
            ) as node:
                await node.ready()
                found = await node.kv.get("k")
                assert found is not None
                assert found.value == b"1"
        for wrong, sentence in (
            ({"n1": "n1:1", "n2": "n2:2"}, "it knows 'n2' at n2:1, not at n2:2"),
            ({**now, "n3": "n3:1"}, "it knows no member 'n3'"),
            ({"n2": "n2:1"}, "it knows 'n1' too"),
        ):
            with pytest.raises(ConfigError, match=sentence):
                async with _opened(cluster, "n2", cluster=wrong, ids=ids, disk=disk):
                    pass
        with pytest.raises(ConfigError, match="is that of member 'n2'"):
            async with _opened(cluster, "n1", cluster=now, ids=ids, disk=disk):
                pass


async def test_the_first_members_come_back_with_cluster_as_on_their_first_day() -> None:
    async with _cluster(1) as cluster:
        await cluster.add()
        await cluster.stop("n1")  # and starts again with cluster={"n1": "n1:1"}
        first = await cluster.start("n1")
        await first.ready()
        assert voters(first) == ["n1", "n2"]


async def test_one_who_was_added_and_heard_nothing_yet_does_not_begin_a_cluster() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        added = await first.members.add("n2", "n2:1")
        ids, disk = (first.status().cluster_id, added.id), MemoryDisk()
        await _tick(cluster)
        cluster.network.partition([first.id], [added.id])
        both = {"n2": "n2:1", "n1": "n1:1"}
        for join, members in ((both, None), (both, None), (None, both)):
            async with _opened(
                cluster, "n2", join=join, cluster=members, ids=ids, disk=disk
            ) as node:
                for _ in range(2 * QUICK.election_ticks):
                    await _tick(cluster)
                assert node.status().membership == Membership()
                assert node.status().term == 0
        cluster.network.heal()
        async with _opened(cluster, "n2", join=["n1:1"], ids=ids, disk=disk) as node:
            await node.members.promoted("n2")


async def test_a_removed_member_hears_it_and_ends_with_that_reason() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        gone = next(node for node in cluster.nodes if node is not leader)
        await leader.members.remove(gone.name)
        await _until(cluster, lambda: gone.failure is not None)
        assert isinstance(gone.failure, RemovedError)
        with pytest.raises(RemovedError, match="add it anew"):
            await gone.kv.put("k", b"1")
        assert gone.name not in names(leader)
        await _until(cluster, lambda: len(cluster.nodes) == 2)
        with pytest.raises(RemovedError, match="its id never returns"):
            await cluster.start(gone.name)


async def test_a_member_removed_while_it_was_down_hears_it_when_it_comes_back() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        name = next(node.name for node in cluster.nodes if node is not leader)
        await cluster.stop(name)
        await leader.members.remove(name)
        node = await cluster.start(name)
        await _until(cluster, lambda: node.failure is not None)
        assert isinstance(node.failure, RemovedError)
        await _until(cluster, lambda: len(cluster.nodes) == 2)
        with pytest.raises(RemovedError):  # it remembers: it need not ask anybody again
            await cluster.start(name)


async def test_a_removed_address_returns_with_a_new_id_only() -> None:
    async with _cluster(2) as cluster:
        leader = await cluster.leader()
        other = next(node for node in cluster.nodes if node is not leader)
        await cluster.remove(other.name)
        added = await leader.members.add(other.name, f"{other.name}:1")
        assert added.id != other.id
        assert leader.status().membership.removed == (other.id,)
        ids = (leader.status().cluster_id, added.id)
        join = [f"{leader.name}:1"]
        async with _opened(cluster, other.name, join=join, ids=ids) as node:
            await node.members.promoted(other.name)
            assert node.id == added.id
            assert node.status().membership.removed == (other.id,)  # a snapshot told it


async def test_the_leader_hands_over_before_it_goes() -> None:
    settings = evolve(QUICK, tick_seconds=1.0)  # an election would take ten seconds and more
    async with raftkv.open_cluster(None, size=3, settings=settings) as cluster:
        while not all(peer.is_connected for node in cluster.nodes for peer in node.status().peers):
            await checkpoint()
        hands = cluster.node("n1")._hands  # pyright: ignore[reportPrivateUsage]
        assert hands is not None
        hands.loop.give(Campaign())
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        writers = Writers(cluster)
        writers.leaving.add(leader.name)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(writers.run, number)
            await _until(cluster, lambda: len(writers.written) > 40)
            with anyio.fail_after(5):
                await leader.members.remove(leader.name)
                before = len(writers.written)
                await _until(cluster, lambda: len(writers.written) > before + 40)
            writers.stopping = True
        assert voters(others[0]) == sorted(node.name for node in others)


async def test_two_changes_at_once_are_made_one_after_the_other() -> None:
    async with _cluster(3) as cluster:
        one, two, three = cluster.nodes

        async def add(node: Node, name: str) -> None:
            await node.members.add(name, f"{name}:1")

        async with anyio.create_task_group() as tasks:
            for node, name in ((one, "n4"), (two, "n5"), (three, "n6"), (one, "n7")):
                tasks.start_soon(add, node, name)
        await _until(cluster, lambda: len(names(one)) == 7)
        assert voters(one) == ["n1", "n2", "n3"]


async def test_beside_a_change_that_cannot_finish_another_is_refused() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        cluster.network.partition([leader.id], [node.id for node in others])
        # It still believes to lead: the first change is proposed, and never committed.
        with pytest.raises(OutcomeUnknownError, match="look at the list of members"):
            await leader.members.add("n4", "n4:1", timeout=0.06)
        with pytest.raises((MembershipError, DeadlineError)) as refused:
            await leader.members.add("n5", "n5:1", timeout=0.06)
        assert not refused.value.may_have_happened
        if isinstance(refused.value, MembershipError):
            assert refused.value.reason == "pending"


async def test_what_would_break_the_quorum_is_refused() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        dead, alive = [node.name for node in cluster.nodes if node is not leader]
        await cluster.stop(dead)
        for _ in range(2 * QUICK.election_ticks):
            await _tick(cluster)
        with pytest.raises(MembershipError, match="too few of the voters") as unhealthy:
            await leader.members.remove(alive)
        assert unhealthy.value.reason == "unhealthy"
        await leader.kv.put("k", b"1")
        await leader.members.remove(dead)  # who is gone may always go
        assert voters(leader) == sorted([leader.name, alive])


async def test_the_last_voter_stays() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        with pytest.raises(MembershipError, match="no voter would remain") as invalid:
            await first.members.remove("n1")
        assert invalid.value.reason == "invalid"
        with pytest.raises(MembershipError, match="no member 'n5': there are n1"):
            await first.members.remove("n5")
        with pytest.raises(InvalidArgumentError, match="printable"):
            await first.members.add("", "n2:1")
        with pytest.raises(ConfigError, match="must not be empty"):
            await first.members.add("n2", "")
        with pytest.raises(DeadlineError, match="did not become a voter"):
            await first.members.promoted("n2", timeout=0.05)


async def test_names_and_addresses_are_given_once() -> None:
    async with _cluster(3) as cluster:
        follower = next(node for node in cluster.nodes if not node.status().is_leader)
        for name, address in (("n1", "n9:1"), ("n9", "n2:1")):
            with pytest.raises(MembershipError, match="has that name or address") as taken:
                await follower.members.add(name, address)
            assert taken.value.reason == "taken"
        with pytest.raises(MembershipError, match="has that name or address"):
            await follower.members.move("n1", "n3:1")


async def test_of_two_who_add_the_same_name_one_is_refused_by_the_leader() -> None:
    async with _cluster(3) as cluster:
        outcomes: list[object] = []

        async def add(node: Node) -> None:
            try:
                outcomes.append((await node.members.add("n4", "n4:1")).id)
            except MembershipError as error:
                outcomes.append(error.reason)

        async with anyio.create_task_group() as tasks:
            for node in cluster.nodes:
                tasks.start_soon(add, node)
        assert outcomes.count("taken") == 2
        assert names(await cluster.leader()).count("n4") == 1


async def test_a_dead_member_is_replaced_in_one_step() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        dead = next(node.name for node in cluster.nodes if node is not leader)
        await cluster.stop(dead)
        seen: list[Membership] = []
        hands = leader._hands  # pyright: ignore[reportPrivateUsage]
        assert hands is not None
        hands.changes.on_change = lambda: seen.append(hands.loop.state.membership)
        added = await leader.members.replace(dead, "n4", "n4:1")
        assert added.is_learner
        ids = (leader.status().cluster_id, added.id)
        async with _opened(cluster, "n4", join=[f"{leader.name}:1"], ids=ids) as node:
            await node.members.promoted("n4")
            assert dead not in names(node)
            await node.kv.put("k", b"1")
        assert {len(membership.voters) for membership in seen} == {3}
        assert [membership.is_joint for membership in seen] == [False, True, False]


async def test_a_member_moves_to_another_address() -> None:
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        moving = next(node for node in cluster.nodes if node is not leader)
        await cluster.stop(moving.name)
        await leader.members.move(moving.name, "elsewhere:1")
        disk = cluster._disks[moving.name]  # pyright: ignore[reportPrivateUsage]
        ids = (leader.status().cluster_id, moving.id)
        first_day = {f"n{number}": f"n{number}:1" for number in (1, 2, 3)}
        async with _opened(
            cluster, moving.name, cluster=first_day, ids=ids, disk=disk, address="elsewhere:1"
        ) as node:
            await node.ready()
            await _until(cluster, lambda: all(p.is_connected for p in leader.status().peers))
            await node.kv.put("k", b"1")
            (record,) = [one for one in node.members.list() if one.id == moving.id]
            assert record.address == "elsewhere:1"


async def test_events_and_status_name_the_members() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        events = first.events()
        added = await first.members.add("n2", "n2:1", promote=False)
        while not isinstance(event := await anext(events), raftkv.MembershipChanged):
            pass
        assert sorted(one.name for one in event.members) == ["n1", "n2"]  # they stand by id
        assert event.membership.learners == (added.id,)
        status = first.status()
        assert [one.name for one in status.members] == ["n1", "n2"]
        assert [(one.name, one.address) for one in status.peers] == [("n2", "n2:1")]


async def test_no_member_is_too_much() -> None:
    async with _cluster(1) as cluster:
        first = cluster.node("n1")
        for number in range(2, 65):
            await first.members.add(f"n{number}", f"n{number}:1", promote=False)
        with pytest.raises(MembershipError, match="at most 64 members"):
            await first.members.add("n65", "n65:1")


@pytest.mark.parametrize("machine", [Journal, Ledger])
async def test_a_machine_of_ones_own_grows_and_comes_back(
    machine: Callable[[], Journal | Ledger],
) -> None:
    made: dict[str, list[Journal | Ledger]] = {}
    names_in_order = iter(["n1", "n2", "n3", "n2", "n3", "n1"])

    def make() -> Journal | Ledger:
        one = machine()
        made.setdefault(next(names_in_order), []).append(one)
        return one

    async with raftkv.open_cluster(None, size=1, machine=make, settings=QUICK) as cluster:
        first = await cluster.leader()
        for number in range(20):
            await first.propose(b"%d" % number)
        await cluster.add()
        await cluster.add()
        for name in ("n2", "n3", "n1"):
            await cluster.stop(name)
            node = await cluster.start(name)
            await node.ready()
            answer = await node.propose(name.encode())
            assert answer == len(made[name][-1].commands)
        for node in cluster.nodes:
            await node.read()
            status = node.status()
            assert [one.name for one in status.members if one.is_voter] == ["n1", "n2", "n3"]
        assert len({tuple(those[-1].commands) for those in made.values()}) == 1


async def test_a_hostile_change_is_kept_out_of_the_log() -> None:
    """Records that name others than the change does, or that are none, stop at the leader."""
    async with _cluster(3) as cluster:
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        hands = leader._hands  # pyright: ignore[reportPrivateUsage]
        assert hands is not None
        before = leader.status().last_index
        steps = (Change(ChangeKind.LEARNER, 9),)
        other = encode_change_note(ChangeNote(records=(Member(8, "n8", "n8:1"),)))
        for context in (b"\xff", other):
            change = MembershipChange(steps, context=context)
            payload = Payload(EntryKind.CHANGE, encode_change(change))
            message = ForwardProposal(follower.id, leader.id, (payload,), 77)
            hands.loop.on_frame(follower.id, Lane.RAFT, encode_messages((message,)))
        await leader.read()
        log = hands.loop.state.log  # in which notes of its own may follow
        added = [log.entry(index).kind for index in range(before + 1, log.last_index + 1)]
        assert EntryKind.CHANGE not in added
        assert names(leader) == ["n1", "n2", "n3"]


async def test_who_missed_a_change_learns_names_and_addresses_from_a_snapshot() -> None:
    settings = evolve(QUICK, retention_entries=20)
    async with _cluster(3, settings=settings) as cluster:
        leader = await cluster.leader()
        away, other = [node.name for node in cluster.nodes if node is not leader]
        await cluster.stop(away)
        await leader.members.add("n4", "n4:1", promote=False)
        for number in range(60):
            await leader.kv.put("k", b"%d" % number)
        for node in (leader, cluster.node(other)):
            await _until(cluster, lambda n=node: n.status().first_index > 10)
        node = await cluster.start(away)
        await node.ready()
        assert names(node) == ["n1", "n2", "n3", "n4"]
        assert node.members.list()[-1].address == "n4:1"
