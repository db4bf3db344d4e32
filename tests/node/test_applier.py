"""Slices, marks and whose results are whose, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raftkv.core import (
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    Membership,
    MembershipChange,
    encode_change,
)
from raftkv.errors import InvariantError, MachineError, StorageCorruptError
from raftkv.machine import Command, Early
from raftkv.node.applier import Applier
from raftkv.node.commands import encode_commands
from raftkv.node.waiters import InFlight
from raftkv.storage.base import AppliedMark, Batch, Space
from raftkv.storage.memory import open_memory
from raftkv.storage.reading import LogReader
from tests.node.rig import Journal, Ledger
from tests.node.test_waiters import make_waiter


def _entry(
    index: int, commands: list[bytes], member: int = 1, boot: int = 1, first: int = 1
) -> Entry:
    return Entry(1, index, EntryKind.NORMAL, encode_commands(member, boot, first, commands), index)


def _applier(machine: Journal | Ledger, in_flight: InFlight | None = None) -> Applier:
    storage = open_memory(5, 1)
    if isinstance(machine, Ledger):
        machine.open(storage.store)
    return Applier(machine, storage.log, in_flight or InFlight(1, 1), AppliedMark(), 10)


def _batch() -> Batch:
    return open_memory(5, 2).store.batch()


def test_results_go_to_the_waiters_of_this_member_and_this_start_alone() -> None:
    for member, boot, mine in ((1, 1, True), (2, 1, False), (1, 2, False)):
        in_flight = InFlight(1, 1)
        waiter, told = make_waiter()
        first = in_flight.add([waiter])
        applier = _applier(Journal(), in_flight)
        applier.add((_entry(1, [b"x"], member, boot, first),))
        applier.apply_slice(_batch())
        applier.release()
        assert (told.times == 1) == mine


def test_no_result_is_out_before_its_effects_are_written() -> None:
    in_flight = InFlight(1, 1)
    waiter, told = make_waiter()
    first = in_flight.add([waiter])
    applier = _applier(Ledger(), in_flight)
    applier.add((_entry(1, [b"x"], first=first),))
    applier.apply_slice(_batch())
    assert told.times == 0
    applier.release()
    assert told.value == 1


def test_a_slice_ends_before_it_would_be_too_long_and_never_within_an_entry() -> None:
    machine = Journal()
    applier = _applier(machine)
    entries = [_entry(index, [b"%d" % index] * 4) for index in range(1, 6)]
    large = _entry(6, [b"large"] * 25)
    applier.add((*entries, large))
    assert applier.commands == 45
    done: list[int] = []
    while applier.has_work:
        assert applier.next_change() is None
        applier.apply_slice(_batch())
        done.append(len(machine.commands))
    assert done == [8, 16, 20, 45]
    assert applier.mark.index == 6
    assert applier.commands == applier.size_bytes == 0


class Halting(Ledger):
    """Stops before the first command of an entry from which on it has had so many."""

    def __init__(self, *stops: int) -> None:
        super().__init__()
        self.stops = list(stops)

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
        stop = self.stops.pop(0) if self.stops else len(commands)
        done = super().apply_durable(commands[:stop], batch)
        return done if stop >= len(commands) else Early(done)


def test_what_a_machine_left_is_given_to_it_again_and_everybody_hears_the_own_result() -> None:
    storage, in_flight = open_memory(5, 1), InFlight(1, 1)
    machine = Halting(3, 5)
    machine.open(storage.store)
    storage.log.recover()
    applier = Applier(machine, storage.log, in_flight, AppliedMark(), 10)
    sizes = (2, 1, 0, 3, 2)
    told = [[make_waiter() for _ in range(size)] for size in sizes]
    firsts = [in_flight.add([waiter for waiter, _ in one]) if one else 1 for one in told]
    entries = [
        _entry(index, [b"x"] * size, first=first)
        if size
        else Entry(1, index, EntryKind.NORMAL, b"", 1)
        for index, (size, first) in enumerate(zip(sizes, firsts, strict=True), 1)
    ]
    applier.add(tuple(entries))
    marks: list[tuple[int, int, int]] = []
    while applier.has_work:
        batch = storage.store.batch()
        applier.apply_slice(batch)
        storage.store.write(batch)
        applier.release()
        assert LogReader(storage.store).applied() == applier.mark
        marks.append((applier.mark.index, applier.commands, machine.count))
    assert marks == [(3, 5, 3), (5, 0, 8)]
    assert applier.size_bytes == 0
    heard = [one.value for entry in told for _, one in entry]
    assert heard == [*range(1, 9)]
    storage.close()


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_machine_may_not_stop_within_an_entry_nor_before_the_first(stop: int) -> None:
    machine = Halting(stop)
    applier = _applier(machine)
    applier.add((_entry(1, [b"x"] * 2), _entry(2, [b"x"] * 2)))
    with pytest.raises(MachineError, match="stopped early"):
        applier.apply_slice(_batch())


def test_a_machine_that_answers_fewer_commands_must_mean_it() -> None:
    class Forgetful(Ledger):
        def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
            return super().apply_durable(commands, batch)[:-2]

    applier = _applier(Forgetful())
    applier.add((_entry(1, [b"x"] * 2), _entry(2, [b"x"] * 2)))
    with pytest.raises(MachineError, match="answered 4 commands with 2 results"):
        applier.apply_slice(_batch())


def test_the_mark_goes_into_the_batch_of_the_effects_of_an_on_disk_machine() -> None:
    storage = open_memory(5, 1)
    machine = Ledger()
    machine.open(storage.store)
    applier = Applier(machine, storage.log, InFlight(1, 1), AppliedMark(), 10)
    entry = _entry(1, [b"x"])
    storage.log.recover()
    batch = storage.store.batch()
    applier.add((entry,))
    applier.apply_slice(batch)
    before = storage.store.view()
    storage.store.write(batch)
    assert machine.commands == [b"x"]
    assert not list(before.scan(Space.MACHINE))
    before.close()
    assert applier.mark == AppliedMark(1, 1, 1, Membership())
    assert LogReader(storage.store).applied() == applier.mark
    storage.close()


def test_a_change_takes_its_turn_between_slices() -> None:
    machine = Journal()
    applier = _applier(machine)
    change = MembershipChange((Change(ChangeKind.VOTER, 9),))
    applier.add(
        (
            _entry(1, [b"before"]),
            Entry(1, 2, EntryKind.CHANGE, encode_change(change), 2),
            _entry(3, [b"after"]),
        )
    )
    applier.apply_slice(_batch())
    assert machine.commands == [b"before"]
    assert applier.next_change() == change
    applier.changed(Membership((1, 9)), _batch())
    assert applier.mark == AppliedMark(2, 1, 2, Membership((1, 9)))
    applier.apply_slice(_batch())
    assert machine.commands == [b"before", b"after"]
    assert applier.mark.membership == Membership((1, 9))
    assert applier.size_bytes == 0


def test_a_change_that_cannot_be_read_stops_the_node() -> None:
    applier = _applier(Journal())
    applier.add((Entry(1, 1, EntryKind.CHANGE, b"nonsense", 1),))
    with pytest.raises(InvariantError):
        applier.next_change()


def test_a_failure_of_the_store_is_not_blamed_on_the_machine() -> None:
    class Damaged(Journal):
        def apply(self, commands: Sequence[Command]) -> Sequence[object]:
            raise StorageCorruptError("a row is damaged")

    applier = _applier(Damaged())
    applier.add((_entry(1, [b"x"]),))
    with pytest.raises(StorageCorruptError):
        applier.apply_slice(_batch())


def test_a_snapshot_clears_what_it_contains() -> None:
    applier = _applier(Journal())
    applier.add((_entry(1, [b"x"]),))
    applier.reset(AppliedMark(50, 2, 3, Membership((1,))))
    assert not applier.has_work
    assert applier.commands == applier.size_bytes == 0
    assert applier.mark.index == 50
