"""Reading a store again in pieces: all of it is read, damage is found, equal rows hash alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import StorageCorruptError
from raftkv.storage.base import Space, Store, View
from raftkv.storage.memory import MemoryStore, open_memory
from raftkv.storage.rocks import Mode, RocksStore
from raftkv.storage.scrub import Piece, RowsHash, Scrub
from tests.storage.member_model import CLUSTER, MEMBER, Writer
from tests.storage.opening import one_turn, opened


def run(step: Callable[[int], Piece], bytes_max: int) -> list[Piece]:
    """Every piece to the end."""
    pieces = [step(bytes_max)]
    while not pieces[-1].done:
        pieces.append(step(bytes_max))
    return pieces


def filled(store: Store, rows: dict[bytes, bytes]) -> View:
    batch = store.batch()
    for key, value in rows.items():
        batch.put(Space.MACHINE, key, value)
    store.write(batch)
    return store.view(cached=False)


@given(
    st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=30), max_size=12),
    st.integers(1, 100),
)
def test_a_hash_is_one_over_all_rows_whatever_the_pieces(
    rows: dict[bytes, bytes], bytes_max: int
) -> None:
    wanted = blake2b(digest_size=32, person=b"raftkv rows")
    for key in sorted(rows):
        sizes = len(key).to_bytes(4, "little") + len(rows[key]).to_bytes(4, "little")
        wanted.update(sizes + key + rows[key])
    store = MemoryStore()
    hashed = RowsHash(filled(store, rows))
    pieces = run(hashed.step, bytes_max)
    assert hashed.digest() == wanted.digest()
    assert sum(piece.rows for piece in pieces) == len(rows)
    assert sum(piece.bytes for piece in pieces) == sum(map(len, (*rows, *rows.values())))
    longest = max((len(key) + len(value) for key, value in rows.items()), default=0)
    assert all(piece.bytes < bytes_max + longest for piece in pieces if piece.rows)


def test_a_hash_is_the_same_on_every_store_and_of_a_part_too(tmp_path: Path) -> None:
    random = Random(3)
    rows = {random.randbytes(9): random.randbytes(50) for _ in range(500)}
    rocks, memory = RocksStore(tmp_path / "store", Mode.CREATE), MemoryStore()
    views = [filled(rocks, rows), filled(memory, rows)]
    whole: set[bytes] = set()
    part: set[bytes] = set()
    for view in views:
        for start, stop, digests in ((b"", None, whole), (b"\x40", b"\x80", part)):
            hashed = RowsHash(view, Space.MACHINE, start, stop)
            run(hashed.step, 700)
            digests.add(hashed.digest())
        view.close()
    assert len(whole) == len(part) == 1
    assert whole != part
    rocks.close()


@pytest.fixture(params=["memory", "rocks"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writer]:
    """A member of 40 turns, compacted at 10."""
    storage = (
        open_memory(CLUSTER, MEMBER) if request.param == "memory" else opened(tmp_path / "data")
    )
    made = Writer(storage)
    for _ in range(40):
        one_turn(made)
    batch = storage.store.batch()
    made.commit(batch, 30)
    made.compact(batch, 10)
    made.write(batch)
    yield made
    storage.close()


def test_a_scrub_reads_every_row_once(writer: Writer) -> None:
    store = writer.storage.store
    view = store.view(cached=False)
    pieces = run(Scrub(view).step, 500)
    view.close()
    rows = [row for space in Space for row in store.scan(space)]
    assert sum(piece.rows for piece in pieces) == len(rows)
    assert sum(piece.bytes for piece in pieces) == sum(len(key) + len(value) for key, value in rows)
    assert len(pieces) == 5


def test_a_scrub_names_a_damaged_entry_and_does_not_go_on(writer: Writer) -> None:
    store = writer.storage.store
    key, value = list(store.scan(Space.LOG))[7]
    batch = store.batch()
    batch.put(Space.LOG, key, value[:-1] + bytes([value[-1] ^ 1]))
    store.write(batch)
    view = store.view()
    scrub = Scrub(view)
    with pytest.raises(StorageCorruptError, match="log entry 18 is damaged"):
        run(scrub.step, 100)
    with pytest.raises(StorageCorruptError, match="log entry 18 is damaged"):
        scrub.step()
    view.close()


def test_a_scrub_finds_an_entry_that_is_missing(writer: Writer) -> None:
    store = writer.storage.store
    batch = store.batch()
    batch.delete(Space.LOG, list(store.scan(Space.LOG))[7][0])
    store.write(batch)
    view = store.view()
    with pytest.raises(StorageCorruptError, match="entry 18 is missing"):
        run(Scrub(view).step, 100)
    view.close()


def test_a_scrub_finds_a_flipped_bit_that_nobody_has_asked_for(tmp_path: Path) -> None:
    """The store stays open meanwhile, and what was read before is in its cache."""
    store = RocksStore(tmp_path / "store", Mode.CREATE)
    random = Random(1)
    filled(store, {b"%05d" % number: random.randbytes(60) for number in range(3000)}).close()
    store.close()
    RocksStore(tmp_path / "store").close()  # rows are in a table now
    store = RocksStore(tmp_path / "store")
    (table,) = (tmp_path / "store").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 4
    table.write_bytes(content)
    view = store.view(cached=False)
    for read in (Scrub(view), RowsHash(view)):
        with pytest.raises(StorageCorruptError, match="damaged"):
            run(read.step, 10_000)
    view.close()
    assert store.corruption is None  # who reads a view hears of it; this is for the others
    for read in (
        lambda: [store.get(Space.MACHINE, b"%05d" % number) for number in range(3000)],
        lambda: list(store.scan(Space.MACHINE)),
    ):
        with pytest.raises(StorageCorruptError) as caught:
            read()
        assert store.corruption is not None
        assert type(store.corruption) is type(caught.value)
        store.corruption = None
    store.close()
