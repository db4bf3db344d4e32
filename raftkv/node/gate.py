"""The transport's view of the node: what it calls when something arrives."""

from __future__ import annotations

from raftkv.node.joining import answer_question
from raftkv.node.start import Hands
from raftkv.transport.base import Code, Hello, Lane, Refusal


class Gate:
    """The ``Receiver`` port."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    def on_frame(self, peer: int, lane: Lane, frame: bytes) -> None:
        """A frame arrived."""
        self._hands.loop.on_frame(peer, lane, frame)

    def on_up(self, peer: int, hello: Hello) -> None:
        """A connection passed the handshake."""
        self._hands.upkeep.on_up(peer, hello)
        self._hands.waker.set()

    def on_down(self, peer: int) -> None:
        """Frames to the peer are being lost."""
        self._hands.peers.down(peer)
        self._hands.loop.on_down(peer)

    def name_of(self, peer: int) -> str:
        """What to call a member in the log."""
        return self._hands.peers.called(peer)

    def accepts(self, hello: Hello) -> Refusal | None:
        """None to let the peer in; else why not."""
        self._hands.loop.note_acknowledged()
        return self._hands.peers.refusal(hello)

    def on_question(self, question: bytes) -> bytes:
        """What to answer somebody who is no member yet."""
        peers = self._hands.peers
        return answer_question(
            question, peers.cluster_id, self._hands.changes.roster, peers.disks.knows
        )

    def on_refused(self, peer: int, refusal: Refusal) -> None:
        """The peer does not let us in."""
        self._hands.recovery.on_refused(peer, refusal)
        if refusal.code == Code.REMOVED:
            self._hands.changes.removed(self._hands.disk.batch)
