"""Changes of membership amid partitions and kills: whoever is a member in the end agrees on it.

The driver never believes the answer to a change alone: after each it asks the leader who is a
member now, starts who should run and waits for the end of who was removed.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from random import Random
from typing import Final, cast

from attrs import define, field

from raftkv.testing.campaigns.cluster import (
    START_SECONDS_MAX,
    Cluster,
    DiedError,
    Json,
    started,
)
from raftkv.testing.campaigns.frame import Case, Facts, FindingError
from raftkv.testing.campaigns.killpoints import SIDES
from raftkv.testing.campaigns.namespaces import Network, network
from raftkv.testing.campaigns.partitions import CUTS, in_namespaces

_FOUNDERS: Final = ("n1", "n2", "n3")
_CHANGES: Final = 5
_NAMES: Final = tuple(f"n{number}" for number in range(1, len(_FOUNDERS) + _CHANGES + 1))
_VOTERS_MIN: Final = 2
_MEMBERS_MAX: Final = 5
_CHANGE_SECONDS: Final = 5.0
_SETTLE_SECONDS_MAX: Final = 60.0


def change_members(case: Case) -> Facts:
    """Five changes, most of them amid a partition, some of them beside a kill."""
    random = case.random("changes")
    with network(_NAMES) as net:
        made = in_namespaces(case, net, random, founders=_FOUNDERS)
        made.may_end = True
        with started(made, _FOUNDERS):
            made.work()
            changing = _Changing(net, made, random, list(_NAMES[len(_FOUNDERS) :]))
            for _ in range(_CHANGES):
                time.sleep(random.uniform(0.1, 0.4))
                changing.one()
            changing.settle(at_the_end=True)
            made.rest()
            made.converge()
            changing.agree()
            made.check()
            made.stop()
            return made.facts


@define
class _Changing:
    """A cluster whose membership changes, and what is known of it."""

    net: Network
    made: Cluster
    random: Random
    spare: list[str]
    """Names that nobody has had yet."""
    ids: dict[str, int] = field(factory=dict[str, int])
    """Of the members as they were told last."""
    removed: set[int] = field(factory=set[int])
    rising: dict[str, str] = field(factory=dict[str, str])
    """Who was added to become a voter, and in whose place, who then has to go."""
    gone: set[str] = field(factory=set[str])
    """Who is dead and shall stay so, as somebody is to take its place."""
    deadly: dict[str, int] = field(factory=dict[str, int])
    """Processes that die where they apply their next change."""

    def one(self) -> None:
        """One change, what happens meanwhile, and how things stand afterwards."""
        random, made = self.random, self.made
        members = self.settle()
        voters = sorted(name for name, (_, votes) in members.items() if votes)
        learners = sorted(members.keys() - set(voters))
        kind, command = self._draw(voters, learners)
        made.facts[f"asked: {kind}"] += 1
        asked = made.leader() if random.random() < 0.5 else None
        asked = asked or random.choice(sorted(made.running))
        # Before the change, so that it meets the partition; or after, so that catching up does.
        is_cut_first = random.random() < 0.5
        if random.random() < 0.5:
            self._arm(random.choice(sorted(made.running)))
        if is_cut_first:
            self._cut()
        number = made.running[asked].tell(command)
        if not is_cut_first and random.random() < 0.7:
            time.sleep(random.uniform(0.0, 0.1))
            self._cut()
        time.sleep(random.uniform(0.0, 1.0))
        if random.random() < 0.3:
            self._kill(asked)
        self.net.heal()
        self._note(kind, asked, number)

    def _draw(self, voters: list[str], learners: list[str]) -> tuple[str, Json]:
        random = self.random
        kinds = (
            ["add", "add learner", "replace"] if len(voters) + len(learners) < _MEMBERS_MAX else []
        )
        kinds += ["promote"] * 3 if learners else []
        kinds += ["remove", "remove leader"] if len(voters) > _VOTERS_MIN else []
        kind = random.choice(kinds)
        words: Json = {"timeout": _CHANGE_SECONDS}
        if kind in ("add", "add learner"):
            words |= self._new() | {"do": "add", "promote": kind == "add"}
            if kind == "add":
                self.rising[str(words["name"])] = ""
        elif kind == "replace":
            old = random.choice(voters)
            if len(voters) > _VOTERS_MIN and old in self.made.running and random.random() < 0.5:
                self.made.kill([old])
                self.gone.add(old)
            words |= self._new() | {"do": "replace", "member": old}
            self.rising[str(words["name"])] = old
        elif kind == "promote":
            words |= {"do": "promote", "member": random.choice(learners)}
        else:
            leader = self.made.leader() if kind == "remove leader" else None
            words |= {"do": "remove", "member": leader or random.choice(voters)}
        return kind, words

    def _new(self) -> Json:
        name = self.spare.pop(0)
        return {"name": name, "address": self.made.addresses[name]}

    def _cut(self) -> None:
        kind = self.random.choice(sorted(CUTS))
        CUTS[kind](self.net, self.made, self.random)
        self.made.facts["cuts"] += 1

    def _kill(self, asked: str) -> None:
        others = sorted(self.made.running.keys() - {asked})
        if others:
            victim = self.random.choice(others)
            self.made.kill([victim])

    def _arm(self, name: str) -> None:
        """Have a member die before or after the next change it applies, where it applies it."""
        process = self.made.running[name]
        side = self.random.choice(SIDES)
        with suppress(DiedError):
            process.ask("arm", at=f"change.{side}:1")
            self.deadly[name] = process.pid

    def _note(self, kind: str, asked: str, number: int) -> None:
        """How the change was answered; who was removed, or died of it, may have no answer."""
        try:
            told = self.made.running[asked].hear(number, _CHANGE_SECONDS + START_SECONDS_MAX)
        except DiedError:
            self.made.facts["not answered: removed or dead"] += 1
            return
        if "error" in told:
            self.made.facts[f"not done: {told['reason']}"] += 1
            self.gone.clear()
        else:
            self.made.facts[f"done: {kind}"] += 1

    # --- how things stand -----------------------------------------------------------------------

    def settle(self, *, at_the_end: bool = False) -> dict[str, tuple[int, bool]]:
        """Wait until members run and others do not. Who is a member, its id, whether it votes.

        ``at_the_end``, also until who was to become a voter is one.
        """
        began = time.monotonic()
        while True:
            self._bury_removed()
            told = self._members()
            if told is not None:
                self._remember(told)
                self.gone &= told.keys()
            missing = self.ids.keys() - self.made.running.keys() - self.gone
            self._start(sorted(missing))
            if told is not None and not missing and not self.made.running.keys() - told.keys():
                waiting = [
                    new
                    for new, old in self.rising.items()
                    if new in told and (old in told or not told[new][1])
                ]
                if not (at_the_end and waiting):
                    return told
            waited = time.monotonic() - began
            if waited > _SETTLE_SECONDS_MAX / 2:
                self.gone.clear()  # without them there is no majority: they come back after all
            if waited > _SETTLE_SECONDS_MAX:
                raise FindingError(
                    f"{_SETTLE_SECONDS_MAX:.0f} s after a change these run:"
                    f" {sorted(self.made.running)}, and these are members: {told}"
                )
            time.sleep(0.05)

    def _members(self) -> dict[str, tuple[int, bool]] | None:
        """As the leader tells once it has proved to lead; None while nobody does."""
        leader = self.made.leader()
        if leader is None:
            return None
        try:
            process = self.made.running[leader]
            if "error" in process.ask("catch up", timeout=_CHANGE_SECONDS):
                return None
            answer = process.ask("members")
        except DiedError:  # it removed itself just now
            return None
        told = cast("dict[str, list[int]]", answer.get("members", {}))
        return {name: (one, bool(votes)) for name, (one, votes) in told.items()} or None

    def _remember(self, told: dict[str, tuple[int, bool]]) -> None:
        for name, (one, _) in told.items():
            if one in self.removed:
                raise FindingError(f"the removed id {one:x} is back, as {name}")
            self.ids[name] = one
        for name in self.ids.keys() - told.keys():
            self.removed.add(self.ids.pop(name))

    def _start(self, names: list[str]) -> None:
        for name in names:
            if name in _FOUNDERS:
                self.made.start([name])
            else:
                known = [self.made.addresses[one] for one in sorted(self.made.running)]
                self.made.start([name], join=known)
                self.made.facts["joins"] += 1
            # It may have been removed while it was away: then it ends at once.
            with suppress(DiedError):
                self.made.await_serving([name])

    def _bury_removed(self) -> None:
        """Who heard of its removal ends by itself and says so; nobody else may."""
        for name in sorted(self.made.running):
            if self.made.running[name].is_alive:
                continue
            process = self.made.running.pop(name)
            status = process.bury()
            if status == -signal.SIGKILL and self.deadly.pop(name, 0) == process.pid:
                self.made.facts["killed at a change"] += 1
                continue
            log = (self.made.case.directory / f"{name}.log").read_text(encoding="utf-8")
            if "RemovedError" not in log:
                raise FindingError(f"member {name} ended by itself, and was not removed")
            self.made.facts["removed ones ended"] += 1

    def agree(self) -> None:
        """All members know the same members, by the same ids, and the same voters."""
        views = {
            name: process.ask("members")["members"] for name, process in self.made.running.items()
        }
        first = next(iter(views.values()))
        if any(view != first for view in views.values()):
            raise FindingError(f"members disagree on who is one: {views}")
