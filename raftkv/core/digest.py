"""A digest of State that is the same in every process."""

from __future__ import annotations

from hashlib import blake2b

from raftkv.core.state import State


def digest(state: State) -> bytes:
    """16 bytes that two States share if, and for all practical purposes only if, they are equal.

    ``hash(state)`` will not do between processes: Python salts the hashes of bytes and strings.
    """
    # Every part is a frozen record of numbers, bytes and enums, whose repr names all of its
    # fields; the log's names its ends and their chain values, which stand for all between.
    return blake2b(repr(state).encode(), digest_size=16).digest()
