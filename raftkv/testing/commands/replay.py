"""``replay``: a recorded finding is run again."""

from __future__ import annotations

import argparse
import pdb
from pathlib import Path

from raftkv.testing.artifact import Artifact, ArtifactError, load
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.commands.screen import Commands, positive, tell
from raftkv.testing.finding import Outcome
from raftkv.testing.levels import LEVELS, Level
from raftkv.testing.ndjson import as_ndjson
from raftkv.testing.story import Story
from raftkv.testing.viewer import as_text, write_html

_TAIL = 40


def add(commands: Commands) -> None:
    """The arguments."""
    one = commands.add_parser("replay", help="run a recorded finding again")
    one.add_argument("file", type=Path)
    one.add_argument(
        "--until", type=positive, metavar="N", help="print the first N events, all of them"
    )
    one.add_argument(
        "--break",
        dest="invariant",
        metavar="INV",
        help="open the debugger where this invariant breaks (I12, or the name of an error)",
    )
    add_story(one)


def add_story(parser: argparse.ArgumentParser) -> None:
    """The arguments of commands that have a story to tell."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the story as a page")
    parser.add_argument(
        "--ndjson", type=Path, metavar="FILE", help="write every event and state as a line of JSON"
    )


def keep_story(options: argparse.Namespace, story: Story) -> None:
    """Write what those arguments ask for."""
    if options.html is not None:
        write_html(story, options.html)
    if options.ndjson is not None:
        text = "".join(f"{line}\n" for line in as_ndjson(story))
        options.ndjson.write_text(text, encoding="utf-8")


def run(options: argparse.Namespace) -> int:
    """Run it again; 1 if it still breaks something."""
    kept = load(options.file)
    outcome, story = told(kept, options.file)
    keep_story(options, story)
    lines = as_text(story).splitlines()
    until: int | None = options.until
    tell(str(outcome.options))
    if until is not None and until < len(story.events):
        for line in lines[: len(lines) - len(story.events) + until]:
            tell(line)
        return 0
    for line in lines[-_TAIL:]:
        tell(line)
    found = outcome.finding
    if found is None:
        tell("nothing is broken in this run any more")
        return 0
    tell(f"{found.invariant} at step {found.step}: {found.broken}")
    if outcome.error is not None and found.invariant == options.invariant:
        pdb.post_mortem(outcome.error.__traceback__)
    return 1


def told(kept: Artifact, path: Path) -> tuple[Outcome, Story]:
    """Run a recorded run, with its story."""
    title = f"{kept.level} seed {kept.seed}: {kept.invariant}"
    how = f"python -m raftkv.testing replay {path}"
    return level_of(kept).tell(ReplayedChoices(kept.decisions), kept.steps, title, how)


def level_of(kept: Artifact) -> Level:
    """How its level is run. Raises ArtifactError if there is no such level."""
    if kept.level not in LEVELS:
        raise ArtifactError(f"no level {kept.level}: known are {', '.join(LEVELS)}")
    return LEVELS[kept.level]
