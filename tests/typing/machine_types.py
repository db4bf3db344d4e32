"""What type checkers are told about state machines. Never run: pyright reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import assert_type

from raftkv.machine import Command, Machine, StateMachine


class Counter:
    """A machine by its methods alone: nothing to inherit from."""

    total = 0

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        """Add one number for each command."""
        results: list[int] = []
        for command in commands:
            self.total += int(command.data)
            results.append(self.total)
        return results

    def snapshot(self) -> Iterator[bytes]:
        """The total."""
        yield str(self.total).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The total that was."""
        self.total = int(b"".join(chunks))


class Mute:
    """No machine: it cannot be restored."""

    def apply(self, commands: Sequence[Command]) -> Sequence[int]:
        """Nothing."""
        return [0 for _ in commands]


def results_keep_their_type(counter: Counter) -> None:
    """What ``apply`` returns is what the machine is of."""
    machine: StateMachine[int] = counter
    assert_type(machine.apply([]), Sequence[int])
    wider: StateMachine[object] = counter
    del wider
    either: Machine[int] = machine
    del either
    wrong: StateMachine[str] = counter  # pyright: ignore[reportAssignmentType] - it gives ints
    mute: StateMachine[int] = Mute()  # pyright: ignore[reportAssignmentType] - methods are missing
    del wrong, mute
