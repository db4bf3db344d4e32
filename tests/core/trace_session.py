"""A driver of interaction traces, fed line by line."""

from __future__ import annotations

from tests.core.trace_commands import InteractionDriver
from tests.core.trace_file import Directive, parse_directive


class Session:
    """A driver fed with directive lines; input follows a ``|``."""

    def __init__(self, *lines: str) -> None:
        self.driver = InteractionDriver()
        self.world = self.driver.world
        for line in lines:
            assert self.run(line) == "ok"

    def run(self, line: str) -> str:
        head, _, text = line.partition("|")
        directive = parse_directive(head)
        return self.driver.handle(Directive(directive.command, directive.arguments, text.strip()))

    def quietly(self, *lines: str) -> None:
        assert self.run("log-level none") == "ok"
        for line in lines:
            assert self.run(line) == "ok"
        assert self.run("log-level debug") == "ok"


def led(nodes: int = 3, options: str = "") -> Session:
    """A session whose node 1 leads that many voters, everything settled at index 11."""
    session = Session()
    voters = ",".join(str(node) for node in range(1, nodes + 1))
    session.quietly(
        f"add-nodes {nodes} voters=({voters}) index=10 {options}", "campaign 1", "stabilize"
    )
    return session
