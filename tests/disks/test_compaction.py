"""Damage that only a compaction meets: RocksDB then refuses every write, at every opening anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.errors import NodeStoppedError, StorageCorruptError, StorageFailedError
from raftkv.node.settings import Settings
from raftkv.storage.base import Batch, Loss, Space, Storage
from raftkv.storage.directory import open_rocks
from raftkv.storage.member import MemberStorage
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, FixedRng, Writer
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.loop import run_virtual
from raftkv.testing.nodes.store import SimStore

MET = "Corruption: block checksum mismatch: stored = 1, computed = 2, in 000012.sst"


class Compaction:
    """A failpoint: the first write of an opening learns what a compaction has met."""

    def __init__(self) -> None:
        self.meets = False

    def __call__(self, name: str) -> None:
        if self.meets and name == "write.before":
            self.meets = False
            raise Exception(MET)


def opened(path: Path, compaction: Compaction, *, has_others: bool = True) -> MemberStorage:
    return open_rocks(
        path,
        cluster_id=CLUSTER,
        member_id=MEMBER,
        rng=FixedRng(),
        can_recover=True,
        has_others=has_others,
        ballast_bytes=0,
        failpoint=compaction,
    )


def filled(path: Path) -> None:
    storage = opened(path, Compaction())
    writer = Writer(storage)
    batch = storage.store.batch()
    writer.vote(batch, 1, MEMBER)
    writer.append(batch, [b"a", b"b"])
    writer.write(batch)
    writer.sync()
    storage.close()


def test_an_opening_that_meets_it_begins_the_store_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    compaction = Compaction()
    compaction.meets = True
    storage = opened(tmp_path, compaction)
    recovered = storage.log.recover()
    assert recovered.damage is not None
    assert recovered.damage.loss is Loss.LOG
    assert "block checksum mismatch" in recovered.damage.what
    assert recovered.promised is not None
    assert recovered.promised.last_index == 2
    storage.close()


def test_an_opening_that_also_lacks_its_witness_begins_the_store_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    (witness,) = tmp_path.rglob("witness")
    witness.unlink()
    compaction = Compaction()
    compaction.meets = True
    storage = opened(tmp_path, compaction)
    recovered = storage.log.recover()
    assert recovered.damage is not None
    assert recovered.damage.loss is Loss.ALL
    assert "block checksum mismatch" in recovered.damage.what
    assert not compaction.meets
    storage.close()


def test_a_member_alone_is_refused_as_nobody_could_give_it_back(tmp_path: Path) -> None:
    filled(tmp_path)
    compaction = Compaction()
    compaction.meets = True
    with pytest.raises(StorageFailedError, match="checksum mismatch"):
        opened(tmp_path, compaction, has_others=False)


def test_the_store_tells_what_ended_its_writing(tmp_path: Path) -> None:
    compaction = Compaction()
    store = RocksStore(tmp_path / "store", Mode.CREATE, failpoint=compaction)
    compaction.meets = True
    batch = store.batch()
    batch.put(Space.LOG, b"key", b"value")
    with pytest.raises(StorageFailedError):
        store.write(batch)
    assert "block checksum mismatch" in str(store.corruption)
    store.close()


def damaging(store: SimStore) -> None:
    """From now on a write of this store learns what a compaction has met."""

    def write(batch: Batch) -> int:
        del batch
        store.corruption = StorageCorruptError(MET)
        store.poison(StorageFailedError(MET))
        raise StorageFailedError(MET)

    store.write = write


def test_a_running_member_that_meets_it_recovers_when_it_is_opened_again() -> None:
    async def main() -> None:
        stores: dict[str, SimStore] = {}
        async with SimCluster(settings=Settings(tick_seconds=0.05, ballast_bytes=0)) as cluster:

            def open_storage(name: str) -> Storage:
                storage = cluster.open_disk(name)
                assert isinstance(storage.store, SimStore)
                stores[name] = storage.store
                return storage

            cluster.open_storage = open_storage
            leader = await cluster.leader()
            victim = next(name for name in cluster.names if name != leader.name)
            await cluster.restart(victim)
            damaging(stores[victim])
            await leader.kv.put("key", b"value")
            assert isinstance(await cluster.failed(victim), NodeStoppedError)
            again = await cluster.start(victim)
            found = again.status().recovering
            assert found is not None
            assert "block checksum mismatch" in found.what

    run_virtual(main)
