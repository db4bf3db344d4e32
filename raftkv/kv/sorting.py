"""Keys of a range in another order than their own, in steps and in bounded memory.

Items arrive in key order. They are sorted in runs, which a merge puts together piece by piece, so
that a range of a million keys holds the event loop no longer than one of a thousand. With a limit
the runs are merged down to the first so many, between two steps, once they hold twice that.

What ranks equal stays in key order, whichever way is sorted. (etcd promises no order there.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from typing import Final

from raftkv.kv.model import KeyValue
from raftkv.kv.requests import SortTarget

RUN_ITEMS: Final = 1024
"""So many items are sorted in one go."""

_Rank = tuple[int, bytes]
_RANKS: Final[dict[SortTarget, Callable[[KeyValue], _Rank]]] = {
    SortTarget.KEY: lambda item: (0, item.key),
    SortTarget.VERSION: lambda item: (item.version, b""),
    SortTarget.CREATE: lambda item: (item.create_revision, b""),
    SortTarget.MOD: lambda item: (item.mod_revision, b""),
    SortTarget.VALUE: lambda item: (0, item.value),
}


class Sorter:
    """The first ``limit`` (0: all) of the items added, by ``target``."""

    __slots__ = (
        "_descending",
        "_fresh",
        "_held",
        "_held_max",
        "_last",
        "_limit",
        "_merge",
        "_merged",
        "_rank",
        "_runs",
    )

    def __init__(self, target: SortTarget, *, descending: bool, limit: int) -> None:
        self._rank = _RANKS[target]
        self._descending = descending
        self._limit = limit
        self._fresh: list[KeyValue] = []
        self._runs: list[list[KeyValue]] = []
        self._held = 0
        self._held_max = 2 * limit + min(limit, RUN_ITEMS)
        self._merge: Iterator[KeyValue] | None = None
        self._merged: list[KeyValue] = []
        self._last: _Rank | None = None

    def wants(self, item: KeyValue) -> bool:
        """Whether ``item`` may be among the first. Its value is only looked at if sorted by it."""
        if self._last is None:
            return True
        # One that ranks equal to the last of enough others comes behind it: its key is greater.
        rank = self._rank(item)
        return rank > self._last if self._descending else rank < self._last

    def add(self, item: KeyValue) -> None:
        """One more item, whose key is greater than all before."""
        self._fresh.append(item)
        self._held += 1
        if len(self._fresh) >= RUN_ITEMS:
            self._close_run()

    def settle(self, items_max: int) -> bool:
        """Before more is added: merge ``items_max`` if that is due; False while it goes on."""
        if self._merge is None and (not self._limit or self._held <= self._held_max):
            return True
        return self.finish(items_max)

    def finish(self, items_max: int) -> bool:
        """After all was added: merge ``items_max``; True once :attr:`items` is complete."""
        merging = self._merge
        if merging is None:
            merging = self._begin()
        before = len(self._merged)
        self._merged.extend(islice(merging, items_max))
        if len(self._merged) - before == items_max:
            return False
        self._merge = None
        self._runs = [self._merged]
        self._held = len(self._merged)
        if self._merged:
            self._last = self._rank(self._merged[-1])
        return True

    @property
    def held(self) -> int:
        """How many items it holds: at most four times the limit, and what one step added."""
        return self._held + (0 if self._merge is None else len(self._merged))

    @property
    def items(self) -> list[KeyValue]:
        """The first ones, in order."""
        return self._merged

    def _close_run(self) -> None:
        self._fresh.sort(key=self._rank, reverse=self._descending)
        self._runs.append(self._fresh)
        self._fresh = []

    def _begin(self) -> Iterator[KeyValue]:
        self._close_run()
        merged = merge(*self._runs, key=self._rank, reverse=self._descending)
        self._merge = islice(merged, self._limit or None)
        self._merged = []
        return self._merge
