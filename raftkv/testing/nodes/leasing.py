"""Simulated holders of leases, and who compacts: what they are told is held against what happens.

The keys of leases are theirs alone, so that only the end of a lease deletes them. How leases end by
their time nobody asks for, and the history of the run still needs a cause: so a lease that is
granted is there an operation of its own, a revocation of which nobody hears.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from attrs import frozen

from raftkv.errors import Error, LeaseNotFoundError
from raftkv.handle import Node
from raftkv.kv.model import LeaseResult
from raftkv.kv.requests import Grant, Revoke
from raftkv.testing.choices import Choices
from raftkv.testing.histories.kv import KvHistory, Put, PutResult
from raftkv.testing.invariants import broken
from raftkv.testing.nodes.chronicle import Chronicle, LeaseAccount
from raftkv.testing.nodes.clients import Servers
from raftkv.testing.nodes.options import Options

_ENDPOINTS: Final = 8
_TTLS: Final = (1, 2, 5)
_KEYS: Final = 4


@frozen(slots=True)
class _Renew:
    lease: int


_Ask: TypeAlias = Grant | Revoke | Put | _Renew


class Holder:
    """Holds one lease after the other: puts keys with it, renews it, revokes it or lets it be."""

    def __init__(
        self,
        number: int,
        options: Options,
        choices: Choices,
        servers: Servers,
        history: KvHistory,
        chronicle: Chronicle,
        marks: Counter[str],
    ) -> None:
        self.name = f"l{number}"
        self.accounts: dict[int, LeaseAccount] = {}
        self._first_id = number * 1_000_000
        self._options = options
        self._choices = choices
        self._servers = servers
        self._history = history
        self._chronicle = chronicle
        self._marks = marks
        self._count = 0
        self._held = 0

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Step after step, until it is over."""
        while not is_over():
            self._count += 1
            choices = self._choices
            is_left_out = choices.begin("holder", self.name, self._count)
            think = 1 + choices.choose(4 * self._options.think_ms)
            asked, endpoint = self._draw(), choices.choose(_ENDPOINTS)
            if is_left_out and think == 1:
                return  # a shrunk record has no more for it to do
            await self._servers.sleep(think / 1000)
            names = self._servers.reachable()
            if not is_over() and not is_left_out and names:
                await self._do(asked, names[endpoint % len(names)])

    def _draw(self) -> _Ask:
        choices = self._choices
        kind = choices.weighted((6, 6, 2, 1))
        ttl = _TTLS[choices.choose(len(_TTLS))]
        key = b"%s/%d" % (self.name.encode(), choices.choose(_KEYS))
        if not self._held or kind == 3:
            return Grant(self._first_id + self._count, ttl)
        if kind == 0:
            return _Renew(self._held)
        if kind == 1:
            return Put(key, b"%s-%d" % (self.name.encode(), self._count), lease=self._held)
        return Revoke(self._held)

    async def _do(self, asked: _Ask, name: str) -> None:
        try:
            match asked:
                case Grant(lease, ttl):
                    await self._grant(lease, ttl, name)
                case _Renew(lease):
                    await self._renew(lease, name)
                case Put():
                    await self._put(asked, name)
                case Revoke(lease):
                    await self._revoke(lease, name)
        except LeaseNotFoundError:
            self._marks["lease lost"] += 1
            self._held = 0
        except Error:
            self._marks["lease: no answer"] += 1

    async def _grant(self, lease: int, ttl: int, name: str) -> None:
        # Whatever becomes of it, it may end some time, and take what it has with it.
        self._history.call(self.name, Revoke(lease))
        self._held, seconds = lease, self._seconds
        account = self.accounts[lease] = LeaseAccount(lease, ttl)
        asked_ns = self._chronicle.now_ns

        async def grant(node: Node[object]) -> LeaseResult:
            return await node.kv.grant(ttl, id=lease, timeout=seconds)

        granted = await self._servers.ask(name, grant, seconds + 1)
        account.ttl = granted.ttl
        account.renewals.append((asked_ns, self._chronicle.now_ns))
        self._marks["lease granted"] += 1

    async def _renew(self, lease: int, name: str) -> None:
        asked_ns, seconds = self._chronicle.now_ns, self._seconds

        async def renew(node: Node[object]) -> int:
            return await node.kv.keep_alive(lease, timeout=seconds)

        ttl = await self._servers.ask(name, renew, seconds + 1)
        account = self.accounts[lease]
        if account.renewals and ttl != account.ttl:
            raise broken("I44", f"lease {lease} of {account.ttl} s has {ttl} s after a renewal")
        account.ttl = ttl
        account.renewals.append((asked_ns, self._chronicle.now_ns))
        self._marks["lease renewed"] += 1

    async def _put(self, put: Put, name: str) -> None:
        seconds = self._seconds

        async def ask(node: Node[object]) -> PutResult:
            return await node.kv.put(put.key, put.value, lease=put.lease, timeout=seconds)

        number = self._history.call(self.name, put)
        try:
            result = await self._servers.ask(name, ask, seconds + 1)
        except BaseException as error:
            self._history.raised(number, error)
            raise
        self._history.done(number, result)
        self._chronicle.told(result.revision)

    async def _revoke(self, lease: int, name: str) -> None:
        seconds, account = self._seconds, self.accounts[lease]
        if account.revoke_ns is None:
            account.revoke_ns = self._chronicle.now_ns

        async def revoke(node: Node[object]) -> int:
            return await node.kv.revoke(lease, timeout=seconds)

        revision = await self._servers.ask(name, revoke, seconds + 1)
        account.revoked_ns = self._chronicle.now_ns
        self._chronicle.told(revision)
        self._marks["lease revoked"] += 1
        self._held = 0

    @property
    def _seconds(self) -> float:
        return self._options.timeout_ms / 1000


class Compactor:
    """Has the store forget its past, now and then."""

    def __init__(
        self,
        options: Options,
        choices: Choices,
        servers: Servers,
        chronicle: Chronicle,
        marks: Counter[str],
    ) -> None:
        self._options = options
        self._choices = choices
        self._servers = servers
        self._chronicle = chronicle
        self._marks = marks

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Compaction after compaction, until it is over."""
        interval, seconds = self._options.compact_ms, self._options.timeout_ms / 1000
        number = 0
        while interval and not is_over():
            number += 1
            is_left_out = self._choices.begin("compactor", number)
            wait = 1 + interval // 2 + self._choices.choose(interval)
            back, endpoint = self._choices.choose(30), self._choices.choose(_ENDPOINTS)
            await self._servers.sleep(wait / 1000)
            names = self._servers.reachable()
            if is_left_out or is_over() or not names:
                continue
            revision = max(1, self._chronicle.acknowledged - back)

            async def compact(node: Node[object], revision: int = revision) -> int:
                return (await node.kv.compact(revision, timeout=seconds)).floor

            with suppress(Error):
                floor = await self._servers.ask(names[endpoint % len(names)], compact, seconds + 1)
                self._chronicle.compacted = max(self._chronicle.compacted, floor)
                self._marks["compaction"] += 1
