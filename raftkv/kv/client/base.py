"""What the parts of :class:`~raftkv.kv.client.kv.Kv` stand on: the node they belong to."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from raftkv.kv.machine import KvMachine
from raftkv.kv.model import KvResult


class Replica(Protocol):
    """What a KV client needs of the node it belongs to."""

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        """Replicate a command and return what applying it gave."""
        ...

    def read(self, *, lease: bool = False, timeout: float = 5.0) -> Awaitable[int]:
        """Wait until this member's store holds everything acknowledged before the call."""
        ...

    def check(self) -> None:
        """Raise what any call would: closed, stopped, another thread or loop, after a fork."""
        ...


class Part:
    """A part of the client: its methods go through one node and one machine."""

    __slots__ = ("_machine", "_node")

    def __init__(self, node: Replica, machine: KvMachine) -> None:
        self._node = node
        self._machine = machine
