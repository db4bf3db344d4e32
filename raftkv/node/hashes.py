"""Members compare the state of their machines, and name who has another one.

Every few minutes the leader puts a note into the log (:class:`~raftkv.node.notes.HashHere`). Each
member that applies it then takes the hash of its machine's state as of that very entry, and
tells it to the leader, who compares::

    REPORT  30 u8 | index u64 | chain u64 | hash (32)      member -> leader
    ODD     31 u8 | index u64 | chain u64 | hash (32)      leader -> member: a quorum has this one

Equal entries make equal states, so a different hash is damage: of a disk, of memory, or a machine
that is not deterministic. If a quorum of voters agrees, who differs is named in an alarm; if its
state lies on its disk it also condemns its store and stops, to be made anew from the others when it
is opened again. Where no quorum agrees nobody can say who is right, and there is an alarm alone.

**On-disk machines.** A frozen view is taken between two slices of apply, which costs microseconds;
its rows are read and hashed in a worker at the pace of the scrubber. Rows must be functions of the
commands alone, not of how apply was sliced.

**In-memory machines.** The chunks of ``snapshot()`` are hashed, on the loop between its turns, and
nothing is applied meanwhile: as long as taking an image takes, without its disk writes. Their state
is no damage of the disk, and equal states might be dumped differently: alarms only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Final

from attrs import frozen

from raftkv.core import Membership
from raftkv.errors import MachineError
from raftkv.machine import StateMachine
from raftkv.node.scrub import Reading
from raftkv.runtime.base import Spawner
from raftkv.storage.base import AppliedMark, Storage, View
from raftkv.transport.base import Lane, Transport

_log = logging.getLogger("raftkv.node")

# The numbers are on the wire: they never change.
_REPORT: Final = 30
_ODD: Final = 31
_FRAME: Final = Struct("<BQQ32s")
_HASH_BYTES: Final = 32
_ROUNDS_MAX: Final = 2  # older ones are forgotten


@frozen(slots=True)
class StateHash:
    """What a machine's state was when everything up to ``index`` was applied."""

    index: int
    chain: int
    value: bytes

    def __str__(self) -> str:
        """For alarms."""
        return f"{self.value.hex()} (log chain {self.chain:016x})"


@frozen(slots=True)
class Verdict:
    """Who is odd: ``agreed`` is what a quorum has; None if no quorum has the same."""

    agreed: StateHash | None
    odd: tuple[int, ...]


def judge(reports: dict[int, StateHash], membership: Membership) -> Verdict | None:
    """Compare reports of one index. None while they do not differ."""
    holders: dict[StateHash, set[int]] = {}
    for member in sorted(reports):
        holders.setdefault(reports[member], set()).add(member)
    if len(holders) < 2:
        return None
    for value, members in holders.items():
        if all(
            2 * len(members.intersection(voters)) > len(voters)
            for voters in (membership.voters, membership.outgoing)
            if voters
        ):
            return Verdict(value, tuple(sorted(reports.keys() - members)))
    return Verdict(None, tuple(sorted(reports)))


class _Round:
    """What the members reported of one index."""

    def __init__(self) -> None:
        self.reports: dict[int, StateHash] = {}
        self.named: set[int] = set()
        self.is_undecided_told = False


class StateHashes:
    """One member's part in the comparison. Loop thread only."""

    def __init__(
        self,
        me: int,
        storage: Storage,
        machine: StateMachine[object] | None,
        transport: Transport,
        spawner: Spawner,
        reading: Reading,
        *,
        quiet_until: int,
    ) -> None:
        """``machine`` is None for one whose rows are in the store.

        Notes up to the entry ``quiet_until`` are passed over: they were in the log before this
        start, and others have answered them.
        """
        self._me = me
        self._storage = storage
        self._machine = machine
        self._transport = transport
        self._spawner = spawner
        self._reading = reading
        self._quiet_until = quiet_until
        self._hashing = False
        self._chunks: Iterator[bytes] | None = None
        self._mark = AppliedMark()
        self._digest = blake2b(digest_size=_HASH_BYTES)
        self._mine: StateHash | None = None
        self._told: tuple[int, int] | None = None  # (leader, index) of the last report
        self._rounds: dict[int, _Round] = {}
        self.on_alarm: Callable[[str], None] = _nobody
        """Told what a person should look at."""
        self.on_odd: Callable[[str], None] = _nobody
        """Told that this member's stored state is another than the others'."""
        self.name_of: Callable[[int], str] = str

    # --- taking the hash ------------------------------------------------------------------------

    @property
    def is_taking(self) -> bool:
        """Whether an in-memory machine is being hashed: nothing may be applied until it is done."""
        return self._chunks is not None

    def take(self, mark: AppliedMark) -> None:
        """The note at ``mark`` was applied, and nothing after it."""
        if mark.index <= self._quiet_until or self._hashing:
            return
        if self._machine is not None:
            self._mark = mark
            self._digest = blake2b(digest_size=_HASH_BYTES)
            self._chunks = _dumped(self._machine)
            return
        self._hashing = True
        view = self._storage.store.view(cached=False)

        async def work() -> None:
            try:
                await self._hash_rows(mark, view)
            finally:
                view.close()
                self._hashing = False

        self._spawner.spawn(f"state hash at {mark.index}", work)

    def advance(self) -> None:
        """Hash the next chunk of an in-memory machine."""
        chunks = self._chunks
        if chunks is None:
            return
        chunk = next(chunks, None)
        if chunk is not None:
            self._digest.update(chunk)
            return
        self._chunks = None
        self._mine = StateHash(self._mark.index, self._mark.chain, self._digest.digest())

    def abandon(self) -> None:
        """The machine was replaced by an image: what was begun is of no use."""
        self._chunks = None

    async def _hash_rows(self, mark: AppliedMark, view: View) -> None:
        rows = self._storage.machine_hash(view)
        await self._reading.all_of(rows)
        self._mine = StateHash(mark.index, mark.chain, rows.digest())

    # --- telling and comparing ------------------------------------------------------------------

    def tick(self, leader: int, membership: Membership) -> None:
        """Tell the leader what is new, or compare if that is us."""
        mine = self._mine
        if mine is not None and leader and self._told != (leader, mine.index):
            if leader == self._me:
                self._told = (leader, mine.index)
                self._report(self._me, mine)
            elif self._transport.send(leader, _encode(_REPORT, mine), Lane.BULK):
                self._told = (leader, mine.index)
        if leader == self._me:
            for index in sorted(self._rounds):
                self._compare(index, self._rounds[index], membership)

    def on_frame(self, peer: int, frame: bytes, last_index: int) -> None:
        """A report for us to compare, or what came of ours; our log ends at ``last_index``."""
        try:
            kind, index, chain, value = _FRAME.unpack(frame)
        except StructError as error:
            _log.warning("a state hash of member %s is dropped: %s", self.name_of(peer), error)
            return
        theirs = StateHash(index, chain, value)
        if kind == _REPORT:
            # What nobody can have applied would crowd out what the others report.
            if index <= last_index:
                self._report(peer, theirs)
        elif kind == _ODD and self._mine is not None and self._told == (peer, self._mine.index):
            # From the leader that compared it: on its word this store is given up.
            if self._mine.index == index and theirs != self._mine:
                self._am_odd(theirs, self._mine)
        else:
            name = self.name_of(peer)
            _log.info("member %s answers a state hash that is of no use any more", name)

    def _report(self, member: int, theirs: StateHash) -> None:
        self._rounds.setdefault(theirs.index, _Round()).reports[member] = theirs
        while len(self._rounds) > _ROUNDS_MAX:
            del self._rounds[min(self._rounds)]

    def _compare(self, index: int, its: _Round, membership: Membership) -> None:
        members = membership.members()
        reports = {one: its.reports[one] for one in its.reports if one in members}
        verdict = judge(reports, membership)
        if verdict is None:
            return
        if verdict.agreed is None:
            self._tell_undecided(index, its, reports, membership)
            return
        for member in verdict.odd:
            if member in its.named:
                continue
            its.named.add(member)
            self.on_alarm(
                f"the state of member {self.name_of(member)} at entry {index} is not that of the"
                f" others: its hash is {reports[member]}, a quorum has {verdict.agreed}"
            )
            if member == self._me:
                self._am_odd(verdict.agreed, reports[member])
            else:
                self._transport.send(member, _encode(_ODD, verdict.agreed), Lane.BULK)

    def _tell_undecided(
        self, index: int, its: _Round, reports: dict[int, StateHash], membership: Membership
    ) -> None:
        """More reports may still make a quorum, unless this round is the last but one."""
        voters = {*membership.voters, *membership.outgoing}
        is_over = voters <= reports.keys() or index != max(self._rounds)
        if is_over and not its.is_undecided_told:
            its.is_undecided_told = True
            told = "; ".join(f"{self.name_of(one)} has {reports[one]}" for one in sorted(reports))
            self.on_alarm(
                f"the members' states at entry {index} differ and no quorum agrees: {told}; compare"
                " them by hand, or restore a backup"
            )

    def _am_odd(self, agreed: StateHash, mine: StateHash) -> None:
        what = (
            f"the machine's state at entry {mine.index} has the hash {mine}, a quorum of the"
            f" members has {agreed}"
        )
        if self._machine is None:
            self.on_odd(what)
        else:
            self.on_alarm(
                f"{what}: memory was damaged or the machine is not deterministic; restart this"
                " member, it then begins from its last image"
            )


def _dumped(machine: StateMachine[object]) -> Iterator[bytes]:
    try:
        yield from machine.snapshot()
    except Exception as error:
        raise MachineError(
            f"snapshot() of the state machine raised {type(error).__name__}: {error}"
        ) from error


def _encode(kind: int, what: StateHash) -> bytes:
    return _FRAME.pack(kind, what.index, what.chain, what.value)


def _nobody(_what: str) -> None:
    pass
