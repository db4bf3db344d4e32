"""What an earlier version wrote or sent is read for ever: recorded bytes, read by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from raftkv.core.messages import PeerMessage
from raftkv.transport.codec import decode_messages, encode_messages
from tests.golden.recorded import (
    ENCODED,
    FRAMES,
    KEYS,
    MESSAGES,
    RESULT,
    STORAGE,
    Counter,
    counter_node,
    described,
    kv_node,
    open_storage,
)

RECORDED = dict(line.split() for line in FRAMES.read_text().splitlines())
DIRECTORIES = ("kv", "unclosed", "grown", "counter")


def copied(name: str, to: Path) -> Path:
    """A copy of a golden directory: opening one changes it."""
    return Path(shutil.copytree(STORAGE / name, to / name))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_recorded_message_is_read_and_written_as_it_was(name: str) -> None:
    frame = bytes.fromhex(RECORDED[name])
    assert decode_messages(frame) == (MESSAGES[name],)
    assert encode_messages((MESSAGES[name],)) == frame


def test_every_kind_of_message_is_recorded() -> None:
    assert {type(message) for message in MESSAGES.values()} == set(get_args(PeerMessage))


@pytest.mark.parametrize("name", ENCODED)
def test_what_else_is_sent_or_stored_is_written_as_it_was(name: str) -> None:
    assert ENCODED[name].hex() == RECORDED[name]


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_recorded_directory_gives_back_what_was_in_it(name: str, tmp_path: Path) -> None:
    storage = open_storage(copied(name, tmp_path))
    try:
        assert described(storage.log.recover()) == json.loads(
            (STORAGE / f"{name}.json").read_text()
        )
    finally:
        storage.close()


async def test_a_recorded_store_holds_its_keys_and_goes_on(tmp_path: Path) -> None:
    async with kv_node(copied("kv", tmp_path)) as node:
        for key, value in KEYS.items():
            found = await node.kv.get(key)
            assert found is not None
            assert (found.value, found.version) == (value, 2)
        assert await node.kv.get("gone") is None
        done = await node.kv.put("short", b"again")
        assert done.revision == 1 + 2 * len(KEYS) + 2 + 1


async def test_a_recorded_crash_left_everything_that_was_acknowledged(tmp_path: Path) -> None:
    async with kv_node(copied("unclosed", tmp_path)) as node:
        for key, value in KEYS.items():
            found = await node.kv.get(key)
            assert found is not None
            assert found.value == value


async def test_a_recorded_cluster_knows_whom_it_removed(tmp_path: Path) -> None:
    async with kv_node(copied("grown", tmp_path)) as node:
        membership = node.status().membership
        assert len(membership.members()) == 1
        assert len(membership.removed or ()) == 1


async def test_a_recorded_image_is_restored_and_the_log_after_it_applied(tmp_path: Path) -> None:
    machine = Counter()
    async with counter_node(copied("counter", tmp_path), machine) as node:
        assert machine.value == RESULT
        assert await node.propose(b"+2") == RESULT + 2
