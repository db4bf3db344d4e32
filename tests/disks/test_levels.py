"""The simulated disk and RocksDB below the same members: the same decisions, the same runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.core import Input, State
from raftkv.errors import Error, StorageError
from raftkv.kv import KvResult
from raftkv.node.settings import Settings
from raftkv.storage.base import Loss, Recovered, Space
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, Writer
from raftkv.testing.choices import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes.atlas import DISK_FAULTS, Atlas
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.disk import PLACES, DiskOptions, SimDisk, Zone
from raftkv.testing.nodes.loop import run_virtual
from raftkv.testing.nodes.rocks import RocksDisk
from raftkv.testing.nodes.store import Operation

OPTIONS = DiskOptions(is_harsh=True, memtable_bytes=400)
SETTINGS = Settings(
    tick_seconds=0.05, retention_entries=5, scrub_pause_seconds=1.0, ballast_bytes=0
)
Act = Callable[[SimDisk, Choices], object]

# All but those that strike a row of a table, which RocksDB lays out its own way.
ACTS: dict[str, Act] = {
    "flip wal": lambda disk, choices: disk.flip(Zone.WAL, choices),
    "flip witness": lambda disk, choices: disk.flip(Zone.WITNESS, choices),
    "lose": lambda disk, _choices: disk.lose_write(),
    "misdirect": lambda disk, choices: disk.misdirect(choices),
    "fail write": lambda disk, _choices: disk.fail(Operation.WRITE),
    "fail sync": lambda disk, _choices: disk.fail(Operation.SYNC),
    "fail read": lambda disk, _choices: disk.fail(Operation.READ),
    "stale": lambda disk, choices: disk.read_stale(choices),
    "log file": lambda disk, _choices: disk.lose_log_file(),
    "store": lambda disk, _choices: disk.lose_store(),
    "copy": lambda disk, _choices: disk.back_up(),
    "put back": lambda disk, _choices: disk.put_back(),
}
MEMBER_ACTS = ["append", "append", "append and sync", "vote and sync", "crash", "close"]


@settings(max_examples=max(6, settings().max_examples // 25), deadline=None)
@given(
    st.lists(st.integers(0, PLACES), max_size=30),
    st.lists(st.sampled_from([*MEMBER_ACTS, *MEMBER_ACTS, *ACTS]), max_size=20),
)
def test_a_member_finds_the_same_on_both(decisions: list[int], acts: list[str]) -> None:
    base = Path(tempfile.mkdtemp(prefix="raftkv-levels-"))
    try:
        found = [
            lived(SimDisk(OPTIONS), decisions, acts),
            lived(RocksDisk(base, OPTIONS), decisions, acts),
        ]
    finally:
        shutil.rmtree(base)
    assert found[0] == found[1]


def lived(disk: SimDisk, decisions: list[int], acts: list[str]) -> list[object]:
    """What every opening finds, and what every act comes to."""
    choices, told = ReplayedChoices((tuple(decisions),)), list[object]()
    choices.begin()
    writer = Writer(disk.open(CLUSTER, MEMBER))
    for act in (*acts, "crash"):
        try:
            if act in ACTS:
                told.append(ACTS[act](disk, choices))
            elif act in ("crash", "close"):
                if act == "close":
                    writer.storage.close()
                told.append(disk.crash(choices))
                disk.mend()
                writer = Writer(disk.open(CLUSTER, MEMBER))
                told.append(shown(writer.storage.log.recover()))
                told.append(disk.is_whole)
            else:
                write(writer, act)
        except StorageError as error:
            told.append(type(error))
    writer.storage.close()
    return told


def write(writer: Writer, act: str) -> None:
    batch = writer.storage.store.batch()
    if act.startswith("vote"):
        writer.vote(batch, writer.hard_state.term + 1, MEMBER)
    else:
        writer.append(batch, [b"x" * 40])
        writer.commit(batch, writer.last.index)
    writer.write(batch)
    if act.endswith("sync"):
        writer.sync()


def shown(recovered: Recovered) -> Recovered:
    """Without the words, which name files."""
    damage = recovered.damage
    return evolve(recovered, damage=damage and evolve(damage, what=""))


def test_a_cluster_takes_the_same_steps_on_both(tmp_path: Path) -> None:
    simulated, real = list[object](), list[object]()
    options = evolve(OPTIONS, memtable_bytes=4000)
    run_cluster(4, lambda n: SimDisk(options, number=n), simulated)
    run_cluster(4, lambda n: RocksDisk(tmp_path / str(n), options, number=n), real)
    assert len(simulated) > 500
    assert simulated == real


def run_cluster(seed: int, make_disk: Callable[[int], SimDisk], trace: list[object]) -> None:
    """Writes, crashes and faults of the disks, and every step that comes of it."""
    choices = SeededChoices(seed)
    choices.begin()
    faults = [
        one
        for one in DISK_FAULTS
        if one.zone not in (Zone.LOG, Zone.META) and (one.zone is not Zone.ROWS or one.while_closed)
    ]

    async def main() -> None:
        disks = {f"n{number}": make_disk(number) for number in (1, 2, 3)}
        async with SimCluster(choices, disk=lambda name: disks[name], settings=SETTINGS) as cluster:

            def note(name: str, before: State, given: Input, after: State) -> None:
                del before
                now = (cluster.loop.now_ns, name, type(given), after.term)
                trace.append((*now, after.commit, after.log.last_chain))

            cluster.on_step.append(note)
            atlas = Atlas(choices, lambda name: disks[name].is_whole, lambda: [list(disks)])
            for _ in range(6):
                choices.begin()
                await put(cluster, choices)
                name = cluster.names[choices.choose(3)]
                fault = faults[choices.choose(len(faults))]
                if fault.zone is not None and not atlas.spares_enough(name):
                    continue
                if fault.while_closed or choices.choose(2):
                    cluster.crash(name)
                trace.append((name, fault.name, fault.act(disks[name], choices)))
                await put(cluster, choices)
                await see_to(cluster, name, disks[name], choices)
            trace.append([disk.is_whole for disk in disks.values()])

    run_virtual(main, choices)


async def put(cluster: SimCluster[KvResult], choices: Choices) -> None:
    leader = await cluster.leader()
    for _ in range(3):
        try:
            await leader.kv.put(b"%d" % choices.choose(5), b"value", timeout=5)
        except Error:
            return


async def see_to(cluster: SimCluster[KvResult], name: str, disk: SimDisk, choices: Choices) -> None:
    """Bring a member up again, if it is down."""
    now = cluster.clock.monotonic_ns()
    await cluster.clock.sleep_until(now + 2_000_000_000)
    disk.mend()
    if name in cluster.nodes:
        return
    if not cluster.process(name).has_ended:
        cluster.crash(name)
    await cluster.failed(name)
    disk.crash(choices)
    await cluster.start(name)


def test_a_rotten_table_is_found_and_begun_anew(tmp_path: Path) -> None:
    disk = RocksDisk(tmp_path, OPTIONS)
    writer = Writer(disk.open(CLUSTER, MEMBER))
    for _ in range(30):
        write(writer, "append and sync")
    whole = writer.state()
    choices = ReplayedChoices(((0, 0, PLACES // 40),))
    choices.begin()
    disk.crash(choices)
    assert disk.is_whole
    assert disk.flip(Zone.LOG, choices)
    assert not disk.is_whole
    storage = disk.open(CLUSTER, MEMBER)
    found = storage.log.recover()
    assert found.damage is not None
    assert found.damage.loss is Loss.LOG
    assert found.promised is not None
    assert found.promised.last_index == whole.entries[-1].index
    rows = dict(storage.store.scan(Space.MACHINE))
    assert len(rows) == found.applied.index
    storage.close()
    assert not disk.is_whole, "until others have made it whole"
