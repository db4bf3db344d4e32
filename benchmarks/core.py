"""What one step of the pure core costs.

Each row is the best of several rounds of a tight loop: the least disturbed one. The calibration
row is a fixed loop of plain Python that tells how fast, and how busy, the machine is.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from time import perf_counter

from benchmarks.report import Report, Row
from raftkv.core import (
    Applied,
    Campaign,
    Config,
    Entry,
    EntryKind,
    Guard,
    Log,
    Payload,
    PeerMessage,
    Persisted,
    Propose,
    Receive,
    State,
    Tick,
    has_ready,
    ready,
    safest,
    start,
    step,
)

PAYLOAD = Payload(EntryKind.NORMAL, b"x" * 256)
ONE = Propose((PAYLOAD,), 1)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=9, help="rounds per row; the best counts")


def measure(options: Namespace) -> Report:
    """Measure all."""
    rounds: int = options.rounds
    rows: list[Row] = []
    for operation, call, repeat in _cases():
        best = _best_seconds(call, repeat, rounds)
        rows.append({"system": "core", "operation": operation, "us": best * 1e6})
    rows += _window_rows(rounds)
    notes = {"payload_bytes": 256, "members": 3, "settings": "safest"}
    return Report("core", rows, notes)


def _best_seconds(call: Callable[[], object], repeat: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = perf_counter()
        for _ in range(repeat):
            call()
        best = min(best, (perf_counter() - begin) / repeat)
    return best


def settle(members: dict[int, State]) -> None:
    """Let members work and talk until nothing is left to do; every write is durable at once."""
    while True:
        flying: list[PeerMessage] = []
        for node, state in members.items():
            while has_ready(state):
                state, todo = ready(state)
                flying += todo.messages
                flying += todo.messages_after_persist
                state = step(state, Persisted(todo.number))
                if todo.committed:
                    state = step(state, Applied(todo.committed[-1].index))
            members[node] = state
        if not flying:
            return
        for message in flying:
            members[message.to] = step(members[message.to], Receive(message))


def _calibration() -> int:
    total = 0
    for number in range(100):
        total += number & 7
    return total


def _cases() -> list[tuple[str, Callable[[], object], int]]:
    members = {n: start(safest(Config(id=n)), voters=(1, 2, 3)) for n in (1, 2, 3)}
    members[1] = step(members[1], Campaign())
    settle(members)
    for _ in range(200):
        members[1] = step(members[1], ONE)
        settle(members)
    leader, follower = members[1], members[2]

    proposed = step(leader, ONE)
    sent, todo = ready(proposed)
    append = Receive(next(one for one in todo.messages if one.to == 2))
    _, many = ready(step(leader, Propose((PAYLOAD,) * 64)))
    append_64 = Receive(next(one for one in many.messages if one.to == 2))
    _, answer = ready(step(follower, append))
    ack = Receive(answer.messages_after_persist[0])
    stored = step(sent, Persisted(todo.number))

    def whole_round() -> None:
        three = {1: step(leader, ONE), 2: follower, 3: members[3]}
        settle(three)

    return [
        ("calibration: 100 turns of a plain loop", _calibration, 3000),
        ("follower append, 1 entry", lambda: step(follower, append), 3000),
        ("follower append, 64 entries", lambda: step(follower, append_64), 300),
        ("acknowledgement, no commit", lambda: step(sent, ack), 3000),
        ("acknowledgement that commits", lambda: step(stored, ack), 3000),
        ("tick, follower", lambda: step(follower, Tick()), 3000),
        ("tick, leader (with heartbeats)", lambda: step(leader, Tick()), 3000),
        ("propose, 1 entry", lambda: step(leader, ONE), 3000),
        ("ready, leader after a proposal", lambda: ready(proposed), 3000),
        ("guard, made and shown that ready", lambda: Guard(leader).check(sent, todo), 3000),
        ("full round of three members", whole_round, 200),
    ]


def _window_rows(rounds: int) -> list[Row]:
    """ns per entry appended one by one to windows of several lengths: should not grow with them."""
    rows: list[Row] = []
    for length in (10, 1_000, 100_000):
        log, _ = Log.starting_at(0, 0).propose(1, (PAYLOAD,) * length)
        _, entries = log.propose(1, (PAYLOAD,) * 64)

        def append_64(log: Log = log, entries: tuple[Entry, ...] = entries) -> None:
            for entry in entries:
                log = log.append((entry,))

        best = _best_seconds(append_64, 50, rounds) / 64
        rows.append(
            {
                "system": "core",
                "operation": f"append to a window of {length:,}",
                "us": best * 1e6,
                "ns_per_entry": best * 1e9,
            }
        )
    return rows
