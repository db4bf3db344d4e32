"""Many seeds of whole nodes, on several processes, summed up."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Final

from attrs import define, field, frozen

from raftkv.testing.artifact import Artifact, artifact
from raftkv.testing.choices import ReplayedChoices, SeededChoices
from raftkv.testing.nodes.opinion import INCONCLUSIVE, SEARCHED
from raftkv.testing.nodes.run import run
from raftkv.testing.viewer import as_text

Marks = Counter[str]

ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "19: frames lost, doubled and late": ("frame lost", "frame doubled", "frame late"),
    "20: partitions": ("partition", "elected again"),
    "21: one-way partitions": ("one-way partition",),
    "22: corrupted frames": ("frame flipped",),
    "23: frames of earlier lives": ("frame replayed", "restart"),
    "24: membership x partition x crash": (
        "membership changed",
        "partition",
        "crash",
        "fault during a change",
    ),
    "25: snapshot x leader change x compaction x restart": (
        "elected again",
        "compacted",
        "restart",
        "snapshot taken over",
    ),
    "26: wall clock set": ("wall clock set",),
    "27: leader stands still during reads": ("leader paused", "read answered"),
    "28: machine asleep": ("machine asleep",),
    "29: clocks at different speeds": ("clock skew",),
    "31: writes asked for again": ("operation retried", "operation unknown"),
}
"""Rows of the fault table: a seed counts for one if it met all of these marks."""

FLOORS_PER_MILLION_STEPS: Final[Mapping[str, int]] = {
    "acknowledgement overtaken": 500,
    "append for compacted entries": 60,
    "append refused": 500,
    "bridge partition": 60,
    "campaign": 800,
    "campaign by order": 40,
    "committed": 4000,
    "committed by a heartbeat": 200,
    "compacted": 1000,
    "compaction": 15,
    "crash": 1000,
    "elected": 200,
    "elected again": 150,
    "fault during a change": 5,
    "flapping": 60,
    "forwarded proposal arrived": 600,
    "frame doubled": 3000,
    "frame flipped": 100,
    "frame late": 3000,
    "frame lost": 3000,
    "frame replayed": 300,
    "frame reset": 300,
    "heartbeat of an older term": 150,
    "heir hastened": 150,
    SEARCHED: 15,
    "joined": 20,
    "late refusal ignored": 150,
    "leader paused": 30,
    "leader stepped down": 70,
    "leader stepped down without its quorum": 15,
    "lease expired": 15,
    "lease granted": 60,
    "lease renewed": 60,
    "lease revoked": 10,
    "left dead": 40,
    "machine asleep": 30,
    "membership changed": 50,
    "one-way partition": 30,
    "opening cancelled": 50,
    "opening refused": 2,
    "operation cancelled": 100,
    "operation done": 4000,
    "operation retried": 300,
    "operation unknown": 300,
    "orderly stop": 100,
    "partition": 300,
    "pause": 200,
    "pre-vote held back for a leader": 150,
    "pre-vote lost": 50,
    "pre-vote refused: the log is behind": 150,
    "promise to a lease ended": 500,
    "read answered": 1500,
    "read answered by the lease": 20,
    "read forwarded": 600,
    "read of the past": 150,
    "read waits for the first commit": 60,
    "reads confirmed together": 15,
    "recovered": 40,
    "removed member refused": 2,
    "replication broken off": 150,
    "restart": 1000,
    "ring partition": 60,
    "slow disk": 50,
    "snapshot delivered": 60,
    "snapshot overtaken by appends": 15,
    "snapshot taken over": 50,
    "stepped down amid a transfer": 30,
    "stepped down with proposals in flight": 12,
    "stepped down with reads in flight": 10,
    "transaction": 200,
    "transfer done": 10,
    "truncated": 5,
    "vote given over a leader, by order": 60,
    "wall clock set": 20,
    "watch begun": 400,
    "watch change": 1000,
    "watch progress": 100,
    "watch resumed": 800,
}
"""The least each mark must count in a million steps; about a third of what swarm runs give."""

STEPS_TO_JUDGE: Final = 500_000
"""Campaigns of fewer steps are too small for floors to mean anything."""

_FAULTS: Final = ("crash", "partition", "pause", "orderly stop", "slow disk", "transfer")
_KEEP: Final = 500
_AHEAD: Final = 2  # seeds given to each process before it has done the last


@frozen
class Share:
    """What came of one seed."""

    seed: int
    steps: int
    seconds: float
    operations: int
    marks: Marks
    found: Artifact | None


@define
class Summary:
    """What a campaign met and found."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Of virtual time."""
    operations: int = 0
    marks: Marks = field(factory=Marks)
    rows: Marks = field(factory=Marks)
    """Seeds that count for each row of the fault table."""
    found: list[Artifact] = field(factory=list[Artifact])

    def add(self, share: Share) -> None:
        """Count a share in."""
        self.seeds += 1
        self.steps += share.steps
        self.seconds += share.seconds
        self.operations += share.operations
        self.marks.update(share.marks)
        self.rows.update(
            row for row, wanted in ROWS.items() if all(share.marks.get(mark) for mark in wanted)
        )
        if share.found is not None:
            self.found.append(share.found)
            # Shares arrive in any order; what is told about them must not depend on it.
            self.found.sort(key=lambda one: one.seed)

    @property
    def unmet(self) -> list[str]:
        """Coverage marks below their floors, in words."""
        if self.steps < STEPS_TO_JUDGE:
            return []
        wanted = {
            name: max(floor * self.steps // 1_000_000, 1)
            for name, floor in FLOORS_PER_MILLION_STEPS.items()
        }
        return [
            f"{name}: {self.marks[name]} of at least {least}"
            for name, least in wanted.items()
            if self.marks[name] < least
        ]

    @property
    def is_green(self) -> bool:
        """Nothing broken, and nothing missing."""
        return not self.found and not self.unmet

    @property
    def figures(self) -> Mapping[str, float]:
        """What the ledger keeps."""
        frames = sum(count for name, count in self.marks.items() if name.startswith("frame "))
        disks = sum(count for name, count in self.marks.items() if name.startswith("disk: "))
        return {
            "steps": self.steps,
            "simulated seconds": self.seconds,
            "faults": sum(self.marks[name] for name in _FAULTS) + frames + disks,
            "histories": self.seeds,
            "operations": self.operations,
            "inconclusive": self.marks[INCONCLUSIVE],
        }


def run_seed(seed: int, steps: int, real_stores: bool) -> Share:
    """Run one seed; a finding is run again, to have its story."""
    outcome = run(SeededChoices(seed), steps, real_stores=real_stores)
    found = None
    if outcome.finding is not None:
        level = "L3" if real_stores else "L2"
        again = run(ReplayedChoices(outcome.decisions), steps, keep=_KEEP, real_stores=real_stores)
        story = again.story(f"{level} seed {seed}")
        trace = [] if story is None else as_text(story).splitlines()
        found = artifact(seed, steps, outcome, trace, level=level)
    return Share(
        seed, outcome.steps, outcome.seconds, outcome.operations, Marks(outcome.marks), found
    )


def run_campaign(
    seeds: Sequence[int],
    steps: int,
    *,
    jobs: int = 1,
    real_stores: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Run all seeds, or as many as there is time for.

    A process that dies is a finding too, and raises BrokenProcessPool.
    """
    summary = Summary()
    for share in _shares(seeds, steps, jobs, real_stores, is_over):
        summary.add(share)
        if on_progress is not None:
            on_progress(summary)
    return summary


def keep_quiet() -> None:
    """Let nobody read what simulated members log, who has not asked for it by a handler.

    It is no news of the process that they are simulated in; their stories have it.
    """
    logging.getLogger("raftkv").addHandler(logging.NullHandler())


def _shares(
    seeds: Sequence[int], steps: int, jobs: int, real_stores: bool, is_over: Callable[[], bool]
) -> Iterator[Share]:
    if jobs == 1:
        for seed in seeds:
            if is_over():
                return
            yield run_seed(seed, steps, real_stores)
        return
    # Spawned, not forked: a child starts from nothing, like the process that will replay it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=keep_quiet) as pool:
        left = iter(seeds)
        waiting: dict[Future[Share], None] = {}
        while True:
            while len(waiting) < _AHEAD * jobs and not is_over():
                seed = next(left, None)
                if seed is None:
                    break
                waiting[pool.submit(run_seed, seed, steps, real_stores)] = None
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for one in [future for future in waiting if future in done]:
                del waiting[one]
                yield one.result()
