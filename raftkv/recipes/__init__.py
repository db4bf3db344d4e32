"""What applications build of a key-value store: locks, elections, counters, barriers, queues.

Each stands on the public API of :class:`raftkv.Kv` alone, so it is also an example of how to use
that. All of them leave nothing behind when a caller is cancelled or dies: what must not outlive its
owner is attached to a lease. :mod:`~raftkv.recipes.line` is what locks and elections share.

Two recipes of different kinds must not use the same name: each keeps its keys below ``name/``.
"""

from __future__ import annotations

from raftkv.recipes.barrier import Barrier, Gathering
from raftkv.recipes.counter import Counter
from raftkv.recipes.election import Election, Leadership
from raftkv.recipes.lock import Held, Lock
from raftkv.recipes.queue import Item, Queue

__all__ = [
    "Barrier",
    "Counter",
    "Election",
    "Gathering",
    "Held",
    "Item",
    "Leadership",
    "Lock",
    "Queue",
]
