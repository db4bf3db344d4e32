"""Simulations, replays and campaigns as commands; they exit with 1 if something is broken."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from raftkv.testing.artifact import Artifact, ArtifactError, load, save
from raftkv.testing.campaign import Summary, run_campaign
from raftkv.testing.campaigns.command import add_campaigns, run_command
from raftkv.testing.choices import SeededChoices
from raftkv.testing.simulation import replay, run
from raftkv.testing.trace import Note, Record, line

_TAIL = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "simulate":
            return _simulate(options)
        if options.command == "replay":
            return _replay(options)
        status, told = run_command(options, sys.stderr)
    except (ArtifactError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(told)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftkv.testing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("simulate", help="clusters of bare cores under faults, seed by seed")
    one.add_argument("--seeds", type=_seeds, default=range(100), metavar="A..B", help="B excluded")
    one.add_argument("--steps", type=_positive, default=6000, help="core steps before recovery")
    one.add_argument("--jobs", type=_positive, default=1, help="processes")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    one.add_argument("--save", type=Path, metavar="DIR", help="keep each finding as a file there")
    one.add_argument("--trace", action="store_true", help="print everything; for one seed")
    two = commands.add_parser("replay", help="run a recorded finding again")
    two.add_argument("file", type=Path)
    two.add_argument(
        "--until", type=_positive, metavar="N", help="print the first N steps, all of them"
    )
    add_campaigns(commands)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seeds(text: str) -> range:
    first, dots, stop = text.partition("..")
    seeds = range(int(first), int(stop) if dots else int(first) + 1)
    if not seeds or seeds.start < 0:
        raise argparse.ArgumentTypeError(f"no seeds in {text}")
    return seeds


def _simulate(options: argparse.Namespace) -> int:
    seeds: range = options.seeds
    if options.trace:
        return _trace(seeds[0], options.steps)
    began = perf_counter()

    def show(summary: Summary) -> None:
        rate = summary.steps / max(perf_counter() - began, 1e-9)
        text = f"{summary.seeds}/{len(seeds)} seeds, {summary.steps} steps, {rate:.0f} steps/s"
        print(f"\r{text}, {len(summary.found)} found ", end="", file=sys.stderr, flush=True)

    progress = None if options.json else show
    summary = run_campaign(seeds, options.steps, jobs=options.jobs, on_progress=progress)
    seconds = perf_counter() - began
    files = [_kept(options.save, one) for one in summary.found] if options.save else []
    if options.json:
        print(json.dumps(_as_json(summary, options.steps, seconds, files)))
    else:
        print(file=sys.stderr)
        _tell(summary, seconds, files)
    return 0 if summary.is_green else 1


def _trace(seed: int, steps: int) -> int:
    outcome = run(SeededChoices(seed), steps, keep=None)
    print(outcome.options)
    for text in outcome.trace.lines():
        print(text)
    if outcome.finding is not None:
        print(f"seed {seed}: {outcome.finding.invariant}: {outcome.finding.broken}")
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
        print(f"\nseed {one.seed}: {one.invariant} at step {one.step}: {one.broken}")
        print(f"  {one.options}")
        for text in one.trace[-_TAIL:]:
            print(f"  {text}")
    for path in files:
        print(f"replay with: python -m raftkv.testing replay {path}")
    for text in summary.unmet:
        print(f"below its floor: {text}")
    for name, count in sorted(summary.marks.items()):
        print(f"  {count:>9}  {name}")
    for name, count in sorted(summary.rows.items(), key=_number_of_row):
        print(f"  {count:>9}  seeds for row {name}")
    rate = summary.steps / seconds if seconds else 0
    print(
        f"{summary.seeds} seeds, {summary.steps} steps, {summary.ticks} ticks in {seconds:.1f} s"
        f" ({rate:.0f} steps/s): {len(summary.found)} found"
    )


def _number_of_row(row: tuple[str, int]) -> int:
    return int(row[0].partition(":")[0])


def _replay(options: argparse.Namespace) -> int:
    kept = load(options.file)
    until: int | None = options.until
    outcome = replay(kept.decisions, kept.steps, keep=None)
    print(outcome.options)
    if until is not None and until < outcome.steps:
        for record in _first(outcome.trace.records(), until):
            print(line(record))
        return 0
    for record in outcome.trace.records()[-_TAIL:]:
        print(line(record))
    found = outcome.finding
    if found is None:
        print("nothing is broken in this run any more")
        return 0
    print(f"{found.invariant} at step {found.step}: {found.broken}")
    return 1


def _first(records: Sequence[Record], steps: int) -> Iterator[Record]:
    """The records up to the given number of steps."""
    for record in records:
        if not isinstance(record[2], Note):
            if not steps:
                return
            steps -= 1
        yield record


if __name__ == "__main__":
    sys.exit(main())
