"""What is done to a cluster of whole nodes on purpose, while clients use it.

One act at a time, as the options weigh them and the choices pick; what follows later (a restart,
the end of a pause) is decided with the act, so that leaving an act out leaves out all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from raftkv.errors import Error
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.options import Options
from raftkv.testing.nodes.stage import Stage

_JUMPS_SECONDS: Final = (3600, -3600, 10 * 365 * 86400, -10 * 365 * 86400, 1, -1)


class Nemesis:
    """Acts now and then, until it is over."""

    def __init__(self, stage: Stage, options: Options, choices: Choices) -> None:
        self.stage = stage
        self.options = options
        self.choices = choices
        faults = options.faults
        acts: list[tuple[int, Callable[[], None]]] = [
            (faults.crash, self.crash),
            (faults.stop, self.stop),
            (faults.partition, self.partition),
            (faults.pause, self.pause),
            (faults.wall_jump, self.wall_jump),
            (faults.slow_disk, self.slow_disk),
            (faults.transfer, self.transfer),
            (faults.membership, self.change_membership),
            (faults.cancelled_opening, self.cancel_opening),
            (faults.damage, self.damage),
        ]
        # Position 0 does nothing: the default of every choice is "no fault".
        self._weights = [1, *(weight for weight, _ in acts)]
        self._acts = [_nothing, *(act for _, act in acts)]

    @property
    def marks(self) -> Counter[str]:
        """What was met."""
        return self.stage.marks

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Act after act."""
        interval = self.options.faults.interval_ms
        if not interval:
            return
        number = 0
        while not is_over():
            wait = 1 + interval // 2 + self.choices.choose(interval)
            await self.stage.sleep(wait / 1000)
            number += 1
            if not is_over() and not self.choices.begin("nemesis", number):
                self._acts[self.choices.weighted(self._weights)]()

    # --- who and for how long ---------------------------------------------------------------------

    def _some_member(self) -> str | None:
        """A running member, half of the time the leader."""
        names = self.stage.running()
        if not names:
            return None
        leader = self.stage.leading()
        if leader is not None and self.choices.choose(2):
            return leader
        return names[self.choices.choose(len(names))]

    def _while(self, elections: int = 3) -> float:
        """Some seconds, up to so many election timeouts."""
        return (1 + self.choices.choose(elections * self.options.election_ms)) / 1000

    # --- acts -------------------------------------------------------------------------------------

    def crash(self) -> None:
        """A member dies, or all at once, and comes back later."""
        everybody = self.choices.chance(100)
        one = self._some_member()
        if one is None:
            return
        for name in self.stage.running() if everybody else [one]:
            self.stage.crash(name)
            self.stage.later(self._while(), lambda name=name: self.stage.bring_up(name))

    def stop(self) -> None:
        """A member is closed in order, and comes back later."""
        name = self._some_member()
        if name is not None:
            seconds = self._while()

            async def stop_and_start() -> None:
                await self.stage.stop(name)
                await self.stage.sleep(seconds)
                await self.stage.bring_up(name)

            self.marks["orderly stop"] += 1
            self.stage.spawn(f"stop {name}", stop_and_start)

    def partition(self) -> None:
        """The network falls apart in one of the ways that networks do, or is mended."""
        stage, choices = self.stage, self.choices
        names = stage.names()
        kind = choices.choose(8)
        stage.heal()
        if kind <= 1 or len(names) < 2:
            return
        self.marks["partition"] += 1
        if stage.is_changing():
            self.marks["fault during a change"] += 1
        centre = stage.leading() or names[choices.choose(len(names))]
        if kind == 2:
            stage.cut_around(centre, inward=True, outward=True)
        elif kind == 3:
            inward = choices.choose(2) == 1
            self.marks["one-way partition"] += 1
            stage.cut_around(centre, inward=inward, outward=not inward)
        elif kind == 4:  # each reaches its neighbours only
            self.marks["ring partition"] += 1
            for place, one in enumerate(names):
                for other in names[place + 2 :]:
                    if (place, other) != (0, names[-1]):
                        stage.cut_between(one, other)
        elif kind == 5:
            self.marks["flapping"] += 1
            seconds = [self._while(1) for _ in range(2 + choices.choose(6))]
            stage.spawn("flapping", lambda: self._flap(centre, seconds))
        else:
            sides: tuple[list[str], list[str]] = ([], [])
            for name in names:
                sides[choices.choose(2)].append(name)
            if kind == 7:  # one member still reaches both sides
                self.marks["bridge partition"] += 1
                sides = (
                    [one for one in sides[0] if one != centre],
                    [one for one in sides[1] if one != centre],
                )
            stage.split(*sides)

    async def _flap(self, centre: str, seconds: list[float]) -> None:
        for number, wait in enumerate(seconds):
            if number % 2:
                self.stage.heal()
            else:
                self.stage.cut_around(centre, inward=True, outward=True)
            await self.stage.sleep(wait)
        self.stage.heal()

    def pause(self) -> None:
        """A member stands still, and goes on as if nothing had been."""
        name = self._some_member()
        if name is not None:
            self.stage.pause(name, asleep=self.choices.choose(4) == 1)

            async def resume() -> None:
                self.stage.resume(name)

            self.stage.later(self._while(), resume)

    def wall_jump(self) -> None:
        """A member's wall clock is set."""
        name = self._some_member()
        if name is not None:
            seconds = _JUMPS_SECONDS[self.choices.choose(len(_JUMPS_SECONDS))]
            self.stage.jump_wall(name, seconds)

    def slow_disk(self) -> None:
        """A member's disk takes its time, up to more than an election timeout for a sync."""
        name = self._some_member()
        if name is not None:
            slow = self._while(2)
            self.stage.slow_disk(name, slow)

            async def mend() -> None:
                self.stage.slow_disk(name, 0.0)

            self.stage.later(self._while(4), mend)

    def transfer(self) -> None:
        """Leadership is to be handed to anybody, themselves included."""
        name = self._some_member()
        names = self.stage.names()
        target = names[self.choices.choose(len(names))]
        if name is not None:
            self.marks["transfer"] += 1
            self._try(
                f"transfer to {target}",
                lambda: self.stage.node(name).transfer_leadership(target, timeout=1.0),
            )

    def change_membership(self) -> None:
        """A member is asked for some change, sensible or not."""
        stage, choices = self.stage, self.choices
        via = self._some_member()
        kind = choices.weighted((3, 1, 3, 2, 1))
        promote = choices.choose(3) != 1
        names = stage.names()
        target = names[choices.choose(len(names))]
        if via is None:
            return
        self.marks["change asked for"] += 1
        if kind <= 1 and len(names) < self.options.members_max:
            stage.spawn("join", lambda: stage.join(promote=promote))
        elif kind == 2:
            self._try(
                f"remove {target}", lambda: stage.node(via).members.remove(target, timeout=2.0)
            )
        elif kind == 3:
            self._try(
                f"promote {target}", lambda: stage.node(via).members.promote(target, timeout=2.0)
            )
        else:
            self._try(
                f"update {target}",
                lambda: stage.node(via).members.move(target, f"{target}:1", timeout=2.0),
            )

    def cancel_opening(self) -> None:
        """A member dies, and its first opening is given up half way."""
        name = self._some_member()
        if name is not None:
            down, patience = self._while(1), self.choices.choose(20) / 1000
            self.stage.crash(name)
            self.marks["opening cancelled"] += 1

            async def open_twice() -> None:
                await self.stage.cancelled_opening(name, patience)
                await self.stage.bring_up(name)

            self.stage.later(down, open_twice)

    def damage(self) -> None:
        """A member dies, and its disk is not what it was when it comes back."""
        name = self._some_member()
        if name is not None:
            down = self._while()
            if self.stage.damage(name):
                self.stage.later(down, lambda: self.stage.bring_up(name))

    def _try(self, what: str, body: Callable[[], Awaitable[object]]) -> None:
        async def attempt() -> None:
            try:
                await body()
                self.marks[f"{what.partition(' ')[0]} done"] += 1
            except Error as error:
                self.stage.note(f"{what}: {type(error).__name__}: {error}")

        self.stage.spawn(what, attempt)


def _nothing() -> None:
    """The act of doing nothing."""
