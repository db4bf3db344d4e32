"""``Kv``: what is refused before it is proposed, what is proposed, and how reads are begun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import (
    CompactedError,
    DeadlineError,
    FutureRevisionError,
    InvalidArgumentError,
    InvariantError,
    NoLeaderError,
    RequestTooLargeError,
    UsageError,
)
from raftkv.kv.client import Kv, op, when
from raftkv.kv.client.reading import LOCAL_READS, STEP_KEYS
from raftkv.kv.commands import decode
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import (
    EVERYTHING,
    KEY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    DeleteResult,
    KeyValue,
    KvResult,
    PutResult,
    RangeResult,
    Refused,
    Span,
    TxnResult,
)
from raftkv.kv.requests import DeleteOne, DeleteSpan, KvCommand, Put, SortOrder, SortTarget
from raftkv.kv.settings import KvSettings
from raftkv.node.audience import Audience
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from tests.kv.rig import Rig, memory_rig


class AloneReplica:
    """A node with no peers and no delay, which writes down what it was asked."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.asked: list[object] = []
        self.answer: KvResult | None = None
        self.on_read: Callable[[], Awaitable[None]] | None = None
        self.audience: Audience | None = None

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        self.asked.append((decode(command), timeout))
        await checkpoint()
        (result,) = self._rig.apply_bytes([command])
        return self.answer or result

    async def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        self.asked.append(("read", lease, timeout))
        await checkpoint()
        if self.on_read is not None:
            await self.on_read()
        return 1

    async def ask(self, question: bytes, *, timeout: float = 5.0) -> bytes:
        raise NoLeaderError("nobody keeps the leases here")

    @property
    def leading(self) -> int:
        return 1

    def check(self) -> None:
        self.asked.append("check")

    def tell(self, audience: Audience) -> None:
        self.audience = audience

    @property
    def id(self) -> int:
        return 1

    @property
    def runtime(self) -> Runtime:
        return system_runtime()

    @property
    def settings(self) -> Settings:
        return Settings()


class Bench:
    """A Kv on an :class:`AloneReplica`."""

    def __init__(self) -> None:
        self.rig = memory_rig()
        self.node = AloneReplica(self.rig)
        self.kv = Kv(self.node, self.rig.machine, KvSettings(sessions=False))

    def proposed(self) -> list[KvCommand]:
        return [
            cast("KvCommand", asked[0]) for asked in cast("list[tuple[object]]", self.node.asked)
        ]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_put_get_delete_and_back_again(bench: Bench) -> None:
    kv = bench.kv
    assert await kv.put("config/mode", "dark") == PutResult(2)
    assert await kv.get("config/mode") == KeyValue(b"config/mode", b"dark", 2, 2, 1)
    put = await kv.put(b"config/mode", b"light", previous=True)
    assert put.previous == KeyValue(b"config/mode", b"dark", 2, 2, 1)
    assert await kv.get("config/mode", revision=2) == put.previous
    assert await kv.delete("config/mode") == DeleteResult(4, 1)
    assert await kv.get("config/mode") is None
    assert await kv.delete("config/mode") == DeleteResult(4, 0)


async def test_str_and_bytes_name_the_same_key(bench: Bench) -> None:
    await bench.kv.put("schlüssel", "größe")
    found = await bench.kv.get("schlüssel".encode())
    assert found is not None
    assert found.value == "größe".encode()


async def test_the_ways_to_name_keys(bench: Bench) -> None:
    kv = bench.kv
    for name in ("a", "b/1", "b/2", "c", b"\xff\xff"):
        await kv.put(name, "")

    async def named(*bounds: str | bytes | None, prefix: str | bytes | None = None) -> list[bytes]:
        found = await kv.range(*bounds, prefix=prefix)
        assert await kv.count(*bounds, prefix=prefix) == found.count == len(found.items)
        return [item.key for item in found.items]

    assert await named() == [b"a", b"b/1", b"b/2", b"c", b"\xff\xff"]
    assert await named("b/2") == [b"b/2", b"c", b"\xff\xff"]
    assert await named("b", "c") == [b"b/1", b"b/2"]
    assert await named(None, "b/2") == [b"a", b"b/1"]
    assert await named(prefix="b/") == [b"b/1", b"b/2"]
    assert await named(prefix=b"\xff") == [b"\xff\xff"]
    assert await named(prefix="") == await named()
    assert await named("c", "a") == []
    assert await named("", b"\0") == []


async def test_the_ways_to_delete(bench: Bench) -> None:
    kv = bench.kv
    await kv.delete("k", previous=True)
    await kv.delete(prefix="k")
    await kv.delete(start="a", stop="b")
    await kv.delete(start="a")
    await kv.delete(stop="b")
    await kv.delete(prefix="")
    assert bench.proposed() == [
        DeleteOne(b"k", True),
        DeleteSpan(Span(b"k", b"l")),
        DeleteSpan(Span(b"a", b"b")),
        DeleteSpan(Span(b"a", None)),
        DeleteSpan(Span(b"", b"b")),
        DeleteSpan(EVERYTHING),
    ]


async def test_a_delete_up_to_the_first_possible_key_deletes_nothing(bench: Bench) -> None:
    # etcd's wire writes "to the end" as a stop of one zero byte; here that stop means what it says.
    await bench.kv.put("k", "v")
    assert (await bench.kv.delete(start=b"\0", stop=b"\0")).deleted == 0
    assert (await bench.kv.delete(start=b"", stop=b"\0")).deleted == 0


async def test_limit_more_count_and_keys_only(bench: Bench) -> None:
    for number in range(5):
        await bench.kv.put(f"k{number}", "value")
    found = await bench.kv.range(limit=2, keys_only=True)
    assert [(item.key, item.value) for item in found.items] == [(b"k0", b""), (b"k1", b"")]
    assert (found.count, found.more, found.revision) == (5, True, 6)
    found = await bench.kv.range(limit=2, counted=False)
    assert (found.count, found.more) == (2, True)
    found = await bench.kv.range(count_only=True)
    assert (found.items, found.count) == ((), 5)


async def test_orders_and_bounds_reach_the_store(bench: Bench) -> None:
    kv = bench.kv
    for key in ("c", "a", "b", "a"):
        await kv.put(key, key)

    def keys(found: RangeResult) -> list[bytes]:
        return [item.key for item in found.items]

    by, up = SortTarget.CREATE, SortOrder.ASCEND
    assert keys(await kv.range(order=SortOrder.DESCEND)) == [b"c", b"b", b"a"]
    assert keys(await kv.range(sort_by=by, order=up)) == [b"c", b"a", b"b"]
    assert keys(await kv.range(sort_by=by, order=up, limit=1)) == [b"c"]
    assert keys(await kv.range(min_mod_revision=4)) == [b"a", b"b"]
    assert keys(await kv.range(max_mod_revision=4)) == [b"b", b"c"]
    assert keys(await kv.range(min_create_revision=3)) == [b"a", b"b"]
    assert keys(await kv.range(max_create_revision=3)) == [b"a", b"c"]


async def test_a_transaction_answers_for_the_branch_it_took(bench: Bench) -> None:
    done = await bench.kv.txn(
        when=[when.exists("k")],
        then=[op.put("k", "1")],
        otherwise=[op.get("k"), op.txn(then=[op.put("k", "2"), op.get("k")]), op.get("k")],
    )
    assert not done.succeeded
    found = KeyValue(b"k", b"2", 2, 2, 1)
    assert done.results == (None, TxnResult(2, True, (PutResult(2), found)), found)


async def test_reads_ask_a_majority_or_the_leaders_clock_or_nobody(bench: Bench) -> None:
    await bench.kv.get("k")
    await bench.kv.get("k", lease=True, timeout=2)
    await bench.kv.range(lease=True)
    await bench.kv.count(timeout=3.5)
    assert bench.node.asked == [
        ("read", False, 5.0),
        ("read", True, 2),
        ("read", True, 5.0),
        ("read", False, 3.5),
    ]
    bench.node.asked.clear()
    await bench.kv.get("k", serializable=True)
    await bench.kv.range(serializable=True)
    await bench.kv.count(serializable=True)
    assert bench.node.asked == ["check", "check", "check"]


async def test_a_read_shows_what_arrived_while_it_waited(bench: Bench) -> None:
    async def arrive() -> None:
        bench.rig.apply([Put(b"k", b"v")])

    bench.node.on_read = arrive
    found = await bench.kv.get("k")
    assert found is not None
    assert (await bench.kv.range()).revision == 3


async def test_a_read_without_leader_raises_and_a_serializable_one_does_not(bench: Bench) -> None:
    async def no_leader() -> None:
        raise NoLeaderError("no leader")

    bench.node.on_read = no_leader
    with pytest.raises(NoLeaderError):
        await bench.kv.get("k")
    assert await bench.kv.get("k", serializable=True) is None


async def test_a_loop_of_local_reads_lets_others_run(bench: Bench) -> None:
    ran: list[int] = []

    async def other() -> None:
        ran.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(LOCAL_READS - 1):
            await bench.kv.get("k", serializable=True)
        assert ran == []
        for _ in range(2 * LOCAL_READS):  # trio may run us twice in a row, not oftener
            await bench.kv.get("k", serializable=True)
        assert ran == [1]


async def test_a_large_range_lets_writes_happen_and_does_not_show_them(bench: Bench) -> None:
    count = 3 * STEP_KEYS
    bench.rig.apply([Put(b"k%06d" % number, b"old") for number in range(count)])

    async def overwrite() -> None:
        await bench.kv.put(b"k%06d" % (count - 1), "new")
        await bench.kv.delete(b"k%06d" % (count - 2))

    seen: list[RangeResult] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(overwrite)
        seen.append(await bench.kv.range(serializable=True))
        assert bench.node.asked  # the writes began before the read ended
    (found,) = seen
    assert found.count == count
    assert {item.value for item in found.items} == {b"old"}
    assert found.revision == count + 1


@pytest.mark.parametrize("is_past", [False, True])
async def test_a_compaction_hits_a_large_range_at_a_past_revision_alone(
    bench: Bench, is_past: bool
) -> None:
    count = 12 * STEP_KEYS
    revision = count + 1 if is_past else 0
    bench.rig.apply([Put(b"k%06d" % number, b"old") for number in range(count)])

    async def compact() -> None:
        put = await bench.kv.put("k", "new")
        await bench.kv.compact(put.revision)

    seen: list[RangeResult | CompactedError] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(compact)
        try:
            seen.append(await bench.kv.range(serializable=True, revision=revision))
        except CompactedError as error:
            seen.append(error)
    (found,) = seen
    if revision:
        assert isinstance(found, CompactedError)
        assert found.revision == count + 2
    else:
        assert isinstance(found, RangeResult)
        assert (found.revision, found.count) == (count + 2, count + 1)
        assert found.items[0].value == b"new"


async def test_a_range_that_takes_longer_than_its_deadline_says_how_to_page(bench: Bench) -> None:
    bench.rig.apply([Put(b"k%06d" % number, b"") for number in range(STEP_KEYS + 1)])
    with pytest.raises(DeadlineError, match="in pages with limit="):
        await bench.kv.range(serializable=True, timeout=0)
    assert (await bench.kv.range(serializable=True, timeout=0, limit=9, counted=False)).more


async def test_a_future_revision_is_refused(bench: Bench) -> None:
    with pytest.raises(FutureRevisionError):
        await bench.kv.get("k", revision=2)
    with pytest.raises(FutureRevisionError):
        await bench.kv.range(revision=2)


async def test_the_longest_key_and_the_largest_request_are_taken(bench: Bench) -> None:
    longest = "k" * KEY_BYTES_MAX
    await bench.kv.put(longest, "")
    room = REQUEST_BYTES_MAX - len(b"k") - 19
    assert (await bench.kv.put("k", b"v" * room)).revision == 3
    with pytest.raises(RequestTooLargeError, match="request is too large: 1572865 bytes"):
        await bench.kv.put("k", b"v" * (room + 1))
    found = await bench.kv.get("k")
    assert found is not None
    assert len(found.value) == room


Call = Callable[[Any], Awaitable[object]]
_ARRAY = bytearray(b"k")

BAD: list[tuple[str, Call, str]] = [
    ("empty key", lambda kv: kv.put("", "v"), "key is not provided"),
    ("empty bytes", lambda kv: kv.put(b"", "v"), "key is not provided"),
    ("get empty", lambda kv: kv.get(""), "key is not provided"),
    ("delete empty", lambda kv: kv.delete(""), "key is not provided"),
    ("key None", lambda kv: kv.put(None, "v"), "key must be str or bytes, not NoneType"),
    ("key int", lambda kv: kv.get(5), "key must be str or bytes, not int"),
    ("key bytearray", lambda kv: kv.put(_ARRAY, "v"), "not bytearray"),
    ("value None", lambda kv: kv.put("k", None), "value must be str or bytes"),
    ("value memoryview", lambda kv: kv.put("k", memoryview(b"v")), "not memoryview"),
    ("surrogate", lambda kv: kv.put("\ud800", "v"), "key cannot be encoded as UTF-8"),
    (
        "long key",
        lambda kv: kv.put("k" * 65537, "v"),
        "key is too large: 65537 bytes, at most 65536",
    ),
    ("long start", lambda kv: kv.range("k" * 65537), "start is too large"),
    ("long get", lambda kv: kv.get("k" * 65537), "key is too large"),
    ("previous int", lambda kv: kv.put("k", "v", previous=1), "previous must be True or False"),
    ("limit negative", lambda kv: kv.range(limit=-1), "limit must not be negative, but is -1"),
    ("limit bool", lambda kv: kv.range(limit=True), "limit must be an int, not bool"),
    ("limit float", lambda kv: kv.range(limit=1.0), "limit must be an int, not float"),
    ("revision negative", lambda kv: kv.get("k", revision=-1), "revision must not be negative"),
    ("revision bool", lambda kv: kv.get("k", revision=False), "revision must be an int"),
    ("revision str", lambda kv: kv.range(revision="1"), "revision must be an int, not str"),
    ("prefix and start", lambda kv: kv.range("a", prefix="b"), "leave out start and stop"),
    ("prefix and stop", lambda kv: kv.count(None, "b", prefix="b"), "leave out start and stop"),
    ("prefix int", lambda kv: kv.range(prefix=1), "prefix must be str or bytes"),
    ("nothing to delete", lambda kv: kv.delete(), "give delete a key"),
    ("key and prefix", lambda kv: kv.delete("k", prefix="k"), "not several of them"),
    ("key and stop", lambda kv: kv.delete("k", stop="l"), "not several of them"),
    ("delete both", lambda kv: kv.delete(start="k", prefix="l"), "leave out start and stop"),
    ("keys_only", lambda kv: kv.range(keys_only=None), "keys_only must be True or False"),
    ("both reads", lambda kv: kv.get("k", serializable=True, lease=True), "exclude each other"),
    ("serializable", lambda kv: kv.get("k", serializable="yes"), "serializable must be True"),
    ("lease int", lambda kv: kv.get("k", lease=1), "lease must be True or False"),
    ("timeout negative", lambda kv: kv.put("k", "v", timeout=-0.1), "0 or more, not -0.1"),
    ("timeout nan", lambda kv: kv.get("k", timeout=float("nan")), "0 or more, not nan"),
    ("timeout None", lambda kv: kv.get("k", timeout=None), "timeout must be a number of seconds"),
    ("timeout bool", lambda kv: kv.delete("k", timeout=True), "timeout must be a number"),
    (
        "timeout str",
        lambda kv: kv.range(timeout="5", serializable=True),
        "timeout must be a number",
    ),
]


@pytest.mark.parametrize(
    ("call", "sentence"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD]
)
async def test_bad_input_is_refused_in_a_sentence_and_never_proposed(
    bench: Bench, call: Call, sentence: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence) as caught:
        await call(bench.kv)
    assert not caught.value.may_have_happened
    assert bench.node.asked == []
    assert bench.rig.rows() == {}


async def test_what_every_member_refused_is_raised_here(bench: Bench) -> None:
    bench.node.answer = Refused("requested lease not found: 7; grant it first")
    with pytest.raises(InvalidArgumentError, match="lease not found"):
        await bench.kv.put("k", "v")
    with pytest.raises(InvalidArgumentError, match="lease not found"):
        await bench.kv.delete("k")


async def test_an_answer_to_another_command_is_a_broken_invariant(bench: Bench) -> None:
    bench.node.answer = PutResult(9)
    with pytest.raises(InvariantError, match="answered with a PutResult"):
        await bench.kv.delete("k")
    bench.node.answer = DeleteResult(9, 0)
    with pytest.raises(InvariantError, match="answered with a DeleteResult"):
        await bench.kv.put("k", "v")


async def test_a_read_before_the_node_opened_says_so() -> None:
    kv = Kv(AloneReplica(memory_rig()), KvMachine())
    with pytest.raises(UsageError, match="open the node"):
        await kv.get("k")


class Name(str):
    """A str of the application's own kind."""


async def test_subclasses_of_str_and_bytes_are_taken_as_their_plain_value(bench: Bench) -> None:
    await bench.kv.put(Name("k"), Name("v"))
    assert bench.proposed() == [Put(b"k", b"v")]
