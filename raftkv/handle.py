"""What an application holds: a running member, and the key-value store it runs."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Protocol, TypeVar, cast

from raftkv.errors import UsageError
from raftkv.kv import KvMachine, KvResult
from raftkv.kv.client.chores import Chores
from raftkv.kv.client.keeper import Keeper
from raftkv.kv.settings import KvSettings
from raftkv.node.audience import Audience
from raftkv.node.node import Node as Member
from raftkv.node.settings import Settings
from raftkv.node.start import Setup
from raftkv.recipes.store import Kv
from raftkv.runtime.base import Runtime

R_co = TypeVar("R_co", covariant=True)


class Propose(Protocol):
    """How a command is proposed."""

    def __call__(self, command: bytes, *, timeout: float) -> Awaitable[KvResult]:
        """Its result once it is committed and applied here."""
        ...


class Node(Member[R_co]):
    """One running member of a cluster. Made by :func:`open_node`.

    ``R_co`` is what its machine answers to a command. To be used from the event loop that opened
    it. Every call has a deadline (``timeout``, in seconds) after which it raises: an
    UnavailableError of some kind says that nothing happened, OutcomeUnknownError that a command
    may or may not have.
    """

    def __init__(
        self, setup: Setup, kv: KvMachine | None = None, kv_settings: KvSettings | None = None
    ) -> None:
        super().__init__(setup)
        self._kv = None
        if kv is not None:
            door = self._door()
            self._kv = Kv(door, kv, kv_settings)
            keeper = Keeper(door, kv, kv_settings or KvSettings())
            self.answer_with(keeper.answer)
            self.accompany("keeper", keeper.run)
            session = self._kv._session  # pyright: ignore[reportPrivateUsage] - it is made of it
            if session is not None:
                self.accompany("session", partial(session.keep, self._kv.keep_alive))
                self.at_close(session.last_words)
            hub = self._kv._hub  # pyright: ignore[reportPrivateUsage] - as above
            self.accompany("bell", hub.bell.run)
            self.accompany("chores", Chores(door, kv, kv_settings or KvSettings()).run)

    def _door(self) -> _Door:
        propose = cast("Propose", super().propose)
        return _Door(cast("Node[KvResult]", self), propose)

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> R_co:
        """Replicate a command to a machine of your own; see :class:`raftkv.node.node.Node`.

        Raises UsageError if the node runs the key-value store: bytes that are none of its commands
        would stop every member alike.
        """
        if self._kv is not None:
            raise UsageError(
                "this node runs the key-value store, which makes its commands itself: use node.kv,"
                " or open a node with machine= for commands of your own"
            )
        return await super().propose(command, timeout=timeout)

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

    @property
    def runtime(self) -> Runtime:
        """The world as this node sees it; for the store's client."""
        return self._setup.runtime

    @property
    def settings(self) -> Settings:
        """The node's times and bounds; for the store's client."""
        return self._setup.settings


class _Door:
    """How the store itself proposes: past the check that keeps foreign bytes out of its log."""

    __slots__ = ("_member", "_propose")

    def __init__(self, member: Node[KvResult], propose: Propose) -> None:
        self._member = member
        self._propose = propose

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        return self._propose(command, timeout=timeout)

    def read(self, *, lease: bool = False, timeout: float = 5.0) -> Awaitable[int]:
        return self._member.read(lease=lease, timeout=timeout)

    def ask(self, question: bytes, *, timeout: float = 5.0) -> Awaitable[bytes]:
        return self._member.ask(question, timeout=timeout)

    @property
    def leading(self) -> int:
        return self._member.leading

    def check(self) -> None:
        self._member.check()

    def tell(self, audience: Audience) -> None:
        self._member.tell(audience)

    @property
    def id(self) -> int:
        return self._member.id

    @property
    def runtime(self) -> Runtime:
        return self._member.runtime

    @property
    def settings(self) -> Settings:
        return self._member.settings
