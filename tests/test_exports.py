"""What a package lists in ``__all__`` is what it offers: all of it, in order, nothing more."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import get_args, get_origin

import pytest

import raftkv
from raftkv import core, errors, testing
from tests.source import ROOT

# The packages whose names are for users.
PUBLIC = (
    "raftkv",
    "raftkv.core",
    "raftkv.kv",
    "raftkv.recipes",
    "raftkv.runtime",
    "raftkv.storage",
    "raftkv.testing",
    "raftkv.testing.suites",
    "raftkv.transport",
)


def complaints(module: ModuleType) -> Iterator[str]:
    """Everything wrong with a package's ``__all__``."""
    listed: list[str] = list(getattr(module, "__all__", []))
    where = f"{module.__name__}.__all__"
    if not listed:
        yield f"{where} is missing"
    if listed != sorted(listed, key=_isort):
        yield f"{where} is not sorted"
    if len(listed) != len({*listed}):
        yield f"{where} names something twice"
    for name in listed:
        if not hasattr(module, name):
            yield f"{where} names {name}, which is not there"
        elif name.startswith("_") and name != "__version__":
            yield f"{where} names {name}, which is private"
        elif not _is_ours(getattr(module, name)):
            yield f"{where} names {name}, which belongs to another package"
    for name, value in vars(module).items():
        # Submodules become attributes by being imported; the future import leaves its name behind.
        if name.startswith("_") or isinstance(value, ModuleType) or name == "annotations":
            continue
        if name not in listed:
            yield f"{where} lacks {name}: list it, or import it under a private name"


def _isort(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: as ruff sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def _is_ours(value: object) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.startswith("raftkv.")
    if get_origin(value) is None and callable(value):
        return getattr(value, "__module__", "").partition(".")[0] in {"raftkv", "typing"}
    return True  # a constant, or another name for a type


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_package_lists_exactly_what_it_offers(name: str) -> None:
    found = list(complaints(importlib.import_module(name)))
    assert not found, "\n" + "\n".join(found)


def test_the_manual_of_the_testing_kit_names_all_that_it_offers() -> None:
    manual = testing.__doc__ or ""
    missing = [name for name in testing.__all__ if not re.search(rf"\b{name}\b", manual)]
    assert not missing, f"raftkv.testing's docstring lacks {', '.join(missing)}"


def _without(missing: str, code: str) -> subprocess.CompletedProcess[str]:
    """A program, run where a package is not installed."""
    program = f"import sys; sys.modules[{missing!r}] = None; {code}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_what_needs_the_testing_extra_says_so_and_the_rest_does_not(missing: str) -> None:
    done = _without(missing, "import raftkv.testing.__main__; import raftkv.testing.suites")
    assert done.returncode == 1
    told = f"raftkv.testing.suites needs {missing}: pip install 'raftkv[testing]'"
    assert done.stderr.splitlines()[-1].endswith(told)


def test_every_error_can_be_caught_by_its_name_at_the_top() -> None:
    for name in errors.__all__:
        assert getattr(raftkv, name, None) is getattr(errors, name), f"raftkv.{name} is missing"


@pytest.mark.parametrize("union", ["Input", "Message", "PeerMessage", "LocalMessage", "Answer"])
def test_every_input_and_message_of_the_core_can_be_named(union: str) -> None:
    members = get_args(getattr(core, union))
    assert len(members) > 1
    for member in members:
        assert getattr(core, member.__name__, None) is member, f"core.{member.__name__} is missing"
        assert member.__name__ in core.__all__


# How ``open_node`` and ``kv`` drive a member; not for applications.
_DRIVEN = {
    "accompany", "answer_with", "ask", "at_close", "check", "failure", "leading", "live",
    "on_failure", "runtime", "serving", "settings", "stop_soon", "tell",
}  # fmt: skip


@pytest.mark.parametrize("name", ["Kv", "Members", "Node"])
def test_threads_have_every_method_under_the_same_name(name: str) -> None:
    awaited, blocking = getattr(raftkv, name), getattr(raftkv.blocking, name)
    names = [one for one in dir(awaited) if not one.startswith("_") and one not in _DRIVEN]
    assert len(names) >= 4
    for one in names:
        assert hasattr(blocking, one), f"blocking.{name}.{one} is missing"
        if inspect.isfunction(getattr(awaited, one)):
            assert parameters(getattr(blocking, one)) == parameters(getattr(awaited, one)), one


def parameters(function: FunctionType) -> list[tuple[str, object, str]]:
    """What may be given to a function, and how."""
    given = inspect.signature(function).parameters.values()
    return [(one.name, one.default, one.kind.name) for one in given]


# --- the check can fail ---------------------------------------------------------------------


def package(*, listed: list[str] | None, **names: object) -> ModuleType:
    module = ModuleType("raftkv.sample")
    for name, value in names.items():
        setattr(module, name, value)
    if listed is not None:
        module.__dict__["__all__"] = listed
    return module


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (package(listed=None), "is missing"),
        (package(listed=["start", "State"], start=core.start, State=core.State), "is not sorted"),
        (package(listed=["State", "State"], State=core.State), "names something twice"),
        (package(listed=["Gone"]), "names Gone, which is not there"),
        (package(listed=["_inner"], _inner=core.start), "names _inner, which is private"),
        (package(listed=["Path"], Path=pytest.Item), "names Path, which belongs to another"),
        (package(listed=["State"], State=core.State, step=core.step), "lacks step"),
    ],
)
def test_a_wrong_list_is_found(module: ModuleType, complaint: str) -> None:
    (found,) = complaints(module)
    assert complaint in found


def test_a_right_list_is_let_through() -> None:
    module = package(
        listed=["NO_LIMIT", "Input", "State", "step"],
        NO_LIMIT=core.NO_LIMIT,
        Input=core.Input,
        State=core.State,
        step=core.step,
        core=core,
        _private=pytest,
    )
    assert not list(complaints(module))
