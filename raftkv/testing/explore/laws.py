"""What must hold in every world that is reached; the numbers are those of the simulator.

:class:`LocalLaws` judges what one input did to one member: that is the same wherever the others
are, so it is judged once and remembered with the result. What concerns the others is noted as
:class:`News`, and judged by :func:`judge` in each world in which it happens. What has to be known
of the past for that (who led, what was committed) is a part of the world: :class:`History`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import field, frozen

from raftkv.core import (
    AppendResponse,
    EntryKind,
    Log,
    Membership,
    PeerMessage,
    Role,
    State,
    VoteResponse,
)
from raftkv.core.ready import Alarm
from raftkv.testing.explore.local import Local, Stored
from raftkv.testing.invariants import WAITS_FOR_DISK, ViolationError, broken, is_quorum


@frozen(slots=True)
class Committed:
    """What a leader committed first."""

    chain: int
    term: int
    """The leader's."""


@frozen(slots=True)
class History:
    """What no member needs to remember, and no world may contradict."""

    base_index: int
    leaders: tuple[tuple[int, int], ...] = ()
    """(term, who led it)."""
    committed: tuple[Committed, ...] = ()
    """From ``base_index + 1`` on."""


@frozen(slots=True)
class Elected:
    """A member began to lead."""

    state: State
    membership: Membership
    """That in force when the votes were counted."""


@frozen(slots=True)
class Moved:
    """A commit index is another one; ``leads``: by counting."""

    state: State
    leads: bool


@frozen(slots=True)
class News:
    """What one input at a member means to the others."""

    elected: tuple[Elected, ...] = ()
    moved: tuple[Moved, ...] = ()
    log: Log | None = None
    """If it changed."""
    acknowledged: tuple[tuple[int, int, int], ...] = ()
    """(term, index, chain value of the durable entry) of each append said to be stored."""


@frozen(slots=True, eq=False)
class LocalLaws:
    """The laws of one member, for the length of one input."""

    member: int
    elected: list[Elected] = field(factory=list[Elected])
    moved: list[Moved] = field(factory=list[Moved])
    logs: list[Log] = field(factory=list[Log])
    acknowledged: list[tuple[int, int, int]] = field(factory=list[tuple[int, int, int]])

    def news(self) -> News | None:
        """What concerns the others; None: nothing."""
        if not (self.elected or self.moved or self.logs or self.acknowledged):
            return None
        log = self.logs[-1] if self.logs else None
        return News(tuple(self.elected), tuple(self.moved), log, tuple(self.acknowledged))

    def stepped(self, before: State, after: State) -> None:
        """After every step of the core."""
        who, log = f"n{self.member}", after.log
        if after.term < before.term:
            raise broken("I1", f"{who} went from term {before.term} to {after.term}")
        if after.term == before.term and before.vote not in (0, after.vote):
            raise broken("I2", f"{who} voted twice in term {after.term}")
        if after.commit < before.commit or after.applied < before.applied:
            raise broken("I4", f"{who}: commit or applied went back from {before.commit}")
        if log != before.log:
            self._log_changed(before, after)
        fits = after.applied <= after.commit <= log.last_index
        if not fits or (after.incoming is None and log.base_index > after.applied):
            raise broken("I3", f"{who}: applied {after.applied}, commit {after.commit}, {log!r}")
        if after.role is not before.role:
            self._role_changed(before, after)
        if after.commit != before.commit:
            self._commit_moved(before, after)
        if after.role is Role.LEADER and before.role is Role.LEADER:
            self._progress_moved(before, after)

    def _log_changed(self, before: State, after: State) -> None:
        old, new, who = before.log, after.log, f"n{self.member}"
        self.logs.append(new)
        commit = before.commit
        if commit >= max(new.base_index, old.base_index) and (
            commit > new.last_index or new.chain_at(commit) != old.chain_at(commit)
        ):
            raise broken("I8", f"{who} lost its committed entries up to {commit}: {new!r}")
        leads = after.role is Role.LEADER
        if (before.role is Role.LEADER and leads and before.term == after.term) and (
            old.last_index > new.last_index
            or (old.last_index >= new.base_index and new.chain_at(old.last_index) != old.last_chain)
        ):
            raise broken("I6", f"{who} rewrote its log while leading term {after.term}")
        term = new.base_term
        changes: list[int] = []
        for entry in new.entries():
            if not term <= entry.term <= after.term:
                raise broken("I5", f"{who}, term {after.term}: {entry} after term {term}")
            term = entry.term
            if entry.kind is not EntryKind.NORMAL and entry.index > after.commit:
                changes.append(entry.index)
        # A follower may learn late that the first of two is committed; its leader knew.
        if leads and len(changes) > 1:
            raise broken("I17", f"{who} has uncommitted changes at {changes}")

    def _role_changed(self, before: State, after: State) -> None:
        if after.role is Role.LEADER:
            self.elected.append(Elected(after, before.membership))
        elif after.role is not Role.FOLLOWER and not before.membership.is_voter(self.member):
            raise broken("I20", f"n{self.member} campaigns without being a voter")

    def _commit_moved(self, before: State, after: State) -> None:
        # A leader that leaves the membership may commit and step down in one step.
        leads = after.role is Role.LEADER or (
            before.role is Role.LEADER and after.term == before.term
        )
        self.moved.append(Moved(after, leads))
        if leads and after.log.term_at(after.commit) != after.term:
            raise broken("I14", f"n{self.member} counted {after.commit}, of an older term")

    def _progress_moved(self, before: State, after: State) -> None:
        for new in after.progress:
            if new.next <= new.match:
                raise broken("I7", f"n{self.member} would send n{new.id} {new.next} <= {new.match}")
            old = before.peer(new.id)
            if old is not None and new.match < old.match:
                raise broken("I7", f"match of n{new.id} went from {old.match} to {new.match}")

    def changed_membership(self, before: State, after: State) -> None:
        """After a change was applied: old and new have a quorum in common."""
        old, new = before.membership, after.membership
        if new.is_joint and not old.is_joint:
            fits = new.outgoing == old.voters
        elif old.is_joint and not new.is_joint:
            fits = new.voters == old.voters
        else:
            fits = len({*old.voters} ^ {*new.voters}) <= 1 and new.outgoing == old.outgoing
        if not fits:
            raise broken("I18", f"no quorum in common: {old}, then {new}")

    def leave_at_once(self, messages: Iterable[PeerMessage]) -> None:
        """Before messages leave that wait for no write."""
        for message in messages:
            if isinstance(message, WAITS_FOR_DISK) or message.to == self.member:
                raise broken("I9", f"n{self.member} would send {message} before its write")

    def leave_after_write(self, stored: Stored, message: PeerMessage) -> None:
        """Before a message leaves that waited for a write."""
        hard, log = stored.hard_state, stored.log
        match message:
            case VoteResponse() if not message.rejected:
                if hard.term < message.term or (
                    hard.term == message.term and hard.vote != message.to
                ):
                    raise broken("I9", f"n{self.member} votes before that is stored: {message}")
            case AppendResponse() if not message.rejected and message.index:
                if hard.term < message.term:
                    raise broken("I9", f"n{self.member} answers in a term not stored: {message}")
                if hard.term == message.term and message.index >= log.base_index:
                    if message.index > log.last_index:
                        raise broken("I9", f"n{self.member} has not stored {message.index}")
                    chain = log.chain_at(message.index)
                    self.acknowledged.append((message.term, message.index, chain))
            case _:
                pass

    def store(self, before: Stored, after: Stored) -> None:
        """After a write became durable."""
        old, new = before.hard_state, after.hard_state
        if new.term < old.term or (new.term == old.term and old.vote not in (0, new.vote)):
            raise broken("I2", f"n{self.member} stores {new} over {old}")

    def reopened(self, stored: Stored, state: State) -> None:
        """After a restart: what it takes for committed is judged anew."""
        if state.commit > stored.image.index:
            self.moved.append(Moved(state, leads=False))

    def endless(self) -> ViolationError:
        """For a member whose work does not end."""
        return broken("I51", f"n{self.member} has work without end")

    def alarmed(self, alarms: tuple[Alarm, ...]) -> ViolationError:
        """For a member that was sent what does not continue its log."""
        return broken("I11", f"n{self.member} was sent what does not continue it: {alarms}")


def judge(members: Sequence[Local], news: News, history: History) -> History:
    """The history after what one member did, every member being what it is now.

    Raises ViolationError.
    """
    for elected in news.elected:
        history = _elected(members, elected, history)
    for moved in news.moved:
        history = _moved(members, moved, history)
    if news.log is not None:
        for member in members:
            _agree(member.state.log, news.log)
    for term, index, chain in news.acknowledged:
        for member in members:
            state = member.state
            if state.role is Role.LEADER and state.term == term:
                log = state.log
                if log.base_index <= index <= log.last_index and log.chain_at(index) != chain:
                    raise broken("I9", f"n{state.id} is told that {index} is stored: not so")
    return history


def _elected(members: Sequence[Local], elected: Elected, history: History) -> History:
    state = elected.state
    term, leader = state.term, state.id
    leaders = dict(history.leaders)
    if term in leaders:  # by itself, too: it does not know what it did in the term before
        raise broken("I10", f"n{leaders[term]} and then n{leader} lead term {term}")
    leaders[term] = leader
    voters: list[int] = []
    for member in members:
        hard = member.stored.hard_state
        # Who went on to a higter term since may have voted for it.
        if hard.term > term or (hard.term == term and hard.vote == leader):
            voters.append(member.state.id)
    if not is_quorum(elected.membership, voters):
        raise broken("I20", f"n{leader} leads term {term} with the votes of {voters} alone")
    _has_all(state, history)
    return History(history.base_index, tuple(sorted(leaders.items())), history.committed)


def _has_all(leader: State, history: History) -> None:
    """I12: whatever was committed in earlier terms."""
    index = history.base_index + len(history.committed)
    for committed in reversed(history.committed):
        if committed.term < leader.term:
            log = leader.log
            has_it = index <= log.last_index and (
                index < log.base_index or log.chain_at(index) == committed.chain
            )
            if not has_it:
                raise broken(
                    "I12", f"n{leader.id} leads term {leader.term} without committed entry {index}"
                )
            return
        index -= 1


def _moved(members: Sequence[Local], moved: Moved, history: History) -> History:
    state = moved.state
    commit, log, known = state.commit, state.log, history.committed
    if commit <= history.base_index:
        return history
    chain = log.chain_at(commit)
    if moved.leads:
        _durable_on_quorum(members, state, chain)
    last = history.base_index + len(known)
    if commit <= last:
        if known[commit - history.base_index - 1].chain != chain:
            raise broken("I16", f"n{state.id} commits another entry at {commit}")
        return history
    if not moved.leads:
        raise broken("I16", f"n{state.id} takes {commit} for committed: no leader did")
    fresh = tuple([Committed(one.chain, state.term) for one in log.slice(last + 1, commit + 1)])
    grown = History(history.base_index, history.leaders, known + fresh)
    for member in members:
        if member.state.role is Role.LEADER:
            _has_all(member.state, grown)
    return grown


def _durable_on_quorum(members: Sequence[Local], leader: State, chain: int) -> None:
    index = leader.commit
    having: list[int] = []
    for member in members:
        log = member.stored.log
        if log.base_index > index or (
            log.base_index <= index <= log.last_index and log.chain_at(index) == chain
        ):
            having.append(member.state.id)
    if not is_quorum(leader.membership, having):
        raise broken("I15", f"n{leader.id} committed {index}, which is durable on {having} only")


def _agree(one: Log, other: Log) -> None:
    """I11: where two logs have an entry of one term, they are the same up to there."""
    index = min(one.last_index, other.last_index)
    base = max(one.base_index, other.base_index)
    while index >= base and one.term_at(index) != other.term_at(index):
        index -= 1
    if index >= base and one.chain_at(index) != other.chain_at(index):
        raise broken("I11", f"two logs differ at or before {one.term_at(index)}/{index}")
