"""The Memory Network against loops over single numbers, and the laws of its slots: padding, ages, order, rows."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import softmax
from torch.func import functional_call, stack_module_state, vmap
from torch.testing import assert_close

from memnets.contracts import Spec, Story
from memnets.memory.attention_score import AdditiveScore, DotScore, ScaledDotScore
from memnets.memory.memory_network import PaddedEmbedding, SentenceEmbedding, ages, ages_among_blanks
from memnets.models import memn2n
from memnets.models.memn2n import MemN2N
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.memory_hops import centred_weights, position_weights

ABLATIONS = list(product(["adjacent", "layerwise"], ["none", "paper", "centred"], [True, False]))


def model_of(ablation=("adjacent", "paper", True), vocab=7, sentences=4, words=3, **sizes):
    tying, position, time = ablation
    spec = Spec("story", vocab, vocab, sentences, words)
    return MemN2N(spec, weight_tying=tying, position_encoding=position, temporal_encoding=time, **sizes)


def story_of(lengths, vocab=7, words=3):
    """One row per list of sentence lengths, the last of which is the question's."""
    sentences = max(len(row) for row in lengths) - 1
    story, query = np.zeros((len(lengths), sentences, words), dtype=int), np.zeros((len(lengths), words), dtype=int)
    random = np.random.default_rng(0)
    for b, row in enumerate(lengths):
        for i, length in enumerate(row[:-1]):
            story[b, i, :length] = random.integers(1, vocab, length)
        query[b, : row[-1]] = random.integers(1, vocab, row[-1])
    return Story(torch.from_numpy(story), torch.from_numpy(query))


EXAMPLE = story_of([[3, 2, 1, 2], [2, 3], [1, 1, 1, 3, 1]])


def embed_by_loop(model, embedding, sentence, age):
    """Σ_j l_j · x_j + T(age) for one sentence, a list of word ids without padding."""
    size, total = len(sentence), 0.0
    width, most = embedding.words.weight.shape[1], embedding.most_words + 1
    components = range(1, width + 1)
    for j, word in enumerate(sentence, start=1):
        vector = embedding.words.weight[word - 1].tolist()
        weights = {
            "none": [1.0] * width,
            "paper": [(1 - j / size) - (k / width) * (1 - 2 * j / size) for k in components],
            "centred": [1 + 4 * (k - (width + 1) / 2) * (j - (most + 1) / 2) / (width * most) for k in components],
        }[embedding.position_encoding]
        total = total + np.array(vector) * np.array(weights)
    if embedding.ages is None or age is None:
        return total
    time = np.array(embedding.ages.weight[age - 1].tolist())
    if embedding.position_encoding == "centred":
        time *= [1 + 4 * (k - (width + 1) / 2) * (most - (most + 1) / 2) / (width * most) for k in components]
    return total + time


def logits_by_loop(model, story, query):
    sentences = [[w for w in sentence if w] for sentence in story.tolist()]
    sentences = [sentence for sentence in sentences if sentence]
    asked = [w for w in query.tolist() if w]
    tables = list(model.embeddings)
    u = embed_by_loop(model, model.question or tables[0], asked, None)
    for k in range(model.num_hops):
        key, value = (tables[k], tables[k + 1]) if model.adjacent else tables
        slots = [(s, len(sentences) - i) for i, s in enumerate(sentences)]
        weights = [float(u @ embed_by_loop(model, key, s, age)) for s, age in slots]
        weights = weights if model.phases_left else softmax(weights)
        o = sum(p * embed_by_loop(model, value, s, age) for p, (s, age) in zip(weights, slots, strict=True))
        u = (u if model.adjacent else np.array(model.update.tolist()) @ u) + o
        u = np.maximum(u, 0) if isinstance(model.activation, torch.nn.ReLU) else u
    answers = [[0.0] * len(u), *tables[-1].words.weight.tolist()] if model.adjacent else model.answer.tolist()
    return np.array(answers) @ u


shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 6))


class TestValues:
    @given(
        shapes,
        st.sampled_from(ABLATIONS),
        st.integers(1, 3),
        st.integers(1, 5),
        st.sampled_from([None, torch.nn.ReLU()]),
        st.booleans(),
        st.data(),
    )
    def test_equals_a_loop_over_single_numbers(self, shape, ablation, num_hops, width, activation, linear, data):
        batch, sentences, words, vocab = shape
        counts = [data.draw(st.integers(1, sentences)) for _ in range(batch)]
        lengths = [[data.draw(st.integers(1, words)) for _ in range(count + 1)] for count in counts]
        inputs = story_of(lengths, vocab, words)
        parts = {"num_hops": num_hops, "embedding_size": width, "activation": activation, "linear_start": linear}
        model = model_of(ablation, vocab, sentences, words, **parts).double()
        expected = [logits_by_loop(model, story, query) for story, query in zip(*inputs, strict=True)]
        logits, state = model(inputs)
        assert_close(logits.detach(), torch.tensor(np.array(expected)))
        assert state == () == model.initial_state(batch)

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_gradients_match_finite_differences(self, ablation):
        model = model_of(ablation, num_hops=2, embedding_size=2).double()
        names, values = zip(*model.named_parameters(), strict=True)

        def logits(*parameters):
            return functional_call(model, dict(zip(names, parameters, strict=True)), (EXAMPLE,))[0]

        assert torch.autograd.gradcheck(logits, [10 * value.detach().requires_grad_() for value in values])

    def test_parameters_start_from_a_normal_distribution_of_standard_deviation_a_tenth(self):
        model = model_of(("layerwise", "paper", True), vocab=400, sentences=60, embedding_size=50)
        for parameter in model.parameters():
            assert abs(parameter.std().item() - 0.1) < 0.01
            assert abs(parameter.mean().item()) < 0.01

    def test_position_weights_are_the_papers(self):
        weights = position_weights(torch.tensor([[3, 4, 0], [5, 0, 0]]), 2)
        j_of_2 = [[0.5, 0.5], [0.5, 1.0]]  # J = 2: 1 - j/2 - (k/2)(1 - j), k = 1, 2
        assert_close(weights[0, :2], torch.tensor(j_of_2))
        assert_close(weights[1, 0], torch.tensor([0.5, 1.0]))

    def test_position_weights_are_the_authors(self):
        weights = position_weights(torch.tensor([[3, 4, 0], [5, 0, 0]]), 2, encoding="centred", most_words=3)
        j_of_4 = [[1.375, 0.625], [1.125, 0.875], [0.875, 1.125]]  # J = 3 + 1: 1 + (k - 1.5)(j - 2.5)/2, k = 1, 2
        assert_close(weights, torch.tensor([j_of_4, j_of_4]))

    def test_the_authors_weights_of_words_and_time_have_a_mean_of_1(self):
        assert_close(centred_weights(torch.arange(1.0, 8), 20, most_words=6).mean(), torch.tensor(1.0))


class TestParameters:
    @pytest.mark.parametrize("ablation", ABLATIONS)
    @pytest.mark.parametrize("num_hops", [1, 3])
    def test_every_parameter_gets_a_gradient(self, ablation, num_hops):
        model = model_of(ablation, num_hops=num_hops)
        torch.nn.functional.cross_entropy(model(EXAMPLE)[0], torch.tensor([1, 2, 3])).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.parametrize(("tying", "num_hops", "tables"), [("adjacent", 3, 4), ("layerwise", 3, 2)])
    def test_tying_shares_the_tables(self, tying, num_hops, tables):
        vocab, width, sentences = 7, 5, 4
        model = model_of((tying, "paper", True), vocab, sentences, embedding_size=width, num_hops=num_hops)
        apart = 0 if tying == "adjacent" else (vocab - 1) * width + width * width + vocab * width
        expected = tables * ((vocab - 1) + sentences) * width + apart
        assert sum(parameter.numel() for parameter in model.parameters()) == expected

    @pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
    def test_padding_stays_zero(self, make):
        model = model_of()
        optimizer = make(model.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            logits, _ = model(EXAMPLE)
            assert (logits[:, 0] == 0).all()
            torch.nn.functional.cross_entropy(logits, torch.tensor([1, 2, 3])).backward()
            optimizer.step()
        for embedding in model.embeddings:
            assert (embedding.words(torch.tensor([0])) == 0).all()
            assert (embedding.ages(torch.tensor([0])) == 0).all()
            assert (embedding.words(torch.tensor([1])) != 0).all()


class TestLaws:
    @pytest.mark.parametrize("ablation", ABLATIONS)
    @pytest.mark.parametrize(("more_words", "more_sentences"), [(2, 0), (0, 3), (1, 2)])
    def test_padding_changes_nothing(self, ablation, more_words, more_sentences):
        model = model_of(ablation).double()
        story = torch.nn.functional.pad(EXAMPLE.story, (0, more_words, 0, more_sentences))
        padded = Story(story, torch.nn.functional.pad(EXAMPLE.query, (0, more_words)))
        assert_close(model(padded)[0], model(EXAMPLE)[0])
        assert_close(model.attention(padded)[..., : EXAMPLE.story.shape[1]], model.attention(EXAMPLE))

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_a_row_depends_on_itself_alone(self, ablation):
        model = model_of(ablation).double()
        whole = model(EXAMPLE)[0]
        for row in range(len(whole)):
            alone = Story(EXAMPLE.story[row : row + 1], EXAMPLE.query[row : row + 1])
            assert_close(model(alone)[0], whole[row : row + 1])

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_order_of_sentences_matters_with_temporal_encoding_alone(self, ablation):
        model = model_of(ablation).double()
        inputs = story_of([[3, 2, 1, 3]])
        logits = model(inputs)[0]
        swapped = model(Story(inputs.story[:, [1, 0, 2]], inputs.query))[0]
        assert torch.allclose(logits, swapped, atol=1e-9) != ablation[2]

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_order_of_words_matters_with_position_encoding_alone(self, ablation):
        inputs = story_of([[3, 3, 3, 3]], vocab=60)
        model = model_of(ablation, vocab=60).double()
        swapped = model(Story(inputs.story[:, :, [1, 0, 2]], inputs.query))[0]
        assert torch.allclose(model(inputs)[0], swapped, atol=1e-9) == (ablation[1] == "none")

    def test_attention_is_a_distribution_over_the_sentences_told(self):
        attention = model_of(num_hops=2).attention(EXAMPLE)
        told = (EXAMPLE.story != 0).any(-1)
        assert attention.shape == (3, 2, 4)
        assert (attention[~told[:, None].expand_as(attention)] == 0).all()
        assert (attention[told[:, None].expand_as(attention)] > 0).all()
        assert_close(attention.sum(-1), torch.ones(3, 2))

    def test_nothing_is_remembered(self):
        model = model_of()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        names = set(vars(model))
        model.attention(EXAMPLE)
        assert_close(model(EXAMPLE)[0], model(EXAMPLE)[0], rtol=0, atol=0)
        assert set(vars(model)) == names
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_an_empty_story_gives_finite_outputs_and_gradients(self, ablation):
        model = model_of(ablation)
        inputs = Story(torch.zeros(2, 4, 3, dtype=torch.long), torch.tensor([[1, 2, 0], [0, 0, 0]]))
        logits, _ = model(inputs)
        logits.square().sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert (model.attention(inputs) == 0).all()


class TestTime:
    def test_ages_count_back_from_the_newest(self):
        told = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]])
        expected = torch.tensor([[3, 2, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [3, 2, 1, 0]])
        assert torch.equal(ages(told[:, :, None]), expected)

    def test_sentences_beyond_the_oldest_known_age_share_its_vector(self):
        embedding = SentenceEmbedding(4, 2, position_encoding="none", max_age=2)
        story = torch.tensor([[[1], [1], [1], [1]]])
        slots = embedding.slots(story, ages(story))[0]
        assert_close(slots[0], slots[2])
        assert_close(slots[3] - slots[2], embedding.ages.weight[0] - embedding.ages.weight[1])

    def test_padding_embedding_gives_zeros_and_its_rows(self):
        embedding = PaddedEmbedding(3, 2)
        assert_close(embedding(torch.tensor([0, 2])), torch.stack([torch.zeros(2), embedding.weight[1]]))


class TestRefusals:
    def test_a_task_that_is_no_story(self):
        with pytest.raises(ValueError, match=r"MemN2N reads story, but the task gives tokens: .*task.view=story"):
            MemN2N(Spec("tokens", 5, 5))

    def test_outputs_that_adjacent_tying_cannot_give(self):
        spec = Spec("story", 5, 4, 2, 2)
        with pytest.raises(ValueError, match="weight_tying=layerwise"):
            MemN2N(spec)
        assert MemN2N(spec, weight_tying="layerwise")(story_of([[1, 1]], 5, 2))[0].shape == (1, 4)

    def test_an_unknown_position_encoding(self):
        with pytest.raises(ValueError, match="position_encoding must be one of none, paper, centred, not 'center'"):
            memn2n._check(Spec("story", 5, 5, 2, 2), 1, "adjacent", "center")

    def test_no_hops(self):
        with pytest.raises(ValueError, match="num_hops must be at least 1, not 0"):
            model_of(num_hops=0)

    def test_an_unknown_tying(self):  # not through the constructor, whose annotation refuses it first under test
        with pytest.raises(ValueError, match="must be adjacent or layerwise, not 'both'"):
            memn2n._check(Spec("story", 5, 5, 2, 2), 1, "both", "paper")


class TestAttentionScore:
    @pytest.mark.parametrize("kind", [DotScore, ScaledDotScore, AdditiveScore])
    def test_all_hops_share_it(self, kind):
        model = model_of(embedding_size=5, attention_score=kind)
        model(EXAMPLE)[0].square().sum().backward()
        assert isinstance(model.attention_score, kind)
        assert all(weight.grad.any() for weight in model.attention_score.parameters())
        told = (EXAMPLE.story != 0).any(-1)
        assert_close(model.attention(EXAMPLE).sum(-1), told.any(1)[:, None].float().expand(3, 3))

    def test_width_reaches_it(self):
        assert model_of(embedding_size=16, attention_score=ScaledDotScore).attention_score.scale == 0.25


class TestRandomNoise:
    @given(
        st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        st.integers(0, 99),
    )
    def test_ages_keep_their_order_and_rise_by_blanks(self, told, share, seed):
        torch.manual_seed(seed)
        age = ages(torch.tensor(told).long()[:, :, None])
        shifted = ages_among_blanks(age, share)
        for before, after in zip(age.tolist(), shifted.tolist(), strict=True):
            pairs = [(a, b) for a, b in zip(before, after, strict=True) if a]
            count = max(before)
            assert [b for a, b in zip(before, after, strict=True) if not a] == [0] * before.count(0)
            assert all(a <= b <= a + math.ceil(share * count) for a, b in pairs)
            assert all(older > newer for (_, older), (_, newer) in pairwise(pairs))

    def test_every_place_and_number_of_blanks_is_as_likely(self):
        """Three sentences, at most two blanks: 1 way without, 4 with one, 10 with two, a third each."""
        shifted = ages_among_blanks(torch.tensor([[3, 2, 1]]).expand(30_000, 3), 0.5)
        shares = {tuple(row): 0.0 for row in shifted.tolist()}
        for row in shifted.tolist():
            shares[tuple(row)] += 1 / len(shifted)

        def expected(row):
            return sum(1 / 3 / math.comb(3 + blanks, 3) for blanks in range(3) if row[0] <= 3 + blanks)

        assert len(shares) == 10
        assert shares == {row: pytest.approx(expected(row), abs=0.01) for row in shares}

    def test_follows_the_global_generator_and_training_alone(self):
        model, quiet = model_of(random_noise=1.0), model_of()
        quiet.load_state_dict(model.state_dict())
        torch.manual_seed(1)
        first, second = model(EXAMPLE)[0], model(EXAMPLE)[0]
        torch.manual_seed(1)
        assert torch.equal(model(EXAMPLE)[0], first)
        assert not torch.equal(first, second)
        assert torch.equal(model.eval()(EXAMPLE)[0], quiet(EXAMPLE)[0])

    def test_blanks_shift_ages_and_take_no_weight(self, monkeypatch):
        """The same logits as of a story in which empty sentences are told, of a network that knows such ages."""
        told = story_of([[3, 2, 1, 2]])
        blank = torch.zeros_like(told.story[:, :1])
        longer = torch.cat([told.story[:, :1], blank, told.story[:, 1:]], dim=1)
        model = model_of(random_noise=0.3).double()
        monkeypatch.setattr(memn2n, "ages_among_blanks", lambda age, share: torch.tensor([[4, 2, 1]]))
        assert_close(model(told)[0], model.eval()(Story(longer, told.query))[0])

    def test_none_draws_nothing(self):
        model = model_of()
        state = torch.get_rng_state()
        model(EXAMPLE)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_a_share_that_is_none(self, share):
        with pytest.raises(ValueError, match="random_noise must lie between 0 and 1"):
            model_of(random_noise=share)


class TestLinearStart:
    def test_padding_and_empty_stories_have_no_weight(self):
        model = model_of(linear_start=True)
        attention, told = model.attention(EXAMPLE), (EXAMPLE.story != 0).any(-1)
        assert (attention[~told[:, None].expand_as(attention)] == 0).all()
        assert (attention < 0).any()
        empty = Story(torch.zeros_like(EXAMPLE.story), EXAMPLE.query)
        assert (model.attention(empty) == 0).all()
        assert model(empty)[0].isfinite().all()

    def test_the_second_phase_is_the_network_itself(self):
        model, plain = model_of(linear_start=True), model_of()
        plain.load_state_dict(model.state_dict(), strict=False)
        assert not torch.allclose(model(EXAMPLE)[0], plain(EXAMPLE)[0])
        model.enter_next_phase()
        assert torch.equal(model(EXAMPLE)[0], plain(EXAMPLE)[0])
        with pytest.raises(RuntimeError, match="no phase of training left"):
            model.enter_next_phase()

    def test_without_it_a_checkpoint_holds_parameters_alone(self):
        assert set(model_of().state_dict()) == {name for name, _ in model_of().named_parameters()}


def gradients_of(model, inputs=EXAMPLE):
    """Logits, and the gradient of every parameter for the sum of their squares."""
    logits, _ = model(inputs)
    return logits, torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)


class TestKernel:
    @pytest.mark.parametrize("ablation", ABLATIONS)
    @pytest.mark.parametrize("linear", [True, False])
    @pytest.mark.parametrize("activation", [None, torch.nn.ReLU()])
    def test_same_under_both_backends(self, ablation, linear, activation):
        model = model_of(ablation, linear_start=linear, activation=activation).double()
        with use_backend("cpu"):
            fused = gradients_of(model)
        with use_backend("reference"):
            assert_close(fused, gradients_of(model), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("attend_empty", [True, False])
    @pytest.mark.parametrize("score", [DotScore, ScaledDotScore])
    def test_same_with_noise_and_either_score(self, score, attend_empty):
        parts = {"attention_score": score, "attend_empty": attend_empty}
        model, found = model_of(embedding_size=5, random_noise=1.0, **parts).double(), []
        for backend in ("cpu", "reference"):
            torch.manual_seed(1)
            with use_backend(backend):
                found.append(gradients_of(model))
        assert_close(*found, rtol=1e-10, atol=1e-12)

    def test_what_it_cant_express_runs_hop_by_hop(self):
        class Watched(SentenceEmbedding):
            pass

        subclassed, hooked = model_of(), model_of()
        subclassed.embeddings[0].__class__ = Watched
        hooked.attention_score.register_forward_hook(lambda *_: None)
        for model, reason in [
            (model_of(attention_score=AdditiveScore), "it has no AdditiveScore, Linear"),
            (model_of(activation=torch.nn.Tanh()), "it has no Tanh"),
            (subclassed, "it has no Watched"),
            (hooked, "it wouldn't call the hooks"),
        ]:
            logits, _ = model(EXAMPLE)
            with use_backend("reference"):
                assert model(EXAMPLE)[0].equal(logits)
            with use_backend("cpu"), pytest.raises(BackendError, match=f"can't run memory_hops: {reason}"):
                model(EXAMPLE)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
    def test_replicas_at_once_are_each_alone(self, backend, tying):
        """Some of them still linear, the others no longer."""
        models = [model_of((tying, "paper", True), linear_start=True).double() for _ in range(3)]
        models[1].enter_next_phase()
        parameters, buffers = stack_module_state(models)

        def logits(parameters, buffers):
            return functional_call(models[0], (parameters, buffers), (EXAMPLE,))[0]

        with use_backend(backend):
            together = vmap(logits)(parameters, buffers)
            gradients = torch.autograd.grad(together.square().sum(), list(parameters.values()))
            alone = [gradients_of(model) for model in models]
        assert_close(together, torch.stack([each for each, _ in alone]), rtol=1e-10, atol=1e-12)
        for gradient, each in zip(gradients, zip(*(found for _, found in alone), strict=True), strict=True):
            assert_close(gradient, torch.stack(each), rtol=1e-10, atol=1e-12)
