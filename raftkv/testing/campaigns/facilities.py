"""What a campaign may need of the machine, each answered with what is lacking, in words."""

from __future__ import annotations

import os
import shutil


def lacks_root() -> str | None:
    """Root's rights: mounts, network namespaces."""
    return None if os.geteuid() == 0 else "needs root"


def lacks_program(name: str) -> str | None:
    """A program on the path."""
    return None if shutil.which(name) else f"needs the program {name!r}"


def first_lacking(*answers: str | None) -> str | None:
    """The first thing that is lacking, if any is."""
    return next((answer for answer in answers if answer is not None), None)
