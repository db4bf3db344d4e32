"""The process that tries a mutant: it runs in a mutated copy of the tree, and says what it saw.

``python -m raftkv.testing.mutants.worker JOB`` with the copy as its directory. JOB is a JSON file:
the modules that were changed, the catchers, whether to go on after the first sighting, and where to
write. What is written are JSON objects, a line each: one for each sighting, one for each catcher
that is done, and one if something could not be tried at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Final, assert_never

import pytest
from attrs import asdict

import raftkv
from raftkv.testing import simulation as cores
from raftkv.testing.explore.scopes import SCOPES, WALKED
from raftkv.testing.explore.search import Limits, explore
from raftkv.testing.explore.walks import walk_all
from raftkv.testing.mutants.catchers import (
    ByNodes,
    ByScope,
    BySeeds,
    ByTest,
    Catcher,
    parse_catcher,
)
from raftkv.testing.mutants.judgement import Sighting, in_words, is_judgement
from raftkv.testing.mutants.watch import Watch
from raftkv.testing.mutants.worlds import WORLDS
from raftkv.testing.nodes import run as nodes

SIGHTINGS_MAX: Final = 5  # of one catcher; more would say the same
_TESTS_RAN: Final = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)

Say = Callable[[str, object], None]
"""Writes one line: what it is about, and the object."""


def work(modules: Sequence[str], catchers: Sequence[Catcher], *, every: bool, say: Say) -> None:
    """Try the catchers in order; unless ``every``, until one sees something and judges it."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # whatever a broken module raises
            say("broken", f"{name} cannot be imported: {in_words(error)}")
            return
    began = perf_counter()
    for is_test, group in groupby(catchers, lambda one: isinstance(one, ByTest)):
        run = _tests if is_test else _runs
        if run(tuple(group), every, began, say) and not every:
            return


def _runs(catchers: Iterable[Catcher], every: bool, began: float, say: Say) -> bool:
    for one in catchers:
        seen = 0
        for catcher, invariant, broken in _broken(one):
            told = Sighting(
                catcher=str(catcher),
                what=f"{invariant}: {broken}",
                is_judged=is_judgement(invariant, broken),
                seconds=perf_counter() - began,
            )
            say("seen", asdict(told))
            seen += told.is_judged
            if seen >= (SIGHTINGS_MAX if every else 1):
                break
        say("done", str(one))
        if seen and not every:
            return True
    return False


def _broken(catcher: Catcher) -> Iterator[tuple[Catcher, str, str]]:
    """What is broken, one after the other: the run that shows it, the invariant, the words."""
    match catcher:
        case BySeeds():
            world = WORLDS[catcher.world] if catcher.world else None
            for seed in range(catcher.first, catcher.stop):
                found = cores.simulate(seed, catcher.steps, options=world).finding
                if found is not None:
                    yield catcher.only(seed), found.invariant, found.broken
        case ByNodes():
            for seed in range(catcher.first, catcher.stop):
                found = nodes.simulate(seed, catcher.steps).finding
                if found is not None:
                    yield catcher.only(seed), found.invariant, found.broken
        case ByScope():
            scope = SCOPES[catcher.name]
            if scope in WALKED:
                met = walk_all(scope, range(catcher.stop)).broken
            else:
                met = explore(scope, Limits(states=catcher.stop)).broken
            if met is not None:
                yield catcher, met.invariant, met.broken
        case ByTest():
            raise TypeError("tests are run by pytest")
        case _:
            assert_never(catcher)


def _tests(catchers: Iterable[Catcher], every: bool, began: float, say: Say) -> bool:
    nodes = [one.node for one in catchers if isinstance(one, ByTest)]

    def told(node: str, what: str, is_judged: bool) -> None:
        seen = Sighting(str(ByTest(node)), what, is_judged, perf_counter() - began)
        say("seen", asdict(seen))

    watch = Watch(told)
    arguments = ["-p", "no:cacheprovider", "-q", "--no-header", "--tb=no", "--timeout=60"]
    # raftkv is imported before pytest looks at its plugins, and with it anyio, which is one.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if not every:
        arguments.append("--maxfail=1")
    status = pytest.main([*arguments, *nodes], plugins=[watch])
    if status not in _TESTS_RAN and not watch.red:
        say("broken", f"pytest could not run {', '.join(nodes)}: {pytest.ExitCode(status).name}")
    for node in nodes:
        say("done", str(ByTest(node)))
    return watch.judged > 0


def main(job: Path) -> int:
    """Do what the job says; 0 if it could be done."""
    told = json.loads(job.read_text(encoding="utf-8"))
    with Path(told["out"]).open("a", encoding="utf-8") as out:

        def say(about: str, what: object) -> None:
            out.write(json.dumps({about: what}) + "\n")
            out.flush()

        here = Path.cwd().resolve()
        if here not in Path(raftkv.__file__).resolve().parents:
            say("broken", f"the worker in {here} imports raftkv from {raftkv.__file__}")
            return 2
        catchers = tuple(parse_catcher(one) for one in told["catchers"])
        work(told["modules"], catchers, every=told["every"], say=say)
        say("end", True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
