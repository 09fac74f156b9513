"""Content addressing by some components of a word (Csordas & Schmidhuber 2019, arXiv:1904.10278, section 3.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.ops.content_address import EPSILON


def masked_content_address(
    memory: Float[Tensor, "batch slots word"],
    key: Float[Tensor, "batch heads word"],
    strength: Float[Tensor, "batch heads"],
    key_mask: Float[Tensor, "batch heads word"],
) -> Float[Tensor, "batch heads slots"]:
    """Softmax over slots of strength × cosine of mask · key and mask · slot.

    The cosine is that of `content_address`: u·v / √((|u|² + 1e-8)(|v|² + 1e-8)).
    """
    square = key_mask.square()
    scores = torch.einsum("bhw,bnw->bhn", square * key, memory)
    key_norm = torch.rsqrt((square * key.square()).sum(-1) + EPSILON)
    memory_norm = torch.rsqrt(torch.einsum("bhw,bnw->bhn", square, memory.square()) + EPSILON)
    return torch.softmax(scores * memory_norm * (key_norm * strength)[:, :, None], dim=-1)
