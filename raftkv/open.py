"""Opening a node: everything a user says is checked here before anything is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from hashlib import blake2b
from os import PathLike, fspath
from typing import Final, TypeVar, cast, overload

import anyio
from attrs import frozen

from raftkv.core import Membership
from raftkv.errors import ConfigError, IdentityError, UnavailableError
from raftkv.handle import Node
from raftkv.hosted import hosted
from raftkv.kv import KvMachine, KvResult
from raftkv.kv.settings import KvSettings
from raftkv.machine import DurableStateMachine, Machine, StateMachine
from raftkv.node.changes import load_roster
from raftkv.node.founding import are_founders, knows_founders
from raftkv.node.joining import ask_to_join
from raftkv.node.node import running
from raftkv.node.roster import MEMBERS_MAX, Roster
from raftkv.node.roster import Member as Who
from raftkv.node.settings import Settings
from raftkv.node.start import Setup
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Identity, Reader, Storage
from raftkv.storage.directory import open_rocks
from raftkv.storage.reading import LogReader
from raftkv.storage.whose import whose
from raftkv.transport.base import Transport
from raftkv.transport.tcp import TcpTransport
from raftkv.transport.tcp_settings import parse_address
from raftkv.transport.tcp_tls import Tls

R = TypeVar("R")
T = TypeVar("T")

_ID_BITS: Final = 63  # positive in every language's integers, and clear of the core's reserved ids


@frozen(kw_only=True)
class Plan:
    """Who is in the cluster and who we are: pure functions of what the user said."""

    me: Who
    members: tuple[Who, ...]
    cluster_id: int


def plan(name: str, cluster: Mapping[str, str], token: str) -> Plan:
    """Check names and addresses and derive the ids. Raises ConfigError."""
    if not isinstance(cast("object", cluster), Mapping):
        raise ConfigError(
            f"cluster= is a {type(cluster).__name__}: give a mapping from the name of each member"
            ' to its address, such as {"n1": "10.0.0.1:7400"}'
        )
    if not cluster:
        raise ConfigError("cluster= is empty: give every member's name and address, ours included")
    if len(cluster) > MEMBERS_MAX:
        raise ConfigError(f"cluster= has {len(cluster)} members, at most {MEMBERS_MAX} are allowed")
    if name not in cluster:
        raise ConfigError(
            f"name {name!r} is not in cluster=: it names {', '.join(sorted(cluster))}"
        )
    addresses: dict[str, str] = {}
    for member, address in cluster.items():
        if not member or len(member) > 64 or not member.isprintable():
            raise ConfigError(f"member name {member!r}: 1 to 64 printable characters, please")
        written = str(parse_address(address))
        if written in addresses:
            raise ConfigError(
                f"members {addresses[written]!r} and {member!r} have the same address {address}"
            )
        addresses[written] = member
    members = tuple(
        Who(_identifier(token, address), member, address)
        for address, member in sorted(addresses.items())
    )
    cluster_id = _identifier(token, *sorted(addresses))
    me = next(member for member in members if member.name == name)
    return Plan(me=me, members=members, cluster_id=cluster_id)


def _identifier(*parts: str) -> int:
    text = "\0".join(parts).encode()
    number = int.from_bytes(blake2b(text, digest_size=8, person=b"raftkv id").digest(), "little")
    return (number >> (64 - _ID_BITS)) or 1


@overload
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[KvResult]]: ...
@overload
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: StateMachine[R] | DurableStateMachine[R],
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[R]]: ...
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    join: Mapping[str, str] | Iterable[str] | None = None,
    listen: str | None = None,
    machine: Machine[R] | None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[KvResult]] | AbstractAsyncContextManager[Node[R]]:
    """Run one member of a cluster in this process while the context is open.

    ``cluster`` maps the name of each of the first members to its advertised address, ``name`` says
    which one we are. It is obeyed when ``data_dir`` is empty, and must not contradict what the
    directory knows afterwards: it is right as it was on the first day, and as the members are now.
    Ids of members and cluster are pure functions of the addresses and ``token``, so the first
    members need not be introduced to each other.

    Who comes later is first added by a running member, ``await node.members.add(name, address)``,
    and then opens with ``join`` instead: addresses of some running members, as a mapping like
    ``cluster`` or alone. One of them tells who we are; nothing is written before. Later openings
    may say ``join`` again, which then only has to be there, or ``cluster``. Where damage has taken
    from the directory who the members are, those whom either names are asked again.

    ``listen`` is where we listen, if that is not the advertised address.

    ``own_thread`` runs the node on a loop in a thread of its own, so that heartbeats go on while
    your loop is busy; its machine runs there, too. Loop lag is in ``node.status()`` either way.

    Without ``machine`` the node runs the key-value store as ``node.kv``, tuned by ``kv``; with a
    machine of your own ``await node.propose(command)`` answers what its ``apply`` does.

    Any address but loopback without TLS is refused unless ``insecure``. ``runtime``, ``transport``
    and ``storage`` replace the real ones; a storage given is closed with the node.

    The context is entered when the member serves locally; ``await node.ready()`` waits for a
    leader. When it is left, leadership is handed over if we have it. A node that stops by itself
    cancels the body and raises NodeStoppedError, its cause inside; RemovedError if it was removed.

    Raises ConfigError and, for who may not join, MembershipError or UnavailableError before
    anything is written; StorageError of several kinds if the directory cannot be opened;
    RemovedError if it is that of a removed member; TransportError if the port is in use.
    """
    options = _Options(
        data_dir=fspath(data_dir),
        name=name,
        first=None if cluster is None else plan(name, cluster, token),
        join=_addresses(cluster, join),
        listen=listen,
        tls=tls,
        insecure=insecure,
        settings=settings or Settings(),
        runtime=runtime or system_runtime(),
        transport=transport,
        storage=storage,
    )
    if machine is None:
        made = KvMachine()
        return _place(own_thread, options, made, lambda setup: Node[KvResult](setup, made, kv))
    if kv is not None:
        raise ConfigError("kv= is for the key-value store, but machine= is one of your own")
    _check_machine(machine)
    return _place(own_thread, options, machine, Node[R])


def _addresses(
    cluster: Mapping[str, str] | None, join: Mapping[str, str] | Iterable[str] | None
) -> tuple[str, ...]:
    """Whom to ask. Raises ConfigError unless the user says one of the two."""
    if (cluster is None) == (join is None):
        raise ConfigError(
            "give cluster= with all first members, or join= with addresses of running ones for a"
            " member that was added to them: one of the two"
        )
    if join is None:
        return ()
    if isinstance(join, str):
        raise ConfigError(f"join={join!r}: give several addresses, or one in a list")
    found = tuple(cast("Mapping[str, str]", join).values() if isinstance(join, Mapping) else join)
    if not found:
        raise ConfigError("join= is empty: give addresses of running members")
    for address in found:
        parse_address(address)
    return found


def _place(
    own_thread: bool, options: _Options, machine: Machine[R], make: Callable[[Setup], Node[R]]
) -> AbstractAsyncContextManager[Node[R]]:
    """In the caller's loop, or in one of its own."""
    if own_thread:
        return hosted(options.name, lambda: _open(options, machine, make))
    return _open(options, machine, make)


def _check_machine(machine: object) -> None:
    if isinstance(machine, type):
        raise ConfigError(
            f"machine= is the class {machine.__name__}: give an object of it, {machine.__name__}()"
        )
    if not isinstance(machine, StateMachine | DurableStateMachine):
        raise ConfigError(
            f"machine= is a {type(machine).__name__}, which has neither apply/snapshot/restore nor"
            " open/apply_durable/snapshot_durable/restore_durable/check_restored"
        )


@frozen(kw_only=True)
class _Options:
    """What the user said, checked."""

    data_dir: str
    name: str
    first: Plan | None
    join: tuple[str, ...]
    listen: str | None
    tls: Tls | None
    insecure: bool
    settings: Settings
    runtime: Runtime
    transport: Transport | None
    storage: Storage | None

    @property
    def has_others(self) -> bool:
        """Whether there are other members, for a directory that cannot tell any more."""
        return self.first is None or len(self.first.members) > 1

    def tcp(self, listen: str) -> TcpTransport:
        """A transport of our own. Raises ConfigError for an address that may not be."""
        return TcpTransport(listen, runtime=self.runtime, tls=self.tls, insecure=self.insecure)


@frozen(kw_only=True)
class _Self:
    """Who we are, and whom we know."""

    cluster_id: int
    me: Who
    members: tuple[Who, ...]
    joins: bool
    """Whether the members are not what the user said."""


@asynccontextmanager
async def _open(
    options: _Options, machine: Machine[R], make: Callable[[Setup], Node[R]]
) -> AsyncGenerator[Node[R]]:
    asker = options.transport or options.tcp("127.0.0.1:0")
    options.settings.check_frames(asker.frame_bytes_max)
    async with AsyncExitStack() as stack:
        storage, is_new = options.storage, True
        if storage is None:
            known = await _in_worker(options.runtime, lambda: whose(options.data_dir))
            is_new = known.is_new
            if known.identity is not None:
                storage = await _storage(options, known.identity)
        if storage is not None:
            stack.callback(storage.close)
        who = await _who(options, storage, asker, is_new=is_new)
        transport = options.transport
        if transport is None:
            transport = _tcp(options, who)
            # Before a directory is made: it would be that of an address that cannot be had.
            await stack.enter_async_context(transport.claimed())
        if storage is None:
            storage = await _storage(options, Identity(who.cluster_id, who.me.id, b"", 0))
            stack.callback(storage.close)
        setup = Setup(
            me=who.me,
            members=who.members,
            storage=storage,
            transport=transport,
            machine=machine,
            settings=options.settings,
            runtime=options.runtime,
            is_kv=isinstance(machine, KvMachine),
            joins=who.joins,
        )
        yield await stack.enter_async_context(running(make(setup)))


async def _who(
    options: _Options, storage: Storage | None, asker: Transport, *, is_new: bool
) -> _Self:
    """From the directory, if it knows; else from the user, or from those whom it says to ask.

    Raises ConfigError, MembershipError or UnavailableError.
    """
    first = options.first
    roster = None if storage is None else load_roster(storage.store)
    if storage is not None and _knows_nobody(storage.store, roster):
        told = await _told_again(options, storage.identity, asker, has_roster=roster is not None)
        if told is not None:
            return told
    if storage is not None and roster is not None:
        identity = storage.identity
        is_another = first is not None and first.cluster_id != identity.cluster_id
        if first is not None and is_another and are_founders(storage.store, first.members):
            raise IdentityError(
                f"the data directory belongs to cluster {identity.cluster_id:x}, not to"
                f" {first.cluster_id:x}: give token= as it was when the directory was made"
            )
        # The cluster's id tells the first members, too, should the directory have lost them.
        said = first if is_another or knows_founders(storage.store) else None
        # Whether that is our name, and whether cluster= agrees, is for the node to say.
        known = roster.member(identity.member_id)
        address = "" if known is None else known.address
        me = Who(identity.member_id, options.name, address or options.listen or "127.0.0.1:0")
        members = roster.members if said is None else said.members
        return _Self(cluster_id=identity.cluster_id, me=me, members=members, joins=said is None)
    if first is not None:
        found = _Self(cluster_id=first.cluster_id, me=first.me, members=first.members, joins=False)
    else:
        invitation = await ask_to_join(
            asker.ask, options.join, options.name, options.runtime.clock, is_new=is_new
        )
        found = _Self(
            cluster_id=invitation.cluster_id,
            me=invitation.me,
            members=invitation.roster.members,
            joins=True,
        )
    if storage is not None:
        identity = storage.identity
        if (identity.cluster_id, identity.member_id) != (found.cluster_id, found.me.id):
            raise ConfigError(
                f"the storage given is of member {identity.member_id} of cluster"
                f" {identity.cluster_id}, not of {found.me.id} of {found.cluster_id}"
            )
    return found


def _knows_nobody(store: Reader, roster: Roster | None) -> bool:
    """Whether the directory has lost who the members are, or waits to hear of it by the log."""
    read = LogReader(store)
    if read.applied().membership != Membership():
        return False
    return roster is not None or read.damage()[0] is not None


async def _told_again(
    options: _Options, identity: Identity, asker: Transport, *, has_roster: bool
) -> _Self | None:
    """Who the members are, from those whom the user names; None: as is known, or as the user says.

    Raises MembershipError if we are none of them, ConfigError or UnavailableError if there is
    nobody to ask and nothing is known.
    """
    first = options.first
    asked = options.join or tuple(
        one.address for one in (first.members if first else ()) if one.name != options.name
    )
    if not asked:
        if has_roster:
            return None
        raise ConfigError(
            "the data directory has lost who the other members are: open it with join= and"
            " addresses of running ones"
        )
    clock = options.runtime.clock
    try:
        told = await ask_to_join(asker.ask, asked, options.name, clock, is_new=False)
    except UnavailableError:
        if has_roster or (first is not None and first.cluster_id == identity.cluster_id):
            return None
        raise
    if (told.cluster_id, told.me.id) != (identity.cluster_id, identity.member_id):
        raise IdentityError(
            f"the data directory is of member {identity.member_id:x} of cluster"
            f" {identity.cluster_id:x}, but those who were asked know {options.name!r} as"
            f" {told.me.id:x} of {told.cluster_id:x}: give this node a directory of its own"
        )
    members = told.roster.members
    return _Self(cluster_id=told.cluster_id, me=told.me, members=members, joins=True)


def _tcp(options: _Options, who: _Self) -> TcpTransport:
    transport = options.tcp(options.listen or who.me.address)
    # Now, so that an address that may not be is refused before anything is written.
    transport.set_peers({one.id: one.address for one in who.members if one.id != who.me.id})
    return transport


async def _in_worker(runtime: Runtime, job: Callable[[], T]) -> T:
    """Run a job of the opening off the loop."""
    worker = runtime.workers.worker("look")
    try:
        return await worker.run(job)
    finally:
        await worker.close()


async def _storage(options: _Options, identity: Identity) -> Storage:
    """Open the directory in a thread: it reads, checks and syncs for as long as that takes."""
    worker = options.runtime.workers.worker("open")
    opened: list[Storage] = []
    is_abandoned = False

    def job() -> None:
        opened.append(
            open_rocks(
                options.data_dir,
                cluster_id=identity.cluster_id,
                member_id=identity.member_id,
                rng=options.runtime.rng,
                can_recover=True,
                has_others=options.has_others,
                ballast_bytes=options.settings.ballast_bytes,
            )
        )
        if is_abandoned:  # and nobody waits for the worker either
            close_all()

    def close_all() -> None:
        # On the loop or in the worker: a pop is atomic, so each is closed once.
        while opened:
            opened.pop().close()

    try:
        try:
            # Shielded: an opening that nobody waits for would keep the directory locked.
            with anyio.CancelScope(shield=True):
                await worker.run(job)
        finally:
            await worker.close()
    except BaseException:
        # asyncio's own cancellation (its timeout, Task.cancel) respects no shield.
        is_abandoned = True
        close_all()
        raise
    return opened[0]
