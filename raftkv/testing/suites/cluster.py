"""Your state machine in a cluster that everything happens to; failures are cut down.

    class CounterInACluster(ClusterMachine):
        commands = st.sampled_from([b"+1", b"-1"])

        def make_machine(self) -> Counter:
            return Counter()

    TestCounter = CounterInACluster.TestCase

Three whole nodes, as they ship, run in virtual time: minutes pass in milliseconds. Hypothesis
proposes commands at any member and crashes, restarts, pauses and cuts off members between them.
Then everything is mended, and it must hold that

- the members have the same state wherever they have applied the same entries;
- what clients were answered is what one machine, that never fails, could have answered;
- every member catches up in the end, and no machine raises.

A failure is a short list of steps, each of which matters, and the newest events in the nodes. Add
rules and invariants of your own as in any ``RuleBasedStateMachine``: :attr:`ClusterMachine.cluster`
is the simulated cluster, and :meth:`ClusterMachine.run` lets its time pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ClassVar, Final, TypeVar

import anyio
from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from raftkv.errors import Error
from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.histories import History, check_linearizable
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.runtime import CrashedError
from raftkv.testing.nodes.timeline import Running, Timeline
from raftkv.testing.story import Story, StoryWriter
from raftkv.testing.suites.recorder import Ledger, MachineInOnePlace, recorded
from raftkv.testing.viewer import as_text

T = TypeVar("T")

BRISK: Final = Settings(
    tick_seconds=0.05,
    heartbeat_ticks=2,
    election_ticks=10,
    retention_entries=2,
    close_seconds_max=1,
)
"""Short logs: who was away for a few entries comes back through a snapshot."""
_COMMANDS_MAX: Final = 6
_MOMENT_SECONDS: Final = 0.01
_PROPOSAL_SECONDS: Final = 2.0
_RECOVERY_SECONDS: Final = 60.0
_STORY_LINES: Final = 24


def _machine_of(pick: Callable[[ClusterMachine], st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """A strategy that depends on the state machine that draws from it."""
    return st.runner().flatmap(pick)


def _members(keep: Callable[[ClusterMachine, str], bool]) -> st.SearchStrategy[str]:
    return _machine_of(
        lambda self: st.sampled_from([name for name in self.cluster.names if keep(self, name)])
    )


_RUNNING: Final = _members(lambda self, name: name in self.cluster.nodes)
_DOWN: Final = _members(lambda self, name: name not in self.cluster.nodes)
_ANY: Final = _members(lambda _self, _name: True)
_COMMANDS: Final = _machine_of(
    lambda self: st.lists(self.commands, min_size=1, max_size=_COMMANDS_MAX)
)


class ClusterMachine(RuleBasedStateMachine):
    """The user's machine replicated, as a Hypothesis state machine."""

    commands: ClassVar[st.SearchStrategy[bytes]]
    """What may be proposed; draw few different keys, so that commands meet each other."""
    size: ClassVar[int] = 3
    """How many members."""
    settings: ClassVar[Settings] = BRISK
    """Of all nodes."""
    is_judged: ClassVar[bool] = True
    """Whether answers depend on state and command alone, so that one machine can judge them."""

    @abstractmethod
    def make_machine(self) -> Machine[object]:
        """A new machine in its first state; called at each start of a member."""

    def __init__(self) -> None:
        super().__init__()
        self._ledger = Ledger()
        self._history = History[bytes, object](now=self._now)
        self._clients: list[tuple[str, Running]] = []
        self._paused: list[str] = []
        self._has_failed = False
        self._timeline = Timeline(ReplayedChoices(()))
        self._story = StoryWriter()
        self.cluster: SimCluster[object] = self._timeline.run(self._open)
        """The members, and what can happen to them."""

    async def _open(self) -> SimCluster[object]:
        cluster = SimCluster(
            size=self.size,
            machine=lambda: recorded(self.make_machine(), self._ledger),
            settings=self.settings,
            story=self._story,
        )
        for name in cluster.names:
            await cluster.start(name)
        await cluster.leader()
        return cluster

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Let virtual time pass until ``body`` is done, and look whether all is well."""
        try:
            result = self._timeline.run(body)
            self.check()
            return result
        except BaseException:
            self._has_failed = True
            raise

    def _now(self) -> int:
        return self._timeline.loop.now_ns

    # --- what happens ---------------------------------------------------------------------------

    @rule(member=_RUNNING, commands=_COMMANDS)
    @precondition(lambda self: self.cluster.nodes)
    def propose(self, member: str, commands: list[bytes]) -> None:
        """A client at ``member`` proposes, one after the other; answers come when they come."""

        async def ask() -> None:
            client = self._timeline.begin(lambda: self._ask(member, commands))
            self._clients.append((member, client))
            await anyio.sleep(_MOMENT_SECONDS)

        self.run(ask)

    async def _ask(self, member: str, commands: list[bytes]) -> None:
        node = self.cluster.node(member)
        with suppress(Error):  # the history tells how it ended
            for command in commands:
                work = node.propose(command, timeout=_PROPOSAL_SECONDS)
                await self._history.record(f"client of {member}", command, work)

    @rule(ticks=st.integers(1, 40))
    def wait(self, ticks: int) -> None:
        """Time passes."""
        self.run(lambda: anyio.sleep(ticks * self.settings.tick_seconds))

    @rule(member=_RUNNING)
    @precondition(lambda self: self.cluster.nodes)
    def crash(self, member: str) -> None:
        """A member's process dies."""

        async def die() -> None:
            self.cluster.crash(member)
            for where, client in self._clients:
                if where == member:
                    client.cancel()  # it dies with the process that it was in
            await anyio.sleep(_MOMENT_SECONDS)

        self._paused = [name for name in self._paused if name != member]
        self.run(die)

    @rule(member=_DOWN)
    @precondition(lambda self: len(self.cluster.nodes) < len(self.cluster.names))
    def start(self, member: str) -> None:
        """A member that died is started again."""
        self.run(lambda: self.cluster.start(member))

    @rule(member=_RUNNING)
    @precondition(lambda self: self.cluster.nodes)
    def restart(self, member: str) -> None:
        """A member's process dies, and another one is started in its place."""
        self.crash(member)
        self.start(member)

    @rule(member=_RUNNING)
    @precondition(lambda self: self.cluster.nodes)
    def pause(self, member: str) -> None:
        """A member stands still, as a process does that is stopped."""
        if member not in self._paused:
            self._paused.append(member)
            self.cluster.pause(member)

    @rule()
    @precondition(lambda self: self._paused)
    def resume(self) -> None:
        """Who stands still goes on."""
        for member in self._paused:
            self.cluster.resume(member)
        self._paused.clear()

    @rule(member=_ANY)
    def isolate(self, member: str) -> None:
        """A member is cut off from all others."""
        self.cluster.isolate(member)

    @rule()
    @precondition(lambda self: self.cluster.network.cuts())
    def heal(self) -> None:
        """All members reach each other."""

        async def mend() -> None:
            self.cluster.heal()

        self.run(mend)

    # --- what must hold -------------------------------------------------------------------------

    def check(self) -> None:
        """Members have equal states at equal entries, and none stopped by itself."""
        if self._ledger.difference:
            raise AssertionError(self._ledger.difference)
        for name in self.cluster.names:
            failure = self.cluster.process(name).failure
            if failure is not None and not isinstance(failure, CrashedError):
                raise AssertionError(f"member {name} stopped: {failure}") from failure

    def teardown(self) -> None:
        """Mend everything; then all must be one again, and have answered right."""
        try:
            if not self._has_failed:
                self.run(self._recover)
                if self.is_judged:
                    self._judge()
        finally:
            if self._has_failed:
                self._tell()
            self._timeline.close(self._end)

    def _end(self) -> None:
        self.cluster.kill_all()
        for _, client in self._clients:
            client.cancel()

    async def _recover(self) -> None:
        cluster = self.cluster
        cluster.heal()
        for member in self._paused:
            cluster.resume(member)
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

    def _judge(self) -> None:
        try:
            check_linearizable(self._history, MachineInOnePlace(self.make_machine))
        except AssertionError:
            self._has_failed = True
            raise

    def story(self) -> Story:
        """What went on in the nodes so far, for :mod:`raftkv.testing.viewer`."""
        return self._story.story(type(self).__name__, replay="take the steps above again")

    def _tell(self) -> None:
        """The newest events, below the steps that Hypothesis shows."""
        if currently_in_test_context():
            lines = as_text(self.story()).splitlines()
            note("\n".join(lines[-_STORY_LINES:]))
