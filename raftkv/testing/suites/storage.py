"""What every store has to keep, as tests that run on yours.

    class TestMyStore(StorageSuite):
        def make_bench(self) -> Bench:
            return MyBench()

A :class:`~raftkv.testing.suites.benches.Bench` opens the store again and again, and crashes it in
between. Who can also make the disk below fail and rot subclasses :class:`FaultyStorageSuite`, which
has all tests of :class:`StorageSuite` and those that need that.

pytest collects the tests of the class; Hypothesis draws what is written, and where it crashes, and
cuts a failure down. The model that a store is held against is a dictionary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar, Final, TypeAlias

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from raftkv.errors import (
    ClosedError,
    StorageCorruptError,
    StorageError,
    StorageFailedError,
    UsageError,
)
from raftkv.storage.base import Batch, Reader, Space, Store
from raftkv.testing.suites.benches import Bench, Choose, FaultyBench

Row = tuple[bytes, bytes]
Rows: TypeAlias = dict[Space, dict[bytes, bytes]]
"""The model: what a store should hold."""

Change = tuple[str, Space, bytes, bytes]
"""``put``, ``delete``, ``range`` (key to value), ``rows`` (both ways round), ``adopt``."""

Step: TypeAlias = tuple[str, list[Change], list[int]]
"""``write`` of changes, ``sync``, ``reopen``, or ``crash`` with what is chosen."""

_keys: Final = st.binary(max_size=2) | st.lists(
    st.sampled_from([0, 1, 0x61, 0xFF]), max_size=3
).map(bytes)
_values: Final = st.binary(max_size=4) | st.sampled_from([b"", b"x" * 3000])
_kinds: Final = st.sampled_from(["put", "put", "put", "rows", "delete", "range", "adopt"])
_changes: Final = st.lists(
    st.tuples(_kinds, st.sampled_from(Space), _keys, _values | _keys), min_size=1, max_size=6
).filter(lambda made: sum(one[0] == "adopt" for one in made) <= 1)
_chosen: Final = st.lists(st.integers(0, 2**16), max_size=4)
_writes: Final = st.tuples(st.just("write"), _changes, st.just([]))
_syncs: Final = st.tuples(st.just("sync"), st.just([]), st.just([]))
_ends: Final = st.tuples(st.sampled_from(["crash", "reopen"]), st.just([]), _chosen)


def _empty() -> Rows:
    return {space: {} for space in Space}


def _fill(batch: Batch, changes: Iterable[Change]) -> None:
    for kind, space, key, value in changes:
        if kind == "put":
            batch.put(space, key, value)
        elif kind == "rows":
            batch.put_rows(space, [(key, value), (value, key)])
        elif kind == "delete":
            batch.delete(space, key)
        elif kind == "range":
            batch.delete_range(space, key, value)
        else:
            batch.adopt_staged()


def _changed(rows: Rows, changes: Iterable[Change]) -> Rows:
    rows = {space: dict(held) for space, held in rows.items()}
    for kind, space, key, value in changes:
        held = rows[space]
        if kind == "put":
            held[key] = value
        elif kind == "rows":
            held[key] = value
            held[value] = key
        elif kind == "delete":
            held.pop(key, None)
        elif kind == "range":
            for gone in [one for one in held if key <= one < value]:
                del held[gone]
        else:
            rows[Space.MACHINE], rows[Space.STAGED] = rows[Space.STAGED], {}
    return rows


def _content(reader: Reader) -> Rows:
    return {space: dict(reader.scan(space)) for space in Space}


class _Chosen:
    """Numbers that were drawn, and 0 after their end."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)

    def __call__(self, n: int) -> int:
        return next(self._numbers, 0) % n


def _nothing_bad(_n: int) -> int:
    return 0


def _all_that_may_go(n: int) -> int:
    return n - 1


def _the_newest(n: int) -> int:
    return min(1, n - 1)


def _some_steps(at: int, changes: list[Change]) -> list[Step]:
    """A write, and a sync after every second one."""
    syncs: list[Step] = [("sync", [], [])] if at % 2 else []
    return [("write", changes, []), *syncs]


class _Run:
    """One store over several openings, and what it may hold."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.open()
        self.passed = [_empty()]
        """The states since the last sync, the newest last: a crash may go back to any of them."""

    @property
    def rows(self) -> Rows:
        """What is visible."""
        return self.passed[-1]

    def write(self, changes: Iterable[Change]) -> int:
        changes = list(changes)
        batch = self.store.batch()
        _fill(batch, changes)
        position = self.store.write(batch)
        self.passed.append(_changed(self.rows, changes))
        return position

    def sync(self) -> int:
        position = self.store.sync()
        self.bench.synced()
        self.passed = self.passed[-1:]
        return position

    def reopen(self) -> None:
        self.store.close()
        self.store = self.bench.open()

    def crash(self, choose: Choose) -> None:
        """Crash, open again, and see that one of the states is there, whole."""
        self.bench.crash(choose)
        self.store = self.bench.open()
        found = _content(self.store)
        if found not in self.passed:
            raise AssertionError(self._what_is_wrong(found))
        self.passed = [found]

    def _what_is_wrong(self, found: Rows) -> str:
        synced, *rest = self.passed
        return (
            f"after the crash the store holds {found!r}, which it never did since the last sync."
            f" Synced was {synced!r}; the batches after it made it {rest!r}"
        )

    def take(self, step: Step) -> None:
        kind, changes, chosen = step
        if kind == "write":
            self.write(changes)
        elif kind == "sync":
            self.sync()
        elif kind == "reopen":
            self.reopen()
        else:
            self.crash(_Chosen(chosen))


_SOME: Final[tuple[list[Change], ...]] = (
    [("put", Space.LOG, b"a", b"1"), ("put", Space.META, b"a", b"1")],
    [("put", Space.LOG, b"b", b"2" * 3000), ("delete", Space.META, b"a", b"")],
    [("put", Space.STAGED, b"s", b"staged"), ("put", Space.MACHINE, b"m", b"old")],
    [("range", Space.LOG, b"a", b"b"), ("adopt", Space.MACHINE, b"", b"")],
    [("put", Space.IMAGE, b"i", b""), ("put", Space.MACHINE, b"m", b"new")],
)
"""Batches that show whether they are whole: each changes two things."""


class StorageSuite(ABC):
    """Tests of the Store port. Subclass it as ``Test...``."""

    examples_max: ClassVar[int | None] = None
    """Histories for each test; None: as many as the Hypothesis profile says."""

    @abstractmethod
    def make_bench(self) -> Bench:
        """A new, empty bench; called often."""

    # --- what it shows --------------------------------------------------------------------------

    def test_it_shows_what_a_dictionary_shows(self) -> None:
        """After every batch: single rows, all rows, in order."""

        def run(steps: list[Step]) -> None:
            with self._run() as life:
                for step in steps:
                    life.take(step)
                    wanted = {space: sorted(held.items()) for space, held in life.rows.items()}
                    shown = {space: list(life.store.scan(space)) for space in Space}
                    assert shown == wanted, "rows other than those written"
                    for space, rows in wanted.items():
                        for key, value in rows:
                            assert life.store.get(space, key) == value
                        assert life.store.get(space, b"\x02never") is None

        self._check(run, _writes | _writes | _syncs)

    def test_a_scan_heeds_its_bounds_and_its_direction(self) -> None:
        """From start up to and excluding stop, both ways."""
        keys = [b"", b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff"]
        with self._run() as life:
            life.write([("put", Space.LOG, key, b"value of " + key) for key in keys])
            for start in keys:
                for stop in (None, *keys):
                    inside = [key for key in keys if key >= start and (stop is None or key < stop)]
                    for reverse in (False, True):
                        shown = life.store.scan(Space.LOG, start, stop, reverse=reverse)
                        wanted = inside[::-1] if reverse else inside
                        assert [key for key, _ in shown] == wanted, (
                            f"a scan from {start!r} to {stop!r}{' backwards' * reverse}"
                        )

    def test_the_later_change_of_a_batch_wins(self) -> None:
        """Also between a range and what is put into it, before or after."""
        with self._run() as life:
            life.write([("put", Space.LOG, b"a", b"1"), ("put", Space.LOG, b"a", b"2")])
            assert life.store.get(Space.LOG, b"a") == b"2"
            life.write([("put", Space.LOG, b"b", b"1"), ("range", Space.LOG, b"a", b"c")])
            assert list(life.store.scan(Space.LOG)) == []
            life.write([("range", Space.LOG, b"a", b"c"), ("put", Space.LOG, b"b", b"1")])
            assert list(life.store.scan(Space.LOG)) == [(b"b", b"1")]
            life.write([("put", Space.LOG, b"b", b"2"), ("delete", Space.LOG, b"b", b"")])
            assert list(life.store.scan(Space.LOG)) == []

    def test_a_range_is_deleted_from_its_start_up_to_its_stop(self) -> None:
        """The start goes, the stop stays; a range that is empty or runs backwards is none."""
        keys = [b"", b"a", b"a\x00", b"b", b"b\x00", b"\xff"]
        with self._run() as life:
            for start in keys:
                for stop in keys:
                    life.write([("put", Space.MACHINE, key, key) for key in keys])
                    life.write([("range", Space.MACHINE, start, stop)])
                    shown = dict(life.store.scan(Space.MACHINE))
                    assert shown == life.rows[Space.MACHINE], f"a range from {start!r} to {stop!r}"

    def test_staged_rows_take_the_place_of_the_machines(self) -> None:
        """At once, in order with the rest of the batch, and over openings; staged is empty then."""
        with self._run() as life:
            life.write([("put", Space.MACHINE, b"a", b"old"), ("put", Space.MACHINE, b"b", b"old")])
            life.write([("put", Space.STAGED, b"b", b"new")])
            view = life.store.view()
            life.write(
                [
                    ("put", Space.MACHINE, b"gone", b"with the rest"),
                    ("put", Space.STAGED, b"c", b"new"),
                    ("adopt", Space.MACHINE, b"", b""),
                    ("put", Space.MACHINE, b"d", b"newer"),
                    ("put", Space.STAGED, b"e", b"next"),
                ]
            )
            assert dict(view.scan(Space.MACHINE)) == {b"a": b"old", b"b": b"old"}
            view.close()
            life.store.reclaim(Space.STAGED)
            for _ in range(2):
                shown = _content(life.store)
                assert shown == life.rows
                assert shown[Space.MACHINE] == {b"b": b"new", b"c": b"new", b"d": b"newer"}
                assert shown[Space.STAGED] == {b"e": b"next"}
                life.reopen()

    def test_a_view_is_a_frozen_moment(self) -> None:
        """Whatever is written after it was taken."""

        def run(steps: list[Step]) -> None:
            with self._run() as life:
                views = [(life.store.view(), life.rows)]
                for step in steps:
                    life.take(step)
                    if len(views) < 4:
                        views.append((life.store.view(cached=False), life.rows))
                for view, rows in views:
                    assert _content(view) == rows, "a view shows something newer or older"
                    for space, held in rows.items():
                        for key in held:
                            assert view.get(space, key) == held[key]
                    view.close()

        self._check(run, _writes)

    def test_a_scan_shows_the_moment_of_its_call(self) -> None:
        """Also if rows are written while it goes on."""

        def run(steps: list[Step]) -> None:
            with self._run() as life:
                life.write([("put", Space.LOG, bytes([number]), b"") for number in range(5)])
                for step in steps:
                    wanted = sorted(life.rows[Space.LOG].items())
                    scan = life.store.scan(Space.LOG)
                    begun = [row for row, _ in zip(scan, range(2), strict=False)]
                    life.take(step)
                    # zip takes a row more than it gives where the scan does not end first.
                    rest = list(scan)
                    assert begun == wanted[: len(begun)]
                    assert rest == wanted[min(3, len(wanted)) :], "a scan met what came after it"

        self._check(run, _writes)

    # --- how far it got -------------------------------------------------------------------------

    def test_positions_count_the_writes(self) -> None:
        """Each write has a later one than that before; sync answers that of the last one."""
        with self._run() as life:
            assert life.store.written == 0
            assert life.store.sync() == 0, "nothing was written"
            last = 0
            for changes in _SOME:
                position = life.write(changes)
                assert position > last, f"position {position} after {last}"
                assert life.store.written == position
                last = position
                assert life.sync() == last, "what sync answers is durable, and all that was written"
            assert life.store.write(life.store.batch()) == last, "an empty batch changes nothing"

    def test_a_batch_knows_its_size(self) -> None:
        """0 when empty, and about as much as it holds."""
        with self._run() as life:
            batch = life.store.batch()
            assert batch.size_bytes == 0
            batch.put(Space.LOG, b"key", bytes(1000))
            assert 1000 <= batch.size_bytes <= 1100

    # --- what survives --------------------------------------------------------------------------

    def test_what_was_synced_survives_a_crash_at_every_point(self) -> None:
        """And what comes back is a state the store passed through: whole batches, in order."""
        steps = [step for at, changes in enumerate(_SOME) for step in _some_steps(at, changes)]
        for crash_at in range(len(steps) + 1):
            with self._run() as life:
                for step in steps[:crash_at]:
                    life.take(step)
                life.crash(_all_that_may_go)

    def test_a_crash_leaves_whole_batches_in_order(self) -> None:
        """The newest one is lost, in part or whole: it is not there then, and all others are."""
        for count in range(1, len(_SOME) + 1):
            with self._run() as life:
                for changes in _SOME[:count]:
                    life.write(changes)
                life.crash(_the_newest)

    def test_after_any_history_a_crash_leaves_whole_batches_in_order(self) -> None:
        """None half there, none without those before it, none of those that were synced gone."""

        def run(steps: list[Step]) -> None:
            with self._run() as life:
                for step in steps:
                    life.take(step)
                life.crash(_all_that_may_go)

        self._check(run, _writes | _writes | _syncs | _ends)

    def test_the_end_of_the_process_loses_nothing(self) -> None:
        """What was written is with the operating system, synced or not."""
        with self._run() as life:
            for changes in _SOME:
                life.write(changes)
                wanted = life.rows
                life.crash(_nothing_bad)
                assert life.rows == wanted, "a batch was still in the process when it ended"

    def test_a_close_loses_nothing(self) -> None:
        """An orderly end keeps what was written."""
        with self._run() as life:
            for changes in _SOME:
                life.write(changes)
                life.reopen()
                assert _content(life.store) == life.rows

    # --- the end --------------------------------------------------------------------------------

    def test_it_closes_only_without_views_and_refuses_afterwards(self) -> None:
        """A view would read from files that are gone."""
        with self._run() as life:
            life.write(_SOME[0])
            view = life.store.view()
            with pytest.raises(UsageError):
                life.store.close()
            assert _content(view) == _content(life.store) == life.rows, "it goes on as before"
            view.close()
            view.close()
            with pytest.raises(ClosedError):
                view.get(Space.LOG, b"a")
            life.store.close()
            life.store.close()
            for act in _calls(life.store):
                with pytest.raises(ClosedError):
                    act()
            life.store = life.bench.open()

    # --- how ------------------------------------------------------------------------------------

    @property
    def _examples(self) -> int:
        return self.examples_max or settings().max_examples

    @contextmanager
    def _run(self) -> Generator[_Run]:
        bench = self.make_bench()
        try:
            life = _Run(bench)
            yield life
            life.store.close()
        finally:
            bench.close()

    def _check(self, run: Callable[[list[Step]], None], steps: st.SearchStrategy[Step]) -> None:
        @settings(max_examples=self._examples, deadline=None)
        @given(st.lists(steps, max_size=12))
        def checked(drawn: list[Step]) -> None:
            note(f"steps: {drawn}")
            run(drawn)

        checked()


class FaultyStorageSuite(StorageSuite):
    """The same, and what a store does when its disk fails or rots."""

    @abstractmethod
    def make_bench(self) -> FaultyBench:
        """A new, empty bench; called often."""

    @pytest.mark.parametrize("writing", [True, False], ids=["write", "sync"])
    def test_after_a_failed_write_or_sync_nothing_is_served(self, writing: bool) -> None:
        """The kernel may have dropped what it could not write: a second try would only seem to do.

        The failed batch is visible perhaps, but not durable: not even reads are served.
        """
        bench = self.make_bench()
        try:
            life = _Run(bench)
            life.write(_SOME[0])
            life.sync()
            view = life.store.view()
            bench.fail(writing=writing)
            with pytest.raises(StorageFailedError):
                _write_and_sync(life)
            for act in (*_calls(life.store), lambda: view.get(Space.LOG, b"a")):
                with pytest.raises(StorageFailedError):
                    act()
            view.close()
            life.crash(_nothing_bad)
            life.write(_SOME[2])
            life.sync()
            life.crash(_all_that_may_go)
            life.store.close()
        finally:
            bench.close()

    def test_damaged_rows_are_never_served_nor_passed_over(self) -> None:
        """Whatever rots: the opening refuses, or a read does, or everything is there.

        A scan that ends early without an error is the worst of all.
        """

        def run(chosen: list[int]) -> None:
            bench, choose = self.make_bench(), _Chosen(chosen)
            try:
                life = _Run(bench)
                rows = [("put", Space.LOG, b"%03d" % n, bytes([n]) * 500) for n in range(60)]
                life.write(rows)
                life.sync()
                life.reopen()
                life.write(_SOME[0])
                life.sync()
                life.store.close()
                if not bench.damage(choose):
                    return
                try:
                    store = bench.open()
                except StorageError:
                    return
                _check_never_wrong(store, life.rows)
            finally:
                bench.close()

        @settings(max_examples=self._examples, deadline=None)
        @given(st.lists(st.integers(0, 2**16), min_size=3, max_size=3))
        def checked(chosen: list[int]) -> None:
            run(chosen)

        checked()


def _write_and_sync(life: _Run) -> None:
    life.write(_SOME[1])
    life.sync()


def _calls(store: Store) -> tuple[Callable[[], object], ...]:
    """Every call that a store has to refuse when it does not serve."""
    return (
        lambda: store.get(Space.LOG, b"a"),
        lambda: list(store.scan(Space.LOG)),
        store.batch,
        store.view,
        store.sync,
        lambda: store.reclaim(Space.LOG),
    )


def _check_never_wrong(store: Store, wanted: Rows) -> None:
    view = store.view()
    try:
        for reader in (store, view):
            for space, held in wanted.items():
                for reverse in (False, True):
                    with _damage_is_allowed():
                        shown = dict(reader.scan(space, reverse=reverse))
                        assert shown == held, "a scan ended early, or served damage, in silence"
                for key, value in held.items():
                    with _damage_is_allowed():
                        assert reader.get(space, key) == value, "a read served damage"
    finally:
        view.close()
        with suppress(StorageError):  # it may meet the damage once more
            store.close()


@contextmanager
def _damage_is_allowed() -> Generator[None]:
    with suppress(StorageCorruptError):
        yield
