"""The ledger: what all runs of all campaigns and searches amounted to, as a JSON file for people.

One line for each part of each campaign. Adding a run is a sum (and the later date), so ledgers that
grew apart are merged by adding what each has more than their common ancestor.

A line carries *figures* beside its cases: whatever the run counted, by name. They are summed, but
for those whose name ends in `` max``, of which the greatest is kept. ``python -m raftkv.testing
report`` reads these names (:data:`KNOWN_FIGURES`); others are kept for the reader. Every command
enters its run by one call, whose cases are its seeds, inputs or states as it counts them:

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "campaigns.json"
>>> for seeds, steps in ((100, 1_234_567), (20, 250_000)):
...     figures = {"steps": steps, "simulated seconds": steps / 80, "faults": steps // 75}
...     enter(path, "simulate", "L2", cases=seeds, findings=0, seconds=61.5, figures=figures)
>>> line = load_ledger(path)["simulate"]["L2"]
>>> line.runs, line.cases, line.figures["steps"], line.figures["simulated seconds"]
(2, 120, 1484567, 18557.1)

``mutants`` has a part for each mutant (cases: how often it was tried; figure ``killed``: how often
it was noticed), ``explore`` a part for each configuration (``states max``: so many distinct states,
however often it is explored), ``simulate`` a part for each level, ``fuzz`` one for each decoder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

from attrs import evolve, frozen

from raftkv.testing.campaigns.frame import Run

KNOWN_FIGURES: Final[Mapping[str, str]] = {
    "steps": "inputs that cores took",
    "simulated seconds": "time in simulated clusters; a tick counts as 0.1 s where ticks are all",
    "faults": "partitions, crashes, pauses, lost writes and messages: what a nemesis chose to do",
    "histories": "recorded histories of clients that a checker judged",
    "operations": "operations of clients in them",
    "inconclusive": "histories that a checker gave up on: never a pass",
    "states max": "distinct states of an exhaustive exploration",
    "killed": "times that a mutant was noticed",
    "kills": "processes ended by kill -9",
    "cuts": "power cuts",
    "flips": "single flipped bits",
    "loop stall ms max": "longest time in which an event loop did nothing",
}
"""What the report reads, and what each means."""


@frozen
class Line:
    """The sum of all runs of one part."""

    runs: int = 0
    cases: int = 0
    findings: int = 0
    seconds: float = 0.0
    last: str = ""
    """The date of the last run, as year-month-day."""
    figures: Mapping[str, float] = {}
    """What else the runs counted; sums, and the greatest where the name ends in `` max``."""


Ledger = Mapping[str, Mapping[str, Line]]
"""Campaign, part: its line."""


def load_ledger(path: Path) -> Ledger:
    """Read a ledger; a missing file is an empty one. Raises ValueError if it is not a ledger."""
    if not path.exists():
        return {}
    try:
        told = cast(
            "dict[str, dict[str, dict[str, object]]]", json.loads(path.read_text(encoding="utf-8"))
        )
        return {
            campaign: {name: _line(words) for name, words in parts.items()}
            for campaign, parts in told.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no ledger of campaigns: {error!r}") from error


def _line(words: Mapping[str, object]) -> Line:
    figures = cast("Mapping[str, object]", words.get("figures", {}))
    return Line(
        runs=int(str(words["runs"])),
        cases=int(str(words["cases"])),
        findings=int(str(words["findings"])),
        seconds=float(str(words["seconds"])),
        last=str(words["last"]),
        figures={name: _number(value) for name, value in figures.items()},
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def add_run(ledger: Ledger, run: Run, today: str) -> Ledger:
    """The ledger with a campaign's run in it; parts that did not run here leave no trace."""
    for name, part in run.parts.items():
        if part.cases == 0:
            continue
        one = Line(1, part.cases, part.findings, part.seconds, today, dict(part.facts))
        ledger = add_line(ledger, run.campaign, name, one)
    return ledger


def add_line(ledger: Ledger, campaign: str, part: str, one: Line) -> Ledger:
    """The ledger with a line added to that of the part."""
    grown = {name: dict(parts) for name, parts in ledger.items()}
    lines = grown.setdefault(campaign, {})
    line = lines.get(part, Line())
    figures = dict(line.figures)
    for name, value in one.figures.items():
        known = figures.get(name, 0)
        figures[name] = max(known, value) if name.endswith(" max") else known + value
    lines[part] = evolve(
        line,
        runs=line.runs + one.runs,
        cases=line.cases + one.cases,
        findings=line.findings + one.findings,
        seconds=round(line.seconds + one.seconds, 1),
        last=max(line.last, one.last),
        figures={name: _rounded(value) for name, value in figures.items()},
    )
    return grown


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 1)


def enter(
    path: Path,
    campaign: str,
    part: str,
    *,
    cases: int,
    findings: int,
    seconds: float,
    figures: Mapping[str, float] | None = None,
) -> None:
    """Add one run to a ledger file, also while others do. Raises ValueError if it is none."""
    one = Line(1, cases, findings, seconds, today(), figures or {})
    with locked(path):
        save_ledger(path, add_line(load_ledger(path), campaign, part, one))


def today() -> str:
    """The date that runs are entered under."""
    return datetime.now(UTC).date().isoformat()


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Nobody else who asks so changes the ledger meanwhile."""
    # Its directory is locked: the file may not exist yet.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Write it, one line for each part, sorted."""
    campaigns: list[str] = []
    for campaign, parts in sorted(ledger.items()):
        lines = [f"    {json.dumps(name)}: {_told(parts[name])}" for name in sorted(parts)]
        campaigns.append(f"  {json.dumps(campaign)}: {{\n" + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(campaigns) + "\n}\n", encoding="utf-8")


def _told(line: Line) -> str:
    words: dict[str, object] = {
        "runs": line.runs,
        "cases": line.cases,
        "findings": line.findings,
        "seconds": line.seconds,
        "last": line.last,
    }
    if line.figures:
        words["figures"] = dict(sorted(line.figures.items()))
    return json.dumps(words)
