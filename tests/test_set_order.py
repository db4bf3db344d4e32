"""No decision of the core hangs on the order of a set, which differs between processes.

The check reads annotations and displays, so it sees what a reader sees. An unannotated set that
travels through untyped hands would escape it; strict typing forbids those.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

import pytest

from tests.source import Finding, Module, dotted, is_within, modules, nothing, rules_found, snippet

_SET_TYPES = {"set", "frozenset", "AbstractSet", "MutableSet", "Set"}
_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
_SET_OPERATORS = ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor
# What gives the same answer in any order (min and max only without a key) …
_ORDER_FREE = {"sorted", "set", "frozenset", "len", "sum", "any", "all", "min", "max", "bool"}
# … and what does not.
_ORDER_BOUND = {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "join"}

_RULE = "a set is walked in an order that differs between processes: use sorted()"


class _Fields:
    """Which attributes hold sets and which functions return them, by their annotations."""

    def __init__(self, package: Iterable[Module]) -> None:
        self.sets_of: dict[str, set[str]] = {}
        self.functions: set[str] = set()
        others: set[str] = set()
        for module in package:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ClassDef):
                    sets = self.sets_of.setdefault(node.name, set())
                    for name, is_set in _fields(node):
                        (sets if is_set else others).add(name)
                elif isinstance(node, ast.FunctionDef) and _says_set(node.returns):
                    self.functions.add(node.name)
        # A name that is a tuple in one class and a set in another tells nothing by itself.
        self.sets = {name for names in self.sets_of.values() for name in names} - others


def _fields(root: ast.ClassDef) -> Iterator[tuple[str, bool]]:
    """The attributes a class gives itself, and whether they are sets."""
    for node in ast.walk(root):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if (
                node in root.body
            ):
                yield name, _says_set(annotation)
            case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                yield name, _says_set(annotation)
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if _makes_set(value):
                yield name, True
            case _:
                pass


def _makes_set(value: ast.expr) -> bool:
    made = ast.unparse(value.func).partition("[")[0] if isinstance(value, ast.Call) else ""
    return isinstance(value, ast.Set | ast.SetComp) or made in {"set", "frozenset"}


def _says_set(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    written = ast.unparse(annotation).strip("'\"")
    written = written.removeprefix("Final[").removeprefix("ClassVar[")
    return written.partition("[")[0].rpartition(".")[2] in _SET_TYPES


class _Scope:
    """One function, or a module's top: which names are sets, and of which class the others."""

    def __init__(self, root: ast.AST, fields: _Fields, outer: _Scope | None, owner: str) -> None:
        self.nodes = tuple(_own_nodes(root))
        self._fields = fields
        self._names: set[str] = set(outer._names) if outer else set()
        self._class_of = {"self": owner}
        for node in self.nodes:
            if isinstance(node, ast.arg) and node.annotation:
                self._learn(node.arg, node.annotation)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._learn(node.target.id, node.annotation)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self._learn_from(target.id, node.value)

    def _learn(self, name: str, annotation: ast.expr) -> None:
        (self._names.add if _says_set(annotation) else self._names.discard)(name)
        self._class_of[name] = ast.unparse(annotation).strip("'\"")

    def _learn_from(self, name: str, value: ast.expr) -> None:
        if self.holds(value):
            self._names.add(name)
        elif isinstance(value, ast.Call):
            self._class_of[name] = dotted(value.func)

    def _is_set_attribute(self, owner: str, name: str) -> bool:
        owner = self._class_of.get(owner, "")
        return name in self._fields.sets_of.get(owner, self._fields.sets)

    def holds(self, node: ast.expr) -> bool:
        """Whether an expression is, as far as this can tell, a set."""
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return name in self._names
            case ast.Attribute(value=value, attr=name):
                return self._is_set_attribute(dotted(value), name)
            case ast.BinOp(left=left, op=op, right=right):
                return isinstance(op, _SET_OPERATORS) and (self.holds(left) or self.holds(right))
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _SET_METHODS:
                return self.holds(value)
            case ast.Call(func=func):
                return _makes_set(node) or dotted(func).rpartition(".")[2] in self._fields.functions
            case _:
                return False


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def _own_nodes(root: ast.AST) -> Iterator[ast.AST]:
    """Everything below a function or module that does not belong to a function further in."""
    for node in ast.iter_child_nodes(root):
        if not isinstance(node, _FUNCTIONS):
            yield node
            yield from _own_nodes(node)


def _functions(root: ast.AST, owner: str = "") -> Iterator[tuple[ast.AST, str]]:
    """The functions directly in a scope, those in its classes included, with their class."""
    for node in ast.iter_child_nodes(root):
        if isinstance(node, _FUNCTIONS):
            yield node, owner
        else:
            yield from _functions(node, node.name if isinstance(node, ast.ClassDef) else owner)


def unordered_walks(module: Module, package: Iterable[Module] = ()) -> Iterator[Finding]:
    """Every place where the order of a set reaches a result."""
    fields = _Fields((*package, module))

    def visit(root: ast.AST, outer: _Scope | None, owner: str) -> Iterator[Finding]:
        scope = _Scope(root, fields, outer, owner)
        free = _walked_in_any_order(scope.nodes)
        for node in scope.nodes:
            if node not in free and any(scope.holds(walked) for walked in _walked(node)):
                yield module.finding(node, _RULE)
        for function, of_class in _functions(root):
            yield from visit(function, scope, of_class or owner)

    yield from visit(module.tree, None, "")


def _walked(node: ast.AST) -> list[ast.expr]:
    """What a node goes through one by one, in an order that shows."""
    match node:
        case ast.For(iter=walked) | ast.Starred(value=walked):
            return [walked]
        case ast.ListComp() | ast.DictComp() | ast.GeneratorExp():
            return [clause.iter for clause in node.generators]
        case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]):
            return [value]
        case ast.Call(func=func, args=args, keywords=keywords):
            called = func.value if isinstance(func, ast.Subscript) else func
            name = called.attr if isinstance(called, ast.Attribute) else dotted(called)
            keyed = name in {"min", "max"} and any(word.arg == "key" for word in keywords)
            return args if keyed or name in _ORDER_BOUND else []
        case _:
            return []


def _walked_in_any_order(nodes: Iterable[ast.AST]) -> set[ast.AST]:
    """Comprehensions and stars whose result does not depend on the order they were walked in."""
    free: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.Call) and dotted(node.func) in _ORDER_FREE:
            if dotted(node.func) == "sorted" or not node.keywords:
                free.update(node.args)
        elif isinstance(node, ast.Set):
            free.update(node.elts)
    return free


def test_the_core_never_depends_on_the_order_of_a_set() -> None:
    core = [module for module in modules() if is_within(module.name, "raftkv.core")]
    nothing(finding for module in core for finding in unordered_walks(module, core))


@pytest.mark.parametrize(
    "text",
    [
        "for node in {1, 2}:\n    send(node)",
        "def f(voters: frozenset[int]):\n    return [send(node) for node in voters]",
        "def f(all: set[int], gone: set[int]):\n    for node in all - gone:\n        send(node)",
        "voters = set(range(3))\nresult = tuple(voters)",
        "voters = {1}\ndef f():\n    return list(voters)",
        "class D:\n    voters: set[int]\ndef f(draft):\n    return list(draft.voters)",
        "class D:\n    def __init__(self):\n        self.voters: set[int] = set()\n"
        "    def f(self):\n        for node in self.voters: send(node)",
        "class D:\n    def __init__(self):\n        self.gone = set[int]()\n"
        "    def f(self):\n        for node in self.gone: send(node)",
        "class M:\n    gone: tuple[int]\n"
        "class D:\n    def __init__(self):\n        self.gone = {1}\n"
        "def f():\n    d = D()\n    for node in d.gone: send(node)",
        "def voters() -> set[int]: ...\nresult = {node: 0 for node in voters()}",
        "voters = {1, 2}\nfirst = next(iter(voters))",
        "voters = {1, 2}\nfirst = voters.pop()",
        "voters = {1, 2}\nresult = (*voters,)",
        "voters = {1, 2}\nbest = max(voters, key=progress)",
        "names = {'a'}\nline = ', '.join(names)",
        "voters = {1}\nfor place, node in enumerate(voters | {2}): send(node)",
    ],
)
def test_a_walk_over_a_set_is_found(text: str) -> None:
    assert _RULE in rules_found(unordered_walks(snippet("raftkv.core.x", text)))


def test_walks_whose_order_is_fixed_or_irrelevant_are_let_through() -> None:
    text = """
        class Membership:
            learners: tuple[int, ...]

        class Draft:
            learners: set[int]

        def f(voters: frozenset[int], votes: dict[int, bool]) -> int:
            for node in sorted(voters):
                send(node)
            granted = sum(votes.get(node, False) for node in voters)
            everybody = {*voters, 4} | {node + 1 for node in voters}
            ordered = tuple(sorted({*voters}, key=by_progress))
            return max(len(voters), granted, min(voters)) + (3 in voters) + len(everybody)

        def g(voters: tuple[int, ...], membership: Membership) -> None:
            for node in (*voters, *membership.learners):
                send(node)
    """
    assert not list(unordered_walks(snippet("raftkv.core.x", text)))
