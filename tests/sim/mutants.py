"""Deliberately broken cores: what the simulator must find, or its silence proves nothing.

A mutant is a change of a few words in one function of the core. It is applied to the function's
source, wherever the function was imported to, for the length of a ``with``.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType

from attrs import frozen

from raftkv.testing import Faults, Options
from raftkv.testing.options import Settings

PLAIN: Settings = {
    "election_ticks": 3,
    "campaign_when_stored": True,
    "snapshots_for_members": True,
}
DIVIDED = Options(
    settings=PLAIN,
    faults=Faults(jitter=3, interval=60, partition=8),
    propose_units=5,
    payload_bytes=0,
    read_units=4,
)
"""Leaders left behind by partitions, asked all the time."""
CRASHING = Options(
    settings=PLAIN,
    faults=Faults(jitter=3, disk_units=10, disk_stalls=100, interval=15, crash=8, partition=3),
    propose_units=10,
    payload_bytes=0,
)
"""Slow disks that lose what was not stored."""

LOSING = Options(
    settings={**PLAIN, "election_ticks": 5},
    faults=Faults(
        jitter=3,
        late=100,
        late_units=100,
        interval=30,
        crash=3,
        partition=4,
        campaign=2,
        lose_log=6,
        wipe=4,
        back_up=3,
        put_back=4,
        regress=2,
        repair=3,
    ),
    propose_units=10,
    payload_bytes=0,
)
"""Disks that lose what was promised, and messages of before."""


@frozen
class Mutant:
    """``old`` becomes ``new`` in ``module.function`` (``Class.method`` too)."""

    name: str
    module: str
    function: str
    old: str
    new: str
    world: Options | None = None
    """A world made for it; None: whatever each seed draws."""
    seeds: int = 60
    """Seeds within which it must be found; several times what it took."""
    steps: int = 2000


@contextmanager
def broken_core(mutant: Mutant) -> Generator[None]:
    """The core with the mutant in it. Raises ValueError if the mutant does not apply."""
    module = sys.modules[f"raftkv.core.{mutant.module}"]
    *owner, name = mutant.function.split(".")
    holder: ModuleType | type = getattr(module, owner[0]) if owner else module
    sound = getattr(holder, name)
    changed = _changed(mutant, sound, module)
    holders = [holder] if owner else list(_holders(sound))
    names = [(one, key) for one in holders for key, value in vars(one).items() if value is sound]
    for one, key in names:
        setattr(one, key, changed)
    try:
        yield
    finally:
        for one, key in names:
            setattr(one, key, sound)


def _changed(mutant: Mutant, sound: FunctionType, module: ModuleType) -> FunctionType:
    source = textwrap.dedent(inspect.getsource(sound))
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} is not once in {mutant.function}")
    space: dict[str, object] = {}
    code = compile(
        "from __future__ import annotations\n" + source.replace(mutant.old, mutant.new),
        f"<{mutant.name}>",
        "exec",
    )
    # The module's own names stay live: other functions of it are looked up when they are called.
    exec(code, vars(module), space)
    changed = space[sound.__name__]
    assert isinstance(changed, FunctionType)
    return changed


def _holders(sound: FunctionType) -> Iterator[ModuleType]:
    for name, module in sorted(sys.modules.items()):
        if name.startswith("raftkv.") and any(value is sound for value in vars(module).values()):
            yield module


MUTANTS = (
    Mutant(
        "a vote for a log that is behind",
        "follower",
        "on_vote_request",
        "and draft.log.is_up_to_date(message.last_index, message.last_term)",
        "",
    ),
    Mutant(
        "the longer log wins, not the newer",
        "log",
        "Log.is_up_to_date",
        "last_term > self.last_term or (\n        last_term == self.last_term and"
        " last_index >= self.last_index\n    )",
        "(last_index, last_term) >= (self.last_index, self.last_term)",
        world=CRASHING,
        steps=3000,
    ),
    Mutant(
        "a second vote in one term",
        "follower",
        "on_vote_request",
        "(draft.vote == 0 and draft.leader == 0)",
        "draft.leader == 0",
    ),
    Mutant(
        "a vote lost at restart",
        "drain",
        "ready",
        "soft_state,\n        hard_state,",
        "soft_state,\n        hard_state and HardState(hard_state.term, 0, hard_state.commit),",
    ),
    Mutant(
        "a vote of an older term counted",
        "step",
        "_answer_lower_term",
        "case StorageAppendResponse():",
        "case VoteResponse():\n            on_vote_response(draft, message)\n"
        "        case StorageAppendResponse():",
        world=CRASHING,
    ),
    Mutant(
        "half is a majority",
        "quorum",
        "majority",
        "voters // 2 + 1",
        "(voters + 1) // 2",
    ),
    Mutant(
        "entries of older terms committed by counting",
        "leader",
        "maybe_commit",
        "or not draft.log.matches(index, draft.term)",
        "",
    ),
    Mutant(
        "an append taken without looking at what is before it",
        "follower",
        "on_append_entries",
        "not log.matches(prev, message.prev_term)",
        "not log.has_term(prev)",
        world=CRASHING,
    ),
    Mutant(
        "the suffix truncated on every append",
        "follower",
        "_take_entries",
        "if message.prev_index != log.last_index:",
        "if False:",
    ),
    Mutant(
        "match goes backwards",
        "progress",
        "Peer.acknowledge",
        "if index <= self.match:",
        "if index == self.match:",
    ),
    Mutant(
        "an append acknowledged before it is stored",
        "sending",
        "send_append_response",
        "draft.messages_after_append.append(",
        "(draft.messages_after_append if to == draft.config.id else draft.messages).append(",
    ),
    Mutant(
        "a leader counts itself before it has stored",
        "leader",
        "append_payloads",
        "send_append_response(draft, draft.config.id, log.last_index)",
        "_on_accepted(draft, draft.peer(draft.config.id), log.last_index)",
    ),
    Mutant(
        "reads answered before the first commit of the term",
        "reads",
        "has_committed_in_term",
        "return log.has_term(draft.commit) and log.term_at(draft.commit) == draft.term",
        "return True",
        world=DIVIDED,
    ),
    Mutant(
        "reads answered without asking a quorum",
        "reads",
        "on_read_ack",
        "acks[member] = position",
        "acks = {one.id: position for one in draft.progress}",
        world=DIVIDED,
    ),
    Mutant(
        "two membership changes under way",
        "proposals",
        "_failed_check",
        "if pending > draft.apply.applied:",
        "if False:",
    ),
    Mutant(
        "learners counted",
        "leader",
        "maybe_commit",
        "committed_jointly(draft.membership.voters, draft.membership.outgoing, matches)",
        "committed_jointly((*draft.membership.voters, *draft.membership.learners),"
        " draft.membership.outgoing, matches)",
    ),
    Mutant(
        "the outgoing half forgotten",
        "quorum",
        "committed_jointly",
        "min(committed(incoming, acknowledged), committed(outgoing, acknowledged))",
        "committed(incoming, acknowledged)",
    ),
    Mutant(
        "votes asked for before the own is stored",
        "candidate",
        "_ask_for_votes",
        "draft.messages_after_append if draft.config.campaign_when_stored else draft.messages",
        "draft.messages",
        world=CRASHING,
    ),
    Mutant(
        "a snapshot installed over what is committed",
        "follower",
        "_install",
        "snapshot.index <= draft.commit",
        "snapshot.index < draft.log.base_index",
        seeds=200,
    ),
    Mutant(
        "a recovering member votes",
        "follower",
        "on_vote_request",
        "and draft.recovery is None",
        "",
        world=LOSING,
    ),
    Mutant(
        "a recovering member campaigns",
        "candidate",
        "campaign",
        "draft.recovery is not None",
        "False",
        world=LOSING,
    ),
    Mutant(
        "a recovering member hides it",
        "sending",
        "send_append_response",
        "draft.recovery is not None",
        "False",
        world=LOSING,
    ),
    Mutant(
        "recovering members counted",
        "leader",
        "on_append_response",
        "if message.recovering:",
        "if False:",
        world=LOSING,
    ),
    Mutant(
        "what was believed of a recovering member kept",
        "progress",
        "Peer.distrust",
        "self.match = 0",
        "pass",
        world=LOSING,
    ),
    Mutant(
        "whole by what was committed before, without a fresh round",
        "recovering",
        "_has_what_is_committed",
        "recovery.covers",
        "draft.commit",
        world=LOSING,
    ),
)
