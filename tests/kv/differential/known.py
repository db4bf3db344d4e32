"""The table of differences from etcd that are meant."""

from __future__ import annotations

import re
from pathlib import Path

from attrs import frozen

TABLE = Path(__file__).with_name("known.txt")


@frozen
class Known:
    """One row: expressions that are found in what was asked and in both answers."""

    asked: str
    etcd: str
    raftkv: str
    reason: str

    def covers(self, asked: object, etcd: object, raftkv: object) -> bool:
        """Whether it is this difference."""
        return (
            re.search(self.asked, repr(asked)) is not None
            and re.search(self.etcd, repr(etcd)) is not None
            and re.search(self.raftkv, repr(raftkv)) is not None
        )


def read_known() -> list[Known]:
    """All rows. Raises ValueError for a line that has not four parts."""
    rows: list[Known] = []
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            asked, etcd, raftkv, reason = (part.strip() for part in line.split(" | "))
            rows.append(Known(asked, etcd, raftkv, reason))
    return rows
