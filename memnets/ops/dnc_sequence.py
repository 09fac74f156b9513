"""The whole recurrence of a DNC as one op: controller, allocation, write, links and read, at every step.

Graves et al. 2016 (Nature 538, Methods), with the three changes of Csordas & Schmidhuber 2019 (arXiv:1904.10278).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu.dnc_sequence import DNC_SEQUENCE
from memnets.ops import backend
from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.content_address import content_address
from memnets.ops.erase_add import erase_add, read
from memnets.ops.linkage import LINK_EPSILON, follow_link, link_after, precedence_after
from memnets.ops.masked_content import masked_content_address
from memnets.ops.sequence import (
    SequenceWeights,
    check_lengths,
    controller_step,
    cpu_obstacle,
    in_one_precision,
    run_steps,
    without_padding,
)
from memnets.ops.shift_sharpen import sharpen


class DNCScheme(NamedTuple):
    """Which parts there are beside content, allocation and freeing."""

    mask: bool = False
    deallocation: bool = False
    link: bool = True
    link_sharpening: bool = False

    def sizes(self, word_size: int, num_read_heads: int) -> dict[str, int]:
        """Numbers each part takes from the controller, in the order of their rows; 0 if it is left out."""
        return {
            "read_key": num_read_heads * word_size,
            "read_strength": num_read_heads,
            "write_key": word_size,
            "write_strength": 1,
            "erase": word_size,
            "add": word_size,
            "free_gates": num_read_heads,
            "allocation_gate": 1,
            "write_gate": 1,
            "read_modes": 3 * num_read_heads * self.link,
            "read_mask": num_read_heads * word_size * self.mask,
            "write_mask": word_size * self.mask,
            "link_sharpening": 2 * num_read_heads * self.link_sharpening,
        }


class DNCSequenceState(NamedTuple):
    """What passes from step to step; `hidden` and `cell` are None without an LSTM, precedence and link without links.

    `link` at (i, j) says how much slot i was written right after slot j.
    """

    memory: Float[Tensor, "batch slots word"]
    usage: Float[Tensor, "batch slots"]
    precedence_weights: Float[Tensor, "batch slots"] | None
    link: Float[Tensor, "batch slots slots"] | None
    read_weights: Float[Tensor, "batch read_heads slots"]
    write_weights: Float[Tensor, "batch 1 slots"]
    read_vectors: Float[Tensor, "batch read_heads word"]
    hidden: Float[Tensor, "batch layers hidden"] | None
    cell: Float[Tensor, "batch layers hidden"] | None


Result = tuple[Float[Tensor, "batch time features"], DNCSequenceState]


def dnc_sequence(
    inputs: Float[Tensor, "batch time input"],
    state: DNCSequenceState,
    weights: SequenceWeights,
    scheme: DNCScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Controller output beside the read vectors at every step, and the state after the last.

    Rows of `weights.interface`: those of `scheme.sizes` in its order; read heads lie one after the other within a part,
    a head's three modes are backward, content, forward, its two sharpenings forward, backward. With `lengths`,
    sequence b has its first lengths[b] steps: features after those are 0, and the state stays.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
        ValueError: sharpening without links, a state with links that the scheme hasn't or without those it has, no
            steps, or lengths beyond the steps there are (on a GPU, where looking would take time, such lengths are cut
            to what there is).
    """
    given = (inputs, state, weights, scheme, lengths)
    return run_kernel(*given) or dnc_sequence_reference(*given)


def run_kernel(
    inputs: Float[Tensor, "batch time input"],
    state: DNCSequenceState,
    weights: SequenceWeights,
    scheme: DNCScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result | None:
    """Return the same from a kernel; None if none serves, for callers with a step of their own to fall back on."""
    _check(state, scheme, lengths, inputs.shape[1])
    given = (without_padding(inputs, lengths), lengths, *state, *weights)
    obstacles = {"cpu": lambda: cpu_obstacle("dnc_sequence", DNC_SEQUENCE.register, given)}
    if backend.choose("dnc_sequence", obstacles) == "reference":
        return None
    if not scheme.link:  # the kernel takes tensors of no slots
        none = state.usage.new_empty(len(inputs), 0, 0)
        given = (given[0], lengths, *state._replace(precedence_weights=none.flatten(1), link=none), *weights)
    features, *after = in_one_precision(DNC_SEQUENCE.run, given, tuple(scheme))
    state = DNCSequenceState(*after)
    return features, state if scheme.link else state._replace(precedence_weights=None, link=None)


def _check(state: DNCSequenceState, scheme: DNCScheme, lengths: Tensor | None, steps: int) -> None:
    if scheme.link_sharpening and not scheme.link:
        raise ValueError("link_sharpening sharpens what links say: give link=True, or link_sharpening=False")
    for name in ("link", "precedence_weights"):
        if (getattr(state, name) is not None) != scheme.link:
            raise ValueError(
                f"a scheme with link={scheme.link} needs a state {'with' if scheme.link else 'without'} {name}"
            )
    check_lengths(lengths, steps)


def dnc_sequence_reference(
    inputs: Float[Tensor, "batch time input"],
    state: DNCSequenceState,
    weights: SequenceWeights,
    scheme: DNCScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Return the same, step by step in plain PyTorch."""
    return run_steps(partial(_step, weights=weights, scheme=scheme), inputs, state, lengths)


def _step(
    inputs: Tensor, state: DNCSequenceState, weights: SequenceWeights, scheme: DNCScheme
) -> tuple[Tensor, DNCSequenceState]:
    seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
    output, hidden, cell = controller_step(seen, state.hidden, state.cell, weights)
    sizes = scheme.sizes(state.memory.shape[2], state.read_weights.shape[1])
    interface = F.linear(output, weights.interface, weights.interface_bias)
    raw = dict(zip(sizes, interface.split(list(sizes.values()), dim=-1), strict=True))
    usage, retention = usage_after(
        state.usage, state.write_weights[:, 0], state.read_weights, torch.sigmoid(raw["free_gates"])
    )
    write_weights = _write_weights(raw, state.memory, usage, scheme)
    kept = state.memory * retention[:, :, None] if scheme.deallocation else state.memory
    memory = erase_add(kept, write_weights, torch.sigmoid(raw["erase"])[:, None], raw["add"][:, None])
    precedence_weights = link = None
    if state.precedence_weights is not None and state.link is not None:
        link = link_after(state.link, state.precedence_weights, write_weights[:, 0])
        precedence_weights = precedence_after(state.precedence_weights, write_weights[:, 0])
    read_weights = _read_weights(raw, memory, link, state.read_weights, scheme)
    read_vectors = read(memory, read_weights)
    features = torch.cat([output, rearrange(read_vectors, "b h w -> b (h w)")], dim=-1)
    return features, DNCSequenceState(
        memory, usage, precedence_weights, link, read_weights, write_weights, read_vectors, hidden, cell
    )


def _write_weights(raw: dict[str, Tensor], memory: Tensor, usage: Tensor, scheme: DNCScheme) -> Tensor:
    """write_gate · (allocation_gate · allocation + (1 - allocation_gate) · content), `[batch 1 slots]`."""
    key, mask = raw["write_key"][:, None], raw["write_mask"][:, None]
    content = _content(memory, key, raw["write_strength"], mask, scheme)
    allocation_gate, write_gate = (torch.sigmoid(raw[name])[:, None] for name in ("allocation_gate", "write_gate"))
    allocation = allocation_weights(usage)[:, None]
    return write_gate * (allocation_gate * allocation + (1 - allocation_gate) * content)


def _read_weights(
    raw: dict[str, Tensor], memory: Tensor, link: Tensor | None, previous: Tensor, scheme: DNCScheme
) -> Tensor:
    """modes · (backward, content, forward); content alone without links."""
    key, mask = (rearrange(raw[name], "b (h w) -> b h w", h=previous.shape[1]) for name in ("read_key", "read_mask"))
    content = _content(memory, key, raw["read_strength"], mask, scheme)
    if link is None:
        return content
    forward, backward = follow_link(link, previous)
    if scheme.link_sharpening:
        powers = 1 + F.softplus(rearrange(raw["link_sharpening"], "b (h two) -> two b h", two=2))
        forward, backward = sharpen(forward, powers[0], LINK_EPSILON), sharpen(backward, powers[1], LINK_EPSILON)
    modes = torch.softmax(rearrange(raw["read_modes"], "b (h m) -> b h m", m=3), dim=-1)
    return torch.einsum("bhm,mbhn->bhn", modes, torch.stack([backward, content, forward]))


def _content(memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor, scheme: DNCScheme) -> Tensor:
    strength = 1 + F.softplus(strength)
    if scheme.mask:
        return masked_content_address(memory, key, strength, torch.sigmoid(mask))
    return content_address(memory, key, strength)
