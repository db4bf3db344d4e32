"""A disk that fails or dawdles at will: a library preloaded into a child, ruled by a shared file.

::

    shim = Shim(compile_shim(directory), directory / "rules", data_dir)
    child = Popen(command, env={**os.environ, **shim.environment})
    ...
    shim.syncs(error=EIO, times=1)  # the next sync below data_dir fails

The library is C (``shim.c`` beside this file), compiled once per process into a directory of the
caller. Only calls through the C library are met, which is how RocksDB and Python write; only for
files below the directory, and of those not RocksDB's diary (``LOG``) nor the lock.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from pathlib import Path
from struct import Struct
from typing import Final

FOR_EVER: Final = 2**32 - 1

_SOURCE: Final = Path(__file__).with_name("shim.c")
_HEAD: Final = Struct("<1024s64s")
_RULE: Final = Struct("<8IQ")  # times, skip, error, delay, halve, seen, failed, unused, first_ns
_NUMBER: Final = Struct("<I")
_FAULT: Final = Struct("<4I")  # skip, error, delay, halve
_WRITES, _SYNCS = 0, 1
_BYTES: Final = _HEAD.size + 2 * _RULE.size


def why_no_shim() -> str | None:
    """What is missing for a shim here; None if nothing is."""
    return None if _compiler() else "no C compiler (cc) is here to make the preloaded library"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


def compile_shim(directory: Path) -> Path:
    """The library, compiled into ``directory`` unless it is there. Raises RuntimeError."""
    library = directory / "shim.so"
    if library.exists():
        return library
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError(why_no_shim())
    fresh = directory / "shim.new.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(fresh), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler} refuses shim.c: {done.stderr.strip()}")
    fresh.rename(library)
    return library


class Shim:
    """The rules for one directory; changed at any time, they hold for the next call."""

    def __init__(self, library: Path, control: Path, directory: Path) -> None:
        """Rules in the file ``control`` for files below ``directory``; none holds yet."""
        target = os.fsencode(os.path.realpath(directory)) + b"/"
        control.write_bytes(_HEAD.pack(target, b"").ljust(_BYTES, b"\0"))
        self.environment: Final = {"LD_PRELOAD": str(library), "RAFTKV_SHIM": str(control)}
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)

    def writes(
        self,
        error: int = 0,
        *,
        times: int = FOR_EVER,
        skip: int = 0,
        delay_seconds: float = 0,
        halve: int = 0,
    ) -> None:
        """What befalls writes: ``times`` of them after ``skip`` others fail with ``error``.

        They wait ``delay_seconds`` before, and the first ``halve`` of them write half and succeed.
        Without an error they only wait.
        """
        self._set(_WRITES, error, times, skip, delay_seconds, halve)

    def syncs(
        self, error: int = 0, *, times: int = FOR_EVER, skip: int = 0, delay_seconds: float = 0
    ) -> None:
        """The same for calls of fsync, fdatasync and sync_file_range."""
        self._set(_SYNCS, error, times, skip, delay_seconds, 0)

    def only(self, suffix: str) -> None:
        """Concern only files whose names end so; for calls made before any rule is set."""
        _HEAD.pack_into(self._memory, 0, _HEAD.unpack_from(self._memory)[0], suffix.encode())

    def heal(self) -> None:
        """No rule holds any more; the counts stay."""
        for kind in (_WRITES, _SYNCS):
            _NUMBER.pack_into(self._memory, self._at(kind), 0)

    def failed(self) -> int:
        """How many calls were failed or cut short, since the rules were last set."""
        return sum(self._rule(kind)[6] for kind in (_WRITES, _SYNCS))

    def seen(self) -> int:
        """How many calls the rules concerned, since they were last set."""
        return sum(self._rule(kind)[5] for kind in (_WRITES, _SYNCS))

    def first_failure_ns(self) -> int:
        """When the first of these was, on the monotonic clock; 0 if none was."""
        moments = [self._rule(kind)[8] for kind in (_WRITES, _SYNCS)]
        return min((moment for moment in moments if moment), default=0)

    def close(self) -> None:
        """Let go of the file; a process that has it stays under its last rules. Idempotent."""
        self._memory.close()

    def _at(self, kind: int) -> int:
        return _HEAD.size + kind * _RULE.size

    def _rule(self, kind: int) -> tuple[int, ...]:
        return _RULE.unpack_from(self._memory, self._at(kind))

    def _set(
        self, kind: int, error: int, times: int, skip: int, delay_seconds: float, halve: int
    ) -> None:
        # The count last, which switches the rule on: a call under way meets all of it or nothing.
        _RULE.pack_into(self._memory, self._at(kind), *([0] * 9))
        delay_us = round(delay_seconds * 1e6)
        _FAULT.pack_into(self._memory, self._at(kind) + 4, skip, error, delay_us, halve)
        _NUMBER.pack_into(self._memory, self._at(kind), times)
