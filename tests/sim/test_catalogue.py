"""The catalogue of invariants says who looks at each; here that is held against the code."""

from __future__ import annotations

import inspect
import re
from importlib.util import find_spec

import pytest

from raftkv.errors import InvariantError
from raftkv.testing import invariants, simulate, simulation, world
from raftkv.testing.catalogue import INVARIANTS, Invariant
from raftkv.testing.explore import laws
from raftkv.testing.finding import name_of
from raftkv.testing.options import Faults, Options
from tests.source import modules

CORES = "".join(inspect.getsource(one) for one in (invariants, simulation, world))
RAISED = re.compile(r'(?:broken|ViolationError)\(\s*"(I\d+)"(?: if lease else "(I\d+)")?')
LIVE = {*(f"I{number}" for number in (*range(1, 9), 17, *range(26, 29), 30, 51))}


def numbers_in(text: str) -> set[str]:
    return {number for found in RAISED.findall(text) for number in found if number}


def test_every_invariant_is_in_it_once() -> None:
    numbers = [one.number for one in INVARIANTS]
    assert numbers == [f"I{number}" for number in range(1, 55)]
    raised = {
        number
        for module in modules("raftkv")
        if module.name.startswith("raftkv.testing")
        for number in numbers_in(module.text)
    }
    assert raised <= {*numbers}


@pytest.mark.parametrize("one", INVARIANTS, ids=lambda one: one.number)
def test_who_is_named_looks_at_it(one: Invariant) -> None:
    assert bool(one.cores) == (one.number in numbers_in(CORES))
    for name in filter(None, one.cores.split(", ")):
        assert f"def {name}(" in CORES
    assert one.explorer == (one.number in numbers_in(inspect.getsource(laws)))
    for name in filter(None, one.nodes.split(", ")):
        if name != "Checker":
            assert find_spec(f"raftkv.testing.{name}"), name
    for name in filter(None, one.live.split(", ")):
        assert find_spec(f"raftkv.{name}"), name
    assert bool(one.live) == (one.number in LIVE)
    assert one.cores or one.nodes or one.lacks


def test_only_the_bound_on_windows_sees_a_window_that_never_fills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A seeded bug in the core that breaks nothing else: who looks for what is stored, elected or
    committed finds nothing."""
    options = Options(
        settings={"inflight_max": 1, "election_ticks": 3}, faults=Faults(jitter=3), propose_units=5
    )
    assert simulate(1, 1000, options=options).finding is None

    def never_full(_self: object, _count_max: int, _bytes_max: int) -> bool:
        return False

    for name in ("Peer", "Progress"):
        monkeypatch.setattr(f"raftkv.core.progress.{name}.window_is_full", never_full)
    finding = simulate(1, 1000, options=options).finding
    assert finding is not None
    assert finding.invariant == "I51"


def test_what_a_member_finds_broken_itself_has_its_number() -> None:
    assert name_of(InvariantError("I8: lost what was committed")) == "I8"
    assert name_of(InvariantError("a proposal without payloads")) == "InvariantError"
    assert name_of(ValueError("I8: is not its")) == "ValueError"
