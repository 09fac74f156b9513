"""The op of Memory Networks: tables' rows are summed to slots (rows.py), which hops read (hops.py)."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from memnets.kernels.replicas import Given
from memnets.kernels.triton.hops import hops_triton
from memnets.kernels.triton.product_key import weighted_gather


def run(given: Given, scheme: tuple[Any, ...]) -> Tensor:
    """Return the last query `[replicas batch embedding]`.

    Args:
        given: story, ages, question, words, vectors of ages, update, linear: in one precision, replicas first.
        scheme: hops, adjacent, position encoding, relu, scale, attend empty, most words.
    """
    story, ages, question, words, age_vectors, update, linear = given
    assert story is not None
    assert question is not None
    assert words is not None
    hops, adjacent, position, relu, scale, attend_empty, most_words = scheme
    read, asking = (words, words[:, :1]) if adjacent else (words[:, :2], words[:, 2:])
    for ids in (story, question):
        torch._assert_async(
            ((ids >= 0) & (ids <= words.shape[2])).all(), f"words must be ids from 0 to {words.shape[2]}"
        )
    slots = _embed(rearrange(story, "r b s j -> r (b s) j"), read, position, most_words)
    if ages is not None and age_vectors is not None:
        torch._assert_async((ages >= 0).all(), "memory_hops takes ages no less than 0")
        age = ages.clamp(max=age_vectors.shape[2])
        slots = slots + _embed(rearrange(age, "r b s -> r (b s) 1"), age_vectors, "none", 0)
    slots = rearrange(slots, "r (b s) t e -> (r b) s t e", s=story.shape[2])
    query = rearrange(_embed(question, asking, position, most_words), "r b 1 e -> (r b) e")
    told = (story != 0).any(-1).flatten(0, 1)
    queries, _reads, _log_sums = hops_triton(
        slots, query, told, update, linear, hops, adjacent, relu, scale, attend_empty
    )
    return queries[:, -1].unflatten(0, story.shape[:2])


def _embed(ids: Tensor, tables: Tensor, position: str, most_words: int) -> Tensor:
    """Σ_j l_j · A x_j for sentences [replicas rows words] in all tables: [replicas rows tables embedding].

    Tables lie side by side, so that a word is looked up once; l_kj = near_j - k/d slope_j is of rank two.
    """
    replicas, num_tables, num_ids, size = tables.shape
    values = rearrange(tables, "r t i e -> (r i) (t e)")
    first = num_ids * torch.arange(replicas, device=ids.device)[:, None, None]
    factors = _position(ids, size, position, most_words, tables.dtype)
    indices = torch.where(ids > 0, ids - 1 + first, -1).flatten(0, 1)[:, None].expand(-1, len(factors), -1)
    near, *slope = weighted_gather(values, torch.stack(factors, 2).flatten(0, 1), indices.contiguous()).unbind(1)
    for each in slope:
        component = torch.arange(1, size + 1, device=ids.device, dtype=tables.dtype) / size
        near = near - component.repeat(num_tables) * each
    return rearrange(near, "(r n) (t e) -> r n t e", r=replicas, t=num_tables)


def _position(ids: Tensor, size: int, position: str, most_words: int, dtype: torch.dtype) -> list[Tensor]:
    """What weighs words by where they stand: near_j, and slope_j unless it is a bag of words; 0 for padding."""
    is_word = (ids != 0).to(dtype)
    if position == "none":
        return [is_word]
    numbers = torch.arange(1, ids.shape[-1] + 1, device=ids.device, dtype=dtype)
    if position == "paper":
        place = numbers / is_word.sum(-1, keepdim=True).clamp(min=1)
        return [is_word * (1 - place), is_word * (1 - 2 * place)]
    centred = 4 * (numbers - (most_words + 2) / 2) / (most_words + 1)
    return [is_word * (1 - centred * (size + 1) / (2 * size)), is_word * -centred]
