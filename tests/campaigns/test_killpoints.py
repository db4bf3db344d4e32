"""Every named point is a function that exists, and arming it kills at the right passing."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace

import pytest

from raftkv.testing.campaigns import killpoints
from raftkv.testing.campaigns.killpoints import FUNCTIONS, arm, tally


class Victim:
    def method(self, number: int, *, more: int = 0) -> int:
        return number + more


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_point_is_a_plain_function_of_the_package(name: str) -> None:
    module, _, path = FUNCTIONS[name].partition(":")
    owner, _, method = path.partition(".")
    function = getattr(getattr(importlib.import_module(module), owner), method)
    assert callable(function)
    # An async one would have returned before it did anything.
    assert not inspect.iscoroutinefunction(function)


@pytest.mark.parametrize(("side", "seen"), [("before", [1, 2]), ("after", [1, 2, 3])])
def test_death_comes_at_the_passing_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, side: str, seen: list[int]
) -> None:
    passed: list[int] = []

    class Recording(Victim):
        def method(self, number: int, *, more: int = 0) -> int:
            passed.append(number)
            return super().method(number, more=more)

    class DeadError(Exception):
        pass

    def die() -> None:
        raise DeadError

    def import_module(_name: str) -> SimpleNamespace:
        return SimpleNamespace(Recording=Recording)

    monkeypatch.setattr(killpoints, "die", die)
    monkeypatch.setattr(killpoints, "FUNCTIONS", {"point": f"{__name__}:Recording.method"})
    monkeypatch.setattr(importlib, "import_module", import_module)
    arm(f"point.{side}:3")
    assert Recording().method(1, more=1) == 2
    assert Recording().method(2) == 2
    with pytest.raises(DeadError):
        Recording().method(3)
    assert passed == seen


def test_passings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Victim):
        pass

    def import_module(_name: str) -> SimpleNamespace:
        return SimpleNamespace(Counted=Counted)

    monkeypatch.setattr(killpoints, "FUNCTIONS", {"point": f"{__name__}:Counted.method"})
    monkeypatch.setattr(importlib, "import_module", import_module)
    passed = tally("point")
    assert passed() == 0
    assert Counted().method(1, more=2) == 3
    assert passed() == 1


def test_nothing_is_armed_by_nothing_and_what_is_not_there_is_refused() -> None:
    arm("")
    with pytest.raises(KeyError):
        arm("nowhere.before:1")
