"""``shrink``: a recorded finding is made small."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import monotonic

from raftkv.testing.artifact import artifact, load, save
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.commands.replay import add_story, keep_story, level_of
from raftkv.testing.commands.screen import Commands, Progress, positive, tell
from raftkv.testing.shrink import ShrinkError, shrink
from raftkv.testing.viewer import as_text


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser("shrink", help="make a recorded finding small")
    one.add_argument("file", type=Path)
    one.add_argument("--seconds", type=positive, default=60, help="how long it may take")
    one.add_argument("--out", type=Path, metavar="FILE", help="else FILE-shrunk.json beside it")
    add_story(one)


def run(options: argparse.Namespace) -> int:
    """Shrink it and keep what is left; 0 if nothing is broken in it any more."""
    kept = load(options.file)
    level = level_of(kept)
    progress = Progress()
    stop = monotonic() + options.seconds

    def show(trials: int, events: int) -> None:
        progress.show(f"shrink: {events} events left after {trials} runs")

    try:
        small = shrink(
            level.run,
            kept.decisions,
            kept.steps,
            is_over=lambda: monotonic() > stop,
            on_progress=show,
        )
    except ShrinkError:
        tell("nothing is broken in this run any more")
        return 0
    finally:
        progress.end()
    path: Path = options.out or options.file.with_name(f"{options.file.stem}-shrunk.json")
    how = f"python -m raftkv.testing replay {path}"
    title = f"{kept.level} seed {kept.seed}, shrunk: {small.finding.invariant}"
    outcome, story = level.tell(ReplayedChoices(small.decisions), small.steps, title, how)
    lines = as_text(story).splitlines()
    save(path, artifact(kept.seed, small.steps, outcome, lines, level=kept.level))
    keep_story(options, story)
    for line in lines:
        tell(line)
    found = small.finding
    tell(f"{found.invariant} at step {found.step}: {found.broken}")
    tell(f"{small.events} events are left after {small.trials} runs; replay with: {how}")
    return 1
