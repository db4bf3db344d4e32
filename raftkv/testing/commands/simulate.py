"""``simulate``: clusters under faults, seed by seed."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol

from attrs import frozen

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

_BLOCK: Final = 64  # seeds of bare cores between two looks at the clock, for each process
_STEPS: Final = {1: 6000, 2: 3000, 3: 3000}
_LEVELS: Final[Mapping[str, Sequence[int]]] = {"1": (1,), "2": (2,), "3": (3,), "all": (1, 2)}
_SEEDS: Final = {"1": 100, "all": 2000}
_SCARCER: Final = 10  # seeds of cores for one of whole nodes
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


@frozen
class _Ran:
    """What came of the seeds of one level."""

    level: int
    steps: int
    """Asked for, of each seed."""
    jobs: int
    summary: Summary
    seconds: float
    files: Sequence[str]

    @property
    def rate(self) -> float:
        """Steps a second, of all processes together."""
        return self.summary.steps / self.seconds if self.seconds else 0.0


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser(
        "simulate",
        help="clusters under faults, seed by seed",
        description="Clusters under faults, seed by seed. The standard campaign is"
        f" `simulate --level all --jobs 2`: {_SEEDS['all']} seeds of bare cores and a tenth as"
        " many of whole nodes, about five minutes on two quiet cores. Exits with 1 if anything is"
        " broken, or too little was met to tell.",
    )
    one.add_argument(
        "--level",
        choices=tuple(_LEVELS),
        default="1",
        help="1: bare cores; 2: whole nodes in virtual time; 3: the same with a real RocksDB each;"
        " all: level 1, then 2 with a tenth of the seeds",
    )
    one.add_argument(
        "--seeds",
        type=seeds,
        metavar="A..B",
        help=f"B excluded; else 0..{_SEEDS['1']}, and 0..{_SEEDS['all']} for all levels",
    )
    one.add_argument(
        "--minutes",
        type=minutes,
        metavar="M",
        help="from seed A on for so long, beyond B; of several levels each has its share",
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
    one.add_argument(
        "--trace", action="store_true", help="print the world and every event of the first seed"
    )
    add_ledger(one)


def run(options: argparse.Namespace) -> int:
    """Simulate; 1 if something is broken or too little was met."""
    name: str = options.level
    levels = _LEVELS[name]
    chosen: range = options.seeds or range(_SEEDS.get(name, _SEEDS["1"]))
    if options.trace:
        return _trace(levels[0], chosen[0], options.steps or _STEPS[levels[0]])
    ran: list[_Ran] = []
    for level in levels:
        part = -(-len(chosen) // _SCARCER) if len(levels) > 1 and level > 1 else len(chosen)
        ran.append(_run(options, level, chosen[:part], len(levels)))
    if options.json:
        told = {f"L{one.level}": _as_json(one) for one in ran}
        tell(json.dumps({"levels": told} if len(ran) > 1 else _as_json(ran[0])))
    return 0 if all(one.summary.is_green for one in ran) else 1


def _run(options: argparse.Namespace, level: int, chosen: range, levels: int) -> _Ran:
    """Simulate on one level, and enter it in the ledger."""
    steps: int = options.steps or _STEPS[level]
    began = perf_counter()
    progress = Progress(quiet=options.json)
    minutes_left = None if options.minutes is None else options.minutes / levels
    until = None if minutes_left is None else began + 60 * minutes_left
    if until is not None:
        chosen = range(chosen.start, _ENDLESS)

    def show(summary: Summary) -> None:
        passed = max(perf_counter() - began, 1e-9)
        of = f"{len(chosen)}" if until is None else f"{passed / 60:.1f} of {minutes_left:g} minutes"
        text = f"{summary.seeds}/{of} seeds" if until is None else f"{summary.seeds} seeds in {of}"
        rate = summary.steps / passed
        progress.show(
            f"level {level}: {text}, {summary.steps} steps, {rate:.0f} steps/s,"
            f" {len(summary.found)} found"
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
    ran = _Ran(level, steps, options.jobs, summary, seconds, files)
    if not options.json:
        _tell(ran)
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
    return ran


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


def _as_json(ran: _Ran) -> dict[str, object]:
    summary = ran.summary
    return {
        "seeds": summary.seeds,
        "steps_per_seed": ran.steps,
        "steps": summary.steps,
        "figures": dict(summary.figures),
        "seconds": round(ran.seconds, 3),
        "jobs": ran.jobs,
        "steps_per_second": round(ran.rate),
        "steps_per_second_and_process": round(ran.rate / ran.jobs),
        "marks": dict(sorted(summary.marks.items())),
        "seeds_per_row": dict(sorted(summary.rows.items())),
        "below_floor": summary.unmet,
        "files": list(ran.files),
        "findings": [
            {"seed": one.seed, "invariant": one.invariant, "broken": one.broken, "step": one.step}
            for one in summary.found
        ],
    }


def _tell(ran: _Ran) -> None:
    summary = ran.summary
    for one, path in zip_longest(summary.found, ran.files):
        what = f"{one.invariant} at step {one.step}: {one.broken}"
        tell(f"\nseed {one.seed} of level {ran.level}: {what}")
        tell(f"  replay with: {_again(one, ran.level, path)}")
    for text in summary.unmet:
        tell(f"below its floor: {text}")
    for name, count in sorted(summary.marks.items()):
        tell(f"  {count:>9}  {name}")
    for name, count in sorted(summary.rows.items(), key=_number_of_row):
        tell(f"  {count:>9}  seeds for row {name}")
    hours = summary.figures["simulated seconds"] / 3600
    tell(
        f"level {ran.level}: {summary.seeds} seeds, {summary.steps} steps, {hours:.2f} simulated"
        f" hours in {ran.seconds:.1f} s ({ran.rate:.0f} steps/s, {ran.rate / ran.jobs:.0f} a"
        f" process): {len(summary.found)} found"
    )


def _again(one: Artifact, level: int, path: str | None) -> str:
    """The command that shows how it came about."""
    if path is not None:
        return f"python -m raftkv.testing replay {path}"
    which = f"--level {level} --seeds {one.seed} --steps {one.steps}"
    return f"python -m raftkv.testing simulate {which} --trace"


def _number_of_row(row: tuple[str, int]) -> int:
    return int(row[0].partition(":")[0])
