"""Kill -9 of a process that writes a member's directory, and what the next one finds.

One directory lives several lives, each a forked process; the worker itself never opens RocksDB, so
that forking it is safe. A life opens the directory, checks that it found a state which the life
before passed through, none older than the last acknowledged one, and writes on until it is killed:
at a named failpoint, by a thread while a flush is under way, or from outside amid a write. What it
intends and acknowledged it notes in a file of its own, whose pages outlive it. The last life only
looks.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Final

from raftkv.storage.base import Batch, Recovered
from raftkv.storage.directory import open_rocks
from raftkv.testing.campaigns.frame import Case, Facts, FindingError
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, FixedRng, Writer, rows_match

STORE_FAILPOINTS: Final = (
    "make.store",
    "make.before",
    "make.after",
    "boot.between",
    "write.before",
    "write.after",
    "sync.before",
    "sync.after",
    "witness.before",
    "witness.after",
    "cut.before",
    "cut.after",
)
"""Where a storage calls its failpoint; every one of them is tried."""

_ONCE = ("make.", "boot.", "cut.")  # met at most once in a life
_KILLS_MAX = 3
_LIVES_MAX = 30  # a life that is to write again and again may end before its failpoint
_TURNS_MAX = 60  # then a life that nothing killed ends by itself
_DIGEST_BYTES = 16
_IDLE, _WRITING, _FLUSHING = 0, 1, 2


def kill_anywhere(case: Case) -> Facts:
    """One to three kills of one directory's writers, at instants that the seed draws."""
    random = case.random("store")
    directory = _Directory(case, "store")
    for _ in range(random.randint(1, _KILLS_MAX)):
        directory.live(_draw_death(random))
    directory.look()
    return directory.facts


def kill_at_failpoint(case: Case) -> Facts:
    """Kills at one named failpoint, which the seed numbers, and what the next life finds."""
    random = case.random("failpoints")
    name = STORE_FAILPOINTS[case.seed % len(STORE_FAILPOINTS)]
    directory = _Directory(case, "failpoints")
    if not name.startswith("make."):
        directory.live(Death("in write", 1_000_000, batches=random.randint(1, 6)))
    for _ in range(_LIVES_MAX):
        if name.startswith("cut."):
            directory.live(Death("write.after", 1_000_000, count=random.randint(1, 6)))
            directory.tear(random)
        once = name.startswith(_ONCE)
        directory.live(Death(name, 3_000, count=1 if once else random.randint(1, 8)))
        if directory.facts[f"at {name}"]:
            break
    else:
        raise FindingError(f"failpoint {name} was not met in {_LIVES_MAX} lives")
    directory.look()
    return directory.facts


class Death:
    """How a life is to end: at a failpoint, in a flush, or by a kill from outside in a write."""

    def __init__(
        self, way: str, size: int, *, count: int = 0, batches: int = 0, spin_seconds: float = 0.0
    ) -> None:
        self.way = way
        self.size = size  # bytes of a batch
        self.count = count  # at which passing of the failpoint
        self.batches = batches  # after how many batches to kill from outside
        self.spin_seconds = spin_seconds


def _draw_death(random: Random) -> Death:
    size = random.choice((300, 300, 3_000, 100_000, 1_000_000, 4_000_000))
    way = random.choice(("failpoint", "in flush", "in write", "in write"))
    if way == "failpoint":
        name = random.choice(STORE_FAILPOINTS)
        return Death(name, size, count=1 if name.startswith(_ONCE) else random.randint(1, 12))
    if way == "in flush":
        spin_seconds = random.uniform(1e-6, 4e-4 + size * 5e-10)
        return Death(way, size, count=random.randint(1, 12), spin_seconds=spin_seconds)
    spin_seconds = random.uniform(0, 2e-5 + size * 6e-10)
    return Death(way, size, batches=random.randint(1, 12), spin_seconds=spin_seconds)


class _Directory:
    """One member's directory with all its lives, as their parent sees it."""

    def __init__(self, case: Case, purpose: str) -> None:
        self.root = case.directory / "member"
        self.seed = f"{purpose}/{case.seed}"
        self.shared = mmap.mmap(-1, 16)  # phase, batches begun, cuts made: seen from outside
        self.facts: Counter[str] = Counter()

    def live(self, death: Death) -> None:
        """One life, until it is killed or has written enough."""
        self.facts["lives"] += 1
        self.shared[:3] = bytes(3)
        pid = self._fork(death)
        status = self._kill_amid_writing(pid, death) if death.batches else os.waitpid(pid, 0)[1]
        self.facts["cuts"] += self.shared[2]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.facts["kills"] += 1
            self.facts["kills inside"] += self.shared[0] in (_WRITING, _FLUSHING)
            if not death.batches:
                self.facts[f"at {death.way}"] += 1
        elif status:
            raise FindingError(f"a life meant to end {death.way!r} failed: see life.log")

    def tear(self, random: Random) -> None:
        """Cut the log amid the batch that was written last, and never synced."""
        logs = [log for log in self.root.rglob("*.log") if log.stat().st_size]
        newest = max(logs, key=lambda log: int(log.stem))
        size = newest.stat().st_size
        os.truncate(newest, size - random.randint(1, min(size - 1, 500_000)))

    def look(self) -> None:
        """The last life: it opens, checks, and is not killed."""
        pid = self._fork(None)
        if os.waitpid(pid, 0)[1]:
            raise FindingError("the life that only looks failed: see life.log")

    def _fork(self, death: Death | None) -> int:
        life = Life(self.root, f"{self.seed}/{self.facts['lives']}", self.shared, death)
        return life.fork(self.root.with_name("life.log"))

    def _kill_amid_writing(self, pid: int, death: Death) -> int:
        while self.shared[1] < death.batches:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
        _spin(death.spin_seconds)
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]


class Life:
    """One opening of the directory, with the death that awaits it."""

    def __init__(
        self,
        root: Path,
        seed: str,
        shared: mmap.mmap,
        death: Death | None,
        diary: Path | None = None,
    ) -> None:
        self.root = root
        self.diary = root.with_suffix(".diary") if diary is None else diary
        self.random = Random(seed)
        self.shared = shared
        self.death = death
        self.left = death.count if death else 0

    def fork(self, log: Path) -> int:
        """Live in a child, which ends with status 0 if all is well; its process id."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 3
        try:
            self.run()
            code = 0
        except BaseException:  # whatever it is, it must be told, and not run the parent's code
            with log.open("a", encoding="utf-8") as told:
                traceback.print_exc(file=told)
        finally:
            os._exit(code)

    def failpoint(self, name: str) -> None:
        """Note the phase; die if this is the moment."""
        if name in ("write.before", "sync.before"):
            self.shared[0] = _WRITING if name == "write.before" else _FLUSHING
            self.shared[1] = min(self.shared[1] + (name == "write.before"), 255)
        elif name in ("write.after", "sync.after"):
            self.shared[0] = _IDLE
        elif name == "cut.after":
            self.shared[2] = 1
        at = self.death.way if self.death else ""
        if name == at or (at == "in flush" and name == "sync.before"):
            self.left -= 1
            if self.left == 0:
                self._die()

    def _die(self) -> None:
        if self.death and self.death.spin_seconds:
            threading.Thread(target=self._die_soon, daemon=True).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def _die_soon(self) -> None:
        if self.death:
            _spin(self.death.spin_seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def run(self) -> None:
        """Open, check, write on."""
        diary = _Diary(self.diary)
        storage = open_rocks(
            self.root,
            cluster_id=CLUSTER,
            member_id=MEMBER,
            rng=FixedRng(),
            failpoint=self.failpoint,
        )
        writer = Writer(storage)
        found = writer.state()
        allowed = diary.allowed()
        if allowed and digest(found) not in allowed:
            raise FindingError(f"found a state that nobody may have left: {found.hard_state}")
        if not rows_match(storage.store, found):
            raise FindingError("the machine's rows are not those of the applied entries")
        diary.note(b"A", found)
        if self.death:
            for _ in range(_TURNS_MAX):
                for _ in range(self.random.choice((1, 1, 2, 3))):
                    batch = self._turn(writer, self.death.size)
                    diary.note(b"I", writer.state())
                    writer.write(batch)
                writer.sync()
                diary.note(b"A", writer.state())
        storage.close()

    def _turn(self, writer: Writer, size: int) -> Batch:
        """One batch of about ``size`` bytes: what a node may do in a turn, by chance."""
        chance = self.random.random
        batch = writer.storage.store.batch()
        if writer.hard_state.term == 0 or chance() < 0.1:
            writer.vote(batch, writer.hard_state.term + 1, self.random.choice((0, MEMBER, 8)))
        replace = self.random.randint(0, writer.uncommitted) if chance() < 0.1 else 0
        pieces = self.random.choice((1, 1, 3, 10))
        payload = self.random.randbytes(max(1, size // pieces))
        writer.append(batch, [payload] * pieces, replace)
        if chance() < 0.6:
            writer.commit(batch, writer.last.index - self.random.randint(0, writer.uncommitted))
        if writer.applied.index - writer.snapshot.index > 20:
            writer.compact(batch, writer.applied.index - 5)
        return batch


class _Diary:
    """What lives intended and acknowledged, in order, on pages that outlive them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def note(self, kind: bytes, state: Recovered) -> None:
        """``I``: may be found from now on. ``A``: nothing older may be."""
        os.write(self._file, kind + digest(state))

    def allowed(self) -> set[bytes]:
        """The states that may be found: the last acknowledged and those intended after it."""
        size = _DIGEST_BYTES + 1
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        found: set[bytes] = set()
        for start in range(0, len(content), size):
            note = content[start : start + size]
            if note[:1] == b"A":
                found = set()
            found.add(note[1:])
        return found


def digest(state: Recovered) -> bytes:
    """A state as a few bytes; its entries are told by the last chain value."""
    last = state.entries[-1] if state.entries else state.snapshot
    told = (state.hard_state, state.snapshot, last.index, last.chain, state.applied)
    return blake2b(repr(told).encode(), digest_size=_DIGEST_BYTES).digest()


def _spin(seconds: float) -> None:
    """Wait without giving the processor away: a sleep would end too late."""
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        pass
