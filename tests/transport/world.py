"""What transport tests share: a recording receiver and ways to wait without sleeping."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.transport.base import Code, Hello, Lane, Refusal

CLUSTER = 0xC1


def hello(member: int, *, cluster: int = CLUSTER, boot: int = 1, address: str = "") -> Hello:
    return Hello(cluster, member, b"disk-%d" % member, boot, address)


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
        self.code = Code.IDENTITY
        self.on_each: Callable[[int, Lane, bytes], None] | None = None
        self._changed = anyio.Event()

    def on_frame(self, peer: int, lane: Lane, frame: bytes) -> None:
        self.frames.append((peer, lane, frame))
        if self.on_each is not None:
            self.on_each(peer, lane, frame)
        self._ring()

    def on_up(self, peer: int, hello: Hello) -> None:
        self.ups.append((peer, hello))
        self._ring()

    def on_down(self, peer: int) -> None:
        self.downs.append(peer)
        self._ring()

    def accepts(self, hello: Hello) -> Refusal | None:
        self.asked.append(hello)
        self._ring()
        reason = self.refusal(hello)
        return None if reason is None else Refusal(self.code, reason)

    def on_refused(self, peer: int, refusal: Refusal) -> None:
        self.refused.append((peer, refusal))
        self._ring()

    def on_question(self, question: bytes) -> bytes:
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
        return [frame for sender, on, frame in self.frames if (sender, on) == (peer, lane)]


def runtime() -> Runtime:
    return system_runtime()
