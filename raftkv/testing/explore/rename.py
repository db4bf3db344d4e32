"""Members by other names: worlds that differ in names alone are one.

The core knows members by numbers, and treats all numbers alike: a member stepped under other names
is the member stepped, under other names. The tests try that on everything that is reached.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen

from raftkv.core import HardState, InstallSnapshot, Membership, Message, Snapshot, State
from raftkv.core.messages import PeerMessage, StorageAppendResponse
from raftkv.core.state import Write as OwnWrite
from raftkv.testing.explore.laws import History
from raftkv.testing.explore.local import Local, Stored, Write, in_order


@frozen
class Renaming:
    """New names by old ones; others stay."""

    names: Mapping[int, int]

    def of(self, node: int) -> int:
        """The new name of a member, or of nobody."""
        return self.names.get(node, node)

    def local(self, one: Local) -> Local:
        """A member under its new name, among others under theirs."""
        return Local(
            self._state(one.state),
            self._stored(one.stored),
            tuple([self._write(write) for write in one.queue]),
        )

    def history(self, one: History) -> History:
        """What happened, to members of other names."""
        leaders = tuple([(term, self.of(node)) for term, node in one.leaders])
        return History(one.base_index, leaders, one.committed)

    def peer_message(self, message: PeerMessage) -> PeerMessage:
        """A message between members of other names."""
        sender, to = self.of(message.sender), self.of(message.to)
        if isinstance(message, InstallSnapshot):
            return InstallSnapshot(sender, to, message.term, self._snapshot(message.snapshot))
        return evolve(message, sender=sender, to=to)

    def _own_message(self, message: Message) -> Message:
        if isinstance(message, StorageAppendResponse):
            snapshot = message.snapshot and self._snapshot(message.snapshot)
            return evolve(message, to=self.of(message.to), snapshot=snapshot)
        return evolve(message, sender=self.of(message.sender), to=self.of(message.to))

    def _state(self, state: State) -> State:
        told = state.told
        progress = [evolve(one, id=self.of(one.id)) for one in state.progress]
        return evolve(
            state,
            config=evolve(state.config, id=self.of(state.config.id)),
            vote=self.of(state.vote),
            leader=self.of(state.leader),
            incoming=state.incoming and self._snapshot(state.incoming),
            snapshot=state.snapshot and self._snapshot(state.snapshot),
            membership=self._membership(state.membership),
            progress=tuple(sorted(progress, key=lambda one: one.id)),
            votes=tuple(sorted([(self.of(node), given) for node, given in state.votes])),
            told=evolve(
                told,
                soft=evolve(told.soft, leader=self.of(told.soft.leader)),
                hard=self._hard(told.hard),
            ),
            writes=tuple(
                [
                    OwnWrite(one.number, tuple([self._own_message(own) for own in one.own]))
                    for one in state.writes
                ]
            ),
        )

    def _stored(self, stored: Stored) -> Stored:
        return Stored(self._hard(stored.hard_state), self._snapshot(stored.image), stored.log)

    def _write(self, write: Write) -> Write:
        return Write(
            write.hard_state and self._hard(write.hard_state),
            write.entries,
            write.snapshot and self._snapshot(write.snapshot),
            in_order([self.peer_message(one) for one in write.after]),
        )

    def _hard(self, hard: HardState) -> HardState:
        return HardState(hard.term, self.of(hard.vote), hard.commit)

    def _snapshot(self, snapshot: Snapshot) -> Snapshot:
        return evolve(snapshot, membership=self._membership(snapshot.membership))

    def _membership(self, one: Membership) -> Membership:
        return Membership(
            self._group(one.voters),
            self._group(one.outgoing),
            self._group(one.learners),
            self._group(one.learners_next),
            one.auto_leave,
            None if one.removed is None else self._group(one.removed),
        )

    def _group(self, nodes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted([self.of(node) for node in nodes]))
