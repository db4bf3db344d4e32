"""``python -m tests.golden.make``: record the formats of this version, once per format version.

Never to be run over files that a release has shipped: a new format version gets files of its own
beside the old ones, which every later version must still open.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from raftkv.transport.codec import encode_messages
from tests.golden.recorded import (
    COMMANDS,
    ENCODED,
    FRAMES,
    KEYS,
    MESSAGES,
    STORAGE,
    Counter,
    counter_node,
    described,
    kv_node,
    open_storage,
)


async def _kv(directory: Path) -> None:
    async with kv_node(directory) as node:
        for key, value in KEYS.items():
            await node.kv.put(key, b"replaced")
            await node.kv.put(key, value)
        await node.kv.put("gone", b"")
        await node.kv.delete("gone")


async def _grown(directory: Path) -> None:
    """A member was added and removed again: its id is remembered."""
    async with kv_node(directory) as node:
        await node.kv.put("short", b"value")
        added = await node.members.add("n2", "127.0.0.1:7401", promote=False)
        await node.members.remove(added.id)


async def _counter(directory: Path) -> None:
    """Opened twice: the second time from its image."""
    for command in COMMANDS[:-1], COMMANDS[-1:]:
        async with counter_node(directory, Counter()) as node:
            for one in command:
                await node.propose(one)


async def _unclosed(directory: Path) -> None:
    """As the end of the process leaves it: everything is in the write-ahead log."""
    with TemporaryDirectory() as elsewhere:
        living = Path(elsewhere) / "living"
        async with kv_node(living) as node:
            for key, value in KEYS.items():
                await node.kv.put(key, value)
            shutil.copytree(living, directory)


async def _directory(name: str, fill: Callable[[Path], Awaitable[None]]) -> None:
    place = STORAGE / name
    await fill(place)
    for diary in place.rglob("LOG*"):
        diary.unlink()  # RocksDB's own, with times and paths
    with TemporaryDirectory() as elsewhere:
        # A copy: opening it changes it.
        storage = open_storage(Path(shutil.copytree(place, Path(elsewhere) / name)))
        try:
            content = described(storage.log.recover())
        finally:
            storage.close()
    (STORAGE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


async def main() -> None:
    """Write everything anew."""
    lines = [f"{name} {encode_messages((message,)).hex()}" for name, message in MESSAGES.items()]
    lines += [f"{name} {frame.hex()}" for name, frame in ENCODED.items()]
    FRAMES.write_text("\n".join(lines) + "\n")
    shutil.rmtree(STORAGE, ignore_errors=True)
    await _directory("kv", _kv)
    await _directory("unclosed", _unclosed)
    await _directory("grown", _grown)
    await _directory("counter", _counter)


if __name__ == "__main__":
    anyio.run(main)
