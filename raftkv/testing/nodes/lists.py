"""Machines of a user's own for simulated runs: a list that keeps every command, of both kinds.

Each answers a command with its place in the list, from 1. What clients were told is then easily
compared with what every member holds: :func:`check_places`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from raftkv.machine import Command, Row
from raftkv.storage.base import Batch, Reader, Space, Store
from raftkv.testing.histories.operations import History, Outcome
from raftkv.testing.invariants import broken

_LENGTH_BYTES = 4


class MemoryList:
    """The list in memory. ``on_applied`` is told of each index how many commands there are then."""

    def __init__(self, on_applied: Callable[[int, int, bytes], None] | None = None) -> None:
        self.commands: list[bytes] = []
        self._on_applied = on_applied

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        """Append; each is answered with its place."""
        places: list[int] = []
        for command in commands:
            self.commands.append(command.data)
            places.append(len(self.commands))
            if self._on_applied is not None:
                self._on_applied(command.index, len(self.commands), command.data)
        return places

    def snapshot(self) -> Iterator[bytes]:
        """Ten commands a chunk."""
        for start in range(0, len(self.commands), 10):
            part = self.commands[start : start + 10]
            yield b"".join(len(one).to_bytes(_LENGTH_BYTES, "big") + one for one in part)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Become what another was."""
        commands: list[bytes] = []
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                start = at + _LENGTH_BYTES
                at = start + int.from_bytes(chunk[at:start], "big")
                commands.append(chunk[start:at])
        self.commands = commands


class DiskList:
    """The list on disk: one row a command."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._count = 0

    def open(self, store: Store) -> None:
        """Take the store, and see how many there are."""
        self._store = store
        last = next(store.scan(Space.MACHINE, reverse=True), None)
        self._count = 0 if last is None else int.from_bytes(last[0], "big")

    @property
    def commands(self) -> list[bytes]:
        """All of them."""
        return [] if self._store is None else [row[1] for row in self._store.scan(Space.MACHINE)]

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[int]:
        """Append; each is answered with its place."""
        first = self._count + 1
        for command in commands:
            self._count += 1
            batch.put(Space.MACHINE, self._count.to_bytes(8, "big"), command.data)
        return range(first, self._count + 1)

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        """A row a chunk."""
        for key, value in reader.scan(Space.MACHINE):
            yield key + value

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        """The row of a chunk."""
        return [(chunk[:8], chunk[8:])], carry

    def check_restored(self, carry: bytes) -> None:
        """Whatever was given is a whole list."""


def check_places(history: History[bytes, int], commands: Sequence[bytes]) -> None:
    """Whether what clients were told of a list can be right, given what it holds in the end.

    I47: what was acknowledged is there once, at its place. I49: what surely failed is not. I48: no
    place is below one that was told before the call; reads (empty requests) see at least as many.
    """
    place_of: dict[bytes, int] = {}
    for place, command in enumerate(commands, 1):
        if command in place_of:
            raise broken("I47", f"{command!r} is there twice, at {place_of[command]} and {place}")
        place_of[command] = place
    for one in history:
        if not one.request:
            continue
        place = place_of.get(one.request)
        if one.outcome is Outcome.OK and place != one.response:
            raise broken("I47", f"{one} was acknowledged, and is at {place}")
        if one.outcome is Outcome.FAILED and place is not None:
            raise broken("I49", f"{one} surely failed, and is at {place}")
    _check_order(history)


def _check_order(history: History[bytes, int]) -> None:
    """I48: in the order of time, places never fall behind what somebody was told before."""
    moments: list[tuple[int, bool, int, str]] = []
    for one in history:
        if one.outcome is Outcome.OK and one.response is not None and one.return_at is not None:
            told = str(one)
            moments.append((one.call_at, False, 1 if one.request else 0, told))
            moments.append((one.return_at, True, one.response, told))
    known = 0
    least: dict[str, int] = {}
    for _, returns, number, told in sorted(moments):
        if not returns:  # a write comes behind everything, a read shows it
            least[told] = known + number
        elif number < least.pop(told):
            raise broken("I48", f"{told}: somebody was told {known} or more before it asked")
        else:
            known = max(known, number)
