"""A network between simulated processes: what becomes of every frame is a decision of the run.

It carries whole frames, as the Transport port does, not the bytes of a stream: how a stream is
cut, checked and negotiated is the business of ``transport.wire`` and of the suites that try
adapters. The one exception is a frame that is hit by a *flip*: it is put on the wire as the TCP
adapter does it, one bit of it is changed, and what the frame parser makes of it decides. It must
notice; the connection breaks then, as over TCP.

Connections, handshakes, cuts and bounds are those of
:class:`~raftkv.transport.memory.MemoryNetwork`. Different is how frames travel: each is a timer in
the receiving process, which does not run while that is paused, nor ever once it is killed.

Frames that are late, doubled or from an earlier life break the order that the port promises: Raft's
own messages must survive that. A forwarded command and everything on the lane of snapshots rely on
that promise, and are never touched by these three.
"""

from __future__ import annotations

from asyncio import Future, Handle
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context, copy_context
from enum import IntEnum
from typing import Final

from attrs import frozen

from raftkv.core.messages import ForwardProposal
from raftkv.errors import InvariantError, UsageError, WireError
from raftkv.runtime.base import Runtime
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.loop import OWNER, Owner, VirtualLoop
from raftkv.testing.nodes.runtime import Quantiles, drawn
from raftkv.testing.story import Kind, StoryWriter
from raftkv.transport.base import Hello, Lane, Receiver
from raftkv.transport.codec import decode_messages
from raftkv.transport.memory import LinkFaults, MemoryNetwork, Pipe, Serving
from raftkv.transport.wire import FRAME_OVERHEAD_BYTES, FrameParser, encode_frame

_RETRY_NS: Final = 100_000_000
_RECORDED_MAX: Final = 64


class Fate(IntEnum):
    """What becomes of a frame."""

    ARRIVES = 0
    LOST = 1
    RESET = 2
    """It breaks the connection; what is on its way with it is lost."""
    FLIPPED = 3
    DOUBLED = 4
    """It arrives, and once more, late: after others, or on another connection."""
    LATE = 5
    """It is overtaken by others."""
    REPLAYED = 6
    """It arrives, and with it an old frame of that link, perhaps of an earlier life."""


@frozen(kw_only=True)
class Weather:
    """What happens to frames. Rates are per mille; together at most 1000."""

    latency_ns: Quantiles = (100_000,)
    """Large ones clog the lane: what is sent later waits behind."""
    late_ns: Quantiles = (5_000_000, 50_000_000, 400_000_000, 2_000_000_000)
    """By how much frames are late that are doubled, late or replayed."""
    lost: int = 0
    reset: int = 0
    flipped: int = 0
    doubled: int = 0
    late: int = 0
    replayed: int = 0

    @property
    def weights(self) -> tuple[int, ...]:
        """By :class:`Fate`; empty if every frame arrives."""
        rates = (self.lost, self.reset, self.flipped, self.doubled, self.late, self.replayed)
        return (max(0, 1000 - sum(rates)), *rates) if any(rates) else ()


class SimServing(Serving):
    """One ``serve`` of an endpoint, in its process: everything that happens to it is a timer."""

    def __init__(self, network: SimNetwork, hello: Hello, receiver: Receiver) -> None:
        super().__init__(network, hello, receiver)
        self.owner: Owner | None = OWNER.get()
        self.context: Context = copy_context()
        self._loop = network.loop
        self._failure: Future[None] = network.loop.create_future()
        self._connect: Callable[[], bool] | None = None
        self._rung: Handle | None = None

    @property
    def hears(self) -> bool:
        """Whether its process runs, and is still served."""
        if self._failure.done():
            return False
        return self.owner is None or (self.owner.is_alive and not self.owner.is_paused)

    def post(self, due_ns: int, action: Callable[[], None]) -> None:
        """Have ``action`` called in its process at ``due_ns``."""
        self._loop.call_at_ns(due_ns, self.do, action, context=self.context)

    def do(self, action: Callable[[], None]) -> None:
        """Call the receiver now; what it raises is the end of the node, as ``serve`` says."""
        if not self._failure.done():
            try:
                action()
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """The receiver raised: the end of the node, as ``serve`` says."""
        if not self._failure.done():
            self._failure.set_exception(error)

    def ring(self) -> None:
        """Look in the next turn who has become reachable."""
        if self._rung is None and self._connect is not None:
            self._rung = self._loop.call_soon(self._look, context=self.context)

    def _look(self) -> None:
        self._rung = None
        if self.connects and self._connect is not None and not self._failure.done():
            self.connects = False
            self.do(self._try)

    def _try(self) -> None:
        if self._connect is not None and not self._connect():
            self._loop.call_at_ns(self._loop.now_ns + _RETRY_NS, self._again, context=self.context)

    def _again(self) -> None:
        self.connects = True
        self.ring()

    async def deliver(self, connect: Callable[[], bool]) -> None:
        """Be there until cancelled, or until the receiver fails, which this raises."""
        self._connect = connect
        self.ring()
        try:
            await self._failure
        finally:
            self._connect = None


class SimPipe(Pipe):
    """One lane of one connection."""

    def __init__(self, network: SimNetwork, sender: Serving, to: Serving, lane: Lane) -> None:
        super().__init__(network, sender, to, lane)
        self.queued_bytes: int = 0
        self._net = network
        self._loop = network.loop
        self._due_ns = 0
        self._on_the_way: deque[tuple[bytes, int]] = deque()
        self._from = sender.hello.member_id
        self._to = to.hello.member_id
        self._context = to.context if isinstance(to, SimServing) else copy_context()

    def put(self, frame: bytes) -> bool:
        """Send a frame; False if the lane is full."""
        net = self._net
        if self.queued_bytes + len(frame) > net.queue_bytes_max:
            return False
        sent = net.told(Kind.SEND, self._from, self._to, frame, 0)
        fate = net.fate(self._from, self._to, self.lane, frame)
        if net.tap is not None:
            seen = net.tap(self._from, self._to, self.lane, frame)
            if seen is None:
                fate = Fate.LOST
            else:
                frame = seen
        if fate is Fate.ARRIVES:
            self._travel(frame, sent)
        elif fate is Fate.LOST:
            net.told(Kind.LOST, self._from, self._to, frame, sent)
        elif fate is Fate.LATE:
            net.deliver_late(self, frame, sent)
        elif fate is Fate.RESET:
            net.told(Kind.LOST, self._from, self._to, frame, sent)
            net.disconnect(self._from, self._to)
        elif fate is Fate.FLIPPED:
            net.told(Kind.LOST, self._from, self._to, frame, sent)
            net.flip(frame, self.lane)
            net.disconnect(self._from, self._to)
        else:
            self._travel(frame, sent)
            again = frame if fate is Fate.DOUBLED else net.recorded(self._from, self._to)
            net.deliver_late(self, again, sent)
        return True

    def _travel(self, frame: bytes, sent: int) -> None:
        self.queued_bytes += len(frame)
        net = self._net
        # Never before its predecessor. The frame itself waits in the lane: timers that are due
        # together may be shuffled.
        due_ns = self._loop.now_ns + drawn(
            net.weather_of(self._from, self._to).latency_ns, net.choices
        )
        if due_ns < self._due_ns:
            due_ns = self._due_ns
        self._due_ns = due_ns
        self._on_the_way.append((frame, sent))
        self._loop.call_at_ns(due_ns, self._arrives, context=self._context)

    def _arrives(self) -> None:
        frame, sent = self._on_the_way.popleft()
        self.queued_bytes -= len(frame)
        if self.is_open:
            self.wake()
            self._net.arrived(self.to, self._from, self._to, self.lane, frame, sent)
        else:
            self._net.told(Kind.LOST, self._from, self._to, frame, sent)


class SimNetwork(MemoryNetwork):
    """Endpoints by address, for simulated processes on a virtual loop.

    ``weather`` holds for all links but those in ``link_weather``, which maps (sender, to).
    ``counts`` tells how many frames met which fate.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        runtime: Runtime,
        choices: Choices,
        *,
        weather: Weather | None = None,
        story: StoryWriter | None = None,
        name_of: Callable[[int], str] = str,
    ) -> None:
        super().__init__(runtime)
        self.loop = loop
        self.choices = choices
        self.link_weather: dict[tuple[int, int], Weather] = {}
        self.counts: Counter[Fate] = Counter()
        self._story = story
        self._name_of = name_of
        self._pool: dict[tuple[int, int], deque[bytes]] = {}
        self._weather = Weather()
        self._weights: tuple[int, ...] = ()
        self.weather = weather or Weather()

    @property
    def weather(self) -> Weather:
        """What happens to frames on links without a weather of their own."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self._weights = weather.weights

    def weather_of(self, sender: int, to: int) -> Weather:
        """What happens on a link."""
        return (
            self.link_weather.get((sender, to), self._weather)
            if self.link_weather
            else self._weather
        )

    def set_faults(self, sender: int, to: int, faults: LinkFaults) -> None:
        """Raises UsageError: what happens here is the weather."""
        raise UsageError("a simulated network has weather: set weather or link_weather")

    def heal(self) -> None:
        """Undo all cuts and let all frames arrive; latencies stay."""
        self.weather = Weather(latency_ns=self._weather.latency_ns, late_ns=self._weather.late_ns)
        self.link_weather.clear()
        super().heal()

    def mend(self, sender: int, to: int) -> None:
        """Undo one cut."""
        self._cuts.discard((sender, to))
        self._news()

    def cuts(self) -> tuple[tuple[int, int], ...]:
        """Which links are cut: (sender, to)."""
        return tuple(sorted(self._cuts))

    def gone(self, address: str, *, is_told: bool) -> None:
        """The process that served there was killed: frames that it sent still arrive.

        Others hear of it by a reset, or (as after a power cut) not before somebody is there again.
        """
        serving = self._listening.pop(address, None)
        if serving is None:
            return
        if is_told:
            for other in [*self._listening.values()]:
                self._close(other, serving.hello.member_id, serving)

    # --- for endpoints ----------------------------------------------------------------------------

    def serving(self, hello: Hello, receiver: Receiver) -> Serving:
        """An endpoint in the process that calls."""
        return SimServing(self, hello, receiver)

    def pipe(self, sender: Serving, to: Serving, lane: Lane) -> Pipe:
        """One lane of a new connection."""
        return SimPipe(self, sender, to, lane)

    def listen(self, address: str, serving: Serving) -> None:
        """Make ``serving`` reachable; what still leads to an earlier life of it breaks."""
        for other in self._listening.values():
            pipe = other.outgoing[Lane.RAFT].get(serving.hello.member_id)
            if pipe is not None:
                self._close(other, serving.hello.member_id, pipe.to)
        super().listen(address, serving)

    def connect(self, dialer: Serving, peer: int, address: str) -> bool:
        """As in memory; who stands still does not answer, and is tried again."""
        acceptor = self._listening.get(address)
        if isinstance(acceptor, SimServing) and not acceptor.hears:
            return False
        return super().connect(dialer, peer, address)

    # --- what becomes of frames -------------------------------------------------------------------

    def fate(self, sender: int, to: int, lane: Lane, frame: bytes) -> Fate:
        """Decide it."""
        if self._cuts and (sender, to) in self._cuts:
            self.counts[Fate.LOST] += 1
            return Fate.LOST
        own = self.link_weather.get((sender, to)) if self.link_weather else None
        weights = self._weights if own is None else own.weights
        if not weights:
            return Fate.ARRIVES
        if weights[Fate.REPLAYED] and lane is Lane.RAFT:
            self._pool.setdefault((sender, to), deque(maxlen=_RECORDED_MAX)).append(frame)
        fate = Fate(self.choices.weighted(weights))
        if fate >= Fate.DOUBLED and not (lane is Lane.RAFT and _repeatable(frame)):
            fate = Fate.ARRIVES
        if fate:
            self.counts[fate] += 1
        return fate

    def recorded(self, sender: int, to: int) -> bytes:
        """An old frame of the link."""
        pool = self._pool[sender, to]
        return pool[self.choices.choose(len(pool))]

    def deliver_late(self, pipe: SimPipe, frame: bytes, sent: int) -> None:
        """Let a frame arrive at whoever is there then, in whatever life."""
        sender, to = pipe.sender.hello.member_id, pipe.to.hello.member_id
        if not _repeatable(frame):
            return
        due_ns = self.loop.now_ns + drawn(self.weather_of(sender, to).late_ns, self.choices)
        self.loop.call_at_ns(due_ns, self._late, sender, to, frame, sent, context=_outside)

    def _late(self, sender: int, to: int, frame: bytes, sent: int) -> None:
        for serving in self._listening.values():
            if serving.hello.member_id == to and isinstance(serving, SimServing):
                self.loop.call_soon(
                    self.arrived, serving, sender, to, Lane.RAFT, frame, sent,
                    context=serving.context,
                )  # fmt: skip

    def arrived(
        self, at: Serving, sender: int, to: int, lane: Lane, frame: bytes, sent: int
    ) -> None:
        """Hand a frame to the receiver."""
        if self._story is not None:
            self.told(Kind.DELIVER, sender, to, frame, sent)
        try:
            at.receiver.on_frame(sender, lane, frame)
        except Exception as error:
            if not isinstance(at, SimServing):
                raise
            at.fail(error)

    def flip(self, frame: bytes, lane: Lane) -> None:
        """Change one bit of the frame as it is on the wire. The parser must notice."""
        wire = bytearray(encode_frame(lane, frame))
        place = self.choices.choose(8 * len(wire))
        wire[place // 8] ^= 1 << place % 8
        parser = FrameParser(len(frame) + FRAME_OVERHEAD_BYTES)
        try:
            got = parser.feed(bytes(wire))
        except WireError:
            return
        if got:
            raise InvariantError(f"bit {place} of a frame of {len(frame)} bytes flipped unnoticed")

    def told(self, kind: Kind, sender: int, to: int, frame: bytes, sent: int) -> int:
        """Record it, if anybody records."""
        if self._story is None:
            return 0
        here, there = self._name_of(sender), self._name_of(to)
        if kind is Kind.DELIVER:
            here, there = there, here
        return self._story.event(
            self.loop.now_ns / 1e9, here, kind, frame, peer=there, message=sent or None
        )


_outside: Final = Context()


def _repeatable(frame: bytes) -> bool:
    """Whether a second copy of the frame is Raft's own business."""
    try:
        return not any(isinstance(one, ForwardProposal) for one in decode_messages(frame))
    except WireError:
        return True
