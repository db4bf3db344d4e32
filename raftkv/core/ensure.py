"""Safety checks that survive ``python -O``."""

from __future__ import annotations

from raftkv.errors import InvariantError


def ensure(holds: bool, broken: str) -> None:
    """Raise InvariantError with the sentence ``broken`` unless ``holds``: a dead node is safe."""
    if not holds:
        raise InvariantError(broken)
