"""Caps on files and functions, docstrings, banned words and one version number, kept as tests."""

from __future__ import annotations

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator
from io import StringIO

import pytest

import raftkv
from tests.source import ROOT, Finding, Module, modules, nothing, rules_found, snippet

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

# Functions that may be longer: the one exhaustive match over inputs reads best in one piece.
LONG_FUNCTIONS = {"raftkv.core.step.step"}

# Commands print; a library does not.
PRINTING = ("raftkv.testing.commands.screen", "raftkv.cli", "benchmarks", "examples")

# Written apart, so that this file does not break its own rule.
_UNFINISHED = re.compile(
    r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b"
)
_SILENCED = re.compile(r"#\s*(noqa|type: *ignore|pyright: *ignore|pragma: *no cover)\b(.*)")
_NAMED = re.compile(r"\s*(: *[A-Z]+\d+(?:, *[A-Z]+\d+)*|\[[\w, -]+\])(.*)")


# --- the rules ------------------------------------------------------------------------------


def caps(module: Module) -> Iterator[Finding]:
    """Files and functions that a reader cannot hold in mind at once."""
    lines = module.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield module.finding(1, f"{lines} lines, the cap is {FILE_LINES_MAX}: split the file")
    for name, node in functions(module.tree, module.name):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if not body or name in LONG_FUNCTIONS:
            continue
        length = (node.end_lineno or 0) - body[0].lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield module.finding(
                node,
                f"{name} has {length} lines, the cap is {FUNCTION_LINES_MAX}: split the function",
            )


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(root: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name."""
    for node in ast.iter_child_nodes(root):
        name = f"{prefix}.{node.name}" if isinstance(node, Function | ast.ClassDef) else prefix
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, name)


def words(path: str, text: str) -> Iterator[Finding]:
    """Notes of unfinished work: finish it, or write an issue."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _UNFINISHED.search(line):
            yield Finding(
                f"{path}:{number}", f"unfinished work is marked with {found[0]}: finish it"
            )


def silences(module: Module) -> Iterator[Finding]:
    """Checks switched off without naming the check, or without a reason there or just above."""
    above = ""
    for token in tokenize.generate_tokens(StringIO(module.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if found := _SILENCED.search(token.string):
            number, (what, rest) = token.start[0], found.groups()
            named = _NAMED.fullmatch(rest)
            reason = named[2] if named else rest
            if not named and what != "pragma: no cover":
                yield module.finding(number, f"{what} switches everything off: name the rule")
            elif not re.search(r"\w{2}", reason) and above != f"comment above {number}":
                yield module.finding(number, f"{what} without a reason on its line or above")
        elif token.line.lstrip().startswith("#"):
            above = f"comment above {token.start[0] + 1}"


def prints(module: Module) -> Iterator[Finding]:
    """Output of a library belongs to its host."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.stdout.write"}:
            yield module.finding(node, "a library does not print: log, or answer in a status")


def undocumented(module: Module) -> Iterator[Finding]:
    """Public names without a docstring."""
    if not ast.get_docstring(module.tree) and module.text.strip():
        yield module.finding(1, f"{module.name} has no docstring")
    yield from _undocumented_in(module, module.tree, module.name)


def _undocumented_in(
    module: Module, root: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[Finding]:
    for node in root.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        if not ast.get_docstring(node) and not _is_overload_or_setter(node):
            yield module.finding(node, f"{name} is public and has no docstring")
        if isinstance(node, ast.ClassDef):
            yield from _undocumented_in(module, node, name)


def _is_overload_or_setter(node: Function | ast.ClassDef) -> bool:
    """Whether the same name's docstring stands elsewhere."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(
        text.endswith(("overload", ".setter", "override")) or "singledispatch" in text
        for text in decorators
    )


# --- the tree keeps the rules ---------------------------------------------------------------

PACKAGE = modules("raftkv")
EVERYTHING = [
    module
    for folder in ("raftkv", "tests", "examples", "benchmarks")
    if any((ROOT / folder).rglob("*.py"))
    for module in modules(folder)
]
COMMANDS = [module for module in EVERYTHING if not module.name.startswith("tests")]


def test_no_file_and_no_function_is_longer_than_its_cap() -> None:
    shipped = {module.name for module in COMMANDS}
    for module in EVERYTHING:
        found = caps(module)
        # A test's scenario may be long, its file may not.
        nothing(one for one in found if module.name in shipped or "function" not in one.rule)


def test_no_work_is_left_unfinished_in_the_tree() -> None:
    texts = {module.path: module.text for module in EVERYTHING}
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml", ".ci/run"):
        texts[name] = (ROOT / name).read_text(encoding="utf-8")
    nothing(finding for path, text in texts.items() for finding in words(path, text))


def test_a_check_is_switched_off_only_by_name_and_with_a_reason() -> None:
    for module in EVERYTHING:
        found = silences(module)
        # In a test the name of the rule says enough.
        nothing(one for one in found if module in COMMANDS or "without a reason" not in one.rule)


def test_the_package_does_not_print() -> None:
    nothing(
        finding
        for module in PACKAGE
        if not module.name.startswith(PRINTING)
        for finding in prints(module)
    )


def test_everything_public_is_documented() -> None:
    nothing(finding for module in PACKAGE for finding in undocumented(module))


def test_the_version_is_the_newest_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert newest_version((ROOT / "CHANGELOG.md").read_text()) == version
    assert raftkv.__version__ == version


def newest_version(changelog: str) -> str:
    """The first version heading; the unreleased section above it names none."""
    found = re.search(r"^## \[?(\d+\.\d+\.\d+[^\]\s]*)\]?", changelog, re.MULTILINE)
    assert found, "CHANGELOG.md has no heading such as '## 1.2.3 - 2030-01-31'"
    return found[1]


# --- each rule can fail ---------------------------------------------------------------------


def test_a_file_or_function_over_its_cap_is_found() -> None:
    long = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
    assert not list(caps(snippet("raftkv.x", long)))
    assert rules_found(caps(snippet("raftkv.x", long + "    x = 2\n"))) == [
        "raftkv.x.f has 61 lines, the cap is 60: split the function"
    ]
    method = "class C:\n    async def f():\n" + "        x = 1\n" * (FUNCTION_LINES_MAX + 1)
    assert rules_found(caps(snippet("raftkv.x", method)))[0].startswith("raftkv.x.C.f has 61 lines")
    (file,) = caps(snippet("raftkv.x", "x = 1\n" * (FILE_LINES_MAX + 1)))
    assert file.rule == "601 lines, the cap is 600: split the file"


def test_a_docstring_does_not_count_against_the_cap() -> None:
    text = 'def f():\n    """What.\n' + "\n" * FUNCTION_LINES_MAX + '    """\n    return 1\n'
    assert not list(caps(snippet("raftkv.x", text)))


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "X" + "XX"])
def test_a_mark_of_unfinished_work_is_found(word: str) -> None:
    (finding,) = words("a.py", f"x = 1\ny = 2  # {word}: later\n")
    assert finding.where == "a.py:2"


@pytest.mark.parametrize(
    "comment",
    [
        "noqa",
        "type: ignore",
        "noqa: E501",
        "pyright: ignore[reportPrivateUsage]",
        "pragma: no cover",
    ],
)
def test_a_check_switched_off_without_reason_is_found(comment: str) -> None:
    assert list(silences(snippet("raftkv.x", f"x = 1  # {comment}\n")))


@pytest.mark.parametrize(
    "comment",
    [
        "noqa: E501  the table reads better unbroken",
        "noqa: E501 - the table reads better unbroken",
        "pyright: ignore[reportPrivateUsage]  # its own test",
        "pragma: no cover - only after a power cut",
        "the table reads better unbroken\ny = 2  # noqa: E501",
    ],
)
def test_a_check_switched_off_with_a_reason_is_let_through(comment: str) -> None:
    assert not list(silences(snippet("raftkv.x", f"# {comment}\n")))


def test_a_print_is_found() -> None:
    assert rules_found(prints(snippet("raftkv.x", "def f():\n    print(1)")))


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        '"""Doc."""\nclass Public: ...',
        '"""Doc."""\ndef public(): ...',
        '"""Doc."""\nclass Public:\n    """Doc."""\n    def method(self): ...',
    ],
)
def test_a_public_name_without_docstring_is_found(text: str) -> None:
    assert len(rules_found(undocumented(snippet("raftkv.x", text)))) == 1


def test_private_names_and_repeated_signatures_need_no_docstring() -> None:
    text = '''
        """A module."""
        def _private(): ...
        class _Hidden:
            def method(self): ...
        @overload
        def public(x: int) -> int: ...
        def public(x):
            """A function."""
    '''
    assert not list(undocumented(snippet("raftkv.x", text)))


def test_the_newest_version_is_read_from_the_first_heading_that_has_one() -> None:
    assert newest_version("# Changes\n\n## Unreleased\n\n## 0.2.0 - x\n\n## 0.1.0\n") == "0.2.0"
