"""The way in: an accepted connection, a stranger until its handshake is done."""

from __future__ import annotations

import logging
from typing import Protocol

from raftkv.transport.session import Acceptor
from raftkv.transport.tcp_channel import Channel, Cipher
from raftkv.transport.tcp_context import Context
from raftkv.transport.wire import Greeting, Refusal

__all__ = ["Gate", "Inlet"]

_log = logging.getLogger("raftkv.transport")


class Gate(Protocol):
    """What an inlet asks of its transport."""

    def judge(self, greeting: Greeting, cipher: Cipher | None) -> Refusal | None:
        """None to let the dialer in."""
        ...

    def on_let_in(self, inlet: Inlet, greeting: Greeting) -> None:
        """The inlet is no stranger any more."""
        ...

    def on_gone(self, inlet: Inlet) -> None:
        """The inlet is closed."""
        ...


class Inlet:
    """One accepted connection: frames of one lane from one peer, once it has said who it is."""

    def __init__(
        self, gate: Gate, context: Context, channel: Channel, cipher: Cipher | None, remote: str
    ) -> None:
        self.deadline_ns = 0
        """When :meth:`expire` is due; 0 for never."""
        self._gate = gate
        self._context = context
        self._channel = channel
        self._remote = remote
        self._acceptor = Acceptor(
            context.hello,
            lambda greeting: gate.judge(greeting, cipher),
            context.limits.frame_bytes_max,
            reply=context.receiver.on_question,
        )

    @property
    def greeting(self) -> Greeting | None:
        """Who it is; None for a stranger."""
        return self._acceptor.greeting

    def start(self) -> None:
        """Begin to listen to it."""
        self.deadline_ns = self._context.deadline_ns(self._context.limits.handshake_seconds)
        self._channel.start(self)

    def close(self, reason: str, level: int = logging.WARNING) -> None:
        """Close it with one line in the log."""
        if self._channel.is_closed:
            return
        self._channel.close()
        self._gone(reason, level)

    def expire(self) -> None:
        """The deadline passed: a stranger that says nothing, or half a frame."""
        if self.greeting is None:
            self.close("it did not introduce itself in time")
        else:
            self.close("a frame was not finished in time")

    # --- the channel's calls ---

    def on_ready(self) -> None:
        """TLS is done, if there is any; the dialer speaks first."""

    def on_data(self, data: bytes) -> None:
        """Hear its greeting, or frames."""
        acceptor = self._acceptor
        was_stranger = acceptor.greeting is None
        answer, frames = acceptor.receive(data)
        if answer:
            self._channel.write(answer)
        if acceptor.refusal is not None:
            self.close(f"refused: {acceptor.refusal.sentence}")
            return
        if acceptor.is_asked:
            self.close("its question is answered", logging.INFO)
            return
        greeting = acceptor.greeting
        if greeting is None:
            return
        if was_stranger:
            self.deadline_ns = 0
            self._channel.is_trusted = True
            self._gate.on_let_in(self, greeting)
        on_frame, peer = self._context.receiver.on_frame, greeting.hello.member_id
        for frame in frames:
            # Whoever hears a frame may close us.
            if self._channel.is_closed:
                return
            on_frame(peer, greeting.lane, frame.payload)
        if not acceptor.is_mid_frame:
            self.deadline_ns = 0
        elif frames or not self.deadline_ns:
            self.deadline_ns = self._context.deadline_ns(self._context.limits.frame_seconds)

    def on_writable(self) -> None:
        """We have nothing more to say."""

    def on_end(self, reason: str, *, hostile: bool) -> None:
        """It ended, or broke a rule."""
        # The way out to a peer tells of its end: once, not for every lane and direction.
        self._gone(reason, logging.WARNING if hostile or self.greeting is None else logging.DEBUG)

    def _gone(self, reason: str, level: int) -> None:
        greeting = self.greeting
        if greeting is None:
            _log.log(level, "connection from %s closed: %s", self._remote, reason)
        else:
            text = "connection from member %s at %s closed: %s"
            name = self._context.receiver.name_of(greeting.hello.member_id)
            _log.log(level, text, name, self._remote, reason)
        self._gate.on_gone(self)
