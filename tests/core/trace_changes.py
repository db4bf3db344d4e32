"""Change lists as traces write them, and the driver of membership files."""

from __future__ import annotations

from typing import Final

from raftkv.core.membership import enter_joint, leave_joint, simple
from raftkv.core.progress import Progress
from raftkv.core.types import NO_LIMIT, Change, Membership
from raftkv.errors import MembershipError
from tests.core import trace_notation
from tests.core.trace_file import CommandError, Directive

COMMANDS: Final = frozenset({"simple", "enter-joint", "leave-joint"})
_KINDS: Final = {letter: kind for kind, letter in trace_notation.CHANGE_LETTERS.items()}
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_changes(text: str) -> tuple[Change, ...]:
    """``v1 l2 r3 u4`` as changes. Raises CommandError."""
    text = text.strip()
    return tuple(_parse_change(token) for token in text.split(" ")) if text else ()


def _parse_change(token: str) -> Change:
    if len(token) < 2:
        raise CommandError(f"unknown token {token}")
    kind = _KINDS.get(token[0])
    if kind is None:
        raise CommandError(f"unknown input: {token}")
    return Change(kind, parse_number(token[1:]))


def parse_number(text: str) -> int:
    """A decimal number without sign. Raises CommandError."""
    if not (text.isascii() and text.isdigit()):
        raise CommandError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def parse_boolean(text: str) -> bool:
    """``true`` or ``false`` and their usual short forms. Raises CommandError."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise CommandError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


class ChangeDriver:
    """A configuration, its peers, and a last index that grows with every command."""

    def __init__(self) -> None:
        self.membership = Membership()
        self.progress: tuple[Progress, ...] = ()
        self.last_index = 0

    def handle(self, directive: Directive) -> str:
        """What the command prints."""
        try:
            self.membership, self.progress = self._changed(directive)
        except (CommandError, MembershipError) as error:
            return str(error)
        finally:
            self.last_index += 1
        return self._shown()

    def _changed(self, directive: Directive) -> tuple[Membership, tuple[Progress, ...]]:
        changes = parse_changes(directive.input)
        match directive.command:
            case "simple":
                return simple(self.membership, self.progress, changes, last_index=self.last_index)
            case "enter-joint":
                auto_leave = (directive.values("autoleave") or ("false",))[0]
                return enter_joint(
                    self.membership,
                    self.progress,
                    changes,
                    auto_leave=parse_boolean(auto_leave),
                    last_index=self.last_index,
                )
            case "leave-joint":
                if changes:
                    raise CommandError("this command takes no input")
                return leave_joint(self.membership, self.progress)
            case _:
                raise CommandError("unknown command")

    def _shown(self) -> str:
        lines = [trace_notation.configuration(self.membership)]
        for peer in self.progress:
            shown = trace_notation.progress(
                peer, self.membership.learners, count_max=NO_LIMIT, bytes_max=0
            )
            lines.append(f"{peer.id}: {shown}")
        return "\n".join(lines)
