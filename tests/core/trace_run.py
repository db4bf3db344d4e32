"""Runs a trace file: chooses its driver, feeds it the cases, and compares or rewrites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from tests.core import trace_changes, trace_quorum
from tests.core.trace_changes import ChangeDriver
from tests.core.trace_commands import InteractionDriver
from tests.core.trace_file import Case, Directive, difference, parse_file, rewritten
from tests.core.trace_quorum import QuorumDriver

_FOLDERS: Final = {"quorum": QuorumDriver, "confchange": ChangeDriver}


class Driver(Protocol):
    """Whatever runs the commands of one file."""

    def handle(self, directive: Directive) -> str:
        """What the command prints."""
        ...


class TraceMismatchError(Exception):
    """A case printed something else than the file expects."""


def driver_for(path: Path, cases: list[Case]) -> Driver:
    """A fresh driver: the one that knows most of the commands, else the one named by the folder."""
    quorum = changes = interaction = 0
    driver = InteractionDriver()
    for case in cases:
        quorum += case.directive.command in trace_quorum.COMMANDS
        changes += case.directive.command in trace_changes.COMMANDS
        interaction += case.directive.command in driver.commands
    most = max(quorum, changes, interaction)
    if not most:
        named = [_FOLDERS[part] for part in path.parts if part in _FOLDERS]
        return named[-1]() if named else driver
    if quorum == most:
        return QuorumDriver()
    return ChangeDriver() if changes == most else driver


def traces_below(folder: Path) -> list[Path]:
    """Every trace file below a folder, in order of path."""
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def check(path: Path) -> None:
    """Run a file. Raises TraceMismatchError at the first case that prints something else."""
    cases = parse_file(path.read_text(encoding="utf-8"))
    for case, output in _run(path, cases):
        differs = difference(case, output)
        if differs:
            raise TraceMismatchError(f"{_place(path, case)}\n{differs}")


def rewrite(path: Path) -> bool:
    """Run a file and write what it prints as what is expected; whether that changed the file."""
    text = path.read_text(encoding="utf-8")
    outputs = [output for _, output in _run(path, parse_file(text))]
    new = rewritten(text, outputs)
    if new == text:
        return False
    path.write_text(new, encoding="utf-8")
    return True


def _run(path: Path, cases: list[Case]) -> Iterator[tuple[Case, str]]:
    """Each case with what it prints."""
    driver = driver_for(path, cases)
    for case in cases:
        try:
            output = driver.handle(case.directive)
        except Exception as error:
            error.add_note(f"while running {_place(path, case)}")
            raise
        yield case, output


def _place(path: Path, case: Case) -> str:
    words = [case.directive.command]
    for argument in case.directive.arguments:
        values = f"=({','.join(argument.values)})" if argument.values else ""
        words.append(f"{argument.key}{values}")
    return f"{path}:{case.line}: {' '.join(words)}"
