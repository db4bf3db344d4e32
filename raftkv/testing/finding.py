"""What came of a run, on any level."""

from __future__ import annotations

import re
from typing import Final, Protocol

from attrs import frozen

from raftkv.errors import InvariantError
from raftkv.testing.choices import Decisions

_NUMBER: Final = re.compile(r"(I\d+): ")


@frozen
class Finding:
    """What went wrong, and where."""

    invariant: str
    broken: str
    step: int


def name_of(error: BaseException) -> str:
    """What an error breaks: the invariant that a member found broken itself, or its own name."""
    numbered = _NUMBER.match(str(error)) if isinstance(error, InvariantError) else None
    return numbered[1] if numbered else type(error).__name__


class Outcome(Protocol):
    """One run, as far as it is the same on all levels."""

    @property
    def options(self) -> object:
        """What kind of run it was; readable as text."""
        ...

    @property
    def decisions(self) -> Decisions:
        """What was decided."""
        ...

    @property
    def steps(self) -> int:
        """How many steps the cores took."""
        ...

    @property
    def finding(self) -> Finding | None:
        """What broke, if anything."""
        ...

    @property
    def error(self) -> BaseException | None:
        """What was raised where it broke."""
        ...
