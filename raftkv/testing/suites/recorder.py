"""A state machine that is looked at: equal places in the log must mean equal states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import define, field, frozen

from raftkv.machine import Command, DurableStateMachine, Machine, Row, StateMachine
from raftkv.storage.base import Batch, Reader, Store
from raftkv.testing.histories import Model
from raftkv.testing.suites.lives import Image, live


@define
class Ledger:
    """What state the machines of all members had at each entry of the log."""

    states: dict[int, tuple[Image, str]] = field(factory=dict[int, tuple[Image, str]])
    difference: str = ""
    """The first difference that was met, in words."""

    def note(self, index: int, image: Image, is_restored: bool) -> None:
        """A machine has applied everything up to ``index``, and this is its state.

        ``is_restored``: it began with a snapshot.
        """
        way = "restored a snapshot and applied the rest" if is_restored else "applied everything"
        known, other_way = self.states.setdefault(index, (image, way))
        if known != image and not self.difference:
            self.difference = (
                f"after entry {index} two members have different states: {_bytes(known)}"
                f" where it {other_way}, {_bytes(image)} where it {way}"
            )


def _bytes(image: Image) -> str:
    return repr(image[0] if len(image) == 1 else [*image])


class RecordedMachine(StateMachine[object]):
    """An in-memory machine whose states go into a ledger."""

    def __init__(self, machine: StateMachine[object], ledger: Ledger) -> None:
        self._machine = machine
        self._ledger = ledger
        self._is_restored = False

    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        """Apply, and note the state."""
        results = self._machine.apply(commands)
        image = tuple(self._machine.snapshot())
        self._ledger.note(commands[-1].index, image, self._is_restored)
        return results

    def snapshot(self) -> Iterator[bytes]:
        """The machine's own."""
        return self._machine.snapshot()

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The machine's own."""
        self._is_restored = True
        self._machine.restore(chunks)


class RecordedDurableMachine(DurableStateMachine[object]):
    """An on-disk machine whose states go into a ledger, when the next commands come."""

    def __init__(self, machine: DurableStateMachine[object], ledger: Ledger) -> None:
        self._machine = machine
        self._ledger = ledger
        self._store: Store | None = None
        self._applied = 0
        self._is_restored = False

    def open(self, store: Store) -> None:
        """The machine's own."""
        self._store = store
        self._applied = 0
        self._machine.open(store)

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
        """Note the state so far, and apply."""
        if self._applied and self._store is not None:
            image = tuple(self._machine.snapshot_durable(self._store))
            self._ledger.note(self._applied, image, self._is_restored)
        results = self._machine.apply_durable(commands, batch)
        self._applied = commands[len(results) - 1].index  # the last one's, unless it stopped early
        return results

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        """The machine's own."""
        return self._machine.snapshot_durable(reader)

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        """The machine's own."""
        self._is_restored = True
        return self._machine.restore_durable(chunk, carry)

    def check_restored(self, carry: bytes) -> None:
        """The machine's own."""
        self._machine.check_restored(carry)


def recorded(machine: Machine[object], ledger: Ledger) -> Machine[object]:
    """The machine, looked at."""
    if isinstance(machine, DurableStateMachine):
        return RecordedDurableMachine(machine, ledger)
    return RecordedMachine(machine, ledger)


@frozen
class Reached:
    """A state, and how it came about: from the beginning, and not through a snapshot."""

    image: Image
    commands: tuple[bytes, ...] = field(eq=False, repr=False)


class MachineInOnePlace(Model[Reached, bytes, object]):
    """What clients must be answered: as if there were one machine, that never restarts.

    A copy is made by applying all commands again, so that a snapshot that forgets something shows.
    """

    def __init__(self, make_machine: Callable[[], Machine[object]]) -> None:
        self._make = make_machine

    def initial(self) -> Reached:
        """The state of a new machine."""
        return Reached(live(self._make()).image(), ())

    def step(self, state: Reached, request: bytes) -> tuple[Reached, object]:
        """One command."""
        life = live(self._make())
        commands = (*state.commands, request)
        answer = life.apply(commands)[-1]
        return Reached(life.image(), commands), answer
