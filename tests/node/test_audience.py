"""Who reads an on-disk machine's rows is told when there are new ones, and when there is an end."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.errors import ClosedError, MachineError, NodeStoppedError
from raftkv.node.node import Node
from tests.node.rig import QUICK, Cluster, Ledger, cluster

SHORT = evolve(QUICK, retention_entries=20)


class Reader:
    """Notes how many rows there are whenever it is told, and what a caller hears at the end."""

    def __init__(self, made: Cluster, number: int, node: Node[object]) -> None:
        self._made = made
        self._number = number
        self._node = node
        self.counts: list[int] = []
        self.ends: list[type[BaseException]] = []
        node.tell(self)

    def rows_written(self) -> None:
        machine = self._made.machines[self._number]
        assert isinstance(machine, Ledger)
        assert len(machine.commands) == machine.count  # nothing is applied that cannot be read
        self.counts.append(machine.count)

    def ended(self) -> None:
        with pytest.raises((ClosedError, NodeStoppedError)) as caught:
            self._node.check()
        self.ends.append(caught.type)


async def test_every_member_is_told_of_every_slice_once_its_rows_can_be_read() -> None:
    async with cluster(machine=Ledger, start=False) as made:
        readers: dict[int, Reader] = {}
        made.prepare = lambda number, node: readers.update({number: Reader(made, number, node)})
        for number in (1, 2, 3):
            await made.start(number)
        leader = await made.leader()
        for count in range(1, 31):
            assert await leader.propose(b"x") == count
            assert readers[leader.id].counts[-1] == count  # no later than who proposed hears of it
        await made.until(lambda: all(one.counts[-1:] == [30] for one in readers.values()))
        for reader in readers.values():
            assert reader.counts == sorted(set(reader.counts))
    assert [reader.ends for reader in readers.values()] == [[ClosedError]] * 3


async def test_it_is_told_of_an_image_that_takes_the_rows_place() -> None:
    async with cluster(settings=SHORT, machine=Ledger) as made:
        leader = await made.leader()
        late = next(number for number in (1, 2, 3) if number != leader.id)
        await made.stop(late)
        for _ in range(100):
            await leader.propose(b"x")
        readers: list[Reader] = []
        made.prepare = lambda number, node: readers.append(Reader(made, number, node))
        await made.start(late)
        await made.until(lambda: readers[0].counts[-1:] == [100])
        machine = made.machines[late]
        assert isinstance(machine, Ledger)
        assert machine.opened == 2


async def test_what_it_raises_stops_the_node() -> None:
    async with cluster(1, machine=Ledger, start=False) as made:
        readers: list[Reader] = []

        def prepare(number: int, node: Node[object]) -> None:
            reader = Reader(made, number, node)
            readers.append(reader)
            reader.rows_written = _refuse

        made.prepare = prepare
        node = await made.start(1)
        assert await node.propose(b"x") == 1
        await made.ended(1)
        assert isinstance(made.failures[1].__cause__, MachineError)
        assert readers[0].ends == [NodeStoppedError]


def _refuse() -> None:
    raise MachineError("cannot be read")
