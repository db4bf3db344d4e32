"""A mutant in this process: for tests that want something broken to look at.

The functions that the patch changes are compiled anew in their modules and put wherever they were
imported to. What changes more than functions needs a copy of the tree:
:mod:`raftkv.testing.mutants.runner`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from raftkv.testing.mutants.mutant import Mutant, MutantError
from raftkv.testing.mutants.patch import FilePatch, PatchError

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@contextmanager
def broken(mutant: Mutant) -> Generator[None]:
    """The package with the mutant in it, for the length of a ``with``; not from two threads.

    Raises MutantError if the mutant does not apply, or changes more than functions.
    """
    swapped: list[tuple[ModuleType | type, str, object]] = []
    try:
        for one in mutant.files:
            swapped += _swap(mutant, one)
        yield
    finally:
        for holder, name, sound in reversed(swapped):
            setattr(holder, name, sound)


def _swap(mutant: Mutant, one: FilePatch) -> list[tuple[ModuleType | type, str, object]]:
    module = import_module(one.module)
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    try:
        changed = one.apply(text)
    except PatchError as error:
        raise MutantError(f"mutant {mutant}: {error}") from error
    swapped: list[tuple[ModuleType | type, str, object]] = []
    for owner, function in _changed(mutant, text, changed):
        holder: ModuleType | type = getattr(module, owner) if owner else module
        sound = vars(holder)[function.name]
        new = _compiled(mutant, module, function)
        for place, name in _places(holder, function.name, sound):
            swapped.append((place, name, sound))
            setattr(place, name, new)
    return swapped


def _changed(mutant: Mutant, before: str, after: str) -> list[tuple[str, _Function]]:
    """The functions that differ, each with the class it is in (or nothing)."""
    old, new = dict(_functions(before)), dict(_functions(after))
    if old.keys() != new.keys() or _frame(before) != _frame(after):
        raise MutantError(f"mutant {mutant} changes more than functions: it needs a copy")
    return [(place[0], new[place]) for place in old if ast.dump(old[place]) != ast.dump(new[place])]


def _functions(text: str) -> Iterator[tuple[tuple[str, str], _Function]]:
    for node in ast.parse(text).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        for one in inside:
            if isinstance(one, _Function):
                yield (owner, one.name), one


def _frame(text: str) -> str:
    """All that is no function, of the module and of its classes."""
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [one for one in node.body if not isinstance(one, _Function)]
    tree.body = [one for one in tree.body if not isinstance(one, _Function)]
    return ast.dump(tree)


def _compiled(mutant: Mutant, module: ModuleType, function: _Function) -> object:
    future = ast.parse("from __future__ import annotations").body
    tree = ast.Module(body=[*future, function], type_ignores=[])
    space: dict[str, object] = {}
    # The module's own names stay live: other functions of it are looked up when they are called.
    exec(compile(tree, f"<mutant {mutant.number}>", "exec"), vars(module), space)
    return space[function.name]


def _places(
    holder: ModuleType | type, name: str, sound: object
) -> Iterator[tuple[ModuleType | type, str]]:
    if isinstance(holder, type):
        yield holder, name
        return
    for module_name, module in sorted(sys.modules.items()):
        if module_name.startswith("raftkv."):
            for key, value in list(vars(module).items()):
                if value is sound:
                    yield module, key
