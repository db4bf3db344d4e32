"""One raftkv member as a process of its own, told what to do by lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import anyio

import raftkv
from benchmarks.load import closed_loop
from benchmarks.processes import Answer

ERRORS = (raftkv.UnavailableError, raftkv.OutcomeUnknownError)


async def _commands() -> AsyncIterator[Answer]:
    rest = b""
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield cast("Answer", json.loads(line))


def _reply(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)


async def _count(node: raftkv.Node[raftkv.KvResult]) -> int:
    found = await node.kv.range(prefix="bench/", count_only=True, serializable=True)
    return found.count


async def _serve(name: str, directory: Path, cluster: dict[str, str]) -> None:
    async with raftkv.open_node(directory, name=name, cluster=cluster) as node:
        await node.ready(timeout=60)
        async for command in _commands():
            match command["do"]:
                case "status":
                    status = node.status()
                    _reply(
                        {
                            "leader": status.leader_name,
                            "applied": status.applied,
                            "sync_p50_ms": status.disk.sync_seconds_p50 * 1e3,
                            "syncs": status.disk.syncs,
                        }
                    )
                case "load":
                    result = await closed_loop(
                        node.kv.put,
                        ERRORS,
                        run=cast("int", command["run"]),
                        clients=cast("int", command["clients"]),
                        seconds=cast("float", command["seconds"]),
                    )
                    _reply(
                        {
                            "count": result.count,
                            "failed": result.failed,
                            "seconds": result.seconds,
                            "p50_ms": result.p50_ms,
                            "p99_ms": result.p99_ms,
                        }
                    )
                case "verify":
                    # A linearizable read first: what was acknowledged anywhere is applied here
                    # then.
                    await node.read(timeout=30)
                    _reply({"count": await _count(node)})
                case other:
                    raise ValueError(f"unknown command {other!r}")


def main() -> None:
    """Arguments: name, data directory, cluster as JSON, backend."""
    name, directory, cluster, backend = sys.argv[1:]
    anyio.run(_serve, name, Path(directory), json.loads(cluster), backend=backend)


if __name__ == "__main__":
    main()
