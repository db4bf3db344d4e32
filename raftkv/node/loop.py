"""The driver: one task that feeds the core and does what it asks for, in the order it asks.

A turn: ticks that the clock says are due, then frames, finished writes, commands and reads that
came meanwhile; then every Ready there is; then committed entries for the machine, for a few
milliseconds at most. Ticks come first so that a member that stood still learns of its age before it
answers a read.

Nothing here looks at roles or terms to decide anything.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from raftkv.core import (
    EntryKind,
    ForwardProposal,
    Guard,
    Input,
    InstallSnapshot,
    Payload,
    PeerMessage,
    Persisted,
    Propose,
    Read,
    ReadIndexRequest,
    Ready,
    Receive,
    Recovering,
    Refusal,
    Refused,
    Role,
    Snapshot,
    SnapshotStatus,
    SoftState,
    State,
    Tick,
    TimeoutNow,
    TransferLeader,
    TransferLeadership,
    Unreachable,
    has_ready,
    take_answers,
)
from raftkv.errors import InvariantError, StorageCorruptError, WireError
from raftkv.node.applier import Applier
from raftkv.node.applying import Applying
from raftkv.node.bulk import (
    MEMBERSHIP,
    QUESTIONS,
    REPAIR,
    SNAPSHOTS,
    STATE_HASHES,
    BulkFrames,
)
from raftkv.node.changes import Changes, removed_error
from raftkv.node.commands import check_forwarded, encode_commands
from raftkv.node.disk import Disk
from raftkv.node.handover import heir_of, holds_others_up
from raftkv.node.images import Images
from raftkv.node.outgoing import Outgoing
from raftkv.node.peers import Peers
from raftkv.node.questions import Questions
from raftkv.node.receiving import Receiver
from raftkv.node.recovery import Recovery
from raftkv.node.refusals import error_of, is_passing
from raftkv.node.repair import Repair
from raftkv.node.retention import History
from raftkv.node.sending import Sender
from raftkv.node.settings import Settings
from raftkv.node.settling import SETTLED
from raftkv.node.snapshots import Arrived
from raftkv.node.status import EventHub, LeaderChanged, RoleChanged
from raftkv.node.upkeep import AGAIN, MEMBERS, SEEN, Upkeep
from raftkv.node.waiters import InFlight, Queue, Reads
from raftkv.node.watched import watched
from raftkv.runtime.base import Clock, Observer, Waker
from raftkv.transport.base import Lane, Transport
from raftkv.transport.codec import decode_messages

_log = logging.getLogger("raftkv.node")

_PASSED_ON: Final = (ForwardProposal, ReadIndexRequest, TransferLeadership)
_PROPOSAL_ENTRIES_MAX: Final = 16
_TURN_FRAMES_MAX: Final = 256


@frozen
class Parts:
    """What the driver drives."""

    settings: Settings
    clock: Clock
    waker: Waker
    disk: Disk
    applier: Applier
    images: Images
    sender: Sender
    receiver: Receiver
    transport: Transport
    peers: Peers
    queue: Queue
    in_flight: InFlight
    reads: Reads
    events: EventHub
    upkeep: Upkeep
    recovery: Recovery
    repair: Repair
    corruption: Callable[[], StorageCorruptError | None]
    changes: Changes
    questions: Questions
    observer: Observer | None


class Loop:
    """One member's driver. Everything but ``run`` is called on the same loop, between its turns."""

    def __init__(self, state: State, parts: Parts, memberships: History) -> None:
        self.state, self._guard = state, Guard(state)
        self._step, self._ready = watched(parts.observer)
        self._settings = parts.settings
        self._clock, self._waker = parts.clock, parts.waker
        self._disk = parts.disk
        self._applier = parts.applier
        self._images = parts.images
        self._sender = parts.sender
        self._receiver = parts.receiver
        self._peers = parts.peers
        self._queue = parts.queue
        self._in_flight = parts.in_flight
        self._reads = parts.reads
        self._events = parts.events
        self._upkeep, self._recovery = parts.upkeep, parts.recovery
        self._repair = parts.repair
        self._upkeep.give = self._recovery.give = self._repair.give = self.give
        self._corruption = parts.corruption
        self._outgoing = Outgoing(parts.transport, self._not_sent)
        self._disk.on_durable = self._outgoing.release
        self._disk.is_awaited = lambda: self.state.commit >= self.state.unstable
        self._applying = Applying(
            self,
            parts.settings,
            parts.clock,
            parts.waker,
            parts.disk,
            parts.applier,
            parts.images,
            parts.sender,
            parts.reads,
            parts.events,
            memberships,
            parts.upkeep,
            parts.changes,
        )
        self._changes = parts.changes
        self._upkeep.roster = lambda: self._changes.told(self.state)
        self.bulk = BulkFrames()
        """Frames of the bulk lane; others than snapshots' register here before the first turn."""
        self.questions = parts.questions
        self.questions.leader = lambda: self.state.leader
        self._register()
        self._tick_ns = parts.settings.tick_ns
        self._bulk_ns = round(parts.settings.apply_seconds_max * 1e9)
        self._ticked_ns = parts.clock.boottime_ns()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._bulk_frames: deque[tuple[int, bytes]] = deque()
        self._frames_bytes = 0
        self._inputs: deque[Input] = deque()
        self._summons: deque[Input] = deque()  # for the end of the turn
        self._lost: deque[int] = deque()
        self._may_linger = True  # whether what is not urgent may stay for a turn
        self._holding = False
        self._arrived: Arrived | None = None
        self._installing: Snapshot | None = None
        self._soft = SoftState(0, state.role)
        self._told_term: int = state.term
        self.on_change: Callable[[], None] | None = None
        """Called when leader, role or term changed."""

    def _register(self) -> None:
        self.bulk.register(SNAPSHOTS, self._on_snapshot_frame)
        self.bulk.register(REPAIR, self._on_repair_frame)
        self.bulk.register(MEMBERSHIP, self._on_members_frame)
        self.bulk.register(STATE_HASHES, self._on_state_hash)
        self.bulk.register(QUESTIONS, self.questions.on_frame)

    # --- from outside, between turns --------------------------------------------------------------

    def on_frame(self, peer: int, lane: Lane, frame: bytes) -> None:
        """A frame arrived; dropped if too many wait, which Raft repairs."""
        settings = self._settings
        if (
            len(self._frames) + len(self._bulk_frames) >= settings.received_frames_max
            or self._frames_bytes >= settings.received_bytes_max
        ):
            return
        (self._frames if lane is Lane.RAFT else self._bulk_frames).append((peer, frame))
        self._frames_bytes += len(frame)
        self._waker.set()

    def on_down(self, peer: int) -> None:
        """Frames to the peer are being lost."""
        self._lost.append(peer)
        self._waker.set()

    def on_snapshot_sent(self, peer: int, delivered: bool) -> None:
        """A snapshot for the peer arrived there, or never will."""
        self.give(SnapshotStatus(peer, delivered))

    def step(self, given: Input) -> None:
        """Step an input of the machine's side now, within a turn."""
        self.state = self._step(self.state, given)

    def give(self, given: Input) -> None:
        """Step an input of the node's own in the next turn."""
        self._inputs.append(given)
        self._waker.set()

    @property
    def is_idle(self) -> bool:
        """Whether everything taken in has been stored and applied."""
        return (
            self._disk.is_idle
            and not self._applier.has_work
            and not self._frames
            and not self._bulk_frames
            and not len(self._queue)
        )

    # --- the turns ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn; returns only by an exception."""
        while True:
            await self._waker.wait()
            await self._turn()

    async def _turn(self) -> None:
        self._may_linger = not self._outgoing.has_some
        self._feed_ticks()
        if self._changes.is_over:
            await self._disk.write()
            raise removed_error(self._peers.me.name)
        self._upkeep.turn()  # before anything that came from those who have just come in
        self._feed_frames()
        if self._bulk_frames:
            await self._feed_bulk_frames()
        self._feed_durable()
        while self._inputs:
            self.state = self._step(self.state, self._inputs.popleft())
        self._feed_commands()
        self._changes.feed(self)
        if self._reads.has_new:
            self._feed_ticks()  # an image that arrived may have held us up: know our age first
            self._feed_reads()
        await self._drain()
        if self._applying.has_work:
            await self._applying.turn()
            await self._drain()
        if self._summons:
            # Whoever is told to lead must have applied the change that made the leader go, and may
            # know only since this turn that it is durable here: else the core refuses to campaign.
            while self._summons:
                self.state = self._step(self.state, self._summons.popleft())
            await self._drain()
        await self._disk.write()
        if self._outgoing.has_some:
            self._waker.set()  # they leave with the next turn, which comes when callers have run

    def _feed_ticks(self) -> None:
        due = (self._clock.boottime_ns() - self._ticked_ns) // self._tick_ns
        if due <= 0:
            return
        self._ticked_ns += due * self._tick_ns
        # More than an election timeout's worth teaches the core nothing new: every lease is over.
        ticks = self._upkeep.admission.pass_time(
            due, self._changes.remaining(self.state.membership)
        )
        for _ in range(min(ticks, self._settings.election_ticks + 1)):
            self.state = self._step(self.state, Tick())
        self._holding = False
        now = self._clock.monotonic_ns()
        reason = (
            "this member recovers from what its disk lost, see status().recovering"
            if self.state.recovering is Recovering.ALL
            else "no leader is known, or no majority of the members is reachable"
            if not self.state.leader
            else "the leader does not answer"
        )
        if len(self._queue):
            self._queue.sweep(now, reason)
        self._in_flight.sweep(now)
        patience = self._settings.election_ticks * self._tick_ns
        self._reads.sweep(now, now - patience, reason)
        self.questions.tick(now, reason)
        self._sender.sweep(now)
        self._receiver.sweep(now, self._applier.mark.index)
        self.note_acknowledged()
        self._check_stored()
        self._upkeep.tick(self.state)
        self._recovery.tick(self.state)
        self._changes.tick(self, now)
        if holds_others_up(self.state, self._disk.syncing_ns(now), patience):
            self._step_aside()

    def _step_aside(self) -> None:
        heir = heir_of(self.state, self._peers.is_up)
        if heir:
            name = self._peers.name_of(heir)
            _log.warning("the disk stands still: leadership is handed over to %s", name)
            self.state = self._step(self.state, TransferLeader(heir))

    def _check_stored(self) -> None:
        """Stop where a read of anybody met damage, or the others' state is another."""
        corruption = self._corruption()
        if corruption is not None:
            raise corruption
        if self._upkeep.odd:
            raise StorageCorruptError(
                f"{self._upkeep.odd}: the state here is damaged; open the node again, and it is"
                " made anew from the other members"
            )

    def note_acknowledged(self) -> None:
        """Let what others have said to hold, and cannot lose any more, be remembered of them."""
        state = self.state
        if state.role is Role.LEADER:
            for progress in state.progress:
                self._peers.disks.acknowledged(progress.id, min(progress.match, state.commit))

    def _feed_frames(self) -> None:
        frames = self._frames
        for _ in range(min(len(frames), _TURN_FRAMES_MAX)):
            peer, frame = frames.popleft()
            self._frames_bytes -= len(frame)
            if self._upkeep.admission.is_open:  # else it is lost, which Raft repairs
                self._receive(peer, frame)
        if frames:
            self._waker.set()
        while self._lost:
            peer = self._lost.popleft()
            self.state = self._step(self.state, Unreachable(peer))
            self._sender.lost(peer)

    async def _feed_bulk_frames(self) -> None:
        """Bulk frames for a few milliseconds: consensus goes on beside them."""
        frames = self._bulk_frames
        until = self._clock.monotonic_ns() + self._bulk_ns
        while frames:
            peer, frame = frames.popleft()
            self._frames_bytes -= len(frame)
            await self.bulk.handle(peer, frame)
            if self._clock.monotonic_ns() >= until:
                self._waker.set()
                break

    def _receive(self, peer: int, frame: bytes) -> None:
        try:
            messages = decode_messages(frame)
        except WireError as error:
            _log.warning("a frame of member %s is dropped: %s", self._peers.called(peer), error)
            return
        me = self.state.config.id
        state = self.state
        for message in messages:
            # A request that is passed on keeps the name of the member that made it.
            if message.to != me or (message.sender != peer and not isinstance(message, _PASSED_ON)):
                continue
            try:
                if isinstance(message, ForwardProposal):
                    check_forwarded(message)
                    objection = self._changes.objection(message, state)
                    if objection is not None:
                        self._post(objection)
                        continue
                elif isinstance(message, InstallSnapshot):
                    raise WireError("a snapshot comes on the lane for snapshots, with its image")
            except WireError as error:
                name = self._peers.called(peer)
                _log.warning("a message of member %s is dropped: %s", name, error)
                continue
            if isinstance(message, TimeoutNow):
                self._summons.append(Receive(message))
                continue
            state = self._step(state, Receive(message))
        self.state = state

    def _feed_durable(self) -> None:
        durable = self._disk.take_durable()
        if durable:
            for promise in durable:
                for message in promise.messages:
                    self._post(message)
            self.state = self._step(self.state, Persisted(durable[-1].number))

    def _feed_commands(self) -> None:
        queue, in_flight, settings = self._queue, self._in_flight, self._settings
        if not self.state.membership.voters:
            return  # the snapshot that we wait for could contain them, without telling the results
        if self.state.recovering is Recovering.ALL:
            return  # an old copy counts its starts anew: commands of the first one may be under way
        while len(queue) and not self._holding:
            payloads: list[Payload] = []
            first, count, size = in_flight.next_sequence, 0, 0
            # A follower passes a proposal on as one message: it must fit a frame.
            while len(payloads) < _PROPOSAL_ENTRIES_MAX and size < settings.entry_bytes_max:
                waiters = queue.take(settings.entry_commands_max, settings.entry_bytes_max)
                if not waiters:
                    break
                start = in_flight.add(waiters)
                commands = [waiter.data for waiter in waiters]
                data = encode_commands(in_flight.member, in_flight.boot, start, commands)
                payloads.append(Payload(EntryKind.NORMAL, data))
                size += len(data)
                count += len(waiters)
            if not payloads:
                return
            in_flight.group(first, count)
            self.state = self._step(self.state, Propose(tuple(payloads), first))
            self._tell_refused()

    def _tell_refused(self) -> None:
        """Answer what was refused at once; what was accepted is told when it is applied."""
        if any(isinstance(answer, Refused) for answer in self.state.outbox.answers):
            self.state, answers = take_answers(self.state)
            for answer in answers:
                if isinstance(answer, Refused) and not answer.sender:
                    self._refused(answer.request, answer.reason)

    def _refused(self, request: int, reason: Refusal) -> None:
        """A proposal of ours was not taken, here or by the leader: it may wait for better times."""
        now = self._clock.monotonic_ns()
        if not request or self._changes.refused(request, reason, self.state.leader, now):
            return
        waiters = self._in_flight.take_back(request)
        if is_passing(reason):
            self._queue.put_back(waiters)
            self._holding = True
            return
        error = error_of(reason, self.state.leader)
        for waiter in waiters:
            waiter.fail(error)

    def _feed_reads(self) -> None:
        now = self._clock.monotonic_ns()
        for lease in (False, True):
            context = self._reads.ask(lease=lease, now_ns=now)
            if context is not None:
                self.state = self._step(self.state, Read(context, lease))

    # --- what the core asks for -----------------------------------------------------------------

    async def _drain(self) -> None:
        """Do what the core asks for until it asks for nothing."""
        disk = self._disk
        while True:
            while has_ready(self.state):
                self.state, todo = self._ready(self.state)
                self._guard.check(self.state, todo)  # before any of it is stored or sent
                self._take(todo)
            outgoing = self._outgoing
            if outgoing.has_some and (outgoing.is_urgent or not self._may_linger):
                outgoing.send()
            # A little to apply shares its batch with what was promised: one write for both.
            waits = disk.has_promises and not self._applying.has_little
            if waits or self._installing is not None:
                await disk.write()
            if not disk.has_durable:
                break
            self._feed_durable()  # what had to wait for no sync
        if self._installing is not None:
            snapshot, self._installing = self._installing, None
            self._images.installed()
            self._reads.resolve(snapshot.index)

    def _take(self, todo: Ready) -> None:
        for message in todo.messages:
            self._post(message)
        if todo.snapshot is not None:
            self._install(todo.snapshot)
        if todo.recovering is not None:
            self._recovery.changed(todo.recovering)
        self._disk.save(todo)
        if todo.committed:
            self._applier.add(todo.committed)
        if todo.reads or todo.dropped_reads:
            self._take_reads(todo)
        for answer in todo.answers:
            if isinstance(answer, Refused) and not answer.sender:
                self._refused(answer.request, answer.reason)
        if todo.soft_state is not None or self.state.term != self._told_term:
            self._tell(todo.soft_state or self._soft)
        if todo.snapshot_wanted:
            self._applying.offer_image()
        for alarm in todo.alarms:
            self._events.alarm(alarm.what)

    def _take_reads(self, todo: Ready) -> None:
        for read in todo.reads:
            self._reads.confirm(read.context, read.index)
        if todo.reads and self._installing is None:  # else nobody can read it: `_drain` tells them
            self._reads.resolve(self._applier.mark.index)
        for context in todo.dropped_reads:
            self._reads.drop(context)

    def _post(self, message: PeerMessage) -> None:
        if isinstance(message, InstallSnapshot):
            snapshot = evolve(message.snapshot, data=self._changes.encoded())
            message = evolve(message, snapshot=snapshot)
            if not self._sender.begin(message, self._applier.mark):
                self._applying.offer_image()  # the core asks again
        else:
            self._outgoing.post(message)

    def _not_sent(self, peer: int, messages: list[PeerMessage]) -> None:
        self._lost.append(peer)  # for the next turn; the next tick brings one at the latest
        me = self.state.config.id
        for message in messages:
            if isinstance(message, ForwardProposal) and message.sender == me:
                self._refused(message.request, Refusal.NO_LEADER)

    def _tell(self, soft: SoftState) -> None:
        term = self.state.term
        if soft.role is not self._soft.role or (term != self._told_term):
            self._events.put(RoleChanged(soft.role, term))
        if soft.leader != self._soft.leader:
            name = self._peers.name_of(soft.leader)
            if soft.leader:
                _log.info("member %s leads in term %d", self._peers.called(soft.leader), term)
            else:
                _log.info("no leader is known in term %d", term)
            self._events.put(LeaderChanged(soft.leader, name, term))
        self._soft, self._told_term = soft, term
        self._holding = False
        if soft.role is not Role.LEADER:
            self._sender.hold()
        if self.on_change is not None:
            self.on_change()

    # --- the bulk lane ----------------------------------------------------------------------------

    def _on_repair_frame(self, peer: int, frame: bytes) -> None:
        if frame[0] in (SEEN, AGAIN):
            membership = self._changes.remaining(self.state.membership)
            self._upkeep.on_frame(peer, frame, membership)
        else:
            self._repair.on_frame(peer, frame, self.state)

    def _on_state_hash(self, peer: int, frame: bytes) -> None:
        self._upkeep.hashes.on_frame(peer, frame, self.state.log.last_index)

    def _on_members_frame(self, _peer: int, frame: bytes) -> None:
        if frame[0] == MEMBERS:
            self._changes.hear(frame[1:])
        elif frame[0] == SETTLED:
            self._changes.settling.hear(frame)

    # --- images that arrive -----------------------------------------------------------------------

    async def _on_snapshot_frame(self, peer: int, frame: bytes) -> None:
        if not self._upkeep.admission.is_open:
            return  # to take one is to acknowledge it
        arrived = self._receiver.on_frame(peer, frame, self._applier.mark.index)
        if isinstance(arrived, InstallSnapshot):
            self.state = self._step(self.state, Receive(arrived))
        elif arrived is not None:
            await self._arrive(arrived)

    async def _arrive(self, arrived: Arrived) -> None:
        """A complete image is in the store: the core hears of it, and takes it or not."""
        await self._disk.write()  # its chunks can be read from now on
        self._arrived = arrived
        self.state = self._step(self.state, Receive(arrived.message))
        await self._drain()
        self._drop_arrived()

    def _drop_arrived(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:  # the core had no use for it
            self._images.unstage(self._disk.batch)

    def _install(self, snapshot: Snapshot) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is None or arrived.manifest.index != snapshot.index:
            raise InvariantError(f"the snapshot at entry {snapshot.index} never arrived here")
        _log.info("installing the snapshot at entry %d", snapshot.index)
        self._images.install(self._disk.batch, snapshot, arrived.manifest)
        self._applying.replaced(snapshot)
        self._installing = snapshot
