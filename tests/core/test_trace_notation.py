"""The trace harness writes every message, entry, Ready and Progress as recorded runs do."""

from __future__ import annotations

import pytest

from raftkv.core import (
    APPEND_THREAD,
    APPLY_THREAD,
    AppendEntries,
    AppendResponse,
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    ForwardProposal,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Membership,
    MembershipChange,
    Message,
    Payload,
    PreVote,
    PreVoteResponse,
    Progress,
    ProgressState,
    ProposalRefused,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadState,
    RequestVote,
    Role,
    Snapshot,
    SoftState,
    StorageAppend,
    StorageAppendResponse,
    StorageApply,
    StorageApplyResponse,
    TimeoutNow,
    TransferLeadership,
    Transition,
    VoteResponse,
    encode_change,
)
from tests.core import trace_notation as notation
from tests.core.trace_notation import ReadyParts


def _entry(term: int, index: int, data: bytes = b"") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, data, 0)


def _change(kind: EntryKind, change: MembershipChange) -> Entry:
    return Entry(1, 4, kind, encode_change(change), 0)


_JOINT = Membership((1, 2), (1,), (), (), True)
_SNAPSHOT = Snapshot(4, 1, 0, _JOINT, b"secret")
_ONE = (_entry(1, 5, b"foo"),)
_TWO = (_entry(6, 20, b"prop_6_20"), _entry(8, 21))


_MESSAGES: list[tuple[Message, str]] = [
    (PreVote(1, 2, 3, 10, 1), "1->2 MsgPreVote Term:3 Log:1/10"),
    (PreVoteResponse(2, 1, 3, False), "2->1 MsgPreVoteResp Term:3 Log:0/0"),
    (
        PreVoteResponse(2, 1, 3, True),
        "2->1 MsgPreVoteResp Term:3 Log:0/0 Rejected (Hint: 0)",
    ),
    (RequestVote(1, 2, 3, 10, 1, transfer=True), "1->2 MsgVote Term:3 Log:1/10"),
    (VoteResponse(2, 1, 3, False), "2->1 MsgVoteResp Term:3 Log:0/0"),
    (VoteResponse(2, 1, 3, True), "2->1 MsgVoteResp Term:3 Log:0/0 Rejected (Hint: 0)"),
    (AppendEntries(1, 2, 3, 11, 1, 0), "1->2 MsgApp Term:3 Log:1/11"),
    (
        AppendEntries(1, 2, 3, 4, 1, 4, _ONE),
        '1->2 MsgApp Term:3 Log:1/4 Commit:4 Entries:[1/5 EntryNormal "foo"]',
    ),
    (
        AppendEntries(1, 2, 8, 19, 6, 18, _TWO),
        "1->2 MsgApp Term:8 Log:6/19 Commit:18 Entries:[\n"
        '  6/20 EntryNormal "prop_6_20"\n'
        '  8/21 EntryNormal ""\n'
        "]",
    ),
    (AppendResponse(2, 1, 1, 13), "2->1 MsgAppResp Term:1 Log:0/13"),
    (
        AppendResponse(2, 1, 1, 13, rejected=True, hint=12, hint_term=7),
        "2->1 MsgAppResp Term:1 Log:7/13 Rejected (Hint: 12)",
    ),
    (Heartbeat(1, 2, 1, 11, 5, 6), "1->2 MsgHeartbeat Term:1 Log:0/0 Commit:11"),
    (Heartbeat(1, 2, 1, 0), "1->2 MsgHeartbeat Term:1 Log:0/0"),
    (HeartbeatResponse(2, 1, 1, 5, 6), "2->1 MsgHeartbeatResp Term:1 Log:0/0"),
    (
        InstallSnapshot(1, 2, 1, _SNAPSHOT),
        "1->2 MsgSnap Term:1 Log:0/0\n"
        "  Snapshot: Index:4 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[1] Learners:[]"
        " LearnersNext:[] AutoLeave:true",
    ),
    (InstallSnapshot(1, 2, 1, Snapshot(0, 0)), "1->2 MsgSnap Term:1 Log:0/0"),
    (TimeoutNow(1, 2, 1), "1->2 MsgTimeoutNow Term:1 Log:0/0"),
    (TransferLeadership(3, 1, 2, 3), "3->1 MsgTransferLeader Term:2 Log:0/0"),
    (
        ForwardProposal(2, 1, (Payload(EntryKind.NORMAL, b"foo"),), 7),
        '2->1 MsgProp Term:0 Log:0/0 Entries:[0/0 EntryNormal "foo"]',
    ),
    (ProposalRefused(1, 2, 7, 1), "1->2 MsgPropResp Term:0 Log:0/0 Rejected (Hint: 0)"),
    (
        ReadIndexRequest(2, 1, b"ctx"),
        '2->1 MsgReadIndex Term:0 Log:0/0 Entries:[0/0 EntryNormal "ctx"]',
    ),
    (
        ReadIndexResponse(1, 2, 3, 11, b"ctx"),
        '1->2 MsgReadIndexResp Term:3 Log:0/11 Entries:[0/0 EntryNormal "ctx"]',
    ),
    (
        StorageAppend(1, APPEND_THREAD, None, _ONE, None, ()),
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/5 EntryNormal "foo"]',
    ),
    (
        StorageAppend(
            2,
            APPEND_THREAD,
            HardState(1, 1, 12),
            (_entry(1, 14, b"prop_3"),),
            None,
            (
                AppendResponse(2, 1, 1, 13),
                StorageAppendResponse(APPEND_THREAD, 2, 1, 14, 1),
            ),
        ),
        "2->AppendThread MsgStorageAppend Term:1 Log:0/0 Commit:12 Vote:1"
        ' Entries:[1/14 EntryNormal "prop_3"] Responses:[\n'
        "  2->1 MsgAppResp Term:1 Log:0/13\n"
        "  AppendThread->2 MsgStorageAppendResp Term:1 Log:1/14\n"
        "]",
    ),
    (
        StorageAppend(
            2,
            APPEND_THREAD,
            HardState(1, 0, 4),
            (),
            _SNAPSHOT,
            (StorageAppendResponse(APPEND_THREAD, 2, 1, 0, 0, _SNAPSHOT),),
        ),
        "2->AppendThread MsgStorageAppend Term:1 Log:0/0 Commit:4\n"
        "  Snapshot: Index:4 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[1] Learners:[]"
        " LearnersNext:[] AutoLeave:true Responses:[\n"
        "  AppendThread->2 MsgStorageAppendResp Term:1 Log:0/0\n"
        "    Snapshot: Index:4 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[1] Learners:[]"
        " LearnersNext:[] AutoLeave:true\n"
        "]",
    ),
    (
        StorageApply(1, APPLY_THREAD, _TWO, (StorageApplyResponse(APPLY_THREAD, 1, _TWO),)),
        "1->ApplyThread MsgStorageApply Term:0 Log:0/0 Entries:[\n"
        '  6/20 EntryNormal "prop_6_20"\n'
        '  8/21 EntryNormal ""\n'
        "] Responses:[\n"
        "  ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0 Entries:[\n"
        '    6/20 EntryNormal "prop_6_20"\n'
        '    8/21 EntryNormal ""\n'
        "  ]\n"
        "]",
    ),
]


@pytest.mark.parametrize(
    ("message", "text"),
    _MESSAGES,
    ids=[f"{number}-{type(one).__name__}" for number, (one, _) in enumerate(_MESSAGES)],
)
def test_a_message_is_written(message: Message, text: str) -> None:
    assert notation.message(message) == text
    name = notation.wire_of(message).name
    # Only refusals travel back to a proposer under a name that recorded runs do not know.
    assert name in notation.MESSAGE_NAMES or isinstance(message, ProposalRefused)


def test_ends_of_a_message_are_hexadecimal_or_named() -> None:
    ends = [notation.target(node) for node in (0, 9, 10, 255, APPEND_THREAD, APPLY_THREAD)]
    assert ends == ["None", "9", "a", "ff", "AppendThread", "ApplyThread"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", '""'),
        (b'"x"', '"\\"x\\""'),
        (b"a\\b", '"a\\\\b"'),
        (b"a\nb\tc", '"a\\nb\\tc"'),
        (b"\x00\x1f\x7f", '"\\x00\\x1f\\x7f"'),
        (b"\xff\xc3", '"\\xff\\xc3"'),
        ("é∞".encode(), '"é∞"'),
    ],
)
def test_payload_is_quoted(data: bytes, text: str) -> None:
    assert notation.quoted(data) == text


def test_changes_are_written_as_they_are_proposed() -> None:
    every = MembershipChange(
        (
            Change(ChangeKind.VOTER, 1),
            Change(ChangeKind.LEARNER, 2),
            Change(ChangeKind.REMOVE, 3),
            Change(ChangeKind.UPDATE, 12),
        )
    )
    assert notation.entry(_change(EntryKind.CHANGE, every)) == "1/4 EntryConfChangeV2 v1 l2 r3 u12"


def test_a_change_without_steps_leaves_no_blank_behind() -> None:
    for change in (MembershipChange(), MembershipChange(transition=Transition.EXPLICIT)):
        assert notation.entry(_change(EntryKind.CHANGE, change)) == "1/4 EntryConfChangeV2"
    single = MembershipChange((Change(ChangeKind.VOTER, 4),))
    assert notation.entry(_change(EntryKind.CHANGE_SINGLE, single)) == "1/4 EntryConfChange v4"


def test_a_configuration_keeps_its_written_order() -> None:
    assert notation.conf_state(Membership((3, 1), (), (12,), (2,), False)) == (
        "Voters:[3 1] VotersOutgoing:[] Learners:[12] LearnersNext:[2] AutoLeave:false"
    )


@pytest.mark.parametrize(
    ("membership", "text"),
    [
        (Membership(), "voters=()"),
        (Membership((3, 1, 10)), "voters=(1 3 a)"),
        (
            Membership((1, 2), (1,), (4,), (2,), True),
            "voters=(1 2)&&(1) learners=(4) learners_next=(2) autoleave",
        ),
    ],
)
def test_membership_files_write_configurations_shorter(membership: Membership, text: str) -> None:
    assert notation.configuration(membership) == text


def _ready(
    *,
    must_sync: bool = False,
    soft_state: SoftState | None = None,
    hard_state: HardState | None = None,
    reads: tuple[ReadState, ...] = (),
    entries: tuple[Entry, ...] = (),
    snapshot: Snapshot | None = None,
    committed: tuple[Entry, ...] = (),
    messages: tuple[Message, ...] = (),
) -> str:
    return notation.ready(
        ReadyParts(must_sync, soft_state, hard_state, reads, entries, snapshot, committed, messages)
    )


def test_a_ready_with_nothing_in_it_says_so_on_an_open_line() -> None:
    assert _ready() == _ready(must_sync=True) == "<empty Ready>"


def test_a_ready_shows_its_parts_in_order() -> None:
    assert _ready(
        must_sync=True,
        soft_state=SoftState(1, Role.LEADER),
        hard_state=HardState(1, 1, 4),
        reads=(ReadState(11, b"\x01\x02"), ReadState(12, b"")),
        entries=_ONE,
        snapshot=_SNAPSHOT,
        committed=(_entry(1, 4),),
        messages=(Heartbeat(1, 2, 1, 4), AppendEntries(1, 2, 8, 19, 6, 18, _TWO)),
    ) == (
        "Ready MustSync=true:\n"
        "Lead:1 State:StateLeader\n"
        "HardState Term:1 Vote:1 Commit:4\n"
        "ReadStates [{11 [1 2]} {12 []}]\n"
        "Entries:\n"
        '1/5 EntryNormal "foo"\n'
        "Snapshot Index:4 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[1] Learners:[]"
        " LearnersNext:[] AutoLeave:true\n"
        "CommittedEntries:\n"
        '1/4 EntryNormal ""\n'
        "Messages:\n"
        "1->2 MsgHeartbeat Term:1 Log:0/0 Commit:4\n"
        "1->2 MsgApp Term:8 Log:6/19 Commit:18 Entries:[\n"
        '  6/20 EntryNormal "prop_6_20"\n'
        '  8/21 EntryNormal ""\n'
        "]\n"
    )


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (Role.FOLLOWER, "StateFollower"),
        (Role.PRE_CANDIDATE, "StatePreCandidate"),
        (Role.CANDIDATE, "StateCandidate"),
        (Role.LEADER, "StateLeader"),
    ],
)
def test_every_role_has_its_name(role: Role, name: str) -> None:
    assert _ready(soft_state=SoftState(0, role)) == f"Ready MustSync=false:\nLead:0 State:{name}\n"


def test_a_hard_state_shows_its_commit_always_and_its_vote_if_there_is_one() -> None:
    assert notation.hard_state(HardState(1, 0, 0)) == "Term:1 Commit:0"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (
            Progress(2, 0, 4, ProgressState.PROBE, False, 0, True, 0, (), 0, 0, 0),
            "StateProbe match=0 next=4",
        ),
        (
            Progress(3, 0, 4, ProgressState.PROBE, True, 0, False, 0, (), 0, 0, 0),
            "StateProbe match=0 next=4 learner paused inactive",
        ),
        (
            Progress(2, 9, 12, ProgressState.SNAPSHOT, False, 11, True, 0, (), 0, 0, 0),
            "StateSnapshot match=9 next=12 paused pendingSnap=11",
        ),
        (
            Progress(2, 9, 12, ProgressState.REPLICATE, False, 0, True, 0, ((10, 1),), 1, 0, 0),
            "StateReplicate match=9 next=12 inflight=1",
        ),
        (
            Progress(
                2, 9, 12, ProgressState.REPLICATE, True, 0, True, 0, ((10, 1), (11, 1)), 2, 0, 0
            ),
            "StateReplicate match=9 next=12 paused inflight=2[full]",
        ),
        (
            Progress(2, 9, 12, ProgressState.REPLICATE, True, 0, True, 0, ((10, 50),), 50, 0, 0),
            "StateReplicate match=9 next=12 paused inflight=1[full]",
        ),
    ],
)
def test_progress_shows_what_is_unusual(progress: Progress, text: str) -> None:
    assert notation.progress(progress, (3,), count_max=2, bytes_max=50) == text
