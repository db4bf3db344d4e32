"""``report``: the scorecard, from what the ledger holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import asdict

from raftkv.testing.campaigns.ledger import load_ledger
from raftkv.testing.campaigns.scorecard import Row, read_limits, scorecard
from raftkv.testing.commands.screen import Commands, tell

LEDGER = Path("tests") / "campaigns.json"
LIMITS = "known_limits.txt"


def add(commands: Commands) -> None:
    """The arguments."""
    about = "what all runs entered in the ledger amount to"
    one = commands.add_parser("report", help=about, description=f"The scorecard: {about}.")
    one.add_argument(
        "--ledger", type=Path, default=LEDGER, metavar="FILE", help=f"to read (else {LEDGER})"
    )
    one.add_argument(
        "--limits", type=Path, metavar="FILE", help=f"open known limits (else {LIMITS} beside it)"
    )
    one.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """Print it; 2 if there is no ledger to read."""
    ledger: Path = options.ledger
    limits: Path = options.limits or ledger.with_name(LIMITS)
    if not ledger.exists():
        sys.stderr.write(f"no ledger at {ledger}: name one with --ledger\n")
        return 2
    try:
        rows = scorecard(load_ledger(ledger), read_limits(limits))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.json:
        tell(json.dumps({"ledger": str(ledger), "rows": [asdict(row) for row in rows]}))
    else:
        for line in _table(rows):
            tell(line)
    return 0


_WIDTH = 110


def _table(rows: tuple[Row, ...]) -> Iterator[str]:
    names = max(len(row.name) for row in rows)
    texts = max(len(row.text) for row in rows)
    for row in rows:
        head = f"{row.name:<{names}}  {row.text:>{texts}}"
        line = f"{head}  {', '.join(row.sources)}".rstrip()
        if len(line) <= _WIDTH:
            yield line
        else:
            yield head
            yield from (f"    {source}" for source in row.sources)
