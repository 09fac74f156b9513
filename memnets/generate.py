"""A model goes on with a text, token by token, each drawn from what it expects after those before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memnets.models.base import SequenceModel
from memnets.ops.backend import use_backend
from memnets.trained import read_language_model


@torch.no_grad()
def generate(
    model: SequenceModel,
    prompt: Int[Tensor, "batch time"],
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch num_tokens"]:
    """Return `num_tokens` that follow the prompt. The model reads each token once, and keeps its state.

    A token is drawn from softmax(logits / temperature) over the `top_k` largest logits (None: all); temperature 0 takes
    the largest. The model is used as it is: call `model.eval()` first.

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


@dataclass(frozen=True)
class Wanted:
    """What to go on with: a checkpoint, the text before, how far and how; and overrides of the configuration."""

    path: Path
    prompt: str = ""
    num_tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0
    overrides: list[str] = field(default_factory=list)


class Generated(NamedTuple):
    """The prompt as the model read it with what follows, and words of the prompt that the model doesn't know."""

    text: str
    unknown: list[str]


def generate_text(wanted: Wanted) -> Generated:
    """Let a checkpoint go on with a text. What it reads first is a line's end, as in training, then the prompt.

    Raises:
        ConfigError, CheckpointError, DataError: as `read_language_model`.
        ValueError: as `generate`.
    """
    trained = read_language_model(wanted.path, wanted.overrides)
    tokens, vocabulary = trained.task.tokens, trained.task.vocabulary
    read = tokens.read(wanted.prompt, vocabulary)
    prompt = torch.tensor([[trained.task.end, *read.ids]], device=trained.device)
    generator = torch.Generator(trained.device).manual_seed(wanted.seed)
    with use_backend(trained.experiment.runtime.backend):
        after = generate(trained.model, prompt, wanted.num_tokens, wanted.temperature, wanted.top_k, generator)
    return Generated(tokens.write([*read.ids, *after[0].tolist()], vocabulary), read.unknown)
