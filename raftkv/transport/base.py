"""PORT: how frames reach other members.

Frames are bytes: the node encodes messages (``transport.codec``) and the adapter carries them
whole, in order per lane, or not at all. Nothing here waits for a peer: queues are bounded and a
full one drops, which Raft repairs by probing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Final, Protocol

from attrs import frozen


class Lane(IntEnum):
    """Independent streams to one peer. The numbers are on the wire: they never change."""

    RAFT = 1  # consensus messages, small and urgent
    BULK = 2  # snapshot chunks


@frozen(slots=True)
class Hello:
    """Who a member is, as exchanged in the handshake.

    ``address`` is where the member says it can be reached. Ids are pure functions of addresses, so
    that a receiver can judge a member it has not yet heard of; over TLS the certificate must name
    the address's host.

    ``boot_token`` is 16 random bytes, new at each opening of the data directory: an equal ``boot``
    with another token is another copy of it. ``last_index`` is where its log ended when this boot
    began; later it has grown. ``recovering``: it knows that its disk lost what it promised, and
    neither votes nor has its acknowledgements counted until the others have made it whole.
    """

    cluster_id: int
    member_id: int
    disk_uuid: bytes
    boot: int
    address: str = ""
    boot_token: bytes = bytes(16)
    last_index: int = 0
    recovering: bool = False


class Code(IntEnum):
    """Why a connection is refused. The numbers are on the wire: they never change."""

    VERSION = 1  # no protocol version in common
    CLUSTER = 2  # another cluster
    RECEIVER = 3  # somebody else was to be reached at this address
    IDENTITY = 4  # unknown, or with another disk than it had
    CERTIFICATE = 5  # the certificate is not that member's
    REGRESSED = 6  # its disk is an old copy of itself: welcome once it says that it is recovering
    REMOVED = 7  # it was a member, and never is again under that id


QUESTION_BYTES_MAX: Final = 2048
ANSWER_BYTES_MAX: Final = 64 * 1024


@frozen(slots=True)
class Refusal:
    """Why a connection is not accepted: for the other side's log, and for it to act on."""

    code: int
    sentence: str


class Receiver(Protocol):
    """The node's side. Called on the loop; must return quickly and not raise.

    An exception that escapes all the same ends ``serve``, which raises it: the node's failure.
    """

    def on_frame(self, peer: int, lane: Lane, frame: bytes) -> None:
        """A whole, checksummed frame of an authenticated peer."""
        ...

    def on_up(self, peer: int, hello: Hello) -> None:
        """A connection to or from the peer passed the handshake; called for each one."""
        ...

    def on_down(self, peer: int) -> None:
        """Frames to the peer are being lost: the outgoing connection of its RAFT lane broke."""
        ...

    def name_of(self, peer: int) -> str:
        """What people call a member, for the log; its id in hexadecimal if it has no name here."""
        ...

    def accepts(self, hello: Hello) -> Refusal | None:
        """None to let the peer in; else why not (unknown id, changed disk uuid).

        Asked in every handshake, whichever side connected, before ``on_up``.
        """
        ...

    def on_refused(self, peer: int, refusal: Refusal) -> None:
        """The peer, which we dialled, does not let us in; called at each attempt."""
        ...

    def on_question(self, question: bytes) -> bytes:
        """What to answer somebody who is no member yet. At most ``ANSWER_BYTES_MAX`` bytes.

        Over TLS its certificate is good, but says nothing about who it is.
        """
        ...


class Transport(Protocol):
    """Carries frames between members. ``serve`` is the only way in."""

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame ``send`` takes; a longer one raises RequestTooLargeError."""
        ...

    def serve(self, hello: Hello, receiver: Receiver) -> AbstractAsyncContextManager[None]:
        """Listen and connect while the context is open.

        Raises TransportError if the port is in use, UsageError if it is being served already.
        """
        ...

    def announce(self, hello: Hello) -> None:
        """What to say in handshakes from now on; established connections stay.

        For what changes while being served: ids do not. Peers that refused us are tried again soon.
        """
        ...

    def checked(self, address: str) -> str:
        """The address in its one way of writing. Raises ConfigError for one that cannot be."""
        ...

    async def ask(self, address: str, question: bytes) -> bytes:
        """What the member that listens at ``address`` answers to somebody who is none yet.

        For joining; needs no ``serve``. Raises TransportError if no answer comes in time,
        ConfigError for an address that cannot be.
        """
        ...

    def set_peers(self, addresses: Mapping[int, str]) -> None:
        """The members to connect to, without ourselves; connections to others are closed.

        May be called before and during ``serve``. Raises ConfigError for an address that cannot be.
        """
        ...

    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        """Queue a frame; False if it was dropped at once (unknown peer, not connected, queue full).

        Never blocks. Frames queued in one turn of the loop leave in one joined write. Raises
        RequestTooLargeError for a frame that no queue would ever take.
        """
        ...

    def flush(self) -> None:
        """Write what is queued now, rather than at the end of the loop's turn."""
        ...

    async def drained(self, peer: int, lane: Lane) -> bool:
        """Wait until the lane's queue to the peer is at most half full.

        False if it is not connected, or the connection breaks meanwhile.
        """
        ...
