"""What members do for each other beside the log: know each other's boots, compare their states.

Frames of the bulk lane carry what is known of disks, and who the members are; a member sends them
to each peer that connects, once that peer's boot is durable here::

    SEEN     20 u8 | boot u64 | boot token (16) | table of disks   your boot, and all that I know
    AGAIN    21 u8                                                 I have not heard that from you
    MEMBERS  40 u8 | roster and voters in CBOR                     who the members are
    SETTLED  41 u8 | index u64                                     see raftkv.node.settling

Who hears no leader asks again: it may have missed the change that made the leader a member.

The rest goes through the log as notes, which the leader proposes (:mod:`raftkv.node.notes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError
from typing import Final

from raftkv.core import EntryKind, Input, Membership, Payload, Propose, Role, State
from raftkv.errors import WireError
from raftkv.node.admission import Admission
from raftkv.node.applier import Applier
from raftkv.node.disk import Disk
from raftkv.node.hashes import StateHashes
from raftkv.node.notes import Booted, HashHere, Note, encode_note
from raftkv.node.peers import Peers
from raftkv.node.settings import Settings
from raftkv.runtime.base import Clock
from raftkv.storage.base import AppliedMark, Identity
from raftkv.transport.base import Hello, Lane, Transport

_log = logging.getLogger("raftkv.node")

# The numbers are on the wire: they never change.
SEEN: Final = 20
AGAIN: Final = 21
MEMBERS: Final = 40
_HEAD: Final = Struct("<BQ16s")  # kind, boot, boot token


class Upkeep:
    """One member's part. Loop thread only."""

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        clock: Clock,
        disk: Disk,
        peers: Peers,
        transport: Transport,
        hashes: StateHashes,
    ) -> None:
        self._identity = identity
        self._disk = disk
        self._peers = peers
        self._disks = peers.disks
        self._transport = transport
        self.hashes = hashes
        self.admission = Admission(identity, settings.election_ticks)
        self._hash_ns = round(settings.state_hash_seconds * 1e9)
        self._retry_ns = settings.election_ticks * settings.tick_ns
        self._hash_due_ns = clock.monotonic_ns() + self._hash_ns
        self._boots_due_ns = 0
        self._again_due_ns = self._hash_due_ns - self._hash_ns + self._retry_ns
        self._clock = clock
        self._to_greet: set[int] = set()
        self._is_regressed = False
        self.odd = ""
        """What shows that our stored state is not that of the others; empty if nothing does."""
        hashes.on_odd = self._on_odd
        self.give: Callable[[Input], None] = _nobody
        """Gives the core an input in the next turn."""
        self.roster: Callable[[], bytes] = bytes
        """Who the members are, encoded; no bytes: nothing is told of them."""
        self.settled: Callable[[], bytes] = bytes
        """The frame that tells which removals are settled; no bytes: none."""
        self.reconnect: Callable[[list[int]], None] = _nobody
        """Closes the connections with members, to be made anew."""
        self.on_regressed: Callable[[str], None] = _nobody
        """Told that others know a later boot of our disk than we do."""

    # --- turns ----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Before anything that came from those who have just come in: remember them."""
        if self._disks.must_sync:
            self._save()
        if self._to_greet:
            self._greet()

    def _save(self) -> None:
        must_sync = self._disks.must_sync
        saved = self._disks.save(self._disk.batch)
        if must_sync:
            self._disk.sync_soon(lambda: self._saved(saved))

    def _saved(self, what: Mapping[int, tuple[int, bytes]]) -> None:
        self._disks.saved(what)
        self._greet()

    def tick(self, state: State) -> None:
        """Time passed."""
        if self._disks.has_unsaved:
            self._save()
        self.hashes.tick(state.leader, state.membership)
        now = self._clock.monotonic_ns()
        if (not self.admission.is_open or self._is_alone(state)) and now >= self._again_due_ns:
            self._again_due_ns = now + self._retry_ns
            for peer in self._peers.addresses:
                self._transport.send(peer, bytes((AGAIN,)), Lane.BULK)
        if state.role is not Role.LEADER:
            return
        notes: list[Note] = []
        if now >= self._hash_due_ns:
            self._hash_due_ns = now + self._hash_ns
            notes.append(HashHere())
        if now >= self._boots_due_ns:
            self._boots_due_ns = now + self._retry_ns
            notes += self._boots_to_log(state.membership)
        if notes:
            payloads = [Payload(EntryKind.NORMAL, encode_note(note)) for note in notes]
            self.give(Propose(tuple(payloads)))

    def _is_alone(self, state: State) -> bool:
        """Whether no leader is heard; a learner keeps the one it heard last, gone or not."""
        is_silent = state.election_elapsed >= state.config.election_ticks
        return not state.leader or (state.role is not Role.LEADER and is_silent)

    def _boots_to_log(self, membership: Membership) -> list[Booted]:
        members = membership.members()
        return [booted for booted in self._disks.unlogged() if booted.member in members]

    # --- notes ----------------------------------------------------------------------------------

    def heed(self, note: Note, applier: Applier) -> None:
        """The note at the head of what is committed takes effect, in the open batch."""
        applier.noted(self._disk.batch)
        if isinstance(note, Booted):
            self._disks.logged(note)
            self._save()
            self._look_at_copies()
            return
        self._hash_due_ns = self._clock.monotonic_ns() + self._hash_ns
        self.hashes.take(applier.mark)

    def _on_odd(self, what: str) -> None:
        self.odd = what

    def replaced(self, _mark: AppliedMark) -> None:
        """An image took the machine's place."""
        self.hashes.abandon()

    # --- peers ----------------------------------------------------------------------------------

    def on_up(self, peer: int, hello: Hello) -> None:
        """A peer connected, and was let in."""
        self._peers.up(peer, hello)
        self._to_greet.add(peer)
        if any(booted.member == peer for booted in self._disks.unlogged()):
            self._boots_due_ns = 0  # a learner is not promoted before the log tells of it

    def _greet(self) -> None:
        """Tell who connected what we know, once we cannot forget that it did."""
        for peer in sorted(self._to_greet):
            hello = self._peers.hello_of(peer)
            if hello is None:
                self._to_greet.discard(peer)
            elif self._disks.is_durable(hello):
                head = _HEAD.pack(SEEN, hello.boot, hello.boot_token)
                # Else the bulk lane is not up yet, which calls on_up again when it is.
                if self._transport.send(peer, head + self._disks.told(), Lane.BULK):
                    self._to_greet.discard(peer)
                    roster = self.roster()
                    if roster:
                        self._transport.send(peer, bytes((MEMBERS,)) + roster, Lane.BULK)
                    settled = self.settled()
                    if settled:
                        self._transport.send(peer, settled, Lane.BULK)

    def on_frame(self, peer: int, frame: bytes, membership: Membership) -> None:
        """A peer tells what it knows, or wants to hear what we do."""
        if frame[0] == AGAIN:
            self._to_greet.add(peer)
            return
        try:
            _, boot, token = _HEAD.unpack_from(frame)
            self._disks.hear(frame[_HEAD.size :])
        except (StructError, WireError) as error:
            name = self._peers.called(peer)
            _log.warning("what member %s knows of disks is dropped: %s", name, error)
            return
        if (boot, token) == (self._identity.boot, self._identity.boot_token):
            self.admission.seen_by(peer)
            self.admission.look(membership)
        self._look_at_copies()

    def _look_at_copies(self) -> None:
        """Whoever was let in, or is ourselves, may turn out to be an old copy."""
        if self._disks.is_regressed and not self._is_regressed:
            self._is_regressed = True
            self.on_regressed(
                f"other members have seen a later start of this data directory than"
                f" {self._identity.boot}"
            )
        outdated = [
            peer
            for peer in self._peers.addresses
            if (hello := self._peers.hello_of(peer)) is not None and self._disks.is_outdated(hello)
        ]
        if outdated:
            self.reconnect(outdated)


def _nobody(_what: object) -> None:
    pass
