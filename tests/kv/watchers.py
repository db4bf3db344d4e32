"""A hub on a member that lags behind another, and readers that collect what their watchers give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve

from raftkv.errors import CompactedError
from raftkv.kv.client.hub import Hub, Limits
from raftkv.kv.history import Wanted, event_bytes
from raftkv.kv.model import Change, KeyEvent
from raftkv.kv.reader import read_head
from raftkv.kv.requests import KvCommand
from raftkv.kv.settings import KvSettings
from raftkv.runtime.system import system_runtime
from tests.kv.model.naive import Model
from tests.kv.rig import memory_rig, slices

TINY = Limits(
    buffers_bytes=3_000,
    live_events=4,
    live_bytes=3_000,
    step_events=2,
    step_bytes=1_500,
    page_events=3,
    page_bytes=2_000,
    page_revisions=2,
    page_made_bytes=1_000,
    pages=2,
)
"""Everything that happens at a bound happens within a few commands."""

NARROW = KvSettings(watch_buffer_revisions_max=3, watch_buffer_bytes_max=2_000, watchers_max=50)


_READS_MAX = 10_000


class Member:
    """A follower with a hub: commands reach it in slices, or an image takes their place."""

    def __init__(
        self,
        settings: KvSettings = NARROW,
        limits: Limits | None = TINY,
        *,
        is_alone: bool = False,
    ) -> None:
        self.model = Model()
        self.leader = None if is_alone else memory_rig()
        self.rig = memory_rig()
        self.pending: list[KvCommand] = []
        self._settings = settings
        self._limits = limits
        self.hub = Hub(self.rig.machine, settings, system_runtime(), limits)

    def propose(self, *commands: KvCommand) -> None:
        for command in commands:
            self.model.apply(command)
        if self.leader is not None:
            self.leader.apply(commands)
        self.pending += commands

    def apply(self, sizes: Iterable[int] = (512,)) -> None:
        """Everything proposed, in slices; the hub is told of each once it is written."""
        for part in slices(self.pending, sizes):
            self.rig.apply(part)
            self.hub.rows_written()
        self.pending.clear()

    def do(self, *commands: KvCommand, slice_commands: int = 512) -> None:
        self.propose(*commands)
        self.apply([slice_commands])

    def install(self) -> None:
        """The leader's image instead of what is pending."""
        assert self.leader is not None
        self.rig.install(self.leader.image())
        self.rig.index = self.leader.index
        self.hub.rows_written()
        self.pending.clear()

    def restart(self) -> None:
        self.hub.ended()
        self.rig.restart()
        self.hub = Hub(self.rig.machine, self._settings, system_runtime(), self._limits)

    @property
    def revision(self) -> int:
        return read_head(self.rig.store).revision


class Collector:
    """Reads one watcher, as fast or slowly as it is told to, and watches again after a restart."""

    def __init__(self, member: Member, wanted: Wanted, start: int) -> None:
        self._member = member
        self.wanted = wanted
        self.got: list[Change] = []
        self.start = self.next_revision = start or member.revision + 1
        self.compacted: int | None = None
        self.watcher = member.hub.watch(wanted, start)

    def read(self) -> bool:
        """One Change, or one step; False if there is nothing to do but wait."""
        watcher = self.watcher
        change = watcher.take()
        if change is not None:
            self.got.append(change)
            behind = change.revision if change.is_fragment else change.revision + 1
            self.next_revision = max(self.next_revision, behind)
            return True
        if watcher.is_synced or watcher.failure is not None:
            return False
        watcher.step()
        return True

    def drain(self) -> Collector:
        reads = 0
        while self.read():
            reads += 1
            assert reads < _READS_MAX, "it reads and reads, and comes to no end"
        failure = self.watcher.failure
        if failure is not None:
            assert isinstance(failure, CompactedError)
            self.compacted = failure.revision
            self.drop_open()
        return self

    def again(self) -> None:
        """Close, and go on where that was."""
        self.watcher.close()
        self.drop_open()
        try:
            self.watcher = self._member.hub.watch(self.wanted, self.next_revision)
        except CompactedError as error:
            self.compacted = error.revision

    def drop_open(self) -> None:
        """Forget a revision that came in part: it comes again, whole, or not at all."""
        if self.got and self.got[-1].is_fragment:
            last = self.got[-1].revision
            self.got = [one for one in self.got if not one.events or one.revision < last]

    @property
    def changes(self) -> list[Change]:
        """What came, without marks, the pieces of each revision put together."""
        whole: list[Change] = []
        is_open = False
        for change in self.got:
            if not change.events:
                continue
            if is_open:
                assert change.revision == whole[-1].revision
                whole[-1] = Change(change.revision, whole[-1].events + change.events)
            else:
                whole.append(Change(change.revision, change.events))
            is_open = change.is_fragment
        assert not is_open
        return whole

    def check(self) -> None:
        """Everything came that has to, in order, once; marks were never ahead."""
        model, wanted = self._member.model, self.wanted
        expected = expected_changes(model, wanted, self.start)
        if self.compacted is not None:
            assert self.next_revision < self.compacted <= model.floor
            expected = [one for one in expected if one.revision < self.next_revision]
        got = self.changes
        assert [without_previous(one) for one in got] == [without_previous(one) for one in expected]
        for mine, right in zip(got, expected, strict=True):
            for event, whole in zip(mine.events, right.events, strict=True):
                if event.previous is None and mine.revision <= model.floor:
                    continue  # compaction may have taken it
                assert event.previous == (whole.previous if wanted.previous else None)
        check_marks(self.got)
        for one in self.got:
            if wanted.fragment_bytes and len(one.events) > 1:
                assert sum(map(event_bytes, one.events)) <= wanted.fragment_bytes


def expected_changes(model: Model, wanted: Wanted, start: int) -> list[Change]:
    """What happened from ``start`` on, as if nothing had been compacted."""
    floor, model.floor = model.floor, 0
    try:
        found = model.watch(
            wanted.span, start, previous=True, puts=wanted.puts, deletes=wanted.deletes
        )
    finally:
        model.floor = floor
    assert isinstance(found, list)
    return found


def without_previous(change: Change) -> Change:
    return Change(change.revision, tuple(_bare(event) for event in change.events))


def _bare(event: KeyEvent) -> KeyEvent:
    return evolve(event, previous=None)


def check_marks(got: Sequence[Change]) -> None:
    """Behind a mark nothing comes that it covers (I37), and revisions ascend (I32, I33)."""
    marked = last = 0
    for change in got:
        if change.events:
            assert change.revision > marked
            assert change.revision >= last
            last = change.revision
        else:
            assert change.revision >= last
            marked = change.revision
