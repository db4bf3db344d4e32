"""The atlas: what a run may damage, so that committed entries stay intact somewhere."""

from __future__ import annotations

import pytest

from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, Writer
from raftkv.testing.choices import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes.atlas import DISK_FAULTS, Atlas
from raftkv.testing.nodes.disk import PLACES, SimDisk, Zone

NAMES = ("n1", "n2", "n3", "n4", "n5")


def deciding(*decisions: int) -> Choices:
    choices = ReplayedChoices((decisions,))
    choices.begin()
    return choices


class Cluster:
    """Disks with something on them."""

    def __init__(self, size: int) -> None:
        self.names = NAMES[:size]
        self.electorates: list[tuple[str, ...]] = [self.names]
        self.disks = {name: SimDisk(number=at) for at, name in enumerate(self.names)}
        for disk in self.disks.values():
            writer = Writer(disk.open(CLUSTER, MEMBER))
            batch = writer.storage.store.batch()
            writer.vote(batch, 1, MEMBER)
            writer.write(batch)
            writer.sync()
            disk.crash(deciding())

    def atlas(self, choices: Choices) -> Atlas:
        return Atlas(choices, lambda name: self.disks[name].is_whole, lambda: self.electorates)

    def damage(self, name: str) -> None:
        assert self.disks[name].lose_store()


def allowed(atlas: Atlas, name: str) -> set[Zone]:
    return {zone for zone in Zone if atlas.allows(name, zone)}


def test_without_a_decision_nothing_is_lost() -> None:
    cluster = Cluster(3)
    atlas = cluster.atlas(deciding())
    assert not atlas.is_reckless
    assert [allowed(atlas, name) for name in cluster.names] == [set()] * 3


def test_runs_damage_different_zones_of_different_members() -> None:
    cluster = Cluster(3)
    maps = {
        tuple(frozenset(allowed(cluster.atlas(deciding(0, salt)), name)) for name in cluster.names)
        for salt in range(1, 20)
    }
    assert len(maps) > 15
    for zone in Zone:
        assert any(zone in zones for drawn in maps for zones in drawn)
        assert any(zone not in zones for drawn in maps for zones in drawn)


@pytest.mark.parametrize(("size", "losses"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
def test_a_majority_of_the_voters_stays_whole(size: int, losses: int) -> None:
    cluster = Cluster(size)
    atlas = cluster.atlas(deciding(0, 7))
    lost: list[str] = []
    for name in cluster.names:
        if atlas.spares_enough(name):
            cluster.damage(name)
            lost.append(name)
    assert len(lost) == losses
    for name in lost:
        assert atlas.spares_enough(name), "who lost something may lose more"


def test_a_majority_of_each_half_and_of_those_who_may_come_to_vote_stays_whole() -> None:
    cluster = Cluster(5)
    cluster.electorates = [NAMES[:3], NAMES[2:4]]
    atlas = cluster.atlas(deciding(0, 7))
    assert [name for name in NAMES if atlas.spares_enough(name)] == ["n1", "n2", "n5"]
    cluster.damage("n1")
    assert [name for name in NAMES if atlas.spares_enough(name)] == ["n1", "n5"]


def test_a_member_that_is_whole_again_lets_others_be_damaged() -> None:
    cluster = Cluster(3)
    atlas = cluster.atlas(deciding(0, 7))
    cluster.damage("n1")
    assert not atlas.spares_enough("n2")
    storage = cluster.disks["n1"].open(CLUSTER, MEMBER)
    assert not atlas.spares_enough("n2")
    batch = storage.store.batch()
    storage.log.save_damage(batch, None)
    storage.store.write(batch)
    assert atlas.spares_enough("n2")


def test_one_run_in_twenty_spares_nothing() -> None:
    cluster = Cluster(3)
    atlases: list[Atlas] = []
    for seed in range(400):
        choices = SeededChoices(seed)
        choices.begin()
        atlases.append(cluster.atlas(choices))
    reckless = [atlas for atlas in atlases if atlas.is_reckless]
    assert 10 <= len(reckless) <= 35
    cluster.damage("n1")
    assert allowed(reckless[0], "n2") == set(Zone)


def test_only_faults_that_are_allowed_are_drawn() -> None:
    cluster = Cluster(3)
    nothing = cluster.atlas(deciding())
    for at, fault in enumerate(DISK_FAULTS):
        drawn = nothing.draw("n1", deciding(at))
        assert drawn is (fault if fault.zone is None else None)
    everything = cluster.atlas(deciding(1))
    assert everything.is_reckless
    for at, fault in enumerate(DISK_FAULTS):
        assert everything.draw("n1", deciding(at)) is fault


def test_no_fault_needs_anything_on_the_disk() -> None:
    for at, fault in enumerate(DISK_FAULTS):
        disk = SimDisk(number=at)
        fault.act(disk, deciding(PLACES // 2, 1))
        disk.mend()
        assert disk.open(CLUSTER, MEMBER).log.recover().damage is None
