"""Kills a writing member again and again, and holds what is found against what was promised.

    python -m tests.storage.killing --kills 200 --seed 1 --directory /tmp/kills

One process forks a life after another; only lives open RocksDB, so forking is safe. A life opens
the directory, checks that it found a state which the life before passed through, none older than
the last acknowledged one, and writes on until it is killed: at a named failpoint, by a thread while
a flush is under way, or from outside amid a write. What it intends and acknowledged it tells in a
file of its own, whose pages outlive it. The last line printed is a JSON object of the outcome.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from random import Random

from raftkv.storage.base import Recovered
from raftkv.storage.directory import open_rocks
from tests.storage.member_model import CLUSTER, MEMBER, FixedRng, Writer, rows_match

FAILPOINTS = (
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
TURNS_MAX = 60  # then a life that nothing killed ends by itself
LIVES_PER_DIRECTORY = 10
DIGEST_BYTES = 16
IDLE, WRITING, FLUSHING = 0, 1, 2


def digest(state: Recovered) -> bytes:
    """A state as a few bytes; its entries are told by the last chain value."""
    last = state.entries[-1] if state.entries else state.snapshot
    told = (state.hard_state, state.snapshot, last.index, last.chain, state.applied)
    return blake2b(repr(told).encode(), digest_size=DIGEST_BYTES).digest()


class Diary:
    """What lives intended and acknowledged, in order, on pages that outlive them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def note(self, kind: bytes, state: Recovered) -> None:
        os.write(self._file, kind + digest(state))

    def allowed(self) -> set[bytes]:
        """The states that may be found: the last acknowledged and those intended after it."""
        size = DIGEST_BYTES + 1
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        found: set[bytes] = set()
        for start in range(0, len(content), size):
            note = content[start : start + size]
            if note[:1] == b"A":
                found = set()
            found.add(note[1:])
        return found


class Life:
    """One opening of the directory, with the death that awaits it."""

    def __init__(self, root: Path, seed: str, shared: mmap.mmap) -> None:
        self.root = root
        self.random = Random(seed)
        self.shared = shared  # phase, batches begun (from outside: when to kill), cuts made
        self.at = ""
        self.count = 0
        self.spin_seconds = 0.0

    def die_at(self, failpoint: str, count: int) -> None:
        self.at, self.count = failpoint, count

    def die_in_flush(self, count: int, spin_seconds: float) -> None:
        self.at, self.count, self.spin_seconds = "in flush", count, spin_seconds

    def failpoint(self, name: str) -> None:
        if name in ("write.before", "sync.before"):
            self.shared[0] = WRITING if name == "write.before" else FLUSHING
            self.shared[1] = min(self.shared[1] + (name == "write.before"), 255)
        elif name in ("write.after", "sync.after"):
            self.shared[0] = IDLE
        elif name == "cut.after":
            self.shared[2] = 1
        if name == self.at or (self.at == "in flush" and name == "sync.before"):
            self.count -= 1
            if self.count == 0:
                self.die()

    def die(self) -> None:
        if self.spin_seconds:
            threading.Thread(target=self.die_soon, daemon=True).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def die_soon(self) -> None:
        spin(self.spin_seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def run(self, batch_bytes: Callable[[], int]) -> None:
        diary = Diary(self.root.with_suffix(".diary"))
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
            raise AssertionError(f"found a state that nobody may have left: {found.hard_state}")
        if not rows_match(storage.store, found):
            raise AssertionError("the machine's rows are not those of the applied entries")
        diary.note(b"A", found)
        for _ in range(TURNS_MAX):
            for _ in range(self.random.choice((1, 1, 2, 3))):
                self.turn(writer, batch_bytes())
                diary.note(b"I", writer.state())
                writer.write(self.batch)
            writer.sync()
            diary.note(b"A", writer.state())
        storage.close()

    def turn(self, writer: Writer, size: int) -> None:
        """One batch of about ``size`` bytes: what a node may do in a turn, by chance."""
        chance = self.random.random
        self.batch = writer.storage.store.batch()
        if writer.hard_state.term == 0 or chance() < 0.1:
            term = writer.hard_state.term + 1
            writer.vote(self.batch, term, self.random.choice((0, MEMBER, 8)))
        replace = self.random.randint(0, writer.uncommitted) if chance() < 0.1 else 0
        pieces = self.random.choice((1, 1, 3, 10))
        payload = self.random.randbytes(max(1, size // pieces))
        writer.append(self.batch, [payload] * pieces, replace)
        if chance() < 0.6:
            writer.commit(
                self.batch, writer.last.index - self.random.randint(0, writer.uncommitted)
            )
        if writer.applied.index - writer.snapshot.index > 20:
            writer.compact(self.batch, writer.applied.index - 5)


def spin(seconds: float) -> None:
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        pass


def one_life(root: Path, seed: str, shared: mmap.mmap) -> tuple[str, str]:
    """Live once and die; how it was meant to, and what came of it."""
    random = Random("death of " + seed)
    shared[:3] = bytes(3)
    life = Life(root, seed, shared)
    size = random.choice((300, 300, 3_000, 100_000, 1_000_000, 4_000_000))
    way = random.choice(("failpoint", "in flush", "in write", "in write"))
    batches = 0
    if way == "failpoint":
        way = random.choice(FAILPOINTS)
        once = way.startswith(("make.", "boot.", "cut."))
        life.die_at(way, 1 if once else random.randint(1, 12))
    elif way == "in flush":
        life.die_in_flush(random.randint(1, 12), random.uniform(1e-6, 4e-4 + size * 5e-10))
    else:
        batches = random.randint(1, 12)
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            life.run(lambda: size)
            code = 0
        except BaseException:  # whatever it is, it must be seen, and not run the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    delay = random.uniform(0, 2e-5 + size * 6e-10)
    while batches and shared[1] < batches:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return way, outcome(status)
    if batches:
        spin(delay)
        os.kill(pid, signal.SIGKILL)
    return way, outcome(os.waitpid(pid, 0)[1])


def outcome(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "ended" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else "failed"


def campaign(directory: Path, seed: int, kills: int) -> dict[str, object]:
    """Lives until ``kills`` were killed; the first failure ends it and keeps the directory."""
    shared = mmap.mmap(-1, 16)
    ways: Counter[str] = Counter()
    phases: Counter[int] = Counter()
    lives = killed = cuts = 0
    while killed < kills:
        root = directory / f"member-{lives // LIVES_PER_DIRECTORY}"
        way, result = one_life(root, f"{seed}/{lives}", shared)
        lives += 1
        cuts += shared[2]
        if result == "failed":
            return {"failed": f"{seed}/{lives - 1}", "way": way, "directory": str(root)}
        if result == "killed":
            killed += 1
            ways[way] += 1
            phases[shared[0]] += 1
        if lives % LIVES_PER_DIRECTORY == 0:
            shutil.rmtree(root)
            root.with_suffix(".diary").unlink()
    return {
        "seed": seed,
        "lives": lives,
        "killed": killed,
        "inside": phases[WRITING] + phases[FLUSHING],
        "inside_write": phases[WRITING],
        "inside_flush": phases[FLUSHING],
        "torn_tails_cut": cuts,
        "ways": dict(sorted(ways.items())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    result = campaign(given.directory, given.seed, given.kills)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if "failed" in result else 0


if __name__ == "__main__":
    sys.exit(main())
