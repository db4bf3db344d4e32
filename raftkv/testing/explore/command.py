"""``explore``: every world of a scope, or walks through a large one."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Final

from raftkv.testing.campaigns.ledger import enter
from raftkv.testing.commands.screen import (
    Commands,
    Progress,
    add_ledger,
    minutes,
    positive,
    seeds,
    tell,
)
from raftkv.testing.explore.kept import keep, load, told
from raftkv.testing.explore.scopes import SCOPES, SMALL, WALKED
from raftkv.testing.explore.search import Explored, Limits, explore, violation_on
from raftkv.testing.explore.space import Space
from raftkv.testing.explore.walks import walk_all
from raftkv.testing.viewer import as_text, write_html

_WALKS: Final = range(2000)
_WALKED: Final = frozenset(scope.name for scope in WALKED)


def add(commands: Commands) -> None:
    """The arguments."""
    scopes = "; ".join(f"{scope.name}: {scope.about}" for scope in SCOPES.values())
    one = commands.add_parser(
        "explore",
        help="every world that a small cluster of bare cores can reach",
        description=f"Explores all worlds of a scope. Scopes: {scopes}."
        " How far they get on one core: A, B and C end within a minute in all, D after half an hour"
        " (3.1 million worlds), all others within minutes, but for two. E comes as far as depth 16,"
        " and F-joint to 6 million worlds, before a machine of 24 GiB is better used for seeds:"
        " neither has ever ended, so give them --max-states or --minutes, and count them for what"
        " they saw.",
    )
    one.add_argument(
        "--config", type=_names, default=SMALL, metavar="A,B", help="scopes, or all; else A,B,C"
    )
    one.add_argument("--jobs", type=positive, default=1, help="scopes at a time, a process each")
    one.add_argument("--max-states", type=positive, metavar="N", help="per scope; then it stops")
    one.add_argument("--minutes", type=minutes, help="per scope; then it stops")
    one.add_argument("--seeds", type=seeds, default=_WALKS, metavar="A..B", help="of walks")
    one.add_argument("--require", action="store_true", help="a scope left incomplete is a fault")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    one.add_argument("--save", type=Path, metavar="DIR", help="keep each finding as files there")
    one.add_argument("--replay", type=Path, metavar="FILE", help="tell a kept finding again")
    one.add_argument(
        "--html", type=Path, metavar="FILE", help="write the path of the first finding as a page"
    )
    add_ledger(one)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(SCOPES) if text == "all" else tuple(text.split(","))
    for name in names:
        if name not in SCOPES:
            raise argparse.ArgumentTypeError(f"no scope {name}: one of {', '.join(SCOPES)}")
    return names


def run(options: argparse.Namespace) -> int:
    """Explore; 1 if something is broken."""
    if options.replay is not None:
        return _replay(options.replay, options.html)
    names: Sequence[str] = options.config
    seconds = options.minutes * 60 if options.minutes else None
    limits = Limits(states=options.max_states, seconds=seconds)
    began = perf_counter()
    progress = Progress(quiet=options.json)
    done: list[Explored] = []
    for one in _explored(names, limits, options.seeds, options.jobs, progress.show):
        done.append(one)
        progress.show(as_line(one))
        progress.end()
        if options.ledger is not None:
            _enter(options.ledger, one)
    done.sort(key=lambda one: names.index(one.name))
    files = _kept(options.save, done) if options.save else []
    first = next((one for one in done if one.broken is not None), None)
    if options.html is not None and first is not None and first.broken is not None:
        write_html(told(first.name, first.broken).story, options.html)
    if options.json:
        tell(json.dumps(as_json(done, perf_counter() - began, files)))
    else:
        _tell(done, files)
    missing = options.require and not all(one.complete for one in done)
    return 1 if missing or any(one.broken for one in done) else 0


def _explored(
    names: Sequence[str],
    limits: Limits,
    walks: range,
    jobs: int,
    show: Callable[[str], None],
) -> Iterator[Explored]:
    if jobs == 1:
        for name in names:
            yield _one(name, limits, walks, lambda so_far: show(as_line(so_far)))
        return
    # Spawned, not forked: a child starts from nothing, like the process that will replay it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(names)), mp_context=context) as pool:
        waiting = [pool.submit(_one, name, limits, walks) for name in names]
        for one in as_completed(waiting):
            yield one.result()


def _one(
    name: str,
    limits: Limits,
    walks: range,
    on_progress: Callable[[Explored], None] | None = None,
) -> Explored:
    if name in _WALKED:
        return walk_all(SCOPES[name], walks, limits, on_progress)
    return explore(SCOPES[name], limits, on_progress)


def as_line(one: Explored) -> str:
    """How far an exploration is, or what it came to."""
    if one.name in _WALKED:
        text = f"{one.name}: {one.states} walks, {one.generated} deeds"
    else:
        text = f"{one.name}: {one.states} states of {one.generated} met, depth {one.depth}"
    if one.frontier:
        text += f", {one.frontier} to go"
    text += f", {one.per_second}/s, {one.seconds:.1f} s, {one.rss_mib} MiB"
    if one.broken is not None:
        return f"{text}: {one.broken.invariant} is broken"
    if one.complete and not one.stopped:
        return f"{text}: complete"
    return f"{text}: up to {one.stopped}" if one.stopped else text


def _enter(ledger: Path, one: Explored) -> None:
    is_walked = one.name in _WALKED
    figures = {"deeds": one.generated} if is_walked else {"states max": one.states}
    enter(
        ledger,
        "explore",
        one.name,
        cases=one.states,
        findings=int(one.broken is not None),
        seconds=one.seconds,
        figures={**figures, "steps": one.computed},
    )


def _kept(directory: Path, done: Sequence[Explored]) -> list[Path]:
    return [keep(directory, one, one.broken) for one in done if one.broken is not None]


def as_json(done: Sequence[Explored], seconds: float, files: Sequence[Path]) -> dict[str, object]:
    """The result for programs."""
    return {
        "seconds": round(seconds, 3),
        "files": [str(path) for path in files],
        "scopes": {
            one.name: {
                "states": one.states,
                "generated": one.generated,
                "core_steps": one.computed,
                "depth": one.depth,
                "complete": one.complete,
                "stopped": one.stopped,
                "seconds": round(one.seconds, 3),
                "per_second": one.per_second,
                "rss_mib": one.rss_mib,
                "invariant": one.broken.invariant if one.broken else None,
                "broken": one.broken.broken if one.broken else None,
            }
            for one in done
        },
    }


def _tell(done: Sequence[Explored], files: Sequence[Path]) -> None:
    for one in done:
        tell(as_line(one))
    for one in done:
        if one.broken is not None:
            tell()
            tell(as_text(told(one.name, one.broken).story))
    for path in files:
        tell(f"replay with: python -m raftkv.testing explore --replay {path}")


def _replay(path: Path, page: Path | None) -> int:
    name, broken = load(path)
    retold = told(name, broken, path)
    if page is not None:
        write_html(retold.story, page)
    error = violation_on(Space(SCOPES[name]), broken.path)
    if error is None and retold.finding is None:
        tell("nothing is broken on this path any more")
        return 0
    tell(as_text(retold.story))
    return 1
