"""Committed entries into the machine, slice by slice, and each result to who waits for it.

A slice is a few entries, applied in one call and written in one batch together with the applied
index; only then do callers see results. The effects need not be synced for that: the entries
themselves are durable on a majority, and are applied again should the effects be lost. A slice
never cuts an entry, so the applied index says everything; an on-disk machine that holds much may
end it before a later one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from raftkv.core.membership import decode_change
from raftkv.core.types import Entry, EntryKind, Membership, MembershipChange
from raftkv.errors import (
    InvariantError,
    MachineError,
    MembershipError,
    StorageError,
    WireError,
)
from raftkv.machine import Command, DurableStateMachine, Early, StateMachine
from raftkv.node.commands import NO_ORIGIN, Origin, decode_commands, origin_of
from raftkv.node.notes import Note, decode_note, is_note
from raftkv.node.waiters import InFlight
from raftkv.storage.base import AppliedMark, Batch, LogStore

_SLICE_BYTES_MAX: Final = 1024 * 1024

AnyMachine = StateMachine[object] | DurableStateMachine[object]


@frozen(slots=True)
class _Committed:
    """An entry on its way to the machine, and whose commands it carries, if it does."""

    entry: Entry
    origin: Origin
    is_for_machine: bool


class Applier:
    """The queue between commit and machine. Loop thread only."""

    def __init__(
        self,
        machine: AnyMachine,
        log: LogStore,
        in_flight: InFlight,
        mark: AppliedMark,
        slice_commands_max: int,
    ) -> None:
        # Told apart once: a runtime check of a protocol costs microseconds.
        self._durable = machine if isinstance(machine, DurableStateMachine) else None
        self._in_memory = machine if isinstance(machine, StateMachine) else None
        self._log = log
        self._in_flight = in_flight
        self._slice_commands_max = slice_commands_max
        self._queue: deque[_Committed] = deque()
        self._results: list[tuple[int, Sequence[object]]] = []
        self.mark = mark
        """How far the machine is."""
        self.commands = 0
        self.size_bytes = 0
        """What is committed and not applied."""
        self.on_written: Callable[[], None] | None = None
        """Called when what commands did can be read in the store."""
        self._did_apply = False

    @property
    def has_work(self) -> bool:
        """Whether anything waits to be applied."""
        return bool(self._queue)

    def add(self, entries: tuple[Entry, ...]) -> None:
        """Committed entries, in order."""
        for entry in entries:
            is_for_machine = entry.kind is EntryKind.NORMAL and not is_note(entry.data)
            origin = origin_of(entry.data) if is_for_machine else NO_ORIGIN
            self._queue.append(_Committed(entry, origin, is_for_machine))
            self.commands += origin.count
            self.size_bytes += entry.size_bytes

    def next_change(self) -> MembershipChange | None:
        """The membership change whose turn it is; None if something else comes first.

        Report with :meth:`changed` what the core made of it.
        """
        entry = self._queue[0].entry
        if entry.kind is EntryKind.NORMAL:
            return None
        try:
            return decode_change(entry.data)
        except MembershipError as error:
            raise InvariantError(f"the change in entry {entry.index} cannot be read") from error

    def changed(self, membership: Membership, batch: Batch) -> None:
        """The change at the head of the queue has taken effect."""
        entry = self._queue.popleft().entry
        self.size_bytes -= entry.size_bytes
        self._advance(entry, membership, batch)

    def next_note(self) -> Note | None:
        """The note whose turn it is; None if something else comes first.

        All before it is applied and written: heed it, then say so with :meth:`noted`.
        """
        entry = self._queue[0].entry
        if entry.kind is not EntryKind.NORMAL or not is_note(entry.data):
            return None
        try:
            return decode_note(entry.data)
        except WireError as error:
            raise InvariantError(f"the note in entry {entry.index} cannot be read") from error

    def noted(self, batch: Batch) -> None:
        """The note at the head of the queue has taken effect."""
        self.changed(self.mark.membership, batch)

    def apply_slice(self, batch: Batch) -> None:
        """Apply the next entries up to a change or a note, or as far as the machine goes at once.

        Write the batch, then call :meth:`release`. Raises MachineError if the machine does,
        StorageError if the store does.
        """
        commands: list[Command] = []
        taken: list[_Committed] = []
        size = 0
        while self._queue:
            head = self._queue[0]
            if not head.is_for_machine:
                break
            length = head.entry.size_bytes
            if taken and (
                len(commands) + head.origin.count > self._slice_commands_max
                or size + length > _SLICE_BYTES_MAX
            ):
                break
            taken.append(self._queue.popleft())
            if head.origin.count:
                commands += decode_commands(head.entry.index, head.entry.data, head.origin)
            size += length
        if not taken:
            return
        if commands:
            results = self._call(commands, batch)
            self._put_back(taken, len(commands) - len(results))
            self._hold(taken, results)
            self._did_apply = True
            self.commands -= len(results)
        self.size_bytes -= sum(one.entry.size_bytes for one in taken)
        self._advance(taken[-1].entry, self.mark.membership, batch)

    def _put_back(self, taken: list[_Committed], commands: int) -> None:
        """The machine stopped before the last so many commands: their entries come again."""
        while commands > 0:
            one = taken.pop()
            commands -= one.origin.count
            self._queue.appendleft(one)
        if commands or not taken:
            raise MachineError(
                "the state machine stopped early, and not before an entry other than the first"
            )

    def release(self) -> None:
        """The batch is written: wake who waits for a result, then tell who reads the rows."""
        for first, results in self._results:
            self._in_flight.resolve(first, results)
        self._results.clear()
        if self._did_apply:
            self._did_apply = False
            if self.on_written is not None:
                self.on_written()

    def reset(self, mark: AppliedMark) -> None:
        """A snapshot replaced the machine: what was queued is contained in it.

        Who waits for a command in it will not learn its result here.
        """
        self._queue.clear()
        self.commands = 0
        self.size_bytes = 0
        self.mark = mark

    def _call(self, commands: list[Command], batch: Batch) -> Sequence[object]:
        try:
            if self._durable is not None:
                results = self._durable.apply_durable(commands, batch)
            elif self._in_memory is not None:
                results = self._in_memory.apply(commands)
            else:
                raise TypeError("the object is no state machine")
        except StorageError:
            raise
        except Exception as error:
            raise MachineError(
                f"the state machine raised {type(error).__name__} at the commands of entries"
                f" {commands[0].index} to {commands[-1].index}: {error}"
            ) from error
        most, is_early = len(commands), isinstance(results, Early)
        if len(results) > most or (len(results) < most and not is_early):
            raise MachineError(
                f"the state machine answered {len(commands)} commands with {len(results)} results"
            )
        return results

    def _hold(self, taken: list[_Committed], results: Sequence[object]) -> None:
        member, boot = self._in_flight.member, self._in_flight.boot
        start = 0
        for one in taken:
            origin, stop = one.origin, start + one.origin.count
            if origin.count and origin.member == member and origin.boot == boot:
                self._results.append((origin.first, results[start:stop]))
            start = stop

    def _advance(self, entry: Entry, membership: Membership, batch: Batch) -> None:
        self.mark = AppliedMark(entry.index, entry.term, entry.chain, membership)
        if self._durable is not None:
            self._log.mark_applied(batch, self.mark)
