"""What went wrong in a run."""

from __future__ import annotations

from attrs import frozen


@frozen
class Finding:
    """What went wrong, and where."""

    invariant: str
    broken: str
    step: int
