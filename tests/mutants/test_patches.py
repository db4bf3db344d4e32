"""Each seeded bug fits the tree that it is to be seeded into, and none is forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from attrs import frozen

from raftkv.testing.mutants import Mutant, MutantError, checkout, load_mutants
from raftkv.testing.mutants.catchers import ByNodes, BySeeds, ByTest, parse_catcher
from raftkv.testing.mutants.command import choose
from raftkv.testing.mutants.patch import FilePatch, Hunk, PatchError, apply, parse
from tests.source import ROOT, modules

WANTED = range(1, 41)
"""The seeded bugs that there must be; further ones have higher numbers."""
MUTANTS = load_mutants(ROOT)


@frozen
class Pending:
    """A bug that has no subject yet."""

    number: int
    subject: re.Pattern[str]
    bug: str


def pending() -> list[Pending]:
    text = (ROOT / "tests" / "mutants" / "pending.txt").read_text()
    lines = [line.split(" | ") for line in text.splitlines() if not line.startswith("#")]
    return [Pending(int(number), re.compile(name), bug) for number, name, bug in lines]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_patch_applies_and_leaves_modules_that_compile_and_differ(mutant: Mutant) -> None:
    texts = {one.path: (ROOT / one.path).read_text() for one in mutant.files}
    for path, changed in apply(mutant.files, texts).items():
        tree = ast.parse(changed, path)
        compile(tree, path, "exec")
        assert ast.dump(tree) != ast.dump(ast.parse(texts[path])), path


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_whoever_is_to_catch_it_is_there(mutant: Mutant) -> None:
    for one in mutant.catchers:
        if isinstance(one, ByTest):
            path, *names = one.node.partition("[")[0].split("::")
            text = (ROOT / path).read_text()
            there = [
                re.search(rf"\b(def|class) {name}\b|^{name}\b.* = ", text, re.M) for name in names
            ]
            assert all(there), str(one)


def test_every_seeded_bug_has_a_patch_or_a_reason_why_not() -> None:
    numbers = sorted([one.number for one in MUTANTS] + [one.number for one in pending()])
    assert numbers == list(range(1, max(numbers) + 1))
    assert len(numbers) >= len(WANTED)


def test_a_pending_bug_is_seeded_as_soon_as_it_has_a_subject() -> None:
    names = [
        node.name
        for module in modules("raftkv/kv")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert "KvMachine" in names
    for one in pending():
        there = [name for name in names if one.subject.search(name)]
        assert not there, f"mutant {one.number} ({one.bug}) can be seeded into {there}"


# --- patches ------------------------------------------------------------------------------------

PATCH = """\
Breaks: what is no longer so
Source: where it was made in earnest
Subject: core
Caught by: seeds 0..3 x 100 in divided
Caught by: test tests/core/test_log.py::test_something

--- a/some/file.py
+++ b/some/file.py
@@ -2,3 +2,3 @@ in something
 b
-c
+C

"""


def test_a_patch_says_by_its_lines_where_it_belongs() -> None:
    head, (one,) = parse(PATCH)
    assert head.startswith("Breaks: ")
    assert (one.path, one.module) == ("some/file.py", "some.file")
    assert one.hunks == (Hunk(("b\n", "c\n", "\n"), ("b\n", "C\n", "\n")),)
    assert one.apply("0\n0\n0\na\nb\nc\n\nd\n") == "0\n0\n0\na\nb\nC\n\nd\n"
    assert FilePatch("raftkv/kv/__init__.py", ()).module == "raftkv.kv"


@pytest.mark.parametrize(
    ("text", "why"), [("a\nd\n", "are there no more"), ("b\nc\n\nb\nc\n\n", "stand there 2 times")]
)
def test_a_patch_that_fits_nowhere_or_twice_is_refused(text: str, why: str) -> None:
    _, (one,) = parse(PATCH)
    with pytest.raises(PatchError, match=f"some/file.py: .* change 1 is for {why}"):
        one.apply(text)


def test_a_patch_for_a_file_that_is_not_there_is_refused() -> None:
    _, files = parse(PATCH)
    with pytest.raises(PatchError, match=r"some/file.py: there is no such file"):
        apply(files, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Breaks: everything\n", "it changes nothing"),
        ("--- a/f.py\n+++ b/f.py\n", "f.py: no change follows"),
        ("--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n-a\n*b\n", "'\\*b' is no line of a patch"),
        ("--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n+a\n", "without old lines"),
        ("--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n a\n", "that changes nothing"),
    ],
)
def test_what_is_no_patch_is_refused(text: str, why: str) -> None:
    with pytest.raises(PatchError, match=why):
        parse(text)


# --- headers ------------------------------------------------------------------------------------


def tree_with(tmp_path: Path, name: str, text: str) -> Path:
    folder = tmp_path / "tests" / "mutants"
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    return tmp_path


def test_a_header_tells_what_is_broken_and_who_should_notice(tmp_path: Path) -> None:
    (one,) = load_mutants(tree_with(tmp_path, "07-an-old-bug.patch", PATCH))
    assert (str(one), one.subject) == ("7 an old bug", "core")
    assert (one.breaks, one.source) == ("what is no longer so", "where it was made in earnest")
    assert one.catchers == (
        BySeeds(0, 3, 100, "divided"),
        ByTest("tests/core/test_log.py::test_something"),
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("bug.patch", "", "", "a mutant's file is called"),
        ("01-bug.patch", "Subject: core\n", "", "its header lacks Subject"),
        ("01-bug.patch", "Caught by", "Source", "its header lacks Caught by"),
        ("01-bug.patch", "Subject", "Target", "'Target: core' is no line"),
        ("01-bug.patch", "divided", "heaven", "no world 'heaven': it is one of crashing, divided"),
        ("01-bug.patch", "seeds 0..3 x 100", "many seeds", "is none of 'seeds"),
        (
            "01-bug.patch",
            "seeds 0..3 x 100 in divided",
            "explore Z to 9",
            "no scope 'Z': it is one",
        ),
        ("01-bug.patch", "--- a", "+++ a", "it changes nothing"),
    ],
)
def test_a_header_that_is_not_as_it_must_be_is_refused(
    tmp_path: Path, name: str, old: str, new: str, why: str
) -> None:
    tree = tree_with(tmp_path, name, PATCH.replace(old, new))
    with pytest.raises(MutantError, match=why):
        load_mutants(tree)


def test_two_mutants_of_one_number_are_refused(tmp_path: Path) -> None:
    tree = tree_with(tmp_path, "01-bug.patch", PATCH)
    (tree / "tests" / "mutants" / "01-another.patch").write_text(PATCH)
    with pytest.raises(MutantError, match="the same number"):
        load_mutants(tree)


def test_catchers_read_as_they_are_written() -> None:
    for text in (
        "seeds 0..60 x 2000",
        "seeds 3..4 x 10 in losing",
        "nodes 0..10 x 1000",
        "explore figure-8 to 20000",
        "test tests/kv/test_rows.py",
    ):
        assert str(parse_catcher(text)) == text
    assert str(BySeeds(0, 60, 2000, "losing").only(7)) == "seeds 7..8 x 2000 in losing"
    assert str(ByNodes(0, 60, 2000).only(7)) == "nodes 7..8 x 2000"


# --- which ones ---------------------------------------------------------------------------------


def test_this_is_a_checkout() -> None:
    assert checkout() == ROOT


def test_a_rotation_depends_on_the_sources_alone_and_comes_round() -> None:
    chosen = choose(ROOT, MUTANTS, rotate=5)
    assert chosen == choose(ROOT, MUTANTS, rotate=5)
    assert len(chosen) == 5
    rounds = [choose(ROOT, MUTANTS, rotate=5, seed=seed) for seed in range(len(MUTANTS))]
    assert {one.number for some in rounds for one in some} == {one.number for one in MUTANTS}
    assert choose(ROOT, MUTANTS, rotate=1000) == list(MUTANTS)


def test_mutants_are_chosen_by_number() -> None:
    assert [one.number for one in choose(ROOT, MUTANTS, only=(12, 3, 12))] == [3, 12]
    with pytest.raises(MutantError, match="there is no mutant 99"):
        choose(ROOT, MUTANTS, only=(3, 99))
