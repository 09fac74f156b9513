"""Encoding by hash, lexical relevance against loops, dense and hybrid against arithmetic, bounds, and selection."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retrieval_example import ENCODER, PEOPLE, memory_of, okapi_by_loop, queries_of, tf_idf_by_loop
from torch.testing import assert_close

from memnets.retrieval.base import EmptyMemoryError, Queries, Relevance
from memnets.retrieval.best_sentence import BestSentence
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.entries import Entry, EntryError
from memnets.retrieval.lexical import BM25, TfIdf
from memnets.retrieval.relevance import FEW, Dense, Hybrid, Oracle, Random, dots
from memnets.retrieval.selection import All, Selection, Threshold, TopK
from memnets.retrieval.words import EnglishWords, sentence_places, words

RELEVANCES = {
    "bm25": BM25(),
    "tf_idf": TfIdf(),
    "dense": Dense(),
    "best_sentence": BestSentence(),
    "hybrid": Hybrid(BM25(), Dense()),
    "oracle": Oracle(),
    "random": Random(),
}
relevances = pytest.mark.parametrize("relevance", RELEVANCES.values(), ids=RELEVANCES)
# Early letters are frequent: idf of all signs, and words that are repeated in a text.
LETTERS = st.sampled_from("aaaaabbbccdefghij")
TEXTS = st.lists(LETTERS, min_size=1, max_size=8).map(" ".join)
SCORES = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5, 2.0]), min_size=1, max_size=7)


def texts_of(texts):
    return memory_of(entries=[Entry(str(number), text) for number, text in enumerate(texts)])


class TestHashedEncoder:
    @pytest.mark.parametrize("text", ["Mary  lives, in PARIS.", "İzmir ΑΣ straße", "x " * 600, "é̂"])
    def test_places_are_those_of_the_words(self, text):
        places = ENCODER.places(text)
        assert len(places) == int(ENCODER.encode([text]).mask.sum())
        assert [text[start:end].lower().replace("\u0307", "") for start, end in places] == words(text)[: len(places)]

    def test_is_the_mean_of_its_words(self):
        encoded = ENCODER.encode(["Ada, ada: lives!", "bob"])
        assert isinstance(ENCODER, Encoder)
        assert encoded.mask.tolist() == [[True, True, True], [True, False, False]]
        assert encoded.states[0, 0].equal(encoded.states[0, 1])
        assert encoded.tokens[0, 0] == encoded.tokens[0, 1] != encoded.tokens[0, 2]
        assert (encoded.tokens > 0).equal(encoded.mask)
        assert not encoded.states[1, 1:].any()
        mean = encoded.states[0].mean(0)
        assert_close(encoded.vectors[0], mean / mean.norm())
        assert_close(encoded.states[encoded.mask].norm(dim=-1), torch.ones(4))

    def test_is_the_same_on_every_machine(self):
        """Recorded: a memory that was saved elsewhere must still be of this encoder."""
        encoded = HashedEncoder(3).encode(["london"])
        assert encoded.tokens.item() == 3252342269172453804
        assert_close(encoded.vectors, torch.tensor([[-0.8654, 0.4200, -0.2733]]), rtol=0, atol=1e-4)

    def test_strangers_are_nearly_orthogonal(self):
        vectors = HashedEncoder(256).encode([f"word{number}" for number in range(200)]).vectors
        cosines = (vectors @ vectors.T)[~torch.eye(200, dtype=torch.bool)]
        assert abs(cosines.mean()) < 0.01
        assert abs(cosines.std() - 1 / 16) < 0.005

    def test_identity_tells_settings_apart(self):
        made = [HashedEncoder(8), HashedEncoder(9), HashedEncoder(8, 1), HashedEncoder(8, 0, 9)]
        assert len({encoder.identity for encoder in made}) == 4
        assert HashedEncoder(8).identity == made[0].identity
        assert not made[0].encode(["x"]).vectors.equal(made[2].encode(["x"]).vectors)

    def test_sees_a_text_to_its_limit(self):
        encoded = HashedEncoder(8, max_tokens=2).encode(["a b c d", "a b"])
        assert encoded.tokens.shape == (2, 2)
        assert encoded.vectors[0].equal(encoded.vectors[1])

    def test_refuses(self):
        assert [tuple(part.shape) for part in ENCODER.encode([])] == [(0, 8), (0, 0, 8), (0, 0), (0, 0)]
        with pytest.raises(ValueError, match=r"text 1, ' ', has no word"):
            ENCODER.encode(["a", " "])
        with pytest.raises(ValueError, match="positive size"):
            HashedEncoder(0)


class TestLexical:
    @given(st.lists(TEXTS, min_size=1, max_size=8), TEXTS)
    def test_bm25_equals_loops(self, texts, query):
        found = BM25().scores(texts_of(texts), Queries([query, "unseen z", query]))
        assert_close(found[0].tolist(), okapi_by_loop(texts, query), rtol=1e-5, atol=1e-6)
        assert not found[1].any()
        assert found[2].equal(found[0])

    @given(
        st.lists(TEXTS, min_size=1, max_size=8), TEXTS, st.floats(0, 3), st.floats(0, 1), st.none() | st.floats(0, 1)
    )
    def test_bm25_of_any_settings_equals_loops(self, texts, query, k1, b, epsilon):
        found = BM25(k1, b, epsilon).scores(texts_of(texts), Queries([query]))
        assert_close(found[0].tolist(), okapi_by_loop(texts, query, k1, b, epsilon), rtol=1e-5, atol=1e-6)

    @given(st.lists(TEXTS, min_size=1, max_size=8), TEXTS)
    def test_tf_idf_equals_loops(self, texts, query):
        found = TfIdf().scores(texts_of(texts), Queries([query, "unseen z"]))
        assert_close(found[0].tolist(), tf_idf_by_loop(texts, query), rtol=1e-5, atol=1e-6)
        assert not found[1].any()

    @given(st.lists(TEXTS, min_size=1, max_size=12), TEXTS)
    def test_bm25_equals_the_package(self, texts, query):
        package = pytest.importorskip("rank_bm25").BM25Okapi([words(text) for text in texts])
        if package.average_idf > 0:
            found = BM25(k1=1.5, epsilon=0.25).scores(texts_of(texts), Queries([query]))[0]
            assert_close(found.double(), torch.tensor(package.get_scores(words(query))), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("kind", [BM25, TfIdf])
    def test_english_words_find_other_forms_and_pass_over_stop_words(self, kind):
        memory = texts_of(["the cities of the Aztecs", "a café", "what is where"])
        asked = Queries(["What is the city of an Aztec?", "cafes", "which is it?"])
        scores = kind(analyzer=EnglishWords()).scores(memory, asked)
        assert (scores > 0).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
        assert not kind().scores(memory, asked)[1].any()

    def test_the_same_text_is_nearest_even_in_a_memory_of_one_or_two(self):
        for count in (1, 2):
            memory = memory_of(entries=[PEOPLE[0], PEOPLE[3]][:count])
            for kind in (BM25(), TfIdf()):
                scores = kind.scores(memory, Queries(["ada lives in london"]))[0]
                assert scores.argmax() == 0
                assert (scores > 0).all()

    @pytest.mark.parametrize("kind", [BM25(), TfIdf()])
    @pytest.mark.parametrize("empty", ["", " \n", "?!"])
    def test_a_query_without_words_is_refused(self, kind, empty):
        with pytest.raises(ValueError, match=re.escape(f"query 1, {empty!r}, has no word to look for")):
            kind.scores(memory_of(), Queries(["x", empty]))

    @pytest.mark.parametrize("wrong", [{"k1": -0.1}, {"b": 1.1}, {"b": -0.1}, {"epsilon": -1.0}])
    def test_impossible_settings_are_refused(self, wrong):
        with pytest.raises(ValueError, match="BM25 needs"):
            BM25(**wrong)


class TestDense:
    def test_is_the_cosine(self):
        memory, asked = memory_of(), queries_of("who lives in london", "the goat")
        expected = torch.nn.functional.cosine_similarity(asked.vectors[:, None], memory.vectors[None], dim=-1)
        assert_close(Dense().scores(memory, asked), expected)

    @pytest.mark.parametrize("count", [0, 1, 2, FEW, FEW + 1])
    def test_any_number_of_queries_gives_the_products(self, count):
        generator = torch.Generator().manual_seed(count)
        queries, rows = (torch.randn(size, 5, generator=generator).double() for size in (count, 7))
        found = dots(queries, rows)
        assert_close(found, torch.einsum("qw,rw->qr", queries, rows))
        assert found.is_contiguous()

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (None, "not None"),
            (torch.zeros(2, 8), r"shape \(1, 8\).*not \(2, 8\)"),
            (torch.zeros(1, 9), r"not \(1, 9\)"),
            (torch.full((1, 8), torch.nan), "must be finite"),
        ],
    )
    @pytest.mark.parametrize("relevance", [Dense(), BestSentence()])
    def test_refuses_other_vectors(self, relevance, vectors, message):
        with pytest.raises(ValueError, match=message):
            relevance.scores(memory_of(), Queries(["x"], vectors))

    @pytest.mark.parametrize("relevance", [Dense(), BestSentence(), Hybrid(BM25(), Dense())])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_takes_vectors_of_any_precision(self, relevance, dtype):
        asked = queries_of("who lives in london", "the flute")
        found = relevance.scores(memory_of(), asked._replace(vectors=asked.vectors.to(dtype)))
        assert found.dtype == torch.float32
        assert_close(found, relevance.scores(memory_of(), asked), rtol=0, atol=1e-2)


class TestBestSentence:
    def test_is_the_greatest_cosine_of_any_sentence(self):
        memory, asked = (
            texts_of(["Ada sings. Bob lives in Rome.", "Bob lives. Rome is old. Ada is not."]),
            "bob of rome",
        )
        query = ENCODER.encode([asked]).vectors[0]
        told = [["Ada sings.", "Bob lives in Rome."], ["Bob lives.", "Rome is old.", "Ada is not."]]
        expected = [float((ENCODER.encode(own).vectors @ query).max()) for own in told]
        assert_close(BestSentence().scores(memory, queries_of(asked)), torch.tensor([expected]))

    def test_an_interrupted_turn_to_another_memory_leaves_nothing_stale(self, monkeypatch):
        first, other, relevance, asked = texts_of(["Ada sings."]), texts_of(["Bob."]), BestSentence(), queries_of("ada")
        expected = relevance.scores(first, asked)
        with monkeypatch.context() as patched:
            patched.setattr(HashedEncoder, "encode", lambda self, texts: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                relevance.scores(other, asked)
        assert relevance.scores(first, asked).equal(expected)

    def test_what_has_no_word_is_no_sentence_by_itself(self):
        memory = texts_of(["... Ada sings.", "Bob sings."])
        assert BestSentence().scores(memory, queries_of("ada")).argmax() == 0

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("One. Two?  Three!", ["One.", "Two?", "Three!"]),
            (
                "He said “no.” Then 3.5 left (so they say.) It ended.",
                ["He said “no.” Then 3.5 left (so they say.", "It ended."],
            ),
            ("no end", ["no end"]),
            (" It costs. 3 of them. - - ", ["It costs.", "3 of them. - -"]),
            ("... 1. Then (a) it (b) ended.", ["... 1.", "Then (a) it (b) ended."]),
            (" ", []),
        ],
    )
    def test_splits_between_sentences(self, text, expected):
        assert [text[start:end] for start, end in sentence_places(text)] == expected


class TestHybrid:
    def test_is_the_sum_of_z_scores_of_what_can_be_read(self):
        memory = memory_of()
        memory.erase(["eve"])
        asked = queries_of("who lives in the park", "the goat", exclude=[["ada"], []])
        found = Hybrid(BM25(), Dense()).scores(memory, asked)
        parts = [kind.scores(memory, asked) for kind in (BM25(), Dense())]
        for number, rows in enumerate([[1, 3, 4], [0, 1, 3, 4]]):
            own = [part[number, rows] for part in parts]
            expected = sum((one - one.mean()) / one.std(correction=0) for one in own)
            assert expected.std() > 0
            assert_close(found[number, rows], expected)
            assert (found[number] > -math.inf).nonzero()[:, 0].tolist() == rows

    def test_a_part_that_tells_nothing_apart_adds_nothing(self):
        memory, asked = memory_of(), queries_of("unseen")
        assert_close(Hybrid(BM25(), Dense()).scores(memory, asked), Hybrid(Dense(), BM25()).scores(memory, asked))
        alone = memory_of(entries=PEOPLE[:1])
        assert Hybrid(BM25(), Dense()).scores(alone, asked).tolist() == [[0.0]]
        dense = Dense().scores(memory, asked)
        assert Hybrid(BM25(), Dense()).scores(memory, asked).argsort().equal(dense.argsort())


class TestBounds:
    def test_oracle_knows(self):
        memory = memory_of()
        scores = Oracle().scores(memory, Queries(["x", "y"], gold=[["eve", "ada"], []]))
        assert scores.tolist() == [[1, 0, 1, 0, 0], [0] * 5]
        with pytest.raises(EntryError, match="gold of query 0, 'zoe', is not in the memory"):
            Oracle().scores(memory, Queries(["x"], gold=[["zoe"]]))
        with pytest.raises(ValueError, match=r"needs Queries\.gold"):
            Oracle().scores(memory, Queries(["x"]))

    @pytest.mark.parametrize("name", ["gold", "exclude"])
    @pytest.mark.parametrize("ids", [["ada"], [["ada"], ["bob"]], []])
    def test_ids_must_be_a_list_for_each_query(self, name, ids):
        with pytest.raises(ValueError, match=rf"Queries\.{name} must hold"):
            Oracle().scores(memory_of(), Queries(["x"], **{"gold": [["ada"]], name: ids}))

    def test_random_is_uniform_and_a_querys_own(self):
        memory = texts_of(["x"] * 2000)
        scores = Random().scores(memory, Queries(["a", "b", "a"]))
        assert scores[0].equal(scores[2])
        assert scores[1:2].equal(Random().scores(memory, Queries(["b"])))
        assert abs(torch.corrcoef(scores[:2])[0, 1]) < 0.1
        assert abs(scores[0].mean() - 0.5) < 0.03
        assert 0 <= scores.min() < 0.01 < 0.99 < scores.max() <= 1
        assert not scores.equal(Random(1).scores(memory, Queries(["a", "b", "a"])))


@relevances
class TestEveryRelevance:
    def test_vacant_and_excluded_rows_are_never_found(self, relevance):
        memory = memory_of()
        memory.erase(["eve"])
        asked = queries_of("who lives in london", "the goat", gold=[["ivy"], ["max"]])
        free = relevance.scores(memory, asked)
        assert isinstance(relevance, Relevance)
        assert free.shape == (2, 5)
        assert free.dtype == torch.float32
        assert (free > -math.inf).tolist() == [[True, True, False, True, True]] * 2
        bound = relevance.scores(memory, asked._replace(exclude=[["ada", "unknown"], []]))
        assert (bound > -math.inf).tolist() == [[False, True, False, True, True], [True, True, False, True, True]]

    def test_a_query_is_scored_alone(self, relevance):
        memory, texts, gold = memory_of(), ["lives in london", "the goat", "the the"], [["ivy"], ["max"], []]
        together = relevance.scores(memory, queries_of(*texts, gold=gold))
        for own, text, ids in zip(together, texts, gold, strict=True):
            assert_close(own, relevance.scores(memory, queries_of(text, gold=[ids]))[0])

    def test_an_empty_memory_is_refused(self, relevance):
        memory = memory_of()
        memory.erase([entry.id for entry in PEOPLE])
        for empty in (memory, memory_of(entries=[])):
            with pytest.raises(EmptyMemoryError, match="write entries"):
                relevance.scores(empty, queries_of("x", gold=[[]]))

    def test_no_queries_have_no_scores(self, relevance):
        none = Queries([], torch.zeros(0, 8), gold=[])
        assert relevance.scores(memory_of(), none).shape == (0, 5)


def chosen(selected):
    """Pairs (row, score) of each query, after padding was looked at."""
    assert not selected.rows[~selected.mask].any()
    assert not selected.scores[~selected.mask].any()
    return [
        [(int(row), float(score)) for row, score, there in zip(*own, strict=True) if there]
        for own in zip(*selected, strict=True)
    ]


class TestSelection:
    @given(st.data(), SCORES, st.integers(1, 9))
    def test_top_k_equals_sorting(self, data, scores, k):
        other = data.draw(st.permutations(scores))
        selected = TopK(k).select(torch.tensor([scores, other]))
        assert selected.rows.shape == (2, k)
        for own, found in zip((scores, other), chosen(selected), strict=True):
            best = sorted((score for score in own if score > -math.inf), reverse=True)[:k]
            assert [score for _, score in found] == best
            assert all(own[row] == score for row, score in found)
            assert len({row for row, _ in found}) == len(found)

    @given(SCORES, st.sampled_from([-2.0, 0.0, 0.5, 3.0]), st.integers(0, 3), st.integers(3, 9))
    def test_threshold_equals_counting(self, scores, least, minimum, maximum):
        selected = Threshold(least, minimum, maximum).select(torch.tensor([scores]))
        assert selected.rows.shape == (1, maximum)
        best = sorted((score for score in scores if score > -math.inf), reverse=True)
        count = min(max(sum(score >= least for score in best), minimum), maximum)
        assert [score for _, score in chosen(selected)[0]] == best[:count]

    @given(st.data(), SCORES)
    def test_all_is_every_row_that_can_be_read(self, data, scores):
        other = data.draw(st.permutations(scores))
        selected = All().select(torch.tensor([scores, other]))
        for own, found in zip((scores, other), chosen(selected), strict=True):
            assert found == [(row, score) for row, score in enumerate(own) if score > -math.inf]
        readable = [max(pair) > -math.inf for pair in zip(scores, other, strict=True)]
        assert selected.rows.shape == (2, max(sum(readable), 1))

    @pytest.mark.parametrize("rule", [TopK(2), Threshold(0.0), All()])
    def test_keeps_the_contract(self, rule):
        assert isinstance(rule, Selection)
        assert not rule.select(torch.full((2, 3), -math.inf)).mask.any()

    @pytest.mark.parametrize("wrong", [(0.0, -1, 3), (0.0, 4, 3), (0.0, 0, 0)])
    def test_impossible_rules_are_refused(self, wrong):
        with pytest.raises(ValueError, match="Threshold needs"):
            Threshold(*wrong)
        with pytest.raises(ValueError, match=r"TopK\.k must be positive, not 0"):
            TopK(0)
