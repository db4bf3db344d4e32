"""A copy of a directory as of one moment, although a store has it open and works on its files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

_TRIES_MAX: Final = 100


def copy_of_a_moment(source: Path, target: Path) -> None:
    """Copy a directory of a store that takes no writes meanwhile, but may compact its tables.

    It is copied again until no file came, went or changed its size. Raises OSError if that never
    happens.
    """
    for _ in range(_TRIES_MAX):
        try:
            before = _sizes(source)
            shutil.copytree(source, target)
            if _sizes(source) == before:
                return
        except (FileNotFoundError, shutil.Error):
            pass  # a table that was compacted away
        shutil.rmtree(target, ignore_errors=True)
    raise OSError(f"{source} does not stand still")


def _sizes(directory: Path) -> list[tuple[str, int]]:
    return sorted(
        (os.path.join(above, name), os.stat(os.path.join(above, name)).st_size)
        for above, _, names in os.walk(directory)
        for name in names
    )
