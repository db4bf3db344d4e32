"""The grammar of trace files: commands, their input, and the text they must print.

A file is a list of cases, each a directive line, optional input, ``----``, and the expected output
up to a blank line. Nothing here knows what a command means.
"""

from __future__ import annotations

import re
from difflib import unified_diff
from typing import Final

from attrs import frozen

SEPARATOR: Final = "----"
_LOG_LINE: Final = re.compile(r"^ *(DEBUG|INFO|WARN|ERROR|FATAL) ")


class TraceFormatError(Exception):
    """The file is not a list of cases, or a command is not written as it must be."""


class CommandError(Exception):
    """A command failed; the text is what it prints."""


@frozen
class Argument:
    """``key``, ``key=value`` or ``key=(value, value)``; a key alone has no values."""

    key: str
    values: tuple[str, ...] = ()


@frozen
class Directive:
    """A command with its arguments and its input."""

    command: str
    arguments: tuple[Argument, ...] = ()
    input: str = ""

    @property
    def positional(self) -> tuple[str, ...]:
        """The keys that have no values, in order."""
        return tuple(argument.key for argument in self.arguments if not argument.values)

    def values(self, key: str) -> tuple[str, ...] | None:
        """Every value given to ``key``; None if it is absent."""
        found = [argument.values for argument in self.arguments if argument.key == key]
        return tuple(value for values in found for value in values) if found else None


@frozen
class Case:
    """One directive and what it must print.

    ``line`` is the directive's, counted from 1; ``body`` the half-open range of lines, counted from
    0, that holds the expected text and its closing dashes, but not the blank line after it.
    """

    line: int
    directive: Directive
    expected: tuple[str, ...]
    body: tuple[int, int]


def lines_of(text: str) -> list[str]:
    """The lines of a file: only LF ends one, and one at the end of the file adds none."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def parse_file(text: str) -> list[Case]:
    """Every case of a file, in order."""
    lines = lines_of(text)
    cases: list[Case] = []
    at = 0
    while at < len(lines):
        if _is_blank(lines[at]) or lines[at].lstrip().startswith("#"):
            at += 1
            continue
        case = _parse_case(lines, at)
        cases.append(case)
        at = case.body[1]
    return cases


def _parse_case(lines: list[str], start: int) -> Case:
    at = start
    directive = lines[at].strip()
    while directive.endswith("\\") and at + 1 < len(lines):
        at += 1
        directive = f"{directive[:-1]} {lines[at].strip()}"
    at += 1
    try:
        separator = lines.index(SEPARATOR, at)
    except ValueError:
        raise TraceFormatError(f"line {start + 1}: no {SEPARATOR} after {directive!r}") from None
    command, arguments = _parse_directive(directive, start + 1)
    text = "\n".join(lines[at:separator]).strip()
    expected, stop = _expected(lines, separator + 1)
    return Case(start + 1, Directive(command, arguments, text), expected, (separator + 1, stop))


def _expected(lines: list[str], start: int) -> tuple[tuple[str, ...], int]:
    """The expected lines from ``start`` on, and where they end."""
    if lines[start : start + 1] == [SEPARATOR]:
        for at in range(start + 1, len(lines) - 1):
            if lines[at] == lines[at + 1] == SEPARATOR:
                return tuple(lines[start + 1 : at]), at + 2
        raise TraceFormatError(f"line {start + 1}: no two {SEPARATOR} end this block")
    stop = start
    while stop < len(lines) and not _is_blank(lines[stop]):
        stop += 1
    return tuple(lines[start:stop]), stop


def _is_blank(line: str) -> bool:
    return not line.strip()


def parse_directive(text: str) -> Directive:
    """A directive from its line alone."""
    command, arguments = _parse_directive(text.strip(), 1)
    return Directive(command, arguments)


def _parse_directive(text: str, line: int) -> tuple[str, tuple[Argument, ...]]:
    command, _, rest = text.partition(" ")
    arguments: list[Argument] = []
    rest = rest.lstrip()
    while rest:
        argument, rest = _parse_argument(rest, line)
        arguments.append(argument)
        rest = rest.lstrip()
    return command, tuple(arguments)


def _parse_argument(text: str, line: int) -> tuple[Argument, str]:
    """The argument at the start of ``text``, and what follows it."""
    stop = _find(text, " =", 0)
    key = text[:stop]
    if not text.startswith("=", stop):
        return Argument(key), text[stop:]
    start = stop + 1
    if not text.startswith("(", start):
        stop = _find(text, " ", start)
        return Argument(key, (text[start:stop],)), text[stop:]
    values, stop = _parse_list(text, start + 1, line)
    return Argument(key, values), text[stop:]


def _find(text: str, ends: str, start: int) -> int:
    """Where the first of the ends stands, or the end of the text."""
    return min((at for end in ends if (at := text.find(end, start)) >= 0), default=len(text))


def _parse_list(text: str, start: int, line: int) -> tuple[tuple[str, ...], int]:
    """The values from ``start``, just inside a parenthesis; and where its match is passed."""
    values: list[str] = []
    depth = 1
    value = start
    for at in range(start, len(text)):
        character = text[at]
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if not depth:
                return (*values, text[value:at]), at + 1
        elif character == "," and depth == 1:
            values.append(text[value:at])
            value = at + 1
            while text.startswith(" ", value):
                value += 1
    raise TraceFormatError(f"line {line}: a parenthesis is not closed in {text!r}")


def normalised(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Lines as they are compared: without log lines, and ``ok`` if nothing is left."""
    kept = tuple(line for line in lines if not _LOG_LINE.match(line))
    return kept or ("ok",)


def difference(case: Case, actual: str) -> str:
    """How the output differs from what is expected, as a diff; empty if it does not."""
    expected, got = normalised(case.expected), normalised(tuple(lines_of(actual)))
    return "\n".join(unified_diff(expected, got, "expected", "actual", lineterm="", n=6))


def rewritten(text: str, outputs: list[str]) -> str:
    """The file with the expected text of each case replaced by its output; all else stays."""
    lines = lines_of(text)
    cases = parse_file(text)
    assert len(cases) == len(outputs), "one output a case"
    result: list[str] = []
    at = 0
    for case, output in zip(cases, outputs, strict=True):
        result += lines[at : case.body[0]]
        result += _block(output)
        at = case.body[1]
        if lines[at : at + 1] and not _is_blank(lines[at]):
            result.append("")  # what followed closing dashes now follows a blank line
    result += lines[at:]
    return "\n".join(result) + "\n"


def _block(output: str) -> list[str]:
    lines = lines_of(output)
    if any(_is_blank(line) for line in lines) or lines[:1] == [SEPARATOR]:
        return [SEPARATOR, *lines, SEPARATOR, SEPARATOR]
    return lines
