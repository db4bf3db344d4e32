"""The suite for stores: ours pass it, and each broken store fails the test that names the rule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from raftkv.storage.memory import MemoryStore
from raftkv.testing.nodes.store import SimStore
from raftkv.testing.suites.benches import Bench, FaultyBench
from raftkv.testing.suites.storage import FaultyStorageSuite, StorageSuite
from tests.suites import stores
from tests.suites.stores import MemoryBench, RocksBench, SimBench


class TestInMemory(StorageSuite):
    examples_max = 25

    def make_bench(self) -> Bench:
        return MemoryBench()


class TestSimulated(FaultyStorageSuite):
    examples_max = 25

    def make_bench(self) -> FaultyBench:
        return SimBench()


class TestRocksDB(FaultyStorageSuite):
    examples_max = 4  # an opening costs tens of milliseconds

    def make_bench(self) -> FaultyBench:
        return RocksBench()


@pytest.fixture
def no_shrinking() -> Iterator[None]:
    """That a failure is found is enough here; cutting it down takes most of the time."""
    before = settings.get_current_profile_name()
    settings.register_profile("no shrinking", settings(), phases=[Phase.generate], database=None)
    settings.load_profile("no shrinking")
    yield
    settings.load_profile(before)


class _OfBroken(StorageSuite):
    examples_max = 200

    def __init__(self, store: type[MemoryStore]) -> None:
        self._store = store

    def make_bench(self) -> Bench:
        return MemoryBench(self._store)


class _OfBrokenOnFaultyDisk(FaultyStorageSuite):
    examples_max = 200

    def __init__(self, store: type[SimStore]) -> None:
        self._store = store

    def make_bench(self) -> FaultyBench:
        return SimBench(self._store)


@pytest.mark.usefixtures("no_shrinking")
@pytest.mark.parametrize(
    ("store", "test"),
    [
        (stores.SyncsNothing, "what_was_synced_survives_a_crash_at_every_point"),
        (stores.SyncsTheOldest, "what_was_synced_survives_a_crash_at_every_point"),
        (stores.WritesHalves, "a_crash_leaves_whole_batches_in_order"),
        (stores.SurvivesOutOfOrder, "a_crash_leaves_whole_batches_in_order"),
        (stores.KeepsInTheProcess, "the_end_of_the_process_loses_nothing"),
        (stores.ForgetsAtTheClose, "a_close_loses_nothing"),
        (stores.IncludesTheStop, "a_range_is_deleted_from_its_start_up_to_its_stop"),
        (stores.ScansTheStop, "a_scan_heeds_its_bounds_and_its_direction"),
        (stores.ScansForwardOnly, "a_scan_heeds_its_bounds_and_its_direction"),
        (stores.ScansThePresent, "a_scan_shows_the_moment_of_its_call"),
        (stores.ViewsThePresent, "a_view_is_a_frozen_moment"),
        (stores.TakesEmptyForMissing, "it_shows_what_a_dictionary_shows"),
        (stores.KeepsTheStaged, "staged_rows_take_the_place_of_the_machines"),
        (stores.AnswersTheNext, "positions_count_the_writes"),
        (stores.ClosesUnderViews, "it_closes_only_without_views_and_refuses_afterwards"),
        (stores.WeighsNothing, "a_batch_knows_its_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_broken_store_is_found_by_the_test_that_says_so(
    store: type[MemoryStore], test: str
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(_OfBroken(store), f"test_{test}")()


@pytest.mark.usefixtures("no_shrinking")
def test_a_store_that_serves_after_a_failure_is_found() -> None:
    suite = _OfBrokenOnFaultyDisk(stores.ServesAfterAFailure)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        suite.test_after_a_failed_write_or_sync_nothing_is_served(writing=False)


@pytest.mark.usefixtures("no_shrinking")
def test_a_scan_that_ends_at_damage_in_silence_is_found() -> None:
    suite = _OfBrokenOnFaultyDisk(stores.EndsShort)
    with pytest.raises(AssertionError, match="ended early"):
        suite.test_damaged_rows_are_never_served_nor_passed_over()


def test_the_failure_says_what_was_written_and_what_is_there() -> None:
    with pytest.raises(AssertionError, match=r"after the crash the store holds .* Synced was"):
        _OfBroken(stores.SyncsNothing).test_what_was_synced_survives_a_crash_at_every_point()
