"""Cells of a Recurrent Entity Network, updated by sentence after sentence (Henaff et al. 2017, arXiv:1612.03969)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu import entity_memory as cpu
from memnets.ops import backend
from memnets.ops.sequence import check_lengths, cpu_obstacle, in_one_precision, without_padding

SHORTEST = 1e-6
"""Length up to which a vector has no direction; as in entity_memory.h."""


class CellWeights(NamedTuple):
    """What all sentences share: keys w_j; U, V and W of the candidate; biases; slopes of φ below 0."""

    keys: Float[Tensor, "slots word"]
    from_memory: Float[Tensor, "word word"]
    from_key: Float[Tensor, "word word"]
    from_sentence: Float[Tensor, "word word"]
    gate_bias: Float[Tensor, " slots"]
    candidate_bias: Float[Tensor, " word"]
    slopes: Float[Tensor, " word"]


Memory = Float[Tensor, "batch slots word"]


def entity_memory(
    memory: Memory,
    sentences: Float[Tensor, "batch sentences word"],
    lengths: Int[Tensor, " batch"],
    weights: CellWeights,
) -> Memory:
    """Memory after the first `lengths` sentences of each story, one after the other by `update_cells`.

    Raises:
        ValueError: lengths below 0, or beyond the sentences there are.
        BackendError: the backend asked for by name can't serve the call.
    """
    after = run_kernel(memory, sentences, lengths, weights)
    return entity_memory_reference(memory, sentences, lengths, weights) if after is None else after


def run_kernel(
    memory: Memory,
    sentences: Float[Tensor, "batch sentences word"],
    lengths: Int[Tensor, " batch"],
    weights: CellWeights,
) -> Memory | None:
    """Return the same from a kernel; None if none serves, for callers with a loop of their own to fall back on."""
    check_lengths(lengths, sentences.shape[1])
    given = (sentences, memory, lengths, *weights)
    chosen = backend.choose("entity_memory", {"cpu": lambda: cpu_obstacle("entity_memory", cpu.register, given)})
    return None if chosen == "reference" else in_one_precision(_run, given)[0]


def _run(given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """The kernel's loop holds what depends on the memory; all else is three products over whole stories."""
    sentences, memory, lengths, *rest = given
    weights = CellWeights(*rest)
    with torch.autocast("cpu", enabled=False):
        told = without_padding(sentences, lengths)
        matches = told @ weights.keys.T + weights.gate_bias
        by_sentence = told @ weights.from_sentence.T
        by_key = weights.keys @ weights.from_key.T + weights.candidate_bias
    return cpu.run((memory, told, lengths.long(), matches, by_sentence, by_key, weights.from_memory, weights.slopes))


def entity_memory_reference(
    memory: Memory,
    sentences: Float[Tensor, "batch sentences word"],
    lengths: Int[Tensor, " batch"],
    weights: CellWeights,
) -> Memory:
    """Return the same, sentence by sentence in plain PyTorch; a story that has ended keeps its memory."""
    for index, sentence in enumerate(without_padding(sentences, lengths).unbind(1)):
        goes_on = (index < lengths)[:, None, None]
        memory = torch.where(goes_on, update_cells(memory, sentence, weights), memory)
    return memory


def update_cells(memory: Memory, sentence: Float[Tensor, "batch word"], weights: CellWeights) -> Memory:
    """Memory after a sentence s.

    h_j' = (h_j + g_j c_j) / |h_j + g_j c_j| (equations 4 and 5), with the gate g_j = σ(sᵀ h_j + sᵀ w_j + a_j)
    (equation 2) and the candidate c_j = φ(U h_j + V w_j + W s + b) (equation 3).
    """
    gate = torch.sigmoid(torch.einsum("bw,bnw->bn", sentence, memory + weights.keys) + weights.gate_bias)
    about_cells = memory @ weights.from_memory.T + weights.keys @ weights.from_key.T + weights.candidate_bias
    candidate = prelu(about_cells + (sentence @ weights.from_sentence.T)[:, None], weights.slopes)
    return unit_length(memory + gate[:, :, None] * candidate)


def prelu(units: Float[Tensor, "*shape word"], slopes: Float[Tensor, " word"]) -> Float[Tensor, "*shape word"]:
    """φ: a unit below 0 is multiplied by its slope."""
    return torch.where(units > 0, units, slopes * units)


def unit_length(vectors: Float[Tensor, "*shape word"]) -> Float[Tensor, "*shape word"]:
    """h / |h| (equation 5); vectors no longer than `SHORTEST` stay as they are, and so do their gradients."""
    squared = vectors.square().sum(-1, keepdim=True)
    return vectors * torch.rsqrt(torch.where(squared > SHORTEST**2, squared, 1.0))
