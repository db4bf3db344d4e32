"""Joining over sockets and disks, from threads, and in a thread of its own; and the example."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

import raftkv
from raftkv.errors import (
    ConfigError,
    MembershipError,
    OutcomeUnknownError,
    RemovedError,
    StorageCorruptError,
    TransportError,
    UnavailableError,
)
from raftkv.kv import KvResult
from tests.node.test_open import QUICK
from tests.source import ROOT

Node = raftkv.Node[KvResult]


@pytest.fixture
def addresses() -> dict[str, str]:
    """Free ports on loopback."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}


class Members:
    """Members over sockets and RocksDB, each in a task of its own."""

    def __init__(self, directory: Path, tasks: anyio.abc.TaskGroup) -> None:
        self.nodes: dict[str, Node] = {}
        self.removed: set[str] = set()
        self._directory = directory
        self._tasks = tasks
        self._stops: dict[str, tuple[anyio.Event, anyio.Event]] = {}

    async def start(
        self,
        name: str,
        *,
        cluster: dict[str, str] | None = None,
        join: list[str] | dict[str, str] | None = None,
        listen: str | None = None,
    ) -> Node:
        stop, ended = self._stops[name] = (anyio.Event(), anyio.Event())

        async def live(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            try:
                async with raftkv.open_node(
                    self._directory / name,
                    name=name,
                    cluster=cluster,
                    join=join,
                    listen=listen,
                    settings=QUICK,
                ) as node:
                    self.nodes[name] = node
                    task_status.started()
                    await stop.wait()
            except RemovedError:
                self.removed.add(name)
            finally:
                self.nodes.pop(name, None)
                ended.set()

        await self._tasks.start(live, name=name)
        return self.nodes[name]

    async def stop(self, name: str) -> None:
        stop, ended = self._stops[name]
        stop.set()
        await ended.wait()

    async def ended(self, name: str) -> None:
        await self._stops[name][1].wait()


@asynccontextmanager
async def _members(directory: Path) -> AsyncGenerator[Members]:
    async with anyio.create_task_group() as tasks:
        made = Members(directory, tasks)
        yield made
        for name in sorted(made.nodes):
            await made.stop(name)


async def test_a_cluster_on_disks_and_sockets_grows_comes_back_and_shrinks(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    first_day = {"n1": addresses["n1"]}
    async with _members(tmp_path) as made:
        one = await made.start("n1", cluster=first_day)
        await one.ready()
        await one.kv.put("before", b"1")
        for name in ("n2", "n3"):
            await one.members.add(name, addresses[name])
            node = await made.start(name, join=[addresses["n1"]])
            await node.members.promoted(name)
        # Each comes back: as on its first day, with join= as ever, with the members as they are.
        await made.nodes["n2"].kv.put("k", b"2")
        now = {name: addresses[name] for name in ("n1", "n2", "n3")}
        for name, cluster, join in (
            ("n1", first_day, None),
            ("n2", None, [addresses["n1"]]),
            ("n3", now, None),
        ):
            await made.stop(name)
            node = await made.start(name, cluster=cluster, join=join)
            await node.ready()
            for key, value in (("before", b"1"), ("k", b"2")):
                found = await node.kv.get(key)
                assert found is not None
                assert found.value == value
        await made.nodes["n2"].members.remove("n3")
        await made.ended("n3")
        assert made.removed == {"n3"}
        with pytest.raises(RemovedError, match="its id never returns"):
            async with raftkv.open_node(tmp_path / "n3", name="n3", cluster=now, settings=QUICK):
                pass
        await made.nodes["n2"].kv.put("k", b"3")


async def test_a_member_moves_to_another_port(tmp_path: Path, addresses: dict[str, str]) -> None:
    cluster = {name: addresses[name] for name in ("n1", "n2", "n3")}
    async with _members(tmp_path) as made:
        for name in cluster:
            await made.start(name, cluster=cluster)
        await made.nodes["n1"].ready()
        await made.stop("n3")
        await made.nodes["n1"].members.move("n3", addresses["n4"])
        node = await made.start("n3", cluster=cluster, listen=addresses["n4"])
        await node.ready()
        await made.stop("n3")
        await made.nodes["n2"].kv.put("k", b"1")
        # From now on its directory knows where it is.
        node = await made.start("n3", join=[addresses["n1"]])
        await node.ready()
        assert {one.name: one.address for one in node.members.list()} == {
            **cluster,
            "n3": addresses["n4"],
        }


async def test_who_may_not_join_writes_nothing(tmp_path: Path, addresses: dict[str, str]) -> None:
    async def refused(error: type[Exception], sentence: str, join: list[str], at: str) -> None:
        with pytest.raises(error, match=sentence):
            async with raftkv.open_node(tmp_path / at, name="n2", join=join, settings=QUICK):
                pass
        assert not (tmp_path / at).exists()

    async with _members(tmp_path) as made:
        await refused(UnavailableError, "connection refused", [addresses["n3"]], "a")
        await refused(ConfigError, "is not loopback", ["192.0.2.1:7400"], "a")
        one = await made.start("n1", cluster={"n1": addresses["n1"]})
        await one.ready()
        await refused(MembershipError, "add it first", [addresses["n1"]], "a")
        with pytest.raises(ConfigError, match="is not loopback"):
            await one.members.add("n2", "192.0.2.1:7400")
        await one.members.add("n2", addresses["n1"].replace("127.0.0.1", "localhost"))
        await refused(TransportError, "cannot listen", [addresses["n1"]], "a")
        await one.members.move("n2", addresses["n2"])
        two = await made.start("n2", join=[addresses["n1"]])
        await two.members.promoted("n2")
        await refused(MembershipError, "that it had before", [addresses["n1"]], "b")


async def test_a_node_in_its_own_thread_joins_and_changes_members(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    async with _members(tmp_path) as made:
        one = await made.start("n1", cluster={"n1": addresses["n1"]})
        await one.ready()
        await one.members.add("n2", addresses["n2"])
        async with raftkv.open_node(
            tmp_path / "n2", name="n2", join=[addresses["n1"]], own_thread=True, settings=QUICK
        ) as two:
            members = two.members
            assert (await members.promoted("n2")).is_voter
            added = await members.add("n3", addresses["n3"], promote=False)
            assert added.is_learner
            with pytest.raises(MembershipError, match="not in sync"):
                await members.promote("n3")
            await members.move("n3", addresses["n4"])
            await members.remove("n3")
            replaced = await members.replace("n1", "n4", addresses["n3"])
            assert [one.name for one in members.list()] == ["n1", "n2", "n4"]
            await members.remove(replaced.id)


def _second(
    directory: Path, one: raftkv.blocking.Node[KvResult], addresses: dict[str, str]
) -> None:
    with raftkv.blocking.open_node(
        directory, name="n2", join=[addresses["n1"]], settings=QUICK
    ) as two:
        two.ready()
        two.members.promote("n2")
        assert one.members.promoted("n2").is_voter
        one.members.replace("n2", "n3", addresses["n3"])
        one.members.move("n3", addresses["n4"])
        one.members.remove("n3")
        assert [member.name for member in one.members.list()] == ["n1", "n2"]
        one.kv.put("k", b"1")
        one.members.remove("n2")
        with pytest.raises(RemovedError, match="its id never returns"):
            _put_until_refused(two)


def test_threads_add_and_remove_members(tmp_path: Path, addresses: dict[str, str]) -> None:
    cluster = {"n1": addresses["n1"]}
    with raftkv.blocking.open_node(
        tmp_path / "n1", name="n1", cluster=cluster, settings=QUICK
    ) as one:
        one.ready()
        assert one.members.add("n2", addresses["n2"], promote=False).is_learner
        with pytest.raises(RemovedError, match="stopped for good"):
            _second(tmp_path / "n2", one, addresses)  # leaving its context tells it, too
        one.kv.put("k", b"3")


def _put_until_refused(node: raftkv.blocking.Node[KvResult]) -> None:
    while True:
        with suppress(UnavailableError, OutcomeUnknownError):
            node.kv.put("k", b"2", timeout=0.1)


def test_the_example_grows_and_shrinks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "grow.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "voters: ['n1', 'n2', 'n3']" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "voters: ['n1']",
        "the application went on writing throughout: True",
    ]


@asynccontextmanager
async def _grown_and_down(directory: Path, addresses: dict[str, str]) -> AsyncGenerator[Members]:
    """A cluster that began with n1 alone and has three members, n1 down."""
    async with _members(directory) as made:
        one = await made.start("n1", cluster={"n1": addresses["n1"]})
        await one.ready()
        for name in ("n2", "n3"):
            await one.members.add(name, addresses[name])
            node = await made.start(name, join=[addresses["n1"]])
            await node.members.promoted(name)
        await one.kv.put("k", b"v")
        await made.stop("n1")
        yield made


async def _is_whole(node: Node) -> None:
    await node.ready()
    assert node.status().recovering is None
    found = await node.kv.get("k")
    assert found is not None
    assert found.value == b"v"


async def test_who_was_founded_alone_and_grew_recovers_with_the_cluster_of_its_first_day(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    async with _grown_and_down(tmp_path, addresses) as made:
        (tmp_path / "n1" / "member" / "witness").unlink()
        node = await made.start("n1", cluster={"n1": addresses["n1"]})
        assert "nothing proves how this member voted" in node.status().alarms[0]
        await _is_whole(node)


@pytest.mark.parametrize("way", ["join", "now"])
async def test_who_lost_its_store_asks_who_the_members_are(
    tmp_path: Path, addresses: dict[str, str], way: str
) -> None:
    first_day = {"n1": addresses["n1"]}
    now = {name: addresses[name] for name in ("n1", "n2", "n3")}
    async with _grown_and_down(tmp_path, addresses) as made:
        shutil.rmtree(tmp_path / "n1" / "member" / "store")
        with pytest.raises(StorageCorruptError, match="open it with join="):
            await made.start("n1", cluster=first_day)
        join = [addresses["n2"], addresses["n3"]]
        if way == "join":
            node = await made.start("n1", join=join)
        else:
            node = await made.start("n1", cluster=now)
        await _is_whole(node)
        # It forgot the cluster of its first day, but may still be opened with it.
        await made.stop("n1")
        await _is_whole(await made.start("n1", cluster=first_day))


async def test_who_lost_its_members_and_reaches_none_can_ask_later(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    now = {name: addresses[name] for name in ("n1", "n2", "n3")}
    async with _members(tmp_path) as made:
        for name in now:
            await made.start(name, cluster=now)
        one = made.nodes["n1"]
        await one.ready()
        await one.kv.put("k", b"v")
        await one.members.add("n4", addresses["n4"])
        node = await made.start("n4", join=[addresses["n1"]])
        await node.members.promoted("n4")
        await node.members.remove("n3")
        await made.ended("n3")
        await made.stop("n2")
        await node.members.move("n2", addresses["n3"])
        await made.stop("n1")
        await made.stop("n4")
        shutil.rmtree(tmp_path / "n1" / "member" / "store")
        await made.start("n1", cluster=now)  # nobody answers: it knows those of the first day
        await made.stop("n1")
        await made.start("n4", join=[addresses["n1"]])
        await made.start("n2", cluster=now, listen=addresses["n3"])
        await _is_whole(await made.start("n1", join=[addresses["n4"]]))
