"""Named points in a running member at which it can be made to die, and how they are armed.

A point is a function of the package; ``before`` and ``after`` say on which side of it SIGKILL
falls. The package itself knows nothing of this: the process that is to die wraps the function.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

Function = Callable[..., object]

FUNCTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "write": "raftkv.storage.rocks:RocksStore.write",
        "sync": "raftkv.storage.rocks:RocksStore.sync",
        "witness": "raftkv.storage.witness:FileWitness.remember",
        "send": "raftkv.transport.tcp:TcpTransport.send",
        "apply": "raftkv.node.applier:Applier.apply_slice",
        "answer": "raftkv.node.applier:Applier.release",
        "compact": "raftkv.node.disk:Disk.compact",
        "image-read": "raftkv.kv.machine:KvMachine.snapshot_durable",
        "image-begin": "raftkv.node.images:Images.stage",
        "image-piece": "raftkv.node.images:Images.stage_chunk",
        "image-check": "raftkv.node.images:Images.check_staged",
        "image-install": "raftkv.node.images:Images.install",
        "image-installed": "raftkv.node.images:Images.installed",
        "change": "raftkv.node.applier:Applier.changed",
    }
)
"""The functions, by the name of the point: module and dotted name in it."""

SIDES: Final = ("before", "after")


def arm(text: str) -> None:
    """Make this process die at ``NAME.SIDE:COUNT``: at that passing of the point.

    Nothing is armed by empty text. Raises KeyError or AttributeError for a point that is not there.
    """
    if not text:
        return
    point, _, count = text.partition(":")
    name, _, side = point.partition(".")
    _wrap(name, lambda function: _deadly(function, side, int(count or 1)))


def tally(name: str) -> Callable[[], int]:
    """Count the passings of a point from now on; the function that tells how many there were."""
    passed = 0

    def counted(function: Function) -> Function:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal passed
            passed += 1
            return function(*arguments, **options)

        return wrapped

    _wrap(name, counted)
    return lambda: passed


def _wrap(name: str, change: Callable[[Function], Function]) -> None:
    module, _, path = FUNCTIONS[name].partition(":")
    owner_name, _, method = path.rpartition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    setattr(owner, method, change(getattr(owner, method)))


def _deadly(function: Function, side: str, count: int) -> Function:
    left = count

    def wrapped(*arguments: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left == 0 and side == "before":
            die()
        answer = function(*arguments, **options)
        if left == 0:
            die()
        return answer

    return wrapped


def die() -> None:
    """SIGKILL ourselves: nothing after this runs."""
    os.kill(os.getpid(), signal.SIGKILL)
