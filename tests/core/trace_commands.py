"""The commands of interaction traces: their arguments, their own errors, and what they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve

from raftkv.core import (
    Campaign,
    Compact,
    Config,
    ForgetLeader,
    Input,
    Membership,
    MembershipChange,
    Payload,
    Propose,
    ProposeChange,
    ReadMode,
    Snapshot,
    Tick,
    TransferLeader,
    Transition,
    Unreachable,
)
from raftkv.core.types import EntryKind
from raftkv.errors import ConfigError
from tests.core import trace_notation as notation
from tests.core.trace_changes import parse_boolean, parse_changes, parse_number
from tests.core.trace_env import PROPOSAL_DROPPED, Environment, Node
from tests.core.trace_file import CommandError, Directive, TraceFormatError

ELECTION_TICKS: Final = 3
HEARTBEAT_TICKS: Final = 1
_DEFAULTS: Final = Config(
    id=1,
    election_ticks=ELECTION_TICKS,
    heartbeat_ticks=HEARTBEAT_TICKS,
    inflight_max=2**31 - 1,
    async_storage_writes=False,
)
_BEGINNING: Final = frozenset({"voters", "learners", "index", "content"})
_READ_MODES: Final = {"safe": ReadMode.SAFE, "lease-based": ReadMode.LEASE}
_TRANSITIONS: Final = {
    "auto": Transition.AUTO,
    "implicit": Transition.IMPLICIT,
    "explicit": Transition.EXPLICIT,
}
_LOG_LEVELS: Final = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_FLAGS: Final = {
    "async-storage-writes": "async_storage_writes",
    "prevote": "pre_vote",
    "checkquorum": "check_quorum",
    "step-down-on-removal": "step_down_on_removal",
    "disable-conf-change-validation": "disable_change_validation",
}
_NUMBERS: Final = {
    "inflight": "inflight_max",
    "max-committed-size-per-ready": "apply_bytes_max",
}


class InteractionDriver:
    """Runs the commands of one file in one environment."""

    def __init__(self) -> None:
        self.world = Environment()
        self._commands: Final[dict[str, Callable[[Directive], None]]] = {
            "_breakpoint": lambda _: None,
            "add-nodes": self._add_nodes,
            "campaign": self._campaign,
            "compact": self._compact,
            "deliver-msgs": self._deliver_msgs,
            "forget-leader": self._forget_leader,
            "log-level": self._log_level,
            "process-append-thread": self._process_append_thread,
            "process-apply-thread": self._process_apply_thread,
            "process-ready": self._process_ready,
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "raft-log": self._raft_log,
            "raft-state": self._raft_state,
            "report-unreachable": self._report_unreachable,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_randomized_election_timeout,
            "stabilize": self._stabilize,
            "status": self._status,
            "tick-election": self._tick_election,
            "tick-heartbeat": self._tick_heartbeat,
            "transfer-leadership": self._transfer_leadership,
        }

    @property
    def commands(self) -> frozenset[str]:
        """Every command there is."""
        return frozenset(self._commands)

    def handle(self, directive: Directive) -> str:
        """What the command prints; ``ok`` if that is nothing."""
        output = self.world.output
        error = ""
        try:
            command = self._commands.get(directive.command)
            if command is None:
                raise CommandError("unknown command")
            command(directive)
        except CommandError as failure:
            error = str(failure)
        return output.take() + error or "ok"

    # --- nodes --------------------------------------------------------------------------------

    def _add_nodes(self, directive: Directive) -> None:
        count = parse_number(_positional(directive, 0))
        beginning = _beginning(directive)
        settings = _settings(directive)
        for _ in range(count):
            try:
                config = evolve(_DEFAULTS, id=len(self.world.nodes) + 1, **settings)
            except ConfigError as error:
                raise CommandError(str(error)) from error
            self.world.nodes.append(Node(config, beginning))

    def _node(self, directive: Directive, place: int = 0) -> Node:
        return self.world.node(parse_number(_positional(directive, place)))

    def _nodes(self, directive: Directive) -> list[Node]:
        return [self.world.node(parse_number(key)) for key in directive.positional]

    # --- inputs -------------------------------------------------------------------------------

    def _campaign(self, directive: Directive) -> None:
        self._node(directive).step(Campaign())

    def _propose(self, directive: Directive) -> None:
        data = directive.arguments[1].key.encode()
        self._offer(self._node(directive), Propose((Payload(EntryKind.NORMAL, data),), request=1))

    def _propose_conf_change(self, directive: Directive) -> None:
        node = self._node(directive)
        self._offer(node, _change_proposal(directive))

    def _offer(self, node: Node, proposal: Input) -> None:
        if node.refuses_to(proposal):
            raise CommandError(PROPOSAL_DROPPED)

    def _tick_election(self, directive: Directive) -> None:
        self._tick(self._node(directive), ELECTION_TICKS)

    def _tick_heartbeat(self, directive: Directive) -> None:
        self._tick(self._node(directive), HEARTBEAT_TICKS)

    def _tick(self, node: Node, ticks: int) -> None:
        for _ in range(ticks):
            node.step(Tick())

    def _set_randomized_election_timeout(self, directive: Directive) -> None:
        node = self._node(directive)
        node.state = evolve(node.state, timeout_ticks=parse_number(_option(directive, "timeout")))

    def _transfer_leadership(self, directive: Directive) -> None:
        node = self.world.node(parse_number(_option(directive, "from")))
        node.step(TransferLeader(parse_number(_option(directive, "to"))))

    def _forget_leader(self, directive: Directive) -> None:
        self._node(directive).step(ForgetLeader())

    def _report_unreachable(self, directive: Directive) -> None:
        peer = parse_number(_positional(directive, 1))
        self._node(directive).step(Unreachable(peer))

    # --- Ready, messages, storage threads -----------------------------------------------------

    def _process_ready(self, directive: Directive) -> None:
        self._each(directive, "handling Ready", self.world.handle_ready)

    def _process_append_thread(self, directive: Directive) -> None:
        self._each(directive, "processing append thread", self.world.process_append)

    def _process_apply_thread(self, directive: Directive) -> None:
        self._each(directive, "processing apply thread", self.world.process_apply)

    def _each(self, directive: Directive, doing: str, work: Callable[[Node], None]) -> None:
        nodes = self._nodes(directive)
        if len(nodes) == 1:
            work(nodes[0])
            return
        for node in nodes:
            with self.world.output.indented(f"> {node.id} {doing}"):
                work(node)

    def _deliver_msgs(self, directive: Directive) -> None:
        kinds = directive.values("type") or (None,)
        kind = kinds[-1]
        if kind is not None and kind not in notation.MESSAGE_NAMES:
            raise TraceFormatError(f"there is no message type {kind}")
        handled = 0
        for argument in directive.arguments:
            if not argument.values:
                handled += self.world.deliver(parse_number(argument.key), kind)
            elif argument.key == "drop":
                for value in argument.values:
                    handled += self.world.drop(parse_number(value.strip()), kind)
        if not handled:
            self.world.output.line("no messages")

    def _stabilize(self, directive: Directive) -> None:
        output = self.world.output
        before = output.quiet
        level = directive.values("log-level")
        if level:
            output.quiet = _is_quiet(level[-1])
        try:
            self.world.stabilize(self._nodes(directive) or self.world.nodes)
        finally:
            output.quiet = before

    def _send_snapshot(self, directive: Directive) -> None:
        to = parse_number(_positional(directive, 1))
        self.world.send_snapshot(self._node(directive), to)

    # --- looking ------------------------------------------------------------------------------

    def _log_level(self, directive: Directive) -> None:
        self.world.output.quiet = _is_quiet(_positional(directive, 0))

    def _compact(self, directive: Directive) -> None:
        node = self._node(directive)
        index = parse_number(_positional(directive, 1))
        node.storage.compact(index)
        node.step(Compact(index))
        self._raft_log(directive)

    def _raft_log(self, directive: Directive) -> None:
        storage = self._node(directive).storage
        for entry in storage.entries:
            self.world.output.line(notation.entry(entry))
        if not storage.entries:
            self.world.output.write(
                f"log is empty: first index={storage.first_index}, last index={storage.last_index}"
            )

    def _raft_state(self, _: Directive) -> None:
        for node in self.world.nodes:
            state = node.state
            voter = "(Voter)" if state.membership.is_voter(node.id) else "(Non-Voter)"
            self.world.output.line(
                f"{node.id}: {notation.ROLES[state.role]} {voter}"
                f" Term:{state.term} Lead:{state.leader}"
            )

    def _status(self, directive: Directive) -> None:
        node = self._node(directive)
        for peer in node.state.peers_led:
            shown = notation.progress(
                peer,
                node.state.membership.learners,
                count_max=node.config.inflight_max,
                bytes_max=node.config.inflight_bytes_max,
            )
            self.world.output.line(f"{peer.id}: {shown}")


# --- arguments --------------------------------------------------------------------------------


def _positional(directive: Directive, place: int) -> str:
    keys = directive.positional
    if place >= len(keys):
        raise TraceFormatError(f"{directive.command} takes at least {place + 1} plain arguments")
    return keys[place]


def _option(directive: Directive, key: str) -> str:
    values = directive.values(key)
    if values is None:
        raise TraceFormatError(f"{directive.command} needs {key}=")
    return values[-1]


def _ids(directive: Directive, key: str) -> tuple[int, ...]:
    values = (value.strip() for value in directive.values(key) or ())
    return tuple(parse_number(value) for value in values if value)


def _beginning(directive: Directive) -> Snapshot | None:
    """The snapshot that nodes start with, if they start with one."""
    if not any(argument.key in _BEGINNING for argument in directive.arguments):
        return None
    index = parse_number((directive.values("index") or ("0",))[-1])
    if index <= 1:
        raise CommandError("index must be specified as > 1 due to bootstrap")
    membership = Membership(voters=_ids(directive, "voters"), learners=_ids(directive, "learners"))
    data = (directive.values("content") or ("",))[-1].encode()
    return Snapshot(index, 1, 0, membership, data)


def _settings(directive: Directive) -> dict[str, bool | int | ReadMode]:
    """What differs from the default settings; unknown keys are ignored."""
    settings: dict[str, bool | int | ReadMode] = {}
    for argument in directive.arguments:
        for value in argument.values:
            if argument.key in _FLAGS:
                settings[_FLAGS[argument.key]] = parse_boolean(value)
            elif argument.key in _NUMBERS:
                settings[_NUMBERS[argument.key]] = parse_number(value)
            elif argument.key == "read-only":
                if value not in _READ_MODES:
                    raise CommandError(f'invalid read-only option "{value}"')
                settings["read_mode"] = _READ_MODES[value]
    return settings


def _change_proposal(directive: Directive) -> ProposeChange:
    single = False
    transition = Transition.AUTO
    for argument in directive.arguments:
        for value in argument.values:
            if argument.key == "v1":
                single = parse_boolean(value)
            elif argument.key != "transition":
                raise CommandError(f"unknown command {argument.key}")
            elif value in _TRANSITIONS:
                transition = _TRANSITIONS[value]
            else:
                raise CommandError(f"unknown transition {value}")
    changes = parse_changes(directive.input)
    if single and (len(changes) != 1 or transition is not Transition.AUTO):
        raise CommandError("v1 conf change can only have one operation and no transition")
    return ProposeChange(MembershipChange(changes, transition), single=single, request=1)


def _is_quiet(level: str) -> bool:
    if level.upper() not in _LOG_LEVELS:
        raise CommandError(f"log levels must be either of [{' '.join(_LOG_LEVELS)}]")
    return level.upper() == "NONE"
