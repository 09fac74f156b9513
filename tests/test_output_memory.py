"""Memories behind a language model's head: against loops over single numbers, and the laws of a mixture."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.output import nearest as nearest_module
from memnets.memory.output.base import OutputMemory, Recalled, log_probabilities, log_probability_of, mix
from memnets.memory.output.datastore import Datastore, DatastoreError
from memnets.memory.output.nearest import nearest, nearest_reference
from memnets.memory.output.neural_cache import NeuralCache

BATCH, TIME, HIDDEN, VOCAB = 2, 9, 3, 5
sizes = pytest.mark.parametrize("size", [1, 2, 5, 9, 40])


def text(seed=0, time=TIME, batch=BATCH):
    """What a head might have read, and the words that followed."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, time, HIDDEN, generator=generator, dtype=torch.float64)
    return hidden, torch.randint(VOCAB, (batch, time), generator=generator)


def own_of(batch=BATCH, time=TIME):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, time, VOCAB, generator=generator, dtype=torch.float64).log_softmax(-1)


def cache_of(size):
    return NeuralCache(HIDDEN, size).double()


def datastore_of(k=4, entries=11):
    hidden, words = text(3, entries, 1)
    return Datastore(hidden[0], words[0], k)


def after(memory, hidden, words):
    """State after a text."""
    return memory(hidden, words, memory.initial_state(len(hidden)))[1]


def cache_by_loop(hidden, words, size, theta, vocab=VOCAB):
    """Equation 3 of arXiv:1612.04426, for one row; None where nothing is remembered."""
    rows = []
    for t in range(len(hidden)):
        weight = [0.0] * vocab
        for i in range(max(t - size, 0), t):
            dot = sum(a * b for a, b in zip(hidden[t], hidden[i], strict=True))
            weight[words[i]] += math.exp(theta * dot)
        rows.append([one / sum(weight) for one in weight] if t else None)
    return rows


class TestNeuralCache:
    @sizes
    @pytest.mark.parametrize("theta", [0.0, 0.3, 2.0])
    def test_equals_a_loop_over_the_text(self, size, theta):
        hidden, words = text()
        own = own_of()
        recalled, _ = cache_of(size)(hidden, words, cache_of(size).initial_state(BATCH))
        found = log_probabilities(recalled, theta, own).exp()
        for row in range(BATCH):
            for step, expected in enumerate(cache_by_loop(hidden[row].tolist(), words[row].tolist(), size, theta)):
                p = own[row, step].exp() if expected is None else torch.tensor(expected, dtype=torch.float64)
                assert_close(found[row, step], p)

    @sizes
    @pytest.mark.parametrize("cuts", [(1, 8), (4, 5), (2, 3, 4), (9,), (1,) * 9])
    def test_segments_equal_read_and_write_step_by_step(self, size, cuts):
        hidden, words = text()
        memory = cache_of(size)
        slow, slow_state = OutputMemory.forward(memory, hidden, words, memory.initial_state(BATCH))
        state, rows = memory.initial_state(BATCH), []
        for some, following in zip(hidden.split(cuts, 1), words.split(cuts, 1), strict=True):
            recalled, state = memory(some, following, state)
            rows.append(log_probabilities(recalled, 0.7, own_of()[:, : some.shape[1]] * torch.nan))
        expected = log_probabilities(slow, 0.7, own_of() * torch.nan)
        assert_close(torch.cat(rows, 1), expected, equal_nan=True)
        assert expected.isnan().all(-1).sum() == BATCH, "nothing is recalled at the first step only"
        assert_close(named_tensors(state), named_tensors(slow_state))

    def test_never_sees_the_future(self):
        """Words from a step on change no probability up to that step, though they are those asked for."""
        hidden, words = text()
        memory = cache_of(4)
        start = memory.initial_state(BATCH)
        before = log_probabilities(memory(hidden, words, start)[0], 1.0, own_of())
        for step in range(TIME):
            later, others = hidden.clone(), words.clone()
            others[:, step:] = (words[:, step:] + 1) % VOCAB
            later[:, step + 1 :] += 1
            found = log_probabilities(memory(later, others, start)[0], 1.0, own_of())
            assert found[:, : step + 1].equal(before[:, : step + 1])
            assert step + 1 == TIME or not found[:, step + 1 :].equal(before[:, step + 1 :])

    def test_rows_are_their_own_and_can_be_emptied(self):
        hidden, words = text()
        memory = cache_of(5)
        state = after(memory, hidden, words)
        reset = memory.reset(state, torch.tensor([True, False]))
        recalled, _ = memory(hidden, words, reset)
        fresh, _ = memory(hidden, words, memory.initial_state(BATCH))
        kept, _ = memory(hidden, words, state)
        for row, expected in enumerate((fresh, kept)):
            one = Recalled(recalled.scores[row : row + 1], recalled.words[row : row + 1])
            other = Recalled(expected.scores[row : row + 1], expected.words[row : row + 1])
            assert log_probabilities(one, 1.0, own_of(1)).equal(log_probabilities(other, 1.0, own_of(1)))
        assert not log_probabilities(kept, 1.0, own_of())[0].equal(log_probabilities(fresh, 1.0, own_of())[0])

    def test_leaves_its_state_and_itself_as_they_were(self):
        hidden, words = text()
        memory = cache_of(5)
        state = after(memory, hidden, words)
        before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
        memory(hidden + 1, words, state)
        assert_close(named_tensors(state), before, rtol=0, atol=0)
        assert not memory.empty.any()

    def test_size_too_small(self):
        with pytest.raises(ValueError, match=r"NeuralCache\.size must be at least 1, not 0"):
            NeuralCache(HIDDEN, 0)


class TestNearest:
    @given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.integers(1, 7), st.data())
    def test_equals_all_distances_at_once(self, entries, queries, keys_block, queries_block, data):
        k = data.draw(st.integers(1, entries))
        generator = torch.Generator().manual_seed(entries)
        keys, asked = (torch.randn(n, HIDDEN, generator=generator, dtype=torch.float64) for n in (entries, queries))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nearest_module, "KEYS", keys_block)
            patch.setattr(nearest_module, "QUERIES", queries_block)
            distances, places = nearest(asked, keys, k)
        expected = nearest_reference(asked, keys, k)
        assert_close(distances, expected[0])
        assert places.equal(expected[1])

    def test_small_distances_between_long_vectors_are_not_lost(self):
        keys = 1e3 + torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0, 1, 0]])
        distances, _ = nearest(keys[:1], keys, 3)
        assert distances.tolist() == [[0, 0.0625, 1]]


class TestDatastore:
    @pytest.mark.parametrize("k", [1, 4, 11])
    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_equals_a_loop_over_its_entries(self, k, temperature):
        memory, (hidden, words) = datastore_of(k), text()
        recalled, state = memory(hidden, words, memory.initial_state(BATCH))
        assert state == ()
        found = log_probabilities(recalled, 1 / temperature, own_of()).exp()
        keys, following = memory.keys.tolist(), memory.words.tolist()
        for row in range(BATCH):
            for step, query in enumerate(hidden[row].tolist()):
                apart = [sum((a - b) ** 2 for a, b in zip(query, key, strict=True)) for key in keys]
                weight = [0.0] * VOCAB
                for place in sorted(range(len(keys)), key=apart.__getitem__)[:k]:
                    weight[following[place]] += math.exp(-apart[place] / temperature)
                expected = [one / sum(weight) for one in weight]
                assert_close(found[row, step], torch.tensor(expected, dtype=torch.float64))

    def test_all_at_once_equals_step_by_step(self):
        memory, (hidden, words) = datastore_of(), text()
        slow, _ = OutputMemory.forward(memory, hidden, words, ())
        fast, _ = memory(hidden, words, ())
        assert_close(fast.scores, slow.scores)
        assert fast.words.equal(slow.words)

    def test_is_saved_and_restored_bit_for_bit(self, tmp_path):
        memory = datastore_of()
        memory.save(tmp_path / "store", {"weights": "a", "text": "b"})
        again = Datastore.load(tmp_path / "store", {"weights": "a", "text": "b"}, 4)
        assert_close(dict(again.named_buffers()), dict(memory.named_buffers()), rtol=0, atol=0)
        assert again.k == 4

    @pytest.mark.parametrize(
        ("origin", "message"),
        [
            ({"weights": "c", "text": "b"}, "was built from other weights than asked for. Remove the folder"),
            ({"weights": "c", "text": "d"}, "was built from other weights and text than"),
            ({"weights": "a", "text": "b", "entries": 3}, "was built from other entries than"),
        ],
    )
    def test_refuses_another_origin(self, tmp_path, origin, message):
        datastore_of().save(tmp_path, {"weights": "a", "text": "b"})
        with pytest.raises(DatastoreError, match=message):
            Datastore.load(tmp_path, origin, 4)

    def test_refuses_what_is_damaged_or_cut_off(self, tmp_path):
        datastore_of().save(tmp_path, {})
        entries = tmp_path / "datastore.safetensors"
        content = entries.read_bytes()
        entries.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DatastoreError, match=r"is damaged: its checksum is not the one in datastore.json"):
            Datastore.load(tmp_path, {}, 4)
        (tmp_path / "datastore.json").unlink()
        with pytest.raises(DatastoreError, match="is no whole datastore"):
            Datastore.load(tmp_path, {}, 4)

    def test_a_checksum_is_written_last(self, tmp_path, monkeypatch):
        datastore_of().save(tmp_path, {})
        monkeypatch.setattr("memnets.memory.output.datastore.save_file", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            datastore_of().save(tmp_path, {})
        assert not (tmp_path / "datastore.json").exists()

    def test_refuses_more_neighbours_than_entries_and_keys_that_overflow(self):
        for k in (0, 12):
            with pytest.raises(
                ValueError, match=rf"Datastore.k must be between 1 and the number of entries, 11, not {k}"
            ):
                datastore_of(k)
        keys = torch.zeros(3, HIDDEN)
        keys[1, 1] = math.inf
        with pytest.raises(ValueError, match="keys must be finite"):
            Datastore(keys, torch.zeros(3, dtype=torch.long), 1)

    def test_facts_are_json(self, tmp_path):
        datastore_of().save(tmp_path, {"entries": 11})
        assert json.loads((tmp_path / "datastore.json").read_text())["origin"] == {"entries": 11}


MEMORIES = {"cache": lambda: cache_of(4), "datastore": datastore_of}


@pytest.mark.parametrize("make", MEMORIES.values(), ids=MEMORIES)
class TestMixture:
    @given(strength=st.floats(0, 1e4), share=st.floats(0, 1))
    def test_sums_to_one(self, make, strength, share):
        hidden, words = text()
        memory = make()
        recalled, _ = memory(hidden, words, memory.initial_state(BATCH))
        mixed = mix([own_of(), log_probabilities(recalled, strength, own_of())], [1 - share, share])
        assert_close(mixed.exp().sum(-1), torch.ones(BATCH, TIME, dtype=torch.float64))
        assert not mixed.isnan().any()

    @given(strength=st.floats(0, 100))
    def test_one_word_s_probability_is_that_among_all(self, make, strength):
        hidden, words = text()
        memory = make()
        recalled, _ = memory(hidden, words, memory.initial_state(BATCH))
        among = log_probabilities(recalled, strength, own_of()).gather(-1, words[..., None])[..., 0]
        alone = log_probability_of(words, recalled, strength, own_of().gather(-1, words[..., None])[..., 0])
        assert_close(alone.exp(), among.exp())
        assert (alone == -torch.inf).any(), "some word is not recalled"

    def test_share_zero_is_the_model_exactly(self, make):
        hidden, words = text()
        memory = make()
        recalled, _ = memory(hidden, words, memory.initial_state(BATCH))
        assert mix([own_of(), log_probabilities(recalled, 1.0, own_of())], [1.0, 0.0]).equal(own_of())


def test_where_nothing_is_recalled_the_model_speaks_alone():
    nothing = Recalled(torch.full((1, 2, 3), -torch.inf), torch.zeros(1, 1, 3, dtype=torch.long))
    own = torch.randn(1, 2, VOCAB).log_softmax(-1)
    assert log_probabilities(nothing, 1.0, own).equal(own)
    assert mix([own, log_probabilities(nothing, 0.0, own)], [0.4, 0.6]).allclose(own)
    assert log_probability_of(torch.tensor([[1, 2]]), nothing, 1.0, own[..., 1]).equal(own[..., 1])


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.5, -0.5]])
def test_shares_that_are_none(shares):
    with pytest.raises(ValueError, match="must not be negative and must sum to 1"):
        mix([torch.zeros(1), torch.zeros(1)], shares)
