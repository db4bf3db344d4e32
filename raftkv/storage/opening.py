"""What happens at an opening, whatever the store: a whole one goes on, a damaged one is marked.

The log is read back and checked, the store is held against the witness, and the boot counter is
raised durably in both, the store first. A crash between the two leaves the store ahead, which is
harmless.

**A store that fails this** is refused if its member is alone in its cluster
(:mod:`raftkv.storage.others`): nobody could give back what is lost. Otherwise it is *quarantined*:
opened with what is provably intact, and durably marked as damaged
(:class:`~raftkv.storage.base.Damage`), so that the node neither votes nor counts until its peers
have made it whole. Which of two losses it is depends on the witness alone. With ``Loss.LOG`` term
and vote are proven: the witness is of the same disk, of the same or a later boot than the store,
both its slots are good, and it was not written by a member that was damaged already. In every other
case it is ``Loss.ALL``.

A store whose records all verify, and which only lacks what came later, stays in place: RocksDB's
batches survive in order or not at all. Anything else is begun anew with what can be saved
(:mod:`raftkv.storage.salvage`).

A store in place is marked in the first batch of its next boot; a new one takes the place only when
it is complete, mark included. Either has a boot counter beyond that of the witness, which is told
after it. So whatever moment a crash falls into, the next opening finds the same damage again, or
the mark.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Final, Protocol

from attrs import evolve, field, frozen

from raftkv.core.types import HardState, Snapshot
from raftkv.errors import IdentityError, StorageCorruptError, StorageFailedError
from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Damage,
    Identity,
    Loss,
    Reader,
    Recovered,
    Space,
    Store,
    WitnessRecord,
)
from raftkv.storage.log import StoredLog
from raftkv.storage.member import (
    CONDEMNED,
    Failpoint,
    FailStopStore,
    MemberStorage,
    Notes,
    no_failpoint,
    read_condemnation,
)
from raftkv.storage.others import has_others, newest_membership, readable_membership
from raftkv.storage.reading import LogReader
from raftkv.storage.records import REBUILD, corrupt, seal, unseal
from raftkv.storage.salvage import Intact, fill, newest, write_patiently
from raftkv.storage.witness import Witness, WitnessMark, what_is_missing

_IDENTITY_KEY: Final = b"identity"
_IDENTITY: Final = Struct("<QQ16sQ16s")  # cluster, member, disk uuid, boot, boot token
BOOT_TOKEN_BYTES: Final = 16
_ALONE: Final = (
    "as far as this directory knows its member is alone in its cluster, so nobody can give that"
    " back: restore a backup; or if there are other members, open it with join= and their"
    " addresses, or remove it there and add it anew with an empty directory"
)


@frozen(slots=True)
class Examination:
    """A store read back and checked."""

    identity: Identity
    recovered: Recovered
    log: StoredLog = field(eq=False, repr=False)


class Closable(Reader, Protocol):
    """Something to read that has to be closed."""

    def close(self) -> None:
        """Release it."""
        ...


class Place(Protocol):
    """Where a member's store is, and where a new one can take its place."""

    @property
    def where(self) -> str:
        """For a human."""
        ...

    @property
    def aside(self) -> str:
        """What becomes of a store that is replaced, for a human."""
        ...

    def open(self, check: Callable[[Store], Examination]) -> tuple[FailStopStore, Examination]:
        """Open the store for good if it passes ``check``; a torn tail is cut if the rest does."""
        ...

    def look(self) -> Closable | None:
        """Open it for reading only, as far as it can be read; None if it cannot be at all."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether a copy of it can be made and the original kept beside."""
        ...

    def begin(self) -> FailStopStore:
        """A new, empty store beside it; what was begun there before is gone."""
        ...

    def replace(self) -> None:
        """Let the new store, closed and complete, take the place."""
        ...


@frozen(kw_only=True)
class Opening:
    """One member's opening: everything it needs."""

    place: Place
    witness: Witness
    notes: Notes
    expected: Identity
    """Cluster and member; uuid and boot do not matter."""
    can_recover: bool
    new_token: Callable[[], bytes]
    has_others: bool = True
    """What the user says of that; heeded where the store does not know."""
    failpoint: Failpoint = no_failpoint
    on_failure: Callable[[StorageFailedError], None] = lambda _failure: None
    release: Callable[[], None] = lambda: None


@frozen(slots=True)
class Testimony:
    """What the witness remembers, and why that proves nothing if it does not."""

    mark: WitnessMark | None
    doubt: str | None = None

    @property
    def identity(self) -> Identity | None:
        """Whose witness it is."""
        return None if self.mark is None else self.mark.record.identity

    @property
    def boot(self) -> int:
        """The opening it is from; 0 if it does not say."""
        return 0 if self.mark is None else self.mark.record.identity.boot


def first_identity(store: Store, witness: Witness, identity: Identity) -> None:
    """Make an empty store and its witness those of a member, before its first opening."""
    write_identity(store, identity)
    empty = WitnessMark(WitnessRecord(identity, 0, 0, 0, 0, 0), 0)
    witness.remember(empty, durable=True)


def open_member(opening: Opening) -> MemberStorage:
    """Check a member's store and begin its next boot.

    Raises IdentityError if it is another member's, StorageFormatError if a newer raftkv wrote it,
    and StorageCorruptError if it is damaged and cannot recover: its member is alone, or nothing in
    it tells any more which disk it was.
    """
    testimony = _recall(opening)
    condemned = read_condemnation(opening.notes)
    if condemned is not None:
        damage, keep_rows = condemned
        if not opening.can_recover:
            corrupt(f"{opening.place.where} was found to be damaged: {damage.what}")
        # Alone it keeps what it has: nobody has better, and what is damaged is never served.
        if _can_be_helped(opening):
            _rebuild(opening, testimony, damage, keep_rows=keep_rows)
            opening.failpoint("condemned.rebuilt")
        opening.notes.remove(CONDEMNED)
    try:
        store, found = opening.place.open(lambda store: _examine(store, opening, testimony))
    except StorageCorruptError as refusal:
        if not opening.can_recover:
            raise
        if not _can_be_helped(opening):
            raise StorageCorruptError(f"{_bare(refusal)}; {_ALONE}") from refusal
        return _quarantine(opening, testimony, refusal)
    return _go_on_or_begin_anew(opening, testimony, store, found)


def _can_be_helped(opening: Opening) -> bool:
    """Whether others can give back what the store lost, as far as it can be read."""
    store = opening.place.look()
    try:
        known = readable_membership(store)
    finally:
        if store is not None:
            store.close()
    return has_others(opening.expected.member_id, known, said=opening.has_others)


def _recall(opening: Opening) -> Testimony:
    where = opening.place.where
    try:
        mark = opening.witness.recall()
    except StorageCorruptError as error:
        return Testimony(None, _bare(error))
    if mark is None:
        return Testimony(
            None, f"the witness of {where} is empty, so nothing tells what was promised"
        )
    check_owner(mark.record.identity, opening.expected, f"the witness of {where}")
    if not opening.witness.is_sure:
        return Testimony(mark, "one half of its witness is damaged, perhaps the newer one")
    if mark.loss is not None:
        return Testimony(mark, "it had not yet recovered from an earlier damage")
    return Testimony(mark)


def _examine(store: Store, opening: Opening, testimony: Testimony) -> Examination:
    """What the store holds, if it holds all that its witness remembers of it."""
    found = _read_back(store, opening)
    mark, where, identity = testimony.mark, opening.place.where, found.identity
    if mark is None:
        damage = found.recovered.damage
        if damage is not None and damage.loss is Loss.ALL:
            return found  # nothing more can be lost
        corrupt(testimony.doubt or "")
    if mark.record.identity.disk_uuid != identity.disk_uuid:
        corrupt(f"the store and the witness of {where} were made by different disks")
    if _is_news(found, mark):
        return found
    missing = what_is_missing(mark, identity, found.recovered, found.log.cuts)
    if missing is not None:
        corrupt(f"{where} has lost what this member promised to others: {missing}")
    return found


def _is_news(found: Examination, mark: WitnessMark) -> bool:
    """Whether the store was marked in a boot that the witness was never told of."""
    is_marked = found.recovered.damage is not None
    return is_marked and found.identity.boot > mark.record.identity.boot


def _read_back(store: Store, opening: Opening) -> Examination:
    """What the store holds, if all its records verify, whatever the witness says."""
    identity = read_identity(store, opening.place.where)
    check_owner(identity, opening.expected, opening.place.where)
    log = StoredLog(store)
    recovered = log.recover()
    if recovered.damage is not None and not _heeds_damage(opening, recovered):
        corrupt(f"{opening.place.where} is marked as damaged: {recovered.damage.what}")
    return Examination(identity, recovered, log)


def _heeds_damage(opening: Opening, found: Recovered) -> bool:
    """Whether a store that is marked as damaged may be opened."""
    known = newest_membership(found.applied, found.entries, found.hard_state.commit)
    # One that knows nothing was begun anew by an opening that knew of others.
    said = opening.has_others or not known.voters
    return opening.can_recover and has_others(opening.expected.member_id, known, said=said)


def _go_on(
    opening: Opening, testimony: Testimony, store: FailStopStore, found: Examination
) -> MemberStorage:
    """Begin the next boot: with what ``found`` says, which may be more than is stored."""
    try:
        boot = max(found.identity.boot, testimony.boot) + 1
        identity = evolve(found.identity, boot=boot, boot_token=opening.new_token())
        log, recovered = found.log, found.recovered
        batch = store.batch()
        put_identity(batch, identity)
        log.save_hard_state(batch, recovered.hard_state)
        log.save_damage(batch, recovered.damage, recovered.promised)
        write_patiently(store, batch)
        store.sync()
        opening.failpoint("boot.between")
        storage = MemberStorage(
            store,
            log,
            identity,
            opening.witness,
            opening.notes,
            failpoint=opening.failpoint,
            on_failure=opening.on_failure,
            release=opening.release,
        )
        storage.sync(_everything(identity, recovered))
        return storage
    except BaseException:
        store.close()
        raise


def _quarantine(
    opening: Opening, testimony: Testimony, refusal: StorageCorruptError
) -> MemberStorage:
    """Open a store that was refused, with what is intact, marked as damaged."""
    try:
        store, found = opening.place.open(lambda store: _read_back(store, opening))
    except StorageCorruptError as worse:
        return _begin_anew(opening, testimony, worse)
    loss, promised = _judge(testimony, found.identity, found.recovered)
    recovered = evolve(
        found.recovered,
        hard_state=newest(found.recovered.hard_state, testimony.mark and testimony.mark.record),
        damage=Damage(loss, _sentence(_bare(refusal), testimony.doubt, loss)),
        promised=promised,
    )
    return _go_on_or_begin_anew(opening, testimony, store, evolve(found, recovered=recovered))


def _go_on_or_begin_anew(
    opening: Opening, testimony: Testimony, store: FailStopStore, found: Examination
) -> MemberStorage:
    """Go on with what is there, unless nothing can be written to it any more."""
    try:
        return _go_on(opening, testimony, store, found)
    except StorageFailedError:
        # All that an opening reads was whole, but a compaction has met damage elsewhere, which ends
        # all writing: at this opening, and at every other.
        met = store.corruption
        if met is None or not opening.can_recover or not _can_be_helped(opening):
            raise
        return _begin_anew(opening, testimony, met)


def _begin_anew(opening: Opening, testimony: Testimony, met: StorageCorruptError) -> MemberStorage:
    """Open a store that is of no use any more, with what can be saved of it, marked as damaged."""
    _rebuild(opening, testimony, Damage(Loss.LOG, _bare(met)), keep_rows=True)
    store, found = opening.place.open(lambda store: _examine(store, opening, testimony))
    return _go_on(opening, testimony, store, found)


def _rebuild(opening: Opening, testimony: Testimony, damage: Damage, *, keep_rows: bool) -> None:
    """Begin the store anew: with what can be saved, who it is, and at least this damage."""
    place = opening.place
    old = place.look()
    try:
        stored, recovered = _known_of(old, opening)
        who = testimony.identity or stored
        if who is None:
            corrupt(f"{damage.what}, and nothing in {place.where} tells any more which disk it was")
        boots = (testimony.boot, 0 if stored is None else stored.boot)
        fresh = evolve(who, boot=max(boots) + 1, boot_token=opening.new_token())
        loss, promised = _judge(testimony, stored, recovered)
        if damage.loss is Loss.ALL:
            loss, promised = Loss.ALL, None

        def mark(kept: Intact | None) -> Damage:
            what = _sentence(damage.what, testimony.doubt, loss)
            return Damage(loss, f"{what}; {_what_was_saved(kept)}, {place.aside}")

        record = None if testimony.mark is None else testimony.mark.record
        hard_state = newest(recovered.hard_state, record)
        is_ours = stored is not None and stored.disk_uuid == who.disk_uuid
        sources = [old, None] if keep_rows and is_ours and place.has_room else [None]
        for source in sources:
            if _fill_anew(opening, fresh, source, hard_state, mark, promised):
                break
    finally:
        if old is not None:
            old.close()
    opening.failpoint("rebuild.before")
    place.replace()
    opening.failpoint("rebuild.after")


def _fill_anew(
    opening: Opening,
    identity: Identity,
    source: Reader | None,
    hard_state: HardState,
    mark: Callable[[Intact | None], Damage],
    promised: WitnessRecord | None,
) -> bool:
    """Whether a new store could be made from the source."""
    new = opening.place.begin()
    try:
        write_identity(new, identity)
        fill(new, source, hard_state, mark, promised)
        new.sync()
    except StorageCorruptError:
        if source is None:
            raise
        return False
    finally:
        new.close()
    return True


def _known_of(old: Reader | None, opening: Opening) -> tuple[Identity | None, Recovered]:
    """What a damaged store still says of itself. Raises IdentityError if it is another member's."""
    nothing = Recovered(HardState(), Snapshot(0, 0), (), AppliedMark())
    if old is None:
        return None, nothing
    read = LogReader(old)
    try:
        identity = read_identity(old, opening.place.where)
        check_owner(identity, opening.expected, opening.place.where)
        damage, promised = read.damage()
        known = evolve(nothing, hard_state=read.hard_state(), damage=damage, promised=promised)
    except StorageCorruptError:
        return None, nothing
    return identity, known


def _judge(
    testimony: Testimony, stored: Identity | None, recovered: Recovered
) -> tuple[Loss, WitnessRecord | None]:
    """What is lost, and what must be there again; ``stored`` and ``recovered`` as far as known."""
    mark = testimony.mark
    if mark is None or testimony.doubt is not None:
        return Loss.ALL, None
    witness = mark.record.identity
    if stored is None:
        return Loss.LOG, mark.record
    if stored.disk_uuid == witness.disk_uuid and stored.boot > witness.boot:
        # It was marked just before a crash, or the witness is an old one.
        damage = recovered.damage
        return (Loss.ALL, None) if damage is None else (damage.loss, recovered.promised)
    is_same_boot = stored.boot == witness.boot
    if stored.disk_uuid != witness.disk_uuid or (
        is_same_boot and stored.boot_token != witness.boot_token
    ):
        return Loss.ALL, None
    return Loss.LOG, mark.record


def _sentence(what: str, doubt: str | None, loss: Loss) -> str:
    if doubt is not None and doubt not in what:
        what = f"{what}, and {doubt}"
    if loss is Loss.LOG:
        return (
            f"{what}; this member neither votes nor counts until its peers have given it what is"
            " missing, which needs nothing from you"
        )
    return (
        f"{what}; nothing proves how this member voted: it neither votes nor counts until it has"
        " heard every other voter and has all that is committed, so see to it that all of them run"
    )


def _what_was_saved(kept: Intact | None) -> str:
    if kept is None:
        return "its store was begun anew, with nothing but what is known of its term and vote"
    return (
        f"its store was begun anew, with what it had applied up to entry {kept.applied.index} and"
        f" its log up to entry {kept.last_index}"
    )


def _bare(error: StorageCorruptError) -> str:
    """What was found, without the advice for who cannot recover."""
    return str(error).replace(f"; {REBUILD}", "")


def read_identity(store: Reader, where: str) -> Identity:
    """Whose store it is. Raises StorageCorruptError if it does not say."""
    record = store.get(Space.META, _IDENTITY_KEY)
    if record is None:
        corrupt(f"the store of {where} does not say whose it is")
    try:
        return Identity(*_IDENTITY.unpack(unseal(record, "identity")))
    except StructError:
        corrupt("the identity record has a wrong length")


def put_identity(batch: Batch, identity: Identity) -> None:
    """Say whose store it is, and in which boot."""
    body = _IDENTITY.pack(
        identity.cluster_id,
        identity.member_id,
        identity.disk_uuid,
        identity.boot,
        identity.boot_token,
    )
    batch.put(Space.META, _IDENTITY_KEY, seal(body))


def write_identity(store: Store, identity: Identity) -> None:
    """Say durably whose store it is, and in which boot."""
    batch = store.batch()
    put_identity(batch, identity)
    write_patiently(store, batch)
    store.sync()


def check_owner(identity: Identity, expected: Identity, where: str) -> None:
    """Raise IdentityError unless cluster and member are the expected ones."""
    if identity.cluster_id != expected.cluster_id:
        raise IdentityError(
            f"{where} belongs to cluster {identity.cluster_id:x}, not to {expected.cluster_id:x}:"
            " give this node a directory of its own, or the cluster the directory was made for"
        )
    if identity.member_id != expected.member_id:
        raise IdentityError(
            f"{where} belongs to member {identity.member_id:x}, not to {expected.member_id:x}:"
            " give each member a directory of its own"
        )


def _everything(identity: Identity, recovered: Recovered) -> WitnessRecord:
    """The promise that covers all that was read back: it is durable by now."""
    hard_state, snapshot, entries = recovered.hard_state, recovered.snapshot, recovered.entries
    if entries:
        last = entries[-1]
        end = (last.index, last.term, last.chain)
    else:
        end = (snapshot.index, snapshot.term, snapshot.chain)
    return WitnessRecord(identity, hard_state.term, hard_state.vote, *end)
