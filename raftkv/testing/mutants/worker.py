"""The process that tries a mutant: it runs in a mutated copy of the tree, and says what it saw.

``python -m raftkv.testing.mutants.worker JOB`` with the copy as its directory. JOB is a JSON file:
the modules that were changed, the catchers, whether to go on after the first sighting, and where to
write. What is written are JSON objects, a line each: one for each sighting, one for each catcher
that is done, and one if something could not be tried at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Final

import pytest
from attrs import asdict

import raftkv
from raftkv.testing import simulation as cores
from raftkv.testing.finding import Finding
from raftkv.testing.mutants.catchers import ByNodes, BySeeds, ByTest, Catcher, parse_catcher
from raftkv.testing.mutants.judgement import Sighting, in_words, is_invariant
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
        run = _tests if is_test else _seeds
        if run(tuple(group), every, began, say) and not every:
            return


def _seeds(catchers: Iterable[Catcher], every: bool, began: float, say: Say) -> bool:
    for one in catchers:
        assert not isinstance(one, ByTest)
        seen = 0
        for seed in range(one.first, one.stop):
            found = _finding(one, seed)
            if found is None:
                continue
            is_judged = is_invariant(found.invariant)
            what = f"{found.invariant}: {found.broken}"
            told = Sighting(str(one.only(seed)), what, is_judged, perf_counter() - began)
            say("seen", asdict(told))
            seen += is_judged
            if seen >= (SIGHTINGS_MAX if every else 1):
                break
        say("done", str(one))
        if seen and not every:
            return True
    return False


def _finding(catcher: BySeeds | ByNodes, seed: int) -> Finding | None:
    match catcher:
        case BySeeds():
            world = WORLDS[catcher.world] if catcher.world else None
            return cores.simulate(seed, catcher.steps, options=world).finding
        case ByNodes():
            return nodes.simulate(seed, catcher.steps).finding


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
