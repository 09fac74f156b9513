"""A model goes on with a text, token by token, each drawn from what it expects after those before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from memnets.models.generation import generate
from memnets.ops.backend import use_backend
from memnets.trained import read_language_model


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
