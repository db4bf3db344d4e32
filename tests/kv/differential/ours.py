"""raftkv, asked through its public client on a cluster of one member."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import raftkv
from raftkv.errors import (
    CompactedError,
    Error,
    FutureRevisionError,
    InvalidArgumentError,
    KeyNotFoundError,
    LeaseExistsError,
    LeaseNotFoundError,
    NoSpaceError,
    RequestTooLargeError,
)
from raftkv.kv.client import Kv
from raftkv.kv.client.watching import Watch as Watching
from raftkv.kv.commands import encode
from raftkv.kv.model import Change, Span
from raftkv.kv.requests import (
    AlarmKind,
    Compact,
    DeleteOne,
    DeleteSpan,
    Grant,
    Put,
    Range,
    Revoke,
    SetAlarm,
    Txn,
)
from tests.kv.differential.asks import (
    Answer,
    Ask,
    At,
    Disarm,
    Get,
    GrantAndRevoke,
    Granted,
    Ids,
    KeepAlive,
    ListLeases,
    Lives,
    RaiseAlarm,
    Seen,
    TimeToLive,
    Watch,
    WatchBegin,
    WatchEnd,
    Wrong,
)
from tests.kv.differential.by_model import without_inner_revisions

WORDS: Final[dict[str, type[Error]]] = {
    "requested lease not found": LeaseNotFoundError,
    "lease already exists": LeaseExistsError,
    "too large lease TTL": InvalidArgumentError,
    "required revision is a future revision": FutureRevisionError,
    "required revision has been compacted": CompactedError,
    "key not found": KeyNotFoundError,
    "key is not provided": InvalidArgumentError,
    "value is provided": InvalidArgumentError,
    "lease is provided": InvalidArgumentError,
    "duplicate key given in txn request": InvalidArgumentError,
    "too many operations in txn request": InvalidArgumentError,
    "database space exceeded": NoSpaceError,
    "request is too large": RequestTooLargeError,
    "watcher range is empty": InvalidArgumentError,
}
"""Of each error of etcd the class that it has here. Its words begin the sentence."""


def words_of(error: Error) -> str:
    """The words of etcd's that an error says, if it is of their class; else all of it."""
    said = str(error).removeprefix("mvcc: ")
    for words, kind in WORDS.items():
        if said.startswith(words) and type(error) is kind:
            return words
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def running() -> AsyncGenerator[Ours]:
    """A member in memory, and who asks it."""
    async with raftkv.open_cluster(None, size=1) as cluster:
        node = await cluster.leader()
        async with AsyncExitStack() as watches:
            yield Ours(node.kv, watches)


class Ours:
    """Asks one thing after the other."""

    def __init__(self, kv: Kv, watches: AsyncExitStack) -> None:
        self._kv = kv
        self._watches = watches
        self._watching: list[Watching | Wrong] = []

    async def ask(self, ask: Ask) -> Answer:
        try:
            return await self._ask(ask)
        except Error as error:
            return Wrong(words_of(error))

    async def _ask(self, ask: Ask) -> Answer:
        kv = self._kv
        match ask:
            case Put(key, value, lease, previous, ignore_value, ignore_lease):
                return await kv.put(
                    key,
                    value,
                    lease=lease,
                    previous=previous,
                    ignore_value=ignore_value,
                    ignore_lease=ignore_lease,
                )
            case DeleteOne(key, previous):
                return await kv.delete(key, previous=previous)
            case DeleteSpan(Span(start, stop), previous):
                return await kv.delete(start=start, stop=stop, previous=previous)
            case Txn(when, then, otherwise):
                result = await kv.txn(when=when, then=then, otherwise=otherwise)
                return without_inner_revisions(result)
            case Range():
                return await self._range(ask)
            case Get(key, revision):
                return await kv.get(key, revision=revision)
            case Compact(revision):
                return At((await kv.compact(revision)).revision)
            case WatchBegin(watchers):
                self._watching = [await self._begin(one) for one in watchers]
                return None
            case WatchEnd():
                watching, self._watching = self._watching, []
                return Seen(tuple([await _finish(one) for one in watching]))
            case RaiseAlarm():
                raising = encode(SetAlarm(1, AlarmKind.NO_SPACE, True))
                await kv._propose(raising, 5.0)  # pyright: ignore[reportPrivateUsage]
                return At(0)
            case Disarm():
                await kv.disarm()
                return At(0)
            case _:
                return await self._ask_leases(ask)

    async def _ask_leases(
        self, ask: Grant | Revoke | GrantAndRevoke | KeepAlive | TimeToLive | ListLeases
    ) -> Answer:
        kv = self._kv
        match ask:
            case Grant(lease, ttl):
                granted = await kv.grant(ttl, id=lease)
                return Granted(granted.id, granted.ttl, granted.revision)
            case GrantAndRevoke(lease, ttl):
                granted = await kv.grant(ttl, id=lease)
                await kv.revoke(granted.id)
                return Granted(lease, granted.ttl, granted.revision)
            case Revoke(lease):
                return At(await kv.revoke(lease))
            case KeepAlive(lease):
                try:
                    return Lives(await kv.keep_alive(lease), 0, ())
                except LeaseNotFoundError:  # which etcd tells by a time to live of 0
                    return Lives(0, -1, ())
            case TimeToLive(lease, keys):
                status = await kv.time_to_live(lease, keys=keys)
                return Lives(status.granted, min(status.ttl, 0), status.keys)
            case ListLeases():
                return Ids(await kv.leases())

    async def _range(self, asked: Range) -> Answer:
        return await self._kv.range(
            asked.span.start,
            asked.span.stop,
            limit=asked.limit,
            revision=asked.revision,
            order=asked.order,
            sort_by=asked.target,
            keys_only=asked.keys_only,
            count_only=asked.count_only,
            min_mod_revision=asked.mod_revision_min,
            max_mod_revision=asked.mod_revision_max,
            min_create_revision=asked.create_revision_min,
            max_create_revision=asked.create_revision_max,
        )

    async def _begin(self, one: Watch) -> Watching | Wrong:
        span = one.span
        try:
            watch = self._kv.watch(
                span.start or None,
                b"\0" if span.stop is None else span.stop,
                start=one.start,
                previous=one.previous,
                puts=one.puts,
                deletes=one.deletes,
            )
            return await self._watches.enter_async_context(watch)
        except Error as error:
            return Wrong(words_of(error))


async def _finish(watching: Watching | Wrong) -> tuple[Change, ...] | Wrong:
    """All that it saw until now: up to the mark that everything before was delivered."""
    if isinstance(watching, Wrong):
        return watching
    changes: list[Change] = []
    await watching.progress()
    async for change in watching:
        if not change.events:
            break
        changes.append(change)
    watching.close()
    return tuple(changes)
