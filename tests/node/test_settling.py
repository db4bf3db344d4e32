"""Who was removed goes when nobody can need its vote any more, and not before."""

from __future__ import annotations

from attrs import evolve

from raftkv.core import (
    Config,
    Entry,
    EntryKind,
    HardState,
    Input,
    Log,
    Membership,
    Payload,
    Propose,
    Role,
    State,
    start,
)
from raftkv.node.settling import Settling

NOTHING = Propose((Payload(EntryKind.NORMAL, b""),))
REMOVAL = 5


def entries(last: int) -> tuple[Entry, ...]:
    log, _ = Log.starting_at(0, 0, 0).propose(1, (Payload(EntryKind.NORMAL, b"x"),) * last)
    return tuple(log.entries())


class Core:
    """A leader of term 2 with entries up to the removal of member 3, as another one applied it."""

    def __init__(self) -> None:
        config = Config(id=1)
        membership = Membership((1, 2), removed=(3,))
        self.state: State = evolve(
            start(config, membership=membership, hard_state=HardState(2, 1, 5), entries=entries(5)),
            role=Role.LEADER,
        )
        self.given: list[Input] = []

    def step(self, given: Input) -> None:
        assert isinstance(given, Propose)
        self.given.append(given)
        log, _ = self.state.log.propose(self.state.term, given.payloads)
        self.state = evolve(self.state, log=log)

    def committed(self, index: int) -> None:
        self.state = evolve(self.state, commit=index)


def known() -> tuple[Settling, Core]:
    settling = Settling(0)
    settling.removed(REMOVAL)
    return settling, Core()


def test_a_leader_settles_a_removal_by_committing_an_entry_that_it_appended_since() -> None:
    settling, core = known()
    assert not settling.is_settled
    assert not settling.tick(core)
    assert not settling.tick(core)
    assert core.given == [NOTHING], "nobody else proposed anything, and once is enough"
    assert not settling.is_settled
    core.committed(6)
    assert settling.tick(core)
    assert settling.is_settled
    assert not settling.tick(core), "that is told once"
    assert core.given == [NOTHING]


def test_what_was_in_the_log_when_it_learned_of_the_removal_settles_nothing() -> None:
    """It may have reached others before anybody knew the removal to be committed."""
    settling, core = known()
    core.step(NOTHING)
    settling.tick(core)
    core.committed(6)
    assert not settling.tick(core)
    assert not settling.is_settled
    core.committed(7)
    assert settling.tick(core)


def test_an_entry_that_another_leader_commits_settles_nothing() -> None:
    settling, core = known()
    settling.tick(core)
    core.state = evolve(core.state, role=Role.FOLLOWER, term=3)
    core.committed(6)
    assert not settling.tick(core)
    core.state = evolve(core.state, role=Role.LEADER, term=4)
    assert not settling.tick(core)
    core.committed(7)
    assert settling.tick(core)


def test_a_leader_that_does_not_know_it_to_be_committed_waits() -> None:
    settling, core = known()
    core.committed(4)
    assert not settling.tick(core)
    assert not core.given


def test_another_removal_begins_anew() -> None:
    settling, core = known()
    settling.tick(core)
    settling.removed(6)
    core.committed(6)
    assert not settling.tick(core)
    assert not settling.is_settled
    core.committed(7)
    assert settling.tick(core)


def test_where_nobody_was_removed_nothing_is_proposed() -> None:
    settling, core = Settling(REMOVAL), Core()
    core.state = evolve(core.state, membership=Membership((1, 2), removed=()))
    assert not settling.tick(core)
    assert not core.given


def test_others_hear_it_and_what_makes_no_sense_is_dropped() -> None:
    settling, core = known()
    other, _ = known()
    assert settling.frame == b"", "nothing to tell"
    settling.tick(core)
    core.committed(6)
    settling.tick(core)
    other.hear(settling.frame[:-1])
    assert not other.is_settled
    other.hear(settling.frame)
    assert other.is_settled
    other.removed(9)
    assert not other.is_settled
