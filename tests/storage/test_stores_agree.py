"""Memory and RocksDB driven in lock-step: what one answers, the other answers."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from raftkv.errors import ClosedError, UsageError
from raftkv.storage.base import Batch, Reader, Space, Store, View
from raftkv.storage.memory import MemoryDisk, MemoryStore
from raftkv.storage.rocks import Mode, RocksStore

spaces = st.sampled_from(Space)
# Few and related keys, so that changes meet: the empty one, prefixes of others, and both ends.
keys = st.binary(max_size=3) | st.lists(st.sampled_from([0, 1, 0x61, 0xFF]), max_size=3).map(bytes)
values = st.binary(max_size=8) | st.sampled_from([b"", b"x" * 5000])
Change = tuple[str, Space, bytes, bytes]
changes = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "rows", "delete", "range", "adopt"]),
        spaces,
        keys,
        values | keys,
    ),
    max_size=8,
).filter(lambda made: sum(one[0] == "adopt" for one in made) <= 1)
bounds = st.none() | keys


def fill(batch: Batch, made: list[Change]) -> None:
    for kind, space, key, value in made:
        if kind == "put":
            batch.put(space, key, value)
        elif kind == "rows":
            batch.put_rows(space, [(key, value), (value, key)])
        elif kind == "delete":
            batch.delete(space, key)
        elif kind == "adopt":
            batch.adopt_staged()
        else:
            batch.delete_range(space, key, value)


def content(reader: Reader) -> dict[Space, list[tuple[bytes, bytes]]]:
    return {space: list(reader.scan(space)) for space in Space}


class TwoStores(RuleBasedStateMachine):
    """One store of each kind, given the same calls; a dict of dicts is the third opinion."""

    views: Bundle[tuple[View, View, dict[Space, dict[bytes, bytes]]]] = Bundle("views")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="raftkv-agree-"))
        self.disk = MemoryDisk()
        self.memory = MemoryStore(self.disk)
        self.rocks = RocksStore(self.directory / "store", Mode.CREATE)
        self.rows: dict[Space, dict[bytes, bytes]] = {space: {} for space in Space}
        self.open_views: list[tuple[View, View]] = []

    @property
    def both(self) -> tuple[Store, Store]:
        return self.memory, self.rocks

    @rule(made=changes)
    def write(self, made: list[Change]) -> None:
        answers: list[tuple[int, int, int]] = []
        for store in self.both:
            batch = store.batch()
            fill(batch, made)
            answers.append((batch.size_bytes, store.write(batch), store.written))
        assert answers[0] == answers[1]
        assert (answers[0][0] == 0) == (not any(self.has_effect(change) for change in made))
        for kind, space, key, value in made:
            rows = self.rows[space]
            if kind == "put":
                rows[key] = value
            elif kind == "rows":
                rows[key] = value
                rows[value] = key
            elif kind == "delete":
                rows.pop(key, None)
            elif kind == "adopt":
                self.rows[Space.MACHINE], self.rows[Space.STAGED] = self.rows[Space.STAGED], {}
            else:
                for gone in [row for row in rows if key <= row < value]:
                    del rows[gone]

    @staticmethod
    def has_effect(change: Change) -> bool:
        return change[0] != "range" or change[2] < change[3]

    @rule()
    def sync(self) -> None:
        written = self.memory.written
        assert [store.sync() for store in self.both] == [written, written]
        assert self.memory.unsynced == 0

    @rule(space=spaces, key=keys)
    def get(self, space: Space, key: bytes) -> None:
        wanted = self.rows[space].get(key)
        assert [store.get(space, key) for store in self.both] == [wanted, wanted]

    @rule(space=spaces, start=keys, stop=bounds, reverse=st.booleans())
    def scan(self, space: Space, start: bytes, stop: bytes | None, reverse: bool) -> None:
        wanted = sorted(
            row
            for row in self.rows[space].items()
            if start <= row[0] and (stop is None or row[0] < stop)
        )
        if reverse:
            wanted.reverse()
        for store in self.both:
            assert list(store.scan(space, start, stop, reverse=reverse)) == wanted

    @rule(space=spaces, made=changes, take=st.integers(0, 3))
    def a_scan_shows_the_moment_of_its_call(
        self, space: Space, made: list[Change], take: int
    ) -> None:
        wanted = sorted(self.rows[space].items())
        scans = [store.scan(space) for store in self.both]
        seen = [[row for row, _ in zip(scan, range(take), strict=False)] for scan in scans]
        self.write(made)
        # zip takes one more row than it gives when the range ends first.
        rest = [list(scan) for scan in scans]
        for begun, remaining in zip(seen, rest, strict=True):
            assert begun == wanted[: len(begun)]
            assert remaining == wanted[len(wanted) - len(remaining) :]
            assert len(begun) + len(remaining) >= len(wanted) - 1

    @rule(target=views)
    def take_view(self) -> tuple[View, View, dict[Space, dict[bytes, bytes]]]:
        pair = (self.memory.view(), self.rocks.view())
        self.open_views.append(pair)
        return (*pair, {space: dict(rows) for space, rows in self.rows.items()})

    @rule(held=views, space=spaces, key=keys)
    def read_view(
        self,
        held: tuple[View, View, dict[Space, dict[bytes, bytes]]],
        space: Space,
        key: bytes,
    ) -> None:
        memory, rocks, rows = held
        if (memory, rocks) not in self.open_views:  # the stores were reopened since
            for view in (memory, rocks):
                with pytest.raises(ClosedError):
                    view.get(space, key)
                with pytest.raises(ClosedError):
                    view.scan(space)
            return
        for view in (memory, rocks):
            assert view.get(space, key) == rows[space].get(key)
            assert content(view) == {space: sorted(rows[space].items()) for space in Space}
            forth, back = view.scan(space), view.scan(space, reverse=True)
            woven = [row for pair in zip(forth, back, strict=True) for row in pair]
            assert woven[::2] == woven[1::2][::-1] == sorted(rows[space].items())

    @rule(held=consumes(views))
    def close_view(self, held: tuple[View, View, dict[Space, dict[bytes, bytes]]]) -> None:
        for view in held[:2]:
            view.close()
            view.close()
        if held[:2] in self.open_views:
            self.open_views.remove(held[:2])

    @rule()
    def reopen(self) -> None:
        if self.open_views:
            for store in self.both:
                with pytest.raises(UsageError, match="views"):
                    store.close()
        self.close_all()
        for store in self.both:
            with pytest.raises(ClosedError):
                store.get(Space.LOG, b"")
            with pytest.raises(ClosedError):
                store.batch()
        self.memory = MemoryStore(self.disk)
        self.rocks = RocksStore(self.directory / "store")

    def close_all(self) -> None:
        for pair in self.open_views:
            for view in pair:
                view.close()
        self.open_views.clear()
        for store in self.both:
            store.close()
            store.close()

    @invariant()
    def both_hold_what_was_written(self) -> None:
        wanted = {space: sorted(rows.items()) for space, rows in self.rows.items()}
        assert [content(store) for store in self.both] == [wanted, wanted]

    def teardown(self) -> None:
        self.close_all()
        shutil.rmtree(self.directory)


TestTwoStores = TwoStores.TestCase
# An opening of RocksDB costs tens of milliseconds: fewer worlds than the profile asks for.
TestTwoStores.settings = settings(
    max_examples=max(20, settings().max_examples // 5), stateful_step_count=30, deadline=None
)


class MemoryCrashes(RuleBasedStateMachine):
    """What survives a crash of the memory store: everything synced, and a prefix of the rest."""

    @initialize()
    def begin(self) -> None:
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.synced: dict[bytes, bytes] = {}
        self.unsynced: list[dict[bytes, bytes]] = []  # the rows after each unsynced batch

    @property
    def rows(self) -> dict[bytes, bytes]:
        return self.unsynced[-1] if self.unsynced else self.synced

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        batch = self.store.batch()
        batch.put(Space.META, key, value)
        self.store.write(batch)
        self.unsynced.append({**self.rows, key: value})

    @rule()
    def sync(self) -> None:
        assert self.store.sync() == self.store.written
        self.synced, self.unsynced = self.rows, []

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        keep = data.draw(st.integers(0, len(self.unsynced)))
        if keep:
            self.synced = self.unsynced[keep - 1]
        self.unsynced = []
        view = self.store.view()
        self.store.crash(keep)
        for dead in (self.store, view):
            with pytest.raises(ClosedError):
                dead.get(Space.META, b"")
        self.store = MemoryStore(self.disk)

    @rule()
    def end_the_process(self) -> None:
        self.synced, self.unsynced = self.rows, []
        self.store.close()
        self.store = MemoryStore(self.disk)

    @invariant()
    def what_was_written_is_visible(self) -> None:
        assert dict(self.store.scan(Space.META)) == self.rows
        assert self.store.unsynced == len(self.unsynced)


TestMemoryCrashes = MemoryCrashes.TestCase
TestMemoryCrashes.settings = settings(deadline=None)


def test_more_than_there_is_cannot_be_kept_in_a_crash() -> None:
    store = MemoryStore()
    with pytest.raises(UsageError, match="at most 0"):
        store.crash(keep=1)
    store.close()


def test_a_batch_adopts_the_staged_rows_once(tmp_path: Path) -> None:
    stores: list[Store] = [MemoryStore(), RocksStore(tmp_path / "store", Mode.CREATE)]
    for store in stores:
        batch = store.batch()
        batch.adopt_staged()
        with pytest.raises(UsageError, match="once"):
            batch.adopt_staged()
        store.close()


def test_a_view_keeps_the_rows_that_were_the_machines(tmp_path: Path) -> None:
    stores: list[Store] = [MemoryStore(), RocksStore(tmp_path / "store", Mode.CREATE)]
    for store in stores:
        batch = store.batch()
        batch.put_rows(Space.MACHINE, [(b"a", b"old"), (b"b", b"old")])
        batch.put_rows(Space.STAGED, [(b"b", b"new")])
        store.write(batch)
        view, scan = store.view(), store.scan(Space.MACHINE)
        assert next(scan) == (b"a", b"old")
        batch = store.batch()
        batch.adopt_staged()
        batch.put(Space.MACHINE, b"c", b"newer")
        batch.put(Space.STAGED, b"d", b"next")
        store.write(batch)
        assert list(store.scan(Space.MACHINE)) == [(b"b", b"new"), (b"c", b"newer")]
        assert list(store.scan(Space.STAGED)) == [(b"d", b"next")]
        assert store.get(Space.MACHINE, b"a") is None
        assert list(view.scan(Space.MACHINE)) == [(b"a", b"old"), (b"b", b"old")]
        assert view.get(Space.MACHINE, b"b") == b"old"
        assert list(scan) == [(b"b", b"old")]
        del scan
        view.close()
        store.close()


def test_the_room_of_replaced_rows_can_be_given_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    rows = [(b"%d" % number, random.Random(number).randbytes(1000)) for number in range(1000)]
    stores: list[Store] = [MemoryStore(), RocksStore(path, Mode.CREATE)]
    for store in stores:
        batch = store.batch()
        batch.put_rows(Space.MACHINE, rows)
        store.write(batch)
    stores[1].close()
    stores[1] = RocksStore(path)  # which writes what is in memory into files

    def stored() -> int:
        return sum(file.stat().st_size for file in path.glob("*.sst"))

    before = stored()
    assert before > 900_000
    for store in stores:
        view = store.view()
        batch = store.batch()
        batch.put(Space.STAGED, b"new", b"row")
        batch.adopt_staged()
        store.write(batch)
        store.reclaim(Space.STAGED)
        assert list(view.scan(Space.MACHINE)) == sorted(rows)
        view.close()
        del view
        store.reclaim(Space.STAGED)
        assert list(store.scan(Space.MACHINE)) == [(b"new", b"row")]
        assert not list(store.scan(Space.STAGED))
    for store in stores:
        store.close()
        with pytest.raises(ClosedError):
            store.reclaim(Space.STAGED)
    assert stored() < before / 10


def test_a_batch_of_a_stranger_is_refused(tmp_path: Path) -> None:
    class Stranger:
        size_bytes = 0

        def put(self, space: Space, key: bytes, value: bytes) -> None: ...
        def delete(self, space: Space, key: bytes) -> None: ...
        def delete_range(self, space: Space, start: bytes, stop: bytes) -> None: ...
        def put_rows(self, space: Space, rows: Iterable[tuple[bytes, bytes]]) -> None: ...
        def adopt_staged(self) -> None: ...

    stores: list[Store] = [MemoryStore(), RocksStore(tmp_path / "store", Mode.CREATE)]
    for store in stores:
        with pytest.raises(UsageError, match="batch"):
            store.write(Stranger())
        store.close()
