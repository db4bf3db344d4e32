"""One shape for all results: rows, conditions and targets, as tables or as one JSON object."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import field, frozen

import raftkv

Cell = str | int | float | None
Row = Mapping[str, Cell]

PACKAGES = ("attrs", "cbor2", "rocksdict", "anyio", "pysyncobj")


@frozen
class Target:
    """A figure to reach, and what was measured; None where there was nothing to measure."""

    what: str
    measured: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        if self.measured is None:
            return None
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )

    @property
    def bound(self) -> str:
        """The bound in words."""
        least = [] if self.at_least is None else [f"at least {self.at_least:,.6g}"]
        most = [] if self.at_most is None else [f"at most {self.at_most:,.6g}"]
        return " and ".join(least + most)

    def row(self) -> Row:
        """As a line of the report."""
        verdict = {True: "holds", False: "does not hold", None: "not measured"}[self.holds]
        return {
            "target": self.what,
            "bound": self.bound,
            "measured": self.measured,
            "verdict": verdict,
        }


@frozen
class Report:
    """What one benchmark found: rows, the conditions they were measured under, and its targets.

    ``details`` are rows of another kind, single runs or what happened when.
    """

    name: str
    rows: Sequence[Row]
    notes: Mapping[str, Cell]
    targets: Sequence[Target] = field(default=())
    details: Sequence[Row] = field(default=())


def percentiles_ms(seconds: Sequence[float]) -> dict[str, Cell]:
    """Median, 90th percentile and maximum of some times; empty if there are none."""
    ranked = sorted(seconds)
    if not ranked:
        return {}
    last = len(ranked) - 1
    return {
        "runs": len(ranked),
        "min_ms": ranked[0] * 1e3,
        "p50_ms": (ranked[last // 2] + ranked[(last + 1) // 2]) / 2 * 1e3,
        "p90_ms": ranked[min(last, len(ranked) * 9 // 10)] * 1e3,
        "max_ms": ranked[-1] * 1e3,
    }


def environment() -> dict[str, Cell]:
    """The conditions of a run: figures without them say nothing."""
    found: dict[str, Cell] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": _cpu(),
        "cores": os.cpu_count(),
    }
    found["raftkv"] = raftkv.__version__
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


def as_data(report: Report) -> dict[str, object]:
    """A report as JSON has it."""
    return {
        "benchmark": report.name,
        "conditions": dict(report.notes),
        "rows": [dict(row) for row in report.rows],
        "targets": [{**target.row(), "holds": target.holds} for target in report.targets],
        "details": [dict(row) for row in report.details],
    }


def print_reports(reports: Sequence[Report], *, as_json: bool) -> None:
    """Print them with the environment they were measured in."""
    if as_json:
        found = {"environment": environment(), "reports": [as_data(one) for one in reports]}
        print(json.dumps(found))
        return
    print("  ".join(f"{key}={_shown(value)}" for key, value in environment().items()), end="\n\n")
    for report in reports:
        print(f"{report.name}")
        print("  ".join(f"{key}={_shown(value)}" for key, value in report.notes.items()))
        for rows in (report.rows, report.details, [target.row() for target in report.targets]):
            if rows:
                _print_table(rows)
                print()


def _print_table(rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[_shown(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text.rstrip())


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
