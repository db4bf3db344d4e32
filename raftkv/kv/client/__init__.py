"""The KV's active half: what applications hold, and the tasks that work for them.

Everything else in :mod:`raftkv.kv` is pure; here, and only here, it knows the node and the loop.
"""

from __future__ import annotations

from raftkv.kv.client.base import Replica
from raftkv.kv.client.kv import Kv
from raftkv.kv.client.watching import Watch

__all__ = ["Kv", "Replica", "Watch"]
