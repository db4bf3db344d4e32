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

A failure is cut down to the steps that matter, and told with what clients and members did in them;
Hypothesis shows the longer list that they come from above it. pytest leaves the
:class:`~raftkv.testing.story.Story` of the nodes as a page in its cache, or in the folder that
``--raft-traces`` names; :func:`~raftkv.testing.story.story_of` has it from the exception.

Settings of Hypothesis go to ``TestCounter.settings``; by themselves they are those of your profile,
with 20 steps and without shrinking, so derive yours from them:
``settings(TestCounter.settings, max_examples=1000)``. Add rules and invariants of your own as in
any ``RuleBasedStateMachine``: :attr:`ClusterMachine.cluster` is the simulated cluster, and
:meth:`ClusterMachine.run` lets its time pass. Then Hypothesis does the shrinking, which takes it a
minute or more; without them the steps of an example are taken together at its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from traceback import extract_tb
from typing import ClassVar, Final, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.story import Story, attach_story
from raftkv.testing.suites.fewest import fewest, program
from raftkv.testing.suites.play import Play, Step
from raftkv.testing.suites.shown import shown

T = TypeVar("T")

BRISK: Final = Settings(
    tick_seconds=0.05,
    heartbeat_ticks=1,
    election_ticks=5,
    retention_entries=2,
    close_seconds_max=1,
)
"""Short logs: who was away for a few entries comes back through a snapshot. Few ticks: each costs
computing time in every member."""
STEPS: Final = 20
"""Of an example, unless the Hypothesis profile says something else than Hypothesis does."""
_PATIENT: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
_COMMANDS_MAX: Final = 4
_TICKS: Final = (1, 5, 20)
"""What a wait may be: less than an election takes, about that, and enough for several."""


def _machine_of(pick: Callable[[ClusterMachine], st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """A strategy that depends on the state machine that draws from it."""
    return st.runner().flatmap(pick)


_RUNNING: Final = _machine_of(lambda self: st.sampled_from(self.running()))
_DOWN: Final = _machine_of(lambda self: st.sampled_from(self.down()))
_ANY: Final = _machine_of(lambda self: st.sampled_from(self.members()))
_COMMANDS: Final = _machine_of(
    lambda self: st.lists(self.commands, min_size=1, max_size=_COMMANDS_MAX)
)


class ClusterMachine(RuleBasedStateMachine):
    """The user's machine replicated, as a Hypothesis state machine: subclass it in a test module.

    ``YourClass.TestCase`` is the test; give it a name that begins with ``Test``.
    """

    commands: ClassVar[st.SearchStrategy[bytes]]
    """What may be proposed; draw few different keys, so that commands meet each other."""
    size: ClassVar[int] = 3
    """How many members."""
    node_settings: ClassVar[Settings] = BRISK
    """Of all nodes. (``TestCase.settings`` are Hypothesis' own.)"""
    is_judged: ClassVar[bool] = True
    """Whether answers depend on state and command alone, so that one machine can judge them."""

    @abstractmethod
    def make_machine(self) -> Machine[object]:
        """A new machine in its first state; called at each start of a member."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.TestCase.settings = _usual_settings(cls)

    def __init__(self) -> None:
        if not hasattr(self, "commands"):
            raise TypeError(
                f"{type(self).__name__} needs what may be proposed:"
                ' commands = st.sampled_from([b"...", ...]) in its body'
            )
        super().__init__()
        self._steps: list[Step] = []
        self._taken = 0
        self._play: Play | None = None
        # What the members are after all steps, while the cluster has not taken them yet.
        self._down: list[str] = []
        self._paused: list[str] = []
        self._is_cut = False
        self._is_watched = False

    @property
    def cluster(self) -> SimCluster[object]:
        """The members, and what can happen to them; all steps so far are taken."""
        self._is_watched = True
        return self._played().cluster

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Let virtual time pass until ``body`` is done, and look whether all is well."""
        self._is_watched = True
        play = self._played()
        try:
            return play.run(body)
        except BaseException as error:
            self._tell(play, error)
            raise

    def members(self) -> list[str]:
        """All members."""
        if self._play is not None:
            return [*self._play.cluster.names]
        return [f"n{number}" for number in range(1, self.size + 1)]

    def down(self) -> list[str]:
        """Those that crashed and were not started again."""
        if self._play is not None:
            return [name for name in self.members() if name not in self._play.cluster.nodes]
        return self._down

    def running(self) -> list[str]:
        """Those that run, paused or not."""
        down = self.down()
        return [name for name in self.members() if name not in down]

    # --- what happens ---------------------------------------------------------------------------

    @rule(member=_RUNNING, commands=_COMMANDS)
    @precondition(lambda self: self.running())
    def propose(self, member: str, commands: list[bytes]) -> None:
        """A client at ``member`` proposes, one after the other; answers come when they come."""
        self._take("propose", member, tuple(commands))

    @rule(ticks=st.sampled_from(_TICKS))
    def wait(self, ticks: int) -> None:
        """Time passes."""
        self._take("wait", ticks)

    @rule(member=_RUNNING)
    @precondition(lambda self: self.running())
    def crash(self, member: str) -> None:
        """A member's process dies."""
        self._died(member)
        self._down = [*self._down, member]
        self._take("crash", member)

    @rule(member=_DOWN)
    @precondition(lambda self: self.down())
    def start(self, member: str) -> None:
        """A member that died is started again."""
        self._down = [name for name in self._down if name != member]
        self._take("start", member)

    @rule(member=_RUNNING)
    @precondition(lambda self: self.running())
    def restart(self, member: str) -> None:
        """A member's process dies, and another one is started in its place."""
        self._died(member)
        self._take("restart", member)

    def _died(self, member: str) -> None:
        self._paused = [name for name in self._paused if name != member]

    @rule(member=_RUNNING)
    @precondition(lambda self: self.running())
    def pause(self, member: str) -> None:
        """A member stands still, as a process does that is stopped."""
        if member not in self._paused:
            self._paused.append(member)
            self._take("pause", member)

    @rule()
    @precondition(lambda self: self._paused)
    def resume(self) -> None:
        """Who stands still goes on."""
        self._paused.clear()
        self._take("resume")

    @rule(member=_ANY)
    def isolate(self, member: str) -> None:
        """A member is cut off from all others."""
        self._is_cut = True
        self._take("isolate", member)

    @rule()
    @precondition(lambda self: self._is_cut)
    def heal(self) -> None:
        """All members reach each other."""
        self._is_cut = False
        self._take("heal")

    # --- how ------------------------------------------------------------------------------------

    def _take(self, *step: *tuple[str, *tuple[object, ...]]) -> None:
        self._steps.append(step)
        if self._play is not None:  # somebody looks on
            self._played()

    def _played(self) -> Play:
        """The cluster after all steps so far."""
        if self._play is None:
            self._play = Play(self.make_machine, self.size, self.node_settings)
        play = self._play
        while self._taken < len(self._steps) and not play.has_failed:
            step = self._steps[self._taken]
            self._taken += 1
            try:
                play.take(step)
            except BaseException as error:
                self._tell(play, error)
                raise
        return play

    def teardown(self) -> None:
        """Take the steps, mend everything; then all must be one, and have answered right."""
        failure = self._failure()
        if failure is None:
            return
        if _is_final() and not self._is_watched:
            failure = self._cut_down(failure)
        # Outside of any handler: Hypothesis tells failures apart by what they come from, too.
        raise failure

    def _failure(self) -> BaseException | None:
        """How this example fails."""
        try:
            play = self._played()
            if not play.has_failed:
                self._finish(play)
        except Exception as error:
            return error
        finally:
            if self._play is not None:
                self._play.close()
        return None

    def _cut_down(self, failure: BaseException) -> BaseException:
        """The same failure by fewer steps, with its story."""

        def fails(steps: Sequence[Step]) -> bool:
            nonlocal best
            one = type(self)()
            one._steps = [*steps]
            found = one._failure()
            if found is None or _origin(found) != _origin(failure):
                return False
            best = found, one
            return True

        best: tuple[BaseException, ClusterMachine] = failure, self
        steps = fewest(self._steps[: self._taken], fails)
        found, one = best
        story = one.story()
        attach_story(found, story)
        note(f"{program(type(self).__name__, steps)}\n{shown(story)}")
        return found

    def _finish(self, play: Play) -> None:
        try:
            play.recover()
            if self.is_judged:
                play.judge()
        except BaseException as error:
            self._tell(play, error)
            raise

    def story(self) -> Story:
        """What went on in the nodes so far, for :mod:`raftkv.testing.viewer`."""
        play = self._play or self._played()
        return play.story(type(self).__name__)

    def _tell(self, play: Play, error: BaseException) -> None:
        """What happened, below the steps that Hypothesis shows."""
        if _is_final():
            story = play.story(type(self).__name__)
            attach_story(error, story)
            if self._is_watched:
                note(shown(story))


def _is_final() -> bool:
    """Whether this is the run of a failure that Hypothesis shows."""
    return currently_in_test_context() and current_build_context().is_final


def _origin(error: BaseException) -> tuple[type[BaseException], str, int | None]:
    """What two failures have in common that are the same."""
    place = extract_tb(error.__traceback__)[-1]
    return type(error), place.filename, place.lineno


def _usual_settings(machine: type[ClusterMachine]) -> hypothesis.settings:
    """Those of the profile, which knows nothing of clusters: here an example takes its time."""
    profile, usual = hypothesis.settings(), hypothesis.settings.get_profile("default")
    steps = profile.stateful_step_count
    phases = profile.phases
    if _has_nothing_else(machine):
        phases = [phase for phase in phases if phase not in (Phase.shrink, Phase.explain)]
    return hypothesis.settings(
        deadline=None,
        suppress_health_check=_PATIENT,
        stateful_step_count=STEPS if steps == usual.stateful_step_count else steps,
        phases=phases,
    )


def _has_nothing_else(machine: type[ClusterMachine]) -> bool:
    """Whether all that can happen is what happens to every machine, so that we cut it down."""
    state = machine.setup_state()
    return not (state.invariants or state.initializers) and all(
        one.function.__module__ == __name__ for one in state.rules
    )
