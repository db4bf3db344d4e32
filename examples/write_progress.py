"""How one put travels: the eight steps, as the pure core takes them.

Run it: ``python examples/write_progress.py``. No disk and no network: this script is both, so that
every line shows one decision of the core. In a real node RocksDB stores what is stored here by word
of mouth, and TCP carries what is carried by hand.
"""

from __future__ import annotations

from raftkv.core import (
    AppendEntries,
    Applied,
    Campaign,
    Config,
    EntryKind,
    Payload,
    PeerMessage,
    Persisted,
    Propose,
    Ready,
    Receive,
    State,
    has_ready,
    ready,
    start,
    step,
)

NAMES = {1: "n1", 2: "n2", 3: "n3"}


def elect(members: dict[int, State]) -> None:
    """Make member 1 the leader, quietly."""
    members[1] = step(members[1], Campaign())
    while True:
        letters: list[PeerMessage] = []
        for node in members:
            while has_ready(members[node]):
                members[node], todo = ready(members[node])
                members[node] = step(members[node], Persisted(todo.number))
                if todo.committed:
                    members[node] = step(members[node], Applied(todo.committed[-1].index))
                letters += [*todo.messages, *todo.messages_after_persist]
        if not letters:
            return
        for letter in letters:
            members[letter.to] = step(members[letter.to], Receive(letter))


def take(members: dict[int, State], node: int) -> Ready:
    """Take the work that a member asks for."""
    members[node], todo = ready(members[node])
    return todo


def main() -> None:
    """Send one put through three members and say what happens."""
    members = {node: start(Config(id=node), voters=(1, 2, 3)) for node in NAMES}
    elect(members)
    leader = members[1]
    print(f"n1 leads in term {leader.term}; every log ends at index {leader.log.last_index}\n")

    command = b"put config/mode dark"
    print(f"1  the client writes to the leader          {command.decode()!r} reaches n1")
    payload = Payload(EntryKind.NORMAL, command)
    print("2  the leader takes it for its store        one entry for all commands that wait")
    members[1] = step(members[1], Propose((payload,), request=1))
    print("3  the store hands it to raft               step(state, Propose(...))")

    todo = take(members, 1)
    entry = todo.entries[0]
    print(
        f"4  the leader appends it, makes messages    entry {entry.term}/{entry.index},"
        f" chain {entry.chain:016x}, {len(todo.messages)} appends"
    )
    for letter in todo.messages:
        members[letter.to] = step(members[letter.to], Receive(letter))
        carried = len(letter.entries) if isinstance(letter, AppendEntries) else 0
        print(
            f"5  each follower gets it                    {NAMES[letter.to]} received {carried}"
            " entry; the leader has not stored it yet"
        )

    members[1] = step(members[1], Persisted(todo.number))
    print(
        f"6  the leader stores its own Ready          n1 synced write {todo.number};"
        f" commit still {members[1].commit}: one of three has it"
    )

    for node in (2, 3):
        work = take(members, node)
        before = len(work.messages)
        members[node] = step(members[node], Persisted(work.number))
        answer = work.messages_after_persist[0]
        print(
            f"7  each follower stores, then answers       {NAMES[node]} sent {before} messages"
            f" before its sync, {len(work.messages_after_persist)} after it"
        )
        old = members[1].commit
        members[1] = step(members[1], Receive(answer))
        if members[1].commit > old:
            done = take(members, 1)
            members[1] = step(members[1], Applied(done.committed[-1].index))
            print(
                f"8  more than half have it                   commit {old} -> {members[1].commit};"
                f" n1 applies {done.committed[-1].data.decode()!r} and answers the client"
            )


if __name__ == "__main__":
    main()
