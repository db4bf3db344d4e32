"""A violation as a file: the scope's name and the path to it, one deed to a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from raftkv.testing.artifact import ArtifactError
from raftkv.testing.explore.retell import Retelling, retell
from raftkv.testing.explore.scopes import SCOPES
from raftkv.testing.explore.search import Broken, Explored
from raftkv.testing.explore.space import Act, Deed
from raftkv.testing.viewer import write_html

_FORMAT: Final = 1
_LEVEL: Final = "explore"


def as_line(deed: Deed) -> str:
    """A deed as text: ``DELIVER 2 from 1``, ``CRASH 3 number 1``."""
    words = [deed.act.name, str(deed.node)]
    if deed.peer:
        words += ["from", str(deed.peer)]
    if deed.number:
        words += ["number", str(deed.number)]
    return " ".join(words)


def as_deed(line: str) -> Deed:
    """The deed of a line. Raises ValueError or KeyError if it is none."""
    act, node, *rest = line.split()
    named = dict(zip(rest[::2], rest[1::2], strict=True))
    deed = Deed(Act[act], int(node), int(named.pop("from", 0)), int(named.pop("number", 0)))
    if named:
        raise ValueError(f"{line!r}: what is {', '.join(named)}?")
    return deed


def keep(directory: Path, explored: Explored, broken: Broken) -> Path:
    """Write what was found, and its story as a page beside it; the file to replay."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"explore-{explored.name}-{broken.invariant}.json"
    fields = {
        "format": _FORMAT,
        "level": _LEVEL,
        "scope": explored.name,
        "invariant": broken.invariant,
        "broken": broken.broken,
        "path": [as_line(deed) for deed in broken.path],
    }
    path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    write_html(told(explored.name, broken, path).story, path.with_suffix(".html"))
    return path


def load(path: Path) -> tuple[str, Broken]:
    """Scope and violation of a file. Raises ArtifactError if it has none."""
    try:
        fields = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        if (fields["format"], fields["level"]) != (_FORMAT, _LEVEL):
            raise ArtifactError(f"{path}: format {fields['format']}, level {fields['level']}")
        if fields["scope"] not in SCOPES:
            raise ArtifactError(f"{path}: there is no scope {fields['scope']!r} any more")
        deeds = tuple([as_deed(line) for line in fields["path"]])
        return fields["scope"], Broken(str(fields["invariant"]), str(fields["broken"]), deeds)
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is no recorded path: {error}") from error


def told(scope: str, broken: Broken, path: Path | None = None) -> Retelling:
    """The story of a violation."""
    replay = f"python -m raftkv.testing explore --replay {path}" if path else ""
    title = f"{scope}: {broken.invariant}: {broken.broken}"
    return retell(SCOPES[scope], broken, title=title, replay=replay)
