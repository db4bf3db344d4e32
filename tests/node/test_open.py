"""open_node, open_cluster and the blocking names: real directories, real sockets, and bad input."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import anyio
import pytest

import raftkv
from raftkv import Settings
from raftkv.errors import (
    ClosedError,
    ConfigError,
    Error,
    IdentityError,
    InvalidArgumentError,
    NodeStoppedError,
    OutcomeUnknownError,
    StorageLockedError,
    TransportError,
    UsageError,
    WrongThreadError,
)
from raftkv.open import plan
from tests.node.rig import Journal, Ledger

QUICK = Settings(tick_seconds=0.02, heartbeat_ticks=2, election_ticks=15, close_seconds_max=0.5)


@pytest.fixture
def addresses() -> dict[str, str]:
    """Free ports on loopback."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}


@asynccontextmanager
async def opened(
    directory: Path, addresses: dict[str, str]
) -> AsyncGenerator[list[raftkv.Node[object]]]:
    """Every member over sockets and RocksDB, in one process."""
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        nodes: list[raftkv.Node[object]] = []

        async def live(name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with raftkv.open_node(
                directory / name, name=name, cluster=addresses, settings=QUICK
            ) as node:
                nodes.append(node)
                task_status.started()
                await stop.wait()

        for name in addresses:
            await tasks.start(live, name, name=name)
        yield nodes
        stop.set()


async def test_three_members_over_sockets_and_disks_keep_what_they_acknowledged(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    async with opened(tmp_path, addresses) as nodes:
        for number, node in enumerate(nodes):
            put = await node.kv.put(f"key{number}", b"value%d" % number, timeout=30)
            assert put.revision == 2 + number
        for node in nodes:
            found = await node.kv.range(prefix="key")
            assert [item.value for item in found.items] == [b"value0", b"value1", b"value2"]
        status = nodes[0].status()
        assert status.disk.syncs > 0
        assert {peer.name for peer in status.peers} == {"n2", "n3"}
    async with opened(tmp_path, addresses) as nodes:
        await nodes[0].ready()
        found = await nodes[2].kv.get("key1")
        assert found is not None
        assert found.value == b"value1"
        assert nodes[0].status().boot == 2


async def test_a_machine_of_ones_own_answers_its_own_type(tmp_path: Path) -> None:
    cluster = {"n1": "127.0.0.1:1"}
    async with raftkv.open_cluster(tmp_path, size=1, machine=Journal) as one:
        node = await one.leader()
        assert await node.propose(b"x") == 1
        with pytest.raises(UsageError, match="propose"):
            _ = node.kv
    wrong: Any = object()
    with pytest.raises(ConfigError, match="machine="):
        raftkv.open_node(tmp_path, name="n1", cluster=cluster, machine=wrong)
    assert not (tmp_path / "member").exists()


# --- bad input: refused before anything is written -------------------------------------------

GOOD = {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7402"}


def test_addresses_without_names_are_refused(tmp_path: Path) -> None:
    wrong: Any = ["127.0.0.1:7401"]
    with pytest.raises(ConfigError, match="a list: give a mapping"):
        raftkv.open_node(tmp_path, name="n1", cluster=wrong)


def test_a_machine_and_its_maker_are_not_taken_for_each_other(tmp_path: Path) -> None:
    maker: Any = Journal
    with pytest.raises(ConfigError, match=r"the class Journal: give an object of it, Journal\(\)"):
        raftkv.open_node(tmp_path, name="n1", cluster=GOOD, machine=maker)
    made: Any = Journal()
    with pytest.raises(ConfigError, match="a Journal: give what makes one for each member"):
        raftkv.open_cluster(tmp_path, machine=made)


@pytest.mark.parametrize(
    ("name", "cluster", "says"),
    [
        ("n3", GOOD, "n3"),
        ("n1", {}, "empty"),
        ("n1", {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7401"}, "same address"),
        ("n1", {"n1": "nonsense"}, "host:port"),
        ("n1", {"n1": "127.0.0.1:0"}, "port"),
        ("n1", {"n1": "127.0.0.1:70000"}, "port"),
        ("", {"": "127.0.0.1:7401"}, "name"),
        ("n1", {"n1": "10.0.0.1:7401"}, "tls"),
        ("n1", {"n1": "127.0.0.1:7401", "n2": "10.0.0.1:7401"}, "tls"),
        ("n1", {f"n{number}": f"127.0.0.1:{number}" for number in range(1, 100)}, "at most"),
    ],
)
async def test_what_makes_no_cluster_is_refused(
    tmp_path: Path, name: str, cluster: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        async with raftkv.open_node(tmp_path / "data", name=name, cluster=cluster):
            pass
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("cluster", "join", "sentence"),
    [
        (None, None, "one of the two"),
        (GOOD, GOOD, "one of the two"),
        (None, {}, "join= is empty"),
        (None, "127.0.0.1:7400", "one in a list"),
        (None, ["nonsense"], "nonsense"),
    ],
)
def test_a_member_is_one_of_the_first_or_joins(
    tmp_path: Path,
    cluster: dict[str, str] | None,
    join: dict[str, str] | list[str] | None,
    sentence: str,
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        raftkv.open_node(tmp_path / "data", name="n1", cluster=cluster, join=join)
    assert not (tmp_path / "data").exists()


def test_ids_are_pure_functions_of_addresses_and_token() -> None:
    first = plan("n1", GOOD, "raftkv")
    again = plan("n2", dict(reversed(GOOD.items())), "raftkv")
    assert first.cluster_id == again.cluster_id
    assert first.members == again.members
    assert first.me.id != again.me.id
    other = plan("n1", GOOD, "another token")
    assert other.cluster_id != first.cluster_id
    assert other.me.id != first.me.id
    renamed = plan("a", {"a": GOOD["n1"], "b": GOOD["n2"]}, "raftkv")
    assert renamed.me.id == first.me.id
    assert all(0 < member.id < 2**63 for member in first.members)


async def test_a_directory_of_another_cluster_is_refused(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    one = {"n1": addresses["n1"]}
    async with raftkv.open_node(tmp_path, name="n1", cluster=one, settings=QUICK) as node:
        await node.ready()
    with pytest.raises(ConfigError, match="it knows no member 'n2'; it knows no member 'n3'"):
        async with raftkv.open_node(tmp_path, name="n1", cluster=addresses, settings=QUICK):
            pass
    with pytest.raises(IdentityError, match="give token= as it was"):
        async with raftkv.open_node(
            tmp_path, name="n1", cluster=one, token="another", settings=QUICK
        ):
            pass
    async with raftkv.open_node(tmp_path, name="n1", cluster=one, settings=QUICK) as node:
        await node.ready()  # it was left as it was


async def test_a_port_in_use_and_a_directory_in_use_are_named(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    one = {"n1": addresses["n1"]}
    async with raftkv.open_node(tmp_path / "a", name="n1", cluster=one, settings=QUICK) as node:
        with pytest.raises(StorageLockedError):
            async with raftkv.open_node(
                tmp_path / "a", name="n1", cluster=one, listen="127.0.0.1:0", settings=QUICK
            ):
                pass
        with pytest.raises(TransportError, match=addresses["n1"]):
            async with raftkv.open_node(tmp_path / "b", name="n1", cluster=one, settings=QUICK):
                pass
        await node.ready()


async def test_a_node_that_stops_releases_directory_and_port(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    one = {"n1": addresses["n1"]}

    async def broken() -> None:
        machine = Journal()

        def fail(_commands: object) -> None:
            raise ZeroDivisionError

        machine.before = fail
        async with raftkv.open_node(
            tmp_path, name="n1", cluster=one, settings=QUICK, machine=machine
        ) as node:
            await node.propose(b"x")

    with pytest.raises((NodeStoppedError, OutcomeUnknownError)):
        await broken()
    machine = Journal()
    async with raftkv.open_node(
        tmp_path, name="n1", cluster=one, settings=QUICK, machine=machine
    ) as node:
        await node.ready()
        assert machine.commands == [b"x"]


# --- a thread of its own ---------------------------------------------------------------------


async def test_a_node_in_its_own_thread_has_the_same_names(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    one = {"n1": addresses["n1"]}
    async with raftkv.open_node(
        tmp_path, name="n1", cluster=one, settings=QUICK, own_thread=True
    ) as node:
        events = node.events()
        await node.ready()
        assert (await node.kv.put("a", b"1")).revision == 2
        found = await node.kv.get("a")
        assert found is not None
        assert found.value == b"1"
        assert await node.kv.count() == 1
        assert (await node.kv.delete("a")).deleted == 1
        assert (node.name, node.status().name) == ("n1", "n1")
        assert node.id == node.status().id
        assert await node.read() > 0
        assert await anext(events) is not None
        events.close()
        assert [event async for event in events][:1] is not None
        with pytest.raises(InvalidArgumentError):
            await node.transfer_leadership("nobody")
        with pytest.raises(InvalidArgumentError):
            await node.kv.put("", b"")
        await node.close()
        with pytest.raises(ClosedError):
            await node.kv.put("a", b"1")
    with pytest.raises(ClosedError):
        await node.read()
    assert not any("raftkv" in thread.name for thread in threading.enumerate())


async def test_a_node_in_its_own_thread_that_stops_ends_the_body_here(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    machine = Journal()

    def fail(_commands: object) -> None:
        raise ZeroDivisionError

    async def live() -> None:
        async with raftkv.open_node(
            tmp_path,
            name="n1",
            cluster={"n1": addresses["n1"]},
            settings=QUICK,
            machine=machine,
            own_thread=True,
        ) as node:
            await node.ready()
            machine.before = fail
            try:
                await node.propose(b"x")
            except Error:
                await anyio.sleep_forever()

    with pytest.raises(NodeStoppedError):
        await live()


async def test_a_node_that_cannot_open_in_its_own_thread_says_why_here(tmp_path: Path) -> None:
    (tmp_path / "stranger").write_text("not a member")
    with pytest.raises(IdentityError):
        async with raftkv.open_node(
            tmp_path, name="n1", cluster={"n1": "127.0.0.1:7401"}, own_thread=True
        ):
            pass


# --- blocking --------------------------------------------------------------------------------


def test_the_blocking_names_do_the_same_from_many_threads(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    one = {"n1": addresses["n1"]}
    with raftkv.blocking.open_node(tmp_path, name="n1", cluster=one, settings=QUICK) as node:
        node.ready()
        revisions: list[int] = []

        def work(number: int) -> None:
            for count in range(10):
                put = node.kv.put(f"{number}/{count}", b"x")
                revisions.append(put.revision)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(revisions) == [*range(2, 42)]
        assert node.kv.count() == 40
        assert node.kv.range(prefix="1/", limit=3).more
        assert node.kv.get("nothing") is None
        assert node.kv.delete(prefix="1/").deleted == 10
        assert node.status().is_leader
        assert node.name == "n1"
        assert node.id == node.status().id
        assert node.read() > 0
        with pytest.raises(InvalidArgumentError):
            node.transfer_leadership("nobody")
        with pytest.raises(UsageError, match="kv"):
            node.propose(b"no command of the store")
        events = node.events()
        node.close()
        with pytest.raises(ClosedError):
            next(events)
        with pytest.raises(ClosedError):
            node.kv.put("a", b"b")
    with raftkv.blocking.open_node(tmp_path, name="n1", cluster=one, settings=QUICK) as node:
        node.ready()
        assert node.kv.count() == 30


def test_blocking_with_a_machine_of_ones_own(tmp_path: Path, addresses: dict[str, str]) -> None:
    one = {"n1": addresses["n1"]}
    with raftkv.blocking.open_node(
        tmp_path, name="n1", cluster=one, settings=QUICK, machine=Journal()
    ) as node:
        assert node.propose(b"x", timeout=30) == 1


# --- open_cluster ----------------------------------------------------------------------------


async def test_a_cluster_in_one_process_survives_a_stopped_member_and_a_restart(
    tmp_path: Path,
) -> None:
    async with raftkv.open_cluster(tmp_path, settings=QUICK) as cluster:
        leader = await cluster.leader()
        assert [node.name for node in cluster.nodes] == ["n1", "n2", "n3"]
        await leader.kv.put("a", b"1")
        await cluster.stop(leader.name)
        assert len(cluster.nodes) == 2
        with pytest.raises(InvalidArgumentError):
            cluster.node(leader.name)
        second = await cluster.leader()
        await second.kv.put("b", b"2", timeout=30)
        back = await cluster.start(leader.name)
        await back.ready()
        assert await back.kv.count() == 2
        with pytest.raises(InvalidArgumentError):
            await cluster.start("n9")
    async with raftkv.open_cluster(tmp_path, settings=QUICK) as cluster:
        assert await (await cluster.leader()).kv.count() == 2


async def test_a_cluster_in_memory_needs_no_directory() -> None:
    async with raftkv.open_cluster(None, size=1, settings=QUICK) as cluster:
        node = await cluster.leader()
        await node.kv.put("a", b"1")
        await cluster.stop("n1")
        node = await cluster.start("n1")
        await node.ready()
        assert await node.kv.count() == 1


@pytest.mark.parametrize("size", [0, -1, 10])
def test_a_cluster_of_no_or_too_many_members_is_refused(size: int) -> None:
    with pytest.raises(ConfigError):
        raftkv.open_cluster(None, size=size)


async def test_what_the_body_of_a_cluster_raises_comes_out_as_it_is() -> None:
    mine = ExceptionGroup("a group of the body's own", [KeyError(1), ValueError(2)])
    for raised in (KeyError("mine"), mine):

        async def live(raised: Exception = raised) -> None:
            async with raftkv.open_cluster(None, size=1, settings=QUICK) as cluster:
                await cluster.leader()
                raise raised

        with pytest.raises(type(raised)) as came_out:
            await live()
        assert came_out.value is raised


async def test_a_node_used_from_another_loop_is_refused() -> None:
    async with raftkv.open_cluster(None, size=1, settings=QUICK) as cluster:
        node = await cluster.leader()
        errors: list[BaseException] = []

        def other() -> None:
            async def use() -> None:
                try:
                    await node.kv.put("a", b"1")
                except Error as error:
                    errors.append(error)

            anyio.run(use)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert [type(error) for error in errors] == [WrongThreadError]


@pytest.mark.parametrize("own_thread", [False, True])
async def test_a_port_in_use_is_told_before_the_directory_is_made(
    tmp_path: Path, addresses: dict[str, str], own_thread: bool
) -> None:
    directory = tmp_path / "data"

    def opening(address: str) -> AbstractAsyncContextManager[raftkv.Node[raftkv.KvResult]]:
        return raftkv.open_node(
            directory, name="n1", cluster={"n1": address}, settings=QUICK, own_thread=own_thread
        )

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(TransportError, match="in use"),
    ):
        async with opening(f"127.0.0.1:{taken.getsockname()[1]}"):
            pass
    assert not directory.exists()
    async with opening(addresses["n1"]) as node:
        await node.ready()


@pytest.mark.parametrize(
    ("made_with", "opened_with"), list(permutations([None, Journal, Ledger], 2))
)
async def test_a_directory_is_refused_untouched_with_another_kind_of_machine(
    tmp_path: Path,
    addresses: dict[str, str],
    made_with: type[Journal | Ledger] | None,
    opened_with: type[Journal | Ledger] | None,
) -> None:
    def opening(
        kind: type[Journal | Ledger] | None,
    ) -> AbstractAsyncContextManager[raftkv.Node[Any]]:
        one = {"n1": addresses["n1"]}
        if kind is None:
            return raftkv.open_node(tmp_path, name="n1", cluster=one, settings=QUICK)
        return raftkv.open_node(tmp_path, name="n1", cluster=one, settings=QUICK, machine=kind())

    async def count(node: raftkv.Node[Any], number: int) -> None:
        await node.ready()
        if made_with is None:
            put = await node.kv.put("k", "v")
            assert put.revision == 1 + number
        else:
            assert await node.propose(b"x") == number

    async with opening(made_with) as node:
        await count(node, 1)
    with pytest.raises(ConfigError, match="kind of machine"):
        async with opening(opened_with):
            pass
    async with opening(made_with) as node:
        await count(node, 2)
