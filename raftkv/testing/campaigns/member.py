"""One member as a process of its own, with clients in it; told what to do by lines of JSON.

Started by :mod:`~raftkv.testing.campaigns.cluster`. Its clients work until they are told to rest;
every call is noted before it leaves and once it is answered, in a file whose pages outlive us.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import cast

import anyio

import raftkv
from raftkv.kv import KvMachine
from raftkv.storage.base import Reader
from raftkv.testing.campaigns.killpoints import arm, tally
from raftkv.testing.histories.kv import (
    DeleteOne,
    Get,
    KvHistory,
    KvRequest,
    KvResponse,
    Put,
    Range,
    Span,
    written_in,
)
from raftkv.testing.histories.operations import History
from raftkv.testing.histories.plain import to_plain

_CALL_SECONDS = 2.0
_CLIENTS_ID = 1_000_000  # numbers of one client's calls

Json = dict[str, object]


def open_diary(path: str) -> KvHistory:
    """What our clients ask and are answered, kept in a file line by line."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # One write for each line: it is there entirely or torn at the end.
    return History(now=time.monotonic_ns, note=lambda line: os.write(file, line))


class Client:
    """Calls one after another, as chance has it."""

    def __init__(
        self,
        kv: raftkv.Kv,
        diary: KvHistory,
        name: str,
        number: int,
        keys: int,
        long_values: float,
    ) -> None:
        self._kv = kv
        self._diary = diary
        self._name = f"{name}/{number}"
        self._random = Random(self._name)
        self._number = number * _CLIENTS_ID
        self._keys = keys
        self._long_values = long_values

    async def work(self, is_resting: Callable[[], bool]) -> None:
        """Until it is time to rest."""
        random = self._random
        while not is_resting():
            self._number += 1
            key = b"k%d" % random.randrange(self._keys)
            chance = random.random()
            if chance < 0.45:
                # A long one has a row of its own in the store.
                padding = "." * (4000 if random.random() < self._long_values else 0)
                value = f"{self._name}/{self._number}{padding}".encode()
                await self._note(Put(key, value), self._kv.put(key, value, timeout=_CALL_SECONDS))
            elif chance < 0.55:
                await self._note(DeleteOne(key), self._kv.delete(key, timeout=_CALL_SECONDS))
            elif chance < 0.80:
                await self._range(key, lease=chance < 0.6)
            elif chance < 0.95:
                work = self._kv.get(key, lease=chance < 0.85, timeout=_CALL_SECONDS)
                await self._note(Get(key), work)
            else:
                await self._range(key, serializable=True)
            await anyio.sleep(random.random() * 0.004)

    async def _note(self, request: KvRequest, work: Awaitable[KvResponse]) -> None:
        try:
            await self._diary.record(self._name, request, work)
        except raftkv.Error:
            await anyio.sleep(0.02)

    async def _range(self, key: bytes, *, lease: bool = False, serializable: bool = False) -> None:
        span = Span(key, key + b"\0")
        work = self._kv.range(
            span.start, span.stop, lease=lease, serializable=serializable, timeout=_CALL_SECONDS
        )
        await self._note(Range(span, serializable=serializable), work)


class Member:
    """An open node, its clients, and the answers to commands."""

    def __init__(
        self,
        node: raftkv.Node[raftkv.KvResult],
        machine: KvMachine,
        diary: KvHistory,
        given: Json,
    ) -> None:
        self._node = node
        self._machine = machine
        self._kv = raftkv.Kv(node, machine)
        self._diary = diary
        self._clients = cast("int", given["clients"])
        self._keys = cast("int", given["keys"])
        self._name = f"{node.name}.{node.status().boot}"
        self._images_begun = tally("image-begin")
        self._images_installed = tally("image-install")
        self._long_values = cast("float", given["long_values"])
        self._rounds = 0
        self._is_resting = True
        self._working = 0
        self._idle = anyio.Event()

    async def serve(self) -> None:
        """Until told to stop, or our input ends."""
        _reply(0, {})
        async with anyio.create_task_group() as tasks:
            async for command in _commands():
                number = cast("int", command["number"])
                match command["do"]:
                    case "work":
                        self._is_resting = False
                        self._idle = anyio.Event()
                        self._rounds += 1
                        for each in range(self._clients):
                            tasks.start_soon(self._client, self._rounds * 1000 + each)
                        _reply(number, {})
                    case "rest":
                        self._is_resting = True
                        if self._working:
                            await self._idle.wait()
                        _reply(number, {})
                    case "stop":
                        self._is_resting = True
                        break
                    case other:
                        tasks.start_soon(self._answer, number, str(other), command)

    async def _client(self, number: int) -> None:
        self._working += 1
        try:
            client = Client(
                self._kv, self._diary, self._name, number, self._keys, self._long_values
            )
            await client.work(lambda: self._is_resting)
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def _answer(self, number: int, do: str, command: Json) -> None:
        try:
            _reply(number, await self._do(do, command))
        except raftkv.Error as error:
            reason = error.reason if isinstance(error, raftkv.MembershipError) else ""
            name = type(error).__name__
            _reply(number, {"error": f"{name}: {error}", "reason": reason or name})

    async def _do(self, do: str, command: Json) -> Json:
        node = self._node
        if do == "catch up":
            return {"applied": await node.read(timeout=cast("float", command["timeout"]))}
        if do == "status":
            status = node.status()
            return {
                "leader": status.leader_name,
                "is_leader": status.is_leader,
                "term": status.term,
                "applied": status.applied,
                "commit": status.commit,
                "first_index": status.first_index,
                "last_index": status.last_index,
                "voters": list(status.membership.voters),
                "learners": list(status.membership.learners),
                "id": status.id,
                "images begun": self._images_begun(),
                "images installed": self._images_installed(),
            }
        if do == "arm":
            arm(str(command["at"]))
            return {}
        if do == "hash":
            return {"hash": self._machine.state_hash(), "applied": node.status().applied}
        if do == "rows":
            count = write_rows(self._machine.store, Path(str(command["path"])))
            return {"revisions": count}
        return await self._change(do, command)

    async def _change(self, do: str, command: Json) -> Json:
        members, one = self._node.members, str(command.get("member", ""))
        timeout = cast("float", command.get("timeout", 5.0))
        name, address = str(command.get("name", "")), str(command.get("address", ""))
        if do == "members":
            listed = members.list()
            return {"members": {each.name: [each.id, each.is_voter] for each in listed}}
        if do == "add":
            await members.add(name, address, promote=bool(command["promote"]), timeout=timeout)
        elif do == "promote":
            await members.promote(one, timeout=timeout)
        elif do == "remove":
            await members.remove(one, timeout=timeout)
        elif do == "replace":
            await members.replace(one, name, address, timeout=timeout)
        else:
            raise ValueError(f"unknown command {do!r}")
        return {}


def write_rows(reader: Reader, path: Path) -> int:
    """What every revision wrote, from the rows and not from the node; how many rows there are."""
    lines = [json.dumps(to_plain(one)) for one in written_in(reader)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


async def _commands() -> AsyncIterator[Json]:
    rest = b""
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield cast("Json", json.loads(line))


def _reply(number: int, answer: Json) -> None:
    os.write(sys.stdout.fileno(), json.dumps({"number": number, **answer}).encode() + b"\n")


async def run_member(given: Json) -> None:
    """Open the node that the words describe, and serve."""
    diary = open_diary(str(given["history"]))
    settings = raftkv.Settings(**cast("dict[str, int]", given["settings"]))
    machine = KvMachine()
    joins = cast("list[str] | None", given.get("join"))
    async with raftkv.open_node(
        Path(str(given["directory"])),
        name=str(given["name"]),
        cluster=None if joins else cast("dict[str, str]", given["cluster"]),
        join=joins,
        listen=str(given["listen"]),
        machine=machine,
        insecure=True,
        settings=settings,
    ) as node:
        await Member(node, machine, diary, given).serve()


def main() -> None:
    """One argument: everything about the member, as JSON."""
    given = cast("Json", json.loads(sys.argv[1]))
    arm(str(given.get("kill_at", "")))
    anyio.run(run_member, given, backend=str(given.get("backend", "asyncio")))


if __name__ == "__main__":
    main()
