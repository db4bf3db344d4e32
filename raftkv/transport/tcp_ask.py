"""One question to a member, from somebody who is none yet: a connection of its own, then closed.

Whoever wants to join knows neither the cluster's id nor its own, which the handshake of members
needs. So it asks first. Over TLS both sides show certificates as always; the asker claims no id.
"""

from __future__ import annotations

import anyio

from raftkv.errors import TransportError, WireError
from raftkv.runtime.base import Runtime
from raftkv.transport.owner import owned_tasks
from raftkv.transport.tcp_channel import Channel, Cipher, reason_of
from raftkv.transport.tcp_outlet import dial
from raftkv.transport.tcp_reactor import make_reactor
from raftkv.transport.tcp_settings import Address, Limits
from raftkv.transport.wire import (
    ANSWER_BYTES_MAX,
    FrameParser,
    decode_answer,
    decode_refusal,
    encode_question,
    is_refusal,
)

__all__ = ["ask"]


async def ask(
    address: Address,
    question: bytes,
    *,
    runtime: Runtime,
    cipher: Cipher | None,
    limits: Limits,
    loopback_only: bool,
) -> bytes:
    """The answer of whoever listens at ``address``. Raises TransportError if there is none."""
    seconds = limits.connect_seconds + limits.handshake_seconds
    asking = _Asking(question)

    async def expire() -> None:
        clock = runtime.clock
        await clock.sleep_until(clock.monotonic_ns() + round(seconds * 1e9))
        tasks.cancel_scope.cancel()

    try:
        async with owned_tasks() as tasks:
            tasks.start_soon(expire, name=f"raftkv.transport.ask {address}")
            sock = await dial(address, limits, loopback_only)
            reactor = make_reactor(tasks, runtime.waker())
            asking.channel = channel = Channel(sock, reactor, cipher, limits)
            try:
                channel.start(asking)
                await asking.done.wait()
            finally:
                channel.close()
    except OSError as error:
        raise TransportError(f"cannot ask {address}: {reason_of(error)}") from error
    if asking.answer is None:
        reason = asking.reason or "it did not answer in time"
        raise TransportError(f"asking {address}: {reason}")
    return asking.answer


class _Asking:
    """The question on its way, as the user of its channel."""

    def __init__(self, question: bytes) -> None:
        self.channel: Channel | None = None
        self.answer: bytes | None = None
        self.reason = ""
        self.done = anyio.Event()
        self._question = question
        self._parser = FrameParser(ANSWER_BYTES_MAX)

    def on_ready(self) -> None:
        """Ask."""
        if self.channel is not None:
            self.channel.write(encode_question(self._question))

    def on_data(self, data: bytes) -> None:
        """Hear the answer. Raises WireError if it is none."""
        frames = self._parser.feed(data)
        if frames and not self.done.is_set():
            if is_refusal(frames[0]):
                raise WireError(f"it refuses us: {decode_refusal(frames[0]).sentence}")
            self.answer = decode_answer(frames[0])
            self.done.set()

    def on_writable(self) -> None:
        """We have nothing more to say."""

    def on_end(self, reason: str, *, hostile: bool) -> None:
        """It ended before, or broke a rule."""
        self.reason = reason
        self.done.set()
