"""Whoever gives up on an opening gets free at once, and can open the same again."""

from __future__ import annotations

import asyncio  # noqa: TID251 - its own cancellation is what is tried
import signal
import socket
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

import raftkv
from raftkv import Settings
from tests.source import ROOT

QUICK = Settings(tick_seconds=0.02, heartbeat_ticks=2, election_ticks=15, close_seconds_max=0.5)

# From before anything began to after everything is open; where exactly is left to chance.
DELAYS = [0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2]


@pytest.fixture
def one() -> dict[str, str]:
    """A cluster of one member at a free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return {"n1": f"127.0.0.1:{listener.getsockname()[1]}"}


@pytest.mark.parametrize("own_thread", [True, False])
async def test_an_opening_that_is_given_up_ends_and_can_be_done_again(
    tmp_path: Path, one: dict[str, str], own_thread: bool
) -> None:
    def opening() -> AbstractAsyncContextManager[raftkv.Node[raftkv.KvResult]]:
        return raftkv.open_node(
            tmp_path, name="n1", cluster=one, settings=QUICK, own_thread=own_thread
        )

    for delay in DELAYS:
        with anyio.move_on_after(delay):
            async with opening():
                await anyio.sleep_forever()
    async with opening() as node:
        await node.ready()


async def test_a_cluster_whose_opening_is_given_up_ends_and_can_be_opened_again(
    tmp_path: Path,
) -> None:
    for delay in DELAYS:
        with anyio.move_on_after(delay):
            async with raftkv.open_cluster(tmp_path, settings=QUICK):
                await anyio.sleep_forever()
    async with raftkv.open_cluster(tmp_path, settings=QUICK) as cluster:
        await cluster.leader()


async def test_a_member_whose_start_is_given_up_can_be_started_again(tmp_path: Path) -> None:
    async with raftkv.open_cluster(tmp_path, size=1, settings=QUICK) as cluster:
        for delay in DELAYS:
            await cluster.stop("n1")
            with anyio.move_on_after(delay):
                await cluster.start("n1")
            if not cluster.nodes:
                await cluster.start("n1")
        await (await cluster.leader()).kv.put("k", "v")


async def test_a_member_that_cannot_start_says_why_to_who_started_it(tmp_path: Path) -> None:
    async with raftkv.open_cluster(tmp_path, size=1, settings=QUICK) as cluster:
        await cluster.stop("n1")
        whole = tmp_path / "n1" / "member" / "witness"
        aside = whole.rename(tmp_path / "aside")
        with pytest.raises(raftkv.StorageCorruptError, match="witness"):
            await cluster.start("n1")
        aside.rename(whole)
        await cluster.start("n1")
        await (await cluster.leader()).kv.put("k", "v")


_INTERRUPTED = """
import signal, sys, threading
import raftkv.blocking
from tests.node.rig import Ledger

directory, address = sys.argv[1:]
interrupted = threading.Event()

def interrupt(*_):
    interrupted.set()
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)

class Waiting(Ledger):
    def open(self, store):
        super().open(store)
        print("opening", flush=True)
        interrupted.wait()

def opening(machine):
    return raftkv.blocking.open_node(
        directory, name="n1", cluster={"n1": address}, machine=machine
    )

try:
    with opening(Waiting()):
        print("entered all the same", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
with opening(Ledger()) as node:
    print(node.propose(b"x", timeout=30), flush=True)
"""


def test_an_interrupt_amid_a_blocking_opening_comes_out(
    tmp_path: Path, one: dict[str, str]
) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path), one["n1"]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "opening\n"
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=30)
        finally:
            child.kill()
    assert said == "interrupted\n1\n"
    assert child.returncode == 0


@pytest.mark.parametrize("delay", DELAYS)
def test_a_cancellation_that_respects_no_shield_leaves_the_directory_free(
    tmp_path: Path, one: dict[str, str], delay: float
) -> None:
    def opening() -> AbstractAsyncContextManager[raftkv.Node[raftkv.KvResult]]:
        return raftkv.open_node(tmp_path, name="n1", cluster=one, settings=QUICK)

    async def live() -> None:
        async with opening():
            await anyio.sleep_forever()

    async def give_up() -> None:
        task = asyncio.create_task(live())
        await anyio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with opening() as node:
            await node.ready()

    asyncio.run(give_up())
