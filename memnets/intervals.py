"""How sure a number measured on examples is: the percentile bootstrap (Efron & Tibshirani 1993, section 13.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL, NUM_SAMPLES = 0.95, 1000


def resampled_means(
    totals: Float[Tensor, "examples metrics"],
    counts: Float[Tensor, "examples metrics"],
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> Float[Tensor, "samples metrics"]:
    """Return the means of examples drawn with replacement, as many as there are, again and again.

    A mean is a sum of totals over a sum of counts: both are drawn together, and so are all metrics. NaN where nothing
    that was drawn counts.

    Raises:
        ValueError: there are no examples.
    """
    if not len(totals):
        raise ValueError("there is nothing to draw from: no examples")
    generator, means = torch.Generator().manual_seed(seed), []
    both = torch.cat([totals, counts], dim=1).double()
    for _ in range(num_samples):
        drawn = torch.randint(len(both), (len(both),), generator=generator)
        times = torch.bincount(drawn, minlength=len(both)).double()
        total, count = (times @ both).chunk(2)
        means.append(total / count)
    return torch.stack(means)


def percentile_interval(samples: Float[Tensor, " samples"], level: float = LEVEL) -> tuple[float, float]:
    """Return the least and the greatest of the middle share `level` of samples; of those that are numbers."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(samples.double(), ends).tolist()
    return low, high


def bootstrap_interval(
    values: Float[Tensor, " examples"], level: float = LEVEL, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return a confidence interval of the mean of examples' values.

    Raises:
        ValueError: there are no values.
    """
    samples = resampled_means(values[:, None], torch.ones_like(values)[:, None], num_samples, seed)
    return percentile_interval(samples[:, 0], level)
