"""The same histories in other processes, whose surroundings differ."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Final, cast

from raftkv.testing.suites.lives import digest_of, live

WORLDS: Final[tuple[Mapping[str, str], ...]] = tuple(
    MappingProxyType(world)
    for world in (
        {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "1", "TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8"},
        {"PYTHONHASHSEED": "4294967295", "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8"},
    )
)
"""Environments in which a machine must come to the same results and states."""

_SECONDS_MAX: Final = 120.0
_ANSWER: Final = "digests.json"


class ElsewhereError(AssertionError):
    """The other process could not run the machine; its words are in the message."""


def run_elsewhere(
    suite: type, histories: Sequence[Sequence[Sequence[bytes]]], world: Mapping[str, str]
) -> list[str]:
    """The digest of each history in a process of its own, in another directory and ``world``.

    The module of ``suite`` is imported there, by its name or else from its file. Raises
    ElsewhereError if that fails.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    task = {
        "module": suite.__module__,
        "file": inspect.getfile(suite),
        "name": suite.__qualname__,
        "histories": [[[one.hex() for one in part] for part in slices] for slices in histories],
    }
    with tempfile.TemporaryDirectory(prefix="raftkv-elsewhere-") as directory:
        done = subprocess.run(
            [sys.executable, "-m", "raftkv.testing.suites.elsewhere"],
            input=json.dumps(task),
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **world},
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
            check=False,
        )
        answer = Path(directory, _ANSWER)
        if done.returncode == 0 and answer.exists():
            return cast("list[str]", json.loads(answer.read_text(encoding="utf-8")))
    raise ElsewhereError(
        f"{suite.__qualname__} does not run in a process of its own:\n{done.stderr}"
    )


def _module(name: str, file: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def main() -> None:
    """Read a task, write digests."""
    task = json.load(sys.stdin)
    found: object = _module(task["module"], task["file"])
    for part in task["name"].split("."):
        found = getattr(found, part)
    suite = cast("type", found)()
    digests: list[str] = []
    for slices in task["histories"]:
        history = [[bytes.fromhex(one) for one in part] for part in slices]
        digests.append(digest_of(live(suite.make_machine()), history))
    Path(_ANSWER).write_text(json.dumps(digests), encoding="utf-8")


if __name__ == "__main__":
    main()
