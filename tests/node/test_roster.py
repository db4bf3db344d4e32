"""Names and addresses: kept with what is applied, read from others with care."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.core import Change, ChangeKind, Membership, MembershipChange
from raftkv.encoding import PlainInput, dumps
from raftkv.errors import (
    ConfigError,
    MembershipError,
    TransportError,
    UnavailableError,
    WireError,
)
from raftkv.node.joining import (
    Invitation,
    answer_question,
    ask_to_join,
    encode_question,
)
from raftkv.node.roster import (
    ChangeNote,
    Member,
    Roster,
    decode_change_note,
    decode_roster,
    encode_change_note,
    encode_roster,
    records_of,
)
from raftkv.runtime.base import Clock
from raftkv.runtime.system import system_runtime

ONE, TWO, THREE = (Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))
BOTH = Roster((ONE, TWO), 5)

ids = st.integers(0, 2**63 - 1)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=64)
members = st.builds(Member, ids, names, names, st.booleans(), ids)
rosters = st.builds(
    Roster,
    st.lists(members, max_size=9).map(lambda all_: tuple(sorted(all_, key=lambda one: one.id))),
    ids,
)


@given(rosters)
def test_a_roster_comes_back_as_it_was(roster: Roster) -> None:
    assert decode_roster(encode_roster(roster)) == roster


@given(st.tuples(ids, ids, ids), rosters)
def test_a_note_comes_back_as_it_was(origin: tuple[int, int, int], roster: Roster) -> None:
    note = ChangeNote(origin, roster.members)
    assert decode_change_note(encode_change_note(note)) == note


def test_a_change_without_context_sets_nothing() -> None:
    assert decode_change_note(b"") == ChangeNote()
    assert records_of(MembershipChange()) == ChangeNote()
    assert records_of(MembershipChange((), context=b"\xff")) == ChangeNote()


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_or_read(data: bytes) -> None:
    for decode in (decode_roster, decode_change_note):
        try:
            decode(data)
        except WireError:
            continue


GOOD: list[PlainInput] = [1, "n1", "n1:1", False, 0]


@pytest.mark.parametrize(
    "members",
    [
        None,
        {},
        [1],
        [[1, "n1"]],
        [[*GOOD, 1]],
        [["1", *GOOD[1:]]],
        [[-1, *GOOD[1:]]],
        [[2**63, *GOOD[1:]]],
        [[1, "", *GOOD[2:]]],
        [[1, "n" * 65, *GOOD[2:]]],
        [[1, "n\n", *GOOD[2:]]],
        [[1, 1, *GOOD[2:]]],
        [[1, "n1", "", False, 0]],
        [[1, "n1", "n" * 301, False, 0]],
        [[1, "n1", "n\x1b[2J", False, 0]],
        [[1, "n1", "n1:1", 1, 0]],
        [[1, "n1", "n1:1", False, -1]],
        [GOOD] * 129,
    ],
)
def test_members_of_another_shape_are_refused(members: PlainInput) -> None:
    with pytest.raises(WireError):
        decode_roster(dumps({"index": 1, "members": members}))
    with pytest.raises(WireError):
        decode_change_note(dumps({"origin": [0, 0, 0], "records": members}))
    with pytest.raises(WireError):
        decode_change_note(dumps({"origin": members, "records": []}))


def test_who_is_no_member_any_more_leaves_the_roster() -> None:
    after = BOTH.changed(6, (), Membership((1,)))
    assert after == Roster((ONE,), 6)
    assert after.member("n2") is None
    assert after.member(1) is after.member("n1") is ONE


def test_a_roster_knows_what_it_was_told_already() -> None:
    """After a restart changes are applied again that the roster is ahead of."""
    assert BOTH.changed(5, (THREE,), Membership((1, 2, 3))) is BOTH
    assert BOTH.changed(6, (THREE,), Membership((1, 2, 3))).members == (ONE, TWO, THREE)


def test_names_and_addresses_are_taken_by_others_only() -> None:
    assert BOTH.is_taken([Member(3, "n1", "x")])
    assert BOTH.is_taken([Member(3, "x", "n2:1")])
    assert not BOTH.is_taken([Member(1, "n1", "x"), THREE])


# --- joining ------------------------------------------------------------------------------------


def has_none(_member: int) -> bool:
    return False


def has_all(_member: int) -> bool:
    return True


async def _ask(answers: dict[str, list[bytes | None]], name: str = "n2") -> Invitation:
    async def ask(address: str, question: bytes) -> bytes:
        assert question == encode_question(name, is_new=True)
        waiting = answers[address]
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if answer is None:
            raise TransportError(f"{address} is silent")
        return answer

    return await ask_to_join(ask, list(answers), name, system_runtime().clock, is_new=True)


def answer(name: str = "n2", roster: Roster = BOTH) -> bytes:
    return answer_question(encode_question(name, is_new=True), 77, roster, has_none)


async def test_the_first_who_knows_us_tells_who_we_are() -> None:
    found = await _ask({"a": [None], "b": [answer(roster=Roster())], "c": [answer()]})
    assert found == Invitation(77, TWO, BOTH)


async def test_who_has_not_heard_of_us_yet_is_asked_again() -> None:
    unaware = answer(roster=Roster((ONE,), 4))
    assert (await _ask({"a": [unaware, unaware, answer()]})).me == TWO
    assert (await _ask({"a": [unaware, None, answer()], "b": [unaware]})).me == TWO


async def test_who_is_unknown_everywhere_hears_it() -> None:
    with pytest.raises(MembershipError, match=r"'n2'.*add it first") as refused:
        await _ask({"a": [answer(roster=Roster((ONE,), 4))]})
    assert refused.value.reason == "unknown"
    with pytest.raises(UnavailableError, match="a is silent; b is silent"):
        await _ask({"a": [None], "b": [None]})


async def test_who_was_seen_with_another_directory_hears_it() -> None:
    new = answer_question(encode_question("n2", is_new=True), 77, BOTH, has_all)
    with pytest.raises(MembershipError) as refused:
        await _ask({"a": [new], "b": [answer()]})
    assert refused.value.reason == "known"
    # A directory of its own that merely does not tell whose it is may come back.
    old = answer_question(encode_question("n2", is_new=False), 77, BOTH, has_all)
    assert (await _ask({"a": [old]})).me == TWO


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff",
        dumps([]),
        dumps({}),
        dumps({"cluster": 1, "member": 2, "roster": 3}),
        dumps({"cluster": 1, "member": 3, "refused": "", "roster": encode_roster(BOTH)}),
        dumps({"cluster": 1, "member": 1, "refused": "", "roster": encode_roster(BOTH)}),
        dumps({"cluster": -1, "member": 2, "refused": "", "roster": encode_roster(BOTH)}),
    ],
)
async def test_an_answer_that_is_none_counts_as_silence(nonsense: bytes) -> None:
    with pytest.raises(UnavailableError, match="nothing was written"):
        await _ask({"a": [nonsense]})


@pytest.mark.parametrize("name", ["n" * 3000, "n\ud800", "n\n"])
async def test_a_name_that_no_member_has_is_not_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="printable characters"):
        await _ask({}, name)


async def test_who_is_silent_for_long_does_not_make_the_others_be_asked_for_long() -> None:
    class Time(Clock):
        now_ns = 0

        def monotonic_ns(self) -> int:
            return self.now_ns

        boottime_ns = wall_ns = monotonic_ns

        async def sleep_until(self, monotonic_ns: int) -> None:
            self.now_ns = max(self.now_ns, monotonic_ns)

    time, asked = Time(), list[str]()

    async def ask(address: str, _question: bytes) -> bytes:
        asked.append(address)
        if address == "silent":
            time.now_ns += 5 * 10**9
            raise TransportError("it does not answer")
        return answer(roster=Roster((ONE,), 4))

    with pytest.raises(MembershipError, match="add it first"):
        await ask_to_join(ask, ["silent", "unaware"], "n2", time, is_new=True)
    assert asked == ["silent", "unaware"]
    asked.clear()
    with pytest.raises(MembershipError, match="add it first"):
        await ask_to_join(ask, ["unaware"], "n2", time, is_new=True)
    assert len(asked) > 10


async def test_a_newer_members_reason_is_told_as_it_is() -> None:
    newer = dumps({"cluster": 1, "member": 0, "refused": "full", "roster": b""})
    with pytest.raises(MembershipError, match="does not let 'n2' join") as refused:
        await _ask({"a": [newer]})
    assert refused.value.reason == "full"


@pytest.mark.parametrize("question", [b"", b"\xff", dumps([]), dumps({}), dumps({"join": 1})])
def test_a_question_that_is_none_is_answered_politely(question: bytes) -> None:
    assert b"unknown" in answer_question(question, 77, BOTH, has_none)


def test_changes_name_their_members() -> None:
    change = MembershipChange(
        (Change(ChangeKind.LEARNER, 3),),
        context=encode_change_note(ChangeNote((1, 2, 3), (THREE,))),
    )
    assert records_of(change).records == (THREE,)
