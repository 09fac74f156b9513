"""A model goes on with tokens: each is drawn from what it expects after those before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def generate(
    model: Callable[..., tuple[Tensor, Any]],
    prompt: Int[Tensor, "batch time"],
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch num_tokens"]:
    """Return `num_tokens` that follow the prompt. The model reads each token once, and keeps its state.

    A token is drawn from softmax(logits / temperature) over the `top_k` largest logits (None: all); temperature 0 takes
    the largest. The model, `outputs, state = model(tokens, state)`, is used as it is: call `model.eval()` first.

    Raises:
        ValueError: an empty prompt, less than one token, a temperature below 0, or top_k below 1.
    """
    _check(prompt, num_tokens, temperature, top_k)
    outputs, state = model(prompt)
    drawn = [_draw(outputs[:, -1], temperature, top_k, generator)]
    while len(drawn) < num_tokens:
        outputs, state = model(drawn[-1], state)
        drawn.append(_draw(outputs[:, -1], temperature, top_k, generator))
    return torch.cat(drawn, dim=1)


def _draw(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    best, tokens = logits.topk(min(top_k or logits.shape[1], logits.shape[1]))
    chosen = torch.multinomial((best / temperature).softmax(-1), 1, generator=generator)
    return tokens.gather(1, chosen)


def _check(prompt: Tensor, num_tokens: int, temperature: float, top_k: int | None) -> None:
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token to go on from")
    if num_tokens < 1 or (top_k is not None and top_k < 1):
        raise ValueError(f"num_tokens and top_k must be at least 1, not num_tokens={num_tokens} and top_k={top_k}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number from 0 on, not {temperature}")
