"""Addressing and access: every ablation, every initial memory, several heads, and the whole against loops per head."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import naive
import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from memnets.memory.addressing import Addressing, Gate, Key, Sharpening, Shift, Strength, split_heads
from memnets.memory.initial_memory import ConstantMemory, LearnedMemory, RandomMemory, SinusoidalMemory
from memnets.memory.ntm_access import NTMAccess

PARTS = {"key": Key, "strength": Strength, "gate": Gate, "shift": Shift, "sharpening": Sharpening}
SUBSETS = [[name for name, on in zip(PARTS, mask, strict=True) if on] for mask in product([True, False], repeat=5)]
LEGAL = [parts for parts in SUBSETS if "key" in parts or not {"strength", "gate"} & set(parts)]
ILLEGAL = [parts for parts in SUBSETS if parts not in LEGAL]
MEMORIES = [ConstantMemory, LearnedMemory, RandomMemory, SinusoidalMemory]
BATCH, SLOTS, WORD = 2, 5, 3


def names(parts):
    return "-".join(parts) or "nothing"


def addressing_of(parts, **replaced):
    return Addressing(**{name: part() if name in parts else None for name, part in PARTS.items()} | replaced)


def access_of(addressing=None, memory=LearnedMemory, read_heads=2, write_heads=3, controller_size=4):
    addressing = Addressing() if addressing is None else addressing
    return NTMAccess(controller_size, SLOTS, WORD, read_heads, write_heads, addressing, memory(SLOTS, WORD))


class TestAddressing:
    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_every_ablation_gives_a_distribution(self, parts, scale):
        addressing = addressing_of(parts)
        interface = scale * torch.randn(BATCH, 3, addressing.interface_size(WORD))
        previous = torch.randn(BATCH, 3, SLOTS).softmax(-1)
        weights = addressing(interface, torch.randn(BATCH, SLOTS, WORD), previous)
        assert weights.shape == (BATCH, 3, SLOTS)
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones(BATCH, 3))

    @pytest.mark.parametrize("parts", ILLEGAL, ids=names)
    def test_strength_and_gate_need_a_key(self, parts):
        with pytest.raises(ValueError, match="without a key"):
            addressing_of(parts)

    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    def test_a_removed_part_takes_nothing_from_the_controller(self, parts):
        sizes = {"key": WORD, "strength": 1, "gate": 1, "shift": 3, "sharpening": 1}
        assert addressing_of(parts).interface_size(WORD) == sum(sizes[name] for name in parts)

    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    def test_says_whether_it_uses_previous_weights(self, parts):
        addressing = addressing_of(parts)
        previous = torch.randn(BATCH, 1, SLOTS).softmax(-1).requires_grad_()
        interface = torch.randn(BATCH, 1, addressing.interface_size(WORD), requires_grad=True)
        weights = addressing(interface, torch.randn(BATCH, SLOTS, WORD, requires_grad=True), previous)
        (gradient,) = torch.autograd.grad(weights[..., 0].sum(), previous, allow_unused=True)
        assert (gradient is not None and gradient.any().item()) == addressing.uses_previous_weights

    @pytest.mark.parametrize("width", [-1, 0, 2])
    def test_shift_width_is_odd(self, width):
        with pytest.raises(ValueError, match=f"odd and positive.*not {width}"):
            Shift(width)

    def test_emitted_ranges(self):
        addressing = Addressing(shift=Shift(5))
        raw = 30 * torch.randn(50, 2, addressing.interface_size(WORD))
        emitted = addressing.emit(raw, WORD)
        assert list(emitted) == list(PARTS)
        assert (emitted["key"].abs() <= 1).all()
        assert (emitted["strength"] >= 0).all()
        assert ((emitted["gate"] >= 0) & (emitted["gate"] <= 1)).all()
        assert_close(emitted["shift"].sum(-1), torch.ones(50, 2))
        assert emitted["shift"].shape[-1] == 5
        assert (emitted["sharpening"] >= 1).all()

    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    def test_similarity_reaches_the_op(self, similarity):
        addressing = addressing_of(["key"], key=Key(similarity))
        raw, memory = torch.randn(1, 1, WORD).double(), torch.randn(1, SLOTS, WORD).double()
        weights = addressing(raw, memory, torch.zeros(1, 1, SLOTS).double())
        expected = naive.content_address(memory.numpy(), np.tanh(raw.numpy()), np.ones((1, 1)), similarity=similarity)
        assert_close(weights, torch.from_numpy(expected))


class TestAccess:
    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize(("read_heads", "write_heads"), [(1, 1), (3, 1), (1, 2)])
    def test_shapes(self, memory, read_heads, write_heads):
        access = access_of(memory=memory, read_heads=read_heads, write_heads=write_heads)
        state = access.initial_state(BATCH)
        read_vectors, after = access(torch.randn(BATCH, 4), state)
        assert read_vectors.shape == (BATCH, read_heads, WORD)
        for each in (state, after):
            assert each.memory.shape == (BATCH, SLOTS, WORD)
            assert each.read_weights.shape == (BATCH, read_heads, SLOTS)
            assert each.write_weights.shape == (BATCH, write_heads, SLOTS)
            assert_close(each.read_weights.sum(-1), torch.ones(BATCH, read_heads))
            assert_close(each.write_weights.sum(-1), torch.ones(BATCH, write_heads))

    def test_starts_on_slot_0(self):
        state = access_of().initial_state(BATCH)
        assert state.read_weights.argmax(-1).eq(0).all()
        assert state.write_weights.argmax(-1).eq(0).all()

    @pytest.mark.parametrize("parts", [parts for parts in LEGAL if "strength" in parts], ids=names)
    def test_strength_starts_where_it_is_told_in_every_head(self, parts):
        access = access_of(addressing_of(parts, strength=Strength(start=10.0)))
        emitted = access.emitted(torch.zeros(BATCH, 4))
        assert_close(emitted["strength"], torch.full((BATCH, 5), 10.0), atol=1e-4, rtol=0)
        assert access.interface.bias.count_nonzero() == 5

    @pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
    def test_sizes_are_positive(self, sizes):
        with pytest.raises(ValueError, match="must be at least 1"):
            NTMAccess(4, *sizes, Addressing(), nn.Identity())

    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    def test_equals_a_loop_over_heads(self, parts):
        access = access_of(addressing_of(parts)).double()
        with torch.no_grad():
            for parameter in access.parameters():
                parameter.copy_(torch.randn_like(parameter))
        state = access.initial_state(BATCH)
        for _ in range(3):
            hidden = torch.randn(BATCH, 4).double()
            expected = loop_over_heads(access, parts, hidden, state)
            read_vectors, state = access(hidden, state)
            for actual, wanted in zip([read_vectors, *state], expected, strict=True):
                assert_close(actual, torch.from_numpy(wanted), rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_every_parameter_gets_a_gradient(self, parts, memory):
        access = access_of(addressing_of(parts), memory)
        state, total = access.initial_state(BATCH), 0
        for _ in range(3):
            read_vectors, state = access(torch.randn(BATCH, 4), state)
            total = total + (read_vectors * torch.randn_like(read_vectors)).sum()
        total.backward()
        for name, parameter in access.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            assert parameter.grad.isfinite().all(), name

    def test_reads_come_before_writes(self):
        """This step's write can't be seen in this step's read."""
        access = access_of(write_heads=1)
        state, hidden = access.initial_state(BATCH), torch.randn(BATCH, 4)
        before, _ = access(hidden, state)
        with torch.no_grad():
            access.interface.bias[-2 * WORD :] += 7  # erase and add alone
        after, _ = access(hidden, state)
        assert_close(after, before)


class TestInitialMemory:
    def test_constant(self):
        memory = ConstantMemory(SLOTS, WORD, value=0.25)
        assert memory(BATCH).equal(torch.full((BATCH, SLOTS, WORD), 0.25))
        assert list(memory.state_dict()) == []

    def test_learned_is_shared_by_rows(self):
        content = LearnedMemory(SLOTS, WORD)(BATCH)
        assert content[0].equal(content[1])
        assert content.std() > 0

    def test_random_differs_by_row_and_call_and_follows_the_seed(self):
        memory = RandomMemory(SLOTS, WORD, std=2.0)
        torch.manual_seed(5)
        first, second = memory(BATCH), memory(BATCH)
        torch.manual_seed(5)
        assert memory(BATCH).equal(first)
        assert not first[0].equal(first[1])
        assert not first.equal(second)
        assert memory(2000).std().item() == pytest.approx(2.0, rel=0.05)

    @pytest.mark.parametrize("word_size", [1, 2, 5, 6])
    def test_a_slot_begins_as_cosines_and_then_sines_of_its_place(self, word_size):
        num_cosines = word_size - word_size // 2
        angles = [[math.pi * (k + 1) * slot / SLOTS for k in range(num_cosines)] for slot in range(SLOTS)]
        expected = [[*map(math.cos, row), *map(math.sin, row[: word_size // 2])] for row in angles]
        assert_close(SinusoidalMemory(SLOTS, word_size)(BATCH), torch.tensor([expected] * BATCH))

    def test_a_sinusoidal_slot_is_the_more_like_another_the_nearer_it_is(self):
        content = SinusoidalMemory(128, 20)(1)[0]
        likeness = torch.nn.functional.cosine_similarity(content[64], content, dim=-1)
        assert (likeness[64:70].diff() < 0).all()
        assert (likeness[60:65].diff() > 0).all()

    @pytest.mark.parametrize("memory", [partial(each, SLOTS, WORD) for each in MEMORIES])
    def test_dtype_follows_the_module(self, memory):
        assert memory().double()(BATCH).dtype == torch.float64


def loop_over_heads(access, parts, hidden, state):
    """One step of `access` by hand: read vectors, memory, read weights, write weights."""
    interface = access.interface(hidden).detach()
    num_heads, num_reads = access.num_heads, access.num_read_heads
    size = interface.shape[1] - 2 * access.num_write_heads * WORD
    per_head = split_heads(interface[:, :size], num_heads).numpy()
    erase, add = interface[:, size:].numpy().reshape(BATCH, 2, access.num_write_heads, WORD).transpose(1, 0, 2, 3)
    memory = state.memory.detach().numpy()
    previous = torch.cat([state.read_weights, state.write_weights], 1).detach().numpy()
    weights = np.stack([address(parts, per_head[:, h], memory, previous[:, h]) for h in range(num_heads)], axis=1)
    read_weights, write_weights = weights[:, :num_reads], weights[:, num_reads:]
    written = naive.erase_add(memory, write_weights, 1 / (1 + np.exp(-erase)), np.tanh(add))
    return naive.read(memory, read_weights), written, read_weights, write_weights


def softplus(x):
    return np.log1p(np.exp(x))


def address(parts, raw, memory, previous):
    """Weights `[batch slots]` of one head, whose raw interface is `[batch interface]`."""
    taken = 0

    def take(name, size):
        nonlocal taken
        taken += size if name in parts else 0
        return raw[:, None, taken - size : taken] if name in parts else None

    key, strength, gate, shift, sharpening = (
        take(name, size) for name, size in zip(PARTS, (WORD, 1, 1, 3, 1), strict=True)
    )
    content = None
    if key is not None:
        strengths = np.ones((len(raw), 1)) if strength is None else softplus(strength[..., 0])
        content = naive.content_address(memory, np.tanh(key), strengths)
    weights = naive.shift_sharpen(
        content,
        previous[:, None],
        None if gate is None else 1 / (1 + np.exp(-gate[..., 0])),
        None if shift is None else np.apply_along_axis(naive.softmax, -1, shift),
        None if sharpening is None else 1 + softplus(sharpening[..., 0]),
    )
    return weights[:, 0]
