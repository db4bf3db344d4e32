"""Members over TCP, in the clear on one machine, through TLS between machines.

Every member dials every peer, one connection for each lane, and sends on these alone; on
connections that it accepted it only receives. Who is who is settled by the handshake of
:mod:`raftkv.transport.wire`, and over TLS by certificates that name the peers' hosts. Whatever
breaks a rule is closed with one line in the log ``raftkv.transport``, and nothing else happens to
the node.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager

import anyio
from anyio.abc import TaskGroup

from raftkv.errors import (
    ConfigError,
    RequestTooLargeError,
    TransportError,
    UsageError,
)
from raftkv.runtime.base import Runtime
from raftkv.transport.base import Code, Hello, Lane, Receiver, Refusal
from raftkv.transport.owner import owned_tasks
from raftkv.transport.tcp_ask import ask
from raftkv.transport.tcp_channel import Channel, Cipher, reason_of, tune
from raftkv.transport.tcp_context import Context
from raftkv.transport.tcp_inlet import Inlet
from raftkv.transport.tcp_outlet import Outlet
from raftkv.transport.tcp_reactor import make_reactor
from raftkv.transport.tcp_settings import Address, Limits, parse_address
from raftkv.transport.tcp_tls import Tls, TlsCipher, TlsContexts
from raftkv.transport.wire import Greeting

__all__ = ["Limits", "TcpTransport", "Tls"]

_log = logging.getLogger("raftkv.transport")

_BACKLOG = 128
_ACCEPTS_PER_TURN_MAX = 16
_SWEEP_SECONDS_MAX = 0.5
_LANES = tuple(Lane)


class TcpTransport:
    """One member's sockets. ``listen`` is ``host:port`` or ``[v6]:port``; port 0 takes a free one.

    Without TLS, addresses beyond loopback are refused with ConfigError, here and in
    :meth:`set_peers`, unless ``insecure``: whoever reaches the port could speak for any member.
    """

    def __init__(
        self,
        listen: str,
        *,
        runtime: Runtime,
        tls: Tls | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self._runtime = runtime
        if tls is not None and insecure:
            raise ConfigError("tls and insecure=True contradict each other: choose one")
        self._is_open = insecure or tls is not None
        self.contexts = None if tls is None else TlsContexts(tls)
        self._listen = parse_address(listen, port_min=0)
        self._check_secure(self._listen, listen)
        self._peers: dict[int, Address] = {}
        self._serving: _Serving | None = None
        self._claimed: socket.socket | None = None

    @property
    def address(self) -> str:
        """Where we listen; with the actual port while being served."""
        serving = self._serving
        return str(self._listen if serving is None else serving.bound)

    @asynccontextmanager
    async def claimed(self) -> AsyncGenerator[None]:
        """Hold the address for :meth:`serve` while the context is open; nobody is let in yet.

        Raises TransportError if the address cannot be had.
        """
        with closing(await _bound(self._listen)) as listener:
            self._claimed = listener
            try:
                yield
            finally:
                self._claimed = None

    def serve(self, hello: Hello, receiver: Receiver) -> AbstractAsyncContextManager[None]:
        """Listen and connect while the context is open.

        Raises TransportError if the address cannot be listened on, UsageError if it is being
        served.
        """
        return self._serve(hello, receiver)

    @asynccontextmanager
    async def _serve(self, hello: Hello, receiver: Receiver) -> AsyncGenerator[None]:
        if self._serving is not None:
            raise UsageError(f"the transport at {self._listen} is being served already")
        claimed, self._claimed = self._claimed, None
        with closing(claimed or await _bound(self._listen)) as listener:
            with _named(self._listen):
                listener.listen(_BACKLOG)
            async with owned_tasks() as tasks:
                serving = _Serving(self, tasks, listener, hello, receiver)
                self._serving = serving
                try:
                    serving.start()
                    serving.set_peers(self._peers)
                    yield
                finally:
                    self._serving = None
                    serving.close()

    def announce(self, hello: Hello) -> None:
        """What to say in handshakes from now on."""
        if self._serving is not None:
            self._serving.announce(hello)

    def checked(self, address: str) -> str:
        """The address in its one way of writing.

        Raises ConfigError for one that cannot be, or that is beyond loopback without TLS.
        """
        parsed = parse_address(address)
        self._check_secure(parsed, address)
        return str(parsed)

    async def ask(self, address: str, question: bytes) -> bytes:
        """What the member that listens at ``address`` answers to somebody who is none yet.

        Raises TransportError if no answer comes in time, ConfigError for an address that cannot be.
        """
        parsed = parse_address(address)
        self._check_secure(parsed, address)
        return await ask(
            parsed,
            question,
            runtime=self._runtime,
            cipher=None if self.contexts is None else self.contexts.dialling(parsed.host),
            limits=self.limits,
            loopback_only=self.loopback_only,
        )

    def set_peers(self, addresses: Mapping[int, str]) -> None:
        """The members to connect to; connections to those that left, and from them, are closed.

        An entry of ourselves is passed over. Raises ConfigError, and changes nothing, for an
        address that cannot be or that is beyond loopback without TLS.
        """
        peers: dict[int, Address] = {}
        for member, text in addresses.items():
            peers[member] = parse_address(text)
            self._check_secure(peers[member], text)
        self._peers = peers
        if self._serving is not None:
            self._serving.set_peers(peers)

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame; see Limits."""
        return self.limits.frame_bytes_max

    def send(self, peer: int, frame: bytes, lane: Lane = Lane.RAFT) -> bool:
        """Queue a frame; False if it was dropped."""
        if len(frame) > self.limits.frame_bytes_max:
            raise RequestTooLargeError(
                f"a frame of {len(frame)} bytes exceeds frame_bytes_max,"
                f" {self.limits.frame_bytes_max}"
            )
        serving = self._serving
        if serving is None:
            return False
        outlet = serving.outlets[lane].get(peer)
        return outlet is not None and outlet.put(frame)

    def flush(self) -> None:
        """Write what is queued for whom now."""
        serving = self._serving
        if serving is not None:
            for outlets in serving.outlets.values():
                for outlet in outlets.values():
                    if outlet.queued_bytes:
                        outlet.flush()

    async def drained(self, peer: int, lane: Lane) -> bool:
        """Wait until the lane's queue to the peer is at most half full; False if not connected."""
        serving = self._serving
        outlet = None if serving is None else serving.outlets[lane].get(peer)
        return outlet is not None and await outlet.drained()

    def _check_secure(self, address: Address, text: str) -> None:
        if not self._is_open and not address.is_loopback:
            raise ConfigError(
                f"{text!r} is not loopback, and without TLS whoever reaches it could speak for any"
                " member: pass tls=Tls(...), or insecure=True where the network is yours alone"
            )

    @property
    def runtime(self) -> Runtime:
        """The world."""
        return self._runtime

    @property
    def loopback_only(self) -> bool:
        """Whether names must stand for loopback addresses."""
        return not self._is_open


class _Serving:
    """One ``serve``: its listener, its connections, and the tasks that tend them."""

    def __init__(
        self,
        transport: TcpTransport,
        tasks: TaskGroup,
        listener: socket.socket,
        hello: Hello,
        receiver: Receiver,
    ) -> None:
        self._context = Context(
            hello,
            receiver,
            transport.runtime,
            transport.limits,
            make_reactor(tasks, transport.runtime.waker()),
            transport.loopback_only,
        )
        self._contexts = transport.contexts
        host, port = listener.getsockname()[:2]
        self.bound = Address(host, port)
        self.outlets: dict[Lane, dict[int, Outlet]] = {lane: {} for lane in Lane}
        self._peers: Mapping[int, Address] = {}
        self._tasks = tasks
        self._listener = listener
        # Dictionaries as ordered sets: the oldest stranger comes first.
        self._strangers: dict[Inlet, None] = {}
        self._inlets: dict[Inlet, None] = {}
        self._is_closed = False

    def start(self) -> None:
        """Begin to accept, and to watch the time."""
        for body, name in ((self._accept, "accept"), (self._sweep, "sweep")):
            self._tasks.start_soon(body, name=f"raftkv.transport.{name} {self.bound}")

    def close(self) -> None:
        """Close every connection, without a word."""
        self._is_closed = True
        for inlet in (*self._strangers, *self._inlets):
            inlet.close("we are ending", logging.DEBUG)
        for outlet in self._all_outlets():
            outlet.abandon()

    def announce(self, hello: Hello) -> None:
        """Introduce ourselves as that from now on, and to who refused us again."""
        self._context.hello = hello
        for outlet in self._all_outlets():
            outlet.hurry()

    def set_peers(self, peers: Mapping[int, Address]) -> None:
        """Stop what is not wanted any more, start what is missing."""
        before, self._peers = self._peers, peers
        for peer, address in before.items():
            if peers.get(peer) != address:
                self._forget(peer)
        for peer, address in peers.items():
            if peer == self._context.hello.member_id:
                continue
            for lane in _LANES:
                if peer not in self.outlets[lane]:
                    outlet = Outlet(self, self._context, peer, address, lane)
                    self.outlets[lane][peer] = outlet
                    name = f"raftkv.transport.dial {peer:x} {lane.name}"
                    self._tasks.start_soon(outlet.run, name=name)

    def _forget(self, peer: int) -> None:
        for lane in _LANES:
            outlet = self.outlets[lane].pop(peer, None)
            if outlet is not None:
                outlet.stop()
        for inlet in [*self._inlets]:
            if inlet.greeting is not None and inlet.greeting.hello.member_id == peer:
                inlet.close("the member left, or moved", logging.DEBUG)

    # --- what connections ask ---

    def dialling_cipher(self, host: str) -> Cipher | None:
        """TLS that insists on ``host``; None in the clear."""
        return None if self._contexts is None else self._contexts.dialling(host)

    def judge(self, greeting: Greeting, cipher: Cipher | None) -> Refusal | None:
        """Whether the dialer is who it says, and may come in."""
        if isinstance(cipher, TlsCipher):
            refusal = self._check_certificate(greeting.hello, cipher)
            if refusal is not None:
                return refusal
        return self._context.receiver.accepts(greeting.hello)

    def _check_certificate(self, hello: Hello, cipher: TlsCipher) -> Refusal | None:
        """The certificate must name the member's host: the one we know, else the one it claims.

        A member that we have not heard of yet must be let in to tell us of itself; whether its id
        belongs to the address that it claims is for ``accepts`` to say.
        """
        address = self._peers.get(hello.member_id)
        if address is None:
            try:
                address = parse_address(hello.address)
            except ConfigError:
                sentence = f"member {hello.member_id:x} is unknown and tells no address"
                return Refusal(Code.CERTIFICATE, sentence)
        if cipher.names(address.host):
            return None
        sentence = (
            f"the certificate does not name {address.host}, where member {hello.member_id:x} is"
        )
        return Refusal(Code.CERTIFICATE, sentence)

    def on_let_in(self, inlet: Inlet, greeting: Greeting) -> None:
        """A stranger became a peer; an older connection of the same lane is dead or will be."""
        del self._strangers[inlet]
        peer = greeting.hello.member_id
        for other in [*self._inlets]:
            known = other.greeting
            if known is not None and (known.hello.member_id, known.lane) == (peer, greeting.lane):
                other.close("it connected anew", logging.DEBUG)
        self._inlets[inlet] = None
        for lane in _LANES:
            outlet = self.outlets[lane].get(peer)
            if outlet is not None:
                outlet.hurry()
        self._context.receiver.on_up(peer, greeting.hello)

    def on_gone(self, inlet: Inlet) -> None:
        """Forget a closed connection."""
        self._strangers.pop(inlet, None)
        self._inlets.pop(inlet, None)

    # --- tasks ---

    async def _accept(self) -> None:
        pause_ns = round(_SWEEP_SECONDS_MAX * 1e9)
        while True:
            await anyio.wait_readable(self._listener)
            for _ in range(_ACCEPTS_PER_TURN_MAX):
                try:
                    sock, remote = self._listener.accept()
                except (BlockingIOError, ConnectionError):
                    break
                except OSError as error:
                    # Out of file descriptors, most likely: existing connections go on meanwhile.
                    _log.error("cannot accept connections at %s: %s", self.bound, reason_of(error))
                    clock = self._context.runtime.clock
                    await clock.sleep_until(clock.monotonic_ns() + pause_ns)
                    break
                self._admit(sock, str(Address(remote[0], remote[1])))

    def _admit(self, sock: socket.socket, remote: str) -> None:
        context = self._context
        if self._is_closed:
            # The accepting task was awake already when its cancellation came.
            sock.close()
            return
        if len(self._strangers) >= context.limits.strangers_max:
            # Honest peers are strangers for milliseconds: the oldest is the one that dawdles.
            next(iter(self._strangers)).close("too many connections without handshake")
        try:
            tune(sock, context.limits)
        except OSError as error:  # closed already
            sock.close()
            _log.warning("connection from %s closed: %s", remote, reason_of(error))
            return
        cipher = None if self._contexts is None else self._contexts.accepting()
        channel = Channel(sock, context.reactor, cipher, context.limits)
        inlet = Inlet(self, context, channel, cipher, remote)
        self._strangers[inlet] = None
        inlet.start()

    async def _sweep(self) -> None:
        """Let deadlines pass. One task for all: a timer each would cost more than it is worth."""
        limits, clock = self._context.limits, self._context.runtime.clock
        shortest = min(limits.connect_seconds, limits.handshake_seconds, limits.frame_seconds)
        period_ns = round(min(shortest / 8, _SWEEP_SECONDS_MAX) * 1e9)
        while True:
            now = clock.monotonic_ns()
            await clock.sleep_until(now + period_ns)
            now = clock.monotonic_ns()
            for link in (*self._strangers, *self._inlets, *self._all_outlets()):
                if 0 < link.deadline_ns <= now:
                    link.expire()

    def _all_outlets(self) -> list[Outlet]:
        return [outlet for outlets in self.outlets.values() for outlet in outlets.values()]


@contextmanager
def _named(address: Address) -> Generator[None]:
    """Tell which address the operating system refused."""
    try:
        yield
    except OSError as error:
        raise TransportError(
            f"cannot listen on {address}: {reason_of(error)}; stop what uses it, or choose another"
        ) from error


async def _bound(address: Address) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises TransportError."""
    try:
        found = await anyio.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise TransportError(f"cannot listen on {address}: {reason_of(error)}") from error
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        with _named(address):
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
    except BaseException:
        listener.close()
        raise
    return listener
