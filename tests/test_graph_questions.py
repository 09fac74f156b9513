"""Questions about graphs against a walk by name, what is held out, and the readers. See also test_tasks.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from memnets.contracts import Spec, map_tensors
from memnets.models.graph_baselines import ClosedBookGraphReader, KeyValueGraphReader
from memnets.models.graph_reader import GraphReader
from memnets.retrieval.entries import Triple
from memnets.tasks.base import SPLITS
from memnets.tasks.graph_questions import GraphQuestions, questions

TASK = GraphQuestions(num_entities=20, num_relations=3, num_phrases=2)
SPEC = Spec("graph", 9, 7, num_relations=3)


def relations_of(task, words):
    """The path that words name, whose phrases are of one and of two words in turn."""
    names = [task.vocabulary[word] for word in words if word]
    path = []
    while names:
        relation, _, phrase = names.pop(0).partition(".")
        if int(phrase) % 2:
            assert names.pop(0) == f"{relation}.{phrase}'"
        path.append(relation)
    return path


class TestQuestions:
    @pytest.mark.parametrize("task", [TASK, GraphQuestions(), GraphQuestions(graph="new", hops=2)])
    def test_targets_are_where_paths_lead(self, task):
        batch = task.batch("test", 0, 60, 1)
        lengths = Counter()
        for node, words, target in zip(batch.inputs.node, batch.inputs.words, batch.targets, strict=True):
            assert words.bool().int().diff().le(0).all(), "padding is last"
            place, path = f"e{node}", relations_of(task, words.tolist())
            for relation in path:
                (place,) = task.memory.targets(place, relation)
            assert place == f"e{target}"
            lengths[len(path)] += 1
        assert lengths.keys() == ({1, 2, 3} if task.hops is None else {task.hops})

    def test_every_phrase_is_asked_and_leads_to_its_relation_alone(self):
        batch = TASK.batch("train", 0, 200, 0)
        assert set(batch.inputs.words.flatten().tolist()) == set(range(len(TASK.vocabulary)))
        assert len(set(TASK.vocabulary)) == len(TASK.vocabulary) == 1 + 3 * (1 + 2)

    def test_splits_share_no_question(self):
        for hops in (1, 2, 3):
            parts = {split: set(questions(20, 3, hops, 0, split).tolist()) for split in SPLITS}
            assert set().union(*parts.values()) == set(range(20 * 3**hops))
            assert sum(map(len, parts.values())) == 20 * 3**hops
            assert len(parts["test"]) == len(parts["validation"]) == 2 * 3**hops
        asked = {
            split: {
                (int(node), *relations_of(TASK, words.tolist()))
                for batch in (TASK.batch(split, index, 200, 0) for index in range(5))
                for node, words in zip(batch.inputs.node, batch.inputs.words, strict=True)
            }
            for split in SPLITS
        }
        assert not asked["train"] & (asked["validation"] | asked["test"])
        assert not asked["validation"] & asked["test"]

    def test_the_new_graph_has_other_targets(self):
        one, two = (
            {
                (source, relation, memory.targets(source, relation))
                for source in memory.entities
                for relation in memory.relations
            }
            for memory in (GraphQuestions().memory, GraphQuestions(graph="new").memory)
        )
        assert len(one) == len(two) == 3200
        assert len(one & two) < 30  # one in 400 by accident
        assert GraphQuestions().memory.entities == GraphQuestions(graph="new").memory.entities

    def test_test_sets_ask_what_they_are_called(self):
        for name, task in TASK.test_sets().items():
            assert (task.graph == "new") == name.startswith("new_graph")
            words = task.batch("test", 0, 30, 0).inputs.words
            lengths = {len(relations_of(task, row)) for row in words.tolist()}
            assert lengths == ({1, 2, 3} if name == "test" else {int(name[-1])})

    def test_training_asks_all_lengths_whatever_is_tested(self):
        words = replace(TASK, hops=1).batch("train", 0, 60, 0).inputs.words.tolist()
        assert {len(relations_of(TASK, row)) for row in words} == {1, 2, 3}

    def test_a_change_of_the_memory_is_in_the_next_batch(self):
        task = GraphQuestions(num_entities=20, num_relations=3, hops=1)
        before = task.batch("test", 0, 30, 0)
        source, (relation,) = f"e{before.inputs.node[0]}", relations_of(task, before.inputs.words[0].tolist())
        elsewhere = (int(before.targets[0]) + 1) % 20
        task.memory.replace([Triple(f"{source} {relation}", source, relation, f"e{elsewhere}")])
        after = task.batch("test", 0, 30, 0)
        assert after.targets[0] == elsewhere
        assert after.inputs.words.equal(before.inputs.words)
        assert task.oracle(after).argmax(-1).equal(after.targets)

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"hops": 4}, "hops must be 1 to max_hops=3"),
            ({"hops": 0}, "hops must be 1 to max_hops=3"),
            ({"num_entities": 1}, "num_entities must be at least 2"),
            ({"num_relations": 0}, "num_relations must be at least 1"),
            ({"num_entities": 3, "num_relations": 3}, "fewer than 10 questions of one hop"),
            ({"max_hops": 6}, "more than 20,000,000 questions"),
        ],
    )
    def test_refusals(self, field, message):
        with pytest.raises(ValueError, match=message):
            GraphQuestions(**field)


def words_to_relations(task, model):
    """Set a graph reader's hops by hand: each follows the relation named there, and then stays."""

    def weights(words):
        chosen = torch.full((len(words), task.max_hops), task.num_relations)
        for row, path in enumerate(relations_of(task, each) for each in words.tolist()):
            chosen[row, : len(path)] = torch.tensor([int(relation[1:]) for relation in path])
        return torch.nn.functional.one_hot(chosen, task.num_relations + 1).float()[:, None]

    model.relation_weights = weights
    return model


class TestReaders:
    def test_relations_as_named_answer_everything_in_any_graph(self):
        for task in TASK.test_sets().values():
            batch = task.batch("test", 0, 40, 0)
            outputs, _ = words_to_relations(task, GraphReader(task.spec))(batch.inputs)
            assert outputs.argmax(-1).equal(batch.targets)

    def test_chains_are_summed(self):
        """Each follows its own relation of a node that both lead from."""
        task, model = TASK, GraphReader(TASK.spec, num_hops=1, num_chains=2)
        chosen = torch.tensor([[[0], [1]]])
        model.relation_weights = lambda words: torch.nn.functional.one_hot(chosen, 4).float().expand(5, -1, -1, -1)
        inputs = task.batch("test", 0, 5, 0).inputs
        reached = model(inputs)[0].exp()
        for node, row in zip(inputs.node.tolist(), reached, strict=True):
            expected = torch.zeros(20)
            for relation in ("r0", "r1"):
                (target,) = task.memory.targets(f"e{node}", relation)
                expected[int(target[1:])] += 1
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)

    def test_a_graph_reader_knows_no_entity(self):
        """Renaming entities renames its answers."""
        model, batch = GraphReader(TASK.spec).double(), TASK.batch("test", 0, 30, 0)
        renamed = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        node, words, edges = batch.inputs
        edges = edges._replace(source=renamed[edges.source], target=renamed[edges.target])
        assert edges.source.stride(0) != 0, "unlike the shared graph, a row's own"
        outputs, _ = model(batch.inputs)
        others, _ = model(batch.inputs._replace(node=renamed[node], words=words, edges=edges))
        torch.testing.assert_close(others[:, renamed], outputs)

    @pytest.mark.parametrize("model", [GraphReader, KeyValueGraphReader])
    def test_the_order_of_edges_and_padding_say_nothing(self, model):
        torch.manual_seed(0)
        reader, batch = model(TASK.spec).double(), TASK.batch("test", 0, 8, 0)
        order = torch.randperm(60)
        pad = torch.nn.functional.pad
        edges = map_tensors(lambda part: pad(part[:, order], (0, 5)), batch.inputs.edges)
        words = pad(batch.inputs.words, (0, 3))
        outputs, _ = reader(batch.inputs)
        others, _ = reader(batch.inputs._replace(edges=edges, words=words))
        torch.testing.assert_close(others, outputs)

    def test_closed_book_sees_no_edge(self):
        reader, batch = ClosedBookGraphReader(TASK.spec), TASK.batch("test", 0, 8, 0)
        nothing = map_tensors(torch.zeros_like, batch.inputs.edges)
        assert reader(batch.inputs)[0].equal(reader(batch.inputs._replace(edges=nothing))[0])

    def test_key_hashing_lets_hop_t_read_what_lies_t_minus_1_steps_away(self):
        """A chain 0 → 1 → 2 → 3: edges beyond those that the hops may read change nothing."""
        torch.manual_seed(0)
        source, target = torch.arange(6)[None], torch.arange(1, 7)[None]
        inputs = GraphQuestions(num_entities=7, num_relations=3).batch("test", 0, 1, 0).inputs
        edges = inputs.edges._replace(source=source, target=target, relation=source % 3, mask=source >= 0)
        inputs = inputs._replace(node=torch.zeros(1, dtype=torch.long), words=torch.tensor([[1, 2]]), edges=edges)
        for num_hops in (1, 2, 3):
            reader = KeyValueGraphReader(SPEC, hidden_size=5, num_hops=num_hops)
            answer, _ = reader(inputs)
            for place in range(6):
                moved = target.clone()
                moved[0, place] = 0
                other, _ = reader(inputs._replace(edges=edges._replace(target=moved)))
                assert other.equal(answer) == (place >= num_hops), (num_hops, place)

    def test_key_values_equal_a_loop(self):
        torch.manual_seed(0)
        reader, batch = KeyValueGraphReader(TASK.spec, hidden_size=5, key_hashing=False), TASK.batch("test", 0, 4, 0)
        edges, query = batch.inputs.edges, torch.randn(4, 5)
        found = reader._read(query, edges, torch.zeros(4, 20, dtype=torch.bool))
        for b in range(4):
            keys = [
                reader.entities[i] + reader.relations[r]
                for i, r in zip(edges.source[b], edges.relation[b], strict=True)
            ]
            weights = torch.stack([key @ query[b] for key in keys]).softmax(0)
            mean = sum(w * reader.entities[j] for w, j in zip(weights, edges.target[b], strict=True))
            torch.testing.assert_close(found[b], mean)

    @pytest.mark.parametrize("model", [GraphReader, KeyValueGraphReader, ClosedBookGraphReader])
    def test_refusals(self, model):
        with pytest.raises(ValueError, match=f"{model.__name__}.hidden_size must be at least 1, not 0"):
            model(SPEC, hidden_size=0)


def test_a_node_without_edges_has_no_gradient_that_is_not_finite():
    inputs = TASK.batch("test", 0, 4, 0).inputs
    nothing = inputs._replace(edges=map_tensors(torch.zeros_like, inputs.edges))
    for model in (GraphReader(TASK.spec), KeyValueGraphReader(TASK.spec)):
        outputs, _ = model(nothing)
        outputs.sum().backward()
        assert outputs.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
