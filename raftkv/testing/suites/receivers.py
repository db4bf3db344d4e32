"""A receiver that remembers everything, for tests of transports."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from raftkv.transport.base import Code, Hello, Lane, Refusal


class Recorder:
    """A receiver that remembers everything; tests wait until what they expect is there."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, Lane, bytes]] = []
        self.ups: list[tuple[int, Hello]] = []
        self.downs: list[int] = []
        self.asked: list[Hello] = []
        self.refused: list[tuple[int, Refusal]] = []
        self.questions: list[bytes] = []
        self.refusal: Callable[[Hello], str | None] = lambda _: None
        """Why somebody may not come in; None if he may."""
        self.code = Code.IDENTITY
        """Of the refusals."""
        self.names: dict[int, str] = {}
        """Of members that have one."""
        self.on_each: Callable[[int, Lane, bytes], None] | None = None
        """Called with each frame."""
        self._changed = anyio.Event()

    def on_frame(self, peer: int, lane: Lane, frame: bytes) -> None:
        """Remember the frame."""
        self.frames.append((peer, lane, frame))
        if self.on_each is not None:
            self.on_each(peer, lane, frame)
        self._ring()

    def on_up(self, peer: int, hello: Hello) -> None:
        """Remember who came."""
        self.ups.append((peer, hello))
        self._ring()

    def on_down(self, peer: int) -> None:
        """Remember who left."""
        self.downs.append(peer)
        self._ring()

    def name_of(self, peer: int) -> str:
        """As :attr:`names` says."""
        return self.names.get(peer, f"{peer:x}")

    def accepts(self, hello: Hello) -> Refusal | None:
        """What :attr:`refusal` says."""
        self.asked.append(hello)
        self._ring()
        reason = self.refusal(hello)
        return None if reason is None else Refusal(self.code, reason)

    def on_refused(self, peer: int, refusal: Refusal) -> None:
        """Remember who did not let us in."""
        self.refused.append((peer, refusal))
        self._ring()

    def on_question(self, question: bytes) -> bytes:
        """Answer ``answer to`` it."""
        self.questions.append(question)
        self._ring()
        return b"answer to " + question

    def _ring(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; only what this receiver hears can make it hold."""
        while not condition():
            await self._changed.wait()

    def payloads(self, peer: int, lane: Lane = Lane.RAFT) -> list[bytes]:
        """The frames of a peer on a lane."""
        return [frame for sender, on, frame in self.frames if (sender, on) == (peer, lane)]
