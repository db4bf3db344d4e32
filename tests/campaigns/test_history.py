"""The judge of histories: it accepts what may be and refuses what may not."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from raftkv.testing.campaigns.frame import FindingError
from raftkv.testing.campaigns.history import (
    Kind,
    Operation,
    Outcome,
    Written,
    check_history,
    read_history,
)

DONE, FAILED, UNKNOWN = Outcome.DONE, Outcome.FAILED, Outcome.UNKNOWN


def put(
    start: int, stop: int, key: str, value: str, revision: int, outcome: Outcome = DONE
) -> Operation:
    return Operation(Kind.PUT, key, value, start, stop, outcome, revision)


def delete(
    start: int, stop: int, key: str, revision: int, deleted: int = 1, outcome: Outcome = DONE
) -> Operation:
    return Operation(Kind.DELETE, key, None, start, stop, outcome, revision, deleted)


def read(
    kind: Kind, start: int, stop: int, key: str, value: str | None, revision: int
) -> Operation:
    return Operation(kind, key, value, start, stop, DONE, revision)


LOG = [
    Written(2, "a", "a1"),
    Written(3, "b", "b1"),
    Written(4, "a", None),
    Written(5, "a", "a2"),
]
WRITES = [
    put(0, 10, "a", "a1", 2),
    put(20, 30, "b", "b1", 3),
    delete(40, 50, "a", 4),
    put(60, 70, "a", "a2", 5),
]


def test_a_sound_history_is_accepted_and_counted() -> None:
    reads = [
        read(Kind.RANGE, 11, 12, "a", "a1", 2),
        read(Kind.RANGE, 41, 45, "a", "a1", 3),
        read(Kind.GET, 51, 59, "a", None, 0),
        read(Kind.GET, 65, 66, "a", "a2", 5),
        read(Kind.STALE, 71, 72, "a", "a1", 3),
        delete(51, 52, "x", 4, deleted=0),
    ]
    met = check_history(LOG, [*WRITES, *reads])
    assert met["operations"] == 10
    assert met["acknowledged writes"] == 5


@pytest.mark.parametrize(
    ("replaced", "what"),
    [
        (put(0, 10, "a", "lost", 2), "lost"),
        (put(0, 10, "a", "a1", 7), "lost"),
        (put(0, 0, "a", "a1", 0, FAILED), "failed for sure"),
        (put(0, 0, "c", "a1", 0, UNKNOWN), "another key"),
        (put(25, 35, "a", "a1", 2), "back in time|stale"),  # asked for after its revision was past
        (put(31, 35, "a", "a1", 2), "back in time"),
        (put(31, 0, "a", "a1", 0, UNKNOWN), "back in time"),
    ],
)
def test_a_write_that_is_not_where_it_must_be_is_refused(replaced: Operation, what: str) -> None:
    with pytest.raises(FindingError, match=what):
        check_history(LOG, [replaced, *WRITES[1:], read(Kind.RANGE, 21, 24, "b", "b1", 3)])


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (read(Kind.RANGE, 71, 72, "a", None, 4), "stale"),
        (read(Kind.RANGE, 71, 72, "a", "a1", 5), "wrong answer"),
        (read(Kind.RANGE, 71, 72, "a", "a2", 6), "the last is 5"),
        (read(Kind.RANGE, 71, 72, "b", None, 5), "wrong answer"),
        (read(Kind.STALE, 71, 72, "a", "a1", 4), "wrong answer"),
        (read(Kind.GET, 51, 52, "a", "a1", 2), "stale"),
        (read(Kind.GET, 71, 72, "a", "a1", 5), "wrong answer"),
        (read(Kind.GET, 71, 72, "a", None, 0), "stale"),
        (read(Kind.GET, 1, 2, "a", "a2", 5), "back in time"),  # seen before it was asked for
        (read(Kind.GET, 1, 80, "b", None, 0), ""),
        (delete(71, 72, "a", 5, deleted=0), "found nothing"),
        (delete(71, 72, "a", 4), "answered to two"),
        (delete(71, 72, "a", 5), "lost"),
    ],
)
def test_a_wrong_answer_is_refused(wrong: Operation, what: str) -> None:
    if not what:  # the one that may be: it reaches back to before the put
        check_history(LOG, [*WRITES, wrong])
        return
    with pytest.raises(FindingError, match=what):
        check_history(LOG, [*WRITES, wrong])


def test_reads_in_a_row_may_not_go_back() -> None:
    reads = [read(Kind.GET, 41, 42, "a", None, 0), read(Kind.RANGE, 43, 44, "a", "a1", 3)]
    with pytest.raises(FindingError, match="stale"):
        check_history(LOG, [*WRITES, *reads])


def test_unknown_outcomes_are_taken_from_the_rows() -> None:
    met = check_history(
        LOG,
        [
            put(0, 0, "a", "a1", 0, UNKNOWN),
            put(0, 0, "a", "never", 0, UNKNOWN),
            WRITES[1],
            delete(40, 0, "a", 0, 0, UNKNOWN),
            delete(90, 0, "a", 0, 0, UNKNOWN),
            WRITES[3],
        ],
    )
    assert met["unknown but done"] == 2


def test_a_revision_nobody_asked_for_is_refused() -> None:
    for missing in range(4):
        with pytest.raises(FindingError, match="never asked for"):
            check_history(LOG, [*WRITES[:missing], *WRITES[missing + 1 :]])


def test_a_delete_of_unknown_outcome_happens_after_it_was_asked_for() -> None:
    late = delete(71, 0, "a", 0, 0, UNKNOWN)
    with pytest.raises(FindingError, match="back in time"):
        check_history(LOG, [WRITES[0], WRITES[1], late, WRITES[3]])


def test_rows_that_skip_or_repeat_are_refused() -> None:
    with pytest.raises(FindingError, match="missing"):
        check_history([LOG[0], LOG[2]], [])
    with pytest.raises(FindingError, match="applied twice"):
        check_history([LOG[0], Written(3, "b", "a1")], [WRITES[0]])


def test_a_key_that_was_never_absent_cannot_be_found_absent() -> None:
    log = [Written(2, "a", "a1")]
    history = [put(0, 5, "a", "a1", 2), read(Kind.GET, 6, 7, "a", None, 0)]
    with pytest.raises(FindingError, match="stale"):
        check_history(log, history)


def run_of_one_store(random: Random) -> tuple[list[Written], list[Operation]]:
    """A linearizable history by construction: each call takes effect within its time."""
    log: list[Written] = []
    shown: dict[str, tuple[str, int]] = {}
    met: list[Operation] = []
    for moment in range(10, 2_000, 10):
        key = random.choice("abc")
        start, stop = moment - random.randint(1, 30), moment + random.randint(1, 30)
        revision = len(log) + 2
        value, put_at = shown.get(key, (None, 0))
        match random.randrange(5):
            case 0 | 1:
                log.append(Written(revision, key, f"v{moment}"))
                shown[key] = f"v{moment}", revision
                unknown = random.random() < 0.2
                one = put(start, stop, key, f"v{moment}", revision)
                met.append(put(start, 0, key, f"v{moment}", 0, UNKNOWN) if unknown else one)
            case 2:
                if shown.pop(key, None):
                    log.append(Written(revision, key, None))
                    met.append(delete(start, stop, key, revision))
                else:
                    met.append(delete(start, stop, key, revision - 1, deleted=0))
            case 3:
                met.append(read(Kind.RANGE, start, stop, key, value, revision - 1))
            case _:
                met.append(read(Kind.GET, start, stop, key, value, put_at))
    return log, met


@pytest.mark.parametrize("seed", range(30))
def test_what_one_store_answers_is_accepted_and_a_late_answer_is_not(seed: int) -> None:
    log, met = run_of_one_store(Random(seed))
    check_history(log, met)
    reads = [one for one in met if one.kind is Kind.RANGE and one.revision < len(log) - 20]
    late = reads[0]
    late.invoked_ns, late.returned_ns = 10_000, 10_001
    with pytest.raises(FindingError, match="stale"):
        check_history(log, met)


def test_a_history_is_read_back_up_to_a_torn_end(tmp_path: Path) -> None:
    lines = [
        [1, "put", "a", "a1", 5],
        [2, "get", "a", None, 6],
        [1, "done", 9, 2, 0, None],
        [2, "done", 10, 2, 0, "a1"],
        [3, "delete", "a", None, 11],
    ]
    path = tmp_path / "n1.history"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '[3, "do')
    first, second, third = read_history(path)
    assert (first.value, first.revision, first.outcome) == ("a1", 2, DONE)
    assert (second.value, second.kind, second.returned_ns) == ("a1", Kind.GET, 10)
    assert (third.outcome, third.who) == (UNKNOWN, "n1")
    assert read_history(tmp_path / "none.history") == []
