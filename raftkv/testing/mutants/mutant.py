"""A mutant: a patch with a header, and where all of them are.

The header stands above the first file of the patch, a field to a line: ``Breaks`` (what is no
longer so), ``Source`` (where the bug was made in earnest, or who says that it must not be),
``Subject`` (which part of the package), and ``Caught by``, once for each catcher, the fastest
first. The number and the name are the file's: ``07-commits-of-older-terms-counted.patch``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from attrs import frozen

import raftkv
from raftkv.testing.mutants.catchers import Catcher, parse_catcher
from raftkv.testing.mutants.patch import FilePatch, PatchError, parse

PATCHES: Final = "tests/mutants"
_FILE: Final = re.compile(r"(\d\d)-([a-z0-9-]+)\.patch")
_FIELDS: Final = ("Breaks", "Source", "Subject")
_CAUGHT_BY: Final = "Caught by"


class MutantError(ValueError):
    """There are no mutants to try here, or one of them is not written as it must be."""


@frozen
class Mutant:
    """A bug to be seeded."""

    number: int
    name: str
    breaks: str
    source: str
    subject: str
    catchers: tuple[Catcher, ...]
    files: tuple[FilePatch, ...]

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


def checkout() -> Path:
    """The root of the source tree that this package is imported from.

    Raises MutantError if that is no checkout: an installed package has no tests to try mutants on.
    """
    root = Path(raftkv.__file__).resolve().parent.parent
    if not (root / PATCHES).is_dir() or not (root / "pyproject.toml").is_file():
        raise MutantError(
            f"{root} is no source checkout of raftkv with {PATCHES}: clone the repository, install"
            " it with 'pip install -e .[dev]', and run the command there"
        )
    return root


def load_mutants(root: Path) -> tuple[Mutant, ...]:
    """All mutants of a tree, by number. Raises MutantError naming what is wrong with one."""
    found = [_load(path) for path in sorted((root / PATCHES).glob("*.patch"))]
    numbers = [one.number for one in found]
    if len({*numbers}) != len(numbers):
        raise MutantError(f"two mutants of {root / PATCHES} have the same number")
    return tuple(found)


def _load(path: Path) -> Mutant:
    named = _FILE.fullmatch(path.name)
    if named is None:
        raise MutantError(f"{path}: a mutant's file is called NN-some-words.patch")
    try:
        head, files = parse(path.read_text(encoding="utf-8"))
        fields, catchers = _header(head)
    except (PatchError, ValueError) as error:
        raise MutantError(f"{path}: {error}") from error
    missing = [name for name in _FIELDS if name not in fields]
    if missing or not catchers:
        wanted = ", ".join([*missing, *([] if catchers else [_CAUGHT_BY])])
        raise MutantError(f"{path}: its header lacks {wanted}")
    return Mutant(
        number=int(named[1]),
        name=named[2].replace("-", " "),
        breaks=fields["Breaks"],
        source=fields["Source"],
        subject=fields["Subject"],
        catchers=tuple(catchers),
        files=files,
    )


def _header(text: str) -> tuple[dict[str, str], list[Catcher]]:
    fields: dict[str, str] = {}
    catchers: list[Catcher] = []
    for line in text.splitlines():
        name, colon, value = line.partition(": ")
        if name == _CAUGHT_BY and colon:
            catchers.append(parse_catcher(value))
        elif name in _FIELDS and colon:
            fields[name] = value.strip()
        elif line.strip():
            raise ValueError(f"{line!r} is no line of a mutant's header")
    return fields, catchers
