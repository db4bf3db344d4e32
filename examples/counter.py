"""A state machine of one's own, replicated: a counter whose commands are ``+1`` and ``-1``.

Run it: ``python examples/counter.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence

import anyio

import raftkv


class Counter:
    """An int that every member counts alike: no clock, no chance, nothing but the commands."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, commands: Sequence[raftkv.Command]) -> Sequence[int]:
        """Add up; each command's result is the value after it."""
        results: list[int] = []
        for command in commands:
            self.value += int(command.data)
            results.append(self.value)
        return results

    def snapshot(self) -> Iterator[bytes]:
        """The state as bytes."""
        yield str(self.value).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The state from bytes."""
        self.value = int(b"".join(chunks))


async def main() -> None:
    """Count on three members and look at what each of them holds."""
    with tempfile.TemporaryDirectory() as directory:
        machines: list[Counter] = []

        def machine() -> Counter:
            machines.append(Counter())
            return machines[-1]

        async with raftkv.open_cluster(directory, size=3, machine=machine) as cluster:
            leader = await cluster.leader()
            values = [await leader.propose(b"+1") for _ in range(5)]
            print("five times +1:", values)
            for node in cluster.nodes:
                await node.read()  # a barrier: what was acknowledged before is applied here now
            print("on every member:", [one.value for one in machines])


if __name__ == "__main__":
    anyio.run(main)
