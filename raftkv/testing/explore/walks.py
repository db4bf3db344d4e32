"""Deep places, by walks with priorities (Burckhardt and others, 2010).

A walk gives every actor of a world (a link, a disk, a timer, a fault) a priority of its own, and
lets the first who can act do so, again and again. At a few moments, chosen beforehand, who acts
loses its rank. So one message overtakes a whole conversation as often as not, where an even choice
at each step nearly never lets it: a fault that needs d such moments among n steps and k actors is
found with a probability of at least 1 / (k * n ** (d - 1)) in each walk.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from raftkv.testing.choices import SeededChoices
from raftkv.testing.explore.guide import Guide, lead
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.search import Broken, Explored, Limits, as_broken, rss_mib
from raftkv.testing.explore.space import Act, Deed, Space

DEPTH: Final = 200
"""Deeds of a walk through a scope that names no depth."""
_MOMENTS_MAX: Final = 5
_RANKS: Final = 1 << 20
_SPACE_MAX: Final = 100_000
"""Members remembered between walks: then they are forgotten, lest memory grow for ever."""


def walk(space: Space, seed: int) -> tuple[int, Broken | None]:
    """One walk: how many deeds it took, and what it found broken."""
    choices = SeededChoices(seed)
    choices.begin()
    depth = space.scope.depth_max or DEPTH
    guide = Guide(space)
    lead(guide)
    world, path = guide.world, [*guide.deeds]
    moments = [choices.choose(depth) for _ in range(choices.choose(_MOMENTS_MAX + 1))]
    ranks: dict[tuple[int, int, int], int] = {}
    lowest = 0
    for taken in range(depth):
        best, chosen = -_RANKS, -1
        for code in space.codes(world):
            actor = _actor(code)
            rank = ranks.get(actor)
            if rank is None:
                rank = ranks[actor] = choices.choose(_RANKS)
            if rank > best:
                best, chosen = rank, code
        if chosen < 0:
            return taken, None
        if taken in moments:
            lowest -= 1
            ranks[_actor(chosen)] = lowest
        path.append(Deed.of(chosen))
        try:
            world = space.after(world, chosen)
        except Exception as error:  # the core's own alarms, too, are findings
            return taken + 1, as_broken(error, tuple(path))
    return depth, None


def _actor(code: int) -> tuple[int, int, int]:
    deed = Deed.of(code)
    # How many writes a crash keeps is another fault each time; which proposal it is, is not.
    number = deed.number if deed.act is Act.CRASH else 0
    return deed.act << 8 | number, deed.node, deed.peer


def walk_all(
    scope: Scope,
    seeds: range,
    limits: Limits | None = None,
    on_progress: Callable[[Explored], None] | None = None,
) -> Explored:
    """Many walks; ``states`` counts them, ``generated`` their deeds."""
    began = perf_counter()
    limits = limits or Limits()
    result = Explored(scope.name)
    space, computed = Space(scope), 0
    for seed in seeds:
        if len(space.locals) > _SPACE_MAX:
            computed += space.computed
            space = Space(scope)
        taken, result.broken = walk(space, seed)
        result.states += 1
        result.generated += taken
        result.computed = computed + space.computed
        result.depth = max(result.depth, taken)
        result.seconds = perf_counter() - began
        result.rss_mib = rss_mib()
        if on_progress is not None:
            on_progress(result)
        if result.broken is not None:
            return result
        if limits.seconds is not None and result.seconds >= limits.seconds:
            result.stopped = f"{limits.seconds:.0f} s"
            return result
    result.complete = True
    return result
