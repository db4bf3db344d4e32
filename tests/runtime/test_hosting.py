"""A node's own thread: whoever is in it when it ends hears what that means for what was asked."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
import pytest

import raftkv
from raftkv import blocking
from raftkv.errors import ClosedError, Error, OutcomeUnknownError, WrongThreadError
from raftkv.hosted import HostedKv
from raftkv.recipes import Barrier, Counter, Election, Leadership, Lock, Queue
from raftkv.runtime.hosting import HostThread, Portal
from raftkv.twins import CHANGES_NOTHING

CLUSTER = {"n1": "127.0.0.1:1"}
WRITE = "the node n1 ended amid the call: what it asked for may or may not happen"
CLOSED = "the node n1 is closed: open it again"


class Sleeper:
    """Calls and contexts that come to no end by themselves."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.left: list[bool] = []

    async def sleep(self) -> None:
        self.begun.set()
        await anyio.sleep_forever()

    @asynccontextmanager
    async def entering(self) -> AsyncGenerator[int]:
        await self.sleep()
        yield 1

    @asynccontextmanager
    async def staying(self) -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            self.left.append(True)


Body = Callable[[Portal, Sleeper, threading.Event], object]


def call(portal: Portal, sleeper: Sleeper, _ended: threading.Event) -> None:
    portal.call(sleeper.sleep)


def look(portal: Portal, sleeper: Sleeper, _ended: threading.Event) -> None:
    portal.look(sleeper.sleep)


def stay(portal: Portal, sleeper: Sleeper, ended: threading.Event) -> None:
    """Leave a context only after the thread has ended."""
    with portal.wrap_async_context_manager(sleeper.staying()) as given:
        assert given == 1
        sleeper.begun.set()
        ended.wait()


def enter(portal: Portal, sleeper: Sleeper, _ended: threading.Event) -> None:
    with portal.wrap_async_context_manager(sleeper.entering()):
        raise AssertionError("entered")


def fail_inside(portal: Portal, sleeper: Sleeper, ended: threading.Event) -> None:
    with portal.wrap_async_context_manager(sleeper.staying()):
        sleeper.begun.set()
        ended.wait()
        raise KeyError("of the body")


def kill(portal: Portal) -> None:
    """End the loop as a machine that raises SystemExit does."""

    def end() -> None:
        raise SystemExit(3)

    with suppress(SystemExit):
        portal.call(end)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (call, OutcomeUnknownError(WRITE)),
        (look, ClosedError(CLOSED)),
        (enter, ClosedError(CLOSED)),
        (stay, ClosedError(CLOSED)),
        (fail_inside, KeyError("of the body")),
    ],
)
def test_who_is_amid_a_call_when_the_thread_ends_hears_what_that_means(
    body: Body, error: Exception, *, dies: bool
) -> None:
    sleeper, ended = Sleeper(), threading.Event()
    heard: list[Exception] = []

    def use(portal: Portal) -> None:
        try:
            body(portal, sleeper, ended)
        except Exception as raised:
            heard.append(raised)

    with HostThread("n1") as thread:
        caller = threading.Thread(target=use, args=(thread.portal,))
        caller.start()
        sleeper.begun.wait()
        if dies:
            kill(thread.portal)
    ended.set()
    caller.join()
    with pytest.raises(ClosedError, match=CLOSED):
        thread.portal.call(sleeper.sleep)
    (found,) = heard
    assert type(found) is type(error)
    assert str(found).startswith(str(error))
    assert sleeper.left == ([True] if body in (stay, fail_inside) else [])


async def test_another_loop_hears_it_too_by_what_it_asked_for() -> None:
    sleeper = Sleeper()
    both = anyio.Event()
    heard: dict[str, Error] = {}

    class Store:
        begun = 0

        async def _wait(self, *_args: object, **_options: object) -> None:
            self.begun += 1
            if self.begun == 2:
                sleeper.begun.set()
            await anyio.sleep_forever()

        get = put = _wait

    async def ask(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Error as error:
            heard[name] = error

    async def wait() -> None:
        await anyio.to_thread.run_sync(sleeper.begun.wait)
        both.set()

    async with anyio.create_task_group() as tasks:
        with HostThread("n1") as thread:
            kv = HostedKv(thread, cast("raftkv.Kv", Store()))
            tasks.start_soon(ask, "get", lambda: kv.get("k"))
            tasks.start_soon(ask, "put", lambda: kv.put("k", "v"))
            tasks.start_soon(wait)
            await both.wait()
    assert type(heard["get"]) is ClosedError
    assert type(heard["put"]) is OutcomeUnknownError


def test_the_thread_itself_is_told_that_it_would_wait_for_itself() -> None:
    with HostThread("n1") as thread:
        portal = thread.portal
        for wait in (portal.call, portal.look):
            with pytest.raises(WrongThreadError, match="wait for itself"):
                portal.call(lambda wait=wait: wait(int))


def test_a_context_that_another_thread_is_in_keeps_nobody_from_closing(tmp_path: Path) -> None:
    inside, closed = threading.Event(), threading.Event()
    heard: list[Exception] = []

    def watch(node: blocking.Node[raftkv.KvResult]) -> None:
        try:
            with node.kv.election("chief").observe():
                inside.set()
                closed.wait()
        except Exception as error:
            heard.append(error)

    opened = blocking.open_node(tmp_path, name="n1", cluster=CLUSTER, listen="127.0.0.1:0")
    with opened as node:
        node.ready()
        watcher = threading.Thread(target=watch, args=(node,))
        watcher.start()
        inside.wait()
    closed.set()
    watcher.join()
    assert [type(one) for one in heard] == [ClosedError]


WRITES = {
    "Kv": "put delete txn grant revoke compact disarm",
    "Members": "add promote remove replace move",
    "Lock": "",
    "Leadership": "proclaim",
    "Election": "",
    "Counter": "add",
    "Barrier": "hold release",
    "Queue": "put get get_nowait",
}


@pytest.mark.parametrize(
    "kind",
    [raftkv.Kv, raftkv.Members, Lock, Leadership, Election, Counter, Barrier, Queue],
)
def test_every_method_either_writes_or_changes_nothing(kind: type[object]) -> None:
    writes: set[str] = set()
    for name in dir(kind):
        method: object = getattr(kind, name)
        if name.startswith("_") or not iscoroutinefunction(method):
            continue
        if method not in CHANGES_NOTHING:
            writes.add(name)
    assert writes == {*WRITES[kind.__name__].split()}
