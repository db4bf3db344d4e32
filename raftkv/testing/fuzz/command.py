"""``fuzz``: hostile input for everything that decodes bytes."""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

from attrs import define, field

from raftkv.testing.campaigns.ledger import enter
from raftkv.testing.commands.screen import Commands, Progress, add_ledger, minutes, positive, tell
from raftkv.testing.fuzz.guided import load_atheris
from raftkv.testing.fuzz.mutate import mutations
from raftkv.testing.fuzz.registry import TARGETS
from raftkv.testing.fuzz.trial import (
    CPU_SECONDS_MAX,
    EXTRA_BYTES_MAX,
    Crash,
    Target,
    attempt,
    cpu_seconds,
    extra_bytes,
)
from raftkv.testing.fuzz.worst import WORST

INPUTS: Final = 20_000
_CRASHES_MAX: Final = 3  # of one target; then the rest would say the same
_AT_ONCE: Final = 500
_STAT: Final = re.compile(r"number_of_executed_units:\s+(\d+)")
_MODULE: Final = "raftkv.testing.fuzz.guided"


@define
class Tried:
    """What came of one target."""

    name: str
    inputs: int = 0
    guided: int = 0
    """Of these by coverage."""
    taken: int = 0
    """Inputs of the built-in mutator that were decoded; the rest were refused."""
    seconds: float = 0.0
    worst_cpu_seconds: float = 0.0
    worst_extra_bytes: int = 0
    crashes: list[Crash] = field(factory=list[Crash])


def add(commands: Commands) -> None:
    """The arguments."""
    about = "mutated and hostile bytes for everything that decodes bytes"
    one = commands.add_parser("fuzz", help=about, description=f"{about}.")
    one.add_argument("--target", choices=[*TARGETS], action="append", help="only this one")
    one.add_argument("--inputs", type=positive, help=f"for each target; else {INPUTS}")
    one.add_argument("--minutes", type=minutes, help="in all, as many inputs as fit, instead")
    one.add_argument("--seed", type=int, default=1, help="of the built-in mutator")
    one.add_argument("--plain", action="store_true", help="without atheris, even if it is there")
    one.add_argument("--save", type=Path, metavar="DIR", help="keep each crashing input there")
    one.add_argument("--json", action="store_true", help="one JSON object instead of prose")
    add_ledger(one)


def run(options: argparse.Namespace) -> int:
    """Try the targets; 1 if one of them failed."""
    logging.disable(logging.CRITICAL)  # what peers did wrong is no news here
    names: list[str] = options.target or [*TARGETS]
    is_guided = not options.plain and load_atheris() is not None
    if not is_guided and not options.plain:
        sys.stderr.write("atheris is not installed: mutating without the guidance of coverage\n")
    seconds = None if options.minutes is None else options.minutes * 60 / len(names)
    inputs: int = options.inputs or (INPUTS if seconds is None else 2**62)
    progress = Progress(quiet=options.json)
    found: list[Tried] = []
    for name in names:
        tried = Tried(name)
        found.append(tried)
        began = time.monotonic()
        _measure(TARGETS[name], tried)
        share = 2 if is_guided else 1
        limit = None if seconds is None else seconds / share
        for _ in _mutate(TARGETS[name], tried, options.seed, inputs // share, limit):
            progress.show(f"fuzz {name}: {tried.inputs} inputs, {len(tried.crashes)} crashes")
        if is_guided:
            _guide(TARGETS[name], tried, inputs - inputs // share, limit)
        tried.seconds = time.monotonic() - began
    progress.end()
    for tried in found:
        for crash in tried.crashes if options.save else ():
            _keep(options.save, crash)
        if options.ledger is not None:
            enter(
                options.ledger,
                "fuzz",
                tried.name,
                cases=tried.inputs,
                findings=len(tried.crashes),
                seconds=tried.seconds,
            )
    tell(_as_json(found)) if options.json else _as_text(found)
    return 1 if any(tried.crashes for tried in found) else 0


def _measure(target: Target, tried: Tried) -> None:
    """The most expensive inputs, by CPU and memory."""
    worst = WORST.get(target.name)
    for data in (*target.valid(), *(worst() if worst else ())):
        tried.inputs += 1
        crash = attempt(target, data)
        cpu, extra = cpu_seconds(target, data), extra_bytes(target, data)
        tried.worst_cpu_seconds = max(tried.worst_cpu_seconds, cpu)
        tried.worst_extra_bytes = max(tried.worst_extra_bytes, extra)
        if isinstance(crash, Crash):
            tried.crashes.append(crash)
        elif cpu > CPU_SECONDS_MAX or extra > EXTRA_BYTES_MAX:
            why = f"{cpu * 1e3:.0f} ms of CPU and {extra / 2**20:.1f} MiB"
            tried.crashes.append(Crash(target.name, data, why))


def _mutate(
    target: Target, tried: Tried, seed: int, inputs: int, seconds: float | None
) -> Iterator[None]:
    """Inputs of the built-in mutator; yields now and then."""
    until = None if seconds is None else time.monotonic() + seconds
    for number, data in enumerate(islice(mutations(target, seed), inputs)):
        result = attempt(target, data)
        tried.inputs += 1
        if isinstance(result, Crash):
            tried.crashes.append(result)
            if len(tried.crashes) >= _CRASHES_MAX:
                return
        else:
            tried.taken += result
        if number % _AT_ONCE == 0:
            yield
            if until is not None and time.monotonic() >= until:
                return


def _guide(target: Target, tried: Tried, inputs: int, seconds: float | None) -> None:
    """Inputs that coverage leads to, in a process of their own."""
    with tempfile.TemporaryDirectory(prefix="raftkv-fuzz-") as directory:
        limit = 0 if seconds is None else max(1, round(seconds))
        arguments = [target.name, str(min(inputs, 2**31 - 1)), str(limit), directory]
        ended = subprocess.run(
            [sys.executable, "-m", _MODULE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        counted = _STAT.search(ended.stdout)
        tried.guided = int(counted[1]) if counted else 0
        tried.inputs += tried.guided
        crash = Path(directory) / "crash"
        if crash.exists():
            data = crash.read_bytes()
            again = attempt(target, data)
            why = again if isinstance(again, Crash) else Crash(target.name, data, "crashed once")
            tried.crashes.append(why)
        elif ended.returncode:
            last = "\n".join(ended.stdout.splitlines()[-5:])
            tried.crashes.append(Crash(target.name, b"", f"the fuzzer itself ended: {last}"))


def _keep(directory: Path, crash: Crash) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{crash.target.replace(' ', '-')}-{blake2b(crash.data, digest_size=6).hexdigest()}"
    (directory / f"{name}.hex").write_text(crash.data.hex() + "\n", encoding="ascii")


def _as_json(found: list[Tried]) -> str:
    targets = {
        tried.name: {
            "inputs": tried.inputs,
            "guided": tried.guided,
            "taken": tried.taken,
            "seconds": round(tried.seconds, 1),
            "worst_cpu_ms": round(tried.worst_cpu_seconds * 1e3, 2),
            "worst_extra_bytes": tried.worst_extra_bytes,
            "crashes": [str(crash) for crash in tried.crashes],
        }
        for tried in found
    }
    return json.dumps({"targets": targets, "inputs": sum(tried.inputs for tried in found)})


def _as_text(found: list[Tried]) -> None:
    for tried in found:
        for crash in tried.crashes:
            tell(str(crash))
    width = max(len(tried.name) for tried in found)
    tell(f"{'':{width}}     inputs   guided  seconds  worst CPU   worst memory  crashes")
    for tried in found:
        cpu, extra = tried.worst_cpu_seconds * 1e3, tried.worst_extra_bytes / 2**20
        tell(
            f"{tried.name:{width}} {tried.inputs:>10} {tried.guided:>8} {tried.seconds:>8.1f}"
            f" {cpu:>7.1f} ms {extra:>10.2f} MiB {len(tried.crashes):>8}"
        )
    tell(f"{sum(tried.inputs for tried in found)} inputs in all")
