"""How a member leaves in order: commands are answered, last words said, the leadership handed over.

Nobody is owed any of it, so each step is given up where it cannot be had at once, and all of them
together last ``close_seconds_max`` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

from anyio import CancelScope

from raftkv.core import Role, TransferLeader
from raftkv.errors import Error
from raftkv.node.handover import heir_of
from raftkv.node.start import Hands, Setup
from raftkv.node.waiters import Waiter
from raftkv.runtime.base import Spawner

LastWords: TypeAlias = Callable[[], bytes | None]
"""Gives a command that is proposed before the node closes, or None."""


class Closing:
    """An orderly end of one node. To be run beside its driver, which still turns.

    What ``spawner`` starts for it is to be cancelled at the end.
    """

    def __init__(self, hands: Hands, setup: Setup, spawner: Spawner) -> None:
        settings = setup.settings
        self._hands = hands
        self._spawner = spawner
        self._clock = setup.runtime.clock
        self._promise = setup.runtime.promise
        self._step_ns = settings.tick_ns
        self._election_ns = settings.election_ticks * settings.tick_ns
        self._limit_ns = self._clock.monotonic_ns() + round(settings.close_seconds_max * 1e9)

    async def run(self, last_words: Iterable[LastWords]) -> None:
        """Let commands finish, say the last words, let another member lead."""
        hands = self._hands
        while len(hands.in_flight) + len(hands.queue):
            if not await self._pause(self._step_ns):
                return
        for words in last_words:
            command = words()
            if command is not None:
                await self._say(command)
        await self._hand_over()

    async def _pause(self, step_ns: int) -> bool:
        """Whether there is time left."""
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._limit_ns:
            return False
        await self._clock.sleep_until(min(self._limit_ns, now_ns + step_ns))
        return True

    # --- last words -------------------------------------------------------------------------------

    def _is_led(self) -> bool:
        """Whether somebody is likely to answer: no more than a guess."""
        state, is_up = self._hands.loop.state, self._hands.peers.is_up
        if state.leader != state.id:
            return is_up(state.leader)
        return state.membership.voters == (state.id,) or heir_of(state, is_up) != 0

    async def _say(self, command: bytes) -> None:
        """Propose it, and wait for an election timeout at most, and only while somebody leads."""
        hands = self._hands
        until_ns = min(self._limit_ns, self._clock.monotonic_ns() + self._election_ns)
        promise = self._promise()
        hands.queue.add(Waiter(command, until_ns, promise))
        hands.waker.set()
        leader, scope = hands.loop.state.leader, CancelScope()

        async def watch() -> None:
            while hands.loop.state.leader == leader and self._is_led():
                await self._clock.sleep_until(self._clock.monotonic_ns() + self._step_ns // 4)
            scope.cancel()

        self._spawner.spawn("last words", watch)
        with scope, suppress(Error):
            await promise

    # --- leadership -------------------------------------------------------------------------------

    async def _hand_over(self) -> None:
        hands = self._hands
        was_leader = hands.loop.state.role is Role.LEADER
        while was_leader and self._clock.monotonic_ns() < self._limit_ns:
            state = hands.loop.state
            if state.role is not Role.LEADER:
                if state.leader:
                    return
                # Our vote may be the one that the heir lacks: to leave before it is stored and
                # sent would cost the others an election timeout.
            elif not state.leading.transferee:
                heir = heir_of(state, hands.peers.is_up)
                if not heir:
                    return
                hands.loop.give(TransferLeader(heir))
            await self._pause(self._step_ns // 4)
