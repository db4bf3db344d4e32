"""One raftkv member as a process of its own, told what to do by lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
from anyio.abc import TaskGroup

import raftkv
from benchmarks.commands import commands, reply
from benchmarks.load import Writers, closed_loop, preload
from benchmarks.processes import Answer

ERRORS = (raftkv.UnavailableError, raftkv.OutcomeUnknownError)

Node = raftkv.Node[raftkv.KvResult]


class Diary(logging.Handler):
    """The newest lines that the member logged, with their times."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[tuple[float, str]] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append((time.monotonic(), record.getMessage()))


class Served:
    """A member and the load that runs inside its process."""

    def __init__(self, node: Node, tasks: TaskGroup, diary: Diary) -> None:
        self._node = node
        self._tasks = tasks
        self._diary = diary
        self._writers: Writers | None = None

    async def answer(self, command: Answer) -> Answer:
        """Do what a command says."""
        known: dict[object, Callable[[Answer], Awaitable[Answer]]] = {
            "status": self._status,
            "load": self._load,
            "preload": self._preload,
            "verify": self._verify,
            "write": self._write,
            "rest": self._rest,
            "count": self._count,
            "first": self._first,
            "gap": self._gap,
            "transfer": self._transfer,
            "log": self._log,
            "remove": self._remove,
            "add": self._add,
        }
        return await known[command["do"]](command)

    async def _status(self, command: Answer) -> Answer:
        status = self._node.status()
        return {
            "at": time.monotonic(),
            "leader": status.leader_name,
            "role": status.role.name,
            "term": status.term,
            "commit": status.commit,
            "applied": status.applied,
            "first_index": status.first_index,
            "last_index": status.last_index,
            "voters": len(status.membership.voters),
            "sync_p50_ms": status.disk.sync_seconds_p50 * 1e3,
            "syncs": status.disk.syncs,
            "peers": {
                peer.name: {
                    "connected": peer.is_connected,
                    "lag": peer.lag,
                    "state": peer.state.name if peer.state is not None else None,
                }
                for peer in status.peers
            },
        }

    async def _load(self, command: Answer) -> Answer:
        await self._node.ready(timeout=60)
        result = await closed_loop(
            self._node.kv.put,
            ERRORS,
            run=cast("int", command["run"]),
            clients=cast("int", command["clients"]),
            seconds=cast("float", command["seconds"]),
        )
        return result.answer()

    async def _preload(self, command: Answer) -> Answer:
        await self._node.ready(timeout=60)
        begin = time.monotonic()
        await preload(self._node.kv.put, ERRORS, cast("int", command["keys"]))
        return {"seconds": time.monotonic() - begin}

    async def _verify(self, command: Answer) -> Answer:
        # A linearizable read first: what was acknowledged anywhere is applied here then.
        await self._node.read(timeout=60)
        kv = self._node.kv
        found = await kv.range(prefix="bench/", count_only=True, serializable=True, timeout=60)
        return {"count": found.count}

    async def _write(self, command: Answer) -> Answer:
        self._writers = Writers(
            self._node.kv.put,
            ERRORS,
            prefix=cast("str", command["prefix"]),
            clients=cast("int", command["clients"]),
            patience_seconds=cast("float | None", command["patience_seconds"]),
        )
        self._tasks.start_soon(self._writers.run)
        return {}

    async def _rest(self, command: Answer) -> Answer:
        writers, self._writers = self._working(), None
        writers.stop()
        return {"count": writers.count, "failed": writers.failed}

    async def _count(self, command: Answer) -> Answer:
        writers = self._working()
        return {"at": time.monotonic(), "count": writers.count, "failed": writers.failed}

    async def _first(self, command: Answer) -> Answer:
        return {"at": self._working().first_since(cast("float", command["since"]))}

    async def _gap(self, command: Answer) -> Answer:
        writers = self._working()
        since = cast("float", command["since"])
        return {
            "gap_ms": writers.longest_gap_seconds(since, time.monotonic()) * 1e3,
            "slowest_ms": writers.slowest_seconds(since) * 1e3,
            "failed": writers.failed,
            "failures": writers.failures,
        }

    async def _transfer(self, command: Answer) -> Answer:
        begin = time.monotonic()
        problem = None
        try:
            await self._node.transfer_leadership(cast("str", command["to"]), timeout=5)
        except raftkv.DeadlineError as error:
            problem = str(error)
        return {"seconds": time.monotonic() - begin, "problem": problem}

    async def _remove(self, command: Answer) -> Answer:
        await self._node.members.remove(cast("str", command["name"]), timeout=30)
        return {}

    async def _add(self, command: Answer) -> Answer:
        name, address = cast("str", command["name"]), cast("str", command["address"])
        await self._node.members.add(name, address, timeout=30)
        return {}

    async def _log(self, command: Answer) -> Answer:
        since = cast("float", command["since"])
        return {"lines": [line for line in self._diary.lines if line[0] >= since]}

    def _working(self) -> Writers:
        if self._writers is None:
            raise RuntimeError("no load runs here")
        return self._writers


async def _serve(command: Answer) -> None:
    diary = Diary()
    logger = logging.getLogger("raftkv")
    logger.addHandler(diary)
    logger.setLevel(logging.INFO)
    directory, name = cast("str", command["directory"]), cast("str", command["name"])
    cluster = cast("dict[str, str]", command["cluster"])
    given = cast("dict[str, float]", command["settings"])
    settings = raftkv.Settings(**given)  # pyright: ignore[reportArgumentType] - by name
    if command["joins"]:
        opened = raftkv.open_node(directory, name=name, join=cluster, settings=settings)
    else:
        opened = raftkv.open_node(directory, name=name, cluster=cluster, settings=settings)
    async with opened as node, anyio.create_task_group() as tasks:
        served = Served(node, tasks, diary)
        async for command in commands():
            if command["do"] == "close":
                break
            reply(await served.answer(command))
        tasks.cancel_scope.cancel()


def main() -> None:
    """Arguments: what to open as JSON, and the backend."""
    command, backend = sys.argv[1:]
    anyio.run(_serve, json.loads(command), backend=backend)


if __name__ == "__main__":
    main()
