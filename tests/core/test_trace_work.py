"""Commands of interaction traces that do what a Ready asks for, and carry messages."""

from __future__ import annotations

import pytest

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Role,
    Snapshot,
    StorageAppendResponse,
    TimeoutNow,
    TransferLeadership,
)
from tests.core.trace_file import TraceFormatError
from tests.core.trace_session import Session, led

# --- Ready ------------------------------------------------------------------------------------


def test_one_ready_is_printed_plainly_and_several_under_heads() -> None:
    session = Session("add-nodes 2 voters=(1,2) index=10")
    assert session.run("process-ready 2") == "<empty Ready>"
    session.run("campaign 1")
    assert session.run("process-ready 2 1") == (
        "> 2 handling Ready\n"
        "  <empty Ready>\n"
        "> 1 handling Ready\n"
        "  Ready MustSync=true:\n"
        "  Lead:0 State:StateCandidate\n"
        "  HardState Term:1 Vote:1 Commit:10\n"
        "  Messages:\n"
        "  1->2 MsgVote Term:1 Log:1/10\n"
    )


def test_a_synchronous_ready_is_stored_applied_sent_and_reported() -> None:
    session = led(2)
    session.run("propose 1 x")
    session.run("process-ready 1")
    node = session.world.nodes[0]
    assert node.storage.last_index == 12
    assert node.storage.hard_state.commit == 11
    assert [type(message) for message in session.world.in_flight] == [AppendEntries]
    assert node.state.unstable == 13
    session.quietly("stabilize")
    assert [(one.index, one.data) for one in node.history] == [(10, b""), (11, b""), (12, b"x")]
    assert node.state.applied == 12
    assert node.state.snapshot == node.history[-1]


def test_an_asynchronous_ready_hands_work_to_the_threads() -> None:
    session = led(1, "async-storage-writes=true")
    session.run("propose 1 x")
    assert session.run("process-ready 1") == (
        "Ready MustSync=true:\n"
        "Entries:\n"
        '1/12 EntryNormal "x"\n'
        "Messages:\n"
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]'
        " Responses:[\n"
        "  1->1 MsgAppResp Term:1 Log:0/12\n"
        "  AppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
        "]\n"
    )
    node = session.world.nodes[0]
    assert node.storage.last_index == 11
    assert session.run("process-append-thread 1") == (
        "Processing:\n"
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "Responses:\n"
        "1->1 MsgAppResp Term:1 Log:0/12\n"
        "AppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
    )
    assert node.storage.last_index == 12
    assert node.state.unstable == 12
    assert session.run("process-append-thread 1") == "no append work to perform"
    assert session.run("process-apply-thread 1") == "no apply work to perform"
    assert session.run("deliver-msgs 1 drop=1") == (
        "1->1 MsgAppResp Term:1 Log:0/12\nAppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
    )
    session.run("process-ready 1")
    assert session.run("process-apply-thread 1 1") == (
        "> 1 processing apply thread\n"
        "  Processing:\n"
        '  1->ApplyThread MsgStorageApply Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "  Responses:\n"
        '  ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "> 1 processing apply thread\n"
        "  no apply work to perform\n"
    )
    assert node.history[-1].data == b"x"
    assert node.state.applied == 11
    session.run("deliver-msgs 1")
    assert node.state.applied == 12


def test_storage_threads_work_in_order_under_heads() -> None:
    session = Session("add-nodes 2 voters=(1,2) index=10 async-storage-writes=true")
    session.run("campaign 2")
    session.run("process-ready 2")
    assert session.run("process-append-thread 1 2") == (
        "> 1 processing append thread\n"
        "  no append work to perform\n"
        "> 2 processing append thread\n"
        "  Processing:\n"
        "  2->AppendThread MsgStorageAppend Term:1 Log:0/0 Commit:10 Vote:2\n"
        "  Responses:\n"
        "  2->2 MsgVoteResp Term:1 Log:0/0\n"
    )
    assert session.world.nodes[1].storage.hard_state.vote == 2


def test_a_snapshot_and_entries_in_one_ready_cannot_be_stored() -> None:
    session = led(2)
    session.quietly("add-nodes 1")
    session.quietly("propose-conf-change 1|l3", "stabilize 1 2", "deliver-msgs drop=3")
    members = session.world.nodes[0].state.membership
    snapshot = session.world.nodes[0].history[-1]
    assert 3 in members.learners
    session.world.in_flight += [InstallSnapshot(1, 3, 1, snapshot)]
    session.run("propose 1 x")
    session.run("process-ready 1")
    leader = session.world.nodes[0].state
    entry = leader.log.entry(13)
    session.world.in_flight += [AppendEntries(1, 3, 1, 12, 1, 12, (entry,))]
    session.run("deliver-msgs 3")
    text = session.run("process-ready 3")
    assert text.startswith("Ready MustSync=true:\nLead:1 State:StateFollower\n")
    assert text.endswith(
        "3->1 MsgAppResp Term:1 Log:0/13\ncan't apply snapshot and entries at the same time"
    )


def test_an_error_within_stabilize_follows_what_was_printed() -> None:
    session = Session("add-nodes 1 voters=(1,2) index=10")
    (node,) = session.world.nodes
    node.storage.install(Snapshot(90, 1))
    session.world.in_flight += [InstallSnapshot(2, 1, 1, Snapshot(50, 1, 0, node.state.membership))]
    text = session.run("stabilize 1")
    assert text.startswith("> 1 receiving messages\n  2->1 MsgSnap Term:1 Log:0/0\n    Snapshot: ")
    assert text.endswith(
        "  1->2 MsgAppResp Term:1 Log:0/50\nrequested index is older than the existing snapshot"
    )


# --- messages ---------------------------------------------------------------------------------


def test_recipients_and_drops_are_taken_in_written_order() -> None:
    session = Session("add-nodes 2")
    session.world.in_flight += [Heartbeat(9, to, 1, 0) for to in (1, 2, 3, 1)]
    assert session.run("deliver-msgs 2 drop=(3,1) 1") == (
        "9->2 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->3 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->1 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->1 MsgHeartbeat Term:1 Log:0/0\n"
    )
    assert session.run("deliver-msgs 1 2 drop=(3)") == "no messages\n"


def test_a_type_holds_for_all_recipients_wherever_it_stands() -> None:
    session = Session("add-nodes 2")
    session.world.in_flight += [Heartbeat(9, 1, 1, 0), TimeoutNow(9, 1, 1), TimeoutNow(9, 2, 1)]
    assert session.run("deliver-msgs drop=2 1 type=MsgTimeoutNow") == (
        "dropped: 9->2 MsgTimeoutNow Term:1 Log:0/0\n9->1 MsgTimeoutNow Term:1 Log:0/0\n"
    )
    assert session.world.in_flight == [Heartbeat(9, 1, 1, 0)]
    assert session.run("deliver-msgs 1 type=MsgHup") == "no messages\n"


def test_an_unknown_type_is_no_command() -> None:
    with pytest.raises(TraceFormatError, match="MsgFoo"):
        Session("add-nodes 1").run("deliver-msgs 1 type=MsgFoo")


def test_what_stays_within_a_node_is_not_dropped() -> None:
    session = Session("add-nodes 1")
    own = [
        AppendResponse(1, 1, 0, 0),
        StorageAppendResponse(2**64 - 1, 1, 0, 0, 0),
        TransferLeadership(1, 1, 0, 1),
    ]
    session.world.in_flight += [*own, Heartbeat(2, 1, 0, 0)]
    assert session.run("deliver-msgs drop=1") == "dropped: 2->1 MsgHeartbeat Term:0 Log:0/0\n"
    assert session.world.in_flight == own


def test_messages_to_nobody_can_only_be_dropped() -> None:
    session = Session("add-nodes 1")
    session.world.in_flight += [Heartbeat(1, 4, 1, 0)]
    with pytest.raises(TraceFormatError, match="there is no node 4"):
        session.run("deliver-msgs 4")
    session.world.in_flight += [Heartbeat(1, 4, 1, 0)]
    assert session.run("deliver-msgs drop=4") == "dropped: 1->4 MsgHeartbeat Term:1 Log:0/0\n"
    assert session.run("deliver-msgs 4") == "no messages\n"


def test_an_answer_from_a_stranger_is_told_and_not_taken() -> None:
    session = led(1)
    before = session.world.nodes[0].state
    session.world.in_flight += [HeartbeatResponse(7, 1, 9)]
    assert session.run("deliver-msgs 1") == (
        "7->1 MsgHeartbeatResp Term:9 Log:0/0\nraft: cannot step as peer not found\n"
    )
    assert session.world.nodes[0].state == before


def test_a_local_message_from_another_node_is_told_and_not_taken() -> None:
    session = led(1)
    before = session.world.nodes[0].state
    session.world.in_flight += [StorageAppendResponse(2, 1, 1, 11, 1)]
    assert session.run("deliver-msgs 1") == (
        "2->1 MsgStorageAppendResp Term:1 Log:1/11\nraft: cannot step raft local message\n"
    )
    assert session.world.nodes[0].state == before


def test_answers_to_what_is_delivered_wait_for_a_ready() -> None:
    session = led(2)
    session.run("tick-heartbeat 1")
    session.run("process-ready 1")
    assert session.run("deliver-msgs 2 1") == "1->2 MsgHeartbeat Term:1 Log:0/0 Commit:11\n"
    assert session.world.in_flight == []


def test_a_snapshot_is_sent_behind_the_cores_back() -> None:
    session = led(2)
    before = session.world.nodes[0].state
    text = (
        "1->7 MsgSnap Term:1 Log:0/0\n"
        "  Snapshot: Index:11 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[] Learners:[]"
        " LearnersNext:[] AutoLeave:false"
    )
    assert session.run("send-snapshot 1 7") == text
    assert session.world.nodes[0].state == before
    assert session.run("deliver-msgs drop=7") == f"dropped: {text}\n"


# --- stabilize --------------------------------------------------------------------------------


def test_stabilize_works_in_rounds_over_all_nodes() -> None:
    session = Session("add-nodes 2 voters=(1,2) index=10", "campaign 1")
    heads = [line for line in session.run("stabilize").split("\n") if line.startswith(">")]
    assert heads == [
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
    ]
    assert session.run("stabilize") == "ok"


def test_stabilize_prints_one_head_for_all_the_work_of_a_thread() -> None:
    session = led(1, "async-storage-writes=true")
    for data in ("x", "y"):
        session.run(f"propose 1 {data}")
        session.quietly("process-ready 1")
    lines = session.run("stabilize").split("\n")
    heads = [line for line in lines if line.startswith(">")]
    assert heads == [
        "> 1 processing append thread",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 1 processing append thread",
        "> 1 processing apply thread",
        "> 1 receiving messages",
    ]
    assert lines.count("  Processing:") == 4


def test_stabilize_leaves_other_nodes_and_their_messages_alone() -> None:
    session = Session("add-nodes 3 voters=(1,2,3) index=10", "campaign 1")
    session.run("stabilize 2 1")
    assert {message.to for message in session.world.in_flight} == {3}
    assert session.world.nodes[2].state.term == 0
    assert session.world.nodes[0].state.role is Role.LEADER


def test_stabilize_takes_nodes_in_the_order_given() -> None:
    session = Session("add-nodes 3 voters=(1,2,3) index=10", "campaign 2", "campaign 3")
    heads = [line for line in session.run("stabilize 3 2").split("\n") if line.startswith(">")]
    assert heads[:2] == ["> 3 handling Ready", "> 2 handling Ready"]


def test_stabilize_may_be_quiet_for_itself_alone() -> None:
    session = Session("add-nodes 1 voters=1 index=10", "campaign 1")
    assert session.run("stabilize log-level=none") == "ok"
    assert session.run("raft-state") == "1: StateLeader (Voter) Term:1 Lead:1\n"
    session.run("propose 1 x")
    session.run("log-level none")
    assert session.run("stabilize 1 log-level=info") != "ok"
    assert session.run("raft-state") == "ok"


@pytest.mark.parametrize("level", ["debug", "INFO", "Warn", "error", "fatal"])
def test_every_level_but_none_prints(level: str) -> None:
    session = Session("add-nodes 1")
    session.run("log-level None")
    assert session.run("raft-state") == "ok"
    assert session.run(f"log-level {level}") == "ok"
    assert session.run("raft-state") != "ok"


def test_an_unknown_level_is_told() -> None:
    text = "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]"
    assert Session().run("log-level loud") == text
    assert Session().run("stabilize log-level=loud") == text
