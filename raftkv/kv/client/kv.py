"""``node.kv``: the database as applications use it, put together from its parts.

Everything is checked before anything is proposed: an InvalidArgumentError from the edge means that
nothing left this member.
"""

from __future__ import annotations

from raftkv.kv.client.leases import Leases
from raftkv.kv.client.reading import Reading
from raftkv.kv.client.upkeep import Upkeep
from raftkv.kv.client.watching import Watching
from raftkv.kv.client.writing import Writing


class Kv(Writing, Reading, Watching, Leases, Upkeep):
    """All parts of the client. Applications hold :class:`raftkv.Kv`, which adds the recipes."""
