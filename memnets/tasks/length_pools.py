"""Batches of training questions of like length, so that little of them is padding."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from memnets.tasks.base import generator

POOL = 20
"""Training batches between whose questions those of like length are put together."""


def training_rows(lengths: tuple[int, ...], index: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the places of training batch `index`: an epoch is one shuffled pass, sorted by length within pools.

    Raises:
        ValueError: there are fewer questions than a batch has.
    """
    if batch_size > len(lengths):
        raise ValueError(f"a batch of {batch_size} needs at least as many questions; there are {len(lengths)}")
    epoch, number = divmod(index, len(lengths) // batch_size)
    return _epoch(lengths, epoch, batch_size, seed)[number]


@lru_cache(maxsize=4)
def _epoch(lengths: tuple[int, ...], epoch: int, batch_size: int, seed: int) -> list[np.ndarray]:
    random = generator(seed, "train", epoch)
    order, known = random.permutation(len(lengths)), np.array(lengths)
    pools = [order[at : at + POOL * batch_size] for at in range(0, len(order), POOL * batch_size)]
    sorted_pools = [pool[np.argsort(known[pool], kind="stable")] for pool in pools]
    batches = [pool[at : at + batch_size] for pool in sorted_pools for at in range(0, len(pool), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    return [whole[i] for i in random.permutation(len(whole))]
