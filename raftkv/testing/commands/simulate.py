"""``simulate``: clusters under faults, seed by seed."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol

from raftkv.testing.artifact import Artifact, save
from raftkv.testing.campaign import Summary as CoresSummary
from raftkv.testing.campaign import run_campaign
from raftkv.testing.campaigns.ledger import enter
from raftkv.testing.choices import SeededChoices
from raftkv.testing.commands.replay import told
from raftkv.testing.commands.screen import (
    Commands,
    Progress,
    add_ledger,
    minutes,
    positive,
    seeds,
    tell,
)
from raftkv.testing.levels import LEVELS
from raftkv.testing.nodes.campaign import run_campaign as run_nodes
from raftkv.testing.viewer import as_text, write_html

_TAIL: Final = 40
_BLOCK: Final = 64  # seeds of bare cores between two looks at the clock, for each process
_STEPS: Final = {1: 6000, 2: 3000, 3: 3000}
_ENDLESS: Final = 1 << 40


class Summary(Protocol):
    """What a campaign of any level met and found."""

    seeds: int
    steps: int
    marks: Counter[str]
    rows: Counter[str]
    found: list[Artifact]

    @property
    def unmet(self) -> list[str]:
        """Coverage marks below their floors, in words."""
        ...

    @property
    def is_green(self) -> bool:
        """Nothing broken, and nothing missing."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """What the ledger keeps."""
        ...


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser("simulate", help="clusters under faults, seed by seed")
    one.add_argument(
        "--level",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="1: bare cores; 2: whole nodes in virtual time; 3: the same with a real RocksDB each",
    )
    one.add_argument("--seeds", type=seeds, default=range(100), metavar="A..B", help="B excluded")
    one.add_argument(
        "--minutes", type=minutes, metavar="M", help="from seed A on for so long, beyond B"
    )
    one.add_argument(
        "--steps", type=positive, help="core steps before recovery; 6000 on level 1, else 3000"
    )
    one.add_argument("--jobs", type=positive, default=1, help="processes")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    one.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="keep each finding there as a file to replay, and as a page",
    )
    one.add_argument("--trace", action="store_true", help="print everything; for one seed")
    add_ledger(one)


def run(options: argparse.Namespace) -> int:
    """Simulate; 1 if something is broken or too little was met."""
    level: int = options.level
    steps: int = options.steps or _STEPS[level]
    if options.trace:
        return _trace(level, options.seeds[0], steps)
    began = perf_counter()
    progress = Progress(quiet=options.json)
    until = None if options.minutes is None else began + 60 * options.minutes
    chosen: range = options.seeds
    if until is not None:
        chosen = range(chosen.start, _ENDLESS)

    def show(summary: Summary) -> None:
        passed = max(perf_counter() - began, 1e-9)
        of = len(chosen) if until is None else f"{passed / 60:.1f} of {options.minutes:g} minutes"
        text = f"{summary.seeds}/{of} seeds" if until is None else f"{summary.seeds} seeds in {of}"
        rate = summary.steps / passed
        progress.show(
            f"{text}, {summary.steps} steps, {rate:.0f} steps/s, {len(summary.found)} found"
        )

    def is_over() -> bool:
        return until is not None and perf_counter() >= until

    summary: Summary
    if level == 1:
        summary = _cores(chosen, steps, options.jobs, is_over, show)
    else:
        summary = run_nodes(
            chosen,
            steps,
            jobs=options.jobs,
            real_stores=level == 3,
            is_over=is_over,
            on_progress=show,
        )
    progress.end()
    seconds = perf_counter() - began
    files = [_kept(options.save, one) for one in summary.found] if options.save else []
    if options.json:
        tell(json.dumps(_as_json(summary, steps, seconds, files)))
    else:
        _tell(summary, seconds, files)
    if options.ledger is not None:
        enter(
            options.ledger,
            "simulate",
            f"L{level}",
            cases=summary.seeds,
            findings=len(summary.found),
            seconds=seconds,
            figures=summary.figures,
        )
    return 0 if summary.is_green else 1


def _cores(
    chosen: range,
    steps: int,
    jobs: int,
    is_over: Callable[[], bool],
    show: Callable[[Summary], None],
) -> CoresSummary:
    """Seeds of bare cores; block by block, if there is a clock to look at."""
    if len(chosen) < _ENDLESS // 2:
        return run_campaign(chosen, steps, jobs=jobs, on_progress=show)
    whole = CoresSummary()
    for first in range(chosen.start, _ENDLESS, _BLOCK * jobs):
        if is_over():
            break
        block = range(first, first + _BLOCK * jobs)
        whole.join(run_campaign(block, steps, jobs=jobs))
        show(whole)
    return whole


def _trace(level: int, seed: int, steps: int) -> int:
    outcome, story = LEVELS[f"L{level}"].tell(SeededChoices(seed), steps, f"seed {seed}", "")
    tell(str(outcome.options))
    tell(as_text(story))
    if outcome.finding is not None:
        tell(f"seed {seed}: {outcome.finding.invariant}: {outcome.finding.broken}")
    return 0 if outcome.finding is None else 1


def _kept(directory: Path, one: Artifact) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"seed-{one.seed}-{one.invariant}.json"
    save(path, one)
    _, story = told(one, path)
    write_html(story, path.with_suffix(".html"))
    return str(path)


def _as_json(
    summary: Summary, steps: int, seconds: float, files: Sequence[str]
) -> dict[str, object]:
    return {
        "seeds": summary.seeds,
        "steps_per_seed": steps,
        "steps": summary.steps,
        "figures": dict(summary.figures),
        "seconds": round(seconds, 3),
        "steps_per_second": round(summary.steps / seconds) if seconds else 0,
        "marks": dict(sorted(summary.marks.items())),
        "seeds_per_row": dict(sorted(summary.rows.items())),
        "below_floor": summary.unmet,
        "files": list(files),
        "findings": [
            {"seed": one.seed, "invariant": one.invariant, "broken": one.broken, "step": one.step}
            for one in summary.found
        ],
    }


def _tell(summary: Summary, seconds: float, files: Sequence[str]) -> None:
    for one in summary.found:
        tell(f"\nseed {one.seed}: {one.invariant} at step {one.step}: {one.broken}")
        tell(f"  {one.options}")
        for text in one.trace[-_TAIL:]:
            tell(f"  {text}")
    for path in files:
        tell(f"replay with: python -m raftkv.testing replay {path}")
    for text in summary.unmet:
        tell(f"below its floor: {text}")
    for name, count in sorted(summary.marks.items()):
        tell(f"  {count:>9}  {name}")
    for name, count in sorted(summary.rows.items(), key=_number_of_row):
        tell(f"  {count:>9}  seeds for row {name}")
    rate = summary.steps / seconds if seconds else 0
    hours = summary.figures["simulated seconds"] / 3600
    tell(
        f"{summary.seeds} seeds, {summary.steps} steps, {hours:.2f} simulated hours in"
        f" {seconds:.1f} s ({rate:.0f} steps/s): {len(summary.found)} found"
    )


def _number_of_row(row: tuple[str, int]) -> int:
    return int(row[0].partition(":")[0])
