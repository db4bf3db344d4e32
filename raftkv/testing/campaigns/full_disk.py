"""A real disk of 24 MiB that a store fills: it stops, and opens again without a loss.

Files of somebody else take some of the room. The first time the ballast is what lets the store open
again; then it takes the removal of one of them.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from raftkv.errors import StorageFailedError, StorageFullError, StorageStallError
from raftkv.storage.base import Batch, Recovered, Space
from raftkv.storage.directory import open_rocks
from raftkv.storage.member import MemberStorage
from raftkv.testing.campaigns.disks import mounted_disks
from raftkv.testing.campaigns.frame import Case, Facts, FindingError
from raftkv.testing.campaigns.isolated import Told, in_child
from raftkv.testing.campaigns.known import scratch
from raftkv.testing.campaigns.store_crash import digest
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, FixedRng, Writer, rows_match

DISK_MIB = 24
_MIB = 1024 * 1024
# RocksDB needs as much room to open as its log of writes is long: ballast and files are longer.
_ROOM_BYTES = 2 * _MIB
_BALLAST_BYTES = 4 * _MIB
_FIRST_HOG_BYTES = 5 * _MIB
_TURNS_MAX = 5_000
_STALL_SECONDS_MAX = 10.0


def _opened(root: Path) -> MemberStorage:
    return open_rocks(
        root,
        cluster_id=CLUSTER,
        member_id=MEMBER,
        rng=FixedRng(),
        ballast_bytes=_BALLAST_BYTES,
    )


def fill_a_disk(case: Case) -> Facts:
    """Fill it twice; nothing acknowledged is lost, and nothing is read after the failure."""
    facts, log = Counter[str](), case.directory / "child.log"
    with scratch(case) as base, mounted_disks(base, 1, DISK_MIB) as (disk,):
        root, hogs = disk.path / "member", (disk.path / "hog 1", disk.path / "hog 2")
        if in_child(lambda: _make(root), log)["ballast"] != _BALLAST_BYTES:
            raise FindingError("there was room for ballast, and none was taken")
        hogs[0].write_bytes(bytes(_FIRST_HOG_BYTES))
        hogs[1].write_bytes(bytes(shutil.disk_usage(disk.path).free - _ROOM_BYTES))
        first = in_child(lambda: _fill(case, root, None), log)
        # Nobody makes room: the ballast does.
        second = in_child(lambda: _fill(case, root, first), log)
        if in_child(lambda: _refuses(root), log)["refuses"]:
            facts["refused on a full disk"] += 1
        hogs[0].unlink()
        third = in_child(lambda: _fill(case, root, second), log)
        hogs[1].unlink()
        in_child(lambda: _look(root, third), log)
    facts["full"] += 3
    facts["turns"] += sum(int(str(one["turns"])) for one in (first, second, third))
    return facts


def _make(root: Path) -> Told:
    """The member, with its ballast."""
    _opened(root).close()
    return {"ballast": (root / "member" / "ballast").stat().st_size}


def _fill(case: Case, root: Path, before: Told | None) -> Told:
    """Open, check, and write until the disk is full; what may be found afterwards."""
    random = case.random(str(before))
    storage = _opened(root)
    try:
        writer = Writer(storage)
        _check(storage, writer.state(), before)
        turns, intended = 0, digest(writer.state())
        acknowledged = intended
        while turns < _TURNS_MAX:
            batch = storage.store.batch()
            if writer.hard_state.term == 0:
                writer.vote(batch, 1, MEMBER)
            writer.append(batch, [random.randbytes(random.choice((300, 20_000, 200_000)))])
            writer.commit(batch, writer.last.index - 1)
            if writer.applied.index - writer.snapshot.index > 40:
                writer.compact(batch, writer.applied.index - 10)
            intended = digest(writer.state())
            try:
                _write(writer, batch)
                writer.sync()
            except StorageFullError:
                _check_silence(writer)
                break
            turns, acknowledged = turns + 1, intended
        else:
            raise FindingError(f"{_TURNS_MAX} turns do not fill {DISK_MIB} MiB")
    finally:
        storage.close()
    return {"turns": turns, "acknowledged": acknowledged.hex(), "intended": intended.hex()}


def _write(writer: Writer, batch: Batch) -> None:
    """Write, waiting out stalls as a node does, which a full disk can cause."""
    limit = time.monotonic() + _STALL_SECONDS_MAX
    while True:
        try:
            writer.write(batch)
            return
        except StorageStallError as stall:
            if time.monotonic() > limit:
                raise FindingError(f"a full disk is a stall that does not end: {stall}") from stall
            time.sleep(0.005)


def _check_silence(writer: Writer) -> None:
    store = writer.storage.store
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: store.get(Space.META, b"identity"),
        "scan": lambda: list(store.scan(Space.LOG)),
        "view": store.view,
        "batch": store.batch,
        "sync": writer.sync,
        "recover": writer.storage.log.recover,
    }
    for name, call in calls.items():
        try:
            answer = call()
        except StorageFailedError:
            continue
        raise FindingError(f"{name} after the disk was full: {answer!r:.100}")


def _check(storage: MemberStorage, found: Recovered, before: Told | None) -> None:
    if before is not None and digest(found).hex() not in (
        before["acknowledged"],
        before["intended"],
    ):
        raise FindingError(f"found neither what was acknowledged nor what followed: {found!r:.200}")
    if not rows_match(storage.store, found):
        raise FindingError("the machine's rows are not those of the applied entries")


def _refuses(root: Path) -> Told:
    """Open on a disk that is as full as before: it may be refused, if it says why."""
    try:
        storage = _opened(root)
    except StorageFullError:
        return {"refuses": True}
    storage.close()
    return {"refuses": False}


def _look(root: Path, before: Told) -> Told:
    storage = _opened(root)
    try:
        _check(storage, storage.log.recover(), before)
    finally:
        storage.close()
    return {}
