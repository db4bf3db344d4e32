"""The campaign ``ioerror``: disks that fail, are full, or are slow, under real members.

The calls of each member's process pass through a preloaded library (see
:mod:`~raftkv.testing.campaigns.shim`), which fails or delays them when it is told to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from errno import EIO, ENOSPC
from pathlib import Path
from random import Random
from typing import Final, cast

from raftkv.testing.campaigns.cluster import IS_PATIENT, Cluster, free_ports
from raftkv.testing.campaigns.cluster_crash import draw_settings
from raftkv.testing.campaigns.disks import why_no_disks
from raftkv.testing.campaigns.failing_member import STOPPED_STATUS
from raftkv.testing.campaigns.frame import Campaign, Case, Facts, FindingError, Part
from raftkv.testing.campaigns.full_disk import fill_a_disk
from raftkv.testing.campaigns.inprocess import NAMES
from raftkv.testing.campaigns.shim import FOR_EVER, Shim, compile_shim, why_no_shim
from raftkv.testing.histories.kv import Put, load_kv_history
from raftkv.testing.histories.operations import Outcome

STOP_SECONDS_MAX: Final = 1.0
"""A node is silent, and after a failed sync has ended, within so long of the first failure."""
CLOSE_SECONDS_MAX: Final = 5.0
"""It has ended within so long of a failed write: RocksDB may wait a second before it closes."""
_MEMBER: Final = "raftkv.testing.campaigns.failing_member"
_FAILURE_SECONDS_MAX: Final = 20.0
_SLOW_SECONDS: Final = 3.0
_TICK_SECONDS: Final = 0.03
_ELECTION_TICKS: Final = 15
_CALM: Final = {
    "tick_seconds": _TICK_SECONDS,
    "heartbeat_ticks": 2,
    "election_ticks": _ELECTION_TICKS,
    "close_seconds_max": 0.5,
}
ELECTION_SECONDS: Final = _TICK_SECONDS * _ELECTION_TICKS


class _Fragile:
    """A cluster, each member of which has a shim around its disk."""

    def __init__(self, case: Case, settings: dict[str, float]) -> None:
        library = compile_shim(case.directory)
        ports = free_ports(len(NAMES))
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self._case = case
        self.shims = {
            name: Shim(library, case.directory / f"{name}.rules", case.directory / name)
            for name in NAMES
        }
        self.made = Cluster(case, addresses, settings, before=self._before)

    def _before(self, name: str) -> Sequence[str]:
        return ("env", *(f"{key}={value}" for key, value in self.shims[name].environment.items()))

    def start(self, names: Sequence[str]) -> None:
        """Start members and wait until they serve."""
        for name in names:
            verdict = str(self._verdict(name))
            self.made.start([name], module=_MEMBER, verdict=verdict)
        self.made.await_serving(names)

    def await_stop(self, name: str, seconds_max: float) -> None:
        """Wait until a member has stopped because of its disk, and look at what it said then."""
        process, shim = self.made.running[name], self.shims[name]
        if not process.wait_for_death(_FAILURE_SECONDS_MAX):
            said = "no call failed" if not shim.failed() else f"{shim.failed()} calls failed"
            raise FindingError(f"{name} goes on after {_FAILURE_SECONDS_MAX:.0f} s, {said}")
        status = self.made.running.pop(name).bury()
        if status != STOPPED_STATUS:
            raise FindingError(f"{name} ended with status {status}: see {name}.log")
        verdict = cast("dict[str, object]", json.loads(self._verdict(name).read_text()))
        stopped_ns = cast("int", verdict["stopped_ns"])
        took = (stopped_ns - shim.first_failure_ns()) / 1e9
        facts = self.made.facts
        facts["stops"] += 1
        facts["stop us"] += round(took * 1e6)
        if took < 0 or (took > seconds_max and not IS_PATIENT):
            raise FindingError(f"{name} took {took:.3f} s to stop: {verdict['why']}")
        for call, answer in cast("dict[str, str]", verdict["tries"]).items():
            facts["calls refused after"] += 1
            if answer.startswith(("answered", "foreign")):
                raise FindingError(f"{name}, {call} after its disk failed: {answer}")
        silent_ns = min(stopped_ns, shim.first_failure_ns() + round(STOP_SECONDS_MAX * 1e9))
        self._check_silence(name, silent_ns)

    def _check_silence(self, name: str, silent_ns: int) -> None:
        for history in self._case.directory.glob(f"{name}-*.history"):
            for operation in load_kv_history(history):
                if operation.outcome is Outcome.OK and (operation.return_at or 0) > silent_ns:
                    raise FindingError(f"{name} answered after its end: {operation}")

    def _verdict(self, name: str) -> Path:
        return self._case.directory / f"{name}.verdict"

    def judge(self) -> None:
        """Everybody is well again: they are one cluster, and lost nothing."""
        made = self.made
        made.await_leader()
        made.rest()
        made.converge()
        made.check()
        made.stop()


@contextmanager
def _fragile_cluster(case: Case, settings: dict[str, float]) -> Generator[_Fragile]:
    fragile = _Fragile(case, settings)
    try:
        fragile.start(NAMES)
        fragile.made.await_leader()
        yield fragile
    finally:
        fragile.made.abandon()
        for shim in fragile.shims.values():
            shim.close()


def _victim(fragile: _Fragile, random: Random) -> str:
    leader = fragile.made.await_leader()
    return leader if random.random() < 0.5 else random.choice(NAMES)


def fail_a_disk(case: Case) -> Facts:
    """A sync or write of one member fails with EIO, once or for ever; later its disk is well."""
    random = case.random("eio")
    times = (1, FOR_EVER)[case.seed % 2]
    with _fragile_cluster(case, draw_settings(random)) as fragile:
        fragile.made.work()
        time.sleep(random.uniform(0.2, 0.6))
        victim = _victim(fragile, random)
        shim, skip = fragile.shims[victim], random.randint(0, 30)
        limit = STOP_SECONDS_MAX
        if random.random() < 0.75:
            shim.syncs(EIO, times=times, skip=skip)
        else:
            limit = CLOSE_SECONDS_MAX
            halve = random.choice((0, 1))  # RocksDB goes on after a short write
            shim.writes(EIO, times=min(times + halve, FOR_EVER), skip=skip, halve=halve)
        _stop_and_return(fragile, victim, random, limit)
        return fragile.made.facts


def run_out_of_space(case: Case) -> Facts:
    """Writes of one member fail with ENOSPC, from a moment on; later there is room."""
    random = case.random("enospc")
    with _fragile_cluster(case, draw_settings(random)) as fragile:
        fragile.made.work()
        time.sleep(random.uniform(0.2, 0.6))
        victim = _victim(fragile, random)
        fragile.shims[victim].writes(ENOSPC, skip=random.randint(0, 30), halve=1)
        _stop_and_return(fragile, victim, random, CLOSE_SECONDS_MAX)
        return fragile.made.facts


def _stop_and_return(fragile: _Fragile, victim: str, random: Random, seconds_max: float) -> None:
    fragile.await_stop(victim, seconds_max)
    time.sleep(random.uniform(0.0, 0.5))
    fragile.shims[victim].heal()
    fragile.start([victim])
    time.sleep(0.2)
    fragile.judge()


def fill_disks(case: Case) -> Facts:
    """A disk without room: a real one under a store, or one by the shim under a member."""
    return fill_a_disk(case) if case.seed % 2 else run_out_of_space(case)


def _why_no_full_disks() -> str | None:
    return why_no_disks() or why_no_shim()


# --- slow disks ---------------------------------------------------------------------------------


def _latencies(case: Case, name: str, after_ns: int) -> list[int]:
    """How long the puts of a member's own clients took, asked and answered since."""
    return sorted(
        operation.return_at - operation.call_at
        for history in case.directory.glob(f"{name}-*.history")
        for operation in load_kv_history(history)
        if isinstance(operation.request, Put)
        and operation.outcome is Outcome.OK
        and operation.return_at is not None
        and operation.call_at >= after_ns
    )


SLOW_LEADER_SECONDS: Final = (0.05, 0.1, 0.2, 1.5, 4.0)


def slow_a_leader(case: Case) -> Facts:
    """Every sync of the leader takes longer: below the election timeout it keeps its lead.

    Above, a majority without its disk must go on, under it or under another.
    """
    delay = SLOW_LEADER_SECONDS[case.seed % len(SLOW_LEADER_SECONDS)]
    with _fragile_cluster(case, dict(_CALM)) as fragile:
        made = fragile.made
        made.work()
        time.sleep(0.5)
        leader = made.await_leader()
        term = made.running[leader].ask("status")["term"]
        before_ns = time.monotonic_ns()
        time.sleep(_SLOW_SECONDS)
        slow_ns = time.monotonic_ns()
        fragile.shims[leader].syncs(delay_seconds=delay)
        time.sleep(_SLOW_SECONDS)
        slow_puts = sum(len(_latencies(case, name, slow_ns)) for name in NAMES)
        all_puts = sum(len(_latencies(case, name, before_ns)) for name in NAMES)
        after = made.await_leader()
        told = made.running[after].ask("status")
        if delay < ELECTION_SECONDS and (told["term"], after) != (term, leader):
            raise FindingError(f"a sync of {delay} s cost {leader} its lead: {told}")
        if not slow_puts:
            raise FindingError(f"no put was acknowledged while a sync of {leader} took {delay} s")
        word = "below" if delay < ELECTION_SECONDS else "above"
        made.facts[f"{word} the election timeout: puts before"] += all_puts - slow_puts
        made.facts[f"{word} the election timeout: puts while slow"] += slow_puts
        made.facts[f"{word} the election timeout: lead moved"] += after != leader
        fragile.shims[leader].heal()
        time.sleep(delay)  # the sync under way still takes its time
        fragile.judge()
        return made.facts


def slow_a_follower(case: Case) -> Facts:
    """Every sync of one follower takes long: a majority without it commits as fast as before."""
    delay = (0.1, 0.3, 1.0)[case.seed % 3]
    with _fragile_cluster(case, dict(_CALM)) as fragile:
        made = fragile.made
        made.work()
        leader = made.await_leader()
        time.sleep(0.5)
        before_ns = time.monotonic_ns()
        time.sleep(_SLOW_SECONDS)
        before = _latencies(case, leader, before_ns)
        slow = case.random().choice([name for name in NAMES if name != leader])
        fragile.shims[slow].syncs(delay_seconds=delay)
        slow_ns = time.monotonic_ns()
        time.sleep(_SLOW_SECONDS)
        after = _latencies(case, leader, slow_ns)
        if made.await_leader() != leader:
            raise FindingError(f"{leader} lost its lead to a slow disk of {slow}")
        if not before or not after:
            raise FindingError(f"{len(before)} puts before, {len(after)} with a slow follower")
        for name, times in (("before", before), ("after", after)):
            made.facts[f"p50 us {name}"] += times[len(times) // 2] // 1000
            made.facts[f"p99 us {name}"] += times[len(times) * 99 // 100] // 1000
        fragile.shims[slow].heal()
        time.sleep(delay)
        fragile.judge()
        return made.facts


IOERROR = Campaign(
    "ioerror",
    "disks that fail, are full, or are slow, under real members",
    (
        Part(
            name="fail",
            about="a sync or write of one member fails with EIO, once or for ever",
            run=fail_a_disk,
            cases=20,
            lacks=why_no_shim,
        ),
        Part(
            name="full",
            about="a disk without room: a real one of 24 MiB, or one by ENOSPC",
            run=fill_disks,
            cases=5,
            lacks=_why_no_full_disks,
        ),
        Part(
            name="slow-leader",
            about="every sync of the leader takes 50 ms to 4 s",
            run=slow_a_leader,
            cases=len(SLOW_LEADER_SECONDS),
            lacks=why_no_shim,
        ),
        Part(
            name="slow-follower",
            about="every sync of a follower takes 100 ms to 1 s",
            run=slow_a_follower,
            cases=3,
            lacks=why_no_shim,
        ),
    ),
)
