"""The trace harness reads files byte for byte as their grammar says, and compares as it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.trace_file import (
    Argument,
    Directive,
    TraceFormatError,
    difference,
    normalised,
    parse_directive,
    parse_file,
    rewritten,
)


def _arguments(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.key, one.values) for one in parse_directive(text).arguments]


def test_a_key_without_a_value_has_no_values() -> None:
    assert _arguments('cmd 1 "foo bar"') == [("1", ()), ('"foo', ()), ('bar"', ())]


def test_one_value_reads_like_a_list_of_one() -> None:
    assert _arguments("cmd drop=3")[0][1] == _arguments("cmd drop=(3)")[0][1] == ("3",)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=(1,2)", ("1", "2")),
        ("a=(1, 2)", ("1", "2")),
        ("a=(1,   2)", ("1", "2")),
        ("a=(1 ,2)", ("1 ", "2")),
        ("a=((1,2),3)", ("(1,2)", "3")),
        ("a=(f(x, y), z)", ("f(x, y)", "z")),
        ("a=()", ("",)),
        ("a=", ("",)),
        ("a= b", ("",)),
        ("a=b=c", ("b=c",)),
        ("a=b(c", ("b(c",)),
        ("a=1,2", ("1,2",)),
    ],
)
def test_values_split_at_commas_of_their_own_depth(text: str, values: tuple[str, ...]) -> None:
    assert _arguments(f"cmd {text}")[0] == ("a", values)


def test_arguments_may_follow_a_list_at_once() -> None:
    assert _arguments("cmd a=(1)b=2 c") == [("a", ("1",)), ("b", ("2",)), ("c", ())]


def test_a_list_that_is_not_closed_is_no_directive() -> None:
    with pytest.raises(TraceFormatError, match="not closed"):
        parse_directive("cmd a=((1)")


def test_positional_arguments_are_those_without_values() -> None:
    directive = parse_directive("cmd 1 a=2 3 b=")
    assert directive.positional == ("1", "3")


def test_values_of_a_repeated_key_are_joined() -> None:
    assert parse_directive("cmd a=1 a=(2,3)").values("a") == ("1", "2", "3")
    assert parse_directive("cmd a").values("a") == ()
    assert parse_directive("cmd").values("a") is None


def test_comments_and_blank_lines_stand_between_cases_only() -> None:
    (one, two) = parse_file(
        "# head\n\n   # indented\ncmd 1\n# input\n----\n# output\n\n# foot\n\n\nother\n----\nx\n"
    )
    assert (one.directive.input, one.expected) == ("# input", ("# output",))
    assert (two.directive.command, two.expected) == ("other", ("x",))


def test_a_backslash_joins_the_next_line() -> None:
    (case,) = parse_file("cmd a \\\n     b=(1,\\\n 2)   \\\nc\ninput\n----\n")
    assert case.directive == Directive(
        "cmd", (Argument("a"), Argument("b", ("1", "2")), Argument("c")), "input"
    )
    assert case.line == 1


def test_a_backslash_that_ends_the_file_joins_nothing() -> None:
    with pytest.raises(TraceFormatError):
        parse_file("cmd \\")


def test_input_is_every_line_before_the_dashes_trimmed_as_a_whole() -> None:
    (case,) = parse_file("cmd\n\n  v1\n\n --- v2  \n\n----\nok")
    assert case.directive.input == "v1\n\n --- v2"


def test_dashes_with_blanks_do_not_end_the_input() -> None:
    (case,) = parse_file("cmd\n---- \n----\nok\n")
    assert case.directive.input == "----"


def test_a_directive_without_dashes_is_no_case() -> None:
    with pytest.raises(TraceFormatError, match="line 3: no ---- after 'b 1'"):
        parse_file("# c\n\nb 1\nx\n")


def test_expected_text_ends_at_a_blank_line_or_the_end() -> None:
    first, second, third = parse_file("a\n----\n x \n  y\n \nb\n----\n\nc\n----")
    assert first.expected == (" x ", "  y")
    assert second.expected == ()
    assert third.expected == ()


def test_a_second_line_of_dashes_opens_a_block_with_blank_lines() -> None:
    first, second = parse_file("a\n----\n----\nx\n\n----\ny\n----\n----\nb\n----\nz\n")
    assert first.expected == ("x", "", "----", "y")
    assert second.expected == ("z",)


def test_a_block_with_blank_lines_must_be_closed() -> None:
    with pytest.raises(TraceFormatError, match="line 3"):
        parse_file("a\n----\n----\nx\n\n----\ny\n")


def test_only_a_line_feed_ends_a_line() -> None:
    (case,) = parse_file("a\n----\nx\x0by\x0cz\u2028w\r\n")
    assert case.expected == ("x\x0by\x0cz\u2028w\r",)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARN", "ERROR", "FATAL"])
def test_log_lines_are_not_compared(level: str) -> None:
    assert normalised((f"{level} x", f"   {level} y", "z")) == ("z",)


@pytest.mark.parametrize(
    "line", ["INFO", "INFOS x", "\tINFO x", "x INFO y", "> 1 handling Ready", "info x", "NONE x"]
)
def test_no_other_line_counts_as_log(line: str) -> None:
    assert normalised((line, "z")) == (line, "z")


def test_a_side_with_nothing_left_is_ok() -> None:
    (logged, silent, empty) = parse_file("a\n----\nINFO x\n\nb\n----\nok\n\nc\n----\n")
    for case in (logged, silent, empty):
        assert not difference(case, "ok")
        assert not difference(case, "")
        assert difference(case, "something")


def test_lines_are_compared_to_the_last_blank() -> None:
    (case,) = parse_file("a\n----\nx \n y\n")
    assert not difference(case, "x \n y")
    assert not difference(case, "x \n y\n")
    for other in ("x\n y", "x \ny", "x \n y\n\n", "x \n y\nz", "x "):
        assert difference(case, other)


def test_rewriting_keeps_all_but_the_expected_text() -> None:
    text = "# head\na 1\n----\nold\n\n# note\nb \\\n 2\ninput\n----\nsame\n\n\nc\n----"
    assert rewritten(text, ["new\nlines\n", "same", "x"]) == (
        "# head\na 1\n----\nnew\nlines\n\n# note\nb \\\n 2\ninput\n----\nsame\n\n\nc\n----\nx\n"
    )


def test_rewriting_fences_text_with_blank_lines() -> None:
    text = "a\n----\n----\nold\n\n----\n----\nb\n----\nold\n"
    new = rewritten(text, ["x", "y\n\nz"])
    assert new == "a\n----\nx\n\nb\n----\n----\ny\n\nz\n----\n----\n"
    assert [case.expected for case in parse_file(new)] == [("x",), ("y", "", "z")]


@given(
    st.lists(st.text(alphabet="ab- \n#\\", min_size=1).filter(lambda t: t.strip("\n")), max_size=4)
)
def test_what_is_rewritten_is_then_expected(outputs: list[str]) -> None:
    text = "\n\n".join("cmd\n----" for _ in outputs) + "\n"
    if not outputs:
        return
    # Two lines of dashes in a row cannot be told from the end of their block.
    if any("\n----\n----\n" in f"\n{output}\n" or output.endswith("----") for output in outputs):
        return
    new = rewritten(text, outputs)
    cases = parse_file(new)
    assert len(cases) == len(outputs)
    for case, output in zip(cases, outputs, strict=True):
        assert not difference(case, output)
    assert rewritten(new, outputs) == new
