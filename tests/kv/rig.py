"""A machine on a store, driven as a node drives it: slices of commands, one batch each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from raftkv.kv.commands import encode
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import KvResult, RangeResult, Span
from raftkv.kv.reader import read_range
from raftkv.kv.requests import KvCommand, Range
from raftkv.machine import Command
from raftkv.runtime.base import Runtime
from raftkv.storage.base import Space, Store
from raftkv.storage.memory import MemoryDisk, MemoryStore
from raftkv.storage.rocks import Mode, RocksStore

MACHINE = Space.MACHINE


class Rig:
    """``open_store`` gives the same store again after it was closed, as a restart does."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self.index = 0
        self.batches = 0
        self.start()

    def start(self) -> None:
        self.store = self._open_store()
        self.machine = KvMachine()
        self.machine.open(self.store)

    def restart(self) -> None:
        self.store.close()
        self.start()

    def apply(self, commands: Sequence[KvCommand]) -> list[KvResult]:
        return self.apply_bytes([encode(command) for command in commands])

    def apply_bytes(self, commands: Sequence[bytes]) -> list[KvResult]:
        taken: list[Command] = []
        for data in commands:
            self.index += 1
            taken.append(Command(self.index, data))
        return self.apply_entries(taken)

    def apply_entries(self, commands: Sequence[Command]) -> list[KvResult]:
        """All of them, in a slice as long as the machine lets it be, and further ones."""
        done: list[KvResult] = []
        while len(done) < len(commands):
            batch = self.store.batch()
            done += self.machine.apply_durable(commands[len(done) :], batch)
            self.store.write(batch)
            self.batches += 1
        return done

    def apply_slices(self, commands: Sequence[KvCommand], sizes: Iterable[int]) -> list[KvResult]:
        results: list[KvResult] = []
        for part in slices(commands, sizes):
            results += self.apply(part)
        return results

    def range(self, span: Span, **how: int) -> RangeResult:
        return read_range(
            self.store,
            Range(
                span,
                limit=how.get("limit", 0),
                revision=how.get("revision", 0),
                keys_only=bool(how.get("keys_only", False)),
                count_only=bool(how.get("count_only", False)),
            ),
            counted=bool(how.get("counted", True)),
        )

    def image(self) -> list[bytes]:
        view = self.store.view()
        try:
            return list(self.machine.snapshot_durable(view))
        finally:
            view.close()

    def install(self, chunks: Iterable[bytes]) -> None:
        batch = self.store.batch()
        carry = b""
        for chunk in chunks:
            rows, carry = self.machine.restore_durable(chunk, carry)
            batch.put_rows(Space.STAGED, rows)
        self.machine.check_restored(carry)
        batch.adopt_staged()
        self.store.write(batch)
        self.machine.open(self.store)

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.store.scan(MACHINE))

    def close(self) -> None:
        self.store.close()


class Door:
    """A node of :mod:`tests.node.rig` as the public handle is: with its runtime."""

    def __init__(self, node: object, runtime: Runtime) -> None:
        self._node = node
        self.runtime = runtime

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)


def slices(commands: Sequence[KvCommand], sizes: Iterable[int]) -> Iterator[Sequence[KvCommand]]:
    """Cut ``commands`` into parts of the given sizes, the last size repeated as often as needed."""
    place, size = 0, 1
    wanted = iter(sizes)
    while place < len(commands):
        size = next(wanted, size)
        yield commands[place : place + size]
        place += size


def memory_rig() -> Rig:
    """A rig on a memory store that outlives restarts."""
    disk = MemoryDisk()
    return Rig(lambda: MemoryStore(disk))


def rocks_rig(folder: Path) -> Rig:
    """A rig on RocksDB in ``folder``."""
    return Rig(lambda: RocksStore(folder, Mode.NORMAL if folder.exists() else Mode.CREATE))
