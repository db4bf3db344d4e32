"""A member that lost something: what it says, stores and does until it is whole again.

What is lost is seen at three moments. *When the directory is opened*: the store is behind its
witness, or fails its checks (``Recovered.damage``). *When others see it*: they know of a later boot
of this disk, and tell so in a handshake or a table of disks; then nothing that the disk says of its
promises can be believed. *While it runs*: a row cannot be read, or the state differs from that of a
quorum; then the store is condemned and the node stops, and the next opening sees it.

The core decides what a recovering member may do and when it is whole (``raftkv.core.recovering``).
Here the mark is stored that outlives a restart, the handshake says it, and a lost log is asked of
the peers (:mod:`raftkv.node.repair`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from raftkv.core import Input, Promise, Recovering, RecoveringChanged, Regressed, State
from raftkv.node.disk import Disk
from raftkv.node.peers import Peers
from raftkv.node.repair import Repair, promise_of
from raftkv.node.settings import Settings
from raftkv.node.status import EventHub, RecoveryChanged, RecoveryStatus
from raftkv.runtime.base import Clock
from raftkv.storage.base import Damage, LogStore, Loss, Recovered, WitnessRecord
from raftkv.transport.base import Code, Hello, Refusal, Transport

_log = logging.getLogger("raftkv.node")

_KIND_OF: Final = {Loss.LOG: Recovering.LOG, Loss.ALL: Recovering.ALL}
_LOSS_OF: Final = {kind: loss for loss, kind in _KIND_OF.items()}
_WHAT_NOW: Final = "the other members make it whole, nothing is to be done here"


@frozen(slots=True)
class Wound:
    """What is lost, and what must be there again if that is known."""

    damage: Damage
    promised: WitnessRecord | None


class Recovery:
    """One member's way back. Loop thread only."""

    def __init__(
        self,
        hello: Hello,
        recovered: Recovered,
        settings: Settings,
        clock: Clock,
        log: LogStore,
        disk: Disk,
        peers: Peers,
        transport: Transport,
        events: EventHub,
        repair: Repair,
    ) -> None:
        damage = recovered.damage
        self._wound = None if damage is None else Wound(damage, recovered.promised)
        self._hello = evolve(hello, recovering=damage is not None)
        self._clock = clock
        self._log = log
        self._disk = disk
        self._peers = peers
        self._transport = transport
        self._events = events
        self._repair = repair
        repair.on_alarm = events.alarm
        self._retry_ns = settings.election_ticks * settings.tick_ns
        self._ask_due_ns = 0
        self._what = ""
        self.give: Callable[[Input], None] = _nobody
        """Gives the core an input in the next turn."""
        self.reconnect: Callable[[list[int]], None] = _nobody
        """Has the peers learn anew who we are."""
        self.on_change: Callable[[], None] = _quiet
        """Called when this member recovers from now on, or is whole again."""
        if damage is not None:
            events.alarm(f"{damage.what}: this member recovers; {_WHAT_NOW}")

    @property
    def hello(self) -> Hello:
        """What to say in handshakes."""
        return self._hello

    @property
    def start_with(self) -> tuple[Recovering | None, Promise | None]:
        """What the core is to be started with."""
        wound = self._wound
        if wound is None:
            return None, None
        promised = wound.promised
        promise = None if promised is None else Promise(promised.last_index, promised.last_chain)
        return _KIND_OF[wound.damage.loss], promise

    # --- what happens ---------------------------------------------------------------------------

    def on_refused(self, peer: int, refusal: Refusal) -> None:
        """A peer does not let us in."""
        if refusal.code == Code.REGRESSED:
            self.regressed(f"member {self._peers.name_of(peer)} says of us: {refusal.sentence}")

    def regressed(self, what: str) -> None:
        """Others know more of this disk than it does itself."""
        loss = None if self._wound is None else self._wound.damage.loss
        if loss is not Loss.ALL and not self._what:
            self._what = what
            self.give(Regressed())

    def changed(self, change: RecoveringChanged) -> None:
        """The core recovers from now on, or is whole again: say so, to the disk first."""
        if change.now is None:
            before, self._wound = self._wound, None
            self._log.save_damage(self._disk.batch, None)
            if before is not None:
                _log.info("this member is whole again: %s", before.damage.what)
        else:
            damage = Damage(
                _LOSS_OF[change.now], self._what or "the data directory is an old copy of itself"
            )
            self._wound = Wound(damage, None)
            self._log.save_damage(self._disk.batch, damage)
            self._events.alarm(f"{damage.what}: this member recovers; {_WHAT_NOW}")
        self._what = ""
        self._repair.forget()  # what it had so far may be hundreds of megabytes
        self._hello = evolve(self._hello, recovering=self._wound is not None)
        self._transport.announce(self._hello)
        self._events.put(RecoveryChanged("" if self._wound is None else self._wound.damage.what))
        if self._wound is not None:
            # What left before is not to be counted, and all are to know us as what we are.
            self.reconnect(sorted(self._peers.addresses))
        self.on_change()

    def tick(self, state: State) -> None:
        """Ask for what is missing, every now and then."""
        promise = promise_of(state)
        now = self._clock.monotonic_ns()
        if promise is None or now < self._ask_due_ns:
            return
        self._ask_due_ns = now + self._retry_ns
        peers = [peer for peer in sorted(self._peers.addresses) if self._peers.is_up(peer)]
        self._repair.ask(state, promise, peers)

    def status(self, state: State) -> RecoveryStatus | None:
        """Why this member recovers and how far it is; None if it is whole."""
        wound, recovery = self._wound, state.recovery
        if wound is None or recovery is None:
            return None
        membership = state.membership
        silent: list[int] = []
        if recovery.kind is Recovering.ALL:
            voters = {*membership.voters, *membership.outgoing} - {state.id}
            silent = sorted(voters.difference(recovery.heard))
        goal = recovery.covers
        if goal is None and recovery.promised is not None:
            goal = recovery.promised.index
        return RecoveryStatus(
            what=wound.damage.what,
            votes_known=recovery.kind is Recovering.LOG,
            last_index=state.log.last_index,
            goal_index=goal,
            waits_for=tuple(self._peers.name_of(one) for one in silent),
        )


def _nobody(_what: object) -> None:
    pass


def _quiet() -> None:
    pass
