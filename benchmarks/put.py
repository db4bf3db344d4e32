"""Puts of 256 bytes into three members: raftkv, etcd, PySyncObj, and the disk's own floor.

Each system runs alone, three processes on loopback. raftkv's load runs inside a member's process,
as an application's would: the leader's, or a follower's. etcd's runs in a client process of its
own, as every etcd client does; its hand-made gRPC client is as cheap as Python gets and its CPU
time is shown. PySyncObj's load runs inside the leader's process, with its defaults and tuned; it
has a journal on disk but never syncs it, which raftkv and etcd do before every acknowledgement.
Only successes count. All systems are verified after the load: members equal, nothing acknowledged
missing.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from benchmarks.etcd_system import Etcd
from benchmarks.processes import cpu_seconds, rss_mib
from benchmarks.pysyncobj_system import TUNED, PySyncObj
from benchmarks.report import Cell, Report, Target
from benchmarks.systems import Raftkv, System, disk_floor

DEFAULTS, TUNED_NAME = "pysyncobj", "pysyncobj_tuned"


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--clients", default="1,10,100,1000", help="outstanding puts, by commas")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--systems", default="disk,raftkv,etcd,pysyncobj", help="which to measure")
    parser.add_argument("--modes", default="leader,follower", help="where raftkv's load runs")
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"))
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Measure every system alone."""
    with tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory:
        rows = _measure(options, Path(directory))
    notes: dict[str, Cell] = {"value_bytes": 256, "members": 3, "seconds": options.seconds}
    notes["synced"] = "raftkv and etcd: every write; PySyncObj: never"
    notes["etcd"] = "not installed: skipped" if not Etcd.is_installed() else "Debian etcd-server"
    notes["pysyncobj"] = (
        f"{DEFAULTS}: its defaults; {TUNED_NAME}: "
        + " ".join(f"{name}={value:g}" for name, value in TUNED.items())
        if PySyncObj.is_installed()
        else "not installed: skipped"
    )
    _add_ratios(rows)
    return Report("put", rows, notes, _targets(rows))


def _measure(options: Namespace, directory: Path) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    wanted: list[str] = options.systems.split(",")
    clients = [int(number) for number in options.clients.split(",")]
    if "disk" in wanted:
        rows.append(_floor_row(directory / "floor", options.seconds))
    if "raftkv" in wanted:
        with Raftkv(directory / "raftkv", options.backend) as system:
            rows += _load_rows(system, options.modes.split(","), clients, options.seconds)
    if "etcd" in wanted and Etcd.is_installed():
        with Etcd(directory / "etcd") as system:
            rows += _load_rows(system, ["client"], clients, options.seconds)
    if "pysyncobj" in wanted and PySyncObj.is_installed():
        nothing: Mapping[str, float] = {}
        for name, conf in ((DEFAULTS, nothing), (TUNED_NAME, TUNED)):
            with PySyncObj(name, directory / name, conf) as system:
                rows += _load_rows(system, ["leader"], clients, options.seconds)
    return rows


def _floor_row(directory: Path, seconds: float) -> dict[str, Cell]:
    count, ranked, elapsed = disk_floor(directory, seconds)
    return {
        "system": "disk",
        "mode": "RocksDB",
        "operation": "synced batch of one",
        "clients": 1,
        "per_second": count / elapsed,
        "p50_ms": ranked[len(ranked) // 2] * 1e3,
        "p99_ms": ranked[len(ranked) * 99 // 100] * 1e3,
    }


def _load_rows(
    system: System, modes: list[str], clients: list[int], seconds: float
) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    run = acknowledged = asked = 0
    for mode in modes:
        for number in clients:
            run += 2
            warm = system.load(mode, run - 1, number, min(1.0, seconds))
            before = [cpu_seconds(pid) for pid in system.pids()]
            answer = system.load(mode, run, number, seconds)
            used = [cpu_seconds(pid) for pid in system.pids()]
            for one in (warm, answer):
                acknowledged += cast("int", one["count"])
                asked += cast("int", one["count"]) + cast("int", one["failed"])
            count = cast("int", answer["count"])
            cost = sorted(b - a for a, b in zip(before, used, strict=True))
            row: dict[str, Cell] = {
                "system": system.name,
                "mode": mode,
                "operation": "put",
                "clients": number,
                "per_second": count / cast("float", answer["seconds"]),
                "p50_ms": cast("float", answer["p50_ms"]),
                "p99_ms": cast("float", answer["p99_ms"]),
                "failed": cast("int", answer["failed"]),
                "cpu_us_per_put_busiest": cost[-1] / max(count, 1) * 1e6,
                "cpu_us_per_put_idlest": cost[0] / max(count, 1) * 1e6,
                "rss_mib_max": max(rss_mib(pid) for pid in system.pids()),
            }
            if "client_cpu_seconds" in answer:
                client = cast("float", answer["client_cpu_seconds"])
                row["cpu_us_per_put_client"] = client / max(count, 1) * 1e6
            rows.append(row)
    held = system.verify(acknowledged, asked)
    for row in rows:
        row["verified_puts"] = held
    return rows


def _add_ratios(rows: list[dict[str, Cell]]) -> None:
    """Set each raftkv row against its peers with as many clients, in the same run."""
    for name in ("etcd", DEFAULTS, TUNED_NAME):
        theirs = {row["clients"]: row["per_second"] for row in rows if row["system"] == name}
        for row in rows:
            peer = theirs.get(row["clients"])
            # PySyncObj's load runs in its leader's process: only ours there is its like.
            comparable = name == "etcd" or row["mode"] == "leader"
            if row["system"] == "raftkv" and comparable and peer:
                row[f"times_{name}"] = cast("float", row["per_second"]) / cast("float", peer)


def _targets(rows: list[dict[str, Cell]]) -> list[Target]:
    found = {
        row["clients"]: cast("float | None", row.get(f"times_{TUNED_NAME}"))
        for row in rows
        if row["system"] == "raftkv" and row["mode"] == "leader"
    }
    what = "raftkv's rate in the leader, of tuned PySyncObj's, {} outstanding"
    return [
        Target(what.format(clients), found.get(clients), at_least=least)
        for clients, least in ((1, 1.0), (1000, 0.5))
    ]


__all__ = ["add_arguments", "measure"]
