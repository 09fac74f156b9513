"""Fast-weight memories, each alone: against loops, at every cut and reset, over long sequences, with odd keys."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_slots import BATCH, HEADS, SIZES, WINDOW, WORD, Steps, pieces, steps_of, window_of
from tiers import directions
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.rotary import place_free
from memnets.memory.slots.base import unit_length
from memnets.memory.slots.compressive import CompressiveMemory
from memnets.memory.slots.fast_weight import DeltaMemory
from memnets.memory.window_attention import visible_near

KINDS = {"delta": DeltaMemory, "gated_delta": partial(DeltaMemory, gated=True), "compressive": CompressiveMemory}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, window=WINDOW, **sizes):
    """A memory whose parameters are all in use: entries differ in what they write and let go."""
    torch.manual_seed(1)
    memory = KINDS[kind](SIZES._replace(window=window, **sizes)).double()
    for parameter in memory.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return memory


def unit_steps(time, batch=BATCH, **options):
    """Keys of length 1, as a layer has them."""
    steps = steps_of(time, batch, **options)
    return steps._replace(keys=unit_length(steps.keys))


def read_all(memory, steps, cuts=(), state=None, window=WINDOW):
    """What a memory reads for a whole sequence, and its state after it."""
    state = memory.initial_state(steps.query.shape[0]) if state is None else state
    reads = []
    for first, last in pieces(steps.query.shape[2], cuts, window):
        read, state = memory(window_of(steps, first, last, window), state)
        reads.append(read)
    return torch.cat(reads, dim=2), state


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits(gate, head, key, value):
    weights = [part.detach().numpy() for part in (gate.key, gate.value, gate.bias)]
    return weights[0][head] @ key + weights[1][head] @ value + weights[2][head, 0]


def elu_and_one(x):
    return np.where(x > 0, x + 1, np.exp(x))


def naive_delta(memory, steps, window=WINDOW):
    """The definition, entry by entry."""
    query, _, keys, _, values = (part.detach().numpy() for part in steps)
    reads = np.zeros_like(query)
    for b, h in np.ndindex(query.shape[:2]):
        matrix = np.zeros((WORD, WORD))
        for t in range(query.shape[2]):
            reads[b, h, t] = matrix.T @ query[b, h, t] / np.linalg.norm(query[b, h, t])
            if (left := t - window + 1) >= 0:
                key, value = keys[b, h, left], values[b, h, left]
                share = sigmoid(logits(memory.share, h, key, value))
                kept = 1.0 if memory.keep is None else sigmoid(logits(memory.keep, h, key, value))
                matrix = kept * (matrix - share * np.outer(key, matrix.T @ key)) + share * np.outer(key, value)
    return torch.from_numpy(reads)


def naive_compressive(memory, steps, window=WINDOW):
    query, _, keys, _, values = (part.detach().numpy() for part in steps)
    reads, scale = np.zeros_like(query), memory.log_scale.exp().detach().numpy()[:, 0, 0]
    for b, h in np.ndindex(query.shape[:2]):
        matrix, total = np.zeros((WORD, WORD)), np.zeros(WORD)
        for t in range(query.shape[2]):
            asked = elu_and_one(scale[h] * query[b, h, t] / np.linalg.norm(query[b, h, t]))
            if total.any():
                reads[b, h, t] = matrix.T @ asked / (asked @ total)
            if (left := t - window + 1) >= 0:
                key = elu_and_one(scale[h] * keys[b, h, left])
                total = total + key
                matrix = matrix + np.outer(key, values[b, h, left] - matrix.T @ key / (key @ total))
    return torch.from_numpy(reads)


NAIVE = {"delta": naive_delta, "gated_delta": naive_delta, "compressive": naive_compressive}


@every_kind
class TestEveryKind:
    @pytest.mark.parametrize("window", [1, 3, 7])
    def test_equals_the_definition(self, kind, window):
        memory, steps = made(kind, window), unit_steps(40)
        reads, _ = read_all(memory, steps, window=window)
        assert_close(reads, NAIVE[kind](memory, steps, window), rtol=1e-7, atol=1e-9)

    @given(cuts=st.lists(st.integers(1, 24), max_size=12))
    def test_cuts_change_nothing(self, kind, cuts):
        memory, steps = made(kind), unit_steps(25)
        whole, final = read_all(memory, steps)
        pieced, state = read_all(memory, steps, cuts)
        assert_close(pieced, whole, rtol=1e-9, atol=1e-12)
        for name, tensor in named_tensors(final).items():
            assert_close(named_tensors(state)[name], tensor, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("time", range(1, 8))
    def test_what_is_not_there_yet_need_not_be_told(self, kind, time):
        """A first chunk with nothing before it, and one with garbage there."""
        steps, window = unit_steps(time), 7
        memory = made(kind, window)
        chunk = window_of(steps, 0, time, window)
        bare = chunk._replace(
            **{name: getattr(chunk, name)[:, :, window - 1 :] for name in ("keys", "rotated_keys", "values")},
            visible=visible_near(chunk.start, time, window, 0),
        )
        padded, state = memory(chunk, memory.initial_state(BATCH))
        read, after = memory(bare, memory.initial_state(BATCH))
        assert_close(read, padded, rtol=1e-9, atol=1e-12)
        for name, tensor in named_tensors(state).items():
            assert_close(named_tensors(after)[name], tensor, rtol=1e-9, atol=1e-12)
        assert bool(named_tensors(after)["memory"].any()) == (time == 7)

    def test_rows_cleared_at_different_times_stay_apart(self, kind):
        steps, memory = unit_steps(30), made(kind)
        reads, state, begun = [], memory.initial_state(BATCH), torch.zeros(BATCH, dtype=torch.long)
        resets = {6: [True, False], 13: [False, True], 20: [True, True]}
        for first, last in pieces(30, resets):
            where = torch.tensor(resets.get(first, [False, False]))
            state, begun = memory.reset(state, where), torch.where(where, first, begun)
            start = first - begun
            visible = visible_near(start, last - first, WINDOW, WINDOW - 1)
            read, state = memory(window_of(steps, first, last)._replace(start=start, visible=visible), state)
            reads.append(read)
        reads = torch.cat(reads, dim=2)
        for row, begins in enumerate([(0, 6, 20), (0, 13, 20)]):
            for first, last in zip(begins, (*begins[1:], 30), strict=True):
                part = Steps(*(whole[row : row + 1, :, first:last] for whole in steps))
                assert_close(reads[row : row + 1, :, first:last], read_all(memory, part)[0])

    def test_reset_clears_exactly_the_marked_rows(self, kind):
        memory = made(kind)
        _, state = read_all(memory, unit_steps(12))
        cleared = named_tensors(memory.reset(state, torch.tensor([False, True])))
        fresh = named_tensors(memory.initial_state(BATCH))
        for name, tensor in named_tensors(state).items():
            assert cleared[name][0].equal(tensor[0]), name
            assert cleared[name][1].equal(fresh[name][1]), name
            assert not tensor[1].equal(fresh[name][1]), name

    def test_the_state_given_is_left_untouched(self, kind):
        memory, steps = made(kind), unit_steps(20)
        _, state = read_all(memory, steps)
        before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
        read_all(memory, steps, state=state)
        assert all(tensor.equal(before[name]) for name, tensor in named_tensors(state).items())

    @directions
    def test_gradients(self, kind, fast):
        memory = made(kind)
        parts = [part.detach().requires_grad_() for part in unit_steps(9, batch=1)]
        parameters = list(memory.parameters())
        names = [name for name, _ in memory.named_parameters()]

        def call(query, keys, values, *weights):
            steps = Steps(query, parts[1], keys, parts[3], values)
            reads = []
            state = memory.initial_state(1)
            for first, last in pieces(9, ()):
                given_ = (window_of(steps, first, last), state)
                read, state = torch.func.functional_call(memory, dict(zip(names, weights, strict=True)), given_)
                reads.append(read)
            return torch.cat(reads, 2), state.memory

        assert torch.autograd.gradcheck(call, (parts[0], parts[2], parts[4], *parameters), fast_mode=fast)

    @pytest.mark.parametrize("share", [1, 2, 3])
    def test_query_heads_share_a_matrix(self, kind, share):
        """Query head h reads what key head h // share holds."""
        memory, steps = made(kind), unit_steps(12)
        asked = torch.randn(BATCH, HEADS * share, 12, WORD).double()
        reads, _ = read_all(memory, steps._replace(query=asked))
        for each in range(share):
            alone, _ = read_all(memory, steps._replace(query=asked[:, each::share]))
            assert_close(reads[:, each::share], alone)

    def test_rotated_parts_are_not_read(self, kind):
        memory, steps, others = made(kind), unit_steps(12), unit_steps(12)
        moved = steps._replace(rotated_query=others.rotated_query, rotated_keys=place_free(others.rotated_keys))
        assert read_all(memory, moved)[0].equal(read_all(memory, steps)[0])

    def test_nothing_written_reads_nothing(self, kind):
        """Neither are gradients spoiled by what is divided by."""
        steps = Steps(*(part.detach().requires_grad_() for part in unit_steps(WINDOW)))
        reads, state = read_all(made(kind), steps)
        assert not reads.any()
        assert state.memory.any(), "one entry has left"
        reads.sum().backward()
        assert all(part.grad is None or part.grad.isfinite().all() for part in steps)

    def test_zero_keys_and_queries_are_fine(self, kind):
        steps = Steps(*(torch.zeros_like(part).requires_grad_() for part in unit_steps(12)))
        memory = made(kind)
        reads, state = read_all(memory, steps)
        (reads.sum() + state.memory.sum()).backward()
        assert not reads.any()
        assert not state.memory.any()
        assert all(part.grad is None or part.grad.isfinite().all() for part in steps)

    def test_keys_not_finite_stay_in_their_row_until_reset(self, kind):
        memory, steps = made(kind), unit_steps(20)
        expected, _ = read_all(memory, steps)
        steps.keys[0, 0, 5, 1] = torch.nan
        reads, state = read_all(memory, steps)
        assert_close(reads[1], expected[1])
        assert_close(reads[0, 1:], expected[0, 1:])
        assert reads[0, 0, -1].isnan().any()
        after = memory.reset(state, torch.tensor([True, False]))
        assert all(tensor.isfinite().all() for tensor in named_tensors(after).values())
        assert read_all(memory, unit_steps(20), state=after)[0].isfinite().all()

    @pytest.mark.parametrize("keys", ["random", "equal", "few"])
    def test_ten_thousand_steps_stay_bounded(self, kind, keys):
        """In float32, the last half as the first: what is read, and the matrix (by the sum of keys if it has one)."""
        window, time = 64, 10_000
        memory, steps = made(kind, window).float(), unit_steps(time, batch=1, dtype=torch.float32)
        if keys != "random":
            few = steps.keys[:, :, : 1 if keys == "equal" else 5]
            steps = steps._replace(keys=few.repeat(1, 1, -(-time // few.shape[2]), 1)[:, :, :time].contiguous())
        sizes = []
        for first, last in ((0, time // 2), (time // 2, time)):
            with torch.no_grad():
                reads, state = read_all(memory, Steps(*(part[:, :, :last] for part in steps)), window=window)
            scale = state.keys.norm(dim=2) if kind == "compressive" else torch.ones(())
            late = reads[:, :, first + 1000 :]
            sizes.append((late.std(), (state.memory.norm(dim=(2, 3)) / scale).mean()))
        (read, norm), (later_read, later_norm) = sizes
        assert 0 < later_read <= 1.2 * read
        assert 0 < later_norm <= 1.5 * norm

    def test_gauge_tells_the_norm(self, kind):
        memory = made(kind)
        reads, state = read_all(memory, unit_steps(20))
        total, count = memory.gauge(reads, state)["norm"]
        assert_close((total / count).item(), state.memory.norm(dim=(2, 3)).mean().item())


class TestDelta:
    @pytest.mark.parametrize("gated", [False, True])
    def test_gauge_tells_what_entries_wrote_and_kept(self, gated):
        memory, steps = made("gated_delta" if gated else "delta"), unit_steps(20)
        reads, state = read_all(memory, steps, cuts=[4, 11])
        gauges = memory.gauge(reads, state)
        assert set(gauges) == {"norm", "written", *(["kept"] if gated else [])}
        keys, values = steps.keys[:, :, : 20 - WINDOW + 1], steps.values[:, :, : 20 - WINDOW + 1]
        assert state.entries.tolist() == [20 - WINDOW + 1] * BATCH
        for name, gate in (("written", memory.share), ("kept", memory.keep)):
            if name in gauges:
                total, count = gauges[name]
                assert_close((total / count).item(), gate(keys, values).sigmoid().mean().item())
        assert_close(state.kept.mean() / (20 - WINDOW + 1) < 1, torch.tensor(gated))

    def test_gauge_carries_no_gradient(self):
        memory = made("gated_delta")
        reads, state = read_all(memory, unit_steps(20))
        assert not any(part.requires_grad for ratio in memory.gauge(reads, state).values() for part in ratio)
        assert state.memory.requires_grad
        assert not state.written.requires_grad
        assert not state.kept.requires_grad

    def test_first_shares(self):
        memory, steps = DeltaMemory(SIZES, gated=True).double(), unit_steps(5)
        assert_close(memory.share(steps.keys, steps.values).sigmoid(), torch.full((BATCH, HEADS, 5), 0.5).double())
        kept = memory.keep(steps.keys, steps.values).sigmoid()
        assert_close(kept, torch.full((BATCH, HEADS, 5), 0.99).double(), rtol=1e-7, atol=1e-7)

    def test_written_in_full_a_key_reads_its_newest_value(self):
        """Orthogonal keys, some of them written again: overwriting forgets what was there."""
        places = torch.tensor([0, 1, 2, 0, 3, 1, 0, 2, 2, 2])
        keys = torch.eye(WORD).double()[places].expand(1, HEADS, -1, -1)
        values = torch.randn(1, HEADS, 10, WORD).double()
        memory = DeltaMemory(SIZES).double()
        memory.share.bias.data.fill_(40.0)
        _, state = read_all(memory, Steps(keys, keys, keys, keys, values))
        newest = [max(i for i in range(10 - WINDOW + 1) if places[i] == place) for place in range(WORD)]
        assert_close(state.memory[0], values[0][:, newest])


class TestCompressive:
    def test_one_entry_is_read_by_every_query(self):
        """A mean over one value, whatever the weight."""
        memory, steps = made("compressive"), unit_steps(WINDOW + 1)
        reads, _ = read_all(memory, steps)
        assert_close(reads[:, :, WINDOW], steps.values[:, :, 0])

    def test_keys_whose_positive_part_underflows_divide_by_nothing(self):
        memory, steps = CompressiveMemory(SIZES).float(), unit_steps(12, dtype=torch.float32)
        memory.log_scale.data.fill_(7.0)
        steps = Steps(*(part.detach().requires_grad_() for part in steps._replace(keys=-steps.keys.abs())))
        reads, state = read_all(memory, steps)
        (reads.sum() + state.memory.sum()).backward()
        assert reads.isfinite().all()
        assert steps.keys.grad.isfinite().all()
