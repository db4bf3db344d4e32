"""The campaign ``power``: what was not synced is gone, for one store or for members at once.

Each writer has a disk of its own (see :mod:`~raftkv.testing.campaigns.disks`). It is stopped, the
power of its disk is cut, it is killed, and what the disk kept is what the next life finds.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from raftkv.testing.campaigns.cluster import Cluster, free_ports
from raftkv.testing.campaigns.cluster_crash import draw_settings
from raftkv.testing.campaigns.disks import Disk, mounted_disks, why_no_disks
from raftkv.testing.campaigns.frame import Campaign, Case, Facts, FindingError, Part
from raftkv.testing.campaigns.inprocess import NAMES
from raftkv.testing.campaigns.known import scratch
from raftkv.testing.campaigns.store_crash import Death, Life

CUTS_PER_STORE = 5
CUTS_PER_CLUSTER = 3
_STORE_MIB = 128
_MEMBER_MIB = 256
_STOP_SECONDS_MAX = 30.0


def stop_still(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still: also those amid a sync."""
    os.kill(pid, signal.SIGSTOP)
    limit = time.monotonic() + _STOP_SECONDS_MAX
    while not all(_is_still(task) for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > limit:
            raise FindingError(f"process {pid} does not stop within {_STOP_SECONDS_MAX:.0f} s")
        time.sleep(0.0005)


def _is_still(task: Path) -> bool:
    try:
        state = (task / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True  # it has ended
    return state.rpartition(")")[2].split()[0] in ("T", "Z", "X")


def cut_stores(case: Case) -> Facts:
    """One store on a disk that loses its power again and again, and what the next life finds."""
    random, facts = case.random(), Counter[str]()
    shared = mmap.mmap(-1, 16)
    with scratch(case) as base, mounted_disks(base, 1, _STORE_MIB) as (disk,):
        for number in range(CUTS_PER_STORE):
            size = random.choice((300, 300, 3_000, 30_000, 100_000))
            _cut_amid_writing(case, disk, shared, number, size, facts)
        looker = _life(case, disk, shared, CUTS_PER_STORE, None)
        if os.waitpid(looker.fork(_log(case)), 0)[1]:
            raise FindingError("the life that only looks failed: see life.log")
    return facts


def _cut_amid_writing(
    case: Case, disk: Disk, shared: mmap.mmap, number: int, size: int, facts: Counter[str]
) -> None:
    random = case.random(f"cut {number}")
    shared[:3] = bytes(3)
    life = _life(case, disk, shared, number, Death("power cut", size))
    pid, status = life.fork(_log(case)), None
    try:
        begun = random.randint(1, 40)
        while shared[1] < begun and status is None:
            done, ended = os.waitpid(pid, os.WNOHANG)
            status = ended if done else None
        time.sleep(random.uniform(0, 0.003))
        if status is None:
            stop_still(pid)
            facts["cuts amid a write or sync"] += shared[0] != 0
        disk.cut_power()
    finally:
        if status is None:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
    if status and not os.WIFSIGNALED(status):
        raise FindingError("a life on what a power cut left failed: see life.log")
    disk.revive()
    facts["cuts"] += 1


def _life(case: Case, disk: Disk, shared: mmap.mmap, number: int, death: Death | None) -> Life:
    # The diary is on a disk whose power stays.
    diary = case.directory / "life.diary"
    return Life(disk.path / "member", f"power/{case.seed}/{number}", shared, death, diary)


def _log(case: Case) -> Path:
    return case.directory / "life.log"


# --- members of a cluster -----------------------------------------------------------------------


@contextmanager
def _cluster_on_disks(case: Case, base: Path, random: Random) -> Generator[_Powered]:
    with mounted_disks(base, len(NAMES), _MEMBER_MIB) as disks:
        ports = free_ports(len(NAMES))
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        made = Cluster(case, addresses, draw_settings(random))
        powered = _Powered(made, dict(zip(NAMES, disks, strict=True)))
        try:
            powered.start(NAMES)
            made.await_leader()
            yield powered
        finally:
            made.abandon()


class _Powered:
    """A cluster of which each member has a disk of its own."""

    def __init__(self, made: Cluster, disks: dict[str, Disk]) -> None:
        self.made = made
        self._disks = disks

    def start(self, names: Sequence[str]) -> None:
        """Start members on what their disks hold, and wait until they serve."""
        for name in names:
            self.made.start([name], directory=str(self._disks[name].path / "data"))
        self.made.await_serving(names)

    def cut(self, names: Sequence[str]) -> None:
        """Cut the power of members, as nearly at once as can be, and have their disks back."""
        for name in names:
            self.made.running[name].signal(signal.SIGSTOP)
        for name in names:
            stop_still(self.made.running[name].pid)
        for name in names:
            self._disks[name].cut_power()
        self.made.kill(names)
        for name in names:
            self._disks[name].revive()
        self.made.facts["cuts"] += len(names)


def cut_members(case: Case) -> Facts:
    """A cluster under load: all lose their power at once, or one does; thrice."""
    random = case.random("cluster")
    with scratch(case) as base, _cluster_on_disks(case, base, random) as powered:
        made = powered.made
        made.work()
        for _ in range(CUTS_PER_CLUSTER):
            time.sleep(random.uniform(0.2, 0.8))
            leader = made.leader()
            one = leader if leader and random.random() < 0.5 else random.choice(NAMES)
            names = NAMES if random.random() < 0.5 else (one,)
            powered.cut(names)
            powered.start(names)
            made.await_leader()
            made.facts["cuts of all at once"] += len(names) == len(NAMES)
        time.sleep(0.2)  # let the clients of those who came back do something
        made.rest()
        made.converge()
        made.check()
        made.stop()
        return made.facts


POWER = Campaign(
    "power",
    "power cuts: what was not synced is gone",
    (
        Part(
            name="store",
            about=f"{CUTS_PER_STORE} cuts of a store that writes, one after another",
            run=cut_stores,
            cases=20,
            lacks=why_no_disks,
        ),
        Part(
            name="cluster",
            about=f"{CUTS_PER_CLUSTER} cuts of one member, or of all at once, under load",
            run=cut_members,
            cases=10,
            lacks=why_no_disks,
        ),
    ),
)
