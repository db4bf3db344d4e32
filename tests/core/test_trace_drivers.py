"""The drivers of quorum and membership files, and the choice among drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.core import quorum
from tests.core import trace_quorum, trace_run
from tests.core.trace_changes import ChangeDriver
from tests.core.trace_commands import InteractionDriver
from tests.core.trace_file import Directive, TraceFormatError, parse_directive, parse_file
from tests.core.trace_quorum import QuorumDriver
from tests.core.trace_run import TraceMismatchError, check, driver_for, rewrite


def _asked(line: str) -> str:
    return QuorumDriver().handle(parse_directive(line))


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("vote", "VoteWon"),
        ("vote cfgj=zero", "VoteWon"),
        ("vote votes=(y,_,n) cfg=(1,2,3)", "VotePending"),
        ("vote cfg=(1,2,3) votes=(y,y,_)", "VoteWon"),
        ("vote cfg=(1, 2, 3) votes=(n,_,n)", "VoteLost"),
        ("vote cfg=1 votes=y", "VoteWon"),
        ("vote cfg=(1,2) cfgj=(2,3) votes=(y,y,n)", "VoteLost"),
        ("vote cfg=(1) cfgj=(2) votes=(n,_)", "VoteLost"),
        ("vote cfg=(3,1) cfgj=(2,3) votes=(y,y,y)", "VoteWon"),
    ],
)
def test_a_vote_is_counted(line: str, result: str) -> None:
    assert _asked(line) == result


@pytest.mark.parametrize(
    ("line", "index"),
    [
        ("committed cfgj=zero", "<empty majority quorum>∞"),
        ("committed cfg=(1,2,3) cfgj=zero idx=(9,8,7)", "8"),
        ("committed cfg=(1,2,3) cfgj=(4) idx=(9,8,7,2)", "2"),
        ("committed cfg=(1,2,3) cfgj=(3) idx=(9,8,_)", "0"),
        ("committed idx=(101,99,100) cfg=(1,2,3)", "100"),
    ],
)
def test_the_committed_index_follows_the_table(line: str, index: str) -> None:
    assert _asked(line).split("\n")[-1] == index


def test_the_table_covers_both_halves_with_a_bar_for_each_rank() -> None:
    assert _asked("committed cfg=(10,2) cfgj=(3,2) idx=(12,5,5)") == (
        "       idx\n>        5    (id=2)\n>        5    (id=3)\nxx>     12    (id=a)\n5"
    )


def test_a_wrong_number_of_values_is_told() -> None:
    assert _asked("vote cfg=(2,1) votes=(y)") == (
        "error: mismatched input (explicit or _) for voters map[1:{} 2:{}]: [2]"
    )
    assert _asked("committed cfg=(1) cfgj=(2) idx=(_,7,8)") == (
        "error: mismatched input (explicit or _) for voters map[1:{} 2:{}]: [0 7 8]"
    )


@pytest.mark.parametrize(
    "line", ["committed cfg=(1) idx=(0)", "vote cfg=(1) cfgj=(zero,2) votes=(y,y)"]
)
def test_a_question_without_sense_is_no_case(line: str) -> None:
    with pytest.raises(TraceFormatError):
        _asked(line)


def test_an_unknown_quorum_command_is_told() -> None:
    assert _asked("elect cfg=(1)") == "unknown command"


def test_asymmetric_arithmetic_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_incoming(
        incoming: tuple[int, ...], outgoing: tuple[int, ...], votes: dict[int, bool]
    ) -> quorum.Vote:
        return quorum.vote(incoming, votes)

    monkeypatch.setattr(trace_quorum, "vote_jointly", only_incoming)
    shown = _asked("vote cfg=(1) cfgj=(2) votes=(y,n)")
    assert shown == "VoteWon\nVoteLost <-- via symmetry"


def test_an_index_that_depends_on_stragglers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def total(
        incoming: tuple[int, ...], outgoing: tuple[int, ...], acknowledged: dict[int, int]
    ) -> int:
        return sum(acknowledged.values())

    monkeypatch.setattr(trace_quorum, "committed_jointly", total)
    assert _asked("committed cfg=(1,2) idx=(5,_)").split("\n")[-1] == "5"
    lines = _asked("committed cfg=(1,2) idx=(5,9)").split("\n")
    assert lines[3:] == [
        "14",
        "13 <-- overlaying 1->4",
        "9 <-- overlaying 1->0",
        "13 <-- overlaying 2->8",
        "5 <-- overlaying 2->0",
    ]


def _changed(*steps: str) -> list[str]:
    driver = ChangeDriver()
    outputs: list[str] = []
    for step in steps:
        line, _, text = step.partition("|")
        directive = parse_directive(line)
        outputs.append(
            driver.handle(Directive(directive.command, directive.arguments, text.strip()))
        )
    return outputs


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (["simple"], "removed all voters"),
        (["simple|l1"], "removed all voters"),
        (["simple|v1 v2"], "more than one voter changed without entering joint config"),
        (
            ["simple|v1", "enter-joint|v2", "simple|v3"],
            "can't apply simple config change in joint config",
        ),
        (["simple|v1", "enter-joint|v2", "enter-joint|v3"], "config is already joint"),
        (["enter-joint|v1"], "can't make a zero-voter config joint"),
        (["leave-joint"], "can't leave a non-joint config"),
        (["leave-joint|v1"], "this command takes no input"),
        (["simple|v"], "unknown token v"),
        (["simple|v1  v2"], "unknown token "),
        (["simple|x1"], "unknown input: x1"),
        (["simple|v1x"], 'strconv.ParseUint: parsing "1x": invalid syntax'),
        (["grow|v1"], "unknown command"),
        (["enter-joint autoleave=maybe"], 'strconv.ParseBool: parsing "maybe": invalid syntax'),
    ],
)
def test_a_refused_change_is_told(steps: list[str], text: str) -> None:
    assert _changed(*steps)[-1] == text


def test_a_refused_change_leaves_all_but_the_last_index_as_it_was() -> None:
    assert _changed("simple|v1", "simple|v2 v3", "grow", "simple|v2") == [
        "voters=(1)\n1: StateProbe match=0 next=1",
        "more than one voter changed without entering joint config",
        "unknown command",
        "voters=(1 2)\n1: StateProbe match=0 next=1\n2: StateProbe match=0 next=3",
    ]


def test_a_joint_configuration_is_entered_and_left() -> None:
    assert _changed("simple|v1", "enter-joint autoleave=true|r1 v10 l3", "leave-joint") == [
        "voters=(1)\n1: StateProbe match=0 next=1",
        "voters=(a)&&(1) learners=(3) autoleave\n"
        "1: StateProbe match=0 next=1\n"
        "3: StateProbe match=0 next=1 learner\n"
        "10: StateProbe match=0 next=1",
        "voters=(a) learners=(3)\n"
        "3: StateProbe match=0 next=1 learner\n"
        "10: StateProbe match=0 next=1",
    ]


@pytest.mark.parametrize(
    ("path", "text", "driver"),
    [
        ("x.txt", "vote\n----\n\ncommitted\n----\n\ncommited\n----\n", QuorumDriver),
        ("confchange/x.txt", "vote\n----\n", QuorumDriver),
        ("quorum/x.txt", "simple\n----\n", ChangeDriver),
        ("quorum/x.txt", "add-nodes 1\n----\n\nraft-log 1\n----\n", InteractionDriver),
        ("a/quorum/x.txt", "elect\n----\n", QuorumDriver),
        ("quorum/confchange/x.txt", "", ChangeDriver),
        ("a/testdata/x.txt", "elect\n----\n", InteractionDriver),
    ],
)
def test_what_a_file_says_chooses_its_driver_before_where_it_lies(
    path: str, text: str, driver: type[object]
) -> None:
    assert type(driver_for(Path(path), parse_file(text))) is driver


def test_a_mismatch_names_its_place_and_shows_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("# c\nvote cfg=(1,2) votes=(y,y)\n----\nVoteWon\n\nvote\n----\nVoteLost\n")
    with pytest.raises(TraceMismatchError) as caught:
        check(path)
    assert str(caught.value) == (
        f"{path}:6: vote\n--- expected\n+++ actual\n@@ -1 +1 @@\n-VoteLost\n+VoteWon"
    )


def test_a_crash_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("add-nodes 1\n----\nok\n\nraft-log 1 drop=(2,3)\n----\n\nraft-log 2\n----\n")
    with pytest.raises(TraceFormatError, match="there is no node 2") as caught:
        trace_run.rewrite(path)
    assert caught.value.__notes__ == [f"while running {path}:8: raft-log 2"]


def test_rewriting_makes_a_file_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("# c\nvote\n----\n\n# d\nvote cfg=(1) votes=_\n----\nVoteWon\n")
    assert rewrite(path)
    assert path.read_text() == (
        "# c\nvote\n----\nVoteWon\n\n# d\nvote cfg=(1) votes=_\n----\nVotePending\n"
    )
    check(path)
    assert not rewrite(path)
