"""The campaign ``flip``: one bit, anywhere in a data directory that nobody has open.

Allowed afterwards: the same data, a typed refusal, or quarantine and repair from peers. Forbidden:
wrong or short data, any other exception, the end of the process.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random

import anyio
from attrs import frozen

from raftkv.testing.campaigns.frame import Campaign, Case, Facts, FindingError, Part
from raftkv.testing.campaigns.inprocess import (
    NAMES,
    Content,
    as_told,
    fill,
    from_told,
    running_members,
)
from raftkv.testing.campaigns.isolated import Told, die_telling, finding_of, in_child, numbers
from raftkv.testing.campaigns.known import Author, Known, copied, look, scratch

FLIPS_PER_CASE = 10
FLIPS_PER_CLUSTER = 3
_NO_DATA = ("LOCK", "ballast")
_WAYS = ("alone", "with peers")


@frozen
class _Kind:
    """What a directory holds: orderly openings, turns in each, bytes of an entry at most."""

    name: str
    boots: int
    turns: int
    size_bytes_max: int
    is_crashed: bool
    """Whether a last opening ended without a close, so that its write-ahead log is replayed."""


_KINDS = (
    _Kind("in the write-ahead log", 0, 15, 300, is_crashed=True),
    _Kind("in tables", 3, 15, 600, is_crashed=False),
    _Kind("in many blocks of tables", 1, 40, 8_000, is_crashed=True),
    _Kind("in compacted tables", 6, 10, 3_000, is_crashed=True),
)


def _content(kind: _Kind, live: Path, whole: Path, random: Random) -> Known:
    """Make a directory of this kind in ``whole``; what is known of it."""
    author = Author(live if kind.is_crashed else whole, random)
    if kind.boots:
        known = author.write(kind.boots, kind.turns, kind.size_bytes_max)
        if not kind.is_crashed:
            return known
    return author.crash(kind.turns, kind.size_bytes_max, whole)


def _is_data(file: Path) -> bool:
    is_diary = file.name.startswith("LOG")
    return file.is_file() and file.name not in _NO_DATA and not is_diary


def files_of(root: Path) -> list[Path]:
    """Every file with content below ``root``, but for RocksDB's diary, locks and ballast."""
    return [file for file in sorted(root.rglob("*")) if _is_data(file) and file.stat().st_size]


def flip_a_bit(root: Path, random: Random) -> str:
    """Flip one bit of one file, each file as likely as another; where, in words."""
    file = random.choice(files_of(root))
    content = bytearray(file.read_bytes())
    bit = random.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"bit {bit % 8} of byte {bit // 8} of {file.relative_to(root)}"


def flip_stores(case: Case) -> Facts:
    """A closed store; single flipped bits, each opened alone and as one of three members."""

    def work(base: Path) -> Told:
        kind = _KINDS[case.seed % len(_KINDS)]
        whole = base / "whole"
        known = _content(kind, base / "live", whole, case.random("content"))
        outcomes = Counter({"flips": 0})
        for number in range(FLIPS_PER_CASE):
            for can_recover in (False, True):
                copy = copied(whole, base / f"flip-{number}-{can_recover:d}")
                where = flip_a_bit(copy, case.random(f"flip {number}"))
                with finding_of(
                    f"{where} ({kind.name}), opened {_WAYS[can_recover]}, in {copy.name}"
                ):
                    outcome = look(copy, known, can_recover=can_recover)
                outcomes[f"{_WAYS[can_recover]}: {outcome}"] += 1
                shutil.rmtree(copy)
            outcomes["flips"] += 1
        return dict(outcomes)

    with scratch(case) as base:
        return numbers(in_child(lambda: work(base), case.directory / "child.log"))


async def _make(directory: Path, random: Random, is_crashed: bool) -> Content:
    """A cluster of three with content in log, tables and snapshot position, at its end."""
    content: Content = {}
    for puts in (60, 25, 15):
        async with running_members(directory) as members:
            content = await fill(members, random, puts, content)
            if is_crashed and puts == 15:
                die_telling(as_told(content))
    return content


async def _flipped(directory: Path, flipped: str, content: Content) -> str:
    """Open a cluster of which one member has a flipped bit; what came of that member."""
    async with running_members(directory) as members:
        await members.put(b"after", b"the flip")
        expected = {**content, b"after": b"the flip"}
        shown = await members.show(expected)
        others = set(NAMES) - {flipped}
        if not others <= shown.equal:
            raise FindingError(f"{flipped} was flipped, but others ended: {shown.ended}")
        if flipped in shown.equal:
            return "equal"
        if flipped in members.refused:
            return "refused"
        # It stopped when it met the damage; opened again it knows, and the others repair it.
        await members.restart(flipped)
        again = await members.show(expected, of={flipped})
        return "equal after a stop" if flipped in again.equal else "stopped"


def flip_members(case: Case) -> Facts:
    """One bit of one member of three: all that run serve the same data, and all of it."""

    def make(whole: Path) -> Told:
        is_crashed = case.seed % 2 == 0
        return as_told(anyio.run(_make, whole, case.random("content"), is_crashed))

    def work(base: Path, whole: Path, content: Content) -> Told:
        random = case.random()
        outcomes = Counter({"flips": 0})
        for number in range(FLIPS_PER_CLUSTER):
            copy = copied(whole, base / f"flip-{number}")
            flipped = random.choice(NAMES)
            where = flip_a_bit(copy / flipped, random)
            with finding_of(f"{where} of {flipped}, in {copy.name}"):
                outcomes[anyio.run(_flipped, copy, flipped, content)] += 1
            shutil.rmtree(copy)
            outcomes["flips"] += 1
        return dict(outcomes)

    with scratch(case) as base:
        whole, log = base / "whole", case.directory / "child.log"
        content = from_told(in_child(lambda: make(whole), log))
        return numbers(in_child(lambda: work(base, whole, content), log))


FLIP = Campaign(
    "flip",
    "one bit flipped anywhere in a closed data directory",
    (
        Part(
            name="stores",
            about=f"{FLIPS_PER_CASE} bits of one store, one at a time, everything read back",
            run=flip_stores,
            cases=44,
        ),
        Part(
            name="members",
            about=f"{FLIPS_PER_CLUSTER} bits of members of three, one at a time, repair included",
            run=flip_members,
            cases=20,
        ),
    ),
)
