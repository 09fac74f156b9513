"""External memories that change: against a dict that does the same, with the indexes that follow them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from retrieval_example import (
    ENCODER,
    KINDS,
    MAX_TOKENS,
    PEOPLE,
    SIZE,
    contents,
    memory_of,
    okapi_by_loop,
    queries_of,
    say,
    tf_idf_by_loop,
    value_of,
)
from torch.testing import assert_close

from memnets.retrieval import rows as rows_module
from memnets.retrieval import word_counts as word_counts_module
from memnets.retrieval.base import EmptyMemoryError
from memnets.retrieval.best_sentence import BestSentence
from memnets.retrieval.entries import Entry, EntryError, Triple
from memnets.retrieval.graph_memory import Edge
from memnets.retrieval.lexical import BM25, TfIdf
from memnets.retrieval.relevance import Dense

QUERY = "a b c d"
IDS = st.sampled_from([f"id{number}" for number in range(12)])
TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d", "e. F", "g", "h! A"]), min_size=1, max_size=5).map(" ".join)
ENTRIES = st.lists(st.builds(Entry, IDS, TEXTS, st.integers(-1, 3)), max_size=5)
NAMES = st.sampled_from(["a", "b", "c d", "e. F"])
TRIPLES = st.lists(st.builds(Triple, IDS, NAMES, NAMES, NAMES), max_size=5)


class ChangingMemory(RuleBasedStateMachine):
    """Writes, replaces, erases, reads, saves and loads in any order, beside a dict; indexes beside ones made anew."""

    kind, entries = "vector", ENTRIES

    @initialize()
    def start(self):
        self.memory, self.model = KINDS[self.kind](), {}
        self.indexes = [BM25(), TfIdf(), Dense(), BestSentence()]
        self.folder = Path(tempfile.mkdtemp())
        self.saved = None
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(word_counts_module, "LEAST_APART", 3)

    def teardown(self):
        self.patch.undo()
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(entries=st.runner().flatmap(lambda machine: machine.entries))
    def write(self, entries):
        self.change(entries, [entry.id not in self.model for entry in entries], self.memory.write)

    @rule(entries=st.runner().flatmap(lambda machine: machine.entries))
    def replace(self, entries):
        self.change(entries, [entry.id in self.model for entry in entries], self.memory.replace)

    def change(self, entries, allowed, call):
        before = self.memory.version
        if all(allowed) and len({entry.id for entry in entries}) == len(entries) and self.can_hold(entries):
            call(entries)
            self.model.update({entry.id: entry for entry in entries})
            assert self.memory.version > before or not entries
        else:
            with pytest.raises(EntryError):
                call(entries)
            assert self.memory.version == before

    def can_hold(self, entries):
        """Whether the kind can hold all of them beside the others."""
        return True

    @rule(ids=st.lists(IDS, max_size=4))
    def erase(self, ids):
        if all(id in self.model for id in ids) and len(set(ids)) == len(ids):
            self.memory.erase(ids)
            for id in ids:
                del self.model[id]
        else:
            with pytest.raises(EntryError):
                self.memory.erase(ids)

    @rule()
    def save(self):
        self.memory.save(self.folder)
        self.saved = dict(self.model), self.memory.version

    @precondition(lambda self: self.saved)
    @rule()
    def load(self):
        self.memory = type(self.memory).load(self.folder, ENCODER)
        self.model = dict(self.saved[0])
        assert self.memory.version == self.saved[1]

    @rule()
    def ask(self):
        """Indexes that have followed so far, or not for a while, equal new ones."""
        if not self.model:
            with pytest.raises(EmptyMemoryError):
                self.indexes[0].scores(self.memory, queries_of(QUERY))
            return
        for index in self.indexes:
            found = index.scores(self.memory, queries_of(QUERY, "h h a"))
            assert_close(found, type(index)().scores(self.memory, queries_of(QUERY, "h h a")), rtol=1e-6, atol=1e-7)
            assert (found > -torch.inf).equal(self.memory.occupied.expand(2, -1))

    @invariant()
    def says_what_the_dict_says(self):
        assert contents(self.memory) == self.model
        assert len(self.memory) == len(self.model)
        assert not self.memory.vectors[~self.memory.occupied].any()
        for id, entry in self.model.items():
            for part, expected in zip(say(self.memory, id), self.expected(entry), strict=True):
                assert_close(part, expected)

    def expected(self, entry):
        valued = any(value_of(self.memory, entry) >= 0 for entry in self.model.values())
        row, value = (torch.tensor([number]) for number in (self.memory.row(entry.id), value_of(self.memory, entry)))
        parts = [ENCODER.encode([entry.text]).vectors, torch.tensor([True]), torch.ones(1), row, value]
        return parts if valued else parts[:4]


class ChangingSequences(ChangingMemory):
    kind = "sequence"

    def expected(self, entry):
        encoded, count = ENCODER.encode([entry.text]), min(len(entry.text.split()), MAX_TOKENS)
        states, mask = torch.zeros(MAX_TOKENS, SIZE), torch.arange(MAX_TOKENS) < count
        states[:count] = encoded.states[0, :count]
        tokens = torch.zeros(MAX_TOKENS).long()
        tokens[:count] = encoded.tokens[0, :count]
        rows = torch.full((MAX_TOKENS,), self.memory.row(entry.id))
        values = torch.where(mask, entry.value, -1)
        valued = any(entry.value >= 0 for entry in self.model.values())
        return [states, mask, mask.float(), rows, tokens] + ([values] if valued else [])


class ChangingGraph(ChangingMemory):
    kind, entries = "graph", TRIPLES

    def can_hold(self, entries):
        after = {**self.model, **{entry.id: entry for entry in entries}}
        return len({entry[1:] for entry in after.values()}) == len(after)

    @invariant()
    def edges_are_those_of_the_dict(self):
        memory, edges = self.memory, Counter(entry[1:] for entry in self.model.values())
        rows = torch.cat(memory.edges()).T.tolist()
        assert Counter((memory.entities[i], memory.relations[r], memory.entities[j]) for i, r, j, _ in rows) == edges
        assert all(there for *_, there in rows)
        assert all(memory.id(Edge(*entry[1:])) == id for id, entry in self.model.items())
        for source, relation, _ in edges:
            targets = {edge[2] for edge in edges if edge[:2] == (source, relation)}
            assert set(memory.targets(source, relation)) == targets


for machine in (ChangingMemory, ChangingSequences, ChangingGraph):
    machine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestChangingMemory = ChangingMemory.TestCase
TestChangingSequences = ChangingSequences.TestCase
TestChangingGraph = ChangingGraph.TestCase


class TestJournal:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(rows_module, "REMEMBERED", 4)
        monkeypatch.setattr(word_counts_module, "LEAST_APART", 2)

    def test_tells_what_changed_and_forgets_what_is_old(self):
        memory = memory_of(entries=PEOPLE[:2])
        start = memory.version
        memory.replace([PEOPLE[1]._replace(text="bob sings")])
        memory.erase(["ada"])
        assert memory.changes_since(start) == [(1, "bob sings"), (0, None)]
        assert memory.changes_since(memory.version) == []
        assert memory.changes_since(memory.version + 1) is None
        for _ in range(9):
            memory.replace([PEOPLE[1]])
        assert memory.changes_since(start) is None
        assert memory.changes_since(memory.version - 1) == [(1, PEOPLE[1].text)]

    def test_what_was_erased_is_in_no_journal_and_no_row(self):
        memory = memory_of()
        memory.erase(["ada", "ivy"])
        assert "london" not in str(memory.changes_since(0)) + str(contents(memory))
        assert not memory.vectors[[0, 3]].any()

    @pytest.mark.parametrize("relevance", [BM25, TfIdf])
    def test_indexes_follow_through_many_changes(self, relevance):
        """Over the limits at which rows are inverted again, and at which the journal no longer reaches back."""
        memory, index = memory_of(), relevance()
        for number in range(40):
            memory.write([Entry(str(number), f"new {'word ' * (number % 3)} {number}")])
            if number % 5 == 4:
                memory.erase([str(number - 3)])
                memory.replace([PEOPLE[0]._replace(text=f"ada lives in word {number}")])
            if number % 12 > 5:
                asked = queries_of("the new word", "39 lives in london")
                assert_close(index.scores(memory, asked), relevance().scores(memory, asked))

    @pytest.mark.parametrize(
        ("index", "by_loop"),
        [
            (BM25(), okapi_by_loop),
            (BM25(epsilon=0.25), partial(okapi_by_loop, epsilon=0.25)),
            (TfIdf(), tf_idf_by_loop),
        ],
    )
    def test_an_index_after_changes_equals_loops_over_what_is_left(self, index, by_loop):
        """Rows inverted in bulk and then changed, words that no row has any more or most have, a vacant row."""
        memory = memory_of(entries=[*PEOPLE, Entry("joe", "joe eats in paris")])
        asked = queries_of("the flute in london", "eve eats a goat", "flute")
        index.scores(memory, asked)
        memory.erase(["bob"])
        memory.replace([PEOPLE[3]._replace(text="ivy eats in paris")])
        found = index.scores(memory, asked)
        left = [0, 2, 3, 4, 5]
        assert (found[:, 1] == -torch.inf).all()
        for own, text in zip(found[:, left], asked.texts, strict=True):
            expected = by_loop([memory.entry(row).text for row in left], text)
            assert_close(own.tolist(), expected, rtol=1e-5, atol=1e-6)

    def test_an_index_that_turns_to_another_memory_of_the_same_version_sees_it(self):
        first, second = memory_of(entries=PEOPLE[:1]), memory_of(entries=PEOPLE[1:2])
        index, asked = BM25(), queries_of("flute")
        assert index.scores(first, asked).item() == 0
        assert index.scores(second, asked).item() > 0
