"""Watchers of one member, one rule each: what they are handed, read from history, or are told."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from raftkv.errors import CompactedError, InvariantError, TooManyRequestsError
from raftkv.kv.client.hub import Limits
from raftkv.kv.history import FRAGMENT_BYTES_MAX, Wanted, read_page
from raftkv.kv.model import EVERYTHING, EventKind, Span, prefix_span
from raftkv.kv.requests import (
    Compact,
    DeleteOne,
    DeleteSpan,
    KvCommand,
    Put,
    Sweep,
    Txn,
)
from raftkv.kv.settings import KvSettings
from tests.kv.watchers import Collector, Member

ALL = Wanted(EVERYTHING)
ONE = Wanted(Span(b"a", b"a\0"))


def puts(*keys: bytes) -> list[KvCommand]:
    return [Put(key, b"v") for key in keys]


def revisions(reader: Collector) -> list[int]:
    return [change.revision for change in reader.got]


def test_a_watch_from_now_shows_nothing_of_before_and_everything_after() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"a"))
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a"))
    assert revisions(reader.drain()) == [4]


def test_a_watch_from_the_newest_revision_shows_it() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"a"))
    reader = Collector(member, ALL, 3).drain()
    member.do(*puts(b"a"))
    assert revisions(reader.drain()) == [3, 4]


def test_a_start_in_the_future_waits_for_it() -> None:
    member = Member(limits=None)
    reader = Collector(member, ALL, 4)
    assert reader.watcher.is_synced
    reader.watcher.ask_mark()
    member.do(*puts(b"a", b"a", b"a", b"a"))
    assert revisions(reader.drain()) == [1, 4, 5]  # the first is the mark


def test_a_start_in_the_future_is_kept_by_a_watcher_that_falls_behind_before_it() -> None:
    member = Member()
    reader = Collector(member, ALL, 8)
    member.do(*puts(*[b"a"] * 5))  # more than is handed out at once
    assert not reader.watcher.is_synced
    member.do(*puts(b"a", b"b"))
    assert revisions(reader.drain()) == [8]


def test_what_is_applied_and_not_written_is_shown_to_nobody() -> None:
    member = Member(limits=None)
    reader = Collector(member, ALL, 2)
    written = member.rig.store.write
    seen: list[int] = []

    def write(batch: object) -> int:
        # As while the store stalls: the machine is ahead of its rows, and readers run.
        reader.drain()
        seen.append(len(reader.got))
        Collector(member, ALL, 0).watcher.close()
        return written(batch)  # pyright: ignore[reportArgumentType] - it came from the store

    member.rig.store.write = write
    member.do(*puts(b"a", b"a"), slice_commands=1)
    assert seen == [0, 1]
    assert revisions(reader.drain()) == [2, 3]


def test_a_revision_is_one_change_whatever_a_transaction_did() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"b"))
    reader = Collector(member, Wanted(EVERYTHING, previous=True), 0)
    member.do(Txn(then=(Put(b"c", b"1"), DeleteOne(b"a"), Put(b"b", b"2"))))
    member.do(DeleteSpan(EVERYTHING))
    first, second = reader.drain().changes
    assert [(event.kind, event.kv.key) for event in first.events] == [
        (EventKind.PUT, b"c"),
        (EventKind.DELETE, b"a"),
        (EventKind.PUT, b"b"),
    ]
    assert [event.is_create for event in first.events] == [True, False, False]
    assert [event.kv.key for event in second.events] == [b"b", b"c"]
    reader.check()


def test_a_start_below_the_floor_is_refused_with_the_revision_to_resume_from() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"a", b"a"), DeleteOne(b"a"), Compact(5))
    for start in (1, 4):
        with pytest.raises(CompactedError) as caught:
            member.hub.watch(ALL, start)
        assert caught.value.revision == 5
    assert member.hub.count == 0


def test_a_delete_at_the_floor_is_shown_whether_or_not_the_sweep_has_passed() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"a", b"a"), DeleteOne(b"a"), Compact(5))
    for _ in range(2):
        reader = Collector(member, Wanted(EVERYTHING, previous=True), 5)
        ((kind, previous),) = [(one.kind, one.previous) for one in reader.drain().got[0].events]
        assert (kind, previous) == (EventKind.DELETE, None)
        member.do(Sweep(100))


def test_a_reader_that_compaction_overtakes_hears_where_to_resume() -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=2), Limits())
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a", b"a", b"a"), slice_commands=1)
    member.do(Compact(4), Sweep(100))
    reader.drain()
    assert reader.compacted == 4
    assert reader.got == []
    reader.check()
    resumed = Collector(member, ALL, 4).drain()
    assert revisions(resumed) == [4]


def test_a_reader_that_keeps_up_loses_nothing_to_a_compaction_in_the_same_slice() -> None:
    member = Member(limits=None)
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a", b"a", b"a"), Compact(4))
    assert revisions(reader.drain()) == [2, 3, 4]
    reader.check()


def test_what_was_written_compacted_and_swept_in_one_slice_is_told_as_compacted() -> None:
    member = Member(limits=None)
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a", b"a", b"a"), Compact(4), Sweep(2))
    reader.drain()
    assert (reader.got, reader.compacted) == ([], 4)


def test_a_slow_reader_holds_nothing_and_loses_nothing() -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=5), Limits())
    slow, quick = Collector(member, ALL, 0), Collector(member, ALL, 0)
    for _ in range(20):
        member.do(*puts(b"a"))
        quick.drain()
    assert slow.watcher.queued == member.hub.buffered_bytes == 0
    assert member.hub.behind == 1
    assert slow.drain().got == quick.got
    assert member.hub.behind == 0


def test_a_slow_reader_takes_nothing_from_a_fast_one_of_the_same_keys() -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=4), Limits())
    fast, slow, slower, slowest = (Collector(member, ALL, 0) for _ in range(4))
    for number in range(20):
        member.do(*puts(b"a"))
        assert fast.watcher.is_synced
        fast.drain()
        if number == 2:
            assert slow.read()
            assert slow.read()
            assert slower.read()
        if number == 4:
            # Who leaves half of the log free may go on; who does not, makes room.
            synced = [one.watcher.is_synced for one in (slow, slower, slowest)]
            assert synced == [True, False, False]
    for reader in (fast, slow, slower, slowest):
        reader.drain().check()
        assert reader.watcher.is_synced
    assert member.hub.buffered_bytes == 0


def test_what_waits_for_many_takes_the_room_of_one() -> None:
    member = Member(KvSettings(), Limits())
    readers = [Collector(member, ALL, 0)]
    member.do(*puts(b"a"))
    alone = member.hub.buffered_bytes
    assert alone
    readers[0].drain()
    readers += [Collector(member, ALL, 0) for _ in range(9)]
    member.do(*puts(b"a"))
    assert member.hub.buffered_bytes == alone
    for reader in readers:
        assert member.hub.buffered_bytes == alone
        assert reader.drain().got
    assert member.hub.buffered_bytes == 0


def test_a_reader_of_large_values_falls_behind_by_bytes() -> None:
    member = Member(KvSettings(watch_buffer_bytes_max=10_000), Limits())
    reader = Collector(member, ALL, 0)
    for number in range(20):
        member.do(Put(b"a", b"%d" % number * 1_000))
    assert not reader.watcher.is_synced
    reader.drain().check()


def test_all_readers_together_hold_no_more_than_there_is_room() -> None:
    member = Member(KvSettings(), Limits(buffers_bytes=20_000))
    readers = [Collector(member, ALL, 0) for _ in range(20)]
    for number in range(30):
        member.do(Put(b"a", b"%d" % number * 500))
        assert member.hub.buffered_bytes <= 20_000
    for reader in readers:
        reader.drain().check()


def test_a_revision_of_megabytes_comes_in_pieces_where_that_was_asked_for() -> None:
    def pieces(reader: Collector) -> list[tuple[int, bool]]:
        return [(len(change.events), change.is_fragment) for change in reader.drain().got]

    member = Member(KvSettings(), Limits())
    for key in range(8):
        member.do(Put(b"%d" % key, b"v" * 500_000))
    fragments = Wanted(EVERYTHING, previous=True, fragment_bytes=FRAGMENT_BYTES_MAX)
    live, whole = Collector(member, fragments, 0), Collector(member, Wanted(EVERYTHING, True), 0)
    member.do(DeleteSpan(prefix_span(b"")))
    assert pieces(live) == [(3, True), (3, True), (2, False)]
    assert pieces(whole) == [(8, False)]
    assert pieces(Collector(member, fragments, 10)) == [(3, True), (3, True), (2, False)]
    for reader in (live, whole):
        reader.check()


def test_a_reader_that_falls_behind_amid_the_pieces_of_a_revision_goes_on_behind_them() -> None:
    member = Member(KvSettings(watch_buffer_bytes_max=8_000_000), Limits())
    for key in range(8):
        member.do(Put(b"%d" % key, b"v" * 500_000))
    reader = Collector(
        member, Wanted(EVERYTHING, previous=True, fragment_bytes=FRAGMENT_BYTES_MAX), 0
    )
    member.do(DeleteSpan(prefix_span(b"")))
    reader.read()
    for number in range(9):
        member.do(Put(b"x", b"%d" % number * 1_000_000))
    assert not reader.watcher.is_synced
    assert [len(change.events) for change in reader.drain().got[:3]] == [3, 3, 2]
    reader.check()


PAIRS = Wanted(EVERYTHING, fragment_bytes=2 * 257)
"""Pieces of two events of small keys."""


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("is_late", [False, True], ids=["from the log", "from history"])
def test_pieces_taken_of_a_revision_are_not_counted_against_another(
    pieces: int, is_late: bool
) -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=3), Limits())
    member.do(*puts(b"a", b"b", b"c", b"d", b"e", b"f"))
    start = 0 if not is_late else member.revision + 1
    reader = None if is_late else Collector(member, PAIRS, start)
    member.do(DeleteSpan(prefix_span(b"")))
    if reader is None:
        reader = Collector(member, PAIRS, start)
        reader.watcher.step()
    assert reader.watcher.is_synced
    assert reader.watcher.queued == 3
    for _ in range(pieces):
        assert reader.read()
    member.do(DeleteOne(b"x"), *puts(b"a", b"b", b"c", b"d"))
    assert not reader.watcher.is_synced
    reader.drain().check()


def test_a_revision_of_many_rows_of_history_is_one_change() -> None:
    member = Member(KvSettings(), Limits(page_events=1), is_alone=True)
    names = [b"key %d of many" % number * 16 for number in range(300)]
    member.do(*puts(*names))
    live = Collector(member, ALL, 0)
    member.do(DeleteSpan(EVERYTHING))
    late = Collector(member, ALL, 302)
    assert len(read_page(member.rig.store, (302, 0), 303, floor=0, events_max=1).events) < 300
    for reader in (live, late):
        assert [len(change.events) for change in reader.drain().got] == [300]
        reader.check()
    part = Collector(member, Wanted(EVERYTHING, fragment_bytes=10_000), 302)
    assert sum(len(change.events) for change in part.drain().got) == 300
    part.check()


def test_a_slice_with_too_much_to_hand_out_is_read_from_history_by_whom_it_concerns() -> None:
    member = Member(KvSettings(), Limits(live_bytes=3_000))
    member.do(Put(b"a", b"v" * 4_000), Put(b"b", b"v"))
    first, second = Collector(member, Wanted(ONE.span, previous=True), 0), Collector(member, ALL, 0)
    member.do(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"3"))
    assert not first.watcher.is_synced
    for reader in (first, second):
        reader.drain().check()
    assert [revisions(first), revisions(second)] == [[4, 5], [4, 5, 6]]


def test_a_mark_comes_behind_everything_it_covers() -> None:
    member = Member(limits=None)
    reader = Collector(member, ONE, 0)
    member.do(*puts(b"a", b"b"))
    reader.watcher.ask_mark()
    reader.watcher.ask_mark()  # one mark is enough
    member.do(*puts(b"b", b"a"))
    assert [(one.revision, bool(one.events)) for one in reader.drain().got] == [
        (2, True),
        (3, False),
        (5, True),
    ]


def test_a_mark_asked_for_while_one_waits_amid_what_is_queued_comes_too() -> None:
    member = Member(limits=None)
    reader = Collector(member, ONE, 0)
    for _ in range(3):
        member.do(*puts(b"a"))
        reader.watcher.ask_mark()
    assert reader.watcher.queued == 4
    assert [(one.revision, bool(one.events)) for one in reader.drain().got] == [
        (2, True),
        (2, False),
        (3, True),
        (4, True),
        (4, False),
    ]


def test_a_mark_asked_of_a_reader_that_is_behind_waits_until_it_is_not() -> None:
    member = Member(limits=None)
    member.do(*puts(b"a", b"a", b"b"))
    reader = Collector(member, ONE, 2)
    reader.watcher.ask_mark()
    assert [(one.revision, bool(one.events)) for one in reader.drain().got] == [
        (2, True),
        (3, True),
        (4, False),
    ]


def test_a_mark_that_is_dropped_with_a_full_queue_comes_later() -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=1), Limits())
    reader = Collector(member, ONE, 0)
    member.do(*puts(b"a"))
    reader.watcher.ask_mark()
    member.do(*puts(b"a"))
    assert [(one.revision, bool(one.events)) for one in reader.drain().got] == [
        (2, True),
        (3, True),
        (3, False),
    ]


def test_an_image_takes_watchers_on_from_their_own_revision_or_tells_them_it_cannot() -> None:
    member = Member(KvSettings(), Limits(live_events=2))
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a"))
    member.propose(*puts(b"a", b"b", b"c"))
    member.install()
    assert revisions(reader.drain()) == [2, 3, 4, 5]
    reader.check()
    late = Collector(member, ALL, 0)
    member.propose(*puts(b"a", b"b", b"c"), Compact(8))
    member.install()
    late.drain()
    assert (late.got, late.compacted) == ([], 8)


def test_a_store_that_goes_back_is_noticed() -> None:
    member, older = Member(limits=None), Member(limits=None)
    older.do(*puts(b"a"))
    Collector(member, ALL, 0)
    member.do(*puts(b"a", b"a"))
    member.leader = older.leader
    with pytest.raises(InvariantError, match="I38"):
        member.install()


def test_there_are_no_more_watchers_than_the_settings_allow() -> None:
    member = Member(KvSettings(watchers_max=2))
    first, _ = Collector(member, ALL, 0), Collector(member, ALL, 0)
    with pytest.raises(TooManyRequestsError):
        member.hub.watch(ALL, 0)
    first.watcher.close()
    first.watcher.close()
    Collector(member, ALL, 0)
    assert member.hub.count == 2


def test_watchers_of_the_same_keys_share_the_changes_and_readers_of_the_past_the_pages() -> None:
    member = Member(KvSettings(), Limits())
    readers = [Collector(member, Wanted(prefix_span(b"a")), 0) for _ in range(3)]
    member.do(*puts(b"a1", b"b"))
    shared = [reader.drain().got[0] for reader in readers]
    assert all(one is shared[0] for one in shared)
    late = [Collector(member, Wanted(span), 2) for span in (EVERYTHING, prefix_span(b"a"))]
    events = [reader.drain().got[0].events[0] for reader in late]
    assert events[0] is events[1]


def test_a_closed_watcher_gives_nothing_more() -> None:
    member = Member(limits=None)
    reader = Collector(member, ALL, 0)
    member.do(*puts(b"a"))
    reader.watcher.close()
    reader.watcher.ask_mark()
    reader.watcher.step()
    assert reader.watcher.take() is None
    assert member.hub.buffered_bytes == 0
    member.do(*puts(b"a"))
    assert reader.watcher.take() is None


class Reader:
    """A reader that parks at a watcher, and again whenever it was woken and found nothing more."""

    def __init__(self, member: Member, wanted: Wanted) -> None:
        self.watcher = member.hub.watch(wanted, 0)
        self.is_woken = False
        self.wakes = 0
        self.watcher.park(self)

    def set_result(self, _value: object, /) -> None:
        assert not self.is_woken
        self.is_woken = True
        self.wakes += 1

    def set_exception(self, error: BaseException, /) -> None:
        raise error

    def done(self) -> bool:
        return self.is_woken

    def __await__(self) -> Generator[object, None, object]:
        raise AssertionError("nobody awaits it")

    def run(self) -> None:
        """What is there is taken; then it waits again."""
        assert self.is_woken
        self.is_woken = False
        self.watcher.unpark()
        while self.watcher.take() is not None or not self.watcher.is_synced:
            self.watcher.step()
        self.watcher.park(self)


def test_a_reader_is_woken_once_there_is_something_to_take_or_to_do() -> None:
    member = Member(KvSettings(watch_buffer_revisions_max=1), Limits())
    every, one = Reader(member, ALL), Reader(member, ONE)
    member.do(*puts(b"b"))
    assert (every.wakes, one.wakes) == (1, 0)
    member.do(*puts(b"b", b"b"))
    assert not every.watcher.is_synced  # it was woken already: it goes on in history
    every.run()
    member.do(Put(b"b", b"v" * 2_000_000))  # more than a log may hold: to go on in history
    assert (every.wakes, one.wakes) == (2, 0)
    every.run()
    one.watcher.ask_mark()
    assert (every.wakes, one.wakes) == (2, 1)
    one.run()
    member.hub.ended()
    assert (every.wakes, one.wakes) == (3, 2)
