"""A user's machine in a simulated cluster, taken through one step after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import anyio

from raftkv.errors import Error
from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.histories import History, check_linearizable
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.runner import Running, VirtualRunner
from raftkv.testing.nodes.runtime import CrashedError
from raftkv.testing.story import Kind, Story, StoryWriter
from raftkv.testing.suites.recorder import Ledger, MachineInOnePlace, recorded

T = TypeVar("T")
Step = tuple[str, *tuple[object, ...]]
"""The name of a method of :class:`Play`, and what it is called with."""

_MOMENT_SECONDS: Final = 0.01
_PROPOSAL_SECONDS: Final = 2.0
_RECOVERY_SECONDS: Final = 60.0


class Play:
    """The cluster, its clients, and what went on so far. Close it in the end."""

    def __init__(
        self, make_machine: Callable[[], Machine[object]], size: int, settings: Settings
    ) -> None:
        self._make_machine = make_machine
        self._size = size
        self._settings = settings
        self._ledger = Ledger()
        self._runner = VirtualRunner(ReplayedChoices(()))
        self._history = History[bytes, object](now=lambda: self._runner.loop.now_ns)
        self._clients: list[tuple[str, Running]] = []
        self._story = StoryWriter()
        self.has_failed = False
        self.cluster: SimCluster[object] = self.run(self._open)

    async def _open(self) -> SimCluster[object]:
        cluster = self.cluster = SimCluster(
            size=self._size,
            machine=lambda: recorded(self._make_machine(), self._ledger),
            settings=self._settings,
            story=self._story,
        )
        for name in cluster.names:
            await cluster.start(name)
        await cluster.leader()
        return cluster

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Let virtual time pass until ``body`` is done, and look whether all is well."""
        try:
            result = self._runner.run(body())
            self._check()
        except BaseException as error:
            self._fail(error)
            raise
        return result

    def _fail(self, error: BaseException) -> None:
        self.has_failed = True
        what = next(iter(str(error).splitlines()), "the run fails")
        self._story.violation(self._seconds(), None, type(error).__name__, what)

    def _seconds(self) -> float:
        return self._runner.loop.now_ns / 1e9

    def _check(self) -> None:
        """Members have equal states at equal entries, and none stopped by itself."""
        if self._ledger.difference:
            raise AssertionError(self._ledger.difference)
        for name in self.cluster.names:
            failure = self.cluster.process(name).failure
            if failure is not None and not isinstance(failure, CrashedError):
                raise AssertionError(f"member {name} stopped: {failure}") from failure

    # --- steps: each means nothing where it cannot be, so that any of them can be left out -------

    def take(self, step: Step) -> None:
        """Take one step."""
        name, *arguments = step
        getattr(self, name)(*arguments)

    def propose(self, member: str, commands: tuple[bytes, ...]) -> None:
        """A client at ``member`` proposes, one after the other."""
        if member not in self.cluster.nodes:
            return

        async def ask() -> None:
            client = self._runner.begin(lambda: self._ask(member, commands))
            self._clients.append((member, client))
            await anyio.sleep(_MOMENT_SECONDS)

        self.run(ask)

    async def _ask(self, member: str, commands: tuple[bytes, ...]) -> None:
        node = self.cluster.node(member)
        client = f"client of {member}"
        with suppress(Error):  # the history tells how it ended
            for command in commands:
                work = self._told(client, command, node.propose(command, timeout=_PROPOSAL_SECONDS))
                await self._history.record(client, command, work)

    async def _told(self, client: str, command: bytes, work: Awaitable[object]) -> object:
        """``work``, with its call and its return in the story."""
        tell = self._story.event
        number = tell(self._seconds(), None, Kind.CALL, repr(command), client=client)
        ended = "nobody knows whether it happened"
        try:
            answer = await work
            ended = f"{command!r} is answered {answer!r}"
            return answer
        except Error as error:
            ended = f"{command!r}: {error}"
            raise
        finally:
            at = self._seconds()
            tell(at, None, Kind.RETURN, ended, client=client, operation=number)

    def wait(self, ticks: int) -> None:
        """Time passes."""
        self.run(lambda: anyio.sleep(ticks * self._settings.tick_seconds))

    def crash(self, member: str) -> None:
        """A member's process dies, and the clients in it."""
        if member not in self.cluster.nodes:
            return

        async def die() -> None:
            self.cluster.crash(member)
            for where, client in self._clients:
                if where == member:
                    client.cancel()
            await anyio.sleep(_MOMENT_SECONDS)

        self.run(die)

    def start(self, member: str) -> None:
        """A member that died is started again."""
        if member in self.cluster.nodes:
            return
        self.run(lambda: self.cluster.start(member))

    def restart(self, member: str) -> None:
        """A member's process dies, and another one is started in its place."""
        self.crash(member)
        self.start(member)

    def pause(self, member: str) -> None:
        """A member stands still."""
        if member in self.cluster.nodes:
            self.cluster.pause(member)

    def resume(self) -> None:
        """Who stands still goes on."""
        for name in self.cluster.nodes:
            self.cluster.resume(name)

    def isolate(self, member: str) -> None:
        """A member is cut off from all others."""
        self.cluster.isolate(member)

    def heal(self) -> None:
        """All members reach each other."""

        async def mend() -> None:
            self.cluster.heal()

        self.run(mend)

    # --- the end --------------------------------------------------------------------------------

    def recover(self) -> None:
        """Mend everything; then all members must catch up."""
        self.run(self._recover)

    async def _recover(self) -> None:
        cluster = self.cluster
        cluster.heal()
        for name in cluster.nodes:
            cluster.resume(name)
        for name in cluster.names:
            if name not in cluster.nodes:
                await cluster.start(name)
        await cluster.leader(timeout=_RECOVERY_SECONDS)
        for node in cluster.nodes.values():
            await node.read(timeout=_RECOVERY_SECONDS)
        for _, client in self._clients:
            await client.ended()
        for name in cluster.names:  # on-disk machines show their last state when they are closed
            await cluster.stop(name)

    def judge(self) -> None:
        """What clients were answered is what one machine could have answered."""
        try:
            check_linearizable(self._history, MachineInOnePlace(self._make_machine))
        except AssertionError as error:
            self._fail(error)
            raise

    def story(self, title: str) -> Story:
        """What went on so far."""
        return self._story.story(title, replay="take the same steps again")

    def close(self) -> None:
        """End everything, finished or not."""
        self._runner.run(self._end())
        self._runner.close()

    async def _end(self) -> None:
        self.cluster.kill_all()
        for _, client in self._clients:
            client.cancel()
        for _, client in self._clients:
            await client.ended()
