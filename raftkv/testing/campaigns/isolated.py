"""A piece of a case in a child process: RocksDB is opened there, may crash there, and ends there.

The child is forked, which is quick, and allowed because a campaign's worker has one thread and
never opens RocksDB itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, cast

from raftkv.testing.campaigns.frame import FindingError

Told = dict[str, object]
"""What a child tells: anything that JSON can carry."""


class _Child:
    """Which process we are."""

    writing = -1  # the pipe to the parent, in a child


def die_telling(answer: Told) -> NoReturn:
    """In a child: end at once, as SIGKILL ends a process, but for the answer to the parent."""
    _tell(answer)
    os._exit(0)


def in_child(work: Callable[[], Told], log: Path) -> Told:
    """Run ``work`` in a child of its own, its output in ``log``, and answer what it returns.

    Raises FindingError if the child says so, raises anything else, or dies.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(work, log, writing)
    os.close(writing)
    try:
        told = _read(reading)
        status = os.waitpid(pid, 0)[1]
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reading)
    if os.WIFSIGNALED(status):
        raise FindingError(f"the process died of {signal.Signals(os.WTERMSIG(status)).name}")
    if not told:
        raise FindingError(f"the process ended with status {os.waitstatus_to_exitcode(status)}")
    answer = cast("Told", json.loads(told))
    if "finding" in answer:
        raise FindingError(str(answer["finding"]))
    return answer


@contextmanager
def finding_of(where: str) -> Generator[None]:
    """Say in every finding, and beforehand in the child's log, what was done to whom."""
    sys.stderr.write(where + "\n")
    sys.stderr.flush()
    try:
        yield
    except FindingError as error:
        raise FindingError(f"{where}: {error}") from error
    except Exception as error:
        raise FindingError(f"{where}: {traceback.format_exc()}") from error


def numbers(told: Told) -> dict[str, int]:
    """What a child told, all of it counts."""
    return {name: int(str(value)) for name, value in told.items()}


def _live(work: Callable[[], Told], log: Path, writing: int) -> None:
    """Be the child; does not return."""
    code = 3
    _Child.writing = writing
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        answer: Told
        try:
            answer = work()
        except FindingError as error:
            answer = {"finding": str(error)}
        except BaseException:  # whatever it is, the parent must hear of it
            answer = {"finding": traceback.format_exc()}
        sys.stdout.flush()
        sys.stderr.flush()
        _tell(answer)
        code = 0
    finally:
        os._exit(code)  # not the parent's handlers and open files


def _tell(answer: Told) -> None:
    message = json.dumps(answer).encode()
    while message:
        message = message[os.write(_Child.writing, message) :]


def _read(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)
