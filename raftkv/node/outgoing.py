"""Messages on their way out: gathered by peer, and sent as joined frames.

What a turn of the loop has to say to one peer leaves as one frame, or as a few if it is long. News
of a commit alone may linger for a turn; everything else is urgent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.core import AppendEntries, ForwardProposal, PeerMessage
from raftkv.transport.base import Transport
from raftkv.transport.codec import MESSAGES_MAX, encode_messages

_FRAME_BYTES_MAX: Final = 1024 * 1024  # then further messages to the peer get a frame of their own


class Outgoing:
    """What waits to be sent. Loop thread only.

    ``not_sent`` is told of each frame that the transport dropped at once: peer and messages.
    """

    __slots__ = ("_messages", "_not_sent", "_transport", "is_urgent")

    def __init__(
        self, transport: Transport, not_sent: Callable[[int, list[PeerMessage]], None]
    ) -> None:
        self._transport = transport
        self._not_sent = not_sent
        self._messages: dict[int, list[PeerMessage]] = {}
        self.is_urgent = False
        """Whether something that waits has to leave at once."""

    @property
    def has_some(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._messages)

    def post(self, message: PeerMessage) -> None:
        """Gather a message; :meth:`send` sends it."""
        # News of a commit alone may wait until those who were just answered had their turn: what
        # they propose next then shares its frame, its wake-up and its answer.
        if not (isinstance(message, AppendEntries) and not message.entries):
            self.is_urgent = True
        waiting = self._messages.get(message.to)
        if waiting is None:
            self._messages[message.to] = [message]
        elif isinstance(message, AppendEntries) and _covers(message, waiting[-1]):
            waiting[-1] = message
        else:
            waiting.append(message)

    def send(self) -> None:
        """One frame to each peer, or a few if they would be long."""
        gathered, self._messages = self._messages, {}
        self.is_urgent = False
        for peer, messages in gathered.items():
            if len(messages) == 1:
                self._send_frame(peer, messages)
                continue
            start, size = 0, 0
            for place, message in enumerate(messages):
                length = _payload_bytes(message)
                if length and size + length > _FRAME_BYTES_MAX and place > start:
                    self._send_frame(peer, messages[start:place])
                    start, size = place, 0
                size += length
            self._send_frame(peer, messages[start:])
        self._transport.flush()  # what follows in this turn takes longer than a system call

    def release(self, messages: list[PeerMessage]) -> None:
        """Send what a sync has made true, without waiting for a turn."""
        by_peer: dict[int, list[PeerMessage]] = {}
        for message in messages:
            by_peer.setdefault(message.to, []).append(message)
        for peer, theirs in by_peer.items():
            self._send_frame(peer, theirs)
        self._transport.flush()

    def _send_frame(self, peer: int, messages: list[PeerMessage]) -> None:
        # A peer may ask more in a turn than the answers to it may be in one frame.
        for start in range(0, len(messages), MESSAGES_MAX):
            some = messages[start : start + MESSAGES_MAX]
            if not self._transport.send(peer, encode_messages(some)):
                self._not_sent(peer, some)


def _covers(message: AppendEntries, before: PeerMessage) -> bool:
    """Whether an append says all that the one before it did, which brought a commit index alone."""
    return (
        isinstance(before, AppendEntries)
        and not before.entries
        and before.term == message.term
        and before.prev_index <= message.prev_index
        and before.commit <= message.commit
    )


def _payload_bytes(message: PeerMessage) -> int:
    if isinstance(message, AppendEntries):
        return sum([len(entry.data) for entry in message.entries])
    if isinstance(message, ForwardProposal):
        return sum([len(payload.data) for payload in message.payloads])
    return 0
