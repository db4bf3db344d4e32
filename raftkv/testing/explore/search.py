"""Every world that can be reached, breadth first: the first violation found is a shortest one.

What may still happen is no part of what a world is. Whatever follows where less is left also
follows where more is left, so a world that is met again with no more left than before is not
explored again: that a message was lost which would have been ignored is nothing new.

A world that was met is remembered by its 64-bit hash. Two worlds with one hash would be taken for
one: of ten million worlds, two share one with a probability of about three in a million.
"""

from __future__ import annotations

import resource
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

from attrs import define, field, frozen

from raftkv.testing.explore.guide import Guide, LostError, lead
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.space import SHIFT, Deed, Space, World
from raftkv.testing.explore.symmetry import Symmetry
from raftkv.testing.invariants import ViolationError

_LOOK_EVERY: Final = 2048  # worlds between two looks at the limits
_NOWHERE: Final = 2**32 - 1


@frozen(slots=True)
class Broken:
    """A violation, and the deeds that lead to it from the very beginning."""

    invariant: str
    broken: str
    path: tuple[Deed, ...]


@define
class Explored:
    """What an exploration came to."""

    name: str
    states: int = 0
    """Distinct worlds, whatever may still happen in them."""
    generated: int = 0
    """Worlds led to, those met before included."""
    computed: int = 0
    """Inputs that the core took: all else was known from other worlds."""
    depth: int = 0
    """Events after the prefix, on a shortest way to the farthest world."""
    frontier: int = 0
    """Worlds whose future is not explored yet."""
    complete: bool = False
    """Whether every world of the scope was met."""
    stopped: str = ""
    """Why it is not complete."""
    seconds: float = 0.0
    rss_mib: int = 0
    broken: Broken | None = None

    @property
    def per_second(self) -> int:
        """Worlds led to in a second."""
        return round(self.generated / self.seconds) if self.seconds else 0


@frozen(kw_only=True)
class Limits:
    """When to give up."""

    states: int | None = None
    seconds: float | None = None


@define
class _Met:
    """Every world that was met: how it was met first."""

    parents: array[int] = field(factory=lambda: array("I"))
    deeds: array[int] = field(factory=lambda: array("I"))

    def add(self, parent: int, code: int) -> int:
        self.parents.append(parent)
        self.deeds.append(code)
        return len(self.parents) - 1

    def way_to(self, number: int) -> list[int]:
        codes: list[int] = []
        while self.parents[number] != _NOWHERE:
            codes.append(self.deeds[number])
            number = self.parents[number]
        return codes[::-1]


class Exploration:
    """One exploration of a scope."""

    def __init__(
        self,
        scope: Scope,
        limits: Limits | None = None,
        on_progress: Callable[[Explored], None] | None = None,
    ) -> None:
        self.scope = scope
        self.limits = limits or Limits()
        self.result = Explored(scope.name)
        self._on_progress = on_progress
        self._space = Space(scope)
        self._symmetry = Symmetry(self._space)
        self._met = _Met()
        self._seen: dict[int, int | tuple[int, ...]] = {}
        """Worlds, and the budgets that were left in them: those that others do not cover."""
        self._first: World = ()
        self._prefix: tuple[Deed, ...] = ()

    def run(self) -> Explored:
        """Explore until everything was met, something is broken, or a limit is reached."""
        began = perf_counter()
        result = self.result
        guide = Guide(self._space)
        try:
            lead(guide)
        except LostError as lost:
            result.stopped = f"its prefix leads nowhere: {lost}"
        except Exception as error:  # what breaks on the way there is a finding as well
            result.broken = as_broken(error, tuple(guide.deeds))
        else:
            self._first, self._prefix = guide.world, tuple(guide.deeds)
            self._explore(began)
        result.computed = self._space.computed
        self._look(began)
        return result

    def _explore(self, began: float) -> None:
        result, depth_max = self.result, self.scope.depth_max
        least = self._symmetry.least(self._first)
        self._is_new(least)
        frontier = [(least, self._met.add(_NOWHERE, 0))]
        while frontier:
            if result.depth == depth_max:
                result.stopped = f"depth {depth_max}"
                result.complete = True
                return
            following: list[tuple[World, int]] = []
            for place, (world, number) in enumerate(frontier):
                if not place % _LOOK_EVERY:
                    result.frontier = len(frontier) - place + len(following)
                    if not self._look(began):
                        return
                if not self._expand(world, number, following):
                    return
            frontier = following
            result.depth += bool(following)
        result.frontier = 0
        result.complete = True

    def _expand(self, world: World, number: int, following: list[tuple[World, int]]) -> bool:
        """Add what follows on a world and was not met; False if something is broken there."""
        space, least, is_new = self._space, self._symmetry.least, self._is_new
        after = space.after
        codes = space.codes(world)
        self.result.generated += len(codes)
        for code in codes:
            try:
                child = least(after(world, code))
            except Exception as error:  # the core's own alarms, too, are findings
                self.result.broken = self._judged(number, code, error)
                return False
            if is_new(child):
                following.append((child, self._met.add(number, code)))
        return True

    def _is_new(self, world: World) -> bool:
        """Whether a world was never met with at least as much left; it is from now on."""
        key, left = hash(world[:-1]), world[-1]
        known = self._seen.get(key)
        if known is None:
            self._seen[key] = left
            return True
        covers = self._space.covers
        if isinstance(known, int):
            if covers[known << SHIFT | left]:
                return False
            self._seen[key] = left if covers[left << SHIFT | known] else (known, left)
            return True
        for one in known:
            if covers[one << SHIFT | left]:
                return False
        self._seen[key] = (*[one for one in known if not covers[left << SHIFT | one]], left)
        return True

    def _look(self, began: float) -> bool:
        """Note how far it is; False if that is far enough."""
        result, limits = self.result, self.limits
        result.states = len(self._seen)
        result.seconds = perf_counter() - began
        result.rss_mib = rss_mib()
        if self._on_progress is not None:
            self._on_progress(result)
        if limits.states is not None and result.states >= limits.states:
            result.stopped = f"{limits.states} states"
        elif limits.seconds is not None and result.seconds >= limits.seconds:
            result.stopped = f"{limits.seconds:.0f} s"
        return not result.stopped

    def _judged(self, number: int, code: int, error: Exception) -> Broken:
        path = self._real([*self._met.way_to(number), code])
        # Told again by the names of the path: those of the standing world are others.
        error = violation_on(self._space, path) or error
        return as_broken(error, path)

    def _real(self, codes: Sequence[int]) -> tuple[Deed, ...]:
        """The deeds under the names of the beginning, those of the prefix included."""
        space, symmetry = self._space, self._symmetry
        which = symmetry.naming(self._first)
        world = symmetry.renamed(self._first, which)
        # By the names of the standing world: the real ones.
        names = {new: old for old, new in symmetry.namings[which].names.items()}
        path = list(self._prefix)
        for place, code in enumerate(codes):
            deed = Deed.of(code)
            peer = names.get(deed.peer, 0)
            path.append(Deed(deed.act, names[deed.node], peer, deed.number))
            if place + 1 == len(codes):
                break
            world = space.after(world, code)
            which = symmetry.naming(world)
            world = symmetry.renamed(world, which)
            renamed = symmetry.namings[which].names
            names = {renamed[standing]: real for standing, real in names.items()}
        return tuple(path)


def rss_mib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def as_broken(error: Exception, path: tuple[Deed, ...]) -> Broken:
    """What an error at the end of a path says about the core."""
    if isinstance(error, ViolationError):
        return Broken(error.invariant, error.broken, path)
    return Broken(type(error).__name__, str(error), path)


def violation_on(space: Space, path: Sequence[Deed]) -> Exception | None:
    """What goes wrong on a path from the very beginning."""
    world = space.first()
    for deed in path:
        try:
            world = space.after(world, deed.code, free=True)
        except Exception as error:  # whatever the core raises is a finding
            return error
    return None


def explore(
    scope: Scope,
    limits: Limits | None = None,
    on_progress: Callable[[Explored], None] | None = None,
) -> Explored:
    """Explore a scope."""
    return Exploration(scope, limits, on_progress).run()
