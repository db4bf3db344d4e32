"""What an application holds: a running member, and the key-value store it runs."""

from __future__ import annotations

from typing import TypeVar, cast

from raftkv.errors import UsageError
from raftkv.kv import KvMachine
from raftkv.kv.client import Kv, Replica
from raftkv.node.node import Node as Member
from raftkv.node.start import Setup

R_co = TypeVar("R_co", covariant=True)


class Node(Member[R_co]):
    """One running member of a cluster. Made by :func:`open_node`.

    ``R_co`` is what its machine answers to a command. To be used from the event loop that opened
    it. Every call has a deadline (``timeout``, in seconds) after which it raises: an
    UnavailableError of some kind says that nothing happened, OutcomeUnknownError that a command
    may or may not have.
    """

    def __init__(self, setup: Setup, kv: KvMachine | None = None) -> None:
        super().__init__(setup)
        self._kv = None if kv is None else Kv(cast("Replica", self), kv)

    @property
    def kv(self) -> Kv:
        """The key-value store: get, put, delete, range and what goes with them.

        Raises UsageError if the node runs a machine of your own.
        """
        if self._kv is None:
            raise UsageError(
                "this node runs a state machine of its own, given as machine=: use propose() and"
                " read(), or open a node without machine= for the key-value store"
            )
        return self._kv
