"""``mutants``: bugs are seeded, one after the other, and each must be noticed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final
from zlib import crc32

from raftkv.testing.campaigns.ledger import enter
from raftkv.testing.commands.screen import Commands, Progress, add_ledger, positive, tell
from raftkv.testing.mutants.mutant import Mutant, MutantError, checkout, load_mutants
from raftkv.testing.mutants.runner import Kind, Verdict, run_mutants

_WORDS_MAX: Final = 150


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser(
        "mutants",
        help="seed bugs in copies of this source checkout; each must be noticed",
        description="Seeds each bug of tests/mutants in a copy of the checkout, and looks who"
        " notices: a test or an invariant must, and must be green without the bug.",
    )
    one.add_argument("--only", type=_numbers, metavar="N,M", help="only these mutants")
    one.add_argument("--rotate", type=positive, metavar="K", help="only K of them, by the sources")
    one.add_argument("--seed", type=int, metavar="S", help="which K, instead")
    one.add_argument("--all-catchers", action="store_true", help="count all who notice")
    one.add_argument("--jobs", type=positive, default=1, help="mutants at a time")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    add_ledger(one)


def run(options: argparse.Namespace) -> int:
    """Try mutants; 1 unless all were killed, 2 if there are none to try."""
    try:
        root = checkout()
        chosen = choose(root, load_mutants(root), options.only, options.rotate, options.seed)
    except MutantError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    began = perf_counter()
    progress = Progress(quiet=options.json)
    done: list[Verdict] = []

    def show(verdict: Verdict) -> None:
        done.append(verdict)
        alive = sum(one.kind is not Kind.KILLED for one in done)
        progress.show(f"{len(done)}/{len(chosen)} mutants, {alive} not killed, {verdict.mutant}")

    verdicts = run_mutants(
        root, chosen, jobs=options.jobs, every=options.all_catchers, on_verdict=show
    )
    progress.end()
    seconds = perf_counter() - began
    if options.ledger is not None:
        _enter(options.ledger, verdicts)
    if options.json:
        tell(json.dumps(as_json(verdicts, seconds)))
    else:
        for line in as_lines(verdicts, seconds):
            tell(line)
    return 0 if all(one.kind is Kind.KILLED for one in verdicts) else 1


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


def choose(
    root: Path,
    mutants: Sequence[Mutant],
    only: Sequence[int] | None = None,
    rotate: int | None = None,
    seed: int | None = None,
) -> list[Mutant]:
    """The mutants asked for. Raises MutantError if one of those numbers does not exist.

    ``rotate`` takes so many that stand beside each other. Which ones depends on ``seed``, by
    default a checksum of the package's sources: the same for the same tree, others after a change.
    """
    if only is not None:
        by_number = {one.number: one for one in mutants}
        unknown = [str(number) for number in only if number not in by_number]
        if unknown:
            raise MutantError(f"there is no mutant {', '.join(unknown)}")
        return [by_number[number] for number in sorted({*only})]
    if rotate is None or rotate >= len(mutants):
        return list(mutants)
    start = (checksum(root) if seed is None else seed) * rotate
    return [mutants[(start + step) % len(mutants)] for step in range(rotate)]


def checksum(root: Path) -> int:
    """A number that any change of the package's sources changes."""
    total = 0
    for path in sorted((root / "raftkv").rglob("*.py")):
        total = crc32(path.read_bytes(), total)
    return total


def as_json(verdicts: Sequence[Verdict], seconds: float) -> dict[str, object]:
    """What became of the mutants."""
    return {
        "mutants": len(verdicts),
        "killed": sum(one.kind is Kind.KILLED for one in verdicts),
        "seconds": round(seconds, 1),
        "verdicts": [
            {
                "number": one.mutant.number,
                "name": one.mutant.name,
                "subject": one.mutant.subject,
                "kind": one.kind.value,
                "why": one.why,
                "seconds": round(one.seconds, 2),
                "seconds_to_first": round(one.sightings[0].seconds, 2) if one.sightings else None,
                "killers": one.killers,
                "sightings": [
                    {"catcher": seen.catcher, "what": seen.what} for seen in one.sightings
                ],
            }
            for one in verdicts
        ],
    }


def as_lines(verdicts: Sequence[Verdict], seconds: float) -> list[str]:
    """The same for a reader, one line for each mutant and for what noticed it."""
    lines: list[str] = []
    for one in verdicts:
        by = f" by {one.killers}" if one.kind is Kind.KILLED else ""
        lines.append(f"{one.mutant.number:>2} {one.kind.value}{by}: {one.mutant.name}")
        why = " ".join(one.why.split())
        words = why if one.kind is not Kind.KILLED else why[:_WORDS_MAX]
        after = f" after {one.sightings[0].seconds:.1f} s" if one.sightings else ""
        lines.append(f"     {words}{after}")
    killed = sum(one.kind is Kind.KILLED for one in verdicts)
    lines.append(f"{killed} of {len(verdicts)} mutants killed in {seconds:.0f} s")
    return lines


def _enter(path: Path, verdicts: Sequence[Verdict]) -> None:
    for one in verdicts:
        killed = one.kind is Kind.KILLED
        enter(
            path,
            "mutants",
            f"{one.mutant.number:02} {one.mutant.name}",
            cases=1,
            findings=int(not killed),
            seconds=sum(sighting.seconds for sighting in one.sightings),
            figures={"killed": int(killed)},
        )
