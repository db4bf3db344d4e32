"""What came of a run, on any level."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from raftkv.testing.choices import Decisions


@frozen
class Finding:
    """What went wrong, and where."""

    invariant: str
    broken: str
    step: int


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
