"""The bytes of an entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvariantError
from raftkv.node.commands import NO_ORIGIN, Origin, decode_commands, encode_commands, origin_of

numbers = st.integers(0, 2**64 - 1)


@given(numbers, numbers, numbers, st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_commands_come_back_as_they_went_in(
    member: int, boot: int, first: int, commands: list[bytes]
) -> None:
    data = encode_commands(member, boot, first, commands)
    origin = origin_of(data)
    assert origin == Origin(member, boot, first, len(commands))
    decoded = decode_commands(9, data, origin)
    assert [command.data for command in decoded] == commands
    assert {command.index for command in decoded} == {9}


def test_an_empty_entry_carries_no_command() -> None:
    assert origin_of(b"") == NO_ORIGIN
    assert decode_commands(1, b"", NO_ORIGIN) == []


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_an_entry_that_is_cut_or_longer_is_noticed(
    commands: list[bytes], data: st.DataObject
) -> None:
    whole = encode_commands(1, 2, 3, commands)
    size = data.draw(st.integers(1, len(whole) - 1))
    for wrong in (whole[:size], whole + b"x"):
        with pytest.raises(InvariantError):
            decode_commands(1, wrong, origin_of(wrong))


def test_an_entry_of_a_newer_version_is_not_misread() -> None:
    data = b"\x02" + encode_commands(1, 2, 3, [b"x"])[1:]
    with pytest.raises(InvariantError, match="upgrade"):
        origin_of(data)
