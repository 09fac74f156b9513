"""What the memory holds before the first step. Constant converges fastest (Collier & Beel 2018, arXiv:1807.08518)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConstantMemory(nn.Module):
    """Every component equals `value`."""

    def __init__(self, memory_size: int, word_size: int, value: float = 1e-6) -> None:
        super().__init__()
        self.register_buffer("content", torch.full((memory_size, word_size), value), persistent=False)

    def forward(self, batch_size: int) -> Float[Tensor, "batch slots word"]:
        """Return the same memory for every sequence."""
        return self.get_buffer("content").expand(batch_size, -1, -1)


class LearnedMemory(nn.Module):
    """Learned content, drawn from a normal distribution of standard deviation `std` to begin with."""

    def __init__(self, memory_size: int, word_size: int, std: float = 0.1) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(memory_size, word_size) * std)

    def forward(self, batch_size: int) -> Float[Tensor, "batch slots word"]:
        """Return the learned memory for every sequence."""
        return self.content.expand(batch_size, -1, -1)


class SinusoidalMemory(nn.Module):
    """Learned content that begins as a code of the slot's place, in which neighbours are alike.

    Slot i of n begins with cos(πki/n) for k = 1, 2, ... up to half the word, rounded up, and then sin(πki/n), in the
    manner of the position encodings of Vaswani et al. 2017 (arXiv:1706.03762, section 3.5). A key can name a place and
    what is near it: to turn a number into a place, a controller learns one smooth function in place of one per slot.
    """

    def __init__(self, memory_size: int, word_size: int) -> None:
        super().__init__()
        place = torch.arange(memory_size)[:, None] / memory_size
        angle = torch.pi * place * torch.arange(1, (word_size + 1) // 2 + 1)
        self.content = nn.Parameter(torch.cat([angle.cos(), angle.sin()], dim=1)[:, :word_size].contiguous())

    def forward(self, batch_size: int) -> Float[Tensor, "batch slots word"]:
        """Return the learned memory for every sequence."""
        return self.content.expand(batch_size, -1, -1)


class RandomMemory(nn.Module):
    """Drawn anew for every sequence from a normal distribution of standard deviation `std`."""

    def __init__(self, memory_size: int, word_size: int, std: float = 0.1) -> None:
        super().__init__()
        self.std = std
        self.register_buffer("like", torch.zeros(memory_size, word_size), persistent=False)

    def forward(self, batch_size: int) -> Float[Tensor, "batch slots word"]:
        """Draw a memory for each sequence, from torch's global generator."""
        return torch.randn_like(self.get_buffer("like").expand(batch_size, -1, -1)) * self.std
