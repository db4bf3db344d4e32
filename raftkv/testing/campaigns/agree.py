"""The campaign ``disks``: what a crash leaves of RocksDB is among what the simulated disk allows.

Each list of steps is drawn, given to both, and cut short: by a power cut of a small disk of its own
amid a step (``power``), by a kill (``kill``), or by what a power cut may do to the unsynced pages
of a write-ahead log, done to a copy (``pages``).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.storage.files import OsFiles
from raftkv.storage.manifest import missing_batches
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.testing.campaigns.disks import Disk, mounted_disks, why_no_disks
from raftkv.testing.campaigns.frame import Campaign, Case, Facts, FindingError, Part
from raftkv.testing.campaigns.isolated import Told, finding_of, in_child, numbers
from raftkv.testing.campaigns.known import scratch
from raftkv.testing.campaigns.power import stop_still
from raftkv.testing.copies import copy_of_a_moment
from raftkv.testing.nodes.agreement import (
    Outcome,
    Reopen,
    SimulatedSide,
    Step,
    Sync,
    Write,
    WriteBack,
    content_of,
    draw_steps,
    look,
    write,
)

LISTS_PER_CASE: Final = 10
COPIES_PER_LIST: Final = 6
_STEPS_MAX: Final = 30
_DISK_MIB: Final = 128
_PAGE_BYTES: Final = 4096
_NOTHING: Final = "nothing is lost"
_BEGUN, _ENDED = 0, 1  # counts that the writing process shares

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _sync_all(path: Path) -> None:
    """Have the kernel write out all that it has cached of the file system at ``path``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(descriptor)


class _RealSide:
    """RocksDB, given the same steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = RocksStore(path, Mode.CREATE)
        self.store.sync()

    def take(self, step: Step) -> None:
        match step:
            case Write(changes):
                write(self.store, changes)
            case Sync():
                self.store.sync()
            case Reopen():
                self.store.close()
                self.store = RocksStore(self.path)
            case WriteBack():
                _sync_all(self.path)


def _allowed(steps: list[Step], begun: int, ended: int) -> dict[Outcome, str]:
    """What a power cut may leave when so many steps were begun, and so many had returned."""
    side = SimulatedSide()
    for step in steps[:ended]:
        side.take(step)
    allowed = side.outcomes()
    if begun > ended:  # it may have been done, in part or not at all
        side.take(steps[ended])
        allowed |= side.outcomes()
    side.close()
    return allowed


def _allowed_after_kill(steps: list[Step], begun: int, ended: int) -> dict[Outcome, str]:
    """The same for a kill, which loses nothing but the batch it falls into."""
    side = SimulatedSide()
    for step in steps[:ended]:
        side.take(step)
    before = content_of(side.store)
    allowed = {Outcome(False, before): _NOTHING}
    if begun > ended:
        side.take(steps[ended])
        allowed[Outcome(True, before)] = "the batch is torn"
        allowed[Outcome(False, content_of(side.store))] = _NOTHING
    side.close()
    return allowed


def _judge(path: Path, allowed: dict[Outcome, str], facts: Counter[str]) -> None:
    missing = missing_batches(path, OsFiles())
    if missing is not None:
        raise FindingError(f"the opening of a member would refuse it: {missing}")
    try:
        found = look(path)
    except StorageCorruptError as error:
        raise FindingError(f"no simulated disk is damaged like this: {error}") from error
    told = allowed.get(found)
    if told is None:
        raise FindingError(
            f"{'refused, then ' if found.is_refused else ''}other rows than any of the"
            f" {len(allowed)} outcomes of the simulated disk"
        )
    facts["refused and cut"] += found.is_refused
    facts["batches lost"] += told != _NOTHING


# --- power cuts and kills -------------------------------------------------------------------------


def cut_power(case: Case) -> Facts:
    """Lists of steps on one disk, which loses its power amid each of them."""
    facts = Counter[str]()
    with scratch(case) as base, mounted_disks(base, 1, _DISK_MIB) as (disk,):
        for number in range(LISTS_PER_CASE):
            _crash_amid(case, number, disk.path / "store", disk, facts)
    return facts


def kill(case: Case) -> Facts:
    """Lists of steps, each ended by a kill amid one of them."""
    facts = Counter[str]()
    with scratch(case) as base:
        for number in range(LISTS_PER_CASE):
            _crash_amid(case, number, base / "store", None, facts)
    return facts


def _crash_amid(
    case: Case, number: int, path: Path, disk: Disk | None, facts: Counter[str]
) -> None:
    random, log = case.random(f"list {number}"), case.directory / "life.log"
    steps = draw_steps(random, random.randint(3, _STEPS_MAX))
    target = random.randint(1, len(steps))
    halts = random.random() < 0.5
    shared = mmap.mmap(-1, 2)
    pid = _fork(steps, path, shared, target if halts else len(steps), log)
    try:
        while shared[_BEGUN] < target:
            if os.waitpid(pid, os.WNOHANG)[0]:
                pid = 0
                raise FindingError("the process that takes the steps failed: see life.log")
        time.sleep(random.uniform(0, 0.001))
        stop_still(pid)
        begun, ended = shared[_BEGUN], shared[_ENDED]
        if disk is not None:
            if random.random() < 0.3:
                _sync_all(disk.path)
            disk.cut_power()
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if disk is not None:
        disk.revive()
    facts["lists"] += 1
    facts["amid a step"] += begun > ended
    allowed = _allowed_after_kill if disk is None else _allowed

    def judge() -> Told:
        met = Counter[str]()
        with finding_of(f"list {number}, {ended} of {len(steps)} steps done, {begun} begun"):
            _judge(path, allowed(steps, begun, ended), met)
        return dict(met)

    facts.update(numbers(in_child(judge, log)))
    shutil.rmtree(path)
    shutil.rmtree(path.with_name(path.name + "-options"))


def _fork(steps: list[Step], path: Path, shared: mmap.mmap, halt: int, log: Path) -> int:
    """A process that takes the steps, and stands still after so many."""
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 2)
        signal.setitimer(signal.ITIMER_REAL, 0)
        side = _RealSide(path)
        _sync_all(path)
        for step in steps:
            shared[_BEGUN] += 1
            side.take(step)
            shared[_ENDED] += 1
            if shared[_ENDED] == halt:
                break
        while True:
            signal.pause()
    except BaseException:  # whatever it is, the parent must hear of it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(3)


# --- unsynced pages -------------------------------------------------------------------------------


def damage_pages(case: Case) -> Facts:
    """Lists of steps, and copies whose unsynced pages did not all get to the disk."""

    def work(base: Path) -> Told:
        facts = Counter[str]()
        for number in range(LISTS_PER_CASE):
            random = case.random(f"list {number}")
            steps = draw_steps(random, random.randint(3, _STEPS_MAX))
            with finding_of(f"list {number} with {len(steps)} steps"):
                damage_copies(base, steps, random, facts)
        return dict(facts)

    with scratch(case) as base:
        return numbers(in_child(lambda: work(base), case.directory / "life.log"))


def damage_copies(
    base: Path,
    steps: list[Step],
    random: Random,
    facts: Counter[str],
    *,
    copies: int = COPIES_PER_LIST,
) -> None:
    """Take the steps, and look at copies of what a kill would leave, each damaged its own way.

    Raises FindingError where one of them shows what the simulated disk does not allow. For a
    process that may open RocksDB.
    """
    side = _RealSide(base / "live")
    synced = _newest_log(side.path)
    try:
        for step in steps:
            side.take(step)
            if isinstance(step, Sync | Reopen):
                synced = _newest_log(side.path)
        for _ in range(copies):
            copy = base / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy_of_a_moment(side.path, copy)
            what = _lose_pages(copy, synced, random)
            facts["copies"] += 1
            with finding_of(what):
                _judge(copy, _allowed(steps, len(steps), len(steps)), facts)
    finally:
        side.store.close()
        shutil.rmtree(side.path)


def _newest_log(path: Path) -> tuple[str, int]:
    """Name and size of the newest write-ahead log."""
    log = max(path.glob("*.log"), key=lambda one: int(one.stem))
    return log.name, log.stat().st_size


def _lose_pages(copy: Path, synced: tuple[str, int], random: Random) -> str:
    """Do to the log what a power cut may do behind its synced part, and say what."""
    name, size = _newest_log(copy)
    first = synced[1] if synced[0] == name else 0
    way = random.choice(("nothing", "shorter", "zeros at the end", "pages"))
    content = bytearray((copy / name).read_bytes())
    if way == "shorter":
        del content[random.randint(first, size) :]
    elif way == "zeros at the end":
        start = random.randint(first, size)
        content[start:] = bytes(size - start)
    elif way == "pages":
        for page in range(first - first % _PAGE_BYTES, size, _PAGE_BYTES):
            start, stop = max(page, first), min(page + _PAGE_BYTES, size)
            if random.random() < 0.5:
                content[start:stop] = bytes(stop - start)
    (copy / name).write_bytes(content)
    return f"{way}, {name} synced to {first} of {size} bytes"


DISKS = Campaign(
    "disks",
    "simulated disks: a crash leaves of RocksDB what they allow, and nothing else",
    (
        Part(
            name="power",
            about=f"{LISTS_PER_CASE} lists of steps on a small disk, its power cut amid each",
            run=cut_power,
            cases=100,
            lacks=why_no_disks,
        ),
        Part(
            name="kill",
            about=f"{LISTS_PER_CASE} lists of steps, the process killed amid each",
            run=kill,
            cases=50,
        ),
        Part(
            name="pages",
            about=f"{LISTS_PER_CASE} lists of steps, unsynced pages lost from copies of each",
            run=damage_pages,
            cases=50,
        ),
    ),
)
