"""A network inside one process: for development, tests and simulation.

Endpoints carry bytes, as sockets do, and never call a receiver from within ``send``: frames wait
in the receiving endpoint's queue, and a task that its ``serve`` owns delivers them. What the
network does to frames (loss, delay, cuts) is decided by the injected generator and clock alone, so
that one seed gives one course of events.

A *cut* swallows frames in silence, as a broken cable does: ``send`` still answers True and nobody
is told. A *disconnect* breaks connections, as a reset does: both sides are told, and they connect
again at once unless a cut is in the way.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from heapq import heappop, heappush
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from attrs import frozen

from raftkv.errors import ConfigError, RequestTooLargeError, TransportError, UsageError
from raftkv.runtime.base import Runtime, Waker
from raftkv.transport.base import Code, Hello, Lane, Receiver, Refusal
from raftkv.transport.owner import owned_tasks

__all__ = ["LinkFaults", "MemoryNetwork", "MemoryTransport", "Pipe", "Serving", "Tap"]

_log = logging.getLogger("raftkv.transport")

Tap = Callable[[int, int, Lane, bytes], bytes | None]
"""Sees every frame (sender, to, lane, frame) as it is sent; answers it, another one, or None:
lost."""

_RETRY_NS: Final = 100_000_000
_TURN_FRAMES_MAX: Final = 64  # then the loop gets a turn, so that a flood starves nobody


@frozen(kw_only=True)
class LinkFaults:
    """What happens to frames from one member to another."""

    loss_permille: int = 0
    delay_ns_min: int = 0
    delay_ns_max: int = 0

    def __attrs_post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 <= self.loss_permille <= 1000:
            raise ConfigError(f"loss_permille must be from 0 to 1000, not {self.loss_permille}")
        if not 0 <= self.delay_ns_min <= self.delay_ns_max:
            raise ConfigError(f"no delay from {self.delay_ns_min} to {self.delay_ns_max} ns")


class Pipe:
    """One lane from one endpoint to another, while it is connected."""

    def __init__(self, network: MemoryNetwork, sender: Serving, to: Serving, lane: Lane) -> None:
        self.network = network
        self.sender = sender
        self.to = to
        self.lane = lane
        self.is_open = True
        self.queued_bytes = 0
        self._last_due_ns = 0
        self._waiters: list[anyio.Event] = []

    def put(self, frame: bytes) -> bool:
        """Send a frame; False if the lane is full."""
        if self.queued_bytes + len(frame) > self.network.queue_bytes_max:
            return False
        sender, to = self.sender.hello.member_id, self.to.hello.member_id
        arriving = self.network.arriving(sender, to, self.lane, frame)
        if arriving is None:
            return True
        self.queued_bytes += len(frame)
        # Never before its predecessor: a lane keeps its order however delays are drawn.
        self._last_due_ns = max(self._last_due_ns, self.network.due_ns(sender, to))
        self.to.post(self._last_due_ns, partial(self._arrive, arriving, len(frame)))
        return True

    def _arrive(self, frame: bytes, size: int) -> None:
        if self.is_open:
            self.queued_bytes -= size
            self.wake()
            self.to.receiver.on_frame(self.sender.hello.member_id, self.lane, frame)

    def close(self) -> None:
        """Lose what is on its way."""
        self.is_open = False
        self.wake()

    def wake(self) -> None:
        """Let those go on who wait for the lane to drain, if it has."""
        if not self.is_open or 2 * self.queued_bytes <= self.network.queue_bytes_max:
            for waiter in self._waiters:
                waiter.set()
            self._waiters.clear()

    async def drained(self) -> bool:
        """Wait until it is at most half full; False if it breaks meanwhile."""
        while self.is_open and 2 * self.queued_bytes > self.network.queue_bytes_max:
            waiter = anyio.Event()
            self._waiters.append(waiter)
            await waiter.wait()
        return self.is_open


class Serving:
    """One ``serve`` of an endpoint: who it is, its pipes, and what will happen to it when."""

    def __init__(self, network: MemoryNetwork, hello: Hello, receiver: Receiver) -> None:
        self.hello = hello
        self.receiver = receiver
        self.outgoing: dict[Lane, dict[int, Pipe]] = {lane: {} for lane in Lane}
        self.connects = True  # whether somebody may have become reachable
        self.refusals: dict[int, str] = {}  # already logged
        self._network = network
        self._waker: Waker = network.runtime.waker()
        self._nap: anyio.CancelScope | None = None
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []

    def post(self, due_ns: int, action: Callable[[], None]) -> None:
        """Have the delivery task call ``action`` at ``due_ns``, in order of time and of posting."""
        heappush(self._agenda, (due_ns, self._network.next_number(), action))
        self.ring()

    def ring(self) -> None:
        """Have the delivery task look what there is to do."""
        self._waker.set()
        if self._nap is not None:
            self._nap.cancel()

    async def deliver(self, connect: Callable[[], bool]) -> None:
        """The delivery task: never ends by itself."""
        clock = self._network.runtime.clock
        complete = True
        while True:
            now = clock.monotonic_ns()
            if self.connects:
                self.connects = False
                complete = connect()
            for _ in range(_TURN_FRAMES_MAX):
                if not self._agenda or self._agenda[0][0] > now:
                    break
                heappop(self._agenda)[2]()
            if self._agenda and self._agenda[0][0] <= now:
                await checkpoint()
            elif self._agenda or not complete:
                wake_ns = self._agenda[0][0] if self._agenda else now + _RETRY_NS
                await self._nap_until(wake_ns if complete else min(wake_ns, now + _RETRY_NS))
                self.connects = self.connects or not complete
            else:
                await self._waker.wait()

    async def _nap_until(self, due_ns: int) -> None:
        with anyio.CancelScope() as self._nap:
            await self._network.runtime.clock.sleep_until(due_ns)
        self._nap = None


class MemoryTransport:
    """One member's end of a :class:`MemoryNetwork`; made by :meth:`MemoryNetwork.endpoint`."""

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.address = address
        self._network = network
        self._peers: dict[int, str] = {}
        self._serving: Serving | None = None

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame: what fits a queue."""
        return self._network.queue_bytes_max

    def serve(self, hello: Hello, receiver: Receiver) -> AbstractAsyncContextManager[None]:
        """Be reachable at the address, and connect to peers, while the context is open."""
        return self._serve(hello, receiver)

    @asynccontextmanager
    async def _serve(self, hello: Hello, receiver: Receiver) -> AsyncGenerator[None]:
        if self._serving is not None:
            raise UsageError(f"the transport at {self.address} is being served already")
        serving = self._network.serving(hello, receiver)
        self._network.listen(self.address, serving)
        self._serving = serving
        try:
            async with owned_tasks() as tasks:
                tasks.start_soon(
                    serving.deliver, self._connect, name=f"raftkv.transport.memory {self.address}"
                )
                yield
        finally:
            self._serving = None
            self._network.leave(self.address, serving)

    def announce(self, hello: Hello) -> None:
        """What to say in handshakes from now on."""
        serving = self._serving
        if serving is not None:
            serving.hello = hello
            serving.connects = True
            serving.ring()

    def checked(self, address: str) -> str:
        """The address as it is. Raises ConfigError for an empty one."""
        if not address:
            raise ConfigError("an address in the network must not be empty")
        return address

    async def ask(self, address: str, question: bytes) -> bytes:
        """What the member at ``address`` answers to somebody who is none yet.

        Raises TransportError if nobody is there.
        """
        await checkpoint()
        return self._network.ask(address, question)

    def set_peers(self, addresses: Mapping[int, str]) -> None:
        """The members to connect to; connections to those that left, and from them, are broken."""
        before, self._peers = self._peers, dict(addresses)
        serving = self._serving
        if serving is None:
            return
        for peer, address in before.items():
            if self._peers.get(peer) != address:
                self._network.disconnect(serving.hello.member_id, peer)
        serving.connects = True
        serving.ring()

    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        """Queue a frame for delivery in a later turn of the loop."""
        if len(frame) > self._network.queue_bytes_max:
            raise RequestTooLargeError(
                f"a frame of {len(frame)} bytes exceeds queue_bytes_max,"
                f" {self._network.queue_bytes_max}"
            )
        serving = self._serving
        pipe = None if serving is None else serving.outgoing[lane].get(peer)
        return pipe is not None and pipe.put(frame)

    def flush(self) -> None:
        """Nothing: the network delivers in its own time."""

    async def drained(self, peer: int, lane: Lane) -> bool:
        """Wait until the lane's queue to the peer is at most half full; False if not connected."""
        serving = self._serving
        pipe = None if serving is None else serving.outgoing[lane].get(peer)
        return pipe is not None and await pipe.drained()

    def _connect(self) -> bool:
        """Connect to whoever lets us; False to try again soon."""
        complete = True
        serving = self._serving
        if serving is None:
            return True
        for peer, address in self._peers.items():
            if peer != serving.hello.member_id and peer not in serving.outgoing[Lane.RAFT]:
                complete = self._network.connect(serving, peer, address) and complete
        return complete


class MemoryNetwork:
    """Endpoints by address, and what happens on the way between them.

    ``queue_bytes_max`` bounds each lane between two members; a full lane drops.
    """

    def __init__(self, runtime: Runtime, *, queue_bytes_max: int = 16 * 2**20) -> None:
        self.runtime = runtime
        self.queue_bytes_max = queue_bytes_max
        self.faults = LinkFaults()
        """For every link that has no faults of its own."""
        self.tap: Tap | None = None
        self._link_faults: dict[tuple[int, int], LinkFaults] = {}
        self._cuts: set[tuple[int, int]] = set()
        self._listening: dict[str, Serving] = {}
        self._number = 0

    # --- for those who build a cluster or break it ---

    def endpoint(self, address: str) -> MemoryTransport:
        """A transport that will be reachable at ``address``."""
        return MemoryTransport(self, address)

    def set_faults(self, sender: int, to: int, faults: LinkFaults) -> None:
        """What happens to frames from ``sender`` to ``to``, instead of ``faults``."""
        self._link_faults[sender, to] = faults

    def cut(self, sender: int, to: int) -> None:
        """Swallow all frames from ``sender`` to ``to``; the other way stays open."""
        self._cuts.add((sender, to))

    def partition(self, *groups: Collection[int]) -> None:
        """Cut both ways between all members of different groups; heals nothing."""
        for here in groups:
            for there in groups:
                if here is not there:
                    self._cuts.update((one, other) for one in here for other in there)

    def heal(self) -> None:
        """Undo all cuts and all faults, those of single links too."""
        self._cuts.clear()
        self._link_faults.clear()
        self.faults = LinkFaults()
        self._news()

    def disconnect(self, one: int, other: int) -> None:
        """Break all connections between two members; what is queued in them is lost."""
        for serving in self._listening.values():
            for peer in (one, other):
                if serving.hello.member_id in (one, other):
                    self._close(serving, peer)
        self._news()

    # --- for endpoints ---

    def serving(self, hello: Hello, receiver: Receiver) -> Serving:
        """What an endpoint is while it is served; others deliver otherwise."""
        return Serving(self, hello, receiver)

    def pipe(self, sender: Serving, to: Serving, lane: Lane) -> Pipe:
        """One lane of a new connection; others lose otherwise."""
        return Pipe(self, sender, to, lane)

    def listen(self, address: str, serving: Serving) -> None:
        """Make ``serving`` reachable."""
        if address in self._listening:
            raise TransportError(f"the address {address} is in use; stop who serves there first")
        self._listening[address] = serving
        self._news()

    def leave(self, address: str, serving: Serving) -> None:
        """Undo ``listen`` and break all connections."""
        del self._listening[address]
        for pipes in serving.outgoing.values():
            for pipe in pipes.values():
                pipe.close()
        for other in self._listening.values():
            self._close(other, serving.hello.member_id, serving)

    def connect(self, dialer: Serving, peer: int, address: str) -> bool:
        """Handshake and connect all lanes; False if it was refused and may be tried again."""
        acceptor = self._listening.get(address)
        me = dialer.hello.member_id
        if acceptor is None or (me, peer) in self._cuts or (peer, me) in self._cuts:
            return True  # whoever changes that brings news
        refusal = self._refusal(dialer, acceptor, peer)
        refused = refusal or dialer.receiver.accepts(acceptor.hello)
        if refused is not None:
            if dialer.refusals.get(peer) != refused.sentence:
                dialer.refusals[peer] = refused.sentence
                names = dialer.receiver.name_of(me), dialer.receiver.name_of(peer)
                _log.warning("member %s cannot connect to member %s: %s", *names, refused.sentence)
            if refusal is not None:
                now = self.runtime.clock.monotonic_ns()
                dialer.post(now, partial(dialer.receiver.on_refused, peer, refusal))
            return False
        dialer.refusals.pop(peer, None)
        for lane in Lane:
            dialer.outgoing[lane][peer] = self.pipe(dialer, acceptor, lane)
        now = self.runtime.clock.monotonic_ns()
        dialer.post(now, partial(dialer.receiver.on_up, peer, acceptor.hello))
        acceptor.post(now, partial(acceptor.receiver.on_up, me, dialer.hello))
        return True

    def ask(self, address: str, question: bytes) -> bytes:
        """The answer of who is reachable there; cuts are between members, and do not matter."""
        there = self._listening.get(address)
        if there is None:
            raise TransportError(f"cannot ask {address}: nobody is there")
        return there.receiver.on_question(question)

    def arriving(self, sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
        """What becomes of a frame: itself, a changed one, or None if it is lost."""
        if (sender, to) in self._cuts:
            return None
        loss = self._link_faults.get((sender, to), self.faults).loss_permille
        if loss and self.runtime.rng.below(1000) < loss:
            return None
        return frame if self.tap is None else self.tap(sender, to, lane, frame)

    def due_ns(self, sender: int, to: int) -> int:
        """When a frame sent now arrives."""
        faults = self._link_faults.get((sender, to), self.faults)
        delay = faults.delay_ns_min
        spread = faults.delay_ns_max - faults.delay_ns_min
        if spread:
            delay += self.runtime.rng.below(spread + 1)
        return self.runtime.clock.monotonic_ns() + delay

    def next_number(self) -> int:
        """Orders what is due at the same time."""
        self._number += 1
        return self._number

    @staticmethod
    def _refusal(dialer: Serving, acceptor: Serving, peer: int) -> Refusal | None:
        """Why the acceptor does not let the dialer in."""
        there, here = acceptor.hello.cluster_id, dialer.hello.cluster_id
        if there != here:
            return Refusal(Code.CLUSTER, f"cluster {there:x} is not ours, {here:x}")
        if acceptor.hello.member_id != peer:
            return Refusal(Code.RECEIVER, f"member {acceptor.hello.member_id:x} answers there")
        return acceptor.receiver.accepts(dialer.hello)

    def _close(self, serving: Serving, peer: int, to: Serving | None = None) -> None:
        """Close the pipes of ``serving`` to ``peer`` (only those that end at ``to``, if given)."""
        pipe = serving.outgoing[Lane.RAFT].get(peer)
        if pipe is None or (to is not None and pipe.to is not to):
            return
        for lane in Lane:
            serving.outgoing[lane].pop(peer).close()
        serving.post(self.runtime.clock.monotonic_ns(), partial(serving.receiver.on_down, peer))

    def _news(self) -> None:
        for serving in self._listening.values():
            serving.connects = True
            serving.ring()
