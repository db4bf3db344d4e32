"""The KV in process, one and three members: what each operation costs, memory and opening time.

Rates are of closed loops in the process of the members, 256-byte values, every write synced. With
three members all of them share one process, one loop and one disk: that is what a development
cluster does, not what three machines do (``put`` measures those). Memory is the kernel's resident
memory of a process that opened a store of so many keys, and read one; etcd's of a single member
that was restarted on as many, in the same run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import cast

import anyio

from benchmarks.etcd_client import EtcdClient, EtcdError
from benchmarks.load import preload
from benchmarks.processes import Answer, end_process, free_ports, rss_mib, start_quietly
from benchmarks.report import Cell, Report, Target

_ETCD_SECONDS_MAX = 120


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load")
    parser.add_argument("--keys", default="1000000", help="sizes of stores, by commas")
    parser.add_argument("--sizes", default="1,3", help="numbers of members, by commas")
    parser.add_argument("--systems", default="raftkv,etcd", help="whose memory to compare")
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Operations first, then stores of so many keys."""
    keys = [int(one) for one in options.keys.split(",") if int(one)]
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as name:
        directory = Path(name)
        for size in [int(one) for one in options.sizes.split(",")]:
            most = min(keys, default=0) if size == 1 else 0
            where = directory / f"operations-{size}"
            rows += _operations(where, size, most, options.seconds)
            shutil.rmtree(where)
        for count in keys:
            rows += _stores(directory, count, options.systems.split(","))
    notes: dict[str, Cell] = {"value_bytes": 256, "seconds": options.seconds}
    return Report("kv", rows, notes, _targets(rows))


def _child(what: str, directory: Path, size: int, keys: int, seconds: float) -> Answer:
    job = {
        "what": what,
        "directory": str(directory),
        "size": size,
        "keys": keys,
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kv_store", json.dumps(job)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return cast("Answer", json.loads(done.stdout))


def _operations(directory: Path, size: int, keys: int, seconds: float) -> list[dict[str, Cell]]:
    answer = _child("operations", directory, size, keys, seconds)
    rows: list[dict[str, Cell]] = []
    for one in cast("list[dict[str, Cell]]", answer["rows"]):
        count, elapsed = cast("int", one["count"]), cast("float", one["seconds"])
        rows.append(
            {
                "system": "raftkv",
                "members": size,
                "operation": one["operation"],
                "clients": one["clients"],
                "per_second": count / elapsed,
                "p50_ms": one["p50_ms"],
                "p99_ms": one["p99_ms"],
                "failed": one["failed"],
                "event_after_answer_p50_ms": one.get("event_after_answer_p50_ms"),
            }
        )
    return rows


def _stores(directory: Path, keys: int, systems: list[str]) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    what = f"store of {keys:,} keys, opened"
    if "raftkv" in systems:
        where = directory / f"store-{keys}"
        _child("fill", where, 1, keys, 0)
        opened = _child("open", where, 1, keys, 0)
        shutil.rmtree(where)
        row: dict[str, Cell] = {"system": "raftkv", "members": 1, "operation": what}
        row["opening_seconds"] = cast("float", opened["seconds"])
        row["rss_mib"] = cast("float", opened["rss_mib"])
        rows.append(row)
    if "etcd" in systems and shutil.which("etcd"):
        seconds, memory = _etcd_store(directory / f"etcd-{keys}", keys)
        row = {"system": "etcd", "members": 1, "operation": what}
        row["opening_seconds"], row["rss_mib"] = seconds, memory
        rows.append(row)
    return rows


def _etcd_store(directory: Path, keys: int) -> tuple[float, float]:
    """Fill a single member without syncs, start it again, and see how long that takes."""
    directory.mkdir()
    client, peer = free_ports(2)
    command = ["etcd", "--data-dir", str(directory / "data"), "--logger", "zap"]
    command += [f"--listen-client-urls=http://127.0.0.1:{client}"]
    command += [f"--advertise-client-urls=http://127.0.0.1:{client}"]
    command += [f"--listen-peer-urls=http://127.0.0.1:{peer}", "--quota-backend-bytes=8589934592"]
    filling = start_quietly([*command, "--unsafe-no-fsync"], directory / "log")
    try:
        anyio.run(_etcd_fill, client, keys)
    finally:
        end_process(filling)
    begun = time.monotonic()
    again = start_quietly(command, directory / "log")
    try:
        anyio.run(_etcd_fill, client, 1)
        return time.monotonic() - begun, rss_mib(again.pid)
    finally:
        end_process(again)
        shutil.rmtree(directory)


async def _etcd_fill(port: int, keys: int) -> None:
    """Put so many keys, as soon as the member answers."""
    deadline = time.monotonic() + _ETCD_SECONDS_MAX
    while True:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            await anyio.sleep(0.02)
    async with stream, anyio.create_task_group() as tasks:
        client = EtcdClient(stream, f"127.0.0.1:{port}")
        tasks.start_soon(client.run)
        await preload(client.put, (EtcdError,), keys)
        tasks.cancel_scope.cancel()


def _targets(rows: list[dict[str, Cell]]) -> list[Target]:
    def figure(column: str, **wanted: Cell) -> float | None:
        for row in rows:
            if all(row.get(key) == value for key, value in wanted.items()):
                return cast("float | None", row.get(column))
        return None

    stores = [row for row in rows if row.get("rss_mib") is not None]
    what = None if not stores else stores[0]["operation"]
    ours = figure("rss_mib", system="raftkv", operation=what) if what else None
    theirs = figure("rss_mib", system="etcd", operation=what) if what else None
    watch, get = "watch: put to event", "get, serializable"
    return [
        Target(
            "event after the put's answer, p50 ms, one member",
            figure("event_after_answer_p50_ms", members=1, operation=watch),
            at_most=0.2,
        ),
        Target(
            "serializable gets a second, one member",
            figure("per_second", members=1, operation=get),
            at_least=50_000,
        ),
        Target(f"RSS of a {what or 'store'}, MiB", ours, at_most=300),
        Target("that memory, of etcd's", ours / theirs if ours and theirs else None, at_most=0.5),
    ]


__all__ = ["add_arguments", "measure"]
