"""Training steps of machines: an NTM, a DNC and a SAM, with the controller and the words of the NTM paper's copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memnets.benchmark.problem import Problem, Step, nbytes
from memnets.contracts import Spec
from memnets.models.base import SequenceModel
from memnets.models.dnc import DNC
from memnets.models.ntm import NTM
from memnets.models.sam import SAM
from memnets.ops.draw import Sizes

BATCHES = (1, 16, 64)
INPUTS, OUTPUTS, HIDDEN = 9, 8, 100
"""Copy: LSTM-100, memory 128 x 20; 20 vectors make 41 steps."""
SPEC = Spec("vectors", INPUTS, OUTPUTS)


class Machine(NamedTuple):
    """A model to train, at sizes of its own; `products` counts those of interface and memory in a step."""

    sizes: Sizes
    model: Callable[[Sizes], SequenceModel]
    products: Callable[[Sizes], int]
    num_reads: Callable[[Sizes], int]


def _ntm(sizes: Sizes) -> NTM:
    half = sizes.heads // 2
    return NTM(SPEC, memory_size=sizes.slots, word_size=sizes.word, num_read_heads=half, num_write_heads=half)


def _ntm_products(sizes: Sizes) -> int:
    """Per word component and slot: a product per head and one for the norm, a read, four operations per write."""
    reads = writes = sizes.heads // 2
    interface = sizes.heads * (sizes.word + 6) + 2 * writes * sizes.word
    return interface * HIDDEN + sizes.slots * sizes.word * (sizes.heads + 1 + reads + 2 * writes)


def _dnc(sizes: Sizes) -> DNC:
    return DNC(SPEC, memory_size=sizes.slots, word_size=sizes.word, num_read_heads=sizes.heads - 1)


def _dnc_products(sizes: Sizes) -> int:
    """As the NTM's; and per pair of slots four operations on the link, and two products per read head."""
    reads = sizes.heads - 1
    interface = reads * (sizes.word + 5) + 3 * sizes.word + 3
    memory = sizes.word * (sizes.heads + 1 + reads + 2) + sizes.slots * (2 + 2 * reads)
    return interface * HIDDEN + sizes.slots * memory


def _sam(sizes: Sizes) -> SAM:
    return SAM(SPEC, memory_size=sizes.slots, word_size=sizes.word, num_heads=sizes.heads, top_k=sizes.k)


def _sam_products(sizes: Sizes) -> int:
    """Per word component: product, norm and read of k slots, sum and norm of the k + 1 written to.

    Without the search, which goes through as many slots as were used.
    """
    interface = sizes.heads * (2 * sizes.word + 3)
    return interface * HIDDEN + sizes.heads * sizes.word * (3 * sizes.k + 2 * (sizes.k + 1))


STEPS = {
    "ntm_step": Machine(
        Sizes(heads=2, slots=128, word=20, time=41), _ntm, _ntm_products, lambda sizes: sizes.heads // 2
    ),
    "dnc_step": Machine(
        Sizes(heads=2, slots=128, word=20, time=41), _dnc, _dnc_products, lambda sizes: sizes.heads - 1
    ),
    "sam_step": Machine(
        Sizes(heads=4, slots=128, word=20, time=41, k=4), _sam, _sam_products, lambda sizes: sizes.heads
    ),
}
"""By name. `heads` counts those that read and those that write: of an NTM as many of either, of a DNC one that writes;
a SAM's do both."""


def training_step(name: str, sizes: Sizes, device: str) -> Problem:
    """A training step on random bits: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    inputs, targets = (torch.rand(sizes.batch, sizes.time, width).round().to(device) for width in (INPUTS, OUTPUTS))

    def compiled() -> Step:
        """The cell is compiled, as in training: the loop would be anew for each length."""
        other = STEPS[name].model(sizes).to(device)
        other.compiled_part().compile(dynamic=False)
        return _training(other, inputs, targets)

    trained = STEPS[name].model(sizes).to(device)
    parameters = list(trained.parameters())
    # Weights and both moments are read and written, gradients made.
    moved = [inputs, targets, *parameters * 7]
    return Problem(
        name,
        sizes,
        _training(trained, inputs, targets),
        compiled,
        nbytes(moved),
        step_flops(name, sizes),
        owned=(inputs, targets, *parameters),
        num_steps=sizes.batch * sizes.time,
    )


def _training(model: SequenceModel, inputs: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        outputs, _ = model(inputs)
        F.binary_cross_entropy_with_logits(outputs, targets).backward()
        optimizer.step()

    return step


def step_flops(name: str, sizes: Sizes) -> float:
    """Floating-point operations of a training step, matrix products and memory alone.

    A product of matrices costs twice as much backward as forward; so does the memory's arithmetic.
    """
    reads = STEPS[name].num_reads(sizes) * sizes.word
    linear = 4 * HIDDEN * (INPUTS + reads + HIDDEN) + OUTPUTS * (HIDDEN + reads)
    return 3.0 * sizes.batch * sizes.time * 2 * (linear + STEPS[name].products(sizes))
