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
    """An etcd-like key-value store. Made by ``raftkv.open_node``, as ``node.kv``.

    Keys and values are ``str`` (encoded as UTF-8) or ``bytes``; results are always bytes. A key has
    1 byte to 64 KiB, a request at most 1.5 MiB in all.

    Every call has a deadline, ``timeout`` in seconds. After it writes raise OutcomeUnknownError if
    the command had left, else UnavailableError (surely not done); reads raise DeadlineError.
    Cancelling a write abandons the wait, not the write.

    Reads are linearizable: they show every write acknowledged before they began. ``lease=True``
    trusts the leader's clock instead of asking a majority; ``serializable=True`` asks nobody and
    shows what this member has, perhaps stale, even without a leader.
    """
