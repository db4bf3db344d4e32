"""The package as syntax trees, for the tests that keep its rules.

A rule is a function from modules to findings. Each is run over the real tree, where it must find
nothing, and over a snippet that breaks it, where it must find that: a rule that cannot fail keeps
nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent

from attrs import frozen

ROOT = Path(__file__).parent.parent


@frozen
class Module:
    """One parsed file: its dotted name, its path from the root of the repository, its text."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]

    def finding(self, node: ast.AST | int, rule: str) -> Finding:
        """A finding at a node or line of this module."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Finding(f"{self.path}:{line}", rule)


@frozen
class Finding:
    """Where a rule is broken, and which."""

    where: str
    rule: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}"


@frozen
class Import:
    """One imported name: ``target`` is its module, ``name`` is empty for a whole module."""

    target: str
    name: str
    node: ast.stmt
    late: bool
    typing_only: bool

    @property
    def top(self) -> str:
        """The distribution or standard module: ``anyio`` of ``anyio.abc``."""
        return self.target.partition(".")[0]


def parse(path: Path) -> Module:
    """One file of the repository."""
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Module(name, str(relative), text, ast.parse(text, str(relative)))


def snippet(name: str, text: str) -> Module:
    """A module that never was, to prove that a rule can fail; its path ends in its last name."""
    text = dedent(text)
    return Module(name, f"{name.replace('.', '/')}.py", text, ast.parse(text))


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Every module below the folders (by default the package's), in order of path."""
    paths = [path for folder in folders or ("raftkv",) for path in (ROOT / folder).rglob("*.py")]
    found = tuple(parse(path) for path in sorted(paths))
    assert found, f"no modules below {folders}: the rules would hold for nothing"
    return found


def imports(module: Module, known: Iterable[str] = ()) -> Iterator[Import]:
    """Every imported name; ``from a import b`` names the module ``a.b`` if that is ``known``."""
    known = frozenset(known)
    for node, late, typing_only in _statements(module.tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node, late, typing_only)
        elif isinstance(node, ast.ImportFrom):
            source = _source_of(module, node)
            for alias in node.names:
                below = f"{source}.{alias.name}"
                if below in known:
                    yield Import(below, "", node, late, typing_only)
                else:
                    yield Import(source, alias.name, node, late, typing_only)


def _source_of(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.package.split(".")
    base = base[: len(base) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _statements(
    body: Iterable[ast.AST], late: bool = False, typing_only: bool = False
) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """Every statement; whether it runs late, in a function; whether only type checkers see it."""
    for node in body:
        if isinstance(node, ast.stmt):
            yield node, late, typing_only
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _statements(node.body, late, True)
            yield from _statements(node.orelse, late, typing_only)
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(ast.iter_child_nodes(node), inside, typing_only)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of names and attributes, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def is_within(name: str, *prefixes: str) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def nothing(findings: Iterable[Finding]) -> None:
    """Fail with every finding, one a line."""
    lines = [str(finding) for finding in findings]
    assert not lines, "\n" + "\n".join(lines)


def rules_found(findings: Iterable[Finding]) -> list[str]:
    """What the findings say, without their places."""
    return [finding.rule for finding in findings]
