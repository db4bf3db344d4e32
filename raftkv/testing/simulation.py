"""One run of a world in simulated time: first everything goes wrong, then it must recover.

The *safety* phase feeds the cluster for a number of steps while faults fall as the options weigh
them. The *liveness* phase heals the network and revives a quorum, or everybody, and nothing more
goes wrong: then all that are up must agree on a new entry within a bounded time.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from enum import IntEnum
from heapq import heappop, heappush
from typing import cast

from attrs import frozen

from raftkv.core import (
    InstallSnapshot,
    Membership,
    MembershipChange,
    Message,
    RequestVote,
    Role,
    SnapshotStatus,
    Tick,
    Unreachable,
    VoteResponse,
)
from raftkv.testing.choices import Choices, Decisions, ReplayedChoices, SeededChoices
from raftkv.testing.damage import memberships
from raftkv.testing.disk import Write
from raftkv.testing.finding import Finding, name_of
from raftkv.testing.invariants import ViolationError, broken, is_quorum
from raftkv.testing.member import Member
from raftkv.testing.nemesis import Nemesis
from raftkv.testing.network import Network
from raftkv.testing.options import TICK, Faults, Options, draw_options
from raftkv.testing.story import KEEP, Kind, Story, StoryWriter
from raftkv.testing.trace import Trace
from raftkv.testing.world import World

RECOVERY_ELECTIONS = 60
"""Election timeouts within which a healed cluster must agree again."""
HALT_ELECTIONS = 10
"""After which a cluster that lost too much is taken to stand still."""

_QUIET_TURNS_MAX = 10_000
"""Turns in a row without a step: all members are down, and a record left out their restarts."""
_SWEEP_MASK = 63  # the whole is looked at every 64 turns


class Due(IntEnum):
    """What is to happen at a time."""

    TICK = 0
    MESSAGE = 1
    WRITE = 2
    APPLY = 3
    RESTART = 4
    PROPOSE = 5
    READ = 6
    NEMESIS = 7
    SNAPSHOT_STATUS = 8
    UNREACHABLE = 9


# Looked up once: attributes of an enum cost as much as a call.
_DUE_TICK = Due.TICK
_DUE_MESSAGE = Due.MESSAGE
_DUE_WRITE = Due.WRITE
_NEVER_LOST = (Due.WRITE, Due.APPLY, Due.SNAPSHOT_STATUS, Due.UNREACHABLE)


@frozen
class Outcome:
    """One run: what it was, what it met, and what went wrong, if anything."""

    options: Options
    choices: Choices
    steps: int
    time: int
    marks: Mapping[str, int]
    finding: Finding | None
    error: BaseException | None
    """What was raised where it broke."""
    trace: Trace
    drawn: bool
    """Whether the options are the first of the decisions."""
    asked: int
    """Steps of the safety phase that were asked for."""

    @property
    def decisions(self) -> Decisions:
        """What was decided; put together only when it is asked for."""
        return self.choices.decisions()

    def story(self, title: str, replay: str = "", *, keep: int = KEEP) -> Story:
        """What happened last, for people. The run is run again for that."""
        writer = StoryWriter(unit="units", keep=keep)
        run(
            ReplayedChoices(self.decisions),
            self.asked,
            options=None if self.drawn else self.options,
            writer=writer,
        )
        return writer.story(title, replay=replay)


class Simulation(World):
    """A world whose happenings are scheduled in simulated time."""

    def __init__(self, options: Options, choices: Choices, trace: Trace | None = None) -> None:
        super().__init__(options, trace)
        self.choices = choices
        self.network = Network(options.faults)
        self.nemesis = Nemesis(self, self.network, choices)
        self.nemesis.restart_after = self._restart_after
        self.damage = self.nemesis.damage
        self.damage.restart_after = self._restart_after
        self._met: dict[tuple[int, int], int] = {}
        """(receiver, sender) -> the newest incarnation that was heard of."""
        self.faults = options.faults
        self._due: list[tuple[int, int, Due, int, object]] = []
        self._sequence = 0
        self._proposals = 0
        self._busy_until: dict[int, int] = {}
        self._recovering = False
        self._put_off: list[tuple[Due, int, object]] = []
        """What a record left out, and may not be lost for ever."""
        self._sent: dict[int, tuple[int, Message]] = {}
        """By address: the number that the story knows a message by, and the message, kept alive."""
        self._calm_at = 0
        """When nothing from before the recovery is under way any more."""
        self._calm_term: int | None = None
        choices.begin()
        for member in self.members.values():
            self.on_start(member)
        self._schedule(options.propose_units, Due.PROPOSE, 0)
        if options.read_units:
            self._schedule(options.read_units, Due.READ, 0)
        if options.faults.interval:
            self._schedule(options.faults.interval, Due.NEMESIS, 0)

    def _schedule(self, units: int, what: Due, node: int, detail: object = None) -> None:
        self._sequence = sequence = self._sequence + 1
        heappush(self._due, (self.now + units, sequence, what, node, detail))

    # --- hooks ------------------------------------------------------------------------------

    def on_start(self, member: Member) -> None:
        """Its clock begins to tick, as fast as this clock does."""
        skew = self.faults.clock_skew
        member.tick_units = TICK + (self.choices.choose(2 * skew + 1) - skew if skew else 0)
        self._schedule(1 + self.choices.choose(TICK), Due.TICK, member.id, member.incarnation)

    def on_message(self, message: Message) -> None:
        """Schedule its arrival, twice or never if the network is in that mood."""
        if self.writer is not None:
            number = self.writer.event(
                self.now, f"n{message.sender}", Kind.SEND, message, peer=f"n{message.to}"
            )
            self._sent[id(message)] = (number, message)
        if self.network.reaches(message.sender, message.to):
            delays = self.network.delays(self.choices)
            born = (self._incarnation(message.sender), self._incarnation(message.to))
            for delay in delays:
                self._schedule(delay, _DUE_MESSAGE, message.to, (message, born))
            if delays:
                if isinstance(message, InstallSnapshot):
                    self._report_snapshot(message, delays[0], delivered=True)
                return
        self._lost(message)

    def _passes(self, message: Message, kind: Kind) -> None:
        """Tell what became of a message."""
        if self.writer is not None:
            number, _ = self._sent.get(id(message), (None, message))
            here, there = f"n{message.to}", f"n{message.sender}"
            if kind is Kind.LOST:
                here, there = there, here
            self.writer.event(self.now, here, kind, message, peer=there, message=number)

    def _lost(self, message: Message) -> None:
        self.marks["message lost"] += 1
        self.note("lost", message=message)
        self._passes(message, Kind.LOST)
        if isinstance(message, InstallSnapshot):
            self._report_snapshot(message, TICK, delivered=False)
        elif not self.choices.chance(self.faults.unreported):
            self._schedule(1, Due.UNREACHABLE, message.sender, message.to)

    def _report_snapshot(self, message: InstallSnapshot, delay: int, *, delivered: bool) -> None:
        forgettable = self.options.number("snapshot_timeout_ticks") > 0
        if forgettable and self.choices.chance(self.faults.unreported):
            return
        status = SnapshotStatus(message.to, delivered)
        self._schedule(delay + 1, Due.SNAPSHOT_STATUS, message.sender, status)

    def on_write(self, member: Member, write: Write) -> None:
        """Schedule its completion: in order, so never before those ahead of it."""
        units = 1
        if self.faults.disk_units:
            units += self.choices.choose(self.faults.disk_units + 1)
            if self.choices.chance(self.faults.disk_stalls):
                units *= 10
        done = max(self.now + units, self._busy_until.get(member.id, 0))
        self._busy_until[member.id] = done
        self._schedule(done - self.now, Due.WRITE, member.id, (member.incarnation, write))

    def on_pages(self, member: Member) -> None:
        """Schedule their application."""
        units = 0
        if self.faults.apply_units:
            units = self.choices.choose(self.faults.apply_units + 1)
        self._schedule(units, Due.APPLY, member.id, member.incarnation)

    def _restart_after(self, member: Member, units: int) -> None:
        self._busy_until.pop(member.id, None)
        self._schedule(units, Due.RESTART, member.id)

    # --- time -------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """The safety phase: until so many steps are taken, or nobody is left to take any."""
        quiet = 0
        while self.steps < steps and quiet < _QUIET_TURNS_MAX:
            taken = self.steps
            self.turn()
            quiet = quiet + 1 if self.steps == taken else 0

    def turn(self) -> None:
        """The next thing that is due happens."""
        time, sequence, what, node, detail = heappop(self._due)
        self.now = time
        member = self.members.get(node)
        if member is not None and member.paused_until:
            if member.paused_until > time and what is not Due.RESTART:
                heappush(self._due, (member.paused_until, sequence, what, node, detail))
                return
            member.paused_until = 0
            if self.writer is not None and member.alive:
                self.note("goes on", member, kind=Kind.RESUME)
        if self.choices.begin(time, what, node) and not self._recovering:
            self._left_out(what, node, detail)
        elif member is None:
            self._outside(what)
        elif what is _DUE_TICK:
            if member.incarnation == detail and member.alive:
                self._schedule(member.tick_units, what, node, detail)
                self.feed(member, _TICK)
                self._work_soon(member)
        elif what is _DUE_MESSAGE:
            self._arrive(member, detail)
        elif what is _DUE_WRITE:
            self._written(member, detail)
        else:
            self._inside(member, what, detail)
        if not sequence & _SWEEP_MASK:
            self.checker.sweep()

    def _left_out(self, what: Due, node: int, detail: object) -> None:
        """It does not happen this time; what happens again and again will be due again.

        What a world owes its members comes in the recovery.
        """
        if what in _NEVER_LOST:
            self._put_off.append((what, node, detail))
        elif what is Due.MESSAGE:
            message, _ = cast("tuple[Message, tuple[int, int]]", detail)
            if isinstance(message, InstallSnapshot):
                # Its sender was told, or will be, what became of it.
                self._put_off.append((what, node, detail))
                return
            self.note("lost", message=message)
            self._passes(message, Kind.LOST)
        elif what is Due.TICK:
            member = self.members[node]
            if member.incarnation == detail and member.alive:
                self._schedule(member.tick_units, Due.TICK, node, detail)
        elif what is Due.PROPOSE:
            self._schedule(self.options.propose_units, what, node)
        elif what is Due.READ:
            self._schedule(self.options.read_units, what, node)
        elif what is Due.NEMESIS and self.faults.interval:
            self._schedule(self.faults.interval, what, node)

    def _work_soon(self, member: Member) -> None:
        """Do what the core asks for, or leave it for its next input."""
        lazy = self.faults.lazy_ready
        if not lazy or not self.choices.chance(lazy):
            self.work(member)

    def _arrive(self, member: Member, detail: object) -> None:
        message, born = cast("tuple[Message, tuple[int, int]]", detail)
        if not member.alive or self._is_of_the_dead(member, message, born):
            return
        if not self.network.reaches(message.sender, message.to):
            self._lost(message)
            return
        self._passes(message, Kind.DELIVER)
        self.deliver(message)
        self._work_soon(member)

    def _incarnation(self, node: int) -> int:
        member = self.members.get(node)
        return 0 if member is None else member.incarnation

    def _is_of_the_dead(self, member: Member, message: Message, born: tuple[int, int]) -> bool:
        """Whether this is of an election that who asked for it forgot, and over for that.

        Transports end connections of an earlier boot when a new one speaks. All other messages may
        arrive as late as they like: the core has to bear it.
        """
        link = (member.id, message.sender)
        newest = self._met.get(link, 0)
        if born[0] > newest:
            self._met[link] = born[0]
        match message:
            case RequestVote():
                return born[0] < newest and self.members[message.sender].forgot
            case VoteResponse():
                return born[1] < member.incarnation and member.forgot
            case _:
                return False

    def _written(self, member: Member, detail: object) -> None:
        if not isinstance(detail, tuple):
            return
        incarnation, write = detail  # pyright: ignore[reportUnknownVariableType] - compared only
        queue = member.disk.queue
        if incarnation != member.incarnation or not any(one is write for one in queue):
            return
        count = 1
        for one in queue:
            if one is write:
                break
            count += 1
        # One sync may cover what was queued after it.
        count += self.choices.choose(len(queue) - count + 1)
        self.finish_writes(member, count)
        self._work_soon(member)

    def _inside(self, member: Member, what: Due, detail: object) -> None:
        if what is Due.RESTART:
            if not member.alive and not member.retired:
                self.restart(member)
                self.work(member)
            return
        if not member.alive:
            return
        if what is Due.APPLY:
            if detail == member.incarnation and member.pages:
                left = self.choices.choose(len(member.pages)) if self.faults.apply_units else 0
                self.apply(member, len(member.pages) - left)
                if member.pages:
                    self.on_pages(member)
        elif what is Due.SNAPSHOT_STATUS and isinstance(detail, SnapshotStatus):
            self.feed(member, detail)
        elif what is Due.UNREACHABLE and isinstance(detail, int):
            self.feed(member, Unreachable(detail))
        self._work_soon(member)

    def _outside(self, what: Due) -> None:
        if what is Due.PROPOSE:
            self._schedule(self.options.propose_units, Due.PROPOSE, 0)
            self._propose()
        elif what is Due.READ:
            self._schedule(self.options.read_units, Due.READ, 0)
            self._read()
        elif what is Due.NEMESIS and self.faults.interval:
            self._schedule(self.faults.interval, Due.NEMESIS, 0)
            self.nemesis.act()

    def _propose(self) -> None:
        member = self.leader()
        # Half of the time anybody: followers forward, and leaders that were left behind still take
        # it.
        if member is None or self.choices.choose(2) == 1:
            living = self.living()
            if not living:
                return
            member = living[self.choices.choose(len(living))]
        payloads: list[bytes] = []
        for _ in range(1 + self.choices.choose(3)):
            self._proposals += 1
            size = self.options.payload_bytes
            payloads.append(self._proposals.to_bytes(8, "big").ljust(size)[:size])
        self.propose(member, tuple(payloads))
        self._work_soon(member)

    def _read(self) -> None:
        living = self.living()
        # Half of the time whoever takes itself for the leader: one left behind must not answer.
        leaders = [member for member in living if member.state.role is Role.LEADER]
        asked = leaders if leaders and self.choices.choose(2) == 1 else living
        if asked:
            member = asked[self.choices.choose(len(asked))]
            self.read(member, lease=self.options.lease_reads)
            self._work_soon(member)

    # --- recovery ---------------------------------------------------------------------------

    def recover(self) -> None:
        """The liveness phase: I53 if the members do not agree in time, I54 on term inflation."""
        self._recovering = True
        for what, node, detail in self._put_off:
            self._schedule(1, what, node, detail)
        self.choices.begin()
        self.faults = self.network.faults = Faults()
        self.nemesis.mend()
        self._choose_core()
        under_way = [due for due in self._due if due[2] in (Due.MESSAGE, Due.WRITE)]
        self._calm_at = max([self.now, *(due[0] for due in under_way)])
        self._calm_term = None
        for member in self.members.values():
            member.paused_until = 0
            # A clock twice as fast as that of the only member with the whole log starves it for
            # ever where nobody asks for pre-votes.
            member.tick_units = TICK
            if not member.alive and not member.retired:
                self.restart(member)
        for member in self.living():
            self.work(member)
        election = self.options.election_ticks * TICK
        patience = self.now + HALT_ELECTIONS * election
        deadline = self.now + RECOVERY_ELECTIONS * election
        # A peer whose snapshot's fate nobody reported is only tried again after its time.
        deadline += 2 * TICK * self.options.number("snapshot_timeout_ticks")
        deadline += self.options.catching_up_units(self._lag())
        goal = 0
        while True:
            until = self.now + election
            while self.now < until:
                self.turn()
            self._judge_terms()
            self._tidy()
            self.damage.repair()
            goal = goal or self._goal()
            if goal and self._agree(goal):
                break
            if self.now > patience and not self.damage.goes_on():
                self.marks["safe halt"] += 1
                break
            if self.now > deadline:
                raise broken("I53", f"no agreement on {goal} in {RECOVERY_ELECTIONS} elections")
        self.checker.sweep()
        self.marks["recovered"] += 1

    def _choose_core(self) -> None:
        """Who stays dead: nobody, or as many as every configuration that may come can spare."""
        if not self.choices.choose(2) or any(
            # Who is to become whole may need an answer of every other voter.
            one.recovers
            for one in self.members.values()
        ):
            return
        possible = [one for member in self.members.values() for one in memberships(member.state)]
        for member in list(self.members.values()):
            if not self.choices.choose(3):
                continue
            rest = [one.id for one in self.members.values() if one is not member]
            rest = [node for node in rest if not self.members[node].retired]
            if all(is_quorum(one, rest) for one in possible):
                self._retire(member)
                self.marks["left dead"] += 1

    def _retire(self, member: Member) -> None:
        if member.alive:
            self.crash(member, 0)
        member.retired = True

    def _tidy(self) -> None:
        """What an operator does: stop removed members, finish a joint change."""
        newest = self.checker.newest_membership
        if newest is not None and self._all_know(newest):
            # Not before: who has not applied the change may need the vote of whom it removes.
            for node in sorted(self.checker.removed):
                if not self.members[node].retired:
                    self._retire(self.members[node])
        leader = self.leader()
        if leader is not None and leader.state.membership.is_joint:
            self.propose_change(leader, MembershipChange(), single=False)
            self.work(leader)

    def _goal(self) -> int:
        """Once a leader of the newest term commits: an index that everybody must reach."""
        leader = self.leader()
        if leader is None or leader.state.commit < 1:
            return 0
        log = leader.state.log
        if log.term_at(leader.state.commit) != leader.state.term:
            return 0
        return log.last_index

    def _agree(self, goal: int) -> bool:
        newest = self.checker.newest_membership
        if newest is None or newest.is_joint or self.checker.last_committed < goal:
            return False
        return (
            self._all_know(newest)
            and self._all_whole(newest)
            and all(
                self.members[node].retired or self.members[node].machine.index >= goal
                for node in newest.members()
            )
        )

    def _lag(self) -> int:
        newest = self.checker.newest_membership
        known: tuple[int, ...] = () if newest is None else newest.members()
        ends = [one.disk.last_index for one in self.living() if one.id in known]
        return max(ends) - min(ends) if ends else 0

    def _all_whole(self, newest: Membership) -> bool:
        members = [self.members[node] for node in newest.members()]
        return all(one.retired or one.state.recovery is None for one in members)

    def _all_know(self, newest: Membership) -> bool:
        members = [self.members[node] for node in newest.members()]
        return all(one.retired or one.machine.membership == newest for one in members)

    def _judge_terms(self) -> None:
        # Split votes are chance, not inflation: only where timeouts are wide apart do two terms do.
        options = self.options
        asks = options.number("pre_vote") and options.number("check_quorum")
        if not asks or options.election_ticks < 10 or self.now < self._calm_at:
            return
        term = max(member.state.term for member in self.living())
        if self._calm_term is None:
            self._calm_term = term
        elif term > self._calm_term + 2:
            raise broken("I54", f"from term {self._calm_term} to {term} while nothing was wrong")


_TICK = Tick()


def simulate(seed: int, steps: int, *, options: Options | None = None) -> Outcome:
    """The world of a seed (or the given one, with the seed's decisions), run once."""
    return run(SeededChoices(seed), steps, options=options)


def replay(
    decisions: Decisions, steps: int, *, options: Options | None = None, keep: int | None = 500
) -> Outcome:
    """A recorded run, or any part of one, run again."""
    return run(ReplayedChoices(decisions), steps, options=options, keep=keep)


def run(
    choices: Choices,
    steps: int,
    *,
    options: Options | None = None,
    keep: int | None = 500,
    writer: StoryWriter | None = None,
) -> Outcome:
    """One run of ``steps`` and a recovery. Errors of every kind become its finding."""
    drawn = draw_options(choices) if options is None else options
    trace = Trace(keep)
    simulation = Simulation(drawn, choices, trace)
    simulation.writer = writer
    finding, cause = None, None
    # States are trees: there is next to nothing for the collector to find in a run.
    collects = gc.isenabled()
    gc.disable()
    try:
        simulation.run(steps)
        simulation.recover()
    except ViolationError as violation:
        finding = Finding(violation.invariant, violation.broken, simulation.steps)
        cause = violation
    except Exception as error:  # whatever the core raises is a finding
        finding = Finding(name_of(error), str(error), simulation.steps)
        cause = error
    finally:
        if collects:
            gc.enable()
    if writer is not None and finding is not None:
        writer.violation(simulation.now, None, finding.invariant, finding.broken)
    return Outcome(
        drawn,
        choices,
        simulation.steps,
        simulation.now,
        simulation.marks,
        finding,
        cause,
        trace,
        options is None,
        steps,
    )


__all__ = ["Due", "Finding", "Outcome", "Simulation", "replay", "run", "simulate"]
