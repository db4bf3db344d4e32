"""Trying mutants: each in a copy of the tree of its own, judged by what a worker saw there.

A mutant is *killed* if a catcher went red by the judgement of a test or an invariant, and the same
catcher is green in a copy without the mutant: who cries wolf anyway has noticed nothing. It
*survives* if all of its catchers stayed green. It is *broken* if nothing was learned: the patch
does not apply, a module cannot be imported, a test is not there, the worker died or took too long,
or what went red was an accident.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from enum import Enum
from importlib.util import cache_from_source
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final, cast

from attrs import evolve, field, frozen

from raftkv.testing.mutants.judgement import Sighting
from raftkv.testing.mutants.mutant import Mutant
from raftkv.testing.mutants.patch import PatchError

SECONDS_MAX: Final = 300.0
"""For one mutant; with every catcher, ten times as long."""
_COPIED: Final = ("raftkv", "tests", "pyproject.toml")
_MEASURING: Final = ("COVERAGE", "PYTEST", "PYTHONPATH", "PYTHONSAFEPATH", "CI")
_TAIL_BYTES: Final = 2000


class Kind(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    BROKEN = "broken"


@frozen
class Verdict:
    """A mutant, what became of it, and by whom or why."""

    mutant: Mutant
    kind: Kind
    why: str
    seconds: float
    sightings: tuple[Sighting, ...] = ()
    """The judgements, in the order in which they were made."""

    @property
    def killers(self) -> int:
        """How many seeds and tests noticed; cases of one test are one."""
        return len({one.catcher.partition("[")[0] for one in self.sightings})


@frozen
class _Report:
    """What a worker said."""

    sightings: tuple[Sighting, ...] = ()
    broken: str | None = None
    seconds: float = 0.0


@frozen
class _Trial:
    """Where copies are made, and how long a worker may take."""

    sound: Path
    scratch: Path
    every: bool
    seconds_max: float = field(default=SECONDS_MAX)


def run_mutants(
    root: Path,
    mutants: Sequence[Mutant],
    *,
    jobs: int = 1,
    every: bool = False,
    on_verdict: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Try the mutants of the tree at ``root``; the verdicts by number.

    With ``every``, all catchers of each are tried instead of those up to the first that notices.
    ``on_verdict`` hears of each mutant when its worker is done, before what noticed it was tried
    without the mutant.
    """
    with TemporaryDirectory(prefix="raftkv-mutants-") as directory:
        scratch = Path(directory)
        trial = _Trial(scratch / "sound", scratch, every, SECONDS_MAX * (10 if every else 1))
        copy_tree(root, trial.sound)
        verdicts: list[Verdict] = []
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(_try, trial, one) for one in mutants]
            for done in as_completed(waiting):
                verdicts.append(done.result())
                if on_verdict is not None:
                    on_verdict(verdicts[-1])
        return _proven(trial, sorted(verdicts, key=lambda one: one.mutant.number))


def copy_tree(root: Path, to: Path) -> None:
    """Copy what tests need, with the compiled files: they are valid as long as times are kept."""
    for name in _COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore_dangling_symlinks=True)
        else:
            shutil.copy2(source, to / name)


def _try(trial: _Trial, mutant: Mutant) -> Verdict:
    began = perf_counter()
    with TemporaryDirectory(prefix=f"{mutant.number:02}-", dir=trial.scratch) as directory:
        copy = Path(directory) / "tree"
        shutil.copytree(trial.sound, copy)
        try:
            mutate(copy, mutant)
        except PatchError as error:
            return Verdict(mutant, Kind.BROKEN, str(error), perf_counter() - began)
        modules = [one.module for one in mutant.files]
        catchers = [str(one) for one in mutant.catchers]
        report = _ask(trial, copy, modules, catchers, every=trial.every)
    return _judge(mutant, report)


def mutate(tree: Path, mutant: Mutant) -> None:
    """Apply the patch in a tree. Raises PatchError."""
    for one in mutant.files:
        path = tree / one.path
        if not path.is_file():
            raise PatchError(f"{one.path}: there is no such file")
        path.write_text(one.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
        # A file written within a second of the old one, and as long, would pass for it.
        Path(cache_from_source(str(path))).unlink(missing_ok=True)


def _judge(mutant: Mutant, report: _Report) -> Verdict:
    judgements = tuple(one for one in report.sightings if one.is_judged)
    if judgements:
        first = judgements[0]
        why = f"{first.catcher}: {first.what}"
        return Verdict(mutant, Kind.KILLED, why, report.seconds, judgements)
    if report.broken is not None:
        return Verdict(mutant, Kind.BROKEN, report.broken, report.seconds)
    if report.sightings:
        first = report.sightings[0]
        why = f"an accident, no judgement: {first.catcher}: {first.what}"
        return Verdict(mutant, Kind.BROKEN, why, report.seconds)
    tried = "; ".join(str(one) for one in mutant.catchers)
    return Verdict(mutant, Kind.SURVIVED, f"nobody noticed: {tried}", report.seconds)


def _proven(trial: _Trial, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, without the sightings that the sound tree gives rise to as well."""
    catchers = sorted({one.catcher for verdict in verdicts for one in verdict.sightings})
    if not catchers:
        return list(verdicts)
    report = _ask(trial, trial.sound, [], catchers, every=True)
    if report.broken is not None:
        why = f"without a mutant the catchers could not be tried: {report.broken}"
        return [evolve(one, kind=Kind.BROKEN, why=why) for one in verdicts]
    wolves = {one.catcher for one in report.sightings}
    return [without(one, wolves) for one in verdicts]


def without(verdict: Verdict, wolves: set[str]) -> Verdict:
    """The verdict without what these catchers said, who are red without the mutant, too."""
    left = tuple(one for one in verdict.sightings if one.catcher not in wolves)
    if verdict.kind is not Kind.KILLED or len(left) == len(verdict.sightings):
        return verdict
    if left:
        return evolve(verdict, sightings=left, why=f"{left[0].catcher}: {left[0].what}")
    why = f"red without the mutant, too: {verdict.why}"
    return evolve(verdict, kind=Kind.BROKEN, why=why, sightings=())


def _ask(
    trial: _Trial, tree: Path, modules: Sequence[str], catchers: Sequence[str], *, every: bool
) -> _Report:
    """Have a worker try the catchers in a tree."""
    began = perf_counter()
    place = tree.with_name(tree.name + "-job")
    place.mkdir(exist_ok=True)
    out, log, job = place / "out.jsonl", place / "log.txt", place / "job.json"
    told = {"modules": modules, "catchers": catchers, "every": every, "out": str(out)}
    job.write_text(json.dumps(told), encoding="utf-8")
    command = [sys.executable, "-m", "raftkv.testing.mutants.worker", str(job)]
    with log.open("wb") as output:
        worker = subprocess.Popen(
            command,
            cwd=tree,
            env=_environment(place),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            worker.wait(trial.seconds_max)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(worker)
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    report = evolve(_read(lines), seconds=perf_counter() - began)
    if report.broken is None and '{"end": true}' not in lines:
        last = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return evolve(report, broken=f"the worker died, or took too long: {last}")
    return report


def _environment(place: Path) -> dict[str, str]:
    """Ours, without what measures or steers this process; the same chance each time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_MEASURING)}
    return {
        **kept,
        "PYTHONHASHSEED": "0",
        "HYPOTHESIS_PROFILE": "ci",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "examples"),
    }


def _end(worker: subprocess.Popen[bytes]) -> None:
    """End the worker and what it started; nothing is left to end if all went well."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _read(lines: Iterable[str]) -> _Report:
    sightings: list[Sighting] = []
    broken: str | None = None
    for line in lines:
        told = cast("dict[str, object]", json.loads(line))
        if "broken" in told:
            broken = str(told["broken"])
        seen = told.get("seen")
        if isinstance(seen, dict):
            sightings.append(sighting_of(cast("dict[str, object]", seen)))
    return _Report(tuple(sightings), broken)


def sighting_of(told: Mapping[str, object]) -> Sighting:
    """A sighting as a worker wrote it down."""
    return Sighting(
        catcher=str(told["catcher"]),
        what=str(told["what"]),
        is_judged=told["is_judged"] is True,
        seconds=float(str(told["seconds"])),
    )
