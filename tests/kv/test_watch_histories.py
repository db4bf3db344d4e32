"""Watchers: whatever becomes of them, what they give is the store's history (I32 to I40).

The oracle is a list of what each revision did; every bound is so low that it is met all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CompactedError
from raftkv.kv.client.hub import Limits
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING, Span, prefix_span
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

# Few keys, and commands that do something: they are to meet each other.
some_keys = st.sampled_from([b"a", b"ab", b"b"])
some_puts = st.builds(Put, some_keys, st.sampled_from([b"1", b"2", b"v" * 900]))
wanted_spans = st.sampled_from(
    [EVERYTHING, Span(b"a", b"a\0"), prefix_span(b"a"), Span(b"ab", None), Span(b"a", b"b")]
)
asked = st.builds(
    Wanted,
    wanted_spans,
    st.booleans(),
    st.sampled_from([True, True, False]),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0, 0, 600]),
)
some_txns = st.lists(some_puts, min_size=2, max_size=3, unique_by=lambda put: put.key).map(
    lambda puts: Txn(then=tuple(puts))
)
changes: st.SearchStrategy[KvCommand] = st.one_of(
    some_puts,
    some_puts,
    some_puts,
    some_txns,
    some_txns,
    st.builds(DeleteOne, some_keys),
    st.builds(DeleteSpan, wanted_spans),
)
parts = st.lists(changes, min_size=3, max_size=8)
places = st.integers(0, 7)

Step: TypeAlias = Callable[["Story"], None]


class Story:
    """Readers of any speed on a member that lags, is compacted, restarted and given images."""

    def __init__(self) -> None:
        self.member = Member()
        self.member.do(Put(b"a", b"1"), Put(b"ab", b"2"), Put(b"b", b"3"))
        self.readers: list[Collector] = []
        self.past: list[Collector] = []

    def watch(self, wanted: Wanted, back: int) -> None:
        start = max(1, self.member.revision + 1 - back) if back else 0
        try:
            self.readers.append(Collector(self.member, wanted, start))
        except CompactedError:
            assert start < self.member.model.floor

    def read(self, which: int, times: int) -> None:
        if self.readers:
            reader = self.readers[which % len(self.readers)]
            for _ in range(times):
                reader.read()

    def reconnect(self, which: int) -> None:
        if self.readers:
            self.readers[which % len(self.readers)].again()
            self.retire()

    def restart(self) -> None:
        self.member.restart()
        for reader in self.readers:
            reader.again()
        self.retire()

    def mark(self) -> None:
        for reader in self.readers:
            reader.watcher.ask_mark()

    def compact(self, back: int) -> None:
        self.member.propose(Compact(max(0, self.member.model.revision - back)), Sweep(1 + back))

    def retire(self) -> None:
        self.past += [one for one in self.readers if one.compacted is not None]
        self.readers = [one for one in self.readers if one.compacted is None]

    def end(self) -> None:
        self.member.apply()
        hub = self.member.hub
        for reader in self.readers:
            reader.drain()
        for reader in (*self.past, *self.readers):
            reader.check()
        assert hub.buffered_bytes == 0
        assert hub.behind == sum(one.compacted is not None for one in self.readers)
        for reader in self.readers:
            reader.watcher.close()
        assert hub.count == 0


def doing(given: list[KvCommand], size: int) -> Step:
    return lambda story: story.member.do(*given, slice_commands=size)


def proposing(given: list[KvCommand]) -> Step:
    return lambda story: story.member.propose(*given)


def watching(wanted: Wanted, back: int) -> Step:
    return lambda story: story.watch(wanted, back)


def reading(which: int, times: int) -> Step:
    return lambda story: story.read(which, times)


def compacting(back: int) -> Step:
    return lambda story: story.compact(back)


def reconnecting(which: int) -> Step:
    return lambda story: story.reconnect(which)


def installing(story: Story) -> None:
    story.member.install()


does = st.builds(doing, parts, st.integers(1, 6))
watches = st.builds(watching, asked, st.integers(-3, 9))
reads = st.builds(reading, places, st.integers(1, 4))
steps: st.SearchStrategy[Step] = st.one_of(
    does, does, does, does, watches, reads, reads, reads,
    st.builds(proposing, parts),
    st.builds(compacting, st.integers(0, 8)),
    st.just(Story.mark),
    st.builds(reconnecting, places),
    st.sampled_from([installing, Story.restart]),
)  # fmt: skip


@settings(max_examples=max(50, settings().max_examples // 2))
@given(watches, st.lists(steps, min_size=20, max_size=40))
def test_whatever_happens_watchers_give_the_history(first: Step, then: list[Step]) -> None:
    story = Story()
    for step in (first, *then):
        step(story)
    story.end()


# --- every order of a few steps -----------------------------------------------------------------

STEPS = "PQDCRX"
"""Put a, put b, delete a, compact at the newest revision, read once, reconnect."""
LENGTH = 6


def is_meant(steps: str) -> bool:
    """Whether every step can do something where it stands."""
    has_a = False
    new = 0  # revisions that were not compacted
    for number, step in enumerate(steps):
        match step:
            case "D" if not has_a:
                return False
            case "C" if not new:
                return False
            case "X" if number == 0 or steps[number - 1] == "X":
                return False
            case "R" if number in (0, LENGTH - 1):
                return False  # in the end everything is read
            case _:
                has_a = step == "P" or (has_a and step != "D")
                new = 0 if step == "C" else new + (step in "PQD")
    return True


def histories() -> Iterator[str]:
    """Every one that means something."""
    for steps in product(STEPS, repeat=LENGTH):
        if is_meant("".join(steps)):
            yield "".join(steps)


def play(steps: str, subscribe: int) -> None:
    """The same for a reader of everything and one of one key, which begin before that step."""
    settings = KvSettings(watch_buffer_revisions_max=1)
    member = Member(settings, Limits(page_revisions=1), is_alone=True)
    readers: list[Collector] = []
    for number, step in enumerate(steps):
        if number == subscribe:
            floor = max(1, member.model.floor)
            readers = [Collector(member, ALL, floor), Collector(member, ONE, 0)]
        match step:
            case "P":
                member.do(Put(b"a", b"%d" % number))
            case "Q":
                member.do(Put(b"b", b"%d" % number))
            case "D":
                member.do(DeleteOne(b"a"))
            case "C":
                member.do(Compact(member.model.revision), Sweep(100))
            case "R":
                for reader in readers:
                    reader.read()
            case _:
                for reader in readers:
                    reader.again()
                readers = [one for one in readers if one.compacted is None]
    for reader in readers:
        reader.drain().check()


def test_every_order_of_a_few_steps_gives_the_history() -> None:
    count = 0
    for steps in histories():
        play(steps, count % 3)
        count += 1
    assert count > 4_000
