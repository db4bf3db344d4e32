"""Frames and handshake as bytes: whole, in pieces, damaged, and made up."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import WireError
from raftkv.transport.base import Hello, Lane
from raftkv.transport.session import Acceptor, Dialer
from raftkv.transport.wire import (
    FRAME_OVERHEAD_BYTES,
    HANDSHAKE_BYTES_MAX,
    VERSIONS,
    Code,
    Frame,
    FrameParser,
    Greeting,
    Refusal,
    Versions,
    decode_greeting,
    decode_refusal,
    decode_welcome,
    encode_frame,
    encode_greeting,
    encode_refusal,
    encode_welcome,
    negotiate,
)
from tests.transport.world import hello

ids = st.integers(0, 2**64 - 1)
addresses = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300)
tokens = st.binary(min_size=16, max_size=16)
hellos = st.builds(
    Hello, ids, ids, st.binary(max_size=64), ids, addresses, tokens, ids, st.booleans()
)
versions = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(
    lambda pair: Versions(min(pair), max(pair))
)
greetings = st.builds(Greeting, hellos, ids, st.sampled_from(Lane), versions)
frames = st.builds(Frame, st.integers(0, 255), st.binary(max_size=60))


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in pieces of these sizes, then the rest."""
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    return [*pieces, stream]


# --- frames ---


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 40), max_size=30))
def test_frames_come_out_as_they_went_in_however_they_arrive(
    sent: list[Frame], sizes: list[int]
) -> None:
    stream = b"".join(encode_frame(*frame) for frame in sent)
    parser = FrameParser(60)
    received = [frame for piece in cut(stream, sizes) for frame in parser.feed(piece)]
    assert received == sent
    assert not parser.is_mid_frame


@given(st.lists(frames, min_size=1, max_size=3))
def test_frames_fed_byte_by_byte_come_out_at_their_last_byte(sent: list[Frame]) -> None:
    parser = FrameParser(60)
    received: list[Frame] = []
    for frame in sent:
        stream = encode_frame(*frame)
        for at in range(len(stream)):
            assert received == sent[: len(received)]
            assert parser.is_mid_frame is (at > 0)
            received += parser.feed(stream[at : at + 1])
    assert received == sent


def test_the_bytes_of_a_frame_never_change() -> None:
    checked = struct.pack("<IB", 3, 1)
    expected = checked + struct.pack("<I", crc32(b"abc", crc32(checked))) + b"abc"
    assert encode_frame(1, b"abc") == expected
    assert len(expected) == FRAME_OVERHEAD_BYTES + 3


@given(frames, st.data())
def test_a_changed_byte_anywhere_never_gives_a_frame(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(encode_frame(*frame))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    parser = FrameParser(60)
    with suppress(WireError):
        # A longer length waits for more, a shorter one has another checksum.
        assert parser.feed(bytes(stream)) == []


@pytest.mark.parametrize("size", [99, 100, 101])
def test_a_frame_may_be_as_long_as_the_limit(size: int) -> None:
    parser = FrameParser(100)
    stream = encode_frame(1, b"x" * size)
    if size <= 100:
        assert parser.feed(stream) == [Frame(1, b"x" * size)]
        return
    with pytest.raises(WireError, match="101 bytes, where at most 100"):
        parser.feed(stream[:FRAME_OVERHEAD_BYTES])  # its header is enough to know


def test_an_announced_length_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        parser = FrameParser(2**30)
        assert parser.feed(struct.pack("<IBI", 2**30, 1, 0) + b"x" * 100) == []
        with pytest.raises(WireError):
            FrameParser(2**20).feed(struct.pack("<IBI", 2**32 - 1, 1, 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000


def test_a_large_frame_in_small_pieces_costs_its_own_size() -> None:
    stream = encode_frame(1, b"x" * 500_000)
    tracemalloc.start()
    try:
        parser = FrameParser(500_000)
        for at in range(0, len(stream) - 1, 10):
            assert parser.feed(stream[at : min(at + 10, len(stream) - 1)]) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 700_000


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_made_up_bytes_give_a_wire_error_or_nothing(pieces: list[bytes]) -> None:
    parser = FrameParser(50)
    with suppress(WireError):
        for piece in pieces:
            assert parser.feed(piece) == []


# --- the handshake's payloads ---


def one_frame(stream: bytes) -> Frame:
    (frame,) = FrameParser(HANDSHAKE_BYTES_MAX).feed(stream)
    return frame


@given(greetings)
def test_a_greeting_comes_back_equal(greeting: Greeting) -> None:
    assert decode_greeting(one_frame(encode_greeting(greeting))) == greeting


@given(st.integers(0, 65535), hellos)
def test_a_welcome_comes_back_equal(version: int, me: Hello) -> None:
    assert decode_welcome(one_frame(encode_welcome(version, me))) == (version, me)


@given(st.integers(0, 65535), st.text(max_size=600))
def test_a_refusal_comes_back_fit_for_a_log(code: int, sentence: str) -> None:
    refusal = decode_refusal(one_frame(encode_refusal(Refusal(code, sentence))))
    assert refusal.code == code
    assert refusal.sentence.isprintable() or refusal.sentence == ""
    if sentence.isprintable() and len(sentence.encode()) <= 500:
        assert refusal.sentence == sentence


def test_bytes_of_a_later_version_behind_a_greeting_and_a_welcome_are_ignored() -> None:
    greeting = Greeting(hello(1), 2, Lane.BULK, Versions(1, 9))
    kind, payload = one_frame(encode_greeting(greeting))
    assert decode_greeting(Frame(kind, payload + b"later")) == greeting
    kind, payload = one_frame(encode_welcome(9, hello(2)))
    assert decode_welcome(Frame(kind, payload + b"later")) == (9, hello(2))


@given(st.sampled_from([16, 17, 18]), st.binary(max_size=120), st.booleans())
def test_made_up_handshakes_raise_a_wire_error(kind: int, tail: bytes, magic: bool) -> None:
    frame = Frame(kind, (b"\x89raftkv\n" if magic else b"") + tail)
    for decode in (decode_greeting, decode_welcome, decode_refusal):
        with suppress(WireError):
            decode(frame)


@given(greetings, st.data())
def test_a_changed_greeting_is_another_one_or_a_wire_error(
    greeting: Greeting, data: st.DataObject
) -> None:
    kind, payload = one_frame(encode_greeting(greeting))
    changed = bytearray(payload)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        again = decode_greeting(Frame(kind, bytes(changed)))
        # (Zeroes for the capabilities, which this version ignores, and the lengths behind it.)
        assert decode_greeting(one_frame(encode_greeting(again))) == again


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (0, b"X", "not raftkv's"),
        (8, b"\x09\x00", "versions 9 to 1, which are none"),
        (76, b"\x07", "unknown lane 7"),
        (77, b"\xff", "a disk uuid of 255"),
        (78, b"\xff\xff", "an address of 65535"),
        (86, b"\x80", "not ASCII"),
        (86, b"\n", "not printable"),
    ],
)
def test_what_is_wrong_with_a_greeting_is_said(at: int, value: bytes, sentence: str) -> None:
    kind, payload = one_frame(encode_greeting(Greeting(hello(1, address="h:1"), 2, Lane.RAFT)))
    changed = payload[:at] + value + payload[at + len(value) :]
    with pytest.raises(WireError, match=sentence):
        decode_greeting(Frame(kind, changed))


@given(versions, versions)
def test_the_highest_common_version_is_chosen(ours: Versions, theirs: Versions) -> None:
    common = set(range(ours.first, ours.last + 1)) & {theirs.first, theirs.last, ours.last}
    common = {each for each in common if theirs.first <= each <= theirs.last}
    assert negotiate(ours, theirs) == max(common, default=None)


# --- the two sides ---


def let_in(_: Greeting) -> Refusal | None:
    return None


def no_objection(_: Hello) -> Refusal | None:
    return None


def dialer(to: int = 2, me: Hello | None = None, versions: Versions = VERSIONS) -> Dialer:
    return Dialer(Greeting(me or hello(1), to, Lane.RAFT, versions), no_objection)


def acceptor(versions: Versions = VERSIONS) -> Acceptor:
    return Acceptor(hello(2), let_in, 1000, versions)


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 50), max_size=20))
def test_two_sides_back_to_back_agree_and_carry_frames(
    payloads: list[bytes], sizes: list[int]
) -> None:
    one, two = dialer(), acceptor()
    answer = b""
    for piece in cut(one.hello(), sizes):
        reply, received = two.receive(piece)
        answer += reply
        assert received == []
    assert two.greeting == Greeting(hello(1), 2, Lane.RAFT)
    for piece in cut(answer, sizes):
        if one.peer is None:
            one.receive(piece)
    assert one.peer == hello(2)
    assert one.version == 1
    stream = b"".join(encode_frame(Lane.RAFT, payload) for payload in payloads)
    heard = [frame for piece in cut(stream, sizes) for frame in two.receive(piece)[1]]
    assert [frame.payload for frame in heard] == payloads


def refused(two: Acceptor, greeting: Greeting) -> tuple[Refusal, str]:
    """What the acceptor says, and what the dialer makes of it."""
    one = Dialer(greeting, no_objection)
    answer, _ = two.receive(one.hello())
    assert two.greeting is None
    assert two.refusal is not None
    with pytest.raises(WireError) as caught:
        one.receive(answer)
    assert one.peer is None
    assert one.refusal == two.refusal  # to act on, not only to log
    return two.refusal, str(caught.value)


@pytest.mark.parametrize(
    ("greeting", "code", "sentence"),
    [
        (
            Greeting(hello(1), 2, Lane.RAFT, Versions(2, 5)),
            Code.VERSION,
            "we speak protocol versions 1, not 2 to 5",
        ),
        (
            Greeting(hello(1, cluster=0xBAD), 2, Lane.RAFT),
            Code.CLUSTER,
            "cluster bad is not ours, c1",
        ),
        (Greeting(hello(1), 3, Lane.RAFT), Code.RECEIVER, "this is member 2, not 3"),
        (Greeting(hello(2), 2, Lane.RAFT), Code.IDENTITY, "member 2 is ourselves"),
    ],
)
def test_whoever_does_not_belong_is_told_why(greeting: Greeting, code: Code, sentence: str) -> None:
    refusal, heard = refused(acceptor(), greeting)
    assert refusal == Refusal(code, sentence)
    assert heard == f"it refuses us: {sentence} (code {code})"


def test_the_judge_has_the_last_word() -> None:
    verdict = Refusal(Code.IDENTITY, "its disk changed")
    asked: list[Greeting] = []

    def judge(greeting: Greeting) -> Refusal | None:
        asked.append(greeting)
        return verdict

    greeting = Greeting(hello(1), 2, Lane.BULK)
    assert refused(Acceptor(hello(2), judge, 1000), greeting)[0] == verdict
    assert asked == [greeting]


def test_a_newer_member_speaks_the_older_version_with_an_older_one() -> None:
    for ours, theirs in ((Versions(1, 3), Versions(2, 9)), (Versions(2, 9), Versions(1, 3))):
        one, two = dialer(versions=ours), acceptor(theirs)
        answer, _ = two.receive(one.hello())
        one.receive(answer)
        assert one.version == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (encode_welcome(2, hello(2)), "it chose version 2; we speak 1"),
        (encode_welcome(1, hello(2, cluster=0xBAD)), "it is of cluster bad, not c1"),
        (encode_welcome(1, hello(3)), "member 3 answers there, not 2"),
        (encode_welcome(1, hello(2)) * 2, "goes on after its answer"),
        (encode_welcome(1, hello(2)) + b"x", "goes on after its answer"),
        (encode_frame(1, b"frame"), "type 1 instead of WELCOME"),
        (struct.pack("<IBI", 5000, 17, 0), "5000 bytes, where at most 4096"),
    ],
)
def test_a_dialer_does_not_take_every_answer(answer: bytes, sentence: str) -> None:
    one = dialer()
    with pytest.raises(WireError, match=sentence):
        one.receive(answer)
    assert one.peer is None


def test_a_dialer_refuses_a_peer_that_its_node_refuses() -> None:
    one = Dialer(
        Greeting(hello(1), 2, Lane.RAFT),
        lambda peer: Refusal(Code.REGRESSED, f"boot {peer.boot} is over"),
    )
    with pytest.raises(WireError, match="we refuse it: boot 1 is over"):
        one.receive(encode_welcome(1, hello(2)))


def test_nothing_is_heard_on_a_connection_that_is_ours_to_speak_on() -> None:
    one = dialer()
    one.receive(encode_welcome(1, hello(2)))
    with pytest.raises(WireError, match="ours to speak on"):
        one.receive(b"x")


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (encode_frame(1, b"frame"), "type 1 instead of HELLO"),
        (encode_welcome(1, hello(1)), "type 17 instead of HELLO"),
        (dialer().hello() + encode_frame(1, b"early"), "before it is answered"),
        (dialer().hello() + b"x", "before it is answered"),
        (struct.pack("<IBI", 4097, 16, 0), "4097 bytes, where at most 4096"),
        (b"GET / HTTP/1.1\r\n", "at most 4096"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", "at most 4096|checksum"),
    ],
)
def test_an_acceptor_hears_a_greeting_and_nothing_else(stream: bytes, sentence: str) -> None:
    two = acceptor()
    with pytest.raises(WireError, match=sentence):
        two.receive(stream)
    assert two.greeting is None


def test_an_acceptor_hears_only_the_lane_that_was_asked_for() -> None:
    two = acceptor()
    two.receive(dialer().hello())
    with pytest.raises(WireError, match="type 2 on lane RAFT"):
        two.receive(encode_frame(Lane.BULK, b""))


def test_the_limit_of_frames_counts_once_the_dialer_is_in() -> None:
    two = acceptor()
    two.receive(dialer().hello())
    with pytest.raises(WireError, match="1001 bytes, where at most 1000"):
        two.receive(encode_frame(Lane.RAFT, b"x" * 1001))


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_made_up_bytes_never_get_a_stranger_in(pieces: list[bytes], after_hello: bool) -> None:
    two = acceptor()
    if after_hello:
        two.receive(dialer().hello())
    with suppress(WireError):
        for piece in pieces:
            _, received = two.receive(piece)
            assert received == []
    assert (two.greeting is not None) is after_hello
