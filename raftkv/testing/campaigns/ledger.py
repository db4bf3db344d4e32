"""The ledger: what all runs of all campaigns amounted to, as a JSON file that people read.

One line for each part of each campaign. Adding a run is a sum (and the later date), so ledgers that
grew apart are merged by adding what each has more than their common ancestor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from attrs import asdict, evolve, frozen

from raftkv.testing.campaigns.frame import Run


@frozen
class Line:
    """The sum of all runs of one part."""

    runs: int = 0
    cases: int = 0
    findings: int = 0
    seconds: float = 0.0
    last: str = ""
    """The date of the last run, as year-month-day."""


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
    return Line(
        runs=int(str(words["runs"])),
        cases=int(str(words["cases"])),
        findings=int(str(words["findings"])),
        seconds=float(str(words["seconds"])),
        last=str(words["last"]),
    )


def add_run(ledger: Ledger, run: Run, today: str) -> Ledger:
    """The ledger with a run in it; parts that did not run here leave no trace."""
    grown = {campaign: dict(parts) for campaign, parts in ledger.items()}
    lines = grown.setdefault(run.campaign, {})
    for name, part in run.parts.items():
        if part.cases == 0:
            continue
        line = lines.get(name, Line())
        lines[name] = evolve(
            line,
            runs=line.runs + 1,
            cases=line.cases + part.cases,
            findings=line.findings + part.findings,
            seconds=round(line.seconds + part.seconds, 1),
            last=max(line.last, today),
        )
    return grown


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Write it, one line for each part, sorted."""
    campaigns: list[str] = []
    for campaign, parts in sorted(ledger.items()):
        lines = [
            f"    {json.dumps(name)}: {json.dumps(asdict(parts[name]))}" for name in sorted(parts)
        ]
        campaigns.append(f"  {json.dumps(campaign)}: {{\n" + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(campaigns) + "\n}\n", encoding="utf-8")
