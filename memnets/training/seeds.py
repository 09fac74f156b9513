"""Where a step's random numbers begin: pure functions of the run's seed, the step and the process."""

from __future__ import annotations

import numpy as np
import torch

RANK_SEEDS = 1_000_003
"""Streams carried from step to step differ between processes by a multiple of this in their seed."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of all of a step's random numbers in the model, so that dropout needs no saved generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_generator(seed: int, device: torch.device) -> None:
    """Seed the global generators of the CPU and of `device`.

    `torch.manual_seed` seeds every kind of device and takes a stack trace for each absent one: fifty times the work.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
