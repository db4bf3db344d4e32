"""Commands as bytes: what was encoded comes back, and nothing else is taken for a command."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.errors import InvalidArgumentError, StorageFormatError
from raftkv.kv.commands import (
    COMMAND_VERSION,
    CommandKind,
    decode,
    encode,
    encode_delete,
    encode_delete_span,
    encode_once,
    encode_put,
    is_once,
    is_put,
    parse_once,
)
from raftkv.kv.model import EVERYTHING, Span
from raftkv.kv.requests import (
    KEPT_LEASES_MAX,
    TXN_DEPTH_MAX,
    TXN_OPERATIONS_MAX,
    AlarmKind,
    Checkpoint,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Operation,
    Put,
    Range,
    Revoke,
    SetAlarm,
    SortOrder,
    SortTarget,
    Sweep,
    TakeOver,
    Txn,
)
from tests.kv.oracle import edges, keys, spans, values

flags = st.booleans()
counts = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])
ids = st.integers(-(2**63), 2**63 - 1)
put_values = values | st.just(b"")
puts = st.builds(Put, keys, put_values, ids, flags, flags, flags)
ranges = st.builds(
    Range,
    spans,
    counts,
    counts,
    st.sampled_from(SortOrder),
    st.sampled_from(SortTarget),
    flags,
    flags,
    counts,
    counts,
    counts,
    counts,
)
numbers = [one for one in CompareTarget if one is not CompareTarget.VALUE]
compares = st.one_of(
    st.builds(Compare, keys | spans, st.sampled_from(numbers), st.sampled_from(CompareResult), ids),
    st.builds(
        Compare,
        keys | spans,
        st.just(CompareTarget.VALUE),
        st.sampled_from(CompareResult),
        edges,
    ),
)


def _txns(inner: st.SearchStrategy[Operation]) -> st.SearchStrategy[Txn]:
    branch = st.lists(inner, max_size=3).map(tuple)
    return st.builds(Txn, st.lists(compares, max_size=2).map(tuple), branch, branch)


simple = st.one_of(
    puts, st.builds(DeleteOne, keys, flags), st.builds(DeleteSpan, spans, flags), ranges
)
txns = _txns(st.recursive(simple, _txns, max_leaves=6))
commands: st.SearchStrategy[KvCommand] = st.one_of(
    puts,
    st.builds(DeleteOne, keys, flags),
    st.builds(DeleteSpan, spans, flags),
    txns,
    st.builds(Compact, counts),
    st.builds(Sweep, counts),
    st.builds(Grant, ids, ids),
    st.builds(Revoke, ids),
    st.builds(TakeOver, counts),
    st.builds(Expire, counts, st.lists(ids, max_size=3).map(tuple), counts),
    st.builds(Checkpoint, counts, st.lists(st.tuples(ids, ids), max_size=3).map(tuple), counts),
    st.builds(SetAlarm, counts, st.sampled_from(AlarmKind), flags),
    st.builds(OpenSession, ids, ids),
    st.builds(Once, counts, counts, counts, puts.map(encode) | st.binary(max_size=4)),
)
SAMPLES: dict[CommandKind, KvCommand] = {
    CommandKind.PUT: Put(b"key", b"value", 5, True),
    CommandKind.DELETE: DeleteOne(b"key"),
    CommandKind.KEEP: Put(b"key", b"", 7, True, ignore_value=True),
    CommandKind.TXN: Txn(
        (
            Compare(b"k", CompareTarget.VALUE, CompareResult.LESS, b"given"),
            Compare(Span(b"a", b"b"), CompareTarget.MOD, CompareResult.NOT_EQUAL, -2),
        ),
        (Put(b"k", b"v"), Range(Span(b"a", None), 3, 4, SortOrder.DESCEND, SortTarget.MOD)),
        (Txn(otherwise=(DeleteOne(b"x"),)),),
    ),
    CommandKind.COMPACT: Compact(258),
    CommandKind.SWEEP: Sweep(258),
    CommandKind.GRANT: Grant(258, 3),
    CommandKind.REVOKE: Revoke(258),
    CommandKind.TAKE_OVER: TakeOver(258),
    CommandKind.EXPIRE: Expire(258, (3, 4), 5),
    CommandKind.CHECKPOINT: Checkpoint(258, ((3, 4),), 5),
    CommandKind.SET_ALARM: SetAlarm(258, AlarmKind.CORRUPT, True),
    CommandKind.OPEN_SESSION: OpenSession(258, 3),
    CommandKind.ONCE: Once(1, 2, 3, b"inner"),
}


@given(commands)
def test_a_command_survives_its_bytes(command: KvCommand) -> None:
    assert decode(encode(command)) == command


def test_every_kind_of_command_has_bytes() -> None:
    # A range is no command: it has bytes inside a transaction.
    assert {*SAMPLES, CommandKind.RANGE} == {*CommandKind}
    for kind, command in SAMPLES.items():
        data = encode(command)
        assert data[:2] == bytes((COMMAND_VERSION, kind))
        assert decode(data) == command


@given(st.sampled_from(CommandKind), st.binary(max_size=80))
@example(CommandKind.TXN, bytes((0, 2, 0)) + bytes(200))
def test_any_bytes_are_a_command_or_a_typed_error(kind: CommandKind, rest: bytes) -> None:
    data = bytes((COMMAND_VERSION, kind)) + rest
    try:
        command = decode(data)
    except (InvalidArgumentError, StorageFormatError):
        return
    assert encode(command) == data


@given(commands, st.data())
def test_a_damaged_command_is_another_command_or_a_typed_error(
    command: KvCommand, data: st.DataObject
) -> None:
    good = bytearray(encode(command))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(good))
    except (InvalidArgumentError, StorageFormatError):
        return
    assert encode(found) == bytes(good)


@given(commands, st.data())
def test_a_command_cut_short_or_prolonged_is_refused(
    command: KvCommand, data: st.DataObject
) -> None:
    good = encode(command)
    head = 26 if isinstance(command, Once) else len(good)  # what it carries may have any length
    cut = data.draw(st.integers(0, head - 1))
    with pytest.raises(InvalidArgumentError):
        decode(good[:cut])
    if not isinstance(command, Once):
        with pytest.raises(InvalidArgumentError):
            decode(good + b"\0")


def test_a_length_of_gigabytes_is_refused_by_arithmetic() -> None:
    good = bytearray(encode_put(b"k", b"v"))
    good[3:7] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidArgumentError, match="lengths"):
        decode(bytes(good))


@pytest.mark.parametrize(("version", "kind"), [(2, 1), (1, 16), (1, 0), (0, 1), (255, 255)])
def test_a_command_of_a_newer_raftkv_is_not_skipped(version: int, kind: int) -> None:
    newer = bytes((version, kind)) + encode_put(b"k", b"v")[2:]
    with pytest.raises(StorageFormatError, match="upgrade this member"):
        decode(newer)


@pytest.mark.parametrize(
    ("place", "byte", "what"),
    [(2, 0x80, "unknown flags"), (3, 9, "unknown mode"), (3, 2, "takes no stop")],
)
def test_a_malformed_delete_says_what_is_wrong(place: int, byte: int, what: str) -> None:
    data = bytearray(encode_delete_span(Span(b"a", b"b")))
    data[place] = byte
    if what == "unknown mode":
        data = bytearray(encode_delete(b"a"))
        data[place] = byte
    with pytest.raises(InvalidArgumentError, match=what):
        decode(bytes(data))


def test_a_malformed_put_says_what_is_wrong() -> None:
    data = bytearray(encode_put(b"k", b"v"))
    data[2] = 2
    with pytest.raises(InvalidArgumentError, match="unknown flags"):
        decode(bytes(data))


def test_an_empty_key_is_refused_even_from_the_log() -> None:
    with pytest.raises(InvalidArgumentError, match="key is not provided"):
        decode(encode_put(b"", b"v"))
    with pytest.raises(InvalidArgumentError, match="key is not provided"):
        decode(encode_delete(b""))


@pytest.mark.parametrize(
    ("place", "byte", "what"),
    [(2, 1, "unknown flags"), (2, 8, "unknown flags"), (7, 9, "lengths")],
)
def test_a_malformed_put_that_keeps_says_what_is_wrong(place: int, byte: int, what: str) -> None:
    data = bytearray(encode(SAMPLES[CommandKind.KEEP]))
    data[place] = byte
    with pytest.raises(InvalidArgumentError, match=what):
        decode(bytes(data))


def _in_a_txn(operation: bytes) -> bytes:
    return (
        bytes((COMMAND_VERSION, CommandKind.TXN, 0, 1, 0))
        + struct.pack("<I", len(operation))
        + operation
    )


def test_a_range_alone_is_no_command() -> None:
    data = encode(Txn(then=(Range(EVERYTHING),)))
    with pytest.raises(InvalidArgumentError, match="alone it is no command"):
        decode(data[9:])


@pytest.mark.parametrize(
    ("place", "byte", "what"),
    [
        (2, 4, "unknown flags"),
        (3, 7, "unknown mode"),
        (3, 0, "key is not provided"),
        (4, 3, "invalid sort option"),
        (5, 5, "invalid sort option"),
        (6, 9, "lengths do not add up"),
    ],
)
def test_a_malformed_range_says_what_is_wrong(place: int, byte: int, what: str) -> None:
    data = bytearray(encode(Txn(then=(Range(EVERYTHING),)))[9:])
    data[place] = byte
    with pytest.raises(InvalidArgumentError, match=what):
        decode(_in_a_txn(bytes(data)))


def test_a_range_of_one_key_is_a_span() -> None:
    data = bytearray(encode(Txn(then=(Range(Span(b"k", b"")),)))[9:])
    data[3] = 0
    with pytest.raises(InvalidArgumentError, match="a span of one"):
        decode(_in_a_txn(bytes(data)))


@pytest.mark.parametrize(
    ("place", "byte", "what"),
    [
        (5, 9, "unknown mode"),
        (6, 5, "unknown target"),
        (7, 4, "or result"),
        (16, 7, "a number of 7 bytes"),
        (8, 200, "lengths do not add up"),
    ],
)
def test_a_malformed_compare_says_what_is_wrong(place: int, byte: int, what: str) -> None:
    compare = Compare(b"k", CompareTarget.LEASE, CompareResult.EQUAL, 0)
    data = bytearray(encode(Txn((compare,))))
    data[place] = byte
    if byte == 7:
        del data[-1]
    with pytest.raises(InvalidArgumentError, match=what):
        decode(bytes(data))


@pytest.mark.parametrize("kind", [*CommandKind])
def test_what_is_no_operation_stands_in_no_transaction(kind: CommandKind) -> None:
    if kind is CommandKind.RANGE:
        inner = encode(Txn(then=(Range(EVERYTHING),)))[9:]
    else:
        inner = encode(SAMPLES[kind])
    kinds = {CommandKind.PUT, CommandKind.DELETE, CommandKind.KEEP, CommandKind.RANGE}
    if kind in kinds | {CommandKind.TXN}:
        assert isinstance(decode(_in_a_txn(inner)), Txn)
        return
    with pytest.raises(InvalidArgumentError, match="takes puts, deletes, ranges"):
        decode(_in_a_txn(inner))


def test_an_operation_of_a_newer_raftkv_is_not_skipped() -> None:
    with pytest.raises(StorageFormatError, match="upgrade this member"):
        decode(_in_a_txn(bytes((COMMAND_VERSION, len(CommandKind) + 1))))
    with pytest.raises(StorageFormatError, match="upgrade this member"):
        decode(_in_a_txn(bytes((COMMAND_VERSION + 1, CommandKind.PUT))))


def _nested(depth: int) -> bytes:
    data = encode(Txn(then=(Put(b"k", b"v"),)))
    for _ in range(depth - 1):
        data = _in_a_txn(data)
    return data


def test_nesting_is_read_as_deep_as_it_is_allowed_and_no_deeper() -> None:
    assert isinstance(decode(_nested(TXN_DEPTH_MAX)), Txn)
    for depth in (TXN_DEPTH_MAX + 1, 100_000 // 9):
        with pytest.raises(InvalidArgumentError, match="nested deeper"):
            decode(_nested(depth))


@pytest.mark.parametrize("place", [2, 3, 4])
def test_more_operations_than_a_branch_may_have_are_not_read(place: int) -> None:
    data = bytearray((COMMAND_VERSION, CommandKind.TXN, 0, 0, 0))
    data[place] = TXN_OPERATIONS_MAX
    with pytest.raises(InvalidArgumentError, match="cut short"):
        decode(bytes(data))
    data[place] += 1
    with pytest.raises(InvalidArgumentError, match="too many operations in txn request"):
        decode(bytes(data))


def test_a_command_in_a_session_stands_in_no_other_session() -> None:
    inner = encode_once(1, 2, 3, encode_put(b"k", b"v"))
    assert is_once(inner)
    assert not is_put(inner)
    assert parse_once(inner) == (1, 2, 3, encode_put(b"k", b"v"))
    with pytest.raises(InvalidArgumentError, match="another one stands in it"):
        decode(encode_once(1, 2, 3, inner))


@pytest.mark.parametrize("more", [0, 1])
def test_a_keeper_names_so_many_leases_at_once_and_no_more(more: int) -> None:
    leases = tuple(range(1, KEPT_LEASES_MAX + 1 + more))
    for command in (Expire(1, leases), Checkpoint(1, tuple((lease, 5) for lease in leases))):
        if more:
            with pytest.raises(InvalidArgumentError, match="at most 1024"):
                decode(encode(command))
        else:
            assert decode(encode(command)) == command


@pytest.mark.parametrize(("kind", "active"), [(0, 0), (3, 1), (1, 2)])
def test_an_alarm_that_nobody_knows_is_refused(kind: int, active: int) -> None:
    data = bytearray(encode(SetAlarm(1, AlarmKind.NO_SPACE, True)))
    data[2], data[3] = kind, active
    with pytest.raises(InvalidArgumentError, match="unknown kind"):
        decode(bytes(data))


@pytest.mark.parametrize(
    "command",
    [
        Compact(2**64),
        Compact(-1),
        Grant(2**63, 1),
        Put(b"k", b"v", -(2**63) - 1, ignore_value=True),
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_name(command: KvCommand) -> None:
    with pytest.raises(InvalidArgumentError, match=f"a {type(command).__name__} cannot be written"):
        encode(command)


def test_the_bytes_of_version_1_never_change() -> None:
    # Logs of every release are read by every later one.
    assert encode(DeleteSpan(Span(b"a", b"b"), True)).hex() == "01020101010000000100000061" + "62"
    assert encode(DeleteSpan(EVERYTHING)).hex() == "010200020000000000000000"
    found = {kind.name: encode(command).hex() for kind, command in SAMPLES.items()}
    assert found == {
        "PUT": "010101030000000500000005000000000000006b657976616c7565",
        "DELETE": "0102000003000000000000006b6579",
        "KEEP": "010303030000000000000007000000000000006b6579",
        "TXN": (
            "01050202010003020100000000000000050000006b676976656e0102030100000001000000080000"
            "006162feffffffffffffff15000000010100010000000100000000000000000000006b763f000000"
            "01040002020301000000000000000300000000000000040000000000000000000000000000000000"
            "00000000000000000000000000000000000000000000611600000001050000010d00000001020000"
            "010000000000000078"
        ),
        "COMPACT": "01060201000000000000",
        "SWEEP": "01070201000000000000",
        "GRANT": "010802010000000000000300000000000000",
        "REVOKE": "01090201000000000000",
        "TAKE_OVER": "010a0201000000000000",
        "EXPIRE": "010b020100000000000005000000000000000200000003000000000000000400000000000000",
        "CHECKPOINT": (
            "010c0201000000000000050000000000000001000000"  # keeper, since, how many
            "03000000000000000400000000000000"
        ),
        "SET_ALARM": "010d02010201000000000000",
        "OPEN_SESSION": "010e02010000000000000300000000000000",
        "ONCE": "010f010000000000000002000000000000000300000000000000696e6e6572",
    }
