"""Imports go one way, and the core is pure: kept here over the syntax trees, not by memory.

    errors <- core <- encoding <- ports <- adapters
    ports <- node     ports <- kv     node <- kv's client, recipes

One question decides where code lives: *may it decide?* The core decides and cannot act; the node
acts and must not decide.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator

import pytest

from tests.source import (
    ROOT,
    Finding,
    Module,
    dotted,
    imports,
    is_within,
    modules,
    nothing,
    rules_found,
    snippet,
)

# The rooms: each with the modules in it. The longest prefix that fits decides.
ROOM_OF = {
    "raftkv.errors": "errors",
    "raftkv.core": "core",
    "raftkv.encoding": "encoding",
    "raftkv.machine": "ports",
    "raftkv.runtime.base": "ports",
    "raftkv.storage.base": "ports",
    "raftkv.transport.base": "ports",
    "raftkv.transport.codec": "codec",  # messages as bytes; does no I/O
    "raftkv.runtime": "runtime",
    "raftkv.storage": "storage",
    "raftkv.transport": "transport",
    "raftkv.node": "node",
    "raftkv.kv": "kv",
    "raftkv.kv.client": "client",
    "raftkv.recipes": "recipes",
    "raftkv.testing": "testing",
    "raftkv.server": "outside",
    "raftkv.cli": "outside",
    "raftkv": "top",  # __init__, open, cluster, blocking: they put the parts together
}

_BELOW_PORTS = {"errors", "core", "encoding"}
_PORTS = _BELOW_PORTS | {"ports"}
_ALL = {*ROOM_OF.values()} - {"testing", "outside"}

# What each room may import beside itself.
MAY_IMPORT = {
    "errors": set[str](),
    "core": {"errors"},
    "encoding": {"errors", "core"},
    "ports": _BELOW_PORTS,
    "codec": _PORTS,
    "runtime": _PORTS,
    "storage": _PORTS,
    "transport": _PORTS | {"codec"},
    "node": _PORTS | {"codec"},
    "kv": _PORTS,
    "client": _PORTS | {"kv", "node"},
    "recipes": _PORTS | {"kv", "client", "node"},
    "top": _ALL,
    "testing": _ALL,
    "outside": {"top", "errors", "recipes"},
}

# Third-party packages and the rooms that may know them.
THIRD_PARTY = {
    "attrs": _ALL | {"testing", "outside"},
    "anyio": {"runtime", "transport", "node", "client", "recipes", "top", "testing", "outside"},
    "cbor2": {"encoding"},  # one locked profile for everybody
    "rocksdict": {"storage"},
    "hypothesis": {"testing"},
    "pytest": {"testing"},
}

# What a pure function may need of the standard library. Nothing here reads a clock, chance, a file,
# the environment or another thread.
CORE_MAY_IMPORT = {
    "__future__", "bisect", "collections", "collections.abc", "enum", "hashlib", "itertools",
    "math", "operator", "struct", "types", "typing", "zlib",
}  # fmt: skip

# Builtins whose answer depends on the process, or that act on the world.
CORE_MAY_NOT_CALL = {
    "__import__", "breakpoint", "compile", "eval", "exec", "globals", "id", "input", "locals",
    "open", "print", "vars",
}  # fmt: skip

# Rooms in which a step runs to its end: no await, so no cancellation in the middle of a change.
SYNCHRONOUS = {"errors", "core", "encoding", "codec", "storage", "kv"}

# Late imports that have a reason: (module, imported) -> why.
LATE_IMPORTS: dict[tuple[str, str], str] = {}


def room_of(name: str) -> str | None:
    """The room a module stands in."""
    for prefix in sorted(ROOM_OF, key=len, reverse=True):
        # The top room is the files beside the packages, not every package that has no room yet.
        if is_within(name, prefix) and (prefix != "raftkv" or name.count(".") <= 1):
            return ROOM_OF[prefix]
    return None


# --- the rules ------------------------------------------------------------------------------


def arrows(module: Module, known: Iterable[str]) -> Iterator[Finding]:
    """Imports against the arrows, imports nobody declared, and imports hidden in functions."""
    room = room_of(module.name)
    if room is None:
        yield module.finding(1, f"{module.name} stands in no room: give it one in ROOM_OF")
        return
    for found in imports(module, known):
        late = found.late and not found.typing_only
        if late and (module.name, found.target) not in LATE_IMPORTS:
            yield module.finding(
                found.node,
                f"late import of {found.target}: imports stand at the top, where arrows show",
            )
        if found.top == "raftkv":
            target = room_of(found.target)
            if target != room and target not in MAY_IMPORT[room]:
                yield module.finding(
                    found.node, f"{room} may not import {target} ({module.name} -> {found.target})"
                )
        elif found.top in THIRD_PARTY and room not in THIRD_PARTY[found.top]:
            yield module.finding(found.node, f"{room} may not know {found.top}")
        elif not _is_standard(found.top) and found.top not in THIRD_PARTY:
            yield module.finding(
                found.node,
                f"{found.top} is no declared dependency of raftkv's base or testing extra",
            )


def _is_standard(top: str) -> bool:
    return top in sys.stdlib_module_names


def cycles(package: Iterable[Module]) -> Iterator[Finding]:
    """Modules that import each other, through however many others."""
    package = tuple(package)
    known = {module.name for module in package}
    graph = {
        module.name: sorted({found.target for found in imports(module, known)} & known)
        for module in package
    }
    by_name = {module.name: module for module in package}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[Finding]:
        if name in path:
            ring = " -> ".join((*path[path.index(name) :], name))
            yield by_name[name].finding(1, f"import cycle: {ring}")
        elif name not in done:
            for target in graph[name]:
                yield from visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def impurities(module: Module) -> Iterator[Finding]:
    """What a function of its arguments alone has no use for."""
    for found in imports(module):
        if not is_within(found.target, "raftkv", "attrs") and found.target not in CORE_MAY_IMPORT:
            yield module.finding(found.node, f"the core may not import {found.target}")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield module.finding(
                node, "the core keeps no state outside State: no global, no nonlocal"
            )
        elif isinstance(node, ast.Call) and dotted(node.func) in CORE_MAY_NOT_CALL:
            yield module.finding(node, f"the core may not call {dotted(node.func)}()")
    yield from _salted_hashes(module)
    yield from _global_mutable_state(module)


def _salted_hashes(module: Module) -> Iterator[Finding]:
    """``hash()`` of bytes and str differs between processes: for ``__hash__``, not to decide."""
    in_dunder = {
        call
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef) and function.name == "__hash__"
        for call in ast.walk(function)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "hash" and node not in in_dunder:
            yield module.finding(
                node, "hash() is salted per process: use core.digest, or stay in __hash__"
            )


_MUTABLE_CALLS = {
    "list",
    "dict",
    "set",
    "bytearray",
    "deque",
    "defaultdict",
    "Counter",
    "OrderedDict",
}
_READ_ONLY = (
    "Mapping[",
    "Sequence[",
    "Collection[",
    "Set[",
    "AbstractSet[",
    "tuple[",
    "frozenset[",
)


def _global_mutable_state(module: Module) -> Iterator[Finding]:
    """Tables that all steps share are typed read-only, so that the type checker keeps them so."""
    bodies = [module.tree.body]
    bodies += [node.body for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    for statement in (statement for body in bodies for statement in body):
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        if not _is_mutable(statement.value) or "__all__" in ast.unparse(statement):
            continue
        written = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else ""
        inner = written.removeprefix("Final[").removeprefix("ClassVar[")
        if not inner.startswith(_READ_ONLY):
            yield module.finding(
                statement,
                "mutable state beside State: annotate a constant table as Mapping or Sequence,"
                " or make it a tuple or frozenset",
            )


def _is_mutable(value: ast.expr) -> bool:
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    if isinstance(value, ast.Call):
        called = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return dotted(called).rpartition(".")[2] in _MUTABLE_CALLS
    return isinstance(value, displays)


def awaits(module: Module) -> Iterator[Finding]:
    """Async code where a change must run to its end."""
    kinds = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    for node in ast.walk(module.tree):
        if isinstance(node, kinds):
            yield module.finding(
                node,
                f"async code in {module.name}: what changes state here runs to its end at once",
            )


# --- the tree keeps the rules ---------------------------------------------------------------

PACKAGE = modules()
KNOWN = frozenset(module.name for module in PACKAGE)
CORE = [module for module in PACKAGE if room_of(module.name) == "core"]


def test_imports_go_one_way() -> None:
    nothing(finding for module in PACKAGE for finding in arrows(module, KNOWN))


def test_the_base_install_needs_four_packages_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"\W", line)[0] for line in project["dependencies"]]
    assert sorted(names) == ["anyio", "attrs", "cbor2", "rocksdict"]


def test_no_modules_import_each_other() -> None:
    nothing(cycles(PACKAGE))


def test_the_core_is_pure() -> None:
    assert len(CORE) >= 10, "the core's modules were not found"
    nothing(finding for module in CORE for finding in impurities(module))


def test_what_changes_state_has_no_await() -> None:
    nothing(
        finding
        for module in PACKAGE
        if room_of(module.name) in SYNCHRONOUS
        for finding in awaits(module)
    )


def test_a_reason_for_a_late_import_is_given_up_with_the_import() -> None:
    late = {
        (module.name, found.target)
        for module in PACKAGE
        for found in imports(module, KNOWN)
        if found.late
    }
    assert LATE_IMPORTS.keys() <= late, "an entry of LATE_IMPORTS excuses nothing: remove it"


# --- each rule can fail ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        (
            "raftkv.core.x",
            "from raftkv.encoding import encode_entry",
            "core may not import encoding",
        ),
        ("raftkv.core.x", "import raftkv.node.loop", "core may not import node"),
        ("raftkv.core.x", "from ..storage import base", "core may not import ports"),
        ("raftkv.core.x", "import anyio", "core may not know anyio"),
        ("raftkv.errors", "from raftkv.core import types", "errors may not import core"),
        ("raftkv.storage.base", "import raftkv.storage.rocks", "ports may not import storage"),
        ("raftkv.storage.x", "from raftkv.kv import mvcc", "storage may not import kv"),
        (
            "raftkv.storage.x",
            "from raftkv.transport import wire",
            "storage may not import transport",
        ),
        ("raftkv.kv.mvcc", "from raftkv.node.node import Node", "kv may not import node"),
        ("raftkv.kv.mvcc", "import rocksdict", "kv may not know rocksdict"),
        ("raftkv.node.x", "from raftkv.storage.rocks import Rocks", "node may not import storage"),
        ("raftkv.node.x", "import raftkv.kv", "node may not import kv"),
        ("raftkv.node.x", "from raftkv.testing import faults", "node may not import testing"),
        ("raftkv.open", "import raftkv.testing", "top may not import testing"),
        ("raftkv.server.x", "import raftkv.node.loop", "outside may not import node"),
        ("raftkv.attic.x", "import enum", "raftkv.attic.x stands in no room"),
        ("raftkv.node.x", "import requests", "requests is no declared dependency"),
        ("raftkv.node.x", "def f():\n    import raftkv.errors", "late import of raftkv.errors"),
        (
            "raftkv.core.x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import raftkv.node",
            "core may not import node",
        ),
    ],
)
def test_an_import_against_the_arrows_is_found(name: str, text: str, rule: str) -> None:
    known = {"raftkv.core.types", "raftkv.storage.base", "raftkv.node.loop"}
    (finding,) = arrows(snippet(name, text), known)
    assert finding.rule.startswith(rule)


def test_imports_along_the_arrows_are_let_through() -> None:
    text = """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        import anyio
        from attrs import frozen
        from raftkv import core
        from raftkv.storage.base import Store
        if TYPE_CHECKING:
            import raftkv.errors
    """
    assert not list(arrows(snippet("raftkv.node.x", text), {"raftkv.core"}))


def test_an_import_cycle_is_found_with_its_path() -> None:
    ring = [
        snippet("raftkv.a", "import raftkv.b"),
        snippet("raftkv.b", "from raftkv import c"),
        snippet("raftkv.c", "from .a import name"),
    ]
    assert rules_found(cycles(ring)) == [
        "import cycle: raftkv.a -> raftkv.b -> raftkv.c -> raftkv.a"
    ]
    assert not list(cycles(ring[:2]))


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from os import urandom",
        "import logging",
        "from random import Random",
        "total = 0\ndef f():\n    global total",
        "x = print('hello')",
        "x = open('file')",
        "def key(node):\n    return id(node)",
        "def place(data):\n    return hash(data)",
        "CACHE = {}",
        "CACHE: dict[int, int] = {}",
        "QUEUE = list()",
        "class State:\n    peers = []",
        "from collections import defaultdict\nCOUNTS = defaultdict[int, int](int)",
    ],
)
def test_an_impurity_is_found(text: str) -> None:
    assert list(impurities(snippet("raftkv.core.x", text)))


def test_pure_code_is_let_through() -> None:
    text = """
        from collections.abc import Mapping
        from hashlib import blake2b
        from typing import Final
        from attrs import frozen
        __all__ = ["TABLE"]
        TABLE: Final[Mapping[str, int]] = {"a": 1}
        KINDS: Mapping[int, str] = {1: "a"}
        NAMES = ("a", "b")

        class Log:
            def __hash__(self) -> int:
                return hash((1, 2))

            def peers(self) -> list[int]:
                found: list[int] = []
                return found
    """
    assert not list(impurities(snippet("raftkv.core.x", text)))


@pytest.mark.parametrize(
    "text",
    [
        "async def apply(): ...",
        "async def f():\n    async with g():\n        await h()",
    ],
)
def test_async_code_is_found(text: str) -> None:
    assert list(awaits(snippet("raftkv.kv.machine", text)))
