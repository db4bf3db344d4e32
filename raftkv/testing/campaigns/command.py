"""The campaigns as commands: their arguments, and an order and a ledger from them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from raftkv.testing.campaigns.frame import Order, Run, as_json, as_text, progress
from raftkv.testing.campaigns.frame import run as run_campaign
from raftkv.testing.campaigns.ledger import (
    add_run,
    load_ledger,
    locked,
    save_ledger,
    today,
)
from raftkv.testing.campaigns.registry import CAMPAIGNS
from raftkv.testing.commands.screen import Commands, add_ledger, minutes, positive, tell

_SECONDS_BETWEEN_LINES = 10.0  # of progress that goes to a file


def add(commands: Commands) -> None:
    """A command for each campaign."""
    for campaign in CAMPAIGNS:
        parts = "; ".join(f"{part.name} ({part.cases}): {part.about}" for part in campaign.parts)
        one = commands.add_parser(
            campaign.name,
            help=campaign.about,
            description=f"{campaign.about}. Parts, and the cases of a full run: {parts}",
        )
        one.add_argument("--cases", type=positive, help="in all parts together; else a full run")
        one.add_argument("--minutes", type=minutes, help="as many cases as fit, instead")
        one.add_argument("--seed", type=int, help="of the first case; else from the clock")
        one.add_argument("--jobs", type=positive, default=1, help="worker processes")
        one.add_argument("--dir", type=Path, help="for the cases' files; else a temporary one")
        names = [part.name for part in campaign.parts]
        one.add_argument("--part", choices=names, action="append", help="only this part")
        one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
        one.add_argument("--require", action="store_true", help="a part that cannot run is a fault")
        add_ledger(one)


def run(options: argparse.Namespace) -> int:
    """Run the campaign asked for; exit status."""
    status, told = run_command(options, sys.stderr)
    tell(told)
    return status


def run_command(options: argparse.Namespace, errors: TextIO) -> tuple[int, str]:
    """Run the campaign asked for; exit status, and what to print."""
    campaign = next(one for one in CAMPAIGNS if one.name == options.command)
    order = Order(
        directory=options.dir or Path(tempfile.mkdtemp(prefix=f"raftkv-{campaign.name}-")),
        seed=time.time_ns() // 1_000_000 % 1_000_000_000 if options.seed is None else options.seed,
        cases=options.cases,
        minutes=options.minutes,
        jobs=options.jobs,
        parts=tuple(options.part or ()),
    )
    done = run_campaign(campaign, order, on_progress=_Progress(errors))
    if errors.isatty():
        errors.write("\n")
    if not done.findings and not options.dir:
        order.directory.rmdir()
    if options.ledger is not None:
        with locked(options.ledger):
            grown = add_run(load_ledger(options.ledger), done, today())
            save_ledger(options.ledger, grown)
    is_short = options.require and any(part.skipped for part in done.parts.values())
    told = as_json(done) if options.json else as_text(done)
    return (1 if done.findings or is_short else 0), told


class _Progress:
    """A line that is rewritten on a terminal, and repeated now and then in a file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0

    def __call__(self, run: Run) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{progress(run)} ")
        elif run.seconds >= self._next:
            self._next = run.seconds + _SECONDS_BETWEEN_LINES
            self._stream.write(progress(run) + "\n")
        self._stream.flush()
