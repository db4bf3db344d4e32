"""Unified diffs, applied by what they say and not by where they say it.

A hunk is put where its old lines stand, and they must stand in the file exactly once: line numbers
go stale with every edit above them, so they are ignored. ``git apply`` would need a repository and
``patch`` a program that is not everywhere, and its fuzz would put a bug where nobody meant it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from attrs import frozen

_HUNK: Final = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@")


class PatchError(ValueError):
    """The text is no patch, or does not fit the file: the patch has to be made anew."""


@frozen
class Hunk:
    """A few lines that take the place of others; both with the lines around them."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@frozen
class FilePatch:
    """What changes in one file, named from the root of the tree."""

    path: str
    hunks: tuple[Hunk, ...]

    @property
    def module(self) -> str:
        """The dotted name of the Python module."""
        parts = self.path.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def apply(self, text: str) -> str:
        """The text after the change. Raises PatchError if a hunk's place is not there, or twice."""
        lines = text.splitlines(keepends=True)
        for number, hunk in enumerate(self.hunks, 1):
            place = self._place(lines, hunk, number)
            lines[place : place + len(hunk.old)] = hunk.new
        return "".join(lines)

    def _place(self, lines: list[str], hunk: Hunk, number: int) -> int:
        old, count = list(hunk.old), len(hunk.old)
        places = [one for one in range(len(lines)) if lines[one : one + count] == old]
        if len(places) == 1:
            return places[0]
        how = "are there no more" if not places else f"stand there {len(places)} times"
        raise PatchError(f"{self.path}: the lines that change {number} is for {how}")


def parse(text: str) -> tuple[str, tuple[FilePatch, ...]]:
    """What stands above the first file, and the files. Raises PatchError."""
    lines = text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if _begins_file(lines, at, line)]
    if not starts:
        raise PatchError("there is no '--- a/…' in it: it changes nothing")
    bounds = [*starts, len(lines)]
    files = tuple(_file(lines[first:stop]) for first, stop in pairwise(bounds))
    return "".join(lines[: starts[0]]), files


def _begins_file(lines: list[str], at: int, line: str) -> bool:
    return line.startswith("--- a/") and at + 1 < len(lines) and lines[at + 1].startswith("+++ b/")


def _file(lines: list[str]) -> FilePatch:
    path = lines[0].removeprefix("--- a/").strip()
    hunks = tuple(_hunks(path, lines[2:]))
    if not hunks:
        raise PatchError(f"{path}: no change follows its name")
    return FilePatch(path, hunks)


def _hunks(path: str, lines: list[str]) -> Iterator[Hunk]:
    starts = [at for at, line in enumerate(lines) if _HUNK.match(line)]
    for first, stop in pairwise([*starts, len(lines)]):
        old: list[str] = []
        new: list[str] = []
        for line in lines[first + 1 : stop]:
            # An editor may have taken the blank from an empty line.
            mark, rest = (" ", line) if line == "\n" else (line[0], line[1:])
            if mark not in " +-":
                raise PatchError(f"{path}: {line.rstrip()!r} is no line of a patch")
            if mark != "+":
                old.append(rest)
            if mark != "-":
                new.append(rest)
        if not old or old == new:
            raise PatchError(f"{path}: a change without old lines, or that changes nothing")
        yield Hunk(tuple(old), tuple(new))


def apply(files: tuple[FilePatch, ...], texts: Mapping[str, str]) -> dict[str, str]:
    """The texts of the files that change, by path, as they are then. Raises PatchError."""
    changed: dict[str, str] = {}
    for one in files:
        if one.path not in texts:
            raise PatchError(f"{one.path}: there is no such file")
        changed[one.path] = one.apply(texts[one.path])
    return changed
