"""Three members in one process, on real directories, each of which may refuse or end by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import anyio
from anyio.abc import TaskGroup
from attrs import frozen

from raftkv.errors import (
    Error,
    NodeStoppedError,
    OutcomeUnknownError,
    StorageError,
    UnavailableError,
)
from raftkv.handle import Node
from raftkv.kv import KeyValue, KvResult
from raftkv.node.settings import Settings
from raftkv.open import open_node
from raftkv.runtime.system import system_runtime
from raftkv.testing.campaigns.frame import FindingError
from raftkv.testing.campaigns.isolated import Told
from raftkv.transport.memory import MemoryNetwork

NAMES = ("n1", "n2", "n3")
ADDRESSES: Mapping[str, str] = {name: f"{name}:1" for name in NAMES}
# Short logs, so that snapshots and compaction happen; quick elections, so that cases are.
SETTINGS = Settings(
    tick_seconds=0.02,
    heartbeat_ticks=2,
    election_ticks=12,
    retention_entries=25,
    close_seconds_max=0.5,
)
CONTENT_SECONDS_MAX = 20.0
_PAUSE_SECONDS = 0.02

Content = Mapping[bytes, bytes]


@frozen
class Shown:
    """What members of a cluster showed."""

    equal: frozenset[str]
    """Members that served exactly the content."""
    ended: Mapping[str, Error]
    """Members that refused to open, or stopped by themselves, and why."""


class Members:
    """The members that run. Made by :func:`running_members`."""

    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        self._directory = directory
        self._tasks = tasks
        self._network = MemoryNetwork(system_runtime())
        self._stops: dict[str, anyio.Event] = {}
        self._over: dict[str, anyio.Event] = {}
        self.nodes: dict[str, Node[KvResult]] = {}
        self.ended: dict[str, Error] = {}
        self.refused: set[str] = set()
        """Those in ``ended`` that did not even open."""

    async def start(self, *names: str) -> None:
        """Open members; one that refuses is in ``ended`` afterwards."""
        for name in names:
            settled = anyio.Event()
            self._tasks.start_soon(self._live, name, settled)
            await settled.wait()

    async def stop(self, *names: str) -> None:
        """Close members in order."""
        for name in names:
            if name in self._stops:
                self._stops[name].set()
                await self._over[name].wait()

    async def restart(self, name: str) -> None:
        """Close a member if it runs still, and open it again."""
        await self.stop(name)
        self.ended.pop(name, None)
        await self.start(name)

    async def _live(self, name: str, settled: anyio.Event) -> None:
        stop, over = self._stops[name], self._over[name] = anyio.Event(), anyio.Event()
        self.ended.pop(name, None)
        try:
            async with open_node(
                self._directory / name,
                name=name,
                cluster=ADDRESSES,
                settings=SETTINGS,
                transport=self._network.endpoint(ADDRESSES[name]),
            ) as node:
                self.nodes[name] = node
                settled.set()
                await stop.wait()
        except Error as error:
            self.ended[name] = error
            if not settled.is_set():
                self.refused.add(name)
        finally:
            self.nodes.pop(name, None)
            settled.set()
            over.set()

    async def put(self, key: bytes, value: bytes, seconds_max: float = 20.0) -> None:
        """Put through any member, again and again until it is acknowledged."""
        with anyio.move_on_after(seconds_max):
            while True:
                for node in list(self.nodes.values()):
                    try:
                        await node.kv.put(key, value, timeout=2)
                    except (UnavailableError, OutcomeUnknownError, NodeStoppedError, StorageError):
                        continue
                    return
                await anyio.sleep(_PAUSE_SECONDS)
        raise FindingError(f"no put succeeded within {seconds_max:.0f} s; ended: {self.ended}")

    async def show(self, content: Content, of: Collection[str] = NAMES) -> Shown:
        """Read everything from these members until each has served it or ended.

        Raises FindingError if one serves anything else, or neither serves nor ends in time.
        """
        equal: set[str] = set()
        rows: tuple[KeyValue, ...] | None = None
        last: dict[str, str] = {}
        with anyio.move_on_after(CONTENT_SECONDS_MAX):
            while not equal | self.ended.keys() >= set(of):
                for name, node in list(self.nodes.items()):
                    if name in equal or name not in of:
                        continue
                    try:
                        found = await node.kv.range(prefix=b"", timeout=2)
                    except StorageError as error:
                        self.ended.setdefault(name, error)  # it refuses this read, and says why
                        continue
                    except (UnavailableError, NodeStoppedError) as error:
                        last[name] = str(error)
                        continue
                    check_content(name, {row.key: row.value for row in found.items}, content)
                    rows = found.items if rows is None else rows
                    if found.items != rows:
                        raise FindingError(f"{name} serves other revisions than the one before")
                    equal.add(name)
                await anyio.sleep(_PAUSE_SECONDS)
            return Shown(frozenset(equal), dict(self.ended))
        raise FindingError(f"{last} after {CONTENT_SECONDS_MAX:.0f} s, ended: {self.ended}")


def check_content(name: str, found: Content, content: Content) -> None:
    """Raise FindingError unless a member shows exactly the content."""
    if found == content:
        return
    lost = sorted(content.keys() - found.keys())
    more = sorted(found.keys() - content.keys())
    other = sorted(key for key in content.keys() & found.keys() if content[key] != found[key])
    raise FindingError(
        f"{name} serves wrong data: of {len(content)} keys {len(lost)} are missing {lost[:3]},"
        f" {len(other)} are different {other[:3]}, {len(more)} are new {more[:3]}"
    )


@asynccontextmanager
async def running_members(directory: Path, *names: str) -> AsyncGenerator[Members]:
    """Members below ``directory``, opened (all three unless named), and closed at the end."""
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            members = Members(directory, tasks)
            await members.start(*(names or NAMES))
            try:
                yield members
            except BaseException as error:
                raised = error
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await members.stop(*NAMES)
    except BaseExceptionGroup as group:
        # What the body raised says more than the group around it.
        raise raised or group from None


async def fill(members: Members, random: Random, puts: int, content: Content) -> Content:
    """Put, overwrite and delete keys by chance; what is there afterwards."""
    known = dict(content)
    for _ in range(puts):
        key = b"key %d" % random.randrange(40)
        value = random.randbytes(random.choice((8, 100, 3000)))
        await members.put(key, value)
        known[key] = value
    return known


def as_told(content: Content) -> Told:
    """Content as something that a child can tell."""
    return {key.hex(): value.hex() for key, value in content.items()}


def from_told(told: Told) -> Content:
    """And back."""
    return {bytes.fromhex(key): bytes.fromhex(str(value)) for key, value in told.items()}
