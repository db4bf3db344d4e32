"""Stories to look at: a small one, and one of five nodes and five hundred events."""

from __future__ import annotations

from random import Random

from raftkv.core import Role
from raftkv.testing.story import Cell, Kind, NodeView, Story, StoryWriter

HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>&\u2028"
)


def view(
    role: Role, term: int, log: list[Cell], commit: int, *, stable: int | None = None
) -> NodeView:
    return NodeView(
        role, term, "n1", "n1", 1, len(log), commit, commit, 0, "{1,2,3}", 0,
        stable=len(log) if stable is None else stable, entries=tuple(log[-24:]),
    )  # fmt: skip


def small(title: str = "a vote forgotten", text: str = "n2 voted twice") -> Story:
    """Three nodes: an election, a fault, a lost message, a crash, and a second vote."""
    writer = StoryWriter(["n1", "n2", "n3"], unit="ticks")
    log = [Cell(1, 1, "aa")]
    for name in ("n1", "n2", "n3"):
        writer.event(1, name, Kind.START, "boot 1", view(Role.FOLLOWER, 0, [], 0))
    ask = writer.event(
        3, "n1", Kind.SEND, "RequestVote t1", view(Role.CANDIDATE, 1, [], 0), peer="n2"
    )
    writer.event(
        5, "n2", Kind.DELIVER, "RequestVote t1", view(Role.FOLLOWER, 1, [], 0), peer="n1",
        message=ask,
    )  # fmt: skip
    writer.event(6, "n1", Kind.NOTE, "elected", view(Role.LEADER, 1, log, 0, stable=0))
    fault = writer.event(7, None, Kind.FAULT, "isolate n1")
    put = writer.event(8, "n1", Kind.CALL, "put a=1", client="c1")
    sent = writer.event(8, "n1", Kind.SEND, "AppendEntries t1 0/0 +1..1/1", peer="n2")
    writer.event(9, "n1", Kind.LOST, "AppendEntries t1 0/0 +1..1/1", peer="n2", message=sent)
    writer.event(10, None, Kind.HEAL, "isolate n1", operation=fault)
    writer.event(11, "n1", Kind.SYNC, "1 write", view(Role.LEADER, 1, log, 1))
    writer.event(11, None, Kind.RETURN, "revision 1", client="c1", operation=put)
    writer.event(12, "n2", Kind.CRASH, "0 of 1 sectors survive")
    writer.event(14, "n2", Kind.START, "boot 2", view(Role.FOLLOWER, 1, [], 0))
    writer.violation(15, "n2", "I2", text)
    return writer.story(title, replay="python -m raftkv.testing replay a.json")


def large(events: int = 500, nodes: int = 5) -> Story:
    """A cluster at work under faults; in the end a node commits what others do not have."""
    random = Random(7)
    names = [f"n{number + 1}" for number in range(nodes)]
    writer = StoryWriter(names, keep=events)
    logs = {name: [Cell(1, 1, "a00001")] for name in names}
    leader, term, now = "n1", 1, 0.0
    under_way: list[tuple[str, int]] = []

    def of(name: str) -> NodeView:
        role = Role.LEADER if name == leader else Role.FOLLOWER
        return view(role, term, logs[name], max(len(logs[name]) - 2, 0))

    for name in names:
        writer.event(now, name, Kind.START, "boot 1", of(name))
    while writer.count < events - 2:
        now += random.random() / 50
        name = random.choice(names)
        roll = random.random()
        if roll < 0.35 and under_way:
            name, sent = under_way.pop(random.randrange(len(under_way)))
            if roll < 0.04:
                writer.event(now, leader, Kind.LOST, "AppendEntries", peer=name, message=sent)
                continue
            logs[name] = list(logs[leader])
            writer.event(
                now, name, Kind.DELIVER, f"AppendEntries t{term}", of(name), peer=leader,
                message=sent,
            )  # fmt: skip
        elif roll < 0.8 and name != leader:
            end = len(logs[leader]) + 1
            logs[leader].append(Cell(end, term, f"{random.getrandbits(24):06x}"))
            what = f"AppendEntries t{term} +{end}..{end}/{term}"
            under_way.append(
                (name, writer.event(now, leader, Kind.SEND, what, of(leader), peer=name))
            )
        elif roll < 0.9:
            writer.event(now, name, Kind.SYNC, "2 writes", of(name))
        elif roll < 0.92:
            writer.event(now, name, Kind.CRASH, "power cut")
            writer.event(now, name, Kind.START, "boot again", of(name))
        elif roll < 0.94:
            fault = writer.event(now, None, Kind.FAULT, f"isolate {name}")
            call = writer.event(now, name, Kind.CALL, "put k=1", client=f"c{random.randrange(3)}")
            writer.event(now, None, Kind.RETURN, "unavailable", client="c0", operation=call)
            writer.event(now + 1, None, Kind.HEAL, f"isolate {name}", operation=fault)
        else:
            words = "a very long story " * random.choice((0, 0, 40))
            writer.event(now, name, Kind.APPLY, f"to {len(logs[name])} {words}", of(name))
    bad = list(logs[leader])
    bad[-2:] = [Cell(one.index, term, f"ffff{one.index:02x}") for one in bad[-2:]]
    last = view(Role.FOLLOWER, term, bad, len(bad), stable=len(bad) - 1)
    writer.event(now, names[-1], Kind.DELIVER, "AppendEntries", last, peer=leader)
    writer.violation(now, names[-1], "I16", f"{names[-1]} commits another entry")
    return writer.story(f"seed 7, {nodes} members", replay="python -m raftkv.testing replay b.json")
