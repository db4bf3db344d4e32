"""Nothing that clients and keepers ever sent does harm, whenever, in what order and how often.

Real clients write, each time under another key, over a network that loses, delays and doubles what
it is given and keeps all of it for later, while leases end: openings, writes, ends of leases come
late, behind what they were sent before, and again. What a caller heard of its write must be so, to
the last message.
"""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import DeadlineError, Error, OutcomeUnknownError, UnavailableError
from raftkv.kv import sessions
from raftkv.kv.client.sessions import Session
from raftkv.kv.commands import decode, encode
from raftkv.kv.leases import read_leases, read_table
from raftkv.kv.model import EVERYTHING, KvResult, PutResult
from raftkv.kv.requests import Expire, Grant, OpenSession, Put, TakeOver
from raftkv.kv.settings import KvSettings
from raftkv.kv.sizes import measure
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from tests.kv.rig import Rig, memory_rig

EVENTS = st.sampled_from(
    [
        [],
        [],
        ["again", "again"],
        ["end"],
        ["end"],
        ["end", "openings"],
        ["end", "openings", "again", "again", "again"],
        ["restart", "again"],
        ["image"],
    ]
)
FATES = st.sampled_from(["answered", "answered", "answered", "unheard", "unheard", "late"])


class Still:
    """A clock that goes on only while somebody waits for an answer in vain."""

    def __init__(self) -> None:
        self.now = 0
        self.boottime_ns = self.wall_ns = self.monotonic_ns

    def monotonic_ns(self) -> int:
        return self.now

    async def sleep_until(self, monotonic_ns: int) -> None:
        await checkpoint()
        self.now = max(self.now, monotonic_ns)


class Network:
    """One store, and everything that was ever sent to it."""

    def __init__(self, rig: Rig, data: st.DataObject) -> None:
        self.rig = rig
        self.sent = [encode(Grant(lease, 60)) for lease in (1, 2)]
        self._data = data
        self.clock = Still()
        self.settings = Settings()
        self.runtime: Runtime = evolve(system_runtime(), clock=self.clock)

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        await checkpoint()
        for event in self._data.draw(EVENTS):
            self.happen(event)
        if self._data.draw(st.sampled_from([False] * 9 + [True])):
            self.clock.now += round(timeout * 1e9)
            raise DeadlineError("not sent")
        fate = self._data.draw(FATES)
        self.sent.append(command)
        if fate == "answered":
            return self.arrive(command)
        if fate == "unheard":
            self.arrive(command)
        self.clock.now += round(timeout * 1e9)
        raise OutcomeUnknownError("not heard", (1, 1, 1))

    def check(self) -> None:
        pass

    def arrive(self, command: bytes) -> KvResult:
        (result,) = self.rig.apply_bytes([command])
        return result

    def happen(self, event: str) -> None:
        rig = self.rig
        if event == "again":
            self.arrive(self._data.draw(st.sampled_from(self.sent)))
        elif event == "end":
            leases = tuple(one.id for one in read_leases(rig.store, 0, 9))
            self.sent.append(encode(Expire(1, leases, read_table(rig.store).grants)))
            self.arrive(self.sent[-1])
        elif event == "openings":
            for command in self.sent:
                if isinstance(decode(command), OpenSession | Grant):
                    self.arrive(command)
        elif event == "restart":
            rig.restart()
        else:
            rig.install(rig.image())


@given(st.data(), st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_each_write_is_done_at_most_once_and_what_is_told_of_it_is_so(
    data: st.DataObject, rounds: list[int]
) -> None:
    rig = memory_rig()
    rig.apply([TakeOver(1)])
    network = Network(rig, data)
    clients = [Session(network, KvSettings(sessions=True)) for _ in range(2)]
    told: dict[bytes, KvResult | Error] = {}

    async def write(key: bytes) -> None:
        timeout = data.draw(st.sampled_from([1.0, 5.0, 60.0]))
        client = data.draw(st.sampled_from(clients))
        try:
            told[key] = await client.propose(encode(Put(key, b"")), timeout)
        except Error as error:
            told[key] = error

    async def main() -> None:
        for number, together in enumerate(rounds):
            async with anyio.create_task_group() as tasks:
                for one in range(together):
                    tasks.start_soon(write, b"%d/%d" % (number, one))

    with pytest.MonkeyPatch.context() as patch:
        # Few writes, and still what is answered goes.
        patch.setattr(sessions, "_CHUNK_BITS", 1)
        patch.setattr(sessions, "_CHUNK", 2)
        patch.setattr(sessions, "_MASK", 1)
        anyio.run(main)
        for command in [*reversed(network.sent), *network.sent]:
            network.arrive(command)
    found = {one.key: one for one in rig.range(EVERYTHING).items}
    assert {one.version for one in found.values()} <= {1}
    for key, heard in told.items():
        if isinstance(heard, PutResult):
            assert found[key].mod_revision == heard.revision
        elif isinstance(heard, UnavailableError):
            assert key not in found
        else:
            assert isinstance(heard, OutcomeUnknownError)
    assert rig.machine.head.size == measure(rig.store)
