"""What commands share: the kinds of their arguments, where they print, and a line of progress."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage] - it has no public name
"""What a command adds itself to."""

_SECONDS_BETWEEN_LINES = 10.0  # of progress that goes to a file
_SECONDS_BETWEEN_LOOKS = 0.1  # of progress that a person reads


def positive(text: str) -> int:
    """The argument is a number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def minutes(text: str) -> float:
    """The argument is a time in minutes."""
    number = float(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def seeds(text: str) -> range:
    """The argument is ``A`` or ``A..B``, B excluded."""
    first, dots, stop = text.partition("..")
    numbers = range(int(first), int(stop) if dots else int(first) + 1)
    if not numbers or numbers.start < 0:
        raise argparse.ArgumentTypeError(f"no seeds in {text}")
    return numbers


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """The argument of every command whose runs are counted."""
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="add the run to this file")


def tell(text: str = "") -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


class Progress:
    """One line on stderr: rewritten for a person, repeated now and then in a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._stream = sys.stderr
        self._is_seen = self._stream.isatty()
        self._quiet = quiet
        self._next = 0.0
        self._last = ""

    def show(self, text: str) -> None:
        """Say how far it is, unless that was said just now; cheap, so call it often."""
        now = time.monotonic()
        if now < self._next:
            self._last = text
            return
        self._next = now + (_SECONDS_BETWEEN_LOOKS if self._is_seen else _SECONDS_BETWEEN_LINES)
        self._last = ""
        self._write(text)

    def end(self) -> None:
        """Say the last that was shown, and leave the line."""
        if self._last:
            self._write(self._last)
            self._last = ""
        if self._is_seen and not self._quiet:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        self._stream.write(f"\r{text} \x1b[K" if self._is_seen else f"{text}\n")
        self._stream.flush()
