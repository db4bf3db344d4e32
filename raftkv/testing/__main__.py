"""Simulations, replays and campaigns as commands; they exit with 1 if something is broken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from raftkv.testing.artifact import ArtifactError
from raftkv.testing.campaigns import command as campaigns
from raftkv.testing.commands import replay, report, shrink, simulate
from raftkv.testing.commands.screen import Commands
from raftkv.testing.explore import command as explore
from raftkv.testing.fuzz import command as fuzz
from raftkv.testing.mutants import command as mutants
from raftkv.testing.nodes.campaign import keep_quiet


class Command(Protocol):
    """What a module of a command offers."""

    add: Callable[[Commands], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: Final[Mapping[str, Command]] = {
    "simulate": simulate,
    "replay": replay,
    "shrink": shrink,
    "explore": explore,
    "mutants": mutants,
    "fuzz": fuzz,
    "report": report,
}
"""The module of each command; every other command is a campaign."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m raftkv.testing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add(commands)
    campaigns.add(commands)
    options = parser.parse_args(arguments)
    command: Command = COMMANDS.get(options.command, campaigns)
    try:
        return command.run(options)
    except (ArtifactError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    keep_quiet()
    sys.exit(main())
