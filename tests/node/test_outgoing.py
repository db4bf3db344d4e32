"""Messages on their way out: joined, and never more in a frame than one holds."""

from __future__ import annotations

from typing import cast

from raftkv.core import HeartbeatResponse, PeerMessage
from raftkv.node.outgoing import Outgoing
from raftkv.transport.base import Transport
from raftkv.transport.codec import MESSAGES_MAX, decode_messages


class _Lane:
    def __init__(self) -> None:
        self.sent: list[PeerMessage] = []

    def send(self, peer: int, frame: bytes) -> bool:
        assert peer == 2
        self.sent += decode_messages(frame)
        return True

    def flush(self) -> None:
        pass


def test_a_peer_that_asks_more_than_a_frame_holds_answers_to_stops_nobody() -> None:
    lane = _Lane()
    dropped: list[PeerMessage] = []
    outgoing = Outgoing(cast("Transport", lane), lambda _peer, lost: dropped.extend(lost))
    answers: list[PeerMessage] = [
        HeartbeatResponse(1, 2, 1, number, 0) for number in range(3 * MESSAGES_MAX + 1)
    ]
    for answer in answers:
        outgoing.post(answer)
    outgoing.send()
    outgoing.release(answers)
    assert lane.sent == answers * 2
    assert not dropped
