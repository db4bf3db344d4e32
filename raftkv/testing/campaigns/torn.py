"""The campaign ``torn``: logs and snapshots cut short, taken away, or put back from an old copy.

What was acknowledged and is still there must be found; what was acknowledged and is gone must be
noticed, by the member itself or by its peers; what was never acknowledged may be there or not.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import anyio
from attrs import define, frozen

from raftkv.errors import Error
from raftkv.testing.campaigns.damaged_images import DAMAGES_PER_IMAGE, damage_images
from raftkv.testing.campaigns.frame import Campaign, Case, Facts, FindingError, Part
from raftkv.testing.campaigns.inprocess import (
    NAMES,
    Content,
    Members,
    as_told,
    fill,
    from_told,
    running_members,
)
from raftkv.testing.campaigns.isolated import Told, die_telling, finding_of, in_child, numbers
from raftkv.testing.campaigns.known import Author, Known, copied, look, opened, scratch
from raftkv.testing.campaigns.writer import Writer

RECORDS_CUT = 3
_BLOCK_BYTES = 32 * 1024  # of RocksDB's write-ahead log; each piece of a record has a header
_NEAR_BYTES = 8  # around each border all offsets are tried, also in long records
_OFFSETS_MAX = 160  # of long records: all that matter, and some inside
_PEERS_EVERY = 8  # of the offsets are also tried as one of three, which takes longer
_NO_VOTE_SECONDS = 1.0  # four election timeouts of these members: they would have elected


@define
class Moments:
    """A write-ahead log record by record: how long it was after each, and what was known then."""

    ends: list[int]
    known: list[Known]
    acknowledged: int
    """How many records were synced, and so promised."""

    def at(self, offset: int) -> int:
        """How many records are whole in a log cut at ``offset``."""
        return sum(end <= offset for end in self.ends)


def newest_wal(root: Path) -> Path:
    """The write-ahead log written last."""
    return max((root / "member" / "store").glob("*.log"))


def record(root: Path, whole: Path, random: Random, size_bytes: int) -> Moments:
    """Write until a crash, the last records of which were perhaps never synced; copy to ``whole``.

    Only for a process of its own.
    """
    author = Author(root, random)
    author.write(1, 8, 200)
    storage = opened(root)
    writer = Writer(storage)
    count = RECORDS_CUT + 2
    moments = Moments([], [], count - random.randint(0, RECORDS_CUT))
    for number in range(count):
        batch = storage.store.batch()
        writer.append(batch, [random.randbytes(size_bytes)])
        writer.commit(batch, writer.last.index - 1)
        writer.write(batch)
        moments.ends.append(newest_wal(root).stat().st_size)
        moments.known.append(author.known(writer))
        if number < moments.acknowledged:
            writer.sync()
    copied(root, whole)
    storage.close()
    return moments


def offsets(moments: Moments, random: Random) -> list[int]:
    """Where to cut: every byte of the last records; of long ones around every border."""
    start, stop = moments.ends[-1 - RECORDS_CUT], moments.ends[-1]
    if stop - start <= 8 * 1024:
        return list(range(start, stop))
    borders = {*moments.ends, *range(start - start % _BLOCK_BYTES, stop, _BLOCK_BYTES)}
    near = {border + by for border in borders for by in range(-_NEAR_BYTES, _NEAR_BYTES)}
    usable = sorted(offset for offset in near if start <= offset < stop)
    if len(usable) > _OFFSETS_MAX:
        usable = random.sample(usable, _OFFSETS_MAX)
    return sorted({*usable, *(random.randrange(start, stop) for _ in range(_OFFSETS_MAX // 4))})


def cut_everywhere(case: Case) -> Facts:
    """One write-ahead log, cut at every offset of its last three records."""
    size_bytes = (20, 20, 100_000, 20, 1_000_000)[case.seed % 5]

    def work(base: Path) -> Told:
        random, whole = case.random(), base / "whole"
        moments = record(base / "live", whole, random, size_bytes)
        outcomes: Counter[str] = Counter()
        for number, offset in enumerate(offsets(moments, random)):
            records = moments.at(offset)
            is_lost = records < moments.acknowledged
            ways = (False, True) if number % _PEERS_EVERY == 0 else (False,)
            known = moments.known[max(records, moments.acknowledged) - 1]
            for can_recover in ways:
                copy = copied(whole, base / "cut")
                os.truncate(newest_wal(copy), offset)
                what = f"cut at {offset} of {moments.ends} ({moments.acknowledged} promised)"
                with finding_of(f"{what}, with peers: {can_recover}"):
                    outcome = look(copy, known, can_recover=can_recover)
                    _check(outcome, is_lost)
                outcomes[f"{'lost' if is_lost else 'kept'}: {outcome}"] += 1
            outcomes["cuts"] += 1
        return dict(outcomes)

    with scratch(case) as base:
        return numbers(in_child(lambda: work(base), case.directory / "child.log"))


def _check(outcome: str, is_lost: bool) -> None:
    if is_lost and outcome == "identical":
        raise FindingError("something acknowledged is gone, and nobody noticed")
    if not is_lost and outcome != "identical":
        raise FindingError(f"nothing acknowledged is gone, but it was {outcome}")


# --- logs that are gone, and old copies ---------------------------------------------------------


def _deleted(now: Path, _before: Path) -> None:
    newest_wal(now).unlink()


def _emptied(now: Path, _before: Path) -> None:
    os.truncate(newest_wal(now), 0)


def _older_wal(now: Path, before: Path) -> None:
    shutil.copy(newest_wal(before), newest_wal(now))


def _older_store(now: Path, before: Path) -> None:
    shutil.rmtree(now / "member" / "store")
    shutil.copytree(before / "member" / "store", now / "member" / "store")


_LOSSES: Mapping[str, Callable[[Path, Path], None]] = {
    "newest log deleted": _deleted,
    "newest log emptied": _emptied,
    "older copy of the newest log": _older_wal,
    "older copy of the store": _older_store,
}


def lose_a_log(case: Case) -> Facts:
    """The newest log deleted, emptied or older, or the whole store older than its witness."""
    name = sorted(_LOSSES)[case.seed % len(_LOSSES)]

    def work(base: Path) -> Told:
        random, live = case.random(), base / "live"
        author = Author(live, random)
        author.write(random.randint(1, 3), 8, 400)
        storage = opened(live)
        writer = Writer(storage)
        author.turns(writer, random.randint(1, 5), 400)
        before = copied(live, base / "before")
        author.turns(writer, random.randint(1, 5), 400)
        known = author.known(writer)
        whole = copied(live, base / "whole")
        storage.close()
        outcomes: Counter[str] = Counter()
        for can_recover in (False, True):
            copy = copied(whole, base / f"lost-{can_recover:d}")
            _LOSSES[name](copy, before)
            with finding_of(f"{name}, with peers: {can_recover}"):
                outcome = look(copy, known, can_recover=can_recover)
                _check(outcome, is_lost=True)
            outcomes[outcome] += 1
        return dict(outcomes)

    with scratch(case) as base:
        return numbers(in_child(lambda: work(base), case.directory / "child.log"))


# --- members of a cluster -----------------------------------------------------------------------


def _wiped(now: Path, _before: Path) -> None:
    shutil.rmtree(now)


def _restored(now: Path, before: Path) -> None:
    copied(before, now)


@frozen
class _Injury:
    """What happens to one member's directory, and what may become of it."""

    inflict: Callable[[Path, Path], None]
    can_heal: bool = True
    """Whether the others may make it whole again."""
    knows_votes: bool = True
    """Whether its witness tells what it promised: then one other member may make it whole."""


_INJURIES: Mapping[str, _Injury] = {
    **{name: _Injury(inflict) for name, inflict in _LOSSES.items()},
    "an old copy of the directory": _Injury(_restored, knows_votes=False),
    "the directory wiped": _Injury(_wiped, can_heal=False, knows_votes=False),
}


async def _two_generations(directory: Path, before: Path, injured: str, random: Random) -> Told:
    """A cluster that crashes, and a copy of one member from before the last of its content."""
    content: Content = {}
    async with running_members(directory) as members:
        content = await fill(members, random, 30, content)
    copied(directory / injured, before)
    for puts in (15, 10):
        async with running_members(directory) as members:
            content = await fill(members, random, puts, content)
            if puts == 10:
                die_telling(as_told(content))
    raise AssertionError("the last generation ends in a crash")


async def _returned(directory: Path, injured: str, content: Content, injury: _Injury) -> str:
    """A cluster with a member that has lost something; what came of it."""
    helper, witness = sorted(set(NAMES) - {injured})
    async with running_members(directory, helper, injured) as members:
        # The two are a majority, but one of them has forgotten what it promised.
        await _nobody_leads(members, injured, injury)
        await members.start(witness)
        await members.put(b"after", b"the loss")
        expected = {**content, b"after": b"the loss"}
        shown = await members.show(expected, of={helper, witness})
        if not {helper, witness} <= shown.equal:
            raise FindingError(f"{injured} was injured, but others ended: {shown.ended}")
        if not injury.can_heal:
            await _never_serves(members, injured)
            return "kept out"
        if injured in members.refused:
            return "refused"
        await members.show(expected, of={injured})
        return "equal"


async def _nobody_leads(members: Members, injured: str, injury: _Injury) -> None:
    """Unless the one that can know of every promise has got back all of it."""
    with anyio.move_on_after(_NO_VOTE_SECONDS):
        while True:
            node = members.nodes.get(injured)
            is_whole = injury.knows_votes and node and node.status().recovering is None
            leaders = [name for name, one in members.nodes.items() if one.status().is_leader]
            if leaders and not is_whole:
                raise FindingError(f"{leaders[0]} leads by the vote of one that lost something")
            await anyio.sleep(0.005)


async def _never_serves(members: Members, name: str) -> None:
    node = members.nodes.get(name)
    if node is None:
        return  # it refused or ended, with a typed error
    try:
        await node.kv.range(prefix=b"", timeout=_NO_VOTE_SECONDS)
    except Error:
        return
    raise FindingError(f"{name} serves reads on a disk that is not the one it had")


def injure_a_member(case: Case) -> Facts:
    """One member of three loses a log, its newest state, or everything, and comes back."""
    return _injure(case, sorted(set(_INJURIES) - {"the directory wiped", _OLD})[case.seed % 4])


_OLD = "an old copy of the directory"


def restore_a_member(case: Case) -> Facts:
    """One member of three comes back with an old copy of its whole directory."""
    return _injure(case, _OLD)


def wipe_a_member(case: Case) -> Facts:
    """One member of three comes back without anything, under its old identity."""
    return _injure(case, "the directory wiped")


def _injure(case: Case, name: str) -> Facts:
    injured, injury = case.random().choice(NAMES), _INJURIES[name]
    log = case.directory / "child.log"
    with scratch(case) as base:
        directory, before = base / "cluster", base / "before"

        def make() -> Told:
            return anyio.run(_two_generations, directory, before, injured, case.random("content"))

        def work() -> Told:
            with finding_of(f"{injured}: {name}"):
                return {anyio.run(_returned, directory, injured, content, injury): 1}

        content = from_told(in_child(make, log))
        injury.inflict(directory / injured, before)
        return numbers(in_child(work, log))


TORN = Campaign(
    "torn",
    "logs and snapshots cut short, taken away, or put back from an old copy",
    (
        Part(
            name="offsets",
            about="one log cut at every byte of its last three records (of long ones: at borders)",
            run=cut_everywhere,
            cases=50,
        ),
        Part(
            name="logs",
            about="the newest log deleted, emptied or older; the store older",
            run=lose_a_log,
            cases=20,
        ),
        Part(
            name="members",
            about="the same to one member of three",
            run=injure_a_member,
            cases=8,
        ),
        Part(
            name="restored",
            about="one member of three on an old copy of its whole directory",
            run=restore_a_member,
            cases=3,
        ),
        Part(
            name="wiped",
            about="one member of three on an empty directory, under its old identity",
            run=wipe_a_member,
            cases=3,
        ),
        Part(
            name="images",
            about=f"one snapshot, damaged in {DAMAGES_PER_IMAGE} ways: cut, mixed, flipped, newer",
            run=damage_images,
            cases=50,
        ),
    ),
)
