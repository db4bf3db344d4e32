"""Readers of history who stop amid it: what they hold together is bounded, too."""

from __future__ import annotations

from attrs import evolve

from raftkv.kv.client.hub import Limits
from raftkv.kv.history import Wanted
from raftkv.kv.model import EVERYTHING
from raftkv.kv.requests import Put
from raftkv.kv.settings import KvSettings
from tests.kv.watchers import Collector, Member

VALUE_BYTES = 1_000
CHANGE_BYTES = 2_000  # one of these, generously


def test_readers_of_the_past_who_stop_hold_no_more_than_there_is_room() -> None:
    limits = evolve(Limits(), buffers_bytes=20_000, step_events=10)
    member = Member(KvSettings(), limits)
    member.do(*[Put(b"k", bytes(VALUE_BYTES)) for _ in range(10)])
    readers = [Collector(member, Wanted(EVERYTHING), 2) for _ in range(20)]
    for reader in readers:
        while not reader.watcher.queued:
            reader.watcher.step()
    assert member.hub.buffered_bytes > limits.buffers_bytes
    together = limits.buffers_bytes + 10 * CHANGE_BYTES + len(readers) * CHANGE_BYTES
    assert member.hub.buffered_bytes < together
    for reader in readers:
        reader.drain().check()
    assert member.hub.buffered_bytes == 0
