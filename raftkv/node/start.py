"""From what the disk gave back to a State and the hands around it."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from attrs import frozen

from raftkv.core import (
    EntryKind,
    Membership,
    SnapshotTaken,
    State,
    decode_change,
    start,
    step,
)
from raftkv.core.membership import apply_change, normalised
from raftkv.core.progress import new_progress
from raftkv.errors import ConfigError
from raftkv.machine import DurableStateMachine
from raftkv.node.applier import AnyMachine, Applier
from raftkv.node.changes import Changes, load_roster
from raftkv.node.disk import Disk
from raftkv.node.disks import Disks
from raftkv.node.founding import check_said, found, know
from raftkv.node.hashes import StateHashes
from raftkv.node.images import Images, snapshot_of
from raftkv.node.loop import Loop, Parts
from raftkv.node.peers import Member, Peers
from raftkv.node.questions import Questions
from raftkv.node.receiving import Receiver
from raftkv.node.recovery import Recovery
from raftkv.node.repair import Repair
from raftkv.node.roster import Roster
from raftkv.node.scrub import Reading, Scrubber
from raftkv.node.sending import Sender
from raftkv.node.settings import Settings
from raftkv.node.status import EventHub
from raftkv.node.upkeep import Upkeep
from raftkv.node.waiters import InFlight, Queue, Reads
from raftkv.runtime.base import Runtime, Spawner, Waker, Worker
from raftkv.storage.base import Recovered, Space, Storage
from raftkv.transport.base import Hello, Transport

# Keys of the log begin with a group id of four zero bytes, those of peers with a word of their own.
_KIND_KEY: Final = b"machine-kind"

_KINDS: Final = defaultdict[str, str](
    lambda: "a kind of state machine that only a newer raftkv knows",
    {
        "kv": "the key-value store (no machine=)",
        "on-disk": "an on-disk state machine",
        "in-memory": "an in-memory state machine",
    },
)


@frozen(kw_only=True)
class Setup:
    """Everything a node is made of."""

    me: Member
    members: tuple[Member, ...]
    storage: Storage
    transport: Transport
    machine: AnyMachine
    settings: Settings
    runtime: Runtime
    is_kv: bool = False
    joins: bool = False
    """``members`` are not what the user said, but what running members told, or the directory."""

    @property
    def kind(self) -> str:
        """What the directory remembers of the machine: not its class, which may be renamed."""
        if self.is_kv:
            return "kv"
        return "on-disk" if isinstance(self.machine, DurableStateMachine) else "in-memory"


async def recover(setup: Setup, wal: Worker) -> Recovered:
    """Read the log back; a new directory first learns, durably, who the members are.

    It also learns which kind of machine it is for: another kind would not find what is there, begin
    empty, and put its own marks over it.

    Raises ConfigError if the directory knows other members or another kind of machine than those
    configured, RemovedError if it is that of a removed member.
    """
    storage = setup.storage
    recovered = await wal.run(storage.log.recover)  # off the loop: it reads the whole log
    check_said(storage.store, setup.me, None if setup.joins else setup.members)
    knows_nobody = recovered.applied.membership == Membership()
    if load_roster(storage.store) is None or (knows_nobody and setup.joins):
        batch = storage.store.batch()
        # A directory that lost what it was is filled by the others, as that of one who joins.
        is_new = knows_nobody and recovered.damage is None
        if is_new and not setup.joins:
            found(batch, storage.log, setup.members)
        else:
            know(batch, setup.members, are_founders=not setup.joins)
        batch.put(Space.META, _KIND_KEY, setup.kind.encode())
        storage.store.write(batch)
        await wal.run(storage.store.sync)
        recovered = await wal.run(storage.log.recover)
    kind = storage.store.get(Space.META, _KIND_KEY)
    if kind is not None and kind != setup.kind.encode():
        raise ConfigError(
            f"the data directory is of a member with {_KINDS[kind.decode(errors='replace')]}, not"
            f" with {_KINDS[setup.kind]}: open it with the kind of machine= that it was made with,"
            " or give this node a directory of its own"
        )
    return recovered


def memberships_of(recovered: Recovered) -> list[tuple[int, Membership]]:
    """(index, membership from there on), from the compaction point to what is applied."""
    membership = normalised(recovered.snapshot.membership)
    found = [(recovered.snapshot.index, membership)]
    for entry in recovered.entries:
        if entry.index > recovered.applied.index:
            break
        if entry.kind is EntryKind.NORMAL:
            continue
        progress = tuple(
            new_progress(node, match=0, next_index=1, active=False) for node in membership.members()
        )
        membership, _ = apply_change(membership, progress, decode_change(entry.data), entry.index)
        found.append((entry.index, membership))
    return found


def _first_state(setup: Setup, recovered: Recovered, images: Images, recovery: Recovery) -> State:
    recovering, promised = recovery.start_with
    config = setup.settings.core(setup.me.id, seed=1 + setup.runtime.rng.below(2**63))
    state = start(
        config,
        hard_state=recovered.hard_state,
        snapshot=recovered.snapshot,
        entries=recovered.entries,
        applied=recovered.applied.index,
        membership=recovered.applied.membership,
        recovering=recovering,
        promised=promised,
    )
    if images.must_take and images.taken.index:
        state = step(state, SnapshotTaken(snapshot_of(images.taken)))
    return state


@frozen(kw_only=True)
class Hands:
    """A node's driver and what it shares with the node's own methods."""

    loop: Loop
    parts: Parts
    scrubber: Scrubber

    @property
    def waker(self) -> Waker:
        """The driver's doorbell."""
        return self.parts.waker

    @property
    def disk(self) -> Disk:
        """The hand on the disk."""
        return self.parts.disk

    @property
    def applier(self) -> Applier:
        """The queue before the machine."""
        return self.parts.applier

    @property
    def peers(self) -> Peers:
        """The other members."""
        return self.parts.peers

    @property
    def queue(self) -> Queue:
        """Commands that have not left."""
        return self.parts.queue

    @property
    def in_flight(self) -> InFlight:
        """Commands that have."""
        return self.parts.in_flight

    @property
    def reads(self) -> Reads:
        """Reads on their way."""
        return self.parts.reads

    @property
    def changes(self) -> Changes:
        """Membership changes."""
        return self.parts.changes

    @property
    def upkeep(self) -> Upkeep:
        """What members do for each other."""
        return self.parts.upkeep

    @property
    def questions(self) -> Questions:
        """What members ask the leader."""
        return self.parts.questions

    @property
    def recovery(self) -> Recovery:
        """The way back of a member that lost something."""
        return self.parts.recovery


def _state_hashes(
    setup: Setup,
    recovered: Recovered,
    events: EventHub,
    spawner: Spawner,
    reading: Reading,
    peers: Peers,
) -> StateHashes:
    hashes = StateHashes(
        setup.me.id,
        setup.storage,
        None if isinstance(setup.machine, DurableStateMachine) else setup.machine,
        setup.transport,
        spawner,
        reading,
        quiet_until=recovered.snapshot.index + len(recovered.entries),
    )
    hashes.on_alarm = events.alarm
    hashes.name_of = peers.called
    return hashes


def opened(setup: Setup, recovered: Recovered) -> str:
    """For the log: who we are, and how far we were."""
    me, boot = setup.me, setup.storage.identity.boot
    last = recovered.snapshot.index + len(recovered.entries)
    return (
        f"member {me.name} ({me.id:x}) is open: address {me.address}, boot {boot}, log up to entry"
        f" {last}"
    )


def _hello(setup: Setup, recovered: Recovered) -> Hello:
    identity = setup.storage.identity
    return Hello(
        identity.cluster_id,
        identity.member_id,
        identity.disk_uuid,
        identity.boot,
        boot_token=identity.boot_token,
        last_index=recovered.snapshot.index + len(recovered.entries),
    )


def _sender(setup: Setup, images: Images, spawner: Spawner, snapshot: Worker) -> Sender:
    runtime, settings = setup.runtime, setup.settings
    return Sender(
        images,
        setup.transport,
        snapshot,
        spawner,
        runtime.clock,
        runtime.waker,
        boot=setup.storage.identity.boot,
        bytes_per_second=settings.snapshot_bytes_per_second,
        inflight_bytes_max=settings.snapshot_inflight_bytes_max,
        retry_ns=settings.election_ticks * settings.tick_ns,
        patience_ns=round(settings.snapshot_seconds_max * 1e9),
    )


def _receiver(
    setup: Setup, images: Images, disk: Disk, sender: Sender, events: EventHub
) -> Receiver:
    return Receiver(
        setup.me.id,
        images,
        disk,
        setup.transport,
        sender,
        setup.runtime.clock,
        events,
        patience_ns=round(setup.settings.snapshot_seconds_max * 1e9),
    )


def _others(
    setup: Setup, recovered: Recovered, in_flight: InFlight, events: EventHub
) -> tuple[Peers, Changes]:
    storage = setup.storage
    roster = load_roster(storage.store) or Roster(setup.members)
    disks = Disks(storage.store, storage.identity)
    peers = Peers(setup.me, roster.members, storage.identity.cluster_id, disks)
    peers.adopt(roster.members, frozenset(recovered.applied.membership.removed or ()))
    changes = Changes(roster, peers, setup.transport, in_flight, setup.settings.election_ticks)
    changes.on_alarm = events.alarm
    return peers, changes


@frozen(kw_only=True)
class _Care:
    """What looks after the member itself, beside the driver."""

    upkeep: Upkeep
    repair: Repair
    recovery: Recovery
    scrubber: Scrubber


def _care(
    setup: Setup,
    recovered: Recovered,
    events: EventHub,
    spawner: Spawner,
    wal: Worker,
    snapshot: Worker,
    disk: Disk,
    peers: Peers,
) -> _Care:
    storage, transport, settings = setup.storage, setup.transport, setup.settings
    clock = setup.runtime.clock
    reading = Reading(snapshot, clock, settings.scrub_bytes_per_second)
    hashes = _state_hashes(setup, recovered, events, spawner, reading, peers)
    upkeep = Upkeep(storage.identity, settings, clock, disk, peers, transport, hashes)
    repair = Repair(transport, spawner, transport.frame_bytes_max)
    recovery = Recovery(
        _hello(setup, recovered),
        recovered,
        settings,
        clock,
        storage.log,
        disk,
        peers,
        transport,
        events,
        repair,
    )
    upkeep.on_regressed = recovery.regressed
    scrubber = Scrubber(storage, reading, wal, clock, settings.scrub_pause_seconds)
    scrubber.on_alarm = events.alarm
    return _Care(upkeep=upkeep, repair=repair, recovery=recovery, scrubber=scrubber)


def assemble(
    setup: Setup,
    recovered: Recovered,
    events: EventHub,
    spawner: Spawner,
    wal: Worker,
    snapshot: Worker,
) -> Hands:
    """Open the machine and put the parts together; nothing runs yet."""
    storage, runtime, settings = setup.storage, setup.runtime, setup.settings
    me, boot = storage.identity.member_id, storage.identity.boot
    waker = runtime.waker()
    images = Images(setup.machine, storage, snapshot)
    images.start(recovered.applied)
    stall_ns = round(settings.stall_seconds_max * 1e9)
    disk = Disk(storage, recovered, wal, runtime.clock, waker, stall_ns)
    images.sweep(disk.batch)
    in_flight = InFlight(me, boot)
    applier = Applier(
        setup.machine, storage.log, in_flight, recovered.applied, settings.entry_commands_max
    )
    sender = _sender(setup, images, spawner, snapshot)
    peers, changes = _others(setup, recovered, in_flight, events)
    care = _care(setup, recovered, events, spawner, wal, snapshot, disk, peers)
    care.upkeep.reconnect = care.recovery.reconnect = changes.reconnect
    care.upkeep.settled = lambda: changes.settling.frame
    parts = Parts(
        settings=settings,
        clock=runtime.clock,
        waker=waker,
        disk=disk,
        applier=applier,
        images=images,
        sender=sender,
        receiver=_receiver(setup, images, disk, sender, events),
        transport=setup.transport,
        peers=peers,
        queue=Queue(),
        in_flight=in_flight,
        reads=Reads(storage.identity.boot_token),
        events=events,
        upkeep=care.upkeep,
        recovery=care.recovery,
        repair=care.repair,
        corruption=lambda: storage.corruption,
        changes=changes,
        questions=Questions(
            me, boot, setup.transport, spawner, settings.election_ticks * settings.tick_ns
        ),
        observer=runtime.observer,
    )
    state = _first_state(setup, recovered, images, care.recovery)
    if runtime.observer is not None:
        runtime.observer.started(state)
    loop = Loop(state, parts, memberships_of(recovered))
    sender.on_ended = loop.on_snapshot_sent
    for part in (sender, parts.receiver, care.repair, parts.questions, loop.bulk):
        part.name_of = peers.called
    return Hands(loop=loop, parts=parts, scrubber=care.scrubber)
