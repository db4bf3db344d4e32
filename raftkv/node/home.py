"""The part of a node that the changing of members needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from raftkv.core import State
from raftkv.node.changes import Changes
from raftkv.node.peers import Peers
from raftkv.node.start import Hands, Setup
from raftkv.runtime.base import Promise, Rng


class NodeHome:
    """One node, as its :class:`~raftkv.node.members.Members` see it."""

    def __init__(
        self,
        setup: Setup,
        check: Callable[[], Hands],
        deadline_ns: Callable[[float], int],
        until: Callable[[Callable[[], bool], int, str], Awaitable[None]],
    ) -> None:
        self._setup = setup
        self._check = check
        self._deadline_ns = deadline_ns
        self._until = until

    @property
    def rng(self) -> Rng:
        """Chance, for new ids."""
        return self._setup.runtime.rng

    @property
    def patience_ns(self) -> int:
        """Two election timeouts: by then a new leader has heard of everybody who answers."""
        settings = self._setup.settings
        return 2 * settings.election_ticks * settings.tick_ns

    def parts(self) -> tuple[State, Peers, Changes]:
        """What there is now. Raises what any call would."""
        hands = self._check()
        return hands.loop.state, hands.peers, hands.changes

    def checked_address(self, address: str) -> str:
        """The address in its one way of writing. Raises ConfigError."""
        return self._setup.transport.checked(address)

    def deadline_ns(self, timeout: float) -> int:
        """When a call begun now ends."""
        return self._deadline_ns(timeout)

    def now_ns(self) -> int:
        """The clock of deadlines."""
        return self._setup.runtime.clock.monotonic_ns()

    def promise(self) -> Promise[object]:
        """What a caller waits for."""
        return self._setup.runtime.promise()

    def wake(self) -> None:
        """Have the driver look."""
        self._check().waker.set()

    async def until(self, holds: Callable[[], bool], deadline_ns: int, otherwise: str) -> None:
        """Wait until something holds. Raises DeadlineError."""
        await self._until(holds, deadline_ns, otherwise)
