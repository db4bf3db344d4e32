"""The log window against a plain list of everything ever appended."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]
)

from raftkv.core import Entry, EntryKind, Log, Payload, chain_of
from raftkv.core.types import ENTRY_OVERHEAD_BYTES
from raftkv.errors import InvariantError

PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=90)


class Model:
    """A list of entries after a base; everything asked of it walks the list."""

    def __init__(self, base: tuple[int, int, int], entries: tuple[Entry, ...]) -> None:
        self.base_index, self.base_term, self.base_chain = base
        self.entries = entries

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def term_at(self, index: int) -> int:
        return self.base_term if index == self.base_index else self.entry(index).term

    def chain_at(self, index: int) -> int:
        return self.base_chain if index == self.base_index else self.entry(index).chain

    def entry(self, index: int) -> Entry:
        return self.entries[index - self.base_index - 1]

    def last_at_most(self, index: int, term: int) -> tuple[int, int]:
        while self.base_index <= index <= self.last_index:
            if self.term_at(index) <= term:
                return index, self.term_at(index)
            index -= 1
        return index, 0

    def page(self, first: int, stop: int, bytes_max: int) -> tuple[Entry, ...]:
        taken: list[Entry] = []
        for index in range(first, stop):
            size = sum(ENTRY_OVERHEAD_BYTES + len(one.data) for one in taken)
            size += ENTRY_OVERHEAD_BYTES + len(self.entry(index).data)
            if taken and size > bytes_max:
                break
            taken.append(self.entry(index))
        return tuple(taken)


def assert_same(log: Log, model: Model) -> None:
    assert log.base_index == model.base_index
    assert log.first_index == model.base_index + 1
    assert log.last_index == model.last_index
    assert len(log) == len(model.entries)
    assert tuple(log.entries()) == model.entries
    assert log.last_term == model.term_at(model.last_index)
    assert log.last_chain == model.chain_at(model.last_index)
    assert log.size_bytes == sum(ENTRY_OVERHEAD_BYTES + len(one.data) for one in model.entries)


class LogMachine(RuleBasedStateMachine):
    """Logs branch like States do: any old one may be changed again, and stays what it was."""

    logs: Bundle[tuple[Log, Model]] = Bundle("logs")

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Log, Model]] = []

    def _keep(self, log: Log, model: Model) -> tuple[Log, Model]:
        assert_same(log, model)
        self.kept.append((log, model))
        return log, model

    @rule(target=logs, index=st.integers(0, 200), term=st.integers(0, 5))
    def empty(self, index: int, term: int) -> tuple[Log, Model]:
        chain = index * 7 + term
        return self._keep(Log.starting_at(index, term, chain), Model((index, term, chain), ()))

    @rule(target=logs, pair=logs, payloads=PAYLOADS, later=st.integers(0, 3))
    def propose(
        self, pair: tuple[Log, Model], payloads: list[bytes], later: int
    ) -> tuple[Log, Model]:
        log, model = pair
        term = max(log.last_term, 1) + later
        grown, placed = log.propose(term, tuple(Payload(EntryKind.NORMAL, one) for one in payloads))
        chain, entries = model.chain_at(model.last_index), list(model.entries)
        for index, data in enumerate(payloads, model.last_index + 1):
            chain = chain_of(chain, term, index, EntryKind.NORMAL, data)
            entries.append(Entry(term, index, EntryKind.NORMAL, data, chain))
        assert placed == tuple(entries[len(model.entries) :])
        base = (model.base_index, model.base_term, model.base_chain)
        return self._keep(grown, Model(base, tuple(entries)))

    @rule(target=logs, pair=logs, other=logs)
    def append_of_another(
        self, pair: tuple[Log, Model], other: tuple[Log, Model]
    ) -> tuple[Log, Model]:
        """What a follower does: entries of several terms at once, made elsewhere."""
        log, model = pair
        source = [one for one in other[1].entries if one.term >= log.last_term]
        chain, entries = log.last_chain, list[Entry]()
        for index, one in enumerate(source, log.last_index + 1):
            chain = chain_of(chain, one.term, index, one.kind, one.data)
            entries.append(Entry(one.term, index, one.kind, one.data, chain))
        base = (model.base_index, model.base_term, model.base_chain)
        return self._keep(log.append(tuple(entries)), Model(base, (*model.entries, *entries)))

    @rule(target=logs, pair=logs, share=st.floats(0, 1))
    def truncate(self, pair: tuple[Log, Model], share: float) -> tuple[Log, Model]:
        log, model = pair
        kept = round(share * len(model.entries))
        base = (model.base_index, model.base_term, model.base_chain)
        shorter = log.truncate(model.base_index + kept + 1)
        return self._keep(shorter, Model(base, model.entries[:kept]))

    @rule(target=logs, pair=logs, share=st.floats(0, 1))
    def compact(self, pair: tuple[Log, Model], share: float) -> tuple[Log, Model]:
        log, model = pair
        dropped = round(share * len(model.entries))
        index = model.base_index + dropped
        base = (index, model.term_at(index), model.chain_at(index))
        return self._keep(log.compact(index), Model(base, model.entries[dropped:]))

    @rule(pair=logs, low=st.integers(-3, 400), high=st.integers(-3, 400), term=st.integers(0, 30))
    def look(self, pair: tuple[Log, Model], low: int, high: int, term: int) -> None:
        log, model = pair
        for index in (model.base_index + low, model.base_index + high):
            known = model.base_index <= index <= model.last_index
            assert log.has_term(index) == known
            if known:
                assert log.term_at(index) == model.term_at(index)
                assert log.chain_at(index) == model.chain_at(index)
            assert log.matches(index, term) == (known and model.term_at(index) == term)
            if index >= 0:
                assert log.last_at_most(index, term) == model.last_at_most(index, term)

    @rule(pair=logs, low=st.floats(0, 1), high=st.floats(0, 1), bytes_max=st.integers(0, 3000))
    def read(self, pair: tuple[Log, Model], low: float, high: float, bytes_max: int) -> None:
        log, model = pair
        first = model.base_index + 1 + round(low * len(model.entries))
        stop = model.base_index + 1 + round(high * len(model.entries))
        wanted = tuple(model.entry(index) for index in range(first, stop))
        assert log.slice(first, stop) == wanted
        assert log.page(first, stop, bytes_max) == model.page(first, stop, bytes_max)
        for entry in wanted[:5]:
            assert log.entry(entry.index) is entry or log.entry(entry.index) == entry

    @rule(pair=logs, other=logs)
    def compare(self, pair: tuple[Log, Model], other: tuple[Log, Model]) -> None:
        (log, model), (log2, model2) = pair, other
        same = (model.base_index, model.base_term, model.base_chain, model.entries) == (
            model2.base_index,
            model2.base_term,
            model2.base_chain,
            model2.entries,
        )
        assert (log == log2) == same
        if same:
            assert hash(log) == hash(log2)
        ours = (model.term_at(model.last_index), model.last_index)
        theirs = (model2.term_at(model2.last_index), model2.last_index)
        assert log.is_up_to_date(theirs[1], theirs[0]) == (theirs >= ours)

    @invariant()
    def old_logs_are_what_they_were(self) -> None:
        for log, model in self.kept[:-1][-5:]:
            assert_same(log, model)


def test_a_log_is_a_list_with_a_beginning_cut_off() -> None:
    run_state_machine_as_test(LogMachine, settings=settings(stateful_step_count=25, deadline=None))


def filled(entries: int, data: bytes = b"x") -> Log:
    return Log.starting_at(0, 0).propose(1, (Payload(EntryKind.NORMAL, data),) * entries)[0]


def test_growth_shares_all_full_chunks() -> None:
    log = filled(1000)
    grown, _ = log.propose(1, (Payload(EntryKind.NORMAL, b"y"),))
    assert all(new is old for new, old in zip(grown.chunks, log.chunks, strict=False))


def test_truncation_shares_what_is_left() -> None:
    log = filled(1000)
    shorter = log.truncate(501)
    assert all(new is old for new, old in zip(shorter.chunks, log.chunks, strict=False))
    assert len(shorter.chunks) == 500 // 64


def test_compaction_frees_what_lies_below() -> None:
    log = filled(1000).compact(700)
    assert len(log.chunks) == 1000 // 64 - 700 // 64
    gone = [one for chunk in (*log.chunks, log.tail) for one in chunk if not one.index]
    assert len(gone) == 700 % 64
    assert all(not one.data for one in gone)


def test_entries_must_follow_the_end() -> None:
    log = filled(3)
    with pytest.raises(InvariantError, match="do not follow"):
        log.append((Entry(1, 5, EntryKind.NORMAL, b"", 0),))


def test_terms_never_decrease() -> None:
    log = filled(3).propose(4, (Payload(EntryKind.NORMAL, b""),))[0]
    with pytest.raises(InvariantError, match="must not decrease"):
        log.append((Entry(2, 5, EntryKind.NORMAL, b"", 0),))


def test_what_is_compacted_is_neither_truncated_nor_beyond_the_end() -> None:
    log = filled(10).compact(4)
    with pytest.raises(InvariantError, match="compacted entry"):
        log.truncate(4)
    with pytest.raises(InvariantError, match="beyond the log's end"):
        log.compact(11)
    assert log.compact(3) is log
    assert log.truncate(11) is log


def test_a_chain_value_depends_on_everything_before_it() -> None:
    one = filled(5, b"a")
    two = filled(4, b"a").propose(1, (Payload(EntryKind.NORMAL, b"b"),))[0]
    three = filled(5, b"c")
    assert len({one.last_chain, two.last_chain, three.last_chain}) == 3
    assert one.chain_at(4) == two.chain_at(4) != three.chain_at(4)


def test_chain_values_are_pinned() -> None:
    """They are stored and sent: a change of them is a change of formats."""
    assert chain_of(0, 1, 1, EntryKind.NORMAL, b"") == 0x69DC07207719AAF9
    assert chain_of(7, 2, 3, EntryKind.CHANGE, b"abc") == 0xC9A4AFAF1EF11FC3
