"""Simulated watchers: they watch members, one after the other, and miss nothing.

Each has an account (:class:`~raftkv.testing.nodes.chronicle.WatchAccount`) that outlives members,
connections and the patience of its owner: who watches again goes on where the account stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from attrs import frozen

from raftkv.errors import CompactedError, Error
from raftkv.handle import Node
from raftkv.kv.history import Wanted
from raftkv.kv.model import Span, prefix_span
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.chronicle import Chronicle, WatchAccount
from raftkv.testing.nodes.clients import Servers
from raftkv.testing.nodes.options import Options

_ENDPOINTS: Final = 8
_END_SECONDS: Final = 60.0


@frozen(slots=True)
class _Plan:
    think_ms: int
    endpoint: int
    """Below 0: left out."""
    patience_ms: int
    pause_ms: int
    """Between two changes, for those who are slow."""
    asks_progress: bool
    is_new: bool
    wanted: Wanted
    start: int
    """From now on, from a past revision (below 0: so far back), or a future one."""


class Watcher:
    """One after the other, and again."""

    def __init__(
        self,
        name: str,
        options: Options,
        choices: Choices,
        servers: Servers,
        chronicle: Chronicle,
        marks: Counter[str],
    ) -> None:
        self.name = name
        self._options = options
        self._choices = choices
        self._servers = servers
        self._chronicle = chronicle
        self._marks = marks
        self._count = 0
        self._account: WatchAccount | None = None

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Watch after watch, until it is over."""
        while not is_over():
            plan = self._plan()
            if plan.endpoint < 0 and plan.think_ms == 1:
                return  # a shrunk record has no more for it to do
            await self._servers.sleep(plan.think_ms / 1000)
            if is_over() or plan.endpoint < 0:
                continue
            names = self._servers.reachable()
            if not names:
                continue
            name = names[plan.endpoint % len(names)]
            account = self._account
            if account is None or plan.is_new:
                account = self._account = self._begin(plan)
            else:
                self._marks["watch resumed"] += 1
            with suppress(Error):  # it ends with its member, or is not answered: watch another one
                await self._servers.ask(
                    name,
                    lambda node, account=account, plan=plan: self._watch(node, account, plan),
                    plan.patience_ms / 1000 + self._options.timeout_ms / 1000,
                )

    async def finish(self, node: Node[object]) -> None:
        """See everything that there is, on a member that is well."""
        account = self._account
        if account is None:
            return
        with anyio.fail_after(_END_SECONDS):
            while account.next <= self._chronicle.revision:
                with suppress(CompactedError):
                    await self._watch(node, account, None)

    def _plan(self) -> _Plan:
        choices, options = self._choices, self._options
        self._count += 1
        is_left_out = choices.begin("watcher", self.name, self._count)
        think = 1 + choices.choose(2 * options.think_ms)
        endpoint = choices.choose(_ENDPOINTS)
        patience = 1 + choices.choose(4 * options.election_ms)
        pause = (0, 0, 1 + options.think_ms // 4)[choices.choose(3)]
        asks_progress = choices.choose(3) == 1
        is_new = choices.choose(3) == 1
        key = b"k%02d" % choices.choose(options.keys)
        span = (Span(key, key + b"\0"), prefix_span(key[:2]), prefix_span(b""))[choices.choose(3)]
        filters = choices.choose(6)
        wanted = Wanted(span, choices.choose(2) == 1, filters != 1, filters != 2)
        start = (0, -choices.choose(30), 1 + choices.choose(5))[choices.choose(3)]
        return _Plan(
            think,
            -1 if is_left_out else endpoint,
            patience,
            pause,
            asks_progress,
            is_new,
            wanted,
            start,
        )

    def _begin(self, plan: _Plan) -> WatchAccount:
        chronicle = self._chronicle
        account = WatchAccount(f"{self.name}.{self._count}", chronicle, plan.wanted)
        self._marks["watch begun"] += 1
        if plan.start > 0:
            account.next = chronicle.revision + plan.start
        elif plan.start < 0:
            account.next = max(1, chronicle.revision + plan.start)
        return account

    async def _watch(self, node: Node[object], account: WatchAccount, plan: _Plan | None) -> None:
        """Watch a member; without a plan until everything is seen."""
        wanted, chronicle = account.wanted, self._chronicle
        acknowledged = chronicle.acknowledged
        target = 0
        try:
            async with node.kv.watch(
                wanted.span.start or None,
                b"\0" if wanted.span.stop is None else wanted.span.stop,
                start=account.next,
                previous=wanted.previous,
                puts=wanted.puts,
                deletes=wanted.deletes,
                timeout=self._options.timeout_ms / 1000,
            ) as changes:
                account.began(changes.next_revision, acknowledged)
                if plan is None or plan.asks_progress:
                    target = await changes.progress(timeout=self._options.timeout_ms / 1000)
                with anyio.move_on_after(None if plan is None else plan.patience_ms / 1000):
                    async for change in changes:
                        account.saw(change)
                        self._marks["watch change" if change.events else "watch progress"] += 1
                        if plan is None and account.next > target:
                            return
                        if plan is not None and plan.pause_ms:
                            await self._servers.sleep(plan.pause_ms / 1000)
        except CompactedError as error:
            self._marks["watch compacted"] += 1
            account.compacted(error.revision)
            raise
