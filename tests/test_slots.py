"""A Transformer's memories, each alone: reads and writes against loops, at every fill, cut and reset."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiers import directions
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.slots.base import Memory, Sizes, Slots, Window, unit_length
from memnets.memory.slots.compressive import CompressiveMemory
from memnets.memory.slots.fast_weight import DeltaMemory
from memnets.memory.slots.integration import JointSoftmax, attend
from memnets.memory.slots.knn import KNNMemory, KNNState
from memnets.memory.slots.persistent import PersistentMemory
from memnets.memory.slots.product_key import ProductKeyMemory
from memnets.memory.slots.test_time import NeuralMemory
from memnets.memory.slots.tokens import MemoryTokens
from memnets.memory.window_attention import visible_near

BATCH, HEADS, WORD, WINDOW = 2, 3, 4, 3
SIZES = Sizes(HEADS * WORD, HEADS, WORD, WINDOW, HEADS)
GARBAGE = 1e3
"""Stands where nothing was seen yet: whoever reads it is found out."""


class Steps(NamedTuple):
    """What a layer computes for a whole sequence. Rotated parts are unrelated numbers, so that a mix-up shows."""

    query: torch.Tensor
    rotated_query: torch.Tensor
    keys: torch.Tensor
    rotated_keys: torch.Tensor
    values: torch.Tensor


def steps_of(time, batch=BATCH, window=WINDOW, dtype=torch.float64, key_heads=HEADS):
    heads = {"query": HEADS, "rotated_query": HEADS}
    return Steps(*(torch.randn(batch, heads.get(part, key_heads), time, WORD, dtype=dtype) for part in Steps._fields))


def window_of(steps, first, last, window=WINDOW, begun=0):
    """Steps first to last - 1 as a chunk of rows that began at step `begun`; before that there is garbage."""
    time, before = last - first, window - 1
    near = []
    for part in (steps.keys, steps.rotated_keys, steps.values):
        padded = torch.cat([torch.full_like(part[:, :, :1], GARBAGE).repeat(1, 1, before, 1), part], dim=2)
        near.append(padded[:, :, first : last + before])
    start = torch.full((steps.query.shape[0],), first - begun)
    query, rotated = steps.query[:, :, first:last], steps.rotated_query[:, :, first:last]
    hidden = torch.zeros(query.shape[0], time, HEADS * WORD, dtype=query.dtype)
    visible = visible_near(start, time, window, before)
    return Window(hidden, query, rotated, *near, visible, start, window)


def pieces(time, cuts, window=WINDOW):
    """Chunks of at most `window` steps, cut at `cuts` besides."""
    edges = sorted({0, time, *cuts})
    for first, last in pairwise(edges):
        yield from ((at, min(at + window, last)) for at in range(first, last, window))


def read_all(memory, steps, cuts=(), state=None, begun=0, window=WINDOW):
    """Everything a memory answers to a sequence, and its state after it."""
    state = memory.initial_state(steps.query.shape[0]) if state is None else state
    answers = []
    for first, last in pieces(steps.query.shape[2], cuts, window):
        chunk = window_of(steps, first, last, window, begun)
        reading, state = memory(chunk, state)
        answer = JointSoftmax(SIZES)(chunk, reading)
        answers.append(answer)
    return torch.cat(answers, dim=2), state


def naive_knn(steps, capacity, top_k, window=WINDOW, decay=(0,) * HEADS):
    """The definition, step by step: the window, and the best `top_k` of the `capacity` positions before it."""
    sharing = HEADS // steps.keys.shape[1]
    steps = Steps(*(part if part.shape[1] == HEADS else part.repeat_interleave(sharing, 1) for part in steps))
    parts = [part.detach().numpy() for part in steps]
    query, rotated_query, keys, rotated_keys, values = parts
    answers = np.zeros_like(query)
    for b, h, t in np.ndindex(query.shape[:3]):
        near = range(max(0, t - window + 1), t + 1)
        far = range(max(0, t - window + 1 - capacity), max(0, t - window + 1))
        scores = {p: rotated_query[b, h, t] @ rotated_keys[b, h, p] for p in near}
        found = {p: query[b, h, t] @ keys[b, h, p] - decay[h] * (t - window - p) for p in far}
        best = sorted(far, key=lambda p: -found[p])[:top_k]
        scores |= {p: found[p] for p in best}
        total = sum(np.exp(score) for score in scores.values())
        answers[b, h, t] = sum(np.exp(score) / total * values[b, h, p] for p, score in scores.items())
    return torch.from_numpy(answers)


def knn(capacity=6, top_k=3, window=WINDOW, differentiable=True, age_key=False, key_heads=HEADS):
    sizes = SIZES._replace(window=window, num_key_heads=key_heads)
    memory = KNNMemory(sizes, capacity, top_k, differentiable, age_key).double()
    if age_key:
        memory.log_decay.data = torch.tensor([-1.0, 0.0, -30.0]).double()
    return memory


class TestKNNMemory:
    @pytest.mark.parametrize("fill", [0.5, 1, 1.5, 2.5])
    @pytest.mark.parametrize("top_k", [1, 3, 6])
    @pytest.mark.parametrize("window", [1, 3])
    def test_equals_the_definition_at_every_fill(self, fill, top_k, window):
        steps = steps_of(window + int(fill * 6))
        answers, state = read_all(knn(6, top_k, window), steps, window=window)
        assert_close(answers, naive_knn(steps, 6, top_k, window), rtol=1e-9, atol=1e-12)
        assert state.written.tolist() == [int(fill * 6) + 1] * BATCH

    @pytest.mark.parametrize("fill", [0.5, 1, 1.5, 2.5])
    @pytest.mark.parametrize("key_heads", [1, HEADS])
    def test_equals_the_definition_with_an_age_key(self, fill, key_heads):
        steps, memory = steps_of(WINDOW + int(fill * 6), key_heads=key_heads), knn(age_key=True, key_heads=key_heads)
        expected = naive_knn(steps, 6, 3, decay=memory.log_decay.detach().exp().tolist())
        assert_close(read_all(memory, steps)[0].detach(), expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("capacity", [1, 2])
    def test_equals_the_definition_with_less_room_than_a_chunk(self, capacity):
        steps = steps_of(17)
        assert_close(read_all(knn(capacity, 1), steps)[0], naive_knn(steps, capacity, 1), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("top_k", [1, 4, 20])
    def test_of_equal_keys_the_newest_counts_with_an_age_key(self, top_k):
        """Five writes of one key, more than top_k finds or fewer; without an age key each of m found counts 1 / m."""
        time, written = 40, [3, 9, 15, 21, 27]
        identity = torch.eye(time).double().expand(1, 1, time, time)
        keys = identity[:, :, :1].repeat(1, 1, time, 1)
        keys[0, 0, written] = identity[0, 0, 1]
        query = 30 * identity[:, :, 1:2].expand(1, 1, time, time)
        steps = Steps(query, query, keys, torch.zeros_like(keys), identity)
        weights = {}
        for age_key in (False, True):
            memory = KNNMemory(Sizes(time, 1, time, WINDOW, 1), 40, top_k, age_key=age_key).double()
            if age_key:
                memory.log_decay.data.fill_(0.0)
            weights[age_key] = read_all(memory, steps)[0][0, 0, -1, written].detach()
        found = min(top_k, 5)
        assert_close(weights[False].sort(descending=True).values[:found], torch.full((found,), 1 / found).double())
        assert weights[True][-1] > 0.99

    def test_the_age_key_learns(self):
        memory = knn(top_k=6, age_key=True)
        read_all(memory, steps_of(12))[0].square().sum().backward()
        assert memory.log_decay.grad.abs().min() > 0

    def test_what_a_gauge_tells(self):
        memory, steps = knn(capacity=8, top_k=4, age_key=True), steps_of(WINDOW + 6)
        state = memory.initial_state(BATCH)
        for first, last in pieces(WINDOW + 6, [WINDOW]):
            reading, state = memory(window_of(steps, first, last), state)
        told = {name: (ratio.total / ratio.count).item() for name, ratio in memory.gauge(reading, state).items()}
        assert told["filled"] == 7 / 8
        assert told["found"] == 1.0
        assert told["decay"] == pytest.approx(memory.log_decay.exp().mean().item())
        assert told["norm"] == pytest.approx(steps.values[:, :, :7].norm(dim=-1).mean().item()), "7 left the window"
        reading, state = memory(window_of(steps, 0, WINDOW), memory.initial_state(BATCH))
        told = {name: (ratio.total / ratio.count).item() for name, ratio in memory.gauge(reading, state).items()}
        assert (told["filled"], told["found"]) == (1 / 8, 0)

    def test_a_key_that_is_no_number_spoils_what_sees_it_alone(self):
        steps = steps_of(30)
        clean, _ = read_all(knn(), steps)
        steps.keys[1, 2, 5] = torch.nan
        answers, _ = read_all(knn(), steps)
        touched = torch.zeros(BATCH, HEADS, 30, dtype=torch.bool)
        touched[1, 2, 5 + WINDOW : 5 + WINDOW + 6] = True
        assert answers[touched].isnan().all()
        assert answers[~touched].equal(clean[~touched])

    def test_saved_and_restored_bit_for_bit(self):
        memory, steps, file = knn(age_key=True), steps_of(30), BytesIO()
        _, state = read_all(memory, Steps(*(part[:, :, :18] for part in steps)))
        torch.save({"memory": memory.state_dict(), "state": dict(named_tensors(state))}, file)
        file.seek(0)
        saved = torch.load(file)
        restored = knn(age_key=True)
        restored.log_decay.data.zero_()
        restored.load_state_dict(saved["memory"])
        again = KNNState(*(saved["state"][name] for name in named_tensors(state)))
        assert all(a.equal(b) for a, b in zip(again, state, strict=True))
        later = [window_of(steps, first, first + 3) for first in range(18, 30, 3)]
        for chunk in later:
            one, state = memory(chunk, state)
            two, again = restored(chunk, again)
            assert all(a.equal(b) for a, b in zip((*one, *state), (*two, *again), strict=True))

    @pytest.mark.parametrize("fill", [0.5, 1, 1.5, 2.5])
    def test_finds_what_was_written_while_it_is_kept(self, fill):
        """One-hot keys, one entry to choose: an entry is found until `capacity` newer ones have left the window."""
        capacity, time = 8, WINDOW + int(fill * 8)
        identity = torch.eye(time).double()
        entries = identity.expand(1, 1, time, time)
        memory = KNNMemory(Sizes(time, 1, time, WINDOW, 1), capacity, top_k=1).double()
        for sought in range(time - 1):
            query = 100 * identity[sought].expand(1, 1, time, time)
            # Keys in the window match nothing, so that what is found comes from the memory.
            answers, _ = read_all(memory, Steps(query, query, entries, torch.zeros_like(entries), entries))
            weight = answers[0, 0, -1, sought].item()
            age = time - 1 - sought
            assert (weight > 0.99) == (WINDOW <= age < WINDOW + capacity), age

    @given(cuts=st.lists(st.integers(1, 24), max_size=12), capacity=st.integers(1, 9))
    def test_cuts_change_nothing(self, cuts, capacity):
        torch.manual_seed(len(cuts))
        memory, steps = knn(capacity, top_k=1 + capacity // 2), steps_of(25)
        whole, final = read_all(memory, steps)
        pieced, state = read_all(memory, steps, cuts)
        assert_close(pieced, whole, rtol=1e-9, atol=1e-12)
        assert state.written.equal(final.written)

    def test_nothing_is_written_before_something_leaves(self):
        steps, memory = steps_of(WINDOW), knn()
        _, state = read_all(memory, Steps(*(part[:, :, : WINDOW - 1] for part in steps)))
        assert state.written.tolist() == [0] * BATCH
        assert read_all(memory, steps)[1].written.tolist() == [1] * BATCH

    def test_exhaustive_when_k_is_the_capacity(self):
        steps, capacity = steps_of(20), 8
        positions = torch.arange(20)
        age = positions[:, None] - positions
        scores = torch.where(age < WINDOW, steps.rotated_query @ steps.rotated_keys.mT, steps.query @ steps.keys.mT)
        scores = scores.masked_fill((age < 0) | (age >= WINDOW + capacity), -torch.inf)
        answers, _ = read_all(knn(capacity, top_k=capacity), steps)
        assert_close(answers, scores.softmax(-1) @ steps.values, rtol=1e-9, atol=1e-12)

    def test_rows_cleared_at_different_times_stay_apart(self):
        steps, memory = steps_of(30), knn()
        alone = [read_all(memory, Steps(*(part[row:, :, :] for part in steps)))[0][:1] for row in range(BATCH)]
        answers, state, begun = [], memory.initial_state(BATCH), torch.zeros(BATCH, dtype=torch.long)
        resets = {6: [True, False], 13: [False, True], 20: [True, True]}
        for first, last in pieces(30, resets):
            where = torch.tensor(resets.get(first, [False, False]))
            state, begun = memory.reset(state, where), torch.where(where, first, begun)
            window = window_of(steps, first, last)
            start = first - begun
            window = window._replace(start=start, visible=visible_near(start, last - first, WINDOW, WINDOW - 1))
            reading, state = memory(window, state)
            answer = JointSoftmax(SIZES)(window, reading)
            answers.append(answer)
        answers = torch.cat(answers, dim=2)
        for row, begins in enumerate([(0, 6, 20), (0, 13, 20)]):
            for first, last in zip(begins, (*begins[1:], 30), strict=True):
                part = Steps(*(whole[row : row + 1, :, first:last] for whole in steps))
                assert_close(answers[row : row + 1, :, first:last], read_all(memory, part)[0])
        assert_close(answers[:1, :, :6], alone[0][:, :, :6])

    def test_reset_clears_exactly_the_marked_rows(self):
        memory = knn()
        _, state = read_all(memory, steps_of(12))
        cleared = named_tensors(memory.reset(state, torch.tensor([False, True])))
        fresh = named_tensors(memory.initial_state(BATCH))
        for name, tensor in named_tensors(state).items():
            assert cleared[name][0].equal(tensor[0]), name
            assert cleared[name][1].equal(fresh[name][1]), name
            assert not tensor[1].equal(fresh[name][1]), name

    def test_more_neighbours_than_entries_stay_finite(self):
        steps = Steps(*(part.requires_grad_() for part in steps_of(5)))
        answers, _ = read_all(knn(capacity=40, top_k=40), steps)
        answers.square().sum().backward()
        assert answers.isfinite().all()
        assert all(part.grad.isfinite().all() for part in steps)
        assert_close(answers, naive_knn(steps, 40, 40))

    @directions
    def test_gradients(self, fast):
        parts = [part.requires_grad_() for part in steps_of(9, batch=1)]
        memory = knn(capacity=4, top_k=2)
        assert torch.autograd.gradcheck(lambda *given: read_all(memory, Steps(*given))[0], parts, fast_mode=fast)

    @pytest.mark.parametrize("differentiable", [True, False])
    def test_gradient_through_the_memory_is_a_switch(self, differentiable):
        steps = Steps(*(part.requires_grad_() for part in steps_of(9)))
        answers, _ = read_all(knn(top_k=6, differentiable=differentiable), steps)
        answers[:, :, -1].sum().backward()
        far, near = steps.values.grad[:, :, : 9 - WINDOW], steps.values.grad[:, :, 9 - WINDOW :]
        assert near.abs().min() > 0
        assert bool(far.abs().max() > 0) == differentiable
        assert (steps.keys.grad is not None) == differentiable
        assert steps.query.grad[:, :, -1].abs().max() > 0, "the query learns to search either way"

    @pytest.mark.parametrize(("capacity", "top_k"), [(4, 5), (4, 0), (0, 0), (-1, 1)])
    def test_refuses_impossible_sizes(self, capacity, top_k):
        with pytest.raises(ValueError, match=f"1 <= top_k <= capacity, not top_k={top_k} and capacity={capacity}"):
            KNNMemory(SIZES, capacity, top_k)


class TestPersistentMemory:
    def test_equals_one_softmax_over_slots_and_window(self):
        memory, steps = PersistentMemory(SIZES, num_slots=5).double(), steps_of(7)
        answers, state = read_all(memory, steps)
        keys = np.zeros((HEADS, 5, WORD))
        learned = memory.keys.detach().numpy()
        keys[:, :, WORD // 2 :] = learned / np.linalg.norm(learned, axis=-1, keepdims=True)
        values = memory.values.detach().numpy()
        for b, h, t in np.ndindex(BATCH, HEADS, 7):
            near = slice(max(0, t - WINDOW + 1), t + 1)
            all_keys = np.concatenate([keys[h], steps.rotated_keys[b, h, near].numpy()])
            all_values = np.concatenate([values[h], steps.values[b, h, near].numpy()])
            weights = np.exp(all_keys @ steps.rotated_query[b, h, t].numpy())
            expected = torch.from_numpy(weights @ all_values / weights.sum())
            assert_close(answers[b, h, t].detach(), expected, rtol=1e-6, atol=1e-9)
        assert state == ()

    def test_learns(self):
        memory = PersistentMemory(SIZES)
        read_all(memory.double(), steps_of(7))[0].square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in memory.parameters())

    def test_refuses_no_slots(self):
        with pytest.raises(ValueError, match="num_slots must be at least 1, not 0"):
            PersistentMemory(SIZES, num_slots=0)


class TestMemoryTokens:
    def test_are_the_same_for_every_row_and_never_change(self):
        memory = MemoryTokens(SIZES, num_tokens=5)
        tokens = memory.read(memory.initial_state(BATCH))
        assert tokens.shape == (1, 5, SIZES.d_model)
        assert memory.write((), tokens + 1) == ()
        assert memory.read(()).equal(tokens)

    def test_refuses_no_tokens(self):
        with pytest.raises(ValueError, match="num_tokens must be at least 1, not 0"):
            MemoryTokens(SIZES, num_tokens=0)


@pytest.mark.parametrize(
    "kind",
    [KNNMemory, PersistentMemory, ProductKeyMemory, MemoryTokens, DeltaMemory, CompressiveMemory, NeuralMemory],
)
def test_reset_of_no_row_changes_nothing(kind):
    memory = kind(SIZES)
    assert isinstance(memory, Memory)
    state = memory.initial_state(BATCH)
    after = named_tensors(memory.reset(state, torch.zeros(BATCH, dtype=torch.bool)))
    assert all(after[name].equal(tensor) for name, tensor in named_tensors(state).items())


class TestWindow:
    def test_visible_near_equals_loops(self):
        start, time, window = torch.tensor([0, 1, 5]), 4, 4
        visible = visible_near(start, time, window, window - 1)
        for row, query, near in np.ndindex(3, time, window - 1 + time):
            at, other = int(start[row]) + query, int(start[row]) + near - (window - 1)
            assert visible[row, query, near] == (other >= 0 and at - window < other <= at)

    def test_what_leaves(self):
        steps = steps_of(9)
        keys, values, positions = window_of(steps, 4, 6).leaving()
        assert positions.tolist() == [[2, 3]] * BATCH
        assert keys.equal(steps.keys[:, :, 2:4])
        assert values.equal(steps.values[:, :, 2:4])
        assert window_of(steps, 0, 2).leaving()[2].tolist() == [[-2, -1]] * BATCH

    def test_slots_are_seen_by_every_query(self):
        """A slot that all queries prefer by far is what all get."""
        steps = steps_of(WINDOW)
        steps = steps._replace(rotated_query=steps.rotated_query.abs() + 1)
        value = torch.randn(1, HEADS, 1, WORD).double()
        slots = Slots(torch.full((1, HEADS, 1, WORD), 100.0).double(), value)
        answers = attend(window_of(steps, 0, WINDOW), slots)
        assert_close(answers, value.expand_as(answers))

    def test_unit_length_is_finite_at_zero(self):
        vectors = torch.zeros(2, WORD, requires_grad=True)
        unit_length(vectors).sum().backward()
        assert vectors.grad.isfinite().all()
        assert_close(unit_length(torch.full((1, 4), 3.0)), torch.full((1, 4), 0.5))
