"""Neural memory in a layer: what its queries read, chunks counted from a row's start, and what stays finite."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_slots import BATCH, HEADS, SIZES, WORD, Steps, pieces, steps_of, unit_length, window_of
from torch.testing import assert_close

from memnets.contracts import map_tensors, named_tensors
from memnets.memory.slots.test_time import NeuralMemory
from memnets.memory.window_attention import visible_near
from memnets.ops.neural_memory import neural_memory_reference

WINDOW, CHUNK = 5, 4
every_network = pytest.mark.parametrize("hidden_size", [None, 6], ids=["linear", "two_layers"])


def memory_of(hidden_size=6, chunk_size=CHUNK, window=WINDOW):
    torch.manual_seed(0)
    memory = NeuralMemory(SIZES._replace(window=window), hidden_size, chunk_size).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return memory


def sequence(time, batch=BATCH):
    """Steps with keys of length 1, as a layer's are, and hidden vectors."""
    steps = steps_of(time, batch)
    return steps._replace(keys=unit_length(steps.keys)), torch.randn(batch, time, HEADS * WORD).double()


def window_at(steps, hidden, first, last, begun=None, window=WINDOW):
    chunk = window_of(steps, first, last, window)
    start = first - (torch.zeros(len(hidden), dtype=torch.long) if begun is None else begun)
    visible = visible_near(start, last - first, window, window - 1)
    return chunk._replace(hidden=hidden[:, first:last], start=start, visible=visible)


def read_all(memory, steps, hidden, cuts=(), window=WINDOW):
    state, reads = memory.initial_state(len(hidden)), []
    for first, last in pieces(hidden.shape[1], cuts, window):
        read, state = memory(window_at(steps, hidden, first, last, window=window), state)
        reads.append(read)
    return torch.cat(reads, dim=2), state


def set_gates(memory, rate, carry, kept):
    """The same for every entry."""
    with torch.no_grad():
        memory.gates.weight.zero_()
        memory.gates.bias.copy_(torch.tensor([rate, carry, kept]).logit().repeat_interleave(HEADS))


class TestRead:
    @every_network
    def test_equals_the_reference_over_the_whole_sequence(self, hidden_size):
        memory, (steps, hidden) = memory_of(hidden_size), sequence(19)
        gates = (hidden @ memory.gates.weight.T + memory.gates.bias).unflatten(-1, (3, HEADS)).permute(2, 0, 3, 1)
        rate, carry, kept = gates.sigmoid()
        read, loss, network = neural_memory_reference(
            steps.query / steps.query.norm(dim=-1, keepdim=True),
            steps.keys,
            steps.values,
            rate * (1 - carry),
            carry.log(),
            kept.log(),
            memory.initial_state(BATCH).network,
            CHUNK,
            2 * math.sqrt(WORD),
        )
        answers, state = read_all(memory, steps, hidden)
        assert_close(answers, read, rtol=1e-6, atol=1e-6)
        assert_close(named_tensors(state.network), named_tensors(network), rtol=1e-9, atol=1e-9)
        assert_close((state.loss, state.kept), (loss.sum(-1), kept.sum(-1)))

    def test_an_entry_is_recalled_from_the_next_chunk_on_until_another_comes(self):
        """Linear, rate 1/2 of the length-1 key's error, no momentum, nothing lost, orthogonal keys: exactly."""
        memory = memory_of(None, chunk_size=2)
        set_gates(memory, 0.5, 0.0, 1.0)
        with torch.no_grad():
            memory.first[0].zero_()
        places = torch.tensor([0, 1, 2, 0, 3, 1])
        keys = torch.eye(WORD).double()[places].expand(1, HEADS, 6, WORD)
        values = torch.rand(1, HEADS, 6, WORD).double() - 0.5
        for sought in range(WORD):
            query = 7 * torch.eye(WORD).double()[[sought] * 6].expand(1, HEADS, 6, WORD)
            answers, _ = read_all(
                memory, Steps(query, query, keys, keys, values), torch.zeros(1, 6, SIZES.d_model).double()
            )
            for t in range(6):
                before = [s for s in range(t - t % 2) if places[s] == sought]
                expected = values[:, :, before[-1]] if before else torch.zeros(1, HEADS, WORD).double()
                assert_close(answers[:, :, t], expected, rtol=1e-6, atol=1e-6)

    def test_at_first_it_moves_by_all_of_the_error_in_the_end(self):
        """Whatever the momentum: 2 · rate · (1 - e) · (1 + e + e² + ...) with the rate's first value."""
        memory = NeuralMemory(SIZES._replace(window=64), None, 64).double()
        rate, carry, kept = memory.gates.bias.detach().unflatten(0, (3, HEADS)).sigmoid()
        assert_close([rate, carry, kept], [torch.full((HEADS,), share).double() for share in (0.5, 0.5, 0.99)])
        set_gates(memory, 0.5, 0.5, 1.0)
        steps, hidden = sequence(64)
        steps = steps._replace(values=steps.values / 10)
        gone = steps.keys.clone()
        gone[:, :, 1:] = 0
        _, state = read_all(memory, steps._replace(keys=gone), hidden, window=64)
        assert_close((steps.keys[:, :, :1] @ state.network.weights[0])[:, :, 0], steps.values[:, :, 0])

    def test_the_queries_scale_does_not_matter(self):
        memory, (steps, hidden) = memory_of(), sequence(11)
        scaled = steps._replace(query=steps.query * 50, rotated_query=steps.rotated_query + 1)
        assert_close(read_all(memory, scaled, hidden)[0], read_all(memory, steps, hidden)[0], rtol=1e-6, atol=1e-6)


class TestCuts:
    @every_network
    @given(cuts=st.sets(st.integers(1, 22)), chunk_size=st.integers(1, WINDOW))
    def test_cuts_change_nothing(self, hidden_size, cuts, chunk_size):
        memory, (steps, hidden) = memory_of(hidden_size, chunk_size), sequence(23)
        whole, final = read_all(memory, steps, hidden)
        cut, state = read_all(memory, steps, hidden, cuts)
        assert_close(cut, whole, rtol=1e-9, atol=1e-9)
        assert_close(named_tensors(state), named_tensors(final), rtol=1e-9, atol=1e-9)

    @every_network
    def test_rows_begun_at_different_times_stay_apart(self, hidden_size):
        memory, (steps, hidden) = memory_of(hidden_size), sequence(30)
        resets = {6: [True, False], 13: [False, True], 21: [True, True]}
        state, begun, answers = memory.initial_state(BATCH), torch.zeros(BATCH, dtype=torch.long), []
        for first, last in pieces(30, resets, WINDOW):
            where = torch.tensor(resets.get(first, [False, False]))
            state, begun = memory.reset(state, where), torch.where(where, first, begun)
            read, state = memory(window_at(steps, hidden, first, last, begun), state)
            answers.append(read)
        answers = torch.cat(answers, dim=2)
        for row, edges in enumerate([(0, 6, 21, 30), (0, 13, 21, 30)]):
            for first, last in pairwise(edges):
                part = Steps(*(whole[row : row + 1, :, first:last] for whole in steps))
                alone, _ = read_all(memory, part, hidden[row : row + 1, first:last])
                assert_close(answers[row : row + 1, :, first:last], alone, rtol=1e-9, atol=1e-9)

    def test_reset_clears_exactly_the_marked_rows(self):
        memory = memory_of()
        _, state = read_all(memory, *sequence(11))
        cleared = named_tensors(memory.reset(state, torch.tensor([False, True])))
        fresh = named_tensors(memory.initial_state(BATCH))
        for name, tensor in named_tensors(state).items():
            assert cleared[name][0].equal(tensor[0]), name
            assert cleared[name][1].equal(fresh[name][1]), name
            assert not tensor[1].equal(fresh[name][1]), name

    def test_the_given_state_is_left_untouched(self):
        memory, (steps, hidden) = memory_of(), sequence(11)
        _, state = read_all(memory, steps, hidden)
        before = map_tensors(torch.clone, state)
        memory(window_at(steps, hidden, 0, 5), state)
        assert_close(named_tensors(state), named_tensors(before), rtol=0, atol=0)


class TestSettings:
    @pytest.mark.parametrize("chunk_size", [0, WINDOW + 1])
    def test_refuses_chunks_the_window_does_not_cover(self, chunk_size):
        with pytest.raises(ValueError, match=f"1 <= chunk_size <= window, not {chunk_size} and {WINDOW}: .* seen in"):
            memory_of(chunk_size=chunk_size)

    def test_refuses_networks_of_nothing(self):
        with pytest.raises(ValueError, match="hidden_size must be at least 1"):
            memory_of(hidden_size=0)

    @pytest.mark.parametrize(("window", "expected"), [(5, 5), (16, 16), (64, 16)])
    def test_chunks_fit_into_the_window_by_default(self, window, expected):
        assert memory_of(chunk_size=None, window=window).chunk_size == expected

    def test_gauges(self):
        memory, (steps, hidden) = memory_of(None), sequence(3)
        set_gates(memory, 0.5, 0.5, 0.9)
        read, state = memory(window_at(steps, hidden, 0, 3), memory.initial_state(BATCH))
        found = {name: (total / count).item() for name, (total, count) in memory.gauge(read, state).items()}
        first, last = memory.first[0], state.network.weights[0]
        assert found["norm"] == pytest.approx(last.norm(dim=(2, 3)).mean().item())
        assert found["surprise"] == pytest.approx((steps.keys @ first - steps.values).square().sum(-1).mean().item())
        assert found["kept"] == pytest.approx(0.9)
        assert all(torch.isfinite(torch.stack(ratio)).all() for ratio in memory.gauge(read, state).values())


class TestLong:
    @every_network
    @pytest.mark.parametrize("scale", [1.0, 100.0])
    @pytest.mark.parametrize("same_key", [False, True])
    def test_ten_thousand_steps_stay_finite_whatever_the_parameters(self, hidden_size, scale, same_key):
        """Gates at their ends, one way and the other from step to step, and values of a length of hundreds."""
        torch.manual_seed(1)
        memory = NeuralMemory(SIZES._replace(window=100), hidden_size, 50)
        with torch.no_grad():
            for parameter in memory.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
        steps, hidden = steps_of(10_000, 1, dtype=torch.float32), torch.randn(1, 10_000, SIZES.d_model)
        keys = unit_length(steps.keys[:, :, :1].expand_as(steps.keys) if same_key else steps.keys)
        steps = steps._replace(keys=keys, values=scale * steps.values)
        with torch.no_grad():
            read, state = read_all(memory, steps, hidden, window=100)
        assert all(tensor.isfinite().all() for tensor in (read, *named_tensors(state).values()))
        # Before the first entry: the learned weights. After it no entry moves them by more than a gradient's length.
        sizes = [
            sum(m.square().sum((2, 3)) for m in w).sqrt()
            for w in (memory.initial_state(1).network.weights, state.network.weights)
        ]
        assert (sizes[1] <= sizes[0] + 10_000 * memory.longest).all()
        assert state.network.entries.tolist() == [10_000]

    @every_network
    def test_gradients_through_a_long_sequence_are_finite(self, hidden_size):
        memory, (steps, hidden) = memory_of(hidden_size).float(), sequence(400, 1)
        steps, hidden = Steps(*(part.float() for part in steps)), hidden.float()
        read_all(memory, steps, hidden)[0].square().mean().backward()
        assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in memory.parameters())
