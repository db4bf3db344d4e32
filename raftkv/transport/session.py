"""The two sides of a connection as state machines. No I/O: bytes in, bytes and frames out.

    dialer    HELLO -> ............ <- WELCOME   frames -> frames -> frames ->
    acceptor  ............ -> WELCOME | REFUSAL  -> frames

See :mod:`raftkv.transport.wire` for the rules. Both sides begin with the handshake's limit of 4
KiB; the acceptor's limit becomes that of frames when the dialer is let in, and the dialer has
nothing to hear after the answer. A WireError is final: close the connection.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.errors import WireError
from raftkv.transport.base import Code, Hello, Refusal
from raftkv.transport.wire import (
    HANDSHAKE_BYTES_MAX,
    VERSIONS,
    Frame,
    FrameParser,
    Greeting,
    Versions,
    decode_greeting,
    decode_question,
    decode_refusal,
    decode_welcome,
    encode_answer,
    encode_greeting,
    encode_refusal,
    encode_welcome,
    is_question,
    is_refusal,
    negotiate,
)

__all__ = ["Acceptor", "Dialer"]


class Dialer:
    """The side that connects and sends.

    ``peer`` is set once it is welcome, ``refusal`` when it is not.
    """

    __slots__ = ("_accepts", "_greeting", "_parser", "peer", "refusal", "version")

    def __init__(self, greeting: Greeting, accepts: Callable[[Hello], Refusal | None]) -> None:
        self.peer: Hello | None = None
        self.refusal: Refusal | None = None
        self.version = 0
        self._greeting = greeting
        self._accepts = accepts
        self._parser = FrameParser(HANDSHAKE_BYTES_MAX)

    def hello(self) -> bytes:
        """What to send first."""
        return encode_greeting(self._greeting)

    def receive(self, data: bytes) -> None:
        """Take the answer. Raises WireError if we are refused, or it is not whom we mean."""
        if self.peer is not None:
            raise WireError("speaks on a connection that is ours to speak on")
        frames = self._parser.feed(data)
        if not frames:
            return
        if len(frames) > 1 or self._parser.is_mid_frame:
            raise WireError("goes on after its answer")
        if is_refusal(frames[0]):
            self.refusal = refusal = decode_refusal(frames[0])
            raise WireError(f"it refuses us: {refusal.sentence} (code {refusal.code})")
        version, hello = decode_welcome(frames[0])
        self._check(version, hello)
        self.version = version
        self.peer = hello

    def _check(self, version: int, hello: Hello) -> None:
        me = self._greeting
        if not me.versions.first <= version <= me.versions.last:
            raise WireError(f"it chose version {version}; we speak {_range(me.versions)}")
        if hello.cluster_id != me.hello.cluster_id:
            raise WireError(f"it is of cluster {hello.cluster_id:x}, not {me.hello.cluster_id:x}")
        if hello.member_id != me.to:
            raise WireError(f"member {hello.member_id:x} answers there, not {me.to:x}")
        refusal = self._accepts(hello)
        if refusal is not None:
            raise WireError(f"we refuse it: {refusal.sentence}")


class Acceptor:
    """The side that is connected to and receives. ``greeting`` is set once the dialer is let in.

    ``judge`` decides about a dialer that is of our cluster and means us; ``refusal`` is set, and
    the answer returned as any other, if the connection must be closed behind it. ``reply`` answers
    who is no member yet and asks a question; ``is_asked`` is set then, and that is all there is.
    """

    __slots__ = (
        "_frame_bytes_max",
        "_hello",
        "_judge",
        "_parser",
        "_reply",
        "_versions",
        "greeting",
        "is_asked",
        "refusal",
    )

    def __init__(
        self,
        hello: Hello,
        judge: Callable[[Greeting], Refusal | None],
        frame_bytes_max: int,
        versions: Versions = VERSIONS,
        reply: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.greeting: Greeting | None = None
        self.is_asked = False
        self._reply = reply
        self.refusal: Refusal | None = None
        self._hello = hello
        self._judge = judge
        self._frame_bytes_max = frame_bytes_max
        self._versions = versions
        self._parser = FrameParser(HANDSHAKE_BYTES_MAX)

    @property
    def is_mid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._parser.is_mid_frame

    def receive(self, data: bytes) -> tuple[bytes, list[Frame]]:
        """What to answer, and the frames received, all of the lane that was asked for.

        Raises WireError if the dialer breaks the rules.
        """
        frames = self._parser.feed(data)
        greeting = self.greeting
        if greeting is not None:
            for frame in frames:
                if frame.type != greeting.lane:
                    raise WireError(f"a frame of type {frame.type} on lane {greeting.lane.name}")
            return b"", frames
        if not frames:
            return b"", []
        if len(frames) > 1 or self._parser.is_mid_frame:
            raise WireError("goes on before it is answered")
        if self._reply is not None and is_question(frames[0]):
            return self._answer_question(frames[0], self._reply), []
        return self._answer(decode_greeting(frames[0])), []

    def _answer_question(self, frame: Frame, reply: Callable[[bytes], bytes]) -> bytes:
        versions, question = decode_question(frame)
        version = negotiate(self._versions, versions)
        if version is None:
            self.refusal = self._no_version(versions)
            return encode_refusal(self.refusal)
        self.is_asked = True
        return encode_answer(version, reply(question))

    def _no_version(self, theirs: Versions) -> Refusal:
        ours = _range(self._versions)
        return Refusal(Code.VERSION, f"we speak protocol versions {ours}, not {_range(theirs)}")

    def _answer(self, greeting: Greeting) -> bytes:
        version = negotiate(self._versions, greeting.versions)
        me = self._hello
        if version is None:
            refusal = self._no_version(greeting.versions)
        elif greeting.hello.cluster_id != me.cluster_id:
            theirs = f"{greeting.hello.cluster_id:x}"
            refusal = Refusal(Code.CLUSTER, f"cluster {theirs} is not ours, {me.cluster_id:x}")
        elif greeting.to != me.member_id:
            theirs = f"{greeting.to:x}"
            refusal = Refusal(Code.RECEIVER, f"this is member {me.member_id:x}, not {theirs}")
        elif greeting.hello.member_id == me.member_id:
            refusal = Refusal(Code.IDENTITY, f"member {me.member_id:x} is ourselves")
        else:
            refusal = self._judge(greeting)
        if refusal is None and version is not None:
            self.greeting = greeting
            self._parser.limit = self._frame_bytes_max
            return encode_welcome(version, me)
        self.refusal = refusal
        return b"" if refusal is None else encode_refusal(refusal)


def _range(versions: Versions) -> str:
    first, last = versions
    return f"{first}" if first == last else f"{first} to {last}"
