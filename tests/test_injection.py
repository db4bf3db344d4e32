"""The world reaches the package through its ports alone, so that a simulator can stand in for it.

Clock, chance, workers, task creation, disk and network are injected interfaces. Whatever reaches
around them, or hides a failure, or lets data run as code, is found here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import pytest

from tests.source import (
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

_SYSTEM = "raftkv.runtime.system"  # clock, chance, threads, the backend's loop
_ROCKS = "raftkv.storage.rocks"  # RocksDB
_ROCKS_OPTIONS = "raftkv.storage.rocks_options"
_FILES = "raftkv.storage.files"  # files and locks beside it
_TCP = "raftkv.transport.tcp*"  # sockets, TLS, the asyncio fast path

# Modules that touch the world, and who may import them (patterns of module names).
DOORS: dict[str, tuple[str, ...]] = {
    "time": (_SYSTEM,),
    "datetime": (),
    "random": (),
    "secrets": (_SYSTEM,),
    "uuid": (),
    "threading": (_SYSTEM,),
    "concurrent": (),
    "queue": (_SYSTEM,),
    "multiprocessing": (),
    "subprocess": (),
    "signal": (),
    "gc": (),
    "asyncio": (_SYSTEM, _TCP),
    "trio": (),
    "os": (_SYSTEM, _ROCKS, _FILES),
    "fcntl": (_FILES,),
    "shutil": (_FILES,),
    "tempfile": (),
    "socket": (_TCP,),
    "ssl": (_TCP,),
    "rocksdict": (_ROCKS, _ROCKS_OPTIONS),
}

# Names of those modules that only compute or annotate.
HARMLESS = {"concurrent.futures.CancelledError", "os.PathLike", "os.fspath", "os.strerror"}

# Code runs from data, or text decides what runs: in no module.
NEVER_IMPORTED = {"pickle", "marshal", "shelve", "dill", "yaml", "imp", "runpy"}
NEVER_CALLED = {"eval", "exec", "__import__", "os._exit", "sys.exit", "exit", "quit"}

# The host is not ours: a library leaves these alone.
HOST_SETTINGS = {
    "logging.basicConfig",
    "logging.disable",
    "sys.setswitchinterval",
    "sys.setrecursionlimit",
    "sys.settrace",
    "warnings.simplefilter",
    "warnings.filterwarnings",
    "os.chdir",
    "os.umask",
    "os.putenv",
}

# Parts of anyio that reach around a port, and who may use them.
ANYIO_DOORS: dict[str, tuple[str, ...]] = {
    "anyio.to_thread": (),  # workers are named and ordered: runtime.base.Worker
    "anyio.to_process": (),
    "anyio.to_interpreter": (),
    "anyio.run_process": (),
    "anyio.open_process": (),
    "anyio.open_file": (),
    "anyio.Path": (),
    "anyio.open_signal_receiver": (),
    "anyio.sleep": (_SYSTEM,),
    "anyio.sleep_until": (),
    "anyio.current_time": (),
    "anyio.connect_tcp": (),
    "anyio.connect_unix": (),
    "anyio.create_tcp_listener": (),
    "anyio.getaddrinfo": (_TCP,),
    "anyio.streams.tls": (),
}

# Who opens a task group, and so owns tasks. Everybody else is handed a Spawner.
TASK_OWNERS = (
    "raftkv.transport.owner",
    "raftkv.node.node",
    "raftkv.kv.client.leases",
    "raftkv.cluster",
    "raftkv.hosted",
)
# Tasks that nobody waits for.
ORPHANS = {
    "asyncio.create_task",
    "asyncio.ensure_future",
    "asyncio.gather",
    "asyncio.run_coroutine_threadsafe",
    "trio.lowlevel.spawn_system_task",
}

# Reading or writing files without ``os``, which has a door of its own above.
FILE_OWNERS = (
    _ROCKS_OPTIONS,  # RocksDB takes some options from a file only
    "raftkv.transport.tcp_tls",  # certificates
)
FILE_CALLS = {"open", "io.open"}
FILE_METHODS = {
    "is_dir",
    "is_file",
    "iterdir",
    "mkdir",
    "read_bytes",
    "read_text",
    "rmdir",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}

# Shipped for tests and command lines: they stand outside the house and may use the real world.
OUTSIDE = ("raftkv.testing", "raftkv.cli", "raftkv.server")


def _allowed(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# --- the rules ------------------------------------------------------------------------------


def doors(module: Module) -> Iterator[Finding]:
    """Imports and calls that reach the world around its port."""
    for found in imports(module):
        full = f"{found.target}.{found.name}" if found.name else found.target
        for door, allowed in DOORS.items():
            closed = is_within(found.target, door) and full not in HARMLESS
            if closed and not _allowed(module.name, allowed):
                yield module.finding(found.node, _around(door, allowed))
        if found.top in NEVER_IMPORTED:
            yield module.finding(found.node, f"{found.top} is never imported: data must not run")
        yield from _anyio_doors(module, found.node, full)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node).startswith("anyio."):
            yield from _anyio_doors(module, node, dotted(node))
        elif isinstance(node, ast.Call):
            yield from _calls(module, node)


def _anyio_doors(module: Module, node: ast.AST, used: str) -> Iterator[Finding]:
    for door, allowed in ANYIO_DOORS.items():
        if used == door and not _allowed(module.name, allowed):
            yield module.finding(node, _around(door, allowed))


def _around(door: str, allowed: tuple[str, ...]) -> str:
    who = ", ".join(allowed) or "no module"
    return f"{door} reaches around the ports ({who} may use it): take it from the Runtime or port"


def _calls(module: Module, node: ast.Call) -> Iterator[Finding]:
    name = dotted(node.func)
    if name in NEVER_CALLED:
        yield module.finding(node, f"{name}() is never called: data must not run, nor a host end")
    elif name in HOST_SETTINGS:
        yield module.finding(node, f"{name}() changes the host program, which is not ours")
    elif _touches_files(node) and module.name not in FILE_OWNERS:
        yield module.finding(node, f"{name or _method(node)}(): files belong to {_FILES}")


def _touches_files(node: ast.Call) -> bool:
    name = dotted(node.func)
    by_path = _method(node) in FILE_METHODS and not name.startswith("os.")
    return name in FILE_CALLS or by_path


def _method(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def tasks(module: Module) -> Iterator[Finding]:
    """Tasks outside a task group, task groups in modules that own none, tasks without a name."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name, method = dotted(node.func), _method(node)
        if name in ORPHANS or method in {"create_task", "ensure_future", "spawn_system_task"}:
            yield module.finding(
                node, f"{name or method}() starts a task that nobody owns: use a Spawner"
            )
        elif _opens_group(name) and not _allowed(module.name, TASK_OWNERS):
            yield module.finding(node, f"{module.name} owns no tasks: take a Spawner")
        elif _starts_task(node) and all(word.arg != "name" for word in node.keywords):
            yield module.finding(node, "a task without a name: give name=")


def _opens_group(name: str) -> bool:
    return name.endswith(("create_task_group", "open_nursery", "TaskGroup"))


def _starts_task(node: ast.Call) -> bool:
    """``start`` has other meanings too; a task's has a function as first argument."""
    owner, _, method = dotted(node.func).rpartition(".")
    to_group = bool(node.args) and ("group" in owner.lower() or "nursery" in owner.lower())
    return method == "start_soon" or (method == "start" and to_group)


_WIDE = {"Exception", "BaseException"}


def swallowed(module: Module) -> Iterator[Finding]:
    """Failures that vanish: a dead task must not leave a limping node behind."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield module.finding(node, "a bare except: name what is expected")
            elif _is_wide(node.type) and all(_is_silent(statement) for statement in node.body):
                yield module.finding(
                    node, "every exception is swallowed: name it, or let it stop us"
                )
        elif isinstance(node, ast.Call) and _suppresses_all(node):
            yield module.finding(node, "suppress(Exception) hides bugs: name what is expected")


def _suppresses_all(node: ast.Call) -> bool:
    suppresses = dotted(node.func).rpartition(".")[2] == "suppress"
    return suppresses and any(_is_wide(argument) for argument in node.args)


def _is_wide(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_wide(element) for element in node.elts)
    return dotted(node) in _WIDE


def _is_silent(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Continue() | ast.Break() | ast.Return(value=None):
            return True
        case ast.Expr(value=ast.Constant()) | ast.Return(value=ast.Constant()):
            return True
        case _:
            return False


def asserts(module: Module) -> Iterator[Finding]:
    """``assert`` vanishes under ``python -O``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield module.finding(node, "assert vanishes under -O: use core.ensure.ensure")


def rocksdb(module: Module) -> Iterator[Finding]:
    """What rocksdict does wrong in silence: short iteration, syncing with the GIL held."""
    knows_rocksdict = any(found.top == "rocksdict" for found in imports(module))
    dictionaries = _dictionaries(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            method = _method(node)
            if knows_rocksdict and method in _SHORT and _receiver(node) not in dictionaries:
                yield module.finding(
                    node,
                    f".{method}() of a Rdict ends short on damage: use the checked scan helper",
                )
            if method == "set_sync":
                yield module.finding(node, _SYNC)
            for word in node.keywords:
                if word.arg == "sync" and not _is_constant(word.value, False):
                    yield module.finding(node, _SYNC)
        elif isinstance(node, ast.Assign) and not _is_constant(node.value, False):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == "sync":
                    yield module.finding(node, _SYNC)


_SHORT = {"items", "keys", "values", "entities"}
_SYNC = (
    "sync=True holds the GIL for the whole fsync: write unsynced, then flush_wal in the wal worker"
)


def _receiver(node: ast.Call) -> str:
    """The last name before the method: ``_families`` of ``self._families.items()``."""
    return dotted(node.func).rpartition(".")[0].rpartition(".")[2]


def _dictionaries(module: Module) -> set[str]:
    """Names and attributes that are evidently plain dictionaries."""
    found: set[str] = set()
    assigned: list[ast.Assign] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            annotation = ast.unparse(node.annotation).removeprefix("Final[")
            if annotation.partition("[")[0] in {"dict", "Mapping"}:
                found.add(node.arg if isinstance(node, ast.arg) else _last_name(node.target))
        elif isinstance(node, ast.Assign):
            assigned.append(node)
    for node in assigned:
        if isinstance(node.value, ast.Dict | ast.DictComp) or _last_name(node.value) in found:
            found.update(_last_name(target) for target in node.targets)
    return found - {""}


def _last_name(node: ast.AST) -> str:
    return dotted(node).rpartition(".")[2]


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


# --- the tree keeps the rules ---------------------------------------------------------------

PACKAGE = modules("raftkv")
HOUSE = [module for module in PACKAGE if not is_within(module.name, *OUTSIDE)]


def test_the_world_is_reached_through_the_ports_alone() -> None:
    nothing(finding for module in HOUSE for finding in doors(module))


def test_every_task_is_named_and_owned() -> None:
    nothing(finding for module in HOUSE for finding in tasks(module))


def test_no_failure_is_swallowed() -> None:
    nothing(finding for module in PACKAGE for finding in swallowed(module))


def test_no_safety_check_vanishes_under_dash_o() -> None:
    nothing(finding for module in HOUSE for finding in asserts(module))


def test_rocksdb_is_used_only_in_the_ways_that_are_safe() -> None:
    nothing(finding for module in PACKAGE for finding in rocksdb(module))


def test_no_permission_is_given_that_nobody_uses() -> None:
    """Asked by closing one door after the other, and looking who runs against it."""
    spare: list[str] = []
    for table in (DOORS, ANYIO_DOORS):
        for door, allowed in table.items():
            for pattern in allowed:
                modules_of = [module for module in HOUSE if fnmatchcase(module.name, pattern)]
                if not any(_goes_through(module, door) for module in modules_of):
                    spare.append(f"{door} for {pattern}")
    for pattern in TASK_OWNERS:
        modules_of = [module for module in HOUSE if fnmatchcase(module.name, pattern)]
        if not any(_opens_groups(module) for module in modules_of):
            spare.append(f"task groups for {pattern}")
    for owner in FILE_OWNERS:
        (module,) = [module for module in HOUSE if module.name == owner]
        if not {_method(call) for call in _calls_of(module)} & FILE_METHODS:
            spare.append(f"files for {owner}")
    assert not spare, f"nobody needs these permissions: {spare}"


def _goes_through(module: Module, door: str) -> bool:
    used = [f"{found.target}.{found.name}" for found in imports(module)]
    used += [dotted(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]
    return any(is_within(name.rstrip("."), door) for name in used)


def _opens_groups(module: Module) -> bool:
    return any(_opens_group(dotted(call.func)) for call in _calls_of(module))


def _calls_of(module: Module) -> list[ast.Call]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]


# --- each rule can fail ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raftkv.node.loop", "import time"),
        ("raftkv.node.loop", "from time import monotonic"),
        ("raftkv.core.prng", "import random"),
        ("raftkv.kv.leases", "from datetime import datetime"),
        ("raftkv.storage.rocks", "import threading"),
        ("raftkv.storage.memory", "import os"),
        ("raftkv.storage.memory", "from os import urandom"),
        ("raftkv.storage.memory", "import rocksdict"),
        ("raftkv.transport.memory", "import asyncio.events"),
        ("raftkv.node.node", "import socket"),
        ("raftkv.open", "import uuid"),
        ("raftkv.runtime.system", "import signal"),
        ("raftkv.storage.rocks", "import pickle"),
        ("raftkv.node.node", "import anyio\nasync def f():\n    await anyio.sleep(1)"),
        ("raftkv.node.node", "from anyio import to_thread"),
        ("raftkv.node.node", "import anyio\nx = anyio.to_thread.run_sync"),
        ("raftkv.node.node", "from anyio import connect_tcp"),
        ("raftkv.node.node", "x = open('file')"),
        ("raftkv.open", "Path(directory).mkdir(parents=True)"),
        ("raftkv.transport.tls", "chain = Path(name).read_text()"),
        ("raftkv.open", "x = eval('1')"),
        ("raftkv.open", "import sys\nsys.exit(1)"),
        ("raftkv.open", "import logging\nlogging.basicConfig()"),
        ("raftkv.open", "import sys\nsys.setswitchinterval(0.001)"),
    ],
)
def test_a_way_around_the_ports_is_found(name: str, text: str) -> None:
    assert len(rules_found(doors(snippet(name, text)))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raftkv.runtime.system", "import asyncio, os, secrets, threading, time"),
        ("raftkv.storage.rocks", "from rocksdict import Rdict"),
        ("raftkv.storage.files", "import fcntl, os, shutil\nos.open(path, 0)"),
        ("raftkv.transport.tcp", "import asyncio, socket, ssl\nfrom anyio import getaddrinfo"),
        ("raftkv.node.loop", "import anyio\nlock = anyio.Lock()\ntimeout = 5"),
        ("raftkv.open", "from os import PathLike, fspath"),
    ],
)
def test_the_owners_of_a_port_are_let_through(name: str, text: str) -> None:
    assert not rules_found(doors(snippet(name, text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raftkv.runtime.system", "import asyncio\nasyncio.create_task(f())"),
        ("raftkv.transport.tcp", "loop.create_task(f())"),
        ("raftkv.transport.tcp", "import asyncio\nasyncio.ensure_future(f())"),
        ("raftkv.kv.watch", "import anyio\nanyio.create_task_group()"),
        ("raftkv.node.node", "group.start_soon(f)"),
        ("raftkv.node.node", "self._group.start(f, 1)"),
    ],
)
def test_a_task_without_owner_or_name_is_found(name: str, text: str) -> None:
    assert len(rules_found(tasks(snippet(name, text)))) == 1


def test_named_tasks_in_an_owners_group_are_let_through() -> None:
    text = """
        async with anyio.create_task_group() as group:
            group.start_soon(f, name="loop")
            await group.start(g, name="listener")
            server.start(1)
            asyncio_task = match.start()
    """
    module = snippet("raftkv.node.node", "async def f():\n" + text.replace("\n", "\n    "))
    assert not rules_found(tasks(module))


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept:\n    log()",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    ...",
        "try:\n    f()\nexcept ValueError:\n    log()\nexcept Exception:\n    ...",
        "for x in y:\n    try:\n        f()\n    except BaseException:\n        continue",
        "def g():\n    try:\n        f()\n    except Exception:\n        return None",
        "import contextlib\nwith contextlib.suppress(Exception):\n    f()",
        "with suppress(OSError, BaseException):\n    f()",
    ],
)
def test_a_swallowed_failure_is_found(text: str) -> None:
    assert len(rules_found(swallowed(snippet("raftkv.node.x", text)))) == 1


def test_named_or_handled_failures_are_let_through() -> None:
    text = """
        try:
            f()
        except OSError:
            pass
        try:
            f()
        except BaseException as error:
            stop(error)
            raise
        with contextlib.suppress(FileNotFoundError):
            f()
    """
    assert not rules_found(swallowed(snippet("raftkv.node.x", text)))


def test_an_assert_is_found() -> None:
    assert rules_found(asserts(snippet("raftkv.node.x", "assert x, 'never'")))
    assert not rules_found(asserts(snippet("raftkv.node.x", "assert_never(x)")))


@pytest.mark.parametrize(
    "text",
    [
        "from rocksdict import Rdict\nfor key, value in db.items(): f()",
        "import rocksdict\nnames = list(db.keys())",
        "from rocksdict import Rdict\ntable = {}\nfor key in self.table.db.keys(): f()",
        "db.write(batch, sync=True)",
        "db.write(batch, sync=wanted)",
        "options.sync = True",
        "options.set_sync(True)",
    ],
)
def test_an_unsafe_use_of_rocksdb_is_found(text: str) -> None:
    assert len(rules_found(rocksdb(snippet("raftkv.storage.rocks", text)))) == 1


def test_dictionaries_elsewhere_and_unsynced_writes_are_let_through() -> None:
    text = "for key in table.keys(): f()\ndb.write(batch, sync=False)\noptions.sync = False"
    assert not rules_found(rocksdb(snippet("raftkv.storage.memory", text)))
    known = "import rocksdict\nself._open = {f: 1 for f in g}\nnames = sorted(self._open.keys())"
    assert not rules_found(rocksdb(snippet("raftkv.storage.rocks", known)))
