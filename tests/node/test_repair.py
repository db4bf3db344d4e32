"""Lost entries come back from whoever has exactly them, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import anyio
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import (
    Config,
    Entry,
    EntryKind,
    HardState,
    Input,
    Membership,
    Promise,
    Recovering,
    Repaired,
    Snapshot,
    State,
    start,
    step,
)
from raftkv.core.log import chain_of
from raftkv.encoding import encode_entry
from raftkv.node.repair import Repair, promise_of
from raftkv.transport.base import Lane

MEMBERS = Membership((1, 2, 3))


def entries(count: int, name: bytes = b"entry") -> tuple[Entry, ...]:
    """A log's entries from index 2 on, behind a first snapshot at 1."""
    made: list[Entry] = []
    chain = 0
    for index in range(2, count + 2):
        data = b"%s %d" % (name, index)
        chain = chain_of(chain, 1, index, EntryKind.NORMAL, data)
        made.append(Entry(1, index, EntryKind.NORMAL, data, chain))
    return tuple(made)


def state(
    member: int, log: tuple[Entry, ...], promised: Promise | None = None, base: int = 0
) -> State:
    """A member with that log, of which ``base`` entries are compacted."""
    before = log[base - 1] if base else Entry(1, 1, EntryKind.NORMAL, b"", 0)
    return start(
        Config(id=member, seed=member),
        hard_state=HardState(1, 0, before.index),
        snapshot=Snapshot(before.index, 1, before.chain, MEMBERS),
        entries=log[base:],
        recovering=None if promised is None else Recovering.LOG,
        promised=promised,
    )


class Wire:
    """Carries the frames of two repairs, one at a time, when it is told to."""

    frame_bytes_max = 2**20

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.is_up = True

    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        assert lane is Lane.BULK
        if self.is_up:
            self.sent.append((peer, frame))
        return self.is_up

    async def drained(self, peer: int, lane: Lane) -> bool:
        return self.is_up


class Now:
    """Runs a task at once, to its end."""

    def spawn(self, name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
        with pytest.raises(StopIteration):
            body().send(None)


class Pair:
    """Member 1, that lost something, and others that it asks."""

    def __init__(self, mine: tuple[Entry, ...], promise: Promise, frame_bytes: int = 2**20) -> None:
        self.state = state(1, mine, promise)
        self.wire = Wire()
        self.asker = Repair(self.wire, Now(), frame_bytes)  # pyright: ignore[reportArgumentType] - the two methods that it uses
        self.given: list[Input] = []
        self.alarms: list[str] = []
        self.asker.give = self.given.append
        self.asker.on_alarm = self.alarms.append
        self.promise = promise
        self.frame_bytes = frame_bytes

    def ask(self, peers: dict[int, State]) -> None:
        """One question, and whatever comes back."""
        self.asker.ask(self.state, self.promise, sorted(peers))
        for peer, question in self.take():
            giver = Repair(self.wire, Now(), self.frame_bytes)  # pyright: ignore[reportArgumentType] - as above
            giver.on_frame(1, question, peers[peer])
            for _, answer in self.take():
                self.asker.on_frame(peer, answer, self.state)

    def take(self) -> list[tuple[int, bytes]]:
        sent, self.wire.sent = self.wire.sent, []
        return sent


def promise_at(log: tuple[Entry, ...]) -> Promise:
    return Promise(log[-1].index, log[-1].chain)


@given(
    st.integers(1, 30),
    st.integers(0, 29),
    st.integers(0, 29),
    st.integers(0, 5),
    st.integers(9, 200),
)
def test_what_comes_back_is_the_old_log_in_frames_of_any_size(
    count: int, kept: int, base: int, more: int, frame_bytes: int
) -> None:
    log = entries(count + more)
    old, kept = log[:count], min(kept, count - 1)
    pair = Pair(old[:kept], promise_at(old), frame_bytes)
    giver = state(2, log, base=min(base, kept))
    pair.ask({2: giver})
    (repaired,) = pair.given
    assert isinstance(repaired, Repaired)
    assert repaired.entries == old[kept:]
    healed = step(pair.state, repaired)
    assert healed.recovery is None
    assert healed.log.last_chain == old[-1].chain
    assert pair.alarms == []


def test_a_member_that_recovers_itself_gives_what_it_has() -> None:
    log = entries(9)
    pair = Pair(log[:3], promise_at(log[:6]))
    pair.ask({2: state(2, log[:7], promise_at(log))})
    assert pair.given == [Repaired(log[3:6])]


@pytest.mark.parametrize(
    ("giver", "why"),
    [
        (entries(5), "it is too short"),
        (entries(9, b"other"), "it is another log"),
        (entries(4) + entries(9, b"other")[4:], "it broke off and went on otherwise"),
    ],
)
def test_who_has_not_exactly_what_was_promised_gives_nothing(
    giver: tuple[Entry, ...], why: str
) -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    other = state(2, entries(9))
    lacking = _with_log(giver)
    pair.ask({2: lacking})
    assert pair.given == [], why
    pair.ask({2: lacking, 3: other})
    assert pair.given == [Repaired(log[5:])]


def _with_log(log: tuple[Entry, ...]) -> State:
    chain, made = 0, list[Entry]()
    for entry in log:
        chain = chain_of(chain, entry.term, entry.index, entry.kind, entry.data)
        made.append(evolve(entry, chain=chain))
    return state(2, tuple(made))


def test_a_log_that_is_compacted_too_far_cannot_help() -> None:
    log = entries(8)
    pair = Pair(log[:3], promise_at(log))
    pair.ask({2: state(2, log, base=5)})
    assert pair.given == []


def test_where_no_voter_has_it_an_alarm_names_the_first_index_once() -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    lacking = {2: state(2, log[:6]), 3: state(3, log[:4])}
    for _ in range(9):
        pair.ask(lacking)
    (alarm,) = pair.alarms
    assert alarm.startswith("entry 7 is lost here")
    assert "up to entry 9" in alarm
    # One of them is replaced by who has it: that is noticed.
    for _ in range(3):
        pair.ask({**lacking, 3: state(3, log)})
    assert pair.given[0] == Repaired(log[5:])


def test_an_absent_voter_or_a_leader_is_reason_enough_not_to_give_up() -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    for _ in range(9):
        pair.ask({2: state(2, log[:6])})
    assert pair.alarms == []
    led = Pair(log[:5], promise_at(log))
    led.state = evolve(led.state, leader=2)
    for _ in range(9):
        led.ask({2: state(2, log[:6]), 3: state(3, log[:6])})
    assert led.alarms == []


def test_an_answer_that_was_broken_off_does_not_say_that_nobody_has_it() -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    for turn in range(9):
        pair.asker.ask(pair.state, pair.promise, [2, 3])
        ((peer, _),) = pair.take()
        broken = _head(23, pair.promise) + encode_entry(evolve(log[5], chain=turn))
        pair.asker.on_frame(peer, broken, pair.state)
    assert pair.given == []
    assert pair.alarms == []


def test_a_connection_that_breaks_costs_a_question_and_nothing_more() -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    pair.wire.is_up = False
    pair.ask({2: state(2, log)})
    assert pair.given == []
    pair.wire.is_up = True
    pair.ask({2: state(2, log)})
    assert pair.given == [Repaired(log[5:])]


def test_a_member_whose_log_grew_beyond_the_promise_asks_no_copy() -> None:
    log = entries(8)
    pair = Pair(entries(8, b"new"), promise_at(log))
    pair.asker.ask(pair.state, pair.promise, [2])
    assert pair.take() == []
    assert promise_of(pair.state) == pair.promise
    assert promise_of(state(1, log)) is None
    assert promise_of(step(pair.state, Repaired(()))) == pair.promise


def _head(kind: int, promise: Promise) -> bytes:
    return (
        bytes((kind,)) + promise.index.to_bytes(8, "little") + promise.chain.to_bytes(8, "little")
    )


@pytest.mark.parametrize("damage", ["gap", "chain", "bytes", "end", "kind", "short"])
def test_a_copy_that_does_not_fit_link_by_link_is_broken_off(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = entries(8)
    promise = promise_at(log)
    pair = Pair(log[:5], promise)
    pair.asker.ask(pair.state, promise, [2])
    pair.take()
    good = [encode_entry(entry) for entry in log[5:]]
    frames = {
        "gap": [_head(23, promise) + good[0] + good[2]],
        "chain": [_head(23, promise) + good[0] + encode_entry(evolve(log[6], chain=1)) + good[2]],
        "bytes": [_head(23, promise) + good[0][:-1] + b"?"],
        "end": [_head(23, promise) + b"".join(_otherwise(log[4], log[5:]))],
        "kind": [_head(29, promise)],
        "short": [_head(23, promise)[:5]],
    }[damage]
    for frame in frames:
        pair.asker.on_frame(2, frame, pair.state)
    assert pair.given == []
    assert "a repair with member 2 is broken off" in caplog.text
    # The same from who was not asked, or for something else, is not looked at.
    pair.asker.ask(pair.state, promise, [3])
    pair.take()
    pair.asker.on_frame(2, _head(23, promise) + b"".join(good), pair.state)
    pair.asker.on_frame(3, _head(23, Promise(4, 4)) + b"".join(good), pair.state)
    assert pair.given == []
    pair.asker.on_frame(3, _head(23, promise) + b"".join(good[:2]), pair.state)
    pair.asker.on_frame(3, _head(23, promise) + good[2], pair.state)
    assert pair.given == [Repaired(log[5:])]


def _otherwise(before: Entry, old: tuple[Entry, ...]) -> list[bytes]:
    """As many entries that form a chain of their own."""
    chain, made = before.chain, list[bytes]()
    for entry in old:
        chain = chain_of(chain, 2, entry.index, entry.kind, b"otherwise")
        made.append(encode_entry(Entry(2, entry.index, entry.kind, b"otherwise", chain)))
    return made


async def test_one_answer_at_a_time_is_given_to_a_peer() -> None:
    log = entries(8)
    pair = Pair(log[:5], promise_at(log))
    giver_wire = Wire()
    gate = anyio.Event()

    class Slow(Wire):
        async def drained(self, peer: int, lane: Lane) -> bool:
            await gate.wait()
            return True

    giver_wire = Slow()
    async with anyio.create_task_group() as tasks:

        class Tasks:
            def spawn(self, name: str, body: Callable[[], Coroutine[object, object, None]]) -> None:
                tasks.start_soon(body, name=name)

        giver = Repair(giver_wire, Tasks(), 2**20)  # pyright: ignore[reportArgumentType] - as above
        pair.asker.ask(pair.state, pair.promise, [2])
        ((_, question),) = pair.take()
        for _ in range(3):
            giver.on_frame(1, question, state(2, log))
        gate.set()
    assert len(giver_wire.sent) == 1


def test_an_answer_that_takes_long_is_waited_for_as_long_as_entries_come() -> None:
    log = entries(9)
    promise = promise_at(log)
    pair = Pair(log[:3], promise)
    pair.asker.ask(pair.state, promise, [2, 3])
    assert [peer for peer, _ in pair.take()] == [2]
    for entry in log[3:]:
        pair.asker.on_frame(2, _head(23, promise) + encode_entry(entry), pair.state)
        pair.asker.ask(pair.state, promise, [2, 3])
        if entry is not log[-1]:
            assert pair.take() == []
    assert pair.given == [Repaired(log[3:])]
    assert pair.alarms == []


def test_an_answer_that_breaks_off_is_gone_on_with_by_whoever_is_asked_next() -> None:
    log = entries(9)
    promise = promise_at(log)
    pair = Pair(log[:3], promise)
    good = [encode_entry(entry) for entry in log]
    pair.asker.ask(pair.state, promise, [2])
    pair.take()
    pair.asker.on_frame(2, _head(23, promise) + good[3] + good[4], pair.state)
    pair.asker.on_frame(2, _head(23, promise) + good[6], pair.state)  # the one before it was lost
    for _ in range(2):
        pair.asker.ask(pair.state, promise, [2, 3])
    ((peer, question),) = pair.take()
    assert peer == 3
    pair.asker.on_frame(2, _head(23, promise) + good[7], pair.state)
    giver = Repair(pair.wire, Now(), 2**20)  # pyright: ignore[reportArgumentType] - as above
    giver.on_frame(1, question, state(3, log, base=4))
    ((_, answer),) = pair.take()
    pair.asker.on_frame(3, answer, pair.state)
    assert pair.given == [Repaired(log[3:])]
    assert pair.alarms == []


def test_what_came_so_far_is_let_go_of_when_it_is_not_needed_any_more() -> None:
    log = entries(9)
    promise = promise_at(log)
    pair = Pair(log[:3], promise)
    pair.asker.ask(pair.state, promise, [2])
    pair.asker.on_frame(2, _head(23, promise) + encode_entry(log[3]), pair.state)
    # A leader gave the next one, so what follows the old end does not follow the log any more.
    pair.state = state(1, log[:4], promise)
    pair.take()
    pair.ask({2: state(2, log)})
    assert pair.given == [Repaired(log[4:])]
    pair.asker.ask(pair.state, promise, [2])
    pair.asker.forget()
    pair.asker.on_frame(2, _head(23, promise) + encode_entry(log[4]), pair.state)
    pair.ask({2: state(2, log)})
    assert pair.given == [Repaired(log[4:])] * 2
