"""What a graph memory has beyond the contract of external memories, and the ops against matrices.

See also test_external_memory.py, test_changing_memory.py and test_op_cases.py.
"""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.memory.block import Block
from memnets.ops.cases import cases
from memnets.ops.graph import follow, follow_reference, propagate, propagate_reference
from memnets.ops.walk import walk_reference
from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import EntryError, Triple
from memnets.retrieval.graph_memory import Edge, GraphMemory, named
from memnets.retrieval.integration import NearestValues
from memnets.retrieval.lexical import BM25
from memnets.retrieval.relevance import Dense
from memnets.retrieval.selection import TopK

FAMILY = [
    Edge("ada", "mother", "eve"),
    Edge("ada", "father", "bob"),
    Edge("bob", "mother", "una"),
    Edge("eve", "sister", "kim"),
    Edge("eve", "sister", "lea"),
    Edge("kim", "sister", "eve"),
    Edge("zoe", "mother", "ada"),
]


def family(*encoder):
    memory = GraphMemory(*encoder)
    memory.write(named(FAMILY))
    return memory


def told(memory):
    """Edges by name, read off the tensors."""
    source, relation, target, mask = memory.edges()
    assert mask.shape == source.shape == (1, len(memory))
    assert mask.all()
    entities, relations = memory.entities, memory.relations
    rows = zip(*(part[0].tolist() for part in (source, relation, target)), strict=True)
    named = [Edge(entities[i], relations[r], entities[j]) for i, r, j in rows]
    assert len(set(named)) == len(named)
    return set(named)


class TestMemory:
    def test_edges_stay_in_the_order_of_rows(self):
        memory = family()
        order = [row[:2] for row in torch.cat(memory.edges()).T.tolist()]
        ids = [memory.row(entry.id) for entry in named(FAMILY)]
        assert ids == list(range(len(FAMILY)))
        memory.erase(["ada father bob"])
        assert [row[:2] for row in torch.cat(memory.edges()).T.tolist()] == order[:1] + order[2:]
        memory.write([Triple("back", "ada", "father", "bob")])
        assert [row[:2] for row in torch.cat(memory.edges()).T.tolist()] == order

    def test_numbers_stay(self):
        memory = GraphMemory(entities=["zoe", "bob"], relations=["father"])
        memory.write(named(FAMILY))
        assert memory.entities[:3] == ("zoe", "bob", "ada")
        assert memory.relations == ("father", "mother", "sister")
        before = memory.entities
        memory.erase([entry.id for entry in named(FAMILY[:3])])
        memory.replace([Triple("eve sister lea", "eve", "sister", "new")])
        assert memory.entities == (*before, "new")

    def test_edges_given_out_do_not_change(self):
        memory = family()
        before = memory.edges()
        kept = [part.clone() for part in before]
        memory.replace([Triple("ada mother eve", "ada", "mother", "kim")])
        memory.write(named([Edge("lea", "mother", "una")]))
        assert all(one.equal(two) for one, two in zip(before, kept, strict=True))
        assert memory.edges().source.shape == (1, 8)

    @pytest.mark.parametrize(
        ("call", "triples", "message"),
        [
            ("write", [("new", "x", "", "y")], "none of the names empty; not .*'new'"),
            (
                "write",
                [("new", "x", "r", "y"), ("1", *FAMILY[0])],
                "'ada mother eve' is there already as 'ada mo",
            ),
            ("write", [("1", "new", "x", "y"), ("2", "new", "x", "y")], "'new x y' is given under more than one id"),
            ("replace", [("eve sister kim", "eve", "sister", "lea")], "'eve sister lea' is there already as"),
        ],
    )
    def test_an_edge_has_one_id_and_three_names(self, call, triples, message):
        memory = family()
        with pytest.raises(EntryError, match=message):
            getattr(memory, call)([Triple(*triple) for triple in triples])
        assert told(memory) == set(FAMILY)
        assert "new" not in memory.entities

    def test_two_edges_change_places(self):
        memory = family()
        kim, lea = named(FAMILY[3:5])
        memory.replace([lea._replace(id=kim.id), kim._replace(id=lea.id)])
        assert told(memory) == set(FAMILY)
        assert memory.id(Edge("eve", "sister", "lea")) == "eve sister kim"

    def test_a_refused_encoding_gives_no_name_a_number(self):
        memory = family(HashedEncoder(8))
        with pytest.raises(ValueError, match="no word to encode"):
            memory.write([Triple("1", "new", "x", "y"), Triple("2", "!", "?", ".")])
        assert "new" not in memory.entities
        assert told(memory) == set(FAMILY)

    def test_names_to_number_differ(self):
        with pytest.raises(ValueError, match="'a' is given twice"):
            GraphMemory(entities=["a", "b", "a"])

    def test_a_write_is_visible_within_ten_milliseconds_at_100k_edges(self):
        memory = GraphMemory()
        names = [(f"e{i % 20_000}", f"r{i // 20_000}", f"e{i * 7919 % 20_000}") for i in range(100_000)]
        memory.write([Triple(str(i), *edge) for i, edge in enumerate(names)])
        took = []
        for i in range(9):
            start = time.perf_counter()
            memory.write([Triple(f"new {i}", "new", "r0", f"e{i}")])
            edges = memory.edges()
            took.append(time.perf_counter() - start)
            assert edges.target[0, -1] == memory.entity(f"e{i}")
        assert min(took) < 0.010


class TestNeighbourhood:
    def test_equals_a_search(self):
        memory = family()
        found = memory.neighbourhood(["ada", "una", "zoe"], 2)
        for b, (start, reached) in enumerate(
            [
                ("ada", {"ada": 0, "eve": 1, "bob": 1, "kim": 2, "lea": 2, "una": 2}),
                ("una", {"una": 0}),
                ("zoe", {"zoe": 0, "ada": 1, "eve": 2, "bob": 2}),
            ]
        ):
            rows = found.nodes[b][found.mask[b]].tolist()
            names = [memory.entities[row] for row in rows]
            assert names[0] == start
            assert dict(zip(names, found.distances[b].tolist(), strict=False)) == reached
            assert found.distances[b][found.mask[b]].tolist() == sorted(reached.values())
            edges = [part[b][found.edges.mask[b]].tolist() for part in found.edges[:3]]
            named = {Edge(names[i], memory.relations[r], names[j]) for i, r, j in zip(*edges, strict=True)}
            assert named == {edge for edge in FAMILY if {edge.source, edge.target} <= reached.keys()}

    def test_a_block_of_its_nodes(self):
        memory = family()
        vectors = torch.randn(len(memory.entities), 4)
        block = memory.read_nodes(["ada", "una"], 1, vectors)
        assert isinstance(block, Block)
        assert block.mask.tolist() == [[True] * 3, [True, False, False]]
        assert block.vectors[0].equal(vectors[block.rows[0]])
        assert block.scores.tolist() == [[0, -1, -1], [0, 0, 0]]
        assert [memory.entities[i] for i in block.values[0].tolist()] == ["ada", "eve", "bob"]

    def test_messages_reach_the_start_over_its_edges(self):
        """`propagate` on a neighbourhood is `propagate` on the whole graph, wherever all senders are within."""
        memory, generator = family(), torch.Generator().manual_seed(0)
        states = torch.randn(1, len(memory.entities), 4, generator=generator)
        weights = torch.randn(len(memory.relations), 4, 3, generator=generator)
        everywhere = propagate(states, weights, *memory.edges())
        found = memory.neighbourhood(["eve"], 1)
        near = propagate(states[:, found.nodes[0]], weights, *found.edges)
        lea = memory.entity("lea")
        assert_close(near[0, found.nodes[0].tolist().index(lea)], everywhere[0, lea])

    @pytest.mark.parametrize(
        ("starts", "hops", "message"),
        [([], 1, "not 0 and 1"), (["ada"], -1, "not 1 and -1"), (["x"], 1, "no entity 'x'")],
    )
    def test_refusals(self, starts, hops, message):
        with pytest.raises(ValueError, match=message):
            family().neighbourhood(starts, hops)

    def test_vectors_of_another_graph(self):
        memory = family()
        vectors = torch.zeros(len(memory.entities), 2)
        memory.write(named([Edge("ada", "sister", "new")]))
        with pytest.raises(ValueError, match="has 8 entities, but 7 vectors"):
            memory.read_nodes(["ada"], 1, vectors)


class TestFinding:
    """Triples are found like texts, and what they say is a class: so every integration reads a graph."""

    @pytest.mark.parametrize("relevance", [BM25(), Dense()])
    def test_an_edge_is_found_and_votes_for_its_target(self, relevance):
        encoder = HashedEncoder(64)
        memory, asked = family(encoder), ["mother of bob", "who is the father of ada?"]
        vectors = encoder.encode(asked).vectors
        block = memory.read(TopK(2).select(relevance.scores(memory, Queries(asked, vectors))))
        assert [memory.entry(row).id for row in block.rows[:, 0].tolist()] == ["bob mother una", "ada father bob"]
        reader = NearestValues(Spec("question", 64, len(memory.entities), has_values=True))
        answers = reader(vectors, block).argmax(-1).tolist()
        assert [memory.entities[number] for number in answers] == ["una", "bob"]

    def test_without_an_encoder_it_is_found_by_words(self):
        memory = family()
        block = memory.read(TopK(1).select(BM25().scores(memory, Queries(["mother of bob"]))))
        assert block.vectors.shape == (1, 1, 0)
        assert memory.entities[block.values] == "una"
        with pytest.raises(ValueError, match=r"must be of shape \(1, 0\), from the memory's encoder"):
            Dense().scores(memory, Queries(["mother of bob"], torch.ones(1, 8)))


class TestFolder:
    def test_names_keep_their_numbers(self, tmp_path):
        memory = GraphMemory(entities=["zoe"], relations=["brother"])
        memory.write(named(FAMILY))
        memory.erase(["ada mother eve"])
        memory.save(tmp_path)
        loaded = GraphMemory.load(tmp_path)
        assert (loaded.entities, loaded.relations) == (memory.entities, memory.relations)
        assert all(one.equal(two) for one, two in zip(loaded.edges(), memory.edges(), strict=True))
        for one in (loaded, memory):
            one.write([Triple("new", "una", "mother", "eva")])
        assert told(loaded) == told(memory)
        assert loaded.targets("eve", "sister") == memory.targets("eve", "sister") == ("kim", "lea")


class TestOps:
    @pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name) for op in ("follow", "propagate", "walk") for case in cases(op)]
    )
    def test_equal_their_references(self, case):
        reference = {"follow": follow_reference, "propagate": propagate_reference, "walk": walk_reference}[case.op]
        arguments = case.arguments(torch.float64)
        assert_close(case.function(**arguments), reference(**arguments), rtol=1e-12, atol=1e-12)

    @settings(max_examples=30)
    @given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**16))
    def test_weights_stay_a_distribution_where_every_relation_has_one_target(self, num_nodes, num_relations, seed):
        generator = torch.Generator().manual_seed(seed)
        source = torch.arange(num_nodes).repeat_interleave(num_relations)[None]
        relation = torch.arange(num_relations).repeat(num_nodes)[None]
        target = torch.randint(num_nodes, source.shape, generator=generator)
        edges = (source, relation, target, torch.ones_like(source, dtype=torch.bool))
        nodes = torch.rand(1, num_nodes, generator=generator).double().softmax(-1)
        weights = torch.rand(1, num_relations + 1, generator=generator).double().softmax(-1)
        after = follow(nodes, weights, *edges)
        assert_close(after.sum(), torch.ones((), dtype=torch.float64))
        stay = torch.eye(num_relations + 1, dtype=torch.float64)[None, -1]
        assert follow(nodes, stay, *edges).equal(nodes)

    def test_one_relation_leads_by_name(self):
        memory = family()
        nodes = torch.zeros(1, len(memory.entities))
        nodes[0, memory.entity("ada")] = 1
        for relation in ("mother", "sister"):
            weights = torch.zeros(1, len(memory.relations) + 1)
            weights[0, memory.relations.index(relation)] = 1
            nodes = follow(nodes, weights, *memory.edges())
        assert {memory.entities[i] for i in nodes[0].nonzero()[:, 0].tolist()} == {"kim", "lea"}
