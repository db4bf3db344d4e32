"""State machines that keep the rules, and others that each break one."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from hypothesis import strategies as st

from raftkv.machine import Command, Early, Machine, Row
from raftkv.storage.base import Batch, Reader, Space, Store
from raftkv.testing.suites.machine import MachineSuite

KEYS = st.sampled_from([b"a", b"b", b"c"])


class Words:
    """In memory: a list of words, each command a word; the result is how many there are."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        return [self.one(command) for command in commands]

    def one(self, command: Command) -> object:
        self.words.append(command.data)
        return len(self.words)

    def snapshot(self) -> Iterator[bytes]:
        yield from [*self.words]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = [*chunks]


class Rows:
    """On disk: a row for each command."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.count = 0

    def open(self, store: Store) -> None:
        self.store = store
        last = next(store.scan(Space.MACHINE, reverse=True), None)
        self.count = 0 if last is None else int.from_bytes(last[0], "big")

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
        results: list[object] = []
        for command in commands:
            self.count += 1
            batch.put(Space.MACHINE, self.count.to_bytes(8, "big"), command.data)
            results.append(self.count)
        return results

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        for key, value in reader.scan(Space.MACHINE):
            yield key + value

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        return [(chunk[:8], chunk[8:])], carry

    def check_restored(self, carry: bytes) -> None:
        assert not carry


class StopsEarly(Rows):
    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
        results = super().apply_durable(commands[:2], batch)
        return Early(results) if len(commands) > 2 else results


class CountsSlices(Words):
    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        results = super().apply(commands)
        self.words.append(b"a slice")
        return results


class LosesAResult(Words):
    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        return super().apply(commands)[:3]


class KeepsTheOld(Words):
    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words += [*chunks]


class ForgetsTheLast(Words):
    def snapshot(self) -> Iterator[bytes]:
        yield from self.words[:7]


class HasOneHugeChunk(Words):
    def snapshot(self) -> Iterator[bytes]:
        yield b"".join(self.words) + bytes(2**20 + 1)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = [b"".join(chunks)[: -(2**20) - 1]]


class LooksAtTheClock(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if time.time() else None


class KnowsTheDay(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if datetime.now(UTC).year else None


class RollsDice(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if random.random() < 2 else None


class NamesThings(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if uuid.uuid4() else None


class ReadsTheEnvironment(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if os.environ.get("PATH") else None


class KnowsItsProcess(Words):
    def one(self, command: Command) -> object:
        return super().one(command) if os.getpid() else None


class AsksWhileRestoring(Words):
    def restore(self, chunks: Iterable[bytes]) -> None:
        super().restore(chunks)
        time.monotonic_ns()


class OrdersByHash(Words):
    def snapshot(self) -> Iterator[bytes]:
        yield b" ".join({word + b"!" for word in self.words})

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = [word[:-1] for word in b"".join(chunks).split()]


class OwnDice(Words):
    """A generator with a seed of its own is no chance."""

    def __init__(self) -> None:
        super().__init__()
        self._dice = random.Random(7)

    def one(self, command: Command) -> object:
        self._dice.random()
        return super().one(command)


class ReadsTheLiveStore(Rows):
    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        assert self.store is not None
        yield from super().snapshot_durable(self.store)


class ForgetsToLookAgain(Rows):
    def open(self, store: Store) -> None:
        if self.store is None:
            super().open(store)


class Suite(MachineSuite):
    """Runs on any of them."""

    commands = KEYS
    machine: type[Words | Rows] = Words
    examples_max = 30

    def make_machine(self) -> Machine[object]:
        return self.machine()


class OfHashes(Suite):
    machine = OrdersByHash
