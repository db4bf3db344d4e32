"""Where a node keeps what it must not forget: the ports, and their stores in memory and on RocksDB.

Reading order: ``base`` (the ports), ``batch`` and ``memory`` (the simplest store), ``records`` and
``log`` (raft's records in any store), ``witness`` (what was last promised, kept beside the store),
``member`` (all of them together), ``rocks`` (with ``rocks_options`` the only one here that knows
rocksdict),
``directory`` (one member's data directory, from lock to close), ``scrub`` (reading all of it again,
in pieces).

What the ports are made of is imported from here, by whoever writes a store of their own for
``open_node(storage=)``; :mod:`raftkv.testing.suites` tries it.
"""

from __future__ import annotations

from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Damage,
    HashedPieces,
    Identity,
    LogStore,
    Loss,
    Piece,
    Pieces,
    Reader,
    Recovered,
    Space,
    Storage,
    Store,
    View,
    WitnessRecord,
)

__all__ = [
    "AppliedMark",
    "Batch",
    "Damage",
    "HashedPieces",
    "Identity",
    "LogStore",
    "Loss",
    "Piece",
    "Pieces",
    "Reader",
    "Recovered",
    "Space",
    "Storage",
    "Store",
    "View",
    "WitnessRecord",
]
