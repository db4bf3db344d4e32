"""The frame of every campaign: a case is a seed, and a function that says what it met.

A campaign is a few parts, a part is a function from a :class:`Case` to :data:`Facts`. It returns
what it met as numbers, raises :class:`FindingError` where something does not hold, and leaves its
directory behind: the frame removes it after a good case and keeps it after a finding. Whatever else
a case raises is a finding, too. Cases run in worker processes, one case at a time in each, in the
worker's main thread; a worker has no other threads, so a case may fork.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType

from attrs import define, field, frozen

FINDINGS_MAX = 10  # then the rest would say the same: a run ends
LOG_LINES = 40  # of each log file of a finding, shown beside it

Facts = Mapping[str, int]
"""What a case met: names and numbers, summed over cases (``kills``, ``acknowledged``)."""


class FindingError(Exception):
    """Something that was promised does not hold; the message says what."""


@frozen
class Case:
    """One case: its seed, and an empty directory of its own for data and ``*.log`` files."""

    seed: int
    directory: Path

    def random(self, purpose: str = "") -> Random:
        """Chance that depends on the seed and the purpose alone."""
        return Random(f"{purpose}/{self.seed}")


def nothing_needed() -> str | None:
    """What a part says that runs anywhere."""
    return None


@frozen(kw_only=True)
class Part:
    """One kind of case."""

    name: str
    about: str
    run: Callable[[Case], Facts]
    """A function of a module, so that workers can import it."""
    cases: int
    """How many a full run takes (tier T0)."""
    lacks: Callable[[], str | None] = nothing_needed
    """What this machine lacks for it, in words, or None."""
    seconds_max: float = 300.0
    """A case that takes longer hangs: a finding."""


@frozen
class Campaign:
    """Parts with a common name: a command of ``python -m raftkv.testing``."""

    name: str
    about: str
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """The part of that name. Raises KeyError."""
        return {part.name: part for part in self.parts}[name]


@frozen
class Finding:
    """A case that failed: what does not hold, where its directory is, how to run it again."""

    part: str
    seed: int
    what: str
    directory: str
    command: str


@define
class PartSum:
    """What the cases of one part amounted to."""

    cases: int = 0
    seconds: float = 0.0
    findings: int = 0
    facts: Counter[str] = field(factory=Counter[str])
    skipped: str | None = None
    """Why it did not run here."""


@define
class Run:
    """One run of a campaign so far."""

    campaign: str
    seed: int
    planned: int | None
    """How many cases, unless it goes by time."""
    parts: dict[str, PartSum] = field(factory=dict[str, PartSum])
    findings: list[Finding] = field(factory=list[Finding])
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """How many cases have ended."""
        return sum(part.cases for part in self.parts.values())


@frozen(kw_only=True)
class Order:
    """What is asked for: so many cases, or so many minutes, or (neither) a full run."""

    directory: Path
    seed: int
    cases: int | None = None
    minutes: float | None = None
    jobs: int = 1
    parts: tuple[str, ...] = ()
    """Only these; empty: all."""


def shares(parts: Mapping[str, int], cases: int) -> dict[str, int]:
    """``cases`` in the proportion of full runs, at least one of each, the first ones rounded up."""
    total = sum(parts.values())
    given = {name: max(1, cases * full // total) for name, full in parts.items()}
    for name in given:
        if sum(given.values()) >= cases:
            break
        given[name] += 1
    return given


def plan(campaign: Campaign, order: Order, usable: Mapping[str, int]) -> Iterator[tuple[Part, int]]:
    """Parts and seeds in the order in which they are run, parts mixed by their shares."""
    if not usable:
        return
    if order.minutes is not None:
        given, is_endless = dict(usable), True
    elif order.cases is not None:
        given, is_endless = shares(usable, order.cases), False
    else:
        given, is_endless = dict(usable), False
    for turn in count():
        # Evenly mixed, so that a run that ends early has tried each part its share.
        moments = sorted(
            ((number + 0.5) / many, name) for name, many in given.items() for number in range(many)
        )
        met: Counter[str] = Counter()
        for _, name in moments:
            yield campaign.part(name), order.seed + turn * given[name] + met[name]
            met[name] += 1
        if not is_endless:
            return


def run(
    campaign: Campaign,
    order: Order,
    *,
    on_progress: Callable[[Run], None] | None = None,
) -> Run:
    """Run the cases asked for; ends early after ten findings."""
    began = time.monotonic()
    chosen = [part for part in campaign.parts if not order.parts or part.name in order.parts]
    result = Run(campaign.name, order.seed, None)
    usable: dict[str, int] = {}
    for part in chosen:
        lacking = part.lacks()
        result.parts[part.name] = PartSum(skipped=lacking)
        if lacking is None:
            usable[part.name] = part.cases
    if order.minutes is None and usable:
        result.planned = (
            sum(usable.values())
            if order.cases is None
            else sum(shares(usable, order.cases).values())
        )
    deadline = None if order.minutes is None else began + order.minutes * 60
    order.directory.mkdir(parents=True, exist_ok=True)

    def tell() -> None:
        result.seconds = time.monotonic() - began
        if on_progress is not None:
            on_progress(result)

    tell()
    for part, seed, answer in _answers(campaign, order, usable, deadline, result):
        _count(result, order, part, seed, answer)
        tell()
    tell()
    return result


@frozen
class _Answer:
    """What a worker says about a case."""

    seconds: float
    facts: dict[str, int]
    broken: str | None


def _answers(
    campaign: Campaign,
    order: Order,
    usable: Mapping[str, int],
    deadline: float | None,
    result: Run,
) -> Iterator[tuple[Part, int, _Answer]]:
    waiting: dict[Future[_Answer], tuple[Part, int]] = {}
    work = plan(campaign, order, usable)
    # Spawned, not forked: a worker starts from nothing, whoever calls us.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(order.jobs, mp_context=context) as pool:
        while True:
            while len(waiting) < order.jobs and len(result.findings) < FINDINGS_MAX:
                if deadline is not None and time.monotonic() >= deadline:
                    break
                following = next(work, None)
                if following is None:
                    break
                part, seed = following
                case = Case(seed, directory_of(order, part, seed))
                waiting[pool.submit(_work, part, case)] = following
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                part, seed = waiting.pop(future)
                try:
                    answer = future.result()
                except BrokenProcessPool as error:
                    answer = _Answer(0.0, {}, f"the worker died: {error}")
                    deadline = time.monotonic()  # the pool is of no use any more
                yield part, seed, answer


def directory_of(order: Order, part: Part, seed: int) -> Path:
    """Where a case keeps its files."""
    return order.directory / f"{part.name}-{seed}"


def _count(result: Run, order: Order, part: Part, seed: int, answer: _Answer) -> None:
    total = result.parts[part.name]
    total.cases += 1
    total.seconds += answer.seconds
    total.facts.update(answer.facts)
    if answer.broken is None:
        return
    total.findings += 1
    where = directory_of(order, part, seed)
    command = (
        f"python -m raftkv.testing {result.campaign} --part {part.name} --seed {seed} --cases 1"
    )
    finding = Finding(part.name, seed, answer.broken, str(where), command)
    result.findings.append(finding)
    where.mkdir(parents=True, exist_ok=True)
    text = f"{answer.broken}\n\n{command}\n"
    (where / "finding.txt").write_text(text, encoding="utf-8")


def _work(part: Part, case: Case) -> _Answer:
    """Run one case in this worker; its directory stays only after a finding."""
    began = time.monotonic()
    shutil.rmtree(case.directory, ignore_errors=True)
    case.directory.mkdir(parents=True)
    facts: Facts = {}
    broken: str | None = None
    try:
        with _time_limit(part.seconds_max):
            facts = part.run(case)
    except FindingError as error:
        broken = str(error)
    except Exception:
        broken = traceback.format_exc()
    if broken is None:
        shutil.rmtree(case.directory)
    return _Answer(time.monotonic() - began, dict(facts), broken)


@contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise FindingError(f"the case did not end within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- telling ------------------------------------------------------------------------------------


def story(finding: Finding) -> str:
    """A finding in prose: what, the ends of its logs, and how to see it again."""
    lines = [f"{finding.part}, seed {finding.seed}: {finding.what}"]
    for log in sorted(Path(finding.directory).rglob("*.log")):
        if not log.is_file() or _is_of_a_store(log):
            continue
        lines.append(f"--- the end of {log}")
        lines += log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    lines += [f"kept in {finding.directory}", f"again with: {finding.command}"]
    return "\n".join(lines)


def _is_of_a_store(log: Path) -> bool:
    """RocksDB's write-ahead logs have the suffix of ours and a number for a name."""
    return log.stem.isdigit()


def as_json(run: Run) -> str:
    """A run as one JSON object."""
    parts = {
        name: {
            "cases": part.cases,
            "findings": part.findings,
            "seconds": round(part.seconds, 1),
            "skipped": part.skipped,
            "facts": dict(sorted(part.facts.items())),
        }
        for name, part in run.parts.items()
    }
    findings = [
        {
            "part": one.part,
            "seed": one.seed,
            "what": one.what,
            "directory": one.directory,
            "command": one.command,
        }
        for one in run.findings
    ]
    told = {
        "campaign": run.campaign,
        "seed": run.seed,
        "seconds": round(run.seconds, 1),
        "cases": run.cases,
        "parts": parts,
        "findings": findings,
    }
    return json.dumps(told)


def as_text(run: Run) -> str:
    """A run in prose."""
    lines = [story(one) + "\n" for one in run.findings]
    for name, part in run.parts.items():
        if part.skipped is not None:
            lines.append(f"{run.campaign} {name}: skipped: {part.skipped}")
            continue
        facts = ", ".join(f"{number} {what}" for what, number in sorted(part.facts.items()))
        lines.append(
            f"{run.campaign} {name}: {part.cases} cases in {part.seconds:.1f} s,"
            f" {part.findings} findings" + (f"; {facts}" if facts else "")
        )
    lines.append(f"seed {run.seed}, {run.seconds:.1f} s in all")
    return "\n".join(lines)


def progress(run: Run) -> str:
    """A run so far, in one line."""
    of = "" if run.planned is None else f"/{run.planned}"
    return f"{run.campaign}: {run.cases}{of} cases, {len(run.findings)} found, {run.seconds:.0f} s"
