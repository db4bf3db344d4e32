"""A real cluster: members as processes with clients in them, driven and judged from outside.

The driver has one thread and waits for answers with a limit. Whatever goes on in a member stands in
``NAME.log`` beside its directory, and its clients' calls in ``*.history``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, cast

from raftkv.testing.campaigns.frame import Case, FindingError
from raftkv.testing.histories.kv import KvOperation, Written, load_kv_history
from raftkv.testing.histories.plain import from_plain
from raftkv.testing.histories.revisions import check_revisions

Json = dict[str, object]

START_SECONDS_MAX: Final = 60.0
ANSWER_SECONDS_MAX: Final = 60.0
_CONVERGENCE_SECONDS: Final = 5.0
CONVERGENCE_SECONDS_MAX: Final = float(
    os.environ.get("RAFTKV_CONVERGENCE_SECONDS", _CONVERGENCE_SECONDS)
)
"""A healed cluster must be one again within so long; a busy machine may be given more."""
IS_PATIENT: Final = CONVERGENCE_SECONDS_MAX > _CONVERGENCE_SECONDS
"""Whether the machine is a busy one, on which speed is not judged."""
_POLL_SECONDS: Final = 0.02
_MODULE: Final = "raftkv.testing.campaigns.member"


class DiedError(FindingError):
    """A member ended by itself, when nobody had killed it."""


class Process:
    """One life of one member."""

    def __init__(self, given: Json, log: Path, before: Sequence[str] = ()) -> None:
        self.name = str(given["name"])
        self._rest = b""
        self._asked = 0
        self._answers: dict[int, Json] = {}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *before,
                    sys.executable,
                    "-m",
                    str(given.get("module", _MODULE)),
                    json.dumps(given),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        to, from_ = self._process.stdin, self._process.stdout
        if to is None or from_ is None:
            raise RuntimeError("a child without pipes")
        self._to: IO[bytes] = to
        self._from: IO[bytes] = from_

    def tell(self, command: Json) -> int:
        """Send a command; the number of its answer. A member that just died does not hear it."""
        self._asked += 1
        with suppress(BrokenPipeError):
            line = json.dumps({"number": self._asked, **command}).encode() + b"\n"
            os.write(self._to.fileno(), line)
        return self._asked

    def hear(self, number: int = 0, seconds: float = ANSWER_SECONDS_MAX) -> Json:
        """The answer of that number; 0 is its word that it serves.

        Raises DiedError, or FindingError if it says nothing for so long.
        """
        limit = time.monotonic() + seconds
        while number not in self._answers:
            left = limit - time.monotonic()
            if left <= 0:
                raise FindingError(f"member {self.name} did not answer within {seconds:.0f} s")
            if select.select([self._from], [], [], left)[0]:
                data = os.read(self._from.fileno(), 1 << 20)
                if not data:
                    code = self._process.wait()
                    raise DiedError(f"member {self.name} ended by itself with status {code}")
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    answer = cast("Json", json.loads(line))
                    self._answers[cast("int", answer.pop("number"))] = answer
        return self._answers.pop(number)

    def ask(self, do: str, seconds: float = ANSWER_SECONDS_MAX, **more: object) -> Json:
        """Send a command and wait for its answer."""
        return self.hear(self.tell({"do": do, **more}), seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to the member itself."""
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_for_death(self, seconds: float) -> bool:
        """Whether it died within so long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self._process.kill()
        self.bury()

    def bury(self) -> int:
        """Wait for its end and close the pipes; its status."""
        status = self._process.wait()
        self._to.close()
        self._from.close()
        return status


class Cluster:
    """Members by name, some of them running."""

    def __init__(
        self,
        case: Case,
        addresses: Mapping[str, str],
        settings: Mapping[str, float],
        *,
        clients: int = 3,
        keys: int = 10,
        long_values: float = 0.05,
        before: Callable[[str], Sequence[str]] = lambda _name: (),
        founders: Sequence[str] = (),
    ) -> None:
        self.case = case
        self.addresses = dict(addresses)
        """Of all that are or may become members."""
        self.may_end = False
        """Whether members may end by themselves: they learn that they were removed."""
        self._founders = {name: addresses[name] for name in founders or addresses}
        self.running: dict[str, Process] = {}
        self.facts: Counter[str] = Counter()
        self.settings = dict(settings)
        self._clients = clients
        self._keys = keys
        self._long_values = long_values
        self._before = before
        self._lives: Counter[str] = Counter()
        self._is_working = False

    # --- members' lives -------------------------------------------------------------------------

    def start(self, names: Sequence[str], *, kill_at: str = "", **more: object) -> None:
        """Start members; :meth:`await_serving` waits until they serve."""
        for name in names:
            self._lives[name] += 1
            given: Json = {
                "name": name,
                "directory": str(self.case.directory / name),
                "history": str(self.case.directory / f"{name}-{self._lives[name]}.history"),
                "cluster": self._founders,
                "settings": self.settings,
                "listen": self.addresses[name],
                "clients": self._clients,
                "keys": self._keys,
                "long_values": self._long_values,
                "kill_at": kill_at,
                **more,
            }
            log = self.case.directory / f"{name}.log"
            self.running[name] = Process(given, log, self._before(name))

    def await_serving(self, names: Sequence[str]) -> None:
        """Wait until started members serve, and let their clients work if others' do."""
        for name in names:
            self.running[name].hear(seconds=START_SECONDS_MAX)
            if self._is_working:
                self.running[name].ask("work")

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL, all of them at once."""
        for name in names:
            self.running[name].signal(signal.SIGKILL)
        for name in names:
            self.running.pop(name).bury()
            self.facts["kills"] += 1

    def bury(self, name: str, seconds: float) -> bool:
        """Whether a member died by itself, of SIGKILL, within so long."""
        process = self.running[name]
        if not process.wait_for_death(seconds):
            return False
        status = self.running.pop(name).bury()
        if status != -signal.SIGKILL:
            raise FindingError(f"member {name} ended by itself with status {status}")
        self.facts["kills"] += 1
        return True

    def work(self) -> None:
        """Let the clients of all running members work, and those of members started later."""
        self._is_working = True
        for process in self.running.values():
            process.ask("work")

    def rest(self) -> None:
        """Let all clients finish what they began."""
        self._is_working = False
        asked = [(one, one.tell({"do": "rest"})) for one in self.running.values()]
        for process, number in asked:
            process.hear(number)

    def stop(self) -> None:
        """An orderly end of all members."""
        while self.running:
            name, process = self.running.popitem()
            process.tell({"do": "stop"})
            if not process.wait_for_death(ANSWER_SECONDS_MAX):
                process.kill()
                raise FindingError(f"member {name} did not close in {ANSWER_SECONDS_MAX:.0f} s")
            status = process.bury()
            if status:
                raise FindingError(f"member {name} closed with status {status}")

    def abandon(self) -> None:
        """End whatever runs, whatever state it is in."""
        for process in self.running.values():
            process.kill()
        self.running.clear()

    # --- looking --------------------------------------------------------------------------------

    def leader(self) -> str | None:
        """The running member that believes to lead in the highest term."""
        leaders = [
            (cast("int", told["term"]), name)
            for name, told in self.statuses().items()
            if told["is_leader"]
        ]
        return max(leaders)[1] if leaders else None

    def statuses(self) -> dict[str, Json]:
        """What running members tell; those that :attr:`may_end`, and just do, tell nothing."""
        found: dict[str, Json] = {}
        for name, process in self.running.items():
            try:
                told = process.ask("status")
            except DiedError:
                if not self.may_end:
                    raise
                continue
            if "error" not in told:
                found[name] = told
        return found

    def await_leader(self, seconds: float = START_SECONDS_MAX) -> str:
        """A leader, as soon as there is one."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            found = self.leader()
            if found is not None:
                return found
            time.sleep(_POLL_SECONDS)
        raise FindingError(f"no leader within {seconds:.0f} s")

    def await_all_led(self, seconds: float) -> None:
        """Wait until all running members know the same leader, who is one of them."""
        limit = time.monotonic() + seconds
        while True:
            told = self.statuses()
            leaders = {str(one["leader"]) for one in told.values()}
            if len(leaders) == 1 and leaders < self.running.keys():
                return
            if time.monotonic() > limit:
                raise FindingError(
                    f"{seconds:.0f} s after all was well members are not led: {told}"
                )
            time.sleep(_POLL_SECONDS)

    def last_index(self, name: str) -> int:
        """The end of a member's log."""
        return cast("int", self.running[name].ask("status")["last_index"])

    def await_forgotten(self, index: int, seconds: float = START_SECONDS_MAX) -> None:
        """Wait until no running member has the entry after ``index`` any more.

        Whoever ends there needs an image then.
        """
        limit = time.monotonic() + seconds
        while True:
            told = self.statuses()
            if all(cast("int", one["first_index"]) > index + 1 for one in told.values()):
                return
            if time.monotonic() > limit:
                raise FindingError(
                    f"{seconds:.0f} s of writes forgot nothing up to {index}: {told}"
                )
            time.sleep(_POLL_SECONDS)

    def term(self) -> int:
        """The highest term that a running member is in."""
        return max(cast("int", one["term"]) for one in self.statuses().values())

    def converge(self, seconds: float = CONVERGENCE_SECONDS_MAX) -> None:
        """Wait until all running members have caught up and hold the same content.

        Raises FindingError if that takes longer than allowed, or if equally far members differ.
        """
        began = time.monotonic()
        asked = {
            name: process.tell({"do": "catch up", "timeout": seconds})
            for name, process in self.running.items()
        }
        for name, process in self.running.items():
            told = process.hear(asked[name], seconds + ANSWER_SECONDS_MAX)
            if "error" in told:
                raise FindingError(f"{seconds:.0f} s after all was well: {name}: {told['error']}")
        while True:
            told = {name: process.ask("hash") for name, process in self.running.items()}
            applied = {cast("int", one["applied"]) for one in told.values()}
            if len(applied) == 1:
                break
            if time.monotonic() > began + seconds:
                raise FindingError(f"members stay apart for {seconds:.0f} s: {told}")
            time.sleep(_POLL_SECONDS)
        self.facts["convergence ms"] += round((time.monotonic() - began) * 1000)
        if len({one["hash"] for one in told.values()}) > 1:
            for name, process in self.running.items():
                process.ask("rows", path=str(self.case.directory / f"{name}.rows"))
            raise FindingError(f"members differ at the same applied index: {told}")

    def check(self) -> None:
        """Hold what all clients saw against the rows of the members, which are equal."""
        path = self.case.directory / "all.rows"
        next(iter(self.running.values())).ask("rows", path=str(path))
        lines = path.read_text(encoding="utf-8").splitlines()
        types = {"Written": Written}
        log = [cast("Written", from_plain(json.loads(line), types)) for line in lines]
        operations: list[KvOperation] = []
        for history in sorted(self.case.directory.glob("*.history")):
            operations += load_kv_history(history)
        verdict = check_revisions(operations, log)
        if not verdict.is_right:
            raise FindingError(str(verdict))
        self.facts.update(verdict.facts)


@contextmanager
def cluster(
    case: Case,
    names: Sequence[str],
    settings: Mapping[str, float],
    *,
    long_values: float = 0.05,
) -> Generator[Cluster]:
    """A cluster of members on this machine's loopback, started and led; none is left behind.

    ``long_values`` is the share of puts whose values have some kilobytes.
    """
    ports = free_ports(len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    made = Cluster(case, addresses, settings, long_values=long_values)
    with started(made, names):
        yield made


@contextmanager
def started(made: Cluster, names: Sequence[str]) -> Generator[Cluster]:
    """Start members and wait for a leader; none is left behind, whatever happens."""
    try:
        made.start(names)
        made.await_serving(names)
        made.await_leader()
        yield made
    finally:
        made.abandon()


def free_ports(count: int) -> list[int]:
    """So many loopback ports that are free now, and that connections do not take by themselves."""
    found: list[int] = []
    listeners: list[socket.socket] = []
    first = 20_000 + os.getpid() * 64 % 10_000
    for port in range(first, 32_000):
        try:
            listeners.append(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            break
    for listener in listeners:
        listener.close()
    return found
