"""The README tells the truth: its code runs and prints what it says, its commands exist."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.source import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

SECTIONS = (
    "What you are promised",
    "When not to use it",
    "Install",
    "How a write travels",
    "The key-value store",
    "When a disk lies, and when members change",
    "The core alone",
    "Testing your machine",
    "Figures",
    "Licence",
)

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@frozen
class Block:
    """One fenced block; ``output`` is the ``text`` block that follows it, if one does."""

    language: str
    line: int
    code: str
    output: str | None


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text."""
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences):
        output = None
        if number + 1 < len(fences) and fences[number + 1][1] == "text":
            between = text[fence.end() : fences[number + 1].start()].strip()
            # Nothing between them, or a few words such as "It prints".
            output = fences[number + 1][2] if len(between) < 20 else None
        yield Block(fence[1], text.count("\n", 0, fence.start()) + 1, fence[2], output)


BLOCKS = list(blocks(README))
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    line for block in BLOCKS if block.language == "sh" for line in block.code.splitlines() if line
]


def run(code: str, folder: Path) -> str:
    """What a program prints, started in an empty folder with warnings as errors."""
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def differs(output: str, expected: str) -> bool:
    """Whether a program printed something else; ``...`` stands for anything."""
    return not doctest.OutputChecker().check_output(expected, output, doctest.ELLIPSIS)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line-{block.line}")
def test_the_code_runs_and_prints_what_is_shown(block: Block, tmp_path: Path) -> None:
    output = run(block.code, tmp_path)
    if block.output is not None:
        assert not differs(output, block.output), output


def test_the_first_lines_are_the_quickstart_example() -> None:
    example = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    shown = [line.strip() for line in PYTHON[0].code.splitlines() if line.strip()]
    # In the same order; the example may say more between them.
    lines = iter([line.strip() for line in example.splitlines()])
    missing = [line for line in shown if line not in lines]
    assert not missing, missing


def test_the_first_lines_are_few() -> None:
    assert len([line for line in PYTHON[0].code.splitlines() if line.strip()]) <= 15


def test_the_sections_stand_in_their_order() -> None:
    assert tuple(re.findall(r"^## (.*)$", README, re.MULTILINE)) == SECTIONS


def test_every_command_exists_with_its_options() -> None:
    programs = [shlex.split(command) for command in COMMANDS]
    assert len(programs) >= 7
    for program, *arguments in programs:
        assert program in {"python3.11", ".venv/bin/pip", ".venv/bin/python", "bash"}, program
        if program == ".venv/bin/python" and "pytest" not in arguments:
            nothing_missing(arguments)


def nothing_missing(arguments: list[str]) -> None:
    """Ask a program for its help, and look there for every option."""
    words = [word for word in arguments if not word.startswith("--")]
    stop = 3 if words[0] == "-m" else 1  # a module and its subcommand, or a file
    done = subprocess.run(
        [sys.executable, *words[:stop], "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    options = {word for word in arguments if word.startswith("--")}
    assert options <= {*re.findall(r"--[\w-]+", done.stdout)}, f"{arguments}: {done.stdout}"


def test_ci_runs_the_commands_that_are_promised() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (tests,) = [command for command in COMMANDS if "pytest" in command]
    assert f"    {tests} " in script
    (install,) = [command for command in COMMANDS if "pip install" in command]
    assert install.partition("install ")[2] in script


def test_links_and_paths_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:examples|raftkv|benchmarks|tests|\.ci)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_figures_stand_in_a_place_of_their_own() -> None:
    assert README.count("<!-- figures: begin -->") == 1
    assert README.index("<!-- figures: begin -->") < README.index("<!-- figures: end -->")


# --- each check can fail --------------------------------------------------------------------


def test_blocks_are_found_with_what_they_print() -> None:
    text = "a\n```python\nx = 1\n```\n\nIt prints\n\n```text\n1\n```\n```sh\nls\n```\nand so on\n"
    found = list(blocks(text))
    assert [(block.language, block.line, block.output) for block in found] == [
        ("python", 2, "1\n"),
        ("text", 8, None),
        ("sh", 11, None),
    ]


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "import warnings\nwarnings.warn('x')"])
def test_code_that_fails_or_warns_is_found(code: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(code, tmp_path)


def test_other_output_is_found() -> None:
    assert differs("1\n", "2\n")
    assert not differs("took 12 ms\n", "took ... ms\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "raftkv.testing", "simulate", "--no-such-option"],
        ["-m", "raftkv.testing", "nothing"],
        ["examples/nothing.py"],
    ],
)
def test_a_command_that_is_not_there_is_found(arguments: list[str]) -> None:
    with pytest.raises(AssertionError):
        nothing_missing(arguments)
