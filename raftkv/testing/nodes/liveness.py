"""The liveness phase: a quorum is healed, the rest is dead for good, and then things must move.

Within :data:`ELECTIONS` election timeouts a leader exists, every client has done something more,
and all that are left agree: on the membership, on what is applied, and on what it made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.core import Membership, Role
from raftkv.errors import Error
from raftkv.testing.choices import Choices
from raftkv.testing.damage import memberships
from raftkv.testing.invariants import ViolationError, broken, is_quorum
from raftkv.testing.nodes.clients import AnyClient
from raftkv.testing.nodes.options import Options
from raftkv.testing.nodes.stage import Stage
from raftkv.testing.trace import members

ELECTIONS: Final = 20
"""Election timeouts (at their longest) within which a healed quorum must agree."""
_CALM_ELECTIONS: Final = 4
_TERMS_MAX: Final = 2


class Liveness:
    """One recovery."""

    def __init__(self, stage: Stage, options: Options, choices: Choices) -> None:
        self.stage = stage
        self.options = options
        self.choices = choices
        self._calm_term: int | None = None
        self._calm_at = 0.0

    async def run(self, clients: Sequence[AnyClient]) -> None:
        """Raises ViolationError: I53 if they do not agree in time, I54 on term inflation."""
        stage = self.stage
        stage.calm()
        self.choices.begin("liveness")
        await self._choose_core()
        try:
            await self._recover(clients)
        except ViolationError as violation:
            if violation.invariant != "I53" or (stage.can_go_on and not stage.may_halt):
                raise
            stage.marks["safe halt"] += 1
            return
        stage.marks["recovered"] += 1

    async def _recover(self, clients: Sequence[AnyClient]) -> None:
        stage = self.stage
        election = 2 * self.options.election_ms / 1000
        self._calm_at = stage.now + self.options.faults.late_ms / 1000 + election
        deadline = stage.now + ELECTIONS * election
        await self._bring_up()
        await self._until(self._leads, deadline, "nobody leads")
        for client in clients:
            await self._finish(client, deadline)
        await self._until(self._agree, deadline, "they do not agree")
        await stage.sleep(_CALM_ELECTIONS * election)
        self._judge_terms()

    async def _choose_core(self) -> None:
        """Who stays dead: as many as every membership that may be in force can spare, at most."""
        stage, choices = self.stage, self.choices
        if not choices.choose(2) or stage.recovers():
            return  # who is to become whole may need an answer of every other voter
        states = stage.states()
        possible = [one for state in states.values() for one in memberships(state)]
        left = {name: state.config.id for name, state in states.items()}
        for name in states:
            if not choices.choose(3):
                continue
            rest = [node for other, node in left.items() if other != name]
            if all(is_quorum(one, rest) for one in possible if one != Membership()):
                del left[name]
                stage.retire(name)
                stage.marks["left dead"] += 1

    async def _until(
        self, holds: Callable[[], str | None], deadline: float, otherwise: str
    ) -> None:
        stage = self.stage
        while True:
            self._judge_terms()
            why = holds()
            if why is None:
                return
            await self._bring_up()
            if stage.now > deadline:
                raise broken("I53", f"{otherwise} after {ELECTIONS} election timeouts: {why}")
            await stage.sleep(self.options.settings.tick_seconds)

    async def _bring_up(self) -> None:
        """Whoever is not dead for good is opened, again and again if need be."""
        for name in self.stage.names():
            await self.stage.bring_up(name)

    async def _finish(self, client: AnyClient, deadline: float) -> None:
        """Have a client do one more thing, whatever it takes."""
        stage = self.stage
        while not await client.once():
            await self._bring_up()
            if stage.now > deadline:
                raise broken("I53", f"{client.name} gets nothing done: {client.complaint}")
            await stage.sleep(self.options.settings.tick_seconds)

    def _leads(self) -> str | None:
        leaders = [
            name for name in self.stage.running() if self.stage.state(name).role is Role.LEADER
        ]
        return None if leaders else "; ".join(map(self._shown, self.stage.names()))

    def _shown(self, name: str) -> str:
        """A member in a few words."""
        if name not in self.stage.running():
            return f"{name} is down"
        state = self.stage.state(name)
        log = state.log
        return (
            f"{name} {state.role.value} t{state.term} log {log.last_term}/{log.last_index}"
            f" c{state.commit} a{state.applied} of {members(state.membership)}"
        )

    def _agree(self) -> str | None:
        """None if all that are up are alike; else how they differ."""
        stage = self.stage
        shown: dict[str, tuple[object, ...]] = {}
        for name in stage.running():
            try:
                status = stage.node(name).status()
            except Error as error:
                return f"{name}: {error}"
            membership = status.membership
            if status.recovering is not None:
                return f"{name} recovers"
            if membership.is_joint:
                return f"{name} is in a joint membership"
            shown[name] = (status.applied, status.last_index, status.leader, membership)
        if len(set(shown.values())) > 1:
            return "; ".join(f"{name} {what}" for name, what in shown.items())
        applied, last, leader, _ = next(iter(shown.values()), (0, 0, 0, None))
        if applied != last or not leader:
            return f"applied {applied} of {last}, leader {leader}"
        return None

    def _judge_terms(self) -> None:
        # Split votes are chance, not inflation: only where timeouts are wide apart do two terms do.
        stage = self.stage
        if self.options.settings.election_ticks < 10 or stage.now < self._calm_at:
            return
        term = max((stage.state(name).term for name in stage.running()), default=0)
        if self._calm_term is None:
            self._calm_term = term
        elif term > self._calm_term + _TERMS_MAX:
            raise broken("I54", f"from term {self._calm_term} to {term} while nothing was wrong")
