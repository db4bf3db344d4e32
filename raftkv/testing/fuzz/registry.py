"""All targets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftkv.testing.fuzz.files import FILE_TARGETS
from raftkv.testing.fuzz.stored import STORED_TARGETS
from raftkv.testing.fuzz.targets import WIRE_TARGETS
from raftkv.testing.fuzz.trial import Target

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target for target in (*WIRE_TARGETS, *STORED_TARGETS, *FILE_TARGETS)
}
