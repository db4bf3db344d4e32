"""Many seeds, on several processes, summed up."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from attrs import define, field, frozen

from raftkv.testing.artifact import Artifact, artifact
from raftkv.testing.marks import Marks, missing, rows_met
from raftkv.testing.options import TICK
from raftkv.testing.simulation import simulate

_FAULTS = ("crash", "partition", "pause", "transfer", "write lost", "message lost")
_SHARE = 8  # seeds given to a process at a time: enough to hide the hand-over, few for progress


@frozen
class Share:
    """What one process found in its seeds."""

    seeds: int
    steps: int
    ticks: int
    marks: Marks
    rows: Marks
    found: tuple[Artifact, ...]


@define
class Summary:
    """What a campaign met and found."""

    seeds: int = 0
    steps: int = 0
    ticks: int = 0
    marks: Marks = field(factory=Marks)
    rows: Marks = field(factory=Marks)
    """Seeds that count for each row of the fault table."""
    found: list[Artifact] = field(factory=list[Artifact])

    def add(self, share: Share) -> None:
        """Count a share in."""
        self.seeds += share.seeds
        self.steps += share.steps
        self.ticks += share.ticks
        self.marks.update(share.marks)
        self.rows.update(share.rows)
        self.found += share.found
        # Shares arrive in any order; what is told about them must not depend on it.
        self.found.sort(key=lambda one: one.seed)

    def join(self, other: Summary) -> None:
        """Count another campaign in."""
        self.add(
            Share(
                other.seeds, other.steps, other.ticks, other.marks, other.rows, tuple(other.found)
            )
        )

    @property
    def figures(self) -> Mapping[str, float]:
        """What the ledger keeps; a tick counts as 0.1 s."""
        return {
            "steps": self.steps,
            "simulated seconds": self.ticks / 10,
            "faults": sum(self.marks[name] for name in _FAULTS),
        }

    @property
    def unmet(self) -> list[str]:
        """Coverage marks below their floors, in words."""
        return missing(self.marks, self.steps)

    @property
    def is_green(self) -> bool:
        """Nothing broken, and nothing missing."""
        return not self.found and not self.unmet


def run_share(seeds: Sequence[int], steps: int) -> Share:
    """Simulate seeds one after another, in this process."""
    marks, rows = Marks(), Marks()
    found: list[Artifact] = []
    total = time = 0
    for seed in seeds:
        outcome = simulate(seed, steps)
        total += outcome.steps
        time += outcome.time
        marks.update(outcome.marks)
        rows.update(rows_met(outcome.marks))
        if outcome.finding is not None:
            found.append(artifact(seed, steps, outcome, outcome.trace.lines()))
    return Share(len(seeds), total, time // TICK, marks, rows, tuple(found))


def run_campaign(
    seeds: Sequence[int],
    steps: int,
    *,
    jobs: int = 1,
    on_progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Simulate all seeds; a process that dies is a finding too, and raises BrokenProcessPool."""
    summary = Summary()
    for share in _shares(seeds, steps, jobs):
        summary.add(share)
        if on_progress is not None:
            on_progress(summary)
    return summary


def _shares(seeds: Sequence[int], steps: int, jobs: int) -> Iterator[Share]:
    parts = [seeds[first : first + _SHARE] for first in range(0, len(seeds), _SHARE)]
    if jobs == 1:
        for part in parts:
            yield run_share(part, steps)
        return
    # Spawned, not forked: a child starts from nothing, like the process that will replay it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(run_share, part, steps) for part in parts]
        for done in as_completed(waiting):
            yield done.result()
