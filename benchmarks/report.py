"""One shape for all results: rows under conditions, as a table or as one JSON object."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Cell = str | int | float | None
Row = Mapping[str, Cell]

PACKAGES = ("raftkv", "attrs", "cbor2", "rocksdict", "anyio")


def environment() -> dict[str, Cell]:
    """The conditions of a run: figures without them say nothing."""
    found: dict[str, Cell] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": _cpu(),
        "cores": os.cpu_count(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_report(rows: Sequence[Row], *, as_json: bool, notes: Mapping[str, Cell]) -> None:
    """Print rows (dictionaries with the same keys) and the environment they were measured in."""
    conditions = {**environment(), **notes}
    if as_json:
        print(json.dumps({"environment": conditions, "rows": [dict(row) for row in rows]}))
        return
    print("  ".join(f"{key}={value}" for key, value in conditions.items()))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[_shown(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
