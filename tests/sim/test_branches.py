"""What was rare about a step shows from outside."""

from __future__ import annotations

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Campaign,
    Config,
    EntryKind,
    Input,
    Message,
    Payload,
    Persisted,
    PreVote,
    Propose,
    Read,
    Receive,
    RequestVote,
    State,
    Tick,
    TimeoutNow,
    TransferLeader,
    VoteResponse,
    ready,
    start,
    step,
)
from raftkv.testing.branches import note
from raftkv.testing.marks import FLOORS_PER_MILLION_STEPS, Marks


class Watched:
    """A core of three, and what was rare about its steps."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.state: State = start(Config(id=1, election_ticks=10), voters=(1, 2, 3))

    def give(self, *inputs: Input | Message) -> Marks:
        """What was rare about these alone."""
        self.marks.clear()
        for one in inputs:
            given = Receive(one) if isinstance(one, Message) else one
            before = self.state
            self.state = step(before, given)
            note(self.marks, before, given, self.state)
        return self.marks

    def store(self) -> None:
        self.state, todo = ready(self.state)
        self.state = step(self.state, Persisted(todo.number))

    def lead(self) -> None:
        self.give(Campaign())
        self.store()
        self.give(VoteResponse(2, 1, self.state.term, rejected=False))
        self.store()


WORD = Payload(EntryKind.NORMAL, b"x")


def test_what_an_ordinary_leader_does_is_not_rare() -> None:
    one = Watched()
    one.lead()
    assert not one.give(AppendResponse(2, 1, 1, 1), Propose((WORD,)), Tick(), Tick())


def test_a_leader_that_steps_down_leaves_things_in_flight() -> None:
    one = Watched()
    one.lead()
    assert one.give(Read(b"r")) == {"read waits for the first commit": 1}
    assert one.give(TransferLeader(3)) == {}
    assert one.give(RequestVote(2, 1, 9, 9, 9, transfer=True)) == {
        "stepped down with proposals in flight": 1,
        "stepped down amid a transfer": 1,
        "stepped down with reads in flight": 1,
        "vote given over a leader, by order": 1,
    }


def test_answers_out_of_their_order_are_told_apart() -> None:
    one = Watched()
    one.lead()
    one.give(Propose((WORD,)), AppendResponse(2, 1, 1, 2))
    assert one.give(AppendResponse(2, 1, 1, 1)) == {"acknowledgement overtaken": 1}
    assert one.give(AppendResponse(2, 1, 1, 1, rejected=True)) == {"late refusal ignored": 1}
    assert one.give(AppendResponse(9, 1, 1, 1)) == {"answer of a stranger": 1}


def test_a_follower_tells_old_things_from_new_ones() -> None:
    one = Watched()
    one.give(AppendEntries(2, 1, 4, 0, 0, 0))
    assert one.give(AppendEntries(3, 1, 3, 0, 0, 0)) == {"append of an older term": 1}
    assert one.give(AppendEntries(2, 1, 4, 7, 4, 0)) == {"append refused": 1}
    assert one.give(PreVote(3, 1, 3, 0, 0)) == {"pre-vote refused: an older term": 1}
    assert one.give(RequestVote(3, 1, 5, 0, 0)) == {}
    assert one.give(RequestVote(2, 1, 5, 0, 0)) == {"vote refused: given to another": 1}
    assert one.give(TimeoutNow(3, 1, 5)) == {"campaign by order": 1}


def test_most_marks_have_a_floor() -> None:
    assert len(FLOORS_PER_MILLION_STEPS) >= 80
    assert min(FLOORS_PER_MILLION_STEPS.values()) >= 1
