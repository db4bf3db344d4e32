"""What a deterministic function may not ask for: seen while it runs, and named with its place."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_CLOCKS: Final = frozenset(
    {
        "time",
        "time_ns",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "perf_counter_ns",
        "process_time",
        "process_time_ns",
        "thread_time",
        "thread_time_ns",
        "clock_gettime",
        "clock_gettime_ns",
        "localtime",
        "gmtime",
        "ctime",
    }
)
_NOWS: Final = frozenset({"now", "utcnow", "today"})
_OF_THE_PROCESS: Final = frozenset(
    {"urandom", "getrandom", "getpid", "getppid", "getcwd", "getloadavg", "uname", "listdir"}
)
_ENVIRONMENT: Final = frozenset(
    getattr(kind, name).__code__
    for kind in (type(os.environ),)
    for name in ("__getitem__", "__iter__", "__len__")
)


class Impurity(str):
    """What was asked for, and where, in words."""

    __slots__ = ()


@contextmanager
def watched() -> Generator[list[Impurity]]:
    """Collect what the calling thread asks of the clock, chance, the process and its surroundings.

    Seen are calls of functions written in C, whoever makes them: ``time.time``, ``datetime.now``,
    the functions of the ``random`` module (a generator of one's own that was given a seed is no
    chance), ``os.urandom`` and what is made of it (``uuid4``, ``secrets``), ``os.environ``, the
    process id, files. Not seen is what C code asks for by itself.
    """
    found: list[Impurity] = []

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call":
            name = _name_of(argument)
        elif event == "call" and frame.f_code in _ENVIRONMENT:
            name, frame = "os.environ", frame.f_back or frame
        else:
            return
        if name:
            found.append(Impurity(f"{name} in {_place(frame)}"))

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # who is told of collections may look at the clock, as Hypothesis does
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _name_of(function: object) -> str:
    """The name of a function that a deterministic one may not call; empty for all others."""
    name = str(getattr(function, "__name__", ""))
    owner: object = getattr(function, "__self__", None)
    module = getattr(owner, "__name__", "")
    if name in _CLOCKS and owner is time:
        return f"time.{name}"
    if name in _NOWS and isinstance(owner, type) and owner.__module__ == "datetime":
        return f"{owner.__name__}.{name}"
    if name in _OF_THE_PROCESS and module in ("posix", "nt"):
        return f"os.{name}"
    if name in ("random", "getrandbits", "seed") and owner is _global_generator():
        return "the random module"
    if name == "open" and module in ("io", "_io"):
        return "open"
    if name == "gethostname":
        return "socket.gethostname"
    return ""


def _global_generator() -> object:
    """The hidden generator behind the functions of the random module."""
    return getattr(random.random, "__self__", None)


def _place(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
