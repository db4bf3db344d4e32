"""Opening a node: everything a user says is checked here before anything is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import blake2b
from os import PathLike, fspath
from typing import Final, TypeVar, overload

import anyio
from attrs import frozen

from raftkv.errors import ConfigError
from raftkv.handle import Node
from raftkv.hosted import hosted
from raftkv.kv import KvMachine, KvResult
from raftkv.machine import DurableStateMachine, Machine, StateMachine
from raftkv.node.node import running
from raftkv.node.peers import Member as Who
from raftkv.node.settings import Settings
from raftkv.node.start import Setup
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Storage
from raftkv.storage.directory import open_rocks
from raftkv.transport.base import Transport
from raftkv.transport.tcp import TcpTransport
from raftkv.transport.tcp_settings import parse_address
from raftkv.transport.tcp_tls import Tls

R = TypeVar("R")

_ID_BITS: Final = 63  # positive in every language's integers, and clear of the core's reserved ids
_MEMBERS_MAX: Final = 64


@frozen(kw_only=True)
class Plan:
    """Who is in the cluster and who we are: pure functions of what the user said."""

    me: Who
    members: tuple[Who, ...]
    cluster_id: int


def plan(name: str, cluster: Mapping[str, str], token: str) -> Plan:
    """Check names and addresses and derive the ids. Raises ConfigError."""
    if not cluster:
        raise ConfigError("cluster= is empty: give every member's name and address, ours included")
    if len(cluster) > _MEMBERS_MAX:
        raise ConfigError(
            f"cluster= has {len(cluster)} members, at most {_MEMBERS_MAX} are allowed"
        )
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
    cluster: Mapping[str, str],
    listen: str | None = None,
    machine: None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    join: object = None,
    settings: Settings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[KvResult]]: ...
@overload
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str],
    listen: str | None = None,
    machine: StateMachine[R] | DurableStateMachine[R],
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    join: object = None,
    settings: Settings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[R]]: ...
def open_node(
    data_dir: str | PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str],
    listen: str | None = None,
    machine: Machine[R] | None = None,
    token: str = "raftkv",
    tls: Tls | None = None,
    insecure: bool = False,
    own_thread: bool = False,
    join: object = None,
    settings: Settings | None = None,
    runtime: Runtime | None = None,
    transport: Transport | None = None,
    storage: Storage | None = None,
) -> AbstractAsyncContextManager[Node[KvResult]] | AbstractAsyncContextManager[Node[R]]:
    """Run one member of a cluster in this process while the context is open.

    ``cluster`` maps every member's name to its advertised address, ``name`` says which one we are.
    It is obeyed when ``data_dir`` is empty, and must agree with what the directory knows
    afterwards. Ids of members and cluster are pure functions of the addresses and ``token``, so
    members need not be introduced to each other. ``listen`` is where we listen, if that is not the
    advertised address.

    ``own_thread`` runs the node on a loop in a thread of its own, so that heartbeats go on while
    your loop is busy; its machine runs there, too. Loop lag is in ``node.status()`` either way.

    Without ``machine`` the node runs the key-value store as ``node.kv``; with a machine of your own
    ``await node.propose(command)`` answers what its ``apply`` does.

    Any address but loopback without TLS is refused unless ``insecure``. ``runtime``, ``transport``
    and ``storage`` replace the real ones; a storage given is closed with the node.

    The context is entered when the member serves locally; ``await node.ready()`` waits for a
    leader. When it is left, leadership is handed over if we have it. A node that stops by itself
    cancels the body and raises NodeStoppedError, its cause inside.

    Raises ConfigError before anything is written; StorageError of several kinds if the directory
    cannot be opened; TransportError if the port is in use.
    """
    if join is not None:
        raise ConfigError(
            "join= is for members that are added to a running cluster, which this version cannot:"
            " name all members in cluster="
        )
    options = _Options(
        data_dir=fspath(data_dir),
        plan=plan(name, cluster, token),
        listen=listen,
        tls=tls,
        insecure=insecure,
        settings=settings or Settings(),
        runtime=runtime or system_runtime(),
        transport=transport,
        storage=storage,
    )
    if machine is None:
        kv = KvMachine()
        return _place(own_thread, options, kv, lambda setup: Node[KvResult](setup, kv))
    _check_machine(machine)
    return _place(own_thread, options, machine, Node[R])


def _place(
    own_thread: bool, options: _Options, machine: Machine[R], make: Callable[[Setup], Node[R]]
) -> AbstractAsyncContextManager[Node[R]]:
    """In the caller's loop, or in one of its own."""
    if own_thread:
        return hosted(options.plan.me.name, lambda: _open(options, machine, make))
    return _open(options, machine, make)


def _check_machine(machine: object) -> None:
    if not isinstance(machine, StateMachine | DurableStateMachine):
        raise ConfigError(
            f"machine= is a {type(machine).__name__}, which has neither apply/snapshot/restore nor"
            " open/apply_durable/snapshot_durable/restore_durable"
        )


@frozen(kw_only=True)
class _Options:
    """What the user said, checked."""

    data_dir: str
    plan: Plan
    listen: str | None
    tls: Tls | None
    insecure: bool
    settings: Settings
    runtime: Runtime
    transport: Transport | None
    storage: Storage | None


@asynccontextmanager
async def _open(
    options: _Options, machine: Machine[R], make: Callable[[Setup], Node[R]]
) -> AsyncGenerator[Node[R]]:
    if options.transport is not None:
        async with _open_with(options, options.transport, machine, make) as node:
            yield node
        return
    transport = _tcp(options)
    # Before the directory is made: it would belong to a cluster with an address that cannot be had.
    async with transport.claimed(), _open_with(options, transport, machine, make) as node:
        yield node


@asynccontextmanager
async def _open_with(
    options: _Options,
    transport: Transport,
    machine: Machine[R],
    make: Callable[[Setup], Node[R]],
) -> AsyncGenerator[Node[R]]:
    chosen = options.plan
    options.settings.check_frames(transport.frame_bytes_max)
    storage = options.storage or await _storage(options)
    try:
        identity = storage.identity
        if (identity.cluster_id, identity.member_id) != (chosen.cluster_id, chosen.me.id):
            raise ConfigError(
                f"the storage given is of member {identity.member_id} of cluster"
                f" {identity.cluster_id}, not of {chosen.me.id} of {chosen.cluster_id}"
            )
        setup = Setup(
            me=chosen.me,
            members=chosen.members,
            storage=storage,
            transport=transport,
            machine=machine,
            settings=options.settings,
            runtime=options.runtime,
            is_kv=isinstance(machine, KvMachine),
        )
        async with running(make(setup)) as node:
            yield node
    finally:
        storage.close()


def _tcp(options: _Options) -> TcpTransport:
    me = options.plan.me
    transport = TcpTransport(
        options.listen or me.address,
        runtime=options.runtime,
        tls=options.tls,
        insecure=options.insecure,
    )
    # Now, so that an address that may not be is refused before anything is written.
    transport.set_peers(
        {member.id: member.address for member in options.plan.members if member.id != me.id}
    )
    return transport


async def _storage(options: _Options) -> Storage:
    """Open the directory in a thread: it reads, checks and syncs for as long as that takes."""
    worker = options.runtime.workers.worker("open")
    opened: list[Storage] = []
    is_abandoned = False

    def job() -> None:
        opened.append(
            open_rocks(
                options.data_dir,
                cluster_id=options.plan.cluster_id,
                member_id=options.plan.me.id,
                rng=options.runtime.rng,
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
