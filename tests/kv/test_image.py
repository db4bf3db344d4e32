"""Snapshots: whole or refused, whatever happened to the chunks on their way."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import StorageCorruptError, StorageFormatError
from raftkv.kv.commands import encode
from raftkv.kv.model import EVERYTHING, Done, PutResult, Refusal, Refused
from raftkv.kv.requests import (
    AlarmKind,
    Checkpoint,
    Compact,
    DeleteOne,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Revoke,
    SetAlarm,
    Sweep,
    TakeOver,
)
from raftkv.node.images import CHUNK_BYTES_MAX
from tests.kv.oracle import commands
from tests.kv.rig import memory_rig


@given(st.lists(commands, max_size=20), st.lists(commands, max_size=10), st.integers(1, 5000))
def test_a_restored_member_goes_on_exactly_as_the_first(
    before: list[KvCommand], after: list[KvCommand], size: int
) -> None:
    first, second = memory_rig(), memory_rig()
    first.apply(before)
    stream = b"".join(first.image())
    second.install(stream[place : place + size] for place in range(0, len(stream), size))
    assert second.machine.state_hash() == first.machine.state_hash()
    assert second.apply(after) == first.apply(after)
    assert second.rows() == first.rows()


@given(st.lists(commands, min_size=1, max_size=10), st.data())
def test_a_flipped_bit_or_a_lost_end_is_never_restored(
    given_commands: list[KvCommand], data: st.DataObject
) -> None:
    rig = memory_rig()
    rig.apply(given_commands)
    stream = bytearray(b"".join(rig.image()))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 8 * len(stream) - 1))
        stream[place // 8] ^= 1 << place % 8
    else:
        del stream[data.draw(st.integers(0, len(stream) - 1)) :]
    with pytest.raises((StorageCorruptError, StorageFormatError)):
        memory_rig().install([bytes(stream)])


def test_a_snapshot_carries_leases_sessions_alarms_and_the_sweep() -> None:
    once = Once(1, 1, 0, encode(Put(b"once", b"1", 9, previous=True)))
    first, second = memory_rig(), memory_rig()
    (result,) = first.apply(
        [
            OpenSession(9, 60),
            TakeOver(3),
            Checkpoint(3, ((9, 5),), 99),
            *(Put(b"k", b"l" * 2000) for _ in range(5)),
            once,
            Once(1, 2, 0, encode(DeleteOne(b"none"))),
            Compact(4),
            Sweep(1),
            SetAlarm(1, AlarmKind.NO_SPACE, True),
        ]
    )[8:9]
    assert {row_key[:1] for row_key in first.rows()} == {bytes((tag,)) for tag in b"ACHKLMORSTV"}
    second.install(first.image())
    assert second.machine.state_hash() == first.machine.state_hash()
    for rig in (first, second):
        again, refused, _, revoked = rig.apply(
            [once, Put(b"k", b""), SetAlarm(1, AlarmKind.NO_SPACE, False), Revoke(9)]
        )
        assert again == result
        assert isinstance(refused, Refused)
        assert refused.why is Refusal.NO_SPACE
        assert isinstance(revoked, Done)
        assert [item.key for item in rig.range(EVERYTHING).items] == [b"k"]
        rig.apply([Sweep(100)])
    assert second.rows() == first.rows()


def test_a_snapshot_that_is_installed_brings_its_own_sessions_and_no_others() -> None:
    def once(sequence: int) -> Once:
        return Once(1, sequence, 0, encode(Put(b"k", b"%d" % sequence)))

    with_one, with_none = memory_rig(), memory_rig()
    with_one.apply([OpenSession(9, 60), once(1)])
    with_none.apply([Grant(9, 60), Put(b"a", b"")])
    image = with_one.image()
    with_one.install(with_none.image())
    (gone,) = with_one.apply([once(2)])
    assert isinstance(gone, Refused)
    assert gone.why is Refusal.SESSION_NOT_FOUND
    with_one.apply([OpenSession(8, 60), once(1)])
    with_one.install(image)
    assert with_one.apply([once(1), once(2)]) == [PutResult(2), PutResult(3)]


def test_bytes_behind_the_end_are_refused() -> None:
    image = memory_rig().image()
    for more in ([b"x"], [b"", b"x"]):
        with pytest.raises(StorageCorruptError, match="follow its end"):
            memory_rig().install([*image, *more])
    memory_rig().install([*image, b""])


def test_a_row_without_a_key_is_refused() -> None:
    (chunk,) = memory_rig().image()
    head = chunk[:12] + b"".join(n.to_bytes(4, "little") for n in (1, 0, 3))
    keyless = head + crc32(head).to_bytes(4, "little") + b"row"
    with pytest.raises(StorageCorruptError, match="row of it has no key"):
        memory_rig().install([keyless])


def test_no_memory_is_taken_for_what_is_only_announced() -> None:
    (chunk,) = memory_rig().image()
    for count, length, what in ((10**6, 1, "1000000 rows"), (1, 2**30, "1073741824 bytes")):
        head = chunk[:12] + b"".join(n.to_bytes(4, "little") for n in (count, length, 0))
        with pytest.raises(StorageCorruptError, match=what):
            memory_rig().install([head + crc32(head).to_bytes(4, "little")])


def test_a_swapped_chunk_is_refused() -> None:
    rig = memory_rig()
    rig.apply([Put(b"%d" % number, bytes((number,)) * 100_000) for number in range(9)])
    image = rig.image()
    image[1], image[2] = image[2], image[1]
    with pytest.raises(StorageCorruptError, match="is damaged"):
        memory_rig().install(image)


def test_chunks_are_small_although_values_are_not() -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"v" * 1_500_000), Put(b"b", b"w")])
    image = rig.image()
    assert len(image) == 3
    assert max(map(len, image)) <= CHUNK_BYTES_MAX
    other = memory_rig()
    other.install(image)
    assert other.rows() == rig.rows()


def test_another_machines_snapshot_is_refused() -> None:
    with pytest.raises(StorageCorruptError, match="another kind of machine"):
        memory_rig().install([b"\x80" * 100])


def test_a_snapshot_of_a_newer_raftkv_is_refused() -> None:
    (chunk,) = memory_rig().image()
    with pytest.raises(StorageFormatError, match="upgrade"):
        memory_rig().install([chunk[:10] + b"\x09\x00" + chunk[12:]])


def test_a_snapshot_is_of_its_moment_whatever_is_written_meanwhile() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k%d" % number, b"v" * 100_000) for number in range(9)])
    wanted = rig.image()
    view = rig.store.view()
    chunks = rig.machine.snapshot_durable(view)
    taken = [next(chunks)]
    rig.apply([Put(b"k5", b"changed"), Put(b"z", b"")])
    taken += chunks
    view.close()
    assert taken == wanted
