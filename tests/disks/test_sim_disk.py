"""The simulated disk: what it keeps, what it loses, and what the shipped storage makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import (
    ClosedError,
    IdentityError,
    StorageCorruptError,
    StorageError,
    StorageFailedError,
    StorageFullError,
    StorageLockedError,
    StorageStallError,
)
from raftkv.storage.base import Damage, Loss, Space
from raftkv.storage.member import MemberStorage
from raftkv.storage.witness import SLOT_BYTES
from raftkv.testing.campaigns.writer import CLUSTER, MEMBER, Writer, everything, rows_match
from raftkv.testing.choices import Choices, ReplayedChoices
from raftkv.testing.nodes.disk import PLACES, DiskOptions, SimDisk, Zone
from raftkv.testing.nodes.image import Sectors
from raftkv.testing.nodes.store import Operation

HARSH = DiskOptions(is_harsh=True)


def deciding(*decisions: int) -> Choices:
    choices = ReplayedChoices((decisions,))
    choices.begin()
    return choices


def opened(disk: SimDisk) -> MemberStorage:
    return disk.open(CLUSTER, MEMBER)


def written(disk: SimDisk, count: int = 3, *, synced: bool = True) -> Writer:
    """A member that appended so many entries, each in a batch of its own."""
    writer = Writer(opened(disk))
    batch = writer.storage.store.batch()
    writer.vote(batch, 1, MEMBER)
    writer.write(batch)
    writer.sync()
    for number in range(count):
        append(writer, b"entry %d" % number)
        if synced:
            writer.sync()
    return writer


def append(writer: Writer, data: bytes) -> None:
    batch = writer.storage.store.batch()
    writer.append(batch, [data])
    writer.commit(batch, writer.last.index)
    writer.write(batch)


def reopened(disk: SimDisk) -> Writer:
    return Writer(opened(disk))


def loss(disk: SimDisk) -> Loss | None:
    """How the next opening finds its member damaged."""
    damage = opened(disk).log.recover().damage
    return None if damage is None else damage.loss


# --- crashes --------------------------------------------------------------------------------------


def test_what_is_synced_survives_every_power_cut() -> None:
    disk = SimDisk(HARSH)
    before = written(disk).state()
    disk.crash(deciding(1, 1, 1))
    assert reopened(disk).state() == before


@pytest.mark.parametrize("lost", range(4))
def test_a_power_cut_takes_the_newest_batches_that_are_not_synced(lost: int) -> None:
    disk = SimDisk()
    writer = written(disk, 3, synced=False)
    assert disk.unsynced == 3
    disk.crash(deciding(lost))
    assert reopened(disk).entries == writer.entries[: 3 - lost]


def test_a_crash_without_a_decision_is_the_end_of_the_process_alone() -> None:
    disk = SimDisk(HARSH)
    before = written(disk, 3, synced=False).state()
    assert disk.crash(deciding()) == "nothing is lost"
    assert reopened(disk).state() == before


def test_a_torn_tail_of_our_own_is_cut() -> None:
    disk = SimDisk(HARSH)
    writer = written(disk, 3, synced=False)
    assert "torn" in disk.crash(deciding(2, 1))
    again = reopened(disk)
    assert again.entries == writer.entries[:1]
    assert again.storage.log.recover().damage is None


def test_a_look_changes_nothing() -> None:
    disk = SimDisk()
    writer = written(disk)
    disk.lose_write()
    append(writer, b"astray")
    append(writer, b"after it")
    disk.crash(deciding())
    for _ in range(2):  # the cut that follows the look finds what the look has found
        recovered = opened(disk).log.recover()
        assert recovered.damage is None, "neither of them was synced"
        assert recovered.entries == tuple(writer.entries[:3])
        disk.crash(deciding())


def test_an_orderly_close_writes_everything_out() -> None:
    disk = SimDisk()
    writer = written(disk, 3, synced=False)
    writer.storage.close()
    assert disk.unsynced == 0
    disk.crash(deciding(1))
    assert reopened(disk).entries == writer.entries


def test_what_was_written_out_at_the_close_is_in_tables() -> None:
    disk = SimDisk()
    written(disk).storage.close()
    assert disk.flip(Zone.WAL, deciding(0)) is None
    assert disk.flip(Zone.LOG, deciding(0))


def test_what_survived_one_power_cut_survives_the_next() -> None:
    disk = SimDisk()
    writer = written(disk, 3, synced=False)
    disk.crash(deciding())
    assert disk.unsynced == 0
    disk.crash(deciding(1))
    assert reopened(disk).entries == writer.entries


@pytest.mark.parametrize(
    ("is_harsh", "decisions", "kept"),
    [
        (False, (0,), (b"3", b"2")),
        (False, (1,), (b"1", b"2")),
        (False, (2,), (b"1", b"0")),
        (False, (3,), (b"0", b"0")),
        (True, (0, 1), (b"3", b"0")),
        (True, (1, 0), (b"1", b"2")),
        (True, (2, 1), (b"0", b"0")),
    ],
)
def test_a_power_cut_takes_the_newest_writes_of_the_witness(
    is_harsh: bool, decisions: tuple[int, ...], kept: tuple[bytes, bytes]
) -> None:
    sectors = Sectors()
    for start in (0, SLOT_BYTES):
        sectors.write(start, b"0" * SLOT_BYTES)
    sectors.sync()
    for start, mark in ((0, b"1"), (SLOT_BYTES, b"2"), (0, b"3")):
        sectors.write(start, mark * SLOT_BYTES)
    sectors.lose_power(deciding(*decisions), is_harsh=is_harsh)
    assert sectors.content() == b"".join(mark * SLOT_BYTES for mark in kept)
    assert sectors.is_behind == any(decisions)


def test_what_was_found_at_an_opening_is_durable_from_then_on() -> None:
    disk = SimDisk()
    writer = written(disk, 3, synced=False)
    disk.crash(deciding())
    opened(disk)
    disk.crash(deciding(1))
    assert reopened(disk).entries == writer.entries


def test_a_dead_process_reaches_nothing() -> None:
    disk = SimDisk()
    dead = written(disk).storage
    view = dead.store.view()
    disk.crash(deciding())
    alive = reopened(disk)
    for act in (dead.store.batch, dead.store.sync, lambda: view.get(Space.LOG, b"")):
        with pytest.raises(ClosedError):
            act()
    with pytest.raises(StorageFailedError, match="gone"):
        dead.condemn(Damage(Loss.ALL, "by a process that is gone"))
    dead.close()  # as a task does that is collected long after
    append(alive, b"more")
    alive.sync()
    with pytest.raises(StorageLockedError):
        opened(disk)


def test_another_member_is_refused() -> None:
    disk = SimDisk()
    written(disk).storage.close()
    with pytest.raises(IdentityError):
        disk.open(CLUSTER, MEMBER + 1)
    assert not disk.is_open
    assert reopened(disk).entries


@given(
    st.lists(st.integers(0, PLACES), max_size=40),
    st.lists(st.sampled_from(["write", "sync", "vote", "crash", "close"]), max_size=25),
    st.booleans(),
    st.sampled_from([1, 200, 1 << 20]),
)
def test_whatever_is_decided_nothing_promised_is_lost(
    decisions: list[int], acts: list[str], is_harsh: bool, memtable_bytes: int
) -> None:
    disk = SimDisk(DiskOptions(is_harsh=is_harsh, memtable_bytes=memtable_bytes))
    choices = deciding(*decisions)
    writer = reopened(disk)
    passed = [writer.state()]
    for act in (*acts, "crash"):
        if act in ("crash", "close"):
            if act == "close":
                writer.storage.close()
            else:
                disk.crash(choices)
            writer = reopened(disk)
            assert writer.state() in passed
            assert rows_match(writer.storage.store, writer.state())
            passed = [writer.state()]
            continue
        if act == "sync":
            writer.sync()
            passed = passed[-1:]
            continue
        batch = writer.storage.store.batch()
        if act == "vote":
            writer.vote(batch, writer.hard_state.term + 1, MEMBER)
        else:
            writer.append(batch, [b"data"])
            writer.commit(batch, writer.last.index)
        writer.write(batch)
        passed.append(writer.state())
    assert disk.is_whole


# --- damage ---------------------------------------------------------------------------------------


def _flip(zone: Zone) -> Callable[[SimDisk], str | None]:
    return lambda disk: disk.flip(zone, deciding(PLACES // 2))


BETWEEN: dict[str, Callable[[SimDisk], str | None]] = {
    "a bit in the log": _flip(Zone.WAL),
    "a stale read": lambda disk: disk.read_stale(deciding(0)),
    "a lost log file": lambda disk: disk.lose_log_file(),
    "a lost store": lambda disk: disk.lose_store(),
}


@pytest.mark.parametrize("fault", BETWEEN.values(), ids=BETWEEN)
def test_a_member_that_lost_what_it_promised_knows_what_must_be_there_again(
    fault: Callable[[SimDisk], str | None],
) -> None:
    disk = SimDisk()
    writer = written(disk)
    promised = writer.promise()
    disk.crash(deciding())
    assert disk.is_whole
    assert fault(disk)
    assert not disk.is_whole
    recovered = opened(disk).log.recover()
    assert recovered.damage is not None
    assert recovered.damage.loss is Loss.LOG
    assert recovered.promised == promised
    assert (recovered.hard_state.term, recovered.hard_state.vote) == (1, MEMBER)
    assert not disk.is_whole, "until its peers made it whole"


ASTRAY: list[Callable[[SimDisk], str | None]] = [
    lambda disk: disk.lose_write(),
    lambda disk: disk.misdirect(deciding(0)),
]


@pytest.mark.parametrize(
    ("act", "said"),
    list(zip(ASTRAY, ["its log ends at entry 3, but entry 4", "checksum mismatch"], strict=True)),
    ids=["lost", "misdirected"],
)
def test_a_write_that_the_disk_only_says_it_has_is_missed_at_the_next_opening(
    act: Callable[[SimDisk], str | None], said: str
) -> None:
    disk = SimDisk()
    writer = written(disk)
    assert act(disk)
    append(writer, b"astray")
    writer.sync()
    assert writer.storage.store.get(Space.LOG, writer_key(writer)) is not None
    disk.crash(deciding())
    damage = opened(disk).log.recover().damage
    assert damage is not None
    assert damage.loss is Loss.LOG
    assert said in damage.what
    assert ("checksum" in damage.what) == ("checksum" in said)


def writer_key(writer: Writer) -> bytes:
    return bytes(4) + writer.last.index.to_bytes(8, "big")


def test_the_witness_of_a_damaged_store_is_not_lost_as_well() -> None:
    disk = SimDisk(HARSH)
    promised = written(disk).promise()
    assert disk.flip(Zone.WAL, deciding(PLACES - 1))
    disk.crash(deciding(1, 1))
    assert opened(disk).log.recover().promised == promised


def test_a_member_alone_is_refused_rather_than_opened_shorter() -> None:
    disk = SimDisk()
    written(disk)
    disk.crash(deciding())
    disk.lose_log_file()
    with pytest.raises(StorageCorruptError):
        disk.open(CLUSTER, MEMBER, has_others=False)


@pytest.mark.parametrize("act", [SimDisk.flip, SimDisk.alter])
@pytest.mark.parametrize("zone", [Zone.LOG, Zone.META])
def test_a_damaged_record_is_found_at_the_opening(
    act: Callable[[SimDisk, Zone, Choices], str | None], zone: Zone
) -> None:
    disk = SimDisk(DiskOptions(memtable_bytes=1))
    written(disk, 20)
    disk.crash(deciding())
    assert act(disk, zone, deciding(PLACES // 3))
    assert loss(disk) is Loss.LOG


def test_a_damaged_row_is_never_served_and_the_others_are() -> None:
    disk = SimDisk(DiskOptions(memtable_bytes=1))
    writer = written(disk, 5)
    store = writer.storage.store
    rows = list(store.scan(Space.MACHINE))
    view = store.view()
    assert disk.flip(Zone.ROWS, deciding(0))
    for reader in (store, view):
        with pytest.raises(StorageCorruptError, match="checksum"):
            reader.get(Space.MACHINE, rows[0][0])
        with pytest.raises(StorageCorruptError):
            list(reader.scan(Space.MACHINE))
        assert reader.get(Space.MACHINE, rows[1][0]) == rows[1][1]
        assert list(reader.scan(Space.MACHINE, rows[1][0])) == rows[1:]
    view.close()
    assert writer.storage.corruption is not None
    batch = store.batch()
    batch.put(Space.MACHINE, *rows[0])
    store.write(batch)
    assert list(store.scan(Space.MACHINE)) == rows, "a new row takes the place of the damaged one"
    assert not disk.is_whole
    writer.sync()
    assert disk.is_whole, "now in the tables, too"


def test_a_damaged_sector_of_the_witness_is_mended() -> None:
    disk = SimDisk()
    writer = written(disk)
    assert disk.flip(Zone.WITNESS, deciding(PLACES - 1))
    assert not disk.is_whole
    assert writer.storage.check_witness() is not None
    assert disk.is_whole
    assert writer.storage.check_witness() is None


def test_a_witness_that_lost_its_newest_writes_is_only_old() -> None:
    disk = SimDisk()
    writer = written(disk)
    disk.crash(deciding(2))
    flips = [lambda zone=zone: disk.flip(zone, deciding(0)) for zone in (Zone.WAL, Zone.META)]
    for act in (*flips, disk.lose_log_file):
        assert act() is None, "nobody could tell that from an ordinary crash"
    assert reopened(disk).state() == writer.state()
    assert disk.flip(Zone.WITNESS, deciding(0)), "which is news again"


def test_a_damaged_note_of_a_damage_is_taken_for_the_worst() -> None:
    disk = SimDisk()
    writer = written(disk)
    writer.storage.condemn(Damage(Loss.LOG, "rows differ"), keep_rows=True)
    disk.crash(deciding())
    assert disk.flip(Zone.NOTES, deciding(PLACES // 2))
    recovered = opened(disk).log.recover()
    assert recovered.damage is not None
    assert recovered.damage.loss is Loss.ALL


def test_a_wiped_disk_is_another_disk() -> None:
    disk = SimDisk()
    before = written(disk).storage.identity
    disk.crash(deciding())
    assert disk.wipe()
    after = opened(disk)
    assert after.log.recover().entries == ()
    assert after.identity.disk_uuid != before.disk_uuid
    assert disk.is_whole


def test_a_copy_is_put_back_only_after_a_later_boot() -> None:
    disk = SimDisk()
    writer = written(disk)
    assert disk.back_up()
    append(writer, b"after the copy")
    writer.sync()
    disk.crash(deciding())
    assert disk.put_back() is None, "its next boot would be the one the original comes to"
    later = reopened(disk).storage.identity
    disk.crash(deciding())
    assert disk.put_back()
    assert not disk.is_whole
    again = reopened(disk)
    assert again.entries == writer.entries[:-1]
    assert again.storage.identity.boot == later.boot
    assert again.storage.identity.boot_token != later.boot_token
    batch = again.storage.store.batch()
    again.storage.log.save_damage(batch, Damage(Loss.ALL, "told by its peers"))
    again.write(batch)
    assert not disk.is_whole
    batch = again.storage.store.batch()
    again.storage.log.save_damage(batch, None)
    again.write(batch)
    assert disk.is_whole, "it was told, and has recovered"


# --- trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.SYNC, Operation.WITNESS])
def test_after_a_failed_write_nothing_is_served_and_the_next_process_goes_on(
    operation: Operation,
) -> None:
    disk = SimDisk(HARSH)
    writer = written(disk)
    before = writer.state()
    view = writer.storage.store.view()
    disk.fail(operation)

    def append_and_sync() -> None:
        append(writer, b"one more")
        writer.sync()

    with pytest.raises(StorageFailedError, match="error"):
        append_and_sync()
    for act in (
        lambda: writer.storage.store.get(Space.META, b""),
        lambda: view.get(Space.META, b""),
        writer.storage.store.sync,
    ):
        with pytest.raises(StorageFailedError):
            act()
    view.close()
    writer.storage.close()
    disk.crash(deciding())
    cuts: list[str] = []
    again = Writer(disk.open(CLUSTER, MEMBER, failpoint=cuts.append))
    assert ("cut.after" in cuts) == (operation is Operation.WRITE), "half a batch is in the log"
    assert again.entries[: len(before.entries)] == list(before.entries)
    assert again.storage.log.recover().damage is None


def test_a_read_that_fails_is_an_error_of_its_own() -> None:
    disk = SimDisk()
    store = written(disk).storage.store
    disk.fail(Operation.READ)
    with pytest.raises(StorageFailedError, match="reading"):
        list(store.scan(Space.LOG))
    assert list(store.scan(Space.LOG))


def test_a_disk_that_fails_for_ever_does() -> None:
    disk = SimDisk()
    written(disk)
    disk.crash(deciding())
    disk.fail(Operation.WITNESS, for_ever=True)
    for _ in range(2):
        with pytest.raises(StorageFailedError):
            opened(disk)
    disk.mend()
    assert reopened(disk).entries


def test_a_full_disk_opens_once_there_is_room() -> None:
    disk = SimDisk()
    writer = written(disk)
    before = writer.state()
    disk.troubles.is_full = True
    with pytest.raises(StorageFullError):
        append(writer, b"too much")
    writer.storage.close()
    disk.crash(deciding())
    with pytest.raises(StorageFullError):
        opened(disk)
    disk.mend()
    assert reopened(disk).state() == before


def test_a_note_that_cannot_be_put_fails_the_one_who_puts_it() -> None:
    disk = SimDisk()
    storage = written(disk).storage
    disk.fail(Operation.NOTE)
    with pytest.raises(StorageFailedError, match="noted"):
        storage.condemn(Damage(Loss.ALL, "rows differ"))


def test_a_batch_that_was_put_off_can_be_written_again() -> None:
    disk = SimDisk()
    store = written(disk).storage.store
    disk.troubles.stalls = 2
    batch = store.batch()
    batch.put(Space.MACHINE, b"key", b"value")
    for _ in range(2):
        with pytest.raises(StorageStallError):
            store.write(batch)
    store.write(batch)
    assert store.get(Space.MACHINE, b"key") == b"value"


# --- everything at once ---------------------------------------------------------------------------

ACTS: dict[str, Callable[[SimDisk, Choices], object]] = {
    **{f"flip {zone.value}": lambda disk, c, z=zone: disk.flip(z, c) for zone in Zone},
    "alter log": lambda disk, c: disk.alter(Zone.LOG, c),
    "alter positions": lambda disk, c: disk.alter(Zone.META, c),
    "lose": lambda disk, _c: disk.lose_write(),
    "misdirect": SimDisk.misdirect,
    "fail write": lambda disk, _c: disk.fail(Operation.WRITE),
    "fail sync": lambda disk, _c: disk.fail(Operation.SYNC),
    "fail witness": lambda disk, _c: disk.fail(Operation.WITNESS),
    "stale": SimDisk.read_stale,
    "log file": lambda disk, _c: disk.lose_log_file(),
    "store": lambda disk, _c: disk.lose_store(),
}


@given(
    st.lists(st.integers(0, PLACES), max_size=60),
    st.lists(
        st.sampled_from(["append", "append and sync", "vote and sync", "crash", *ACTS]),
        max_size=30,
    ),
)
def test_what_was_promised_is_there_or_known_to_be_missing(
    decisions: list[int], acts: list[str]
) -> None:
    disk, choices = SimDisk(DiskOptions(is_harsh=True, memtable_bytes=300)), deciding(*decisions)
    writer = reopened(disk)
    promised = writer.state()
    for act in (*acts, "crash"):
        try:
            if act in ACTS:
                ACTS[act](disk, choices)
            elif act == "crash":
                disk.crash(choices)
                disk.mend()
                writer = reopened(disk)
                found = writer.storage.log.recover()
                if found.damage is not None:
                    assert not disk.is_whole
                    return
                assert found.entries[: len(promised.entries)] == promised.entries
                assert found.hard_state.term >= promised.hard_state.term
                if found.hard_state.term == promised.hard_state.term:
                    assert found.hard_state.vote == promised.hard_state.vote
                promised = writer.state()
            else:
                batch = writer.storage.store.batch()
                if act.startswith("vote"):
                    writer.vote(batch, writer.hard_state.term + 1, MEMBER)
                else:
                    writer.append(batch, [b"x" * 40])
                writer.write(batch)
                if act.endswith("sync"):
                    writer.sync()
                    promised = writer.state()
        except StorageError:
            continue  # the process stops for good; the next crash ends it


def test_everything_that_was_found_can_be_read_twice() -> None:
    disk = SimDisk(DiskOptions(memtable_bytes=100))
    written(disk, 30).storage.close()
    once = everything(opened(disk).store)
    disk.crash(deciding())
    assert everything(opened(disk).store) == once
