"""One life of a machine of either kind, with the node's part played by a store in memory."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from raftkv.machine import Command, DurableStateMachine, Early, Machine, StateMachine
from raftkv.storage.base import Space
from raftkv.storage.memory import open_memory

Image = tuple[bytes, ...]
"""The chunks of a snapshot."""

_CLUSTER_ID = 1
_MEMBER_ID = 1
_ALL_ROWS = (b"", b"\xff" * 64)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Life(ABC):
    """A machine that commands are applied to, from index 1 on."""

    applies_beside_images: bool
    """Whether commands are applied while an image is read."""

    def __init__(self) -> None:
        self._index = 0

    def apply(self, commands: Sequence[bytes]) -> list[object]:
        """The results of one call of apply."""
        placed: list[Command] = []
        for data in commands:
            self._index += 1
            placed.append(Command(self._index, data))
        return self._apply(placed)

    @abstractmethod
    def _apply(self, commands: Sequence[Command]) -> list[object]: ...

    def image(self) -> Image:
        """A snapshot, read to its end."""
        return tuple(self.begin_image())

    @abstractmethod
    def begin_image(self) -> Iterator[bytes]:
        """A snapshot of the state now, to be read later."""

    @abstractmethod
    def restore(self, image: Image) -> None:
        """Take an image's state in the place of one's own."""


class _InMemory(Life):
    applies_beside_images = False

    def __init__(self, machine: StateMachine[object]) -> None:
        super().__init__()
        self._machine = machine

    def _apply(self, commands: Sequence[Command]) -> list[object]:
        return list(self._machine.apply(commands))

    def begin_image(self) -> Iterator[bytes]:
        return self._machine.snapshot()

    def restore(self, image: Image) -> None:
        self._machine.restore(iter(image))


class _OnDisk(Life):
    applies_beside_images = True

    def __init__(self, machine: DurableStateMachine[object]) -> None:
        super().__init__()
        self._machine = machine
        self._store = open_memory(_CLUSTER_ID, _MEMBER_ID).store
        machine.open(self._store)

    def _apply(self, commands: Sequence[Command]) -> list[object]:
        batch = self._store.batch()
        results = self._machine.apply_durable(commands, batch)
        self._store.write(batch)
        if isinstance(results, Early):
            return [*results, *self._apply(commands[len(results) :])]
        return list(results)

    def begin_image(self) -> Iterator[bytes]:
        view = self._store.view()

        def chunks() -> Iterator[bytes]:
            try:
                yield from self._machine.snapshot_durable(view)
            finally:
                view.close()

        return chunks()

    def restore(self, image: Image) -> None:
        batch = self._store.batch()
        batch.delete_range(Space.MACHINE, *_ALL_ROWS)
        carry = b""
        for chunk in image:
            rows, carry = self._machine.restore_durable(chunk, carry)
            batch.put_rows(Space.MACHINE, rows)
        self._machine.check_restored(carry)
        self._store.write(batch)
        self._machine.open(self._store)


def live(machine: Machine[object]) -> Life:
    """The first life of a new machine."""
    if isinstance(machine, DurableStateMachine):
        return _OnDisk(machine)
    return _InMemory(machine)


def digest_of(life: Life, slices: Sequence[Sequence[bytes]]) -> str:
    """A digest of all results and of the state after them.

    Of a result its ``repr`` counts, but for places in memory.
    """
    digest = blake2b(digest_size=16)
    for part in slices:
        for result in life.apply(part):
            digest.update(_ADDRESS.sub("", repr(result)).encode() + b"\n")
    for chunk in life.image():
        digest.update(len(chunk).to_bytes(4, "big") + chunk)
    return digest.hexdigest()
