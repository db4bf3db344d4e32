"""What the leader does for the store beside the leases: compact by itself, and sweep behind it.

Every member has this task, and the leader's works. That two work for a moment, or one stops amid
its work, does no harm: what they propose is done once, or refused.

By revisions (``history_revisions``) it compacts whenever a tenth more than those are kept. By time
(``history_seconds``) it remembers the revision ten times in such a span and compacts at the one
that is old enough: a new leader begins to remember anew, so that more than asked is kept for as
long (etcd does the same). What compaction made superfluous is removed some at a time, with a pause
as long as that took in between, so that it takes half of what there is at most.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from raftkv.errors import OutcomeUnknownError, UnavailableError
from raftkv.kv.client.base import Replica
from raftkv.kv.commands import encode
from raftkv.kv.compaction import unswept
from raftkv.kv.machine import KvMachine
from raftkv.kv.reader import read_head
from raftkv.kv.requests import Compact, Sweep
from raftkv.kv.settings import KvSettings

_log = logging.getLogger("raftkv.kv")

_PERIOD_TICKS: Final = 10  # nothing here is urgent, and idle members should be idle
_PARTS: Final = 10  # of a history: so exactly its length is kept


class Chores:
    """One member's chores. To be run as a companion of the node."""

    def __init__(self, node: Replica, machine: KvMachine, settings: KvSettings) -> None:
        self._node = node
        self._machine = machine
        self._settings = settings
        self._clock = node.runtime.clock
        tick_ns = node.settings.tick_ns
        self._period_ns = _PERIOD_TICKS * tick_ns
        self._patience = 2 * node.settings.election_ticks * tick_ns / 1e9
        self._history_ns = round(settings.history_seconds * 1e9)
        self._remembered: deque[tuple[int, int]] = deque()  # when, and which revision it was then
        self._term = 0

    async def run(self) -> None:
        """Work whenever this member leads; never returns by itself."""
        clock = self._clock
        while True:
            await clock.sleep_until(clock.monotonic_ns() + self._period_ns)
            term = self._node.leading
            if term != self._term:
                self._term = term
                self._remembered.clear()
            if not term:
                continue
            try:
                await self._compact()
                while self._node.leading == term and unswept(self._machine.store):
                    began = clock.monotonic_ns()
                    await self._propose(Sweep(self._settings.sweep_events))
                    now = clock.monotonic_ns()
                    await clock.sleep_until(2 * now - began)
            except (UnavailableError, OutcomeUnknownError) as error:
                _log.debug("the chores of the store are tried again: %s", error)

    async def _propose(self, command: Compact | Sweep) -> None:
        await self._node.propose(encode(command), timeout=self._patience)

    async def _compact(self) -> None:
        head = read_head(self._machine.store)
        floor = 0
        if self._settings.history_revisions:
            kept = self._settings.history_revisions
            if head.revision - head.floor > kept + kept // _PARTS:
                floor = head.revision - kept
        elif self._history_ns:
            floor = self._remember(head.revision)
        if floor > head.floor:
            _log.info("compacting at revision %d", floor)
            await self._propose(Compact(floor))

    def _remember(self, revision: int) -> int:
        """Take down where the store stands; return the newest revision that is old enough, or 0."""
        now, remembered = self._clock.monotonic_ns(), self._remembered
        if not remembered or now - remembered[-1][0] >= self._history_ns // _PARTS:
            remembered.append((now, revision))
        old = 0
        while remembered and now - remembered[0][0] >= self._history_ns:
            old = remembered.popleft()[1]
        return old
