"""A Memory Network from a story and a question to its last query as one op: embed, attend and read, hop after hop.

Sukhbaatar, Szlam, Weston & Fergus 2015 (arXiv:1503.08895).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.kernels.cpu import memory_hops as cpu
from memnets.kernels.replicas import over_replicas
from memnets.ops import backend
from memnets.ops.content_address import content_address_reference
from memnets.ops.erase_add import read
from memnets.ops.sequence import in_one_precision, place_obstacle

PositionEncoding = Literal["none", "paper", "centred"]
"""What weighs a sentence's words by where they stand, see `position_weights`; `none` is a bag of words."""


class HopWeights(NamedTuple):
    """Vectors of all tables, without padding: id 1 has the first row, id 0 is padding and has no vector.

    With adjacent tables, `words` are A^1, A^2 = C^1, ... C^K, of which A^1 embeds the question; else A, C and B. `ages`
    has those tables that embed the story, or there are none: time isn't encoded. `update` is H (layer-wise tying).
    """

    words: Float[Tensor, "tables ids embedding"]
    ages: Float[Tensor, "story_tables ages embedding"] | None = None
    update: Float[Tensor, "embedding embedding"] | None = None


class HopScheme(NamedTuple):
    """How the hops go about it.

    Attributes:
        num_hops: K.
        adjacent: how hops share their tables.
        position_encoding: what weighs words by where they stand.
        relu: follows each hop.
        scale: of the scores.
        attend_empty: empty slots, of score and value 0, take part in the softmax, as in the authors' code: a hop may
            then read little of anything. Else only what is told takes part.
        most_words: of the longest sentence, for the position encoding `centred`.
    """

    num_hops: int
    adjacent: bool = True
    position_encoding: PositionEncoding = "paper"
    relu: bool = False
    scale: float = 1.0
    attend_empty: bool = False
    most_words: int = 0


Query = Float[Tensor, "batch embedding"]


def memory_hops(
    story: Int[Tensor, "batch sentences words"],
    question: Int[Tensor, "batch words"],
    weights: HopWeights,
    scheme: HopScheme,
    ages: Int[Tensor, "batch sentences"] | None = None,
    linear: Bool[Tensor, ""] | None = None,
) -> Query:
    """u^{K+1}, from u^1 = Σ_j l_j · B q_j by K hops (equations 1, 2 and 4; section 4.1).

    Hop k has slots m_i = Σ_j l_j · A^k x_ij + T_A^k(age_i) and likewise c_i, p = softmax(scale · uᵀ m_i) over the
    sentences told, those with a word, or without the softmax if `linear`; then u^{k+1} = f(H u^k + Σ_i p_i c_i). Ages
    beyond the oldest that has a vector share its; age 0 has none. With nothing told, all weights are 0.
    `scheme.attend_empty` counts empty slots in the softmax, without reading anything of them.

    Under `torch.func.vmap` a kernel runs all replicas at once; Triton's does so where torch.compile doesn't look on.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
        ValueError: tables, ages or an update that don't fit the scheme.
    """
    given = (story, question, weights, scheme, ages, linear)
    query = run_kernel(*given)
    return memory_hops_reference(*given) if query is None else query


def run_kernel(
    story: Int[Tensor, "batch sentences words"],
    question: Int[Tensor, "batch words"],
    weights: HopWeights,
    scheme: HopScheme,
    ages: Int[Tensor, "batch sentences"] | None = None,
    linear: Bool[Tensor, ""] | None = None,
) -> Query | None:
    """Return the same from a kernel; None if none serves, for callers with hops of their own to fall back on."""
    _check(weights, scheme, ages)
    given = (story, ages, question, *weights, linear)
    obstacles = {
        "triton": lambda: backend.triton_obstacle(*given, mixed=True, vmap=True) or _too_wide(weights.update),
        "cpu": lambda: _cpu_obstacle(given),
    }
    chosen = backend.choose("memory_hops", obstacles)
    if chosen == "reference":
        return None
    run = cpu.run
    if chosen == "triton":
        from memnets.kernels.triton import memory_hops as kernel

        run = kernel.run
    return in_one_precision(lambda *call: (over_replicas(run, *call),), given, tuple(scheme))[0]


def _cpu_obstacle(given: tuple[Tensor | None, ...]) -> str | None:
    """Return why the C++ kernel can't serve: as for sequences, but it does serve vmap."""
    return (
        place_obstacle(given)
        or backend.transform_obstacle(vmap=True)
        or backend.build_obstacle("memory_hops", cpu.register)
    )


def _too_wide(update: Tensor | None) -> str | None:
    return None if update is None or len(update) <= 64 else f"H is more than 64 wide: {len(update)}"


def _check(weights: HopWeights, scheme: HopScheme, ages: Tensor | None) -> None:
    if scheme.num_hops < 1:
        raise ValueError(f"num_hops must be at least 1, not {scheme.num_hops}")
    num_tables = scheme.num_hops + 1 if scheme.adjacent else 3
    if len(weights.words) != num_tables:
        raise ValueError(f"{num_tables} tables of words fit {scheme}, not {len(weights.words)}")
    if (ages is None) != (weights.ages is None):
        raise ValueError("ages of sentences go with vectors of ages: give both, or neither")
    if scheme.adjacent and weights.update is not None:
        raise ValueError("adjacent tables have no update H: give adjacent=False, or no update")


def memory_hops_reference(
    story: Int[Tensor, "batch sentences words"],
    question: Int[Tensor, "batch words"],
    weights: HopWeights,
    scheme: HopScheme,
    ages: Int[Tensor, "batch sentences"] | None = None,
    linear: Bool[Tensor, ""] | None = None,
) -> Query:
    """Return the same, table by table and hop by hop in plain PyTorch."""
    told, tables = (story != 0).any(-1), weights.words.unbind()
    slots = [_embed(story, table, scheme) for table in (tables if scheme.adjacent else tables[:2])]
    if weights.ages is not None and ages is not None:
        age = ages.clamp(max=weights.ages.shape[1])
        slots = [slot + F.embedding(age, _padded(table)) for slot, table in zip(slots, weights.ages, strict=True)]
    query = _embed(question, tables[0 if scheme.adjacent else 2], scheme)
    for k in range(scheme.num_hops):
        keys, values = (slots[k], slots[k + 1]) if scheme.adjacent else slots
        found = read(values, _weights(query, keys, told, scheme, linear)[:, None]).squeeze(1)
        query = (query if weights.update is None else query @ weights.update.T) + found
        query = torch.relu(query) if scheme.relu else query
    return query


def _embed(ids: Tensor, vectors: Tensor, scheme: HopScheme) -> Tensor:
    """Σ_j l_j · A x_j."""
    embedded = F.embedding(ids, _padded(vectors))
    if scheme.position_encoding != "none":
        kind, size = scheme.position_encoding, vectors.shape[-1]
        embedded = embedded * position_weights(ids, size, embedded.dtype, kind, scheme.most_words)
    return embedded.sum(-2)


def _padded(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, 0, 1, 0))


def _weights(query: Tensor, keys: Tensor, told: Tensor, scheme: HopScheme, linear: Tensor | None) -> Tensor:
    """p (equation 1), `[batch sentences]`; 0 for slots that aren't told."""
    keys, strength = keys * told[:, :, None], torch.full_like(query[:, :1], scheme.scale)
    among = torch.ones_like(told) if scheme.attend_empty else told
    softmax = content_address_reference(keys, query[:, None], strength, among, similarity="dot").squeeze(1) * told
    if linear is None:
        return softmax
    return torch.where(linear, scheme.scale * torch.einsum("bw,bnw->bn", query, keys) * told, softmax)


def position_weights(
    sentences: Int[Tensor, "*shape words"],
    embedding_size: int,
    dtype: torch.dtype = torch.float32,
    encoding: Literal["paper", "centred"] = "paper",
    most_words: int = 0,
) -> Float[Tensor, "*shape words embedding"]:
    """l_kj for component k of d and word j of J, both from 1.

    `paper`: (1 - j/J) - (k/d)(1 - 2j/J) (section 4.1), with the sentence's own J: the mean is about 1/2.
    `centred`: `centred_weights`, as in the authors' code.

    Padding changes nothing.
    """
    numbers = torch.arange(1, sentences.shape[-1] + 1, device=sentences.device, dtype=dtype)
    if encoding == "centred":
        return centred_weights(numbers, embedding_size, most_words).expand(*sentences.shape, embedding_size)
    lengths = (sentences != 0).sum(-1, keepdim=True).clamp(min=1)
    place = (numbers / lengths)[..., None]
    component = torch.arange(1, embedding_size + 1, device=sentences.device, dtype=dtype) / embedding_size
    return (1 - place) - component * (1 - 2 * place)


def centred_weights(
    numbers: Float[Tensor, " words"], embedding_size: int, most_words: int
) -> Float[Tensor, "words embedding"]:
    """l_kj = 1 + 4 (k - (d + 1)/2) (j - (J + 1)/2) / (d J) for words of these numbers j, the first being 1.

    J is one more than the words of the longest sentence: a sentence's vector of time is weighed as its word J. The mean
    is 1, about twice that of the paper's weights.
    """
    places = most_words + 1
    component = torch.arange(1, embedding_size + 1, device=numbers.device, dtype=numbers.dtype)
    centred = (numbers - (places + 1) / 2) / places
    return 1 + 4 * centred[:, None] * (component - (embedding_size + 1) / 2) / embedding_size
