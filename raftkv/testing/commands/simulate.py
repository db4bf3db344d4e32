"""``simulate``: clusters under faults, seed by seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from raftkv.testing.artifact import Artifact, save
from raftkv.testing.campaign import Summary, run_campaign
from raftkv.testing.choices import SeededChoices
from raftkv.testing.commands.screen import Commands, Progress, positive, seeds, tell
from raftkv.testing.simulation import run as simulate

_TAIL = 40


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser("simulate", help="clusters of bare cores under faults, seed by seed")
    one.add_argument("--seeds", type=seeds, default=range(100), metavar="A..B", help="B excluded")
    one.add_argument("--steps", type=positive, default=6000, help="core steps before recovery")
    one.add_argument("--jobs", type=positive, default=1, help="processes")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    one.add_argument("--save", type=Path, metavar="DIR", help="keep each finding as a file there")
    one.add_argument("--trace", action="store_true", help="print everything; for one seed")


def run(options: argparse.Namespace) -> int:
    """Simulate; 1 if something is broken or too little was met."""
    seeds: range = options.seeds
    if options.trace:
        return _trace(seeds[0], options.steps)
    began = perf_counter()
    progress = Progress(quiet=options.json)

    def show(summary: Summary) -> None:
        rate = summary.steps / max(perf_counter() - began, 1e-9)
        text = f"{summary.seeds}/{len(seeds)} seeds, {summary.steps} steps, {rate:.0f} steps/s"
        progress.show(f"{text}, {len(summary.found)} found")

    summary = run_campaign(seeds, options.steps, jobs=options.jobs, on_progress=show)
    progress.end()
    seconds = perf_counter() - began
    files = [_kept(options.save, one) for one in summary.found] if options.save else []
    if options.json:
        tell(json.dumps(_as_json(summary, options.steps, seconds, files)))
    else:
        _tell(summary, seconds, files)
    return 0 if summary.is_green else 1


def _trace(seed: int, steps: int) -> int:
    outcome = simulate(SeededChoices(seed), steps, keep=None)
    tell(str(outcome.options))
    for text in outcome.trace.lines():
        tell(text)
    if outcome.finding is not None:
        tell(f"seed {seed}: {outcome.finding.invariant}: {outcome.finding.broken}")
    return 0 if outcome.finding is None else 1


def _kept(directory: Path, one: Artifact) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"seed-{one.seed}-{one.invariant}.json"
    save(path, one)
    return str(path)


def _as_json(
    summary: Summary, steps: int, seconds: float, files: Sequence[str]
) -> dict[str, object]:
    return {
        "seeds": summary.seeds,
        "steps_per_seed": steps,
        "steps": summary.steps,
        "ticks": summary.ticks,
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
    tell(
        f"{summary.seeds} seeds, {summary.steps} steps, {summary.ticks} ticks in {seconds:.1f} s"
        f" ({rate:.0f} steps/s): {len(summary.found)} found"
    )


def _number_of_row(row: tuple[str, int]) -> int:
    return int(row[0].partition(":")[0])
