"""What must hold in every world, after every step, whatever fails.

Each check carries the number of its invariant, and is keyed by what a step changed, so that a step
which changed nothing costs next to nothing. What members must agree on is kept in one place
(:class:`Checker`): the leaders of all terms, the committed log, the votes that left. The checks
share no code with the core beyond its values, since it is the core that they doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from raftkv.core import (
    AppendResponse,
    Config,
    Entry,
    EntryKind,
    HardState,
    HeartbeatResponse,
    Log,
    Membership,
    Message,
    PreVoteResponse,
    ReadState,
    Recovery,
    Role,
    State,
    VoteResponse,
    decode_change,
)
from raftkv.testing.marks import Marks

WAITS_FOR_DISK = (AppendResponse, VoteResponse, PreVoteResponse)
"""What may leave only after the write that it vouches for."""


class Durable(Protocol):
    """What would be found on a member's disk after a crash."""

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit."""
        ...

    @property
    def base_index(self) -> int:
        """The compaction point."""
        ...

    @property
    def base_chain(self) -> int:
        """Its chain value."""
        ...

    def chain_at(self, index: int) -> int | None:
        """The chain value of the entry at ``index``; None if it is not here (any more)."""
        ...


class Applying(Protocol):
    """A machine: how far it is, and a checksum of all that it holds."""

    @property
    def index(self) -> int:
        """The last entry applied."""
        ...

    @property
    def value(self) -> int:
        """The checksum there."""
        ...


class Subject(Protocol):
    """A member as its invariants see it."""

    @property
    def id(self) -> int:
        """Its id."""
        ...

    @property
    def state(self) -> State:
        """Its core, or the last it had."""
        ...

    @property
    def disk(self) -> Durable:
        """What is durable of it."""
        ...

    @property
    def machine(self) -> Applying:
        """What it applies to."""
        ...

    @property
    def recovers(self) -> bool:
        """Whether it lost something and is not whole again, be it up or down."""
        ...

    @property
    def lost_to(self) -> int:
        """While it recovers: where its log ended before."""
        ...

    @property
    def forgot(self) -> bool:
        """Whether it once lost its votes."""
        ...


class ViolationError(AssertionError):
    """An invariant is broken; ``invariant`` is its number."""

    def __init__(self, invariant: str, broken: str) -> None:
        super().__init__(f"{invariant}: {broken}")
        self.invariant = invariant
        self.broken = broken


def broken(invariant: str, what: str) -> ViolationError:
    """The error to raise."""
    return ViolationError(invariant, what)


def is_quorum(membership: Membership, members: Iterable[int]) -> bool:
    """Whether these hold a majority, of both halves if there are two."""
    having = frozenset(members)
    return all(
        2 * len(having.intersection(half)) > len(half)
        for half in (membership.voters, membership.outgoing)
        if half
    )


class Checker:
    """The invariants of one world, and what they have to remember."""

    def __init__(self, members: Mapping[int, Subject], marks: Marks, base_index: int) -> None:
        self.members = members
        self.marks = marks
        self.base_index = base_index
        self.committed: list[Entry] = []
        """What leaders committed, from ``base_index + 1`` on: it only grows (I16)."""
        self.commits: list[tuple[int, int]] = []
        """(term, last index committed by that term's leader)."""
        self.leaders: dict[int, int] = {}
        self.leader_logs: dict[int, Log] = {}
        self.votes: dict[tuple[int, int], int] = {}
        """(member, term) -> whom it voted for, as others were told."""
        self.chains: dict[tuple[int, int], int] = {}
        self.values: list[int] = []
        self.memberships: dict[int, Membership] = {}
        self.newest_membership: Membership | None = None
        self.removed: set[int] = set()
        self.accepted: dict[tuple[int, int], bytes] = {}

    @property
    def last_committed(self) -> int:
        """The highest index that any leader committed."""
        return self.base_index + len(self.committed)

    def committed_entry(self, index: int) -> Entry | None:
        """The entry committed at ``index``; None at or below the base, and if there is none yet."""
        place = index - self.base_index - 1
        return self.committed[place] if 0 <= place < len(self.committed) else None

    # --- one step ---------------------------------------------------------------------------

    def stepped(self, member: Subject, before: State, after: State) -> None:
        """After every step of a member."""
        if after.term != before.term:
            if after.term < before.term:
                raise broken("I1", f"n{member.id} went from term {before.term} to {after.term}")
        elif after.vote != before.vote and before.vote:
            raise broken("I2", f"n{member.id} voted twice in term {after.term}")
        log = after.log
        if log is not before.log:
            self._log_changed(member, before, after)
        if before.recovery is not None:
            self._recovering(member, before.recovery, before, after)
        if after.role is not before.role:
            self._role_changed(member, before, after)
        moved = after.commit != before.commit
        if moved:
            self._commit_moved(member, before, after)
        if moved or log is not before.log or after.apply is not before.apply:
            _positions_fit(member, before, after)
        if (
            after.progress is not before.progress
            and after.role is Role.LEADER
            and before.role is Role.LEADER
        ):
            self._progress_moved(member, before, after)

    def _log_changed(self, member: Subject, before: State, after: State) -> None:
        old, new = before.log, after.log
        first = self._first_new(member, before, after)
        if before.commit >= new.base_index:
            kept = before.commit <= new.last_index
            if not kept or (
                before.commit >= old.base_index
                and new.chain_at(before.commit) != old.chain_at(before.commit)
            ):
                raise broken(
                    "I8", f"n{member.id} lost its committed entries up to {before.commit}: {new!r}"
                )
        term = new.term_at(first - 1) if new.has_term(first - 1) else 0
        for index, entry in enumerate(new.slice(first, new.last_index + 1), first):
            if entry.index != index:
                raise broken("I3", f"n{member.id} keeps entry {entry.index} at {index}")
            if not term <= entry.term <= after.term:
                raise broken(
                    "I5", f"n{member.id}, term {after.term}: {entry.term} after {term} at {index}"
                )
            term = entry.term
            if self.chains.setdefault((index, term), entry.chain) != entry.chain:
                raise broken("I11", f"two logs differ at or before {term}/{index}")
            if entry.kind is not EntryKind.NORMAL:
                self._change_appended(member, after, entry)
        if after.role is Role.LEADER:
            self.leader_logs[after.term] = new

    def _first_new(self, member: Subject, before: State, after: State) -> int:
        """The first index that was not there before; says what else happened to the log."""
        old, new = before.log, after.log
        if new.base_index > old.base_index and new.last_chain == old.last_chain:
            self.marks["compacted"] += 1
            return new.last_index + 1
        if new.base_index > old.last_index or after.incoming is not before.incoming:
            self.marks["snapshot taken over"] += 1
            return new.last_index + 1
        first = old.last_index + 1
        if new.last_index >= old.last_index and new.chain_at(old.last_index) == old.last_chain:
            return first
        if before.role is Role.LEADER and after.role is Role.LEADER and after.term == before.term:
            raise broken("I6", f"n{member.id} rewrote its log while leading term {after.term}")
        self.marks["truncated"] += 1
        first = min(old.last_index, new.last_index) + 1
        while first - 1 > old.base_index and new.chain_at(first - 1) != old.chain_at(first - 1):
            first -= 1
        return first

    def _change_appended(self, member: Subject, after: State, change: Entry) -> None:
        log = after.log
        first = max(self.last_committed + 1, log.first_index)
        open_changes = [
            entry.index
            for entry in log.slice(first, change.index + 1)
            if entry.kind is not EntryKind.NORMAL
        ]
        if len(open_changes) > 1:
            raise broken("I17", f"n{member.id} has uncommitted changes at {open_changes}")
        if after.role is Role.LEADER and change.term == after.term:
            leaves = not decode_change(change.data).changes
            if leaves and not after.membership.is_joint:
                raise broken("I19", f"n{member.id} leaves a joint configuration before it is in it")
            self.marks["change proposed"] += 1

    def _recovering(self, member: Subject, recovery: Recovery, before: State, after: State) -> None:
        """I22: a recovering member gives no vote, does not campaign, and says what it is."""
        if after.recovery is None:
            self.marks[f"whole again: {recovery.kind.name}"] += 1
            return
        if after.role is not Role.FOLLOWER:
            raise broken("I22", f"n{member.id} recovers and is {after.role.value}")
        after_append = after.messages_after_append[len(before.messages_after_append) :]
        for message in (*after_append, *after.messages[len(before.messages) :]):
            match message:
                case VoteResponse() | PreVoteResponse() if not message.rejected:
                    raise broken("I22", f"n{member.id} recovers and votes: {message}")
                case AppendResponse() | HeartbeatResponse() if not message.recovering:
                    raise broken("I22", f"n{member.id} recovers and hides it: {message}")
                case VoteResponse() | PreVoteResponse():
                    self.marks["vote refused while recovering"] += 1
                case _:
                    pass

    def _role_changed(self, member: Subject, before: State, after: State) -> None:
        role = after.role
        if role is Role.LEADER:
            self._elected(member, before, after)
        elif role is not Role.FOLLOWER:
            self.marks["campaign"] += 1
            if not before.membership.is_voter(member.id):
                raise broken("I20", f"n{member.id} campaigns without being a voter")
        elif before.role is Role.LEADER:
            self.marks["leader stepped down"] += 1
        else:
            self.marks["election lost"] += 1

    def _elected(self, member: Subject, before: State, after: State) -> None:
        term = after.term
        self.marks["elected"] += 1
        if self.leaders:
            self.marks["elected again"] += 1
        if self.leaders.setdefault(term, member.id) != member.id:
            raise broken("I10", f"n{self.leaders[term]} and n{member.id} both lead term {term}")
        self._voted(member.id, term, member.id)
        stored = member.disk.hard_state
        if stored != HardState(term, member.id, stored.commit):
            raise broken("I9", f"n{member.id} counted its vote in term {term} before it was stored")
        voters = [node for node in self.members if self.votes.get((node, term)) == member.id]
        if not is_quorum(before.membership, voters):
            raise broken("I20", f"n{member.id} leads term {term} with the votes of {voters} alone")
        self.leader_logs[term] = after.log
        last = next((last for by, last in reversed(self.commits) if by < term), 0)
        entry = self.committed_entry(last)
        if entry is not None and last >= after.log.base_index:
            has_it = last <= after.log.last_index and after.log.chain_at(last) == entry.chain
            if not has_it:
                raise broken(
                    "I12", f"n{member.id} leads term {term} without committed entry {last}"
                )

    def _voted(self, voter: int, term: int, candidate: int) -> None:
        if self.votes.setdefault((voter, term), candidate) != candidate:
            chosen = self.votes[voter, term]
            raise broken("I2", f"n{voter} voted in term {term} for n{chosen} and n{candidate}")

    # --- commit and progress ----------------------------------------------------------------

    def _commit_moved(self, member: Subject, before: State, after: State) -> None:
        commit = after.commit
        if commit < before.commit:
            raise broken("I4", f"n{member.id}: commit went from {before.commit} to {commit}")
        # A leader that leaves the membership may commit and step down in one step.
        leads = after.role is Role.LEADER or (
            before.role is Role.LEADER and after.term == before.term
        )
        if leads:
            if after.log.term_at(commit) != after.term:
                raise broken(
                    "I14", f"n{member.id} counted entry {commit} of an older term than {after.term}"
                )
            self._durable_on_quorum(member, after)
        if commit > self.last_committed:
            if not leads:
                raise broken("I16", f"n{member.id} takes {commit} for committed: no leader did")
            fresh = after.log.slice(self.last_committed + 1, commit + 1)
            self.committed += fresh
            self.commits.append((after.term, commit))
            self.marks["committed"] += len(fresh)
            return
        entry = self.committed_entry(commit)
        if entry is not None and after.log.chain_at(commit) != entry.chain:
            raise broken("I16", f"n{member.id} commits another entry at {commit}")

    def _durable_on_quorum(self, leader: Subject, state: State) -> None:
        index = state.commit
        chain = state.log.chain_at(index)
        counted = [one.id for one in state.progress if one.match >= index and not one.recovering]
        if state.role is Role.LEADER and not is_quorum(state.membership, counted):
            raise broken(
                "I22", f"n{leader.id} committed {index}, which only {counted} acknowledged"
            )
        having = [
            node
            for node, member in self.members.items()
            if member.disk.chain_at(index) == chain
            or member.disk.base_index > index
            # It had it when it said so. That its loss is not known to the leader yet is no harm.
            or (member.recovers and member.lost_to >= index)
        ]
        if not is_quorum(state.membership, having):
            raise broken(
                "I15", f"n{leader.id} committed {index}, which is durable on {having} only"
            )

    def _progress_moved(self, member: Subject, before: State, after: State) -> None:
        for old, new in zip(before.progress, after.progress, strict=False):
            if new is old:
                continue
            if len(new.inflight) > after.config.inflight_max:
                raise broken(
                    "I51", f"n{member.id} has {len(new.inflight)} appends under way to n{new.id}"
                )
            if new.next <= new.match:
                raise broken("I7", f"n{member.id} would send n{new.id} {new.next} <= {new.match}")
            if new.id != old.id:  # the membership changed: both are found by id
                found = before.peer(new.id)
                if found is None:
                    continue
                old = found
            if new.recovering:
                if new.match:
                    raise broken("I22", f"n{member.id} counts n{new.id}, which recovers")
            elif new.match < old.match:
                raise broken(
                    "I7", f"n{member.id}: match of n{new.id} from {old.match} to {new.match}"
                )

    # --- what leaves a member ---------------------------------------------------------------

    def leaves_at_once(self, member: Subject, message: Message) -> None:
        """Before a message leaves that waits for no write."""
        if isinstance(message, WAITS_FOR_DISK) or message.to == member.id:
            raise broken("I9", f"n{member.id} would send {message} before its write")

    def leaves_after_write(self, member: Subject, message: Message) -> None:
        """Before a message leaves that waited for a write (own ones do not leave)."""
        stored = member.disk.hard_state
        match message:
            case VoteResponse() if not message.rejected:
                self._voted(member.id, message.term, message.to)
                kept = stored.term > message.term or stored.vote == message.to
                if stored.term < message.term or not kept:
                    raise broken("I9", f"n{member.id} votes before that is stored: {message}")
            case AppendResponse() if not message.rejected and message.index:
                if stored.term < message.term:
                    raise broken("I9", f"n{member.id} answers in a term not stored: {message}")
                if stored.term == message.term:
                    self._has_acknowledged(member, message.term, message.index)
            case _:
                pass

    def _has_acknowledged(self, member: Subject, term: int, index: int) -> None:
        """What it acknowledges to a leader must be durable here as the leader has it."""
        if index <= member.disk.base_index:
            return
        log = self.leader_logs.get(term)
        if log is not None and log.base_index <= index <= log.last_index:
            wanted = log.chain_at(index)
        else:
            entry = self.committed_entry(index)
            wanted = None if entry is None else entry.chain
        stored = member.disk.chain_at(index)
        if stored is None or (wanted is not None and stored != wanted):
            raise broken("I9", f"n{member.id} acknowledges {index} in term {term}: not stored so")

    # --- the machine ------------------------------------------------------------------------

    def applies(self, member: Subject, entry: Entry) -> None:
        """Before a machine applies an entry."""
        if entry.index != member.machine.index + 1:
            raise broken("I13", f"n{member.id} applies {entry.index} at {member.machine.index}")
        known = self.committed_entry(entry.index)
        if entry is known:
            return
        if known is None:
            raise broken("I13", f"n{member.id} applies {entry.index}, which nobody committed")
        if entry != known:
            raise broken("I13", f"n{member.id} applies {entry}, committed is {known}")

    def applied(self, member: Subject, entry: Entry) -> None:
        """After a machine applied an entry: all machines are alike there."""
        machine = member.machine
        place = entry.index - self.base_index - 1
        if place == len(self.values):
            self.values.append(machine.value)
            data = self.accepted.get((entry.term, entry.index))
            if data is not None and data != entry.data:
                raise broken("I47", f"{entry} stands where another proposal was accepted")
        elif self.values[place] != machine.value:
            raise broken("I13", f"the machine of n{member.id} differs at {entry.index}")

    def restored(self, member: Subject, machine: Applying) -> None:
        """After a machine was replaced by a snapshot, or read back from its disk."""
        place = machine.index - self.base_index - 1
        if place >= 0 and (place >= len(self.values) or self.values[place] != machine.value):
            raise broken("I13", f"the snapshot of n{member.id} differs at {machine.index}")

    def membership_changed(self, member: Subject, index: int, membership: Membership) -> None:
        """After a member applied a membership change."""
        known = self.memberships.get(index)
        if known is None:
            self._first_to_change(index, membership)
        elif known != membership:
            raise broken("I13", f"n{member.id} has {membership} at {index}, others {known}")

    def _first_to_change(self, index: int, new: Membership) -> None:
        old = self.newest_membership
        self.memberships[index] = new
        self.newest_membership = new
        self.marks["membership changed"] += 1
        if old is None:
            return
        if new.is_joint and not old.is_joint:
            fits = new.outgoing == old.voters
            self.marks["joint entered"] += 1
        elif old.is_joint and not new.is_joint:
            fits = new.voters == old.voters
            self.marks["joint left"] += 1
        else:
            fits = len({*old.voters} ^ {*new.voters}) <= 1 and new.outgoing == old.outgoing
        if not fits:
            raise broken("I18", f"no quorum in common: {old}, then {new}")
        gone = {*old.members()} - {*new.members()}
        self.removed |= gone
        back = self.removed.intersection(new.members())
        if back:
            raise broken("I21", f"{sorted(back)} came back after being removed")

    # --- reads and the whole ----------------------------------------------------------------

    def answered(
        self, member: Subject, read: ReadState, floor: int, *, lease: bool = False
    ) -> None:
        """When a read is answered; ``floor`` is what was committed when it was asked."""
        if read.index < floor:
            raise broken(
                "I25" if lease else "I24",
                f"n{member.id} reads at {read.index}, but {floor} was committed when it asked",
            )

    def sweep(self) -> None:
        """Everything that is not keyed by one step; called now and then."""
        for member in self.members.values():
            state, disk = member.state, member.disk
            for index, chain in (
                (state.commit, state.log.chain_at(state.commit)),
                (disk.base_index, disk.base_chain),
            ):
                entry = self.committed_entry(index)
                if entry is not None and chain != entry.chain:
                    raise broken("I16", f"n{member.id} has another entry at {index}")
            vote = disk.hard_state.vote
            if member.forgot and vote == member.id:
                continue  # spent: perhaps on somebody else
            if vote and self.votes.get((member.id, disk.hard_state.term), vote) != vote:
                raise broken("I2", f"n{member.id} forgot for whom it voted: {disk.hard_state}")


def _positions_fit(member: Subject, before: State, after: State) -> None:
    """I3 and the rest of I4."""
    if after.applied < before.applied:
        raise broken("I4", f"n{member.id}: applied from {before.applied} to {after.applied}")
    log = after.log
    fits = after.applied <= after.commit <= log.last_index and log.base_index <= log.last_index
    if not fits or (after.incoming is None and log.base_index > after.applied):
        raise broken("I3", f"n{member.id}: applied {after.applied}, commit {after.commit}, {log!r}")


def reads_checked(config: Config, *, single_voter: bool) -> bool:
    """Whether the settings promise linearizable reads; a lone voter may be allowed not to wait."""
    return config.single_voter_reads_wait or not single_voter
