"""Everything that decodes bytes refuses bad ones with its own errors, and at a bounded cost."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.encoding import loads
from raftkv.errors import WireError
from raftkv.testing.fuzz.mutate import mutations
from raftkv.testing.fuzz.registry import TARGETS
from raftkv.testing.fuzz.trial import (
    EXTRA_BYTES_MAX,
    Crash,
    Target,
    attempt,
    cpu_seconds,
    extra_bytes,
)
from raftkv.testing.fuzz.worst import WORST

GOLDEN = Path(__file__).parents[1] / "golden" / "frames-1.txt"
GOLDEN_TARGETS = {
    "hello": "greetings",
    "question": "greetings",
    "welcome": "welcomes",
    "refusal": "welcomes",
    "answer": "answers",
    "frame": "frames",
    "entry-of-commands": "commands",
    "note-hash-here": "notes",
    "note-booted": "notes",
    "change": "changes",
    "kv-put": "kv commands",
    "kv-delete-one": "kv commands",
    "kv-delete-span": "kv commands",
    "kv-delete-from": "kv commands",
}
"""Where the recorded frames belong; all others are messages."""
REFUSED = {"refusal", "forward-proposal"}
"""Refused for what they say: a refusal is one, and the proposal carries no commands of ours."""
RECORDED = [line.split() for line in GOLDEN.read_text(encoding="ascii").splitlines()]
MUTATIONS = 300


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:  # pyright: ignore[reportUnusedFunction] - pytest uses it
    caplog.set_level("CRITICAL", "raftkv.node")


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_taken_and_mutated_ones_taken_or_refused(name: str) -> None:
    target = TARGETS[name]
    for data in target.valid():
        assert attempt(target, data) is True
    for data in target.more():
        assert attempt(target, data) is False
    outcomes = {attempt(target, data) for data in islice(mutations(target, 7), MUTATIONS)}
    assert not [one for one in outcomes if isinstance(one, Crash)]
    assert True in outcomes  # behind the checksums, too


@pytest.mark.parametrize(("name", "data"), RECORDED)
def test_recorded_frames_are_taken_and_their_mutations_taken_or_refused(
    name: str, data: str
) -> None:
    recorded = bytes.fromhex(data)
    kind = GOLDEN_TARGETS.get(name, "messages")
    target = TARGETS[kind]
    assert attempt(target, recorded) is (name not in REFUSED)
    for byte in range(len(recorded)):
        for changed in (0, 0xFF, recorded[byte] ^ 1, recorded[byte] ^ 0x80):
            bad = bytearray(recorded)
            bad[byte] = changed
            assert not isinstance(attempt(target, bytes(bad)), Crash)
        assert not isinstance(attempt(target, recorded[:byte]), Crash)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*TARGETS.values()]),
    st.binary(max_size=300),
    st.integers(0, 300),
    st.booleans(),
    st.data(),
)
def test_any_bytes_in_any_place_are_taken_or_refused(
    target: Target, piece: bytes, at: int, is_fixed: bool, data: st.DataObject
) -> None:
    valid = data.draw(st.sampled_from([b"", *target.valid()]))
    bad = (valid[:at] + piece + valid[at + len(piece) :])[: target.bytes_max]
    if is_fixed and target.fix is not None:
        bad = target.fix(bad)
    result = attempt(target, bad)
    assert not isinstance(result, Crash), result


def head(major: int, number: int) -> bytes:
    """The first bytes of an item of CBOR, as short as may be."""
    if number < 24:
        return bytes((major << 5 | number,))
    size = next(size for size in (1, 2, 4, 8) if number < 256**size)
    return bytes((major << 5 | 23 + size.bit_length(),)) + number.to_bytes(size, "big")


TAGS = (0, 2, 3, 4, 5, 25, 28, 29, 35, 256, 258, 55799, 2**40)
hostile = st.recursive(
    st.sampled_from(
        [b"\xf6", b"\xf7", b"\xf8\xff", b"\xf9\x7e\x00", b"\xfb" + bytes(8), b"\xff", b"\x1c"]
    )
    | st.builds(head, st.integers(0, 7), st.integers(0, 2**64 - 1))
    | st.binary(max_size=6).map(lambda text: head(3, len(text)) + text)
    | st.binary(max_size=6).map(lambda text: head(2, len(text)) + text),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda many: head(4, len(many)) + b"".join(many))
        | st.lists(inner, max_size=4).map(lambda many: head(5, len(many) // 2) + b"".join(many))
        | st.lists(inner, max_size=3).map(lambda many: b"\x9f" + b"".join(many) + b"\xff")
        | st.lists(inner, max_size=3).map(lambda many: b"\xbf" + b"".join(many) + b"\xff")
        | st.tuples(st.sampled_from(TAGS), inner).map(lambda pair: head(6, pair[0]) + pair[1])
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(hostile, st.binary(max_size=2))
def test_cbor_of_any_structure_is_taken_or_refused(data: bytes, rest: bytes) -> None:
    for name in ("cbor", "rosters", "change notes", "questions", "invitations"):
        result = attempt(TARGETS[name], data + rest)
        assert not isinstance(result, Crash), result


@pytest.mark.parametrize(
    "data",
    [
        "9f00ff",  # an array of indefinite length
        "bf6161f6ff",  # a map of indefinite length
        "5f4100ff",  # bytes of indefinite length
        "c100",  # a date
        "c24101",  # a big number
        "d81c8180",  # a shared value
        "d8237829" + "28612b292b" * 8 + "24",  # a regular expression
        "da0001000000",  # an unknown tag
        "f7",  # undefined
        "f8ff",  # a simple value
        "f93c00",  # a fraction
        "a2616100616101",  # a key that is there twice
        "a10000",  # a key that is a number
        "a1410000",  # a key that is bytes
        "0000",  # trailing bytes
        "81" * 17 + "00",  # nested too deep
        "9b3fffffffffffffff",  # a length bomb
        "62fffe",  # text that is not UTF-8
    ],
)
def test_what_is_outside_the_profile_of_cbor_is_refused(data: str) -> None:
    with pytest.raises(WireError):
        loads(bytes.fromhex(data))


@pytest.mark.parametrize("name", WORST)
def test_the_worst_inputs_are_withstood_in_bounded_memory(name: str) -> None:
    target = TARGETS[name]
    # Tracing is slow, and so are the largest: the command tries all of them.
    first = None if name in ("artifacts", "histories") else 3
    for place, data in enumerate(islice(WORST[name](), first)):
        assert len(data) <= target.bytes_max
        result = attempt(target, data)
        assert not isinstance(result, Crash), result
        if place == 0 and name in ("cbor", "messages"):
            assert 2**20 < extra_bytes(target, data) <= EXTRA_BYTES_MAX


def test_mutations_are_the_same_for_a_seed_and_others_for_another() -> None:
    target = TARGETS["messages"]
    first, again, other = (list(islice(mutations(target, seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def broken(data: bytes) -> None:
    if data.startswith(b"\x01"):
        raise ValueError("a foreign error")
    if data.startswith(b"\x02"):
        kept = [bytes(1000) for _ in range(10_000)]
        del kept


def test_a_decoder_that_raises_something_else_or_takes_too_much_is_noticed() -> None:
    target = Target(
        name="broken",
        about="",
        read=broken,
        refusals=(WireError,),
        valid=lambda: [b"ok"],
    )
    crash = attempt(target, b"\x01bad")
    assert isinstance(crash, Crash)
    assert str(crash) == "broken: ValueError: a foreign error; 4 bytes: 01626164"
    assert extra_bytes(target, b"\x02") > EXTRA_BYTES_MAX
    assert cpu_seconds(target, b"ok") < 60
    assert attempt(target, Random(1).randbytes(3)) is True
