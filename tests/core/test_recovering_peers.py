"""What a leader believes of a peer that lost what it promised: nothing, until it is whole again."""

from __future__ import annotations

from attrs import evolve

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    ApplyChange,
    Campaign,
    Config,
    HardState,
    InstallSnapshot,
    MembershipChange,
    Persisted,
    ProgressState,
    Propose,
    Read,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadMode,
    Role,
    State,
    TransferLeader,
    ready,
    start,
)
from tests.core.cluster import (
    acked,
    beat,
    elected,
    followed,
    member,
    normal,
    removed,
    run,
    sent_by,
    settled,
    snapshot_at,
    ticked,
)
from tests.core.test_recovering import ONE, followed_up


def flagged(state: State, peer: int, index: int | None = None) -> AppendResponse:
    return evolve(acked(state, peer, index), recovering=True)


def leading(config: Config = ONE, voters: tuple[int, ...] = (1, 2, 3), *peers: int) -> State:
    """A leader whose first entry is committed by ``peers``."""
    return followed(elected(member(config, voters=voters)), *(peers or (2,)))


def probed(state: State, peer: int, hint: int, term: int = 1) -> AppendResponse:
    """It has no more than ``hint`` of what the leader's first probe begins after."""
    known = state.peer(peer)
    assert known is not None
    return AppendResponse(peer, 1, state.term, known.next - 1, True, hint, term, recovering=True)


def proposed(state: State) -> State:
    return settled(run(state, Propose((normal(b"x"),))))[0]


def test_the_flag_takes_back_all_that_was_believed() -> None:
    leader = proposed(leading(ONE, (1, 2, 3, 4, 5), 2, 3))
    leader = settled(run(leader, acked(leader, 2)))[0]
    assert leader.commit == 1
    leader = settled(run(leader, evolve(beat(leader, 2), recovering=True)))[0]
    peer = leader.peer(2)
    assert peer is not None
    assert (peer.match, peer.recovering, peer.state) == (0, True, ProgressState.PROBE)
    leader = settled(run(leader, acked(leader, 3, 2), acked(leader, 4, 1)))[0]
    assert leader.commit == 1, "two of five have entry 2"
    assert run(leader, acked(leader, 4, 2)).commit == 2


def test_a_flagged_acknowledgement_counts_for_nothing_but_brings_the_next_entries() -> None:
    leader = proposed(leading())
    leader, _ = settled(run(leader, flagged(leader, 2, 1)))
    leader, sent = settled(run(leader, probed(leader, 2, 1)))
    bringing = [one for one in sent if isinstance(one, AppendEntries) and one.to == 2]
    assert [entry.index for entry in bringing[-1].entries] == [2, 3]
    leader, _ = settled(run(leader, flagged(leader, 2)))
    assert leader.commit == 1
    assert run(leader, acked(leader, 3)).commit == leader.log.last_index


def test_an_answer_that_comes_twice_brings_the_next_entries_once() -> None:
    """Each would bring an append, and that another answer: two chains from then on, and more."""
    leader, _ = settled(run(leading(), flagged(leading(), 2, 0)))
    leader = proposed(proposed(leader))
    answer = flagged(leader, 2, leader.log.last_index - 2)
    leader, sent = settled(run(leader, answer))
    assert [one.to for one in sent] == [2]
    for late in (answer, flagged(leader, 2, 0)):
        assert settled(run(leader, late)) == (leader, [])


def test_the_leader_puts_an_entry_behind_what_may_have_been_acknowledged_before() -> None:
    leader = leading()
    last = leader.log.last_index
    leader, _ = settled(run(leader, flagged(leader, 2, 0)))
    assert leader.log.last_index == last + 1
    peer = leader.peer(2)
    assert peer is not None
    assert peer.unproven == last


def test_a_late_acknowledgement_of_before_the_loss_is_not_counted() -> None:
    leader = proposed(leading())
    leader, _ = settled(run(leader, flagged(leader, 2, 0)))
    late = run(leader, acked(leader, 2, 2))
    assert late.commit == 1
    whole = run(late, acked(late, 2))
    assert whole.commit == late.log.last_index
    peer = whole.peer(2)
    assert peer is not None
    assert (peer.recovering, peer.match) == (False, late.log.last_index)


def test_a_second_loss_moves_the_bound() -> None:
    """Acknowledgements of between the losses answer what was sent after the first one."""
    leader, _ = settled(run(leading(), flagged(leading(), 2, 0)))
    between = acked(leader, 2)
    again = ReadIndexRequest(2, 1, b"recovering 2", recovering=True)
    leader, _ = settled(run(leader, again))
    leader = run(leader, between)
    peer = leader.peer(2)
    assert peer is not None
    assert (peer.recovering, peer.match, leader.commit) == (True, 0, 1)


def test_the_question_alone_is_a_flag_seen_before_the_round_begins() -> None:
    leader = proposed(leading())
    leader = run(leader, acked(leader, 2), ReadIndexRequest(3, 1, b"recovering", recovering=True))
    peer = leader.peer(3)
    assert peer is not None
    assert peer.recovering
    (answer,) = run(leader, beat(leader, 2, 1)).messages[-1:]
    assert answer == ReadIndexResponse(1, 3, leader.term, 2, b"recovering")


def test_a_question_from_a_stranger_is_answered_and_marks_nobody() -> None:
    leader = leading()
    after = run(leader, ReadIndexRequest(9, 1, b"recovering", recovering=True), beat(leader, 2, 1))
    assert after.messages[-1] == ReadIndexResponse(1, 9, leader.term, 1, b"recovering")
    assert after.log == leader.log


def test_a_question_that_went_around_until_its_asker_led_is_dropped() -> None:
    leader = leading()
    assert run(leader, ReadIndexRequest(1, 1, b"recovering", recovering=True)) == leader


def test_a_follower_passes_the_question_on_with_its_flag() -> None:
    state = followed_up(member(), 1)
    (passed,) = sent_by(state, ReadIndexRequest(3, 1, b"recovering", recovering=True))
    assert passed == ReadIndexRequest(3, 2, b"recovering", recovering=True)


def test_a_recovering_member_confirms_no_read() -> None:
    leader = run(leading(), Read(b"r"))
    assert run(leader, evolve(beat(leader, 2, 1), recovering=True)).outbox.reads == ()
    assert len(run(leader, beat(leader, 3, 1)).outbox.reads) == 1


def test_a_recovering_member_keeps_no_leader_in_office() -> None:
    config = evolve(ONE, check_quorum=True)
    flags = evolve(beat(leading(config), 2), recovering=True)
    leader = ticked(run(ticked(leading(config), config.election_ticks), flags), 1)
    assert ticked(leader, config.election_ticks).role is Role.FOLLOWER
    counted = run(leader, beat(leader, 3))
    assert ticked(counted, config.election_ticks - 1).role is Role.LEADER


def test_a_recovering_member_measures_no_lease() -> None:
    config = evolve(ONE, check_quorum=True, measured_lease=True)
    leader = ticked(leading(config), 1)
    flags = evolve(beat(leader, 2, sent_tick=1), recovering=True)
    assert run(leader, flags, Read(b"r", lease=True)).outbox.reads == ()
    leader = run(leader, beat(leader, 2, sent_tick=1))
    assert len(run(leader, Read(b"r", lease=True)).outbox.reads) == 1
    assert run(leader, flags, Read(b"r", lease=True)).outbox.reads == ()


def test_its_question_is_answered_by_a_quorum_and_not_by_a_lease() -> None:
    config = evolve(ONE, check_quorum=True, read_mode=ReadMode.LEASE)
    leader = leading(config)
    asked = run(leader, ReadIndexRequest(3, 1, b"recovering", lease=True, recovering=True))
    assert not [one for one in asked.messages if isinstance(one, ReadIndexResponse)]
    answered = run(asked, beat(asked, 2, 1))
    assert isinstance(answered.messages[-1], ReadIndexResponse)


def test_a_lone_voter_answers_only_what_it_committed_in_its_own_term() -> None:
    """Its commit index may be behind what it committed itself in an earlier term."""
    lone = member(terms=(1, 1), voters=(1,), learners=(2,))
    leader = run(lone, Campaign())
    leader, todo = ready(leader)
    leader = run(leader, Persisted(todo.number))
    assert leader.role is Role.LEADER
    asked = run(leader, ReadIndexRequest(2, 1, b"recovering", recovering=True))
    assert not [one for one in asked.messages if isinstance(one, ReadIndexResponse)]
    answered = settled(asked)[1]
    assert ReadIndexResponse(1, 2, 2, 3, b"recovering") in answered


def test_leadership_is_not_handed_to_it() -> None:
    leader = settled(run(leading(), flagged(leading(), 2, 0)))[0]
    assert run(leader, TransferLeader(2)).leading.transferee == 0
    leader = run(proposed(leading()), TransferLeader(3))
    assert leader.leading.transferee == 3
    assert run(leader, flagged(leader, 3, 0)).leading.transferee == 0


def test_an_idle_leader_learns_by_an_empty_append_that_a_peer_is_whole() -> None:
    leader, _ = settled(run(leading(), flagged(leading(), 2, 0)))
    leader, _ = settled(run(leader, flagged(leader, 2)))
    leader, sent = settled(run(leader, beat(leader, 2)))
    last = leader.log.last_index
    assert AppendEntries(1, 2, 1, last, 1, 1) in sent
    peer = run(leader, acked(leader, 2)).peer(2)
    assert peer is not None
    assert (peer.recovering, peer.match) == (False, last)


def test_a_recovering_peer_is_sent_a_snapshot_where_the_log_is_gone() -> None:
    leader = start(ONE, hard_state=HardState(1, 0, 5), snapshot=snapshot_at(5, 1))
    leader = followed(elected(leader), 2, 3)
    leader, _ = settled(run(leader, flagged(leader, 2, 0)))
    leader, sent = settled(run(leader, probed(leader, 2, 0, 0)))
    assert [one.to for one in sent if isinstance(one, InstallSnapshot)] == [2]
    leader, sent = settled(run(leader, flagged(leader, 2, 3)))
    assert sent == [], "not there yet"
    leader, sent = settled(run(leader, flagged(leader, 2, 5)))
    (append,) = [one for one in sent if isinstance(one, AppendEntries)]
    assert [entry.index for entry in append.entries] == [6, 7]
    assert leader.commit == 6


def test_a_leader_outside_the_membership_adds_no_entry() -> None:
    leader = run(leading(ONE, (1, 2, 3), 2, 3), ApplyChange(MembershipChange((removed(1),))))
    assert leader.peer(1) is None
    after = run(leader, flagged(leader, 2, 0))
    peer = after.peer(2)
    assert peer is not None
    assert peer.recovering
    assert after.log == leader.log


def test_nobody_is_whole_again_by_having_what_was_never_sent() -> None:
    leader = run(leading(), flagged(leading(), 2, 0))
    after = run(leader, acked(leader, 2, leader.log.last_index + 1)).peer(2)
    assert after is not None
    assert (after.recovering, after.match) == (True, 0)
