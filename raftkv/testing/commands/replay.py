"""``replay``: a recorded finding is run again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from raftkv.testing.artifact import load
from raftkv.testing.commands.screen import Commands, positive, tell
from raftkv.testing.simulation import replay
from raftkv.testing.trace import Note, Record, line

_TAIL = 40


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser("replay", help="run a recorded finding again")
    one.add_argument("file", type=Path)
    one.add_argument(
        "--until", type=positive, metavar="N", help="print the first N steps, all of them"
    )


def run(options: argparse.Namespace) -> int:
    """Run it again; 1 if it still breaks something."""
    kept = load(options.file)
    until: int | None = options.until
    outcome = replay(kept.decisions, kept.steps, keep=None)
    tell(str(outcome.options))
    if until is not None and until < outcome.steps:
        for record in _first(outcome.trace.records(), until):
            tell(line(record))
        return 0
    for record in outcome.trace.records()[-_TAIL:]:
        tell(line(record))
    found = outcome.finding
    if found is None:
        tell("nothing is broken in this run any more")
        return 0
    tell(f"{found.invariant} at step {found.step}: {found.broken}")
    return 1


def _first(records: Sequence[Record], steps: int) -> Iterator[Record]:
    """The records up to the given number of steps."""
    for record in records:
        if not isinstance(record[2], Note):
            if not steps:
                return
            steps -= 1
        yield record
