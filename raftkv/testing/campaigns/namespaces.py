"""Members in network namespaces of their own, joined by a bridge, with links that can be cut.

The machine's own network is not touched: the bridge, too, stands in a namespace. A cut is a
blackhole route on the sender's side, so each direction of each pair is cut and healed by itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache

from raftkv.testing.campaigns.facilities import first_lacking, lacks_program, lacks_root

_NETWORK = "10.77.0"


@cache
def lacks_namespaces() -> str | None:
    """Root, the program ``ip``, and a kernel with namespaces, bridges and veth pairs."""
    answer = first_lacking(lacks_root(), lacks_program("ip"))
    if answer is not None:
        return answer
    try:
        with network(["probe"]):
            return None
    except subprocess.CalledProcessError as error:
        return f"cannot make network namespaces: {str(error.stderr).strip()}"


class Network:
    """Namespaces by the names of members."""

    def __init__(self, prefix: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._prefix = prefix
        self._addresses = {name: f"{_NETWORK}.{at}" for at, name in enumerate(names, 1)}
        self._cuts: set[tuple[str, str]] = set()

    def address(self, name: str) -> str:
        """Where a member listens."""
        return self._addresses[name]

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs in a member's namespace."""
        return ["ip", "netns", "exec", self._namespace(name)]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut."""
        return not self._cuts

    def cut(self, links: Iterable[tuple[str, str]]) -> None:
        """From now on nothing that the first of a pair sends reaches the second."""
        for sender, receiver in links:
            if sender != receiver and (sender, receiver) not in self._cuts:
                self._route("add", sender, receiver)
                self._cuts.add((sender, receiver))

    def isolate(self, some: Iterable[str]) -> None:
        """Cut the links between these and all others, both ways."""
        inside = set(some)
        outside = [name for name in self.names if name not in inside]
        self.cut((one, other) for one in sorted(inside) for other in outside)
        self.cut((other, one) for one in sorted(inside) for other in outside)

    def heal(self) -> None:
        """Every link works again."""
        for sender, receiver in sorted(self._cuts):
            self._route("del", sender, receiver)
        self._cuts.clear()

    def make(self) -> None:
        """Make the namespaces. Raises CalledProcessError where this machine cannot."""
        hub = self._namespace("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(self._addresses.items(), 1):
            own = self._namespace(name)
            port = f"port{number}"
            _ip("netns", "add", own)
            ends = ("type", "veth", "peer", "name", port, "netns", hub)
            _ip("-n", own, "link", "add", "eth0", *ends)
            _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("-n", own, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Remove them, as many as there are."""
        for name in ("hub", *self.names):
            subprocess.run(
                ["ip", "netns", "delete", self._namespace(name)], capture_output=True, check=False
            )

    def _route(self, do: str, sender: str, receiver: str) -> None:
        route = ("route", do, "blackhole", f"{self._addresses[receiver]}/32")
        _ip("-n", self._namespace(sender), *route)

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@contextmanager
def network(names: Sequence[str]) -> Generator[Network]:
    """A network of these members, removed at the end."""
    made = Network(f"raftkv-{os.getpid()}", names)
    try:
        made.make()
        yield made
    finally:
        made.remove()
