"""What is under the Memory Transformer: rotary positions, window attention against loops, the token shift."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from memnets.memory.rotary import Rotary, place_free
from memnets.memory.slots.base import Sizes
from memnets.memory.window_attention import WindowAttention
from memnets.models.decoder import TokenShift

WINDOW = 4


class TestRotary:
    def test_products_depend_on_the_difference_of_positions(self):
        rotary, vectors = Rotary(8), torch.randn(2, 1, 1, 1, 8).double()
        query, key = vectors

        def product(at, other):
            return (rotary(query, at) * rotary(key, other)).sum().item()

        assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-12)
        assert abs(product(7, 3) - product(7, 4)) > 1e-3

    def test_equals_rotations_of_pairs(self):
        vectors = torch.randn(1, 1, 5, 8).double()
        turned = Rotary(8)(vectors, start=2)
        for step, pair in np.ndindex(5, 2):
            angle = (step + 2) / 10_000 ** (pair / 2)
            number = complex(*vectors[0, 0, step, [pair, pair + 2]].tolist()) * np.exp(1j * angle)
            assert turned[0, 0, step, [pair, pair + 2]].tolist() == pytest.approx([number.real, number.imag])
        assert turned[..., 4:].equal(vectors[..., 4:]), "the second half is free of position"

    def test_free_keys_look_alike_from_everywhere(self):
        query, key = torch.randn(1, 1, 1, 8).double(), place_free(torch.randn(8).double())
        scores = [(Rotary(8)(query, at) @ key).item() for at in (0, 3, 50)]
        assert scores == [pytest.approx(scores[0])] * 3
        assert abs(scores[0]) > 1e-3

    def test_refuses_odd_heads(self):
        with pytest.raises(ValueError, match=r"multiple of 4 .*not 6"):
            Rotary(6)


class TestAttention:
    def test_equals_loops_with_absolute_positions(self):
        """Read in chunks with positions counted within each; the definition counts them from the row's start."""
        attention = WindowAttention(Sizes(16, 2, 8, WINDOW, 2), None).double()
        with torch.no_grad():
            attention.log_scale.copy_(torch.tensor([0.3, 1.1]).view(2, 1, 1))
        hidden = torch.randn(2, 10, 16).double()
        state, attended = attention.initial_state(2, None), []
        for first in range(0, 10, WINDOW):
            chunk = hidden[:, first : first + WINDOW]
            part, state, _ = attention(chunk, torch.full((2,), first), state, None)
            attended.append(part)
        expected = naive_attention({k: v.detach().numpy() for k, v in attention.state_dict().items()}, hidden.numpy())
        assert_close(torch.cat(attended, 1).detach(), torch.from_numpy(expected), rtol=1e-6, atol=1e-8)

    def test_tokens_see_one_another_only_by_content(self):
        """Permuted tokens give permuted results."""
        attention, tokens, order = (
            WindowAttention(Sizes(16, 2, 8, WINDOW, 2), None),
            torch.randn(1, 6, 16),
            [3, 0, 5, 1, 4, 2],
        )
        assert_close(attention.among(tokens[:, order]), attention.among(tokens)[:, order])
        changed = tokens.clone()
        changed[0, 5] += 1
        assert (attention.among(changed) - attention.among(tokens)).abs().amax(-1).min() > 0


class TestTokenShift:
    def test_adds_a_map_of_the_step_before(self):
        shift, hidden = TokenShift(3), torch.randn(2, 5, 3)
        shifted, last = shift(hidden, shift.initial_state(2))
        before = torch.cat([torch.zeros(2, 1, 3), hidden[:, :-1]], 1)
        assert_close(shifted, hidden + before @ shift.previous.weight.T)
        assert last.equal(hidden[:, -1])


def naive_attention(weights, hidden):
    """Window attention of 2 heads, one query at a time."""
    attended = np.zeros((*hidden.shape[:2], 16))
    for b, h, t in np.ndindex(len(hidden), 2, hidden.shape[1]):
        rows = slice(8 * h, 8 * h + 8)
        query, key, value = (hidden[b] @ weights["project.weight"][16 * part :][rows].T for part in range(3))
        near = range(max(0, t - WINDOW + 1), t + 1)
        scores = [turned(query[t], t) @ turned(key[p], p) * np.exp(weights["log_scale"][h, 0, 0]) for p in near]
        shares = np.exp(scores) / np.exp(scores).sum()
        attended[b, t, rows] = sum(share * value[p] for share, p in zip(shares, near, strict=True))
    return attended @ weights["output.weight"].T


def turned(vector, position):
    """A vector of length 1 with its first half rotated, as complex numbers."""
    unit = vector / np.linalg.norm(vector)
    numbers = (unit[:2] + 1j * unit[2:4]) * np.exp(1j * position / 10_000 ** (np.arange(2) / 2))
    return np.concatenate([numbers.real, numbers.imag, unit[4:]])
