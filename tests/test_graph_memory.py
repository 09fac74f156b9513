"""The graph memory against plain sets, its folders, and the ops against matrices. See also test_op_cases.py."""

from __future__ import annotations

import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.memory.block import Block
from memnets.ops.cases import cases
from memnets.ops.graph import follow, follow_reference, propagate, propagate_reference
from memnets.ops.walk import walk_reference
from memnets.retrieval.graph_folder import FACTS, GraphFolderError
from memnets.retrieval.graph_memory import Edge, EdgeError, GraphMemory

FAMILY = [
    Edge("ada", "mother", "eve"),
    Edge("ada", "father", "bob"),
    Edge("bob", "mother", "una"),
    Edge("eve", "sister", "kim"),
    Edge("eve", "sister", "lea"),
    Edge("kim", "sister", "eve"),
    Edge("zoe", "mother", "ada"),
]
NAMES = ("a", "b", "c")
EDGES = st.lists(st.builds(Edge, *[st.sampled_from(NAMES)] * 3), max_size=6)
CALLS = st.lists(st.tuples(st.sampled_from(["write", "replace", "erase"]), EDGES), max_size=8)


def family():
    memory = GraphMemory()
    memory.write(FAMILY)
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


def expected(edges, call, given):
    """What a set of edges is after a call; None where it must be refused."""
    pairs = {edge[:2] for edge in given}
    if len(set(given)) < len(given):
        return None
    if call == "write":
        return None if edges & set(given) else edges | set(given)
    if call == "erase":
        return edges - set(given) if edges >= set(given) else None
    known = pairs <= {edge[:2] for edge in edges}
    return {edge for edge in edges if edge[:2] not in pairs} | set(given) if known else None


class TestMemory:
    @given(CALLS)
    def test_is_a_set_of_edges_that_refuses_or_does_all(self, calls):
        memory, edges = GraphMemory(), set()
        for call, given_edges in calls:
            version, after = memory.version, expected(edges, call, given_edges)
            if after is None:
                with pytest.raises(EdgeError, match="Nothing was changed"):
                    getattr(memory, call)(given_edges)
            else:
                getattr(memory, call)(given_edges)
                edges = after
            assert (memory.version > version) == bool(after is not None and given_edges)
            assert told(memory) == edges
            assert len(memory) == len(edges)
            assert all((edge in memory) for edge in edges)
            for source, relation in {edge[:2] for edge in edges}:
                targets = {edge.target for edge in edges if edge[:2] == (source, relation)}
                assert set(memory.targets(source, relation)) == targets
        assert all(
            memory.targets(*pair) == () for pair in {(a, b) for a in NAMES for b in NAMES} - {e[:2] for e in edges}
        )

    @given(st.permutations(FAMILY), st.integers(0, len(FAMILY)))
    def test_erased_one_by_one_in_any_order(self, order, kept):
        memory = family()
        for count, edge in enumerate(order[kept:], 1):
            memory.erase([edge])
            assert told(memory) == set(order[:kept]) | set(order[kept + count :])
        memory.write(order[kept:])
        assert told(memory) == set(FAMILY)

    def test_numbers_stay(self):
        memory = GraphMemory(["zoe", "bob"], ["father"])
        memory.write(FAMILY)
        assert memory.entities[:3] == ("zoe", "bob", "ada")
        assert memory.relations == ("father", "mother", "sister")
        before = memory.entities
        memory.erase(FAMILY[:3])
        memory.replace([Edge("eve", "sister", "new")])
        assert memory.entities == (*before, "new")

    def test_edges_given_out_do_not_change(self):
        memory = family()
        before = memory.edges()
        kept = [part.clone() for part in before]
        memory.replace([Edge("ada", "mother", "kim")])
        memory.write([Edge("lea", "mother", "una")])
        assert all(one.equal(two) for one, two in zip(before, kept, strict=True))
        assert memory.edges().source.shape == (1, 8)

    @pytest.mark.parametrize(
        ("call", "edges", "message"),
        [
            ("write", [("ada", "mother")], r"an edge is three names .*not \('ada', 'mother'\)"),
            ("write", ["abc"], "an edge is three names .*not 'abc'"),
            ("write", [("ada", "", "eve")], "none of them empty"),
            ("write", [("new", "x", "y"), FAMILY[0]], "there already: replace.. or erase.. it: ada mother eve"),
            ("write", [("new", "x", "y")] * 2, "given twice: new x y"),
            ("replace", [("ada", "sister", "kim")], "no relation of its source: write.. it: ada sister kim"),
            ("erase", [("ada", "sister", "kim"), FAMILY[0]], "not there: ada sister kim"),
            ("erase", [("a", "b", str(i)) for i in range(5)], "a b 2 and 2 more"),
        ],
    )
    def test_refusals_name_the_edge(self, call, edges, message):
        memory = family()
        with pytest.raises(EdgeError, match=message):
            getattr(memory, call)(edges)
        assert told(memory) == set(FAMILY)
        assert "new" not in memory.entities

    def test_names_to_number_differ(self):
        with pytest.raises(ValueError, match="'a' is given twice"):
            GraphMemory(["a", "b", "a"])

    def test_a_write_is_visible_within_ten_milliseconds_at_100k_edges(self):
        memory = GraphMemory()
        memory.write([Edge(f"e{i % 20_000}", f"r{i // 20_000}", f"e{i * 7919 % 20_000}") for i in range(100_000)])
        took = []
        for i in range(9):
            start = time.perf_counter()
            memory.write([Edge("new", "r0", f"e{i}")])
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
            rows = found.rows[b][found.mask[b]].tolist()
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
        block = memory.read(["ada", "una"], 1, vectors)
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
        near = propagate(states[:, found.rows[0]], weights, *found.edges)
        lea = memory.entity("lea")
        assert_close(near[0, found.rows[0].tolist().index(lea)], everywhere[0, lea])

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
        memory.write([Edge("ada", "sister", "new")])
        with pytest.raises(ValueError, match="has 8 entities, but 7 vectors"):
            memory.read(["ada"], 1, vectors)


class TestFolder:
    def test_what_was_saved_is_loaded(self, tmp_path):
        memory = family()
        memory.erase(FAMILY[:1])
        memory.save(tmp_path)
        loaded = GraphMemory.load(tmp_path)
        assert told(loaded) == told(memory)
        assert (loaded.version, loaded.entities, loaded.relations) == (2, memory.entities, memory.relations)
        assert all(one.equal(two) for one, two in zip(loaded.edges(), memory.edges(), strict=True))
        loaded.write(FAMILY[:1])
        loaded.save(tmp_path)
        assert told(GraphMemory.load(tmp_path)) == set(FAMILY)
        assert len(list(tmp_path.iterdir())) == 2

    def test_an_empty_one(self, tmp_path):
        GraphMemory().save(tmp_path)
        assert told(GraphMemory.load(tmp_path)) == set()

    @pytest.mark.parametrize("when", ["write_synced", "write_atomic"])
    def test_a_save_that_fails_leaves_the_old(self, tmp_path, monkeypatch, when):
        memory = family()
        memory.save(tmp_path)
        memory.erase(FAMILY)

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(f"memnets.retrieval.graph_folder.{when}", fail)
        with pytest.raises(OSError, match="disk full"):
            memory.save(tmp_path)
        assert told(GraphMemory.load(tmp_path)) == set(FAMILY)

    def test_a_kill_while_unchanged_edges_are_written_leaves_the_old(self, tmp_path, monkeypatch):
        memory = family()
        memory.save(tmp_path)

        def killed(path, content):
            path.write_bytes(content[:9])
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("memnets.retrieval.graph_folder.write_synced", killed)
            with pytest.raises(KeyboardInterrupt):
                memory.save(tmp_path)
        assert told(GraphMemory.load(tmp_path)) == set(FAMILY)
        memory.save(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2

    def test_every_damage_is_told(self, tmp_path):
        family().save(tmp_path)
        (edges,) = tmp_path.glob("*.safetensors")
        for path in (edges, tmp_path / FACTS):
            whole = path.read_bytes()
            other = json.dumps(json.loads((tmp_path / FACTS).read_text()) | {"version": 7}).encode()
            for damaged in (whole[:-1], whole[:9], b"", b"[]", other, bytes([whole[-1] ^ 1]) + whole[1:], None):
                path.unlink()
                if damaged is not None:
                    path.write_bytes(damaged)
                with pytest.raises(GraphFolderError, match="Save it again"):
                    GraphMemory.load(tmp_path)
                path.write_bytes(whole)
        GraphMemory.load(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(GraphFolderError, match="nowhere is no whole graph memory"):
            GraphMemory.load(tmp_path / "nowhere")


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
