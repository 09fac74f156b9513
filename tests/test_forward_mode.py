"""Derivatives that go forward, which no kernel has: `auto` takes the reference for them, a kernel by name refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_entity_memory
import test_memory_hops
import torch
from kernel_problems import dnc_problem
from kernel_problems import problem as ntm_problem
from sam_problems import problem as sam_problem
from torch.autograd import forward_ad
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

from memnets.kernel_report import kernel_names
from memnets.kernels import cpu as kernels
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.cases import cases
from memnets.ops.dnc_sequence import dnc_sequence
from memnets.ops.draw import Sizes
from memnets.ops.entity_memory import entity_memory
from memnets.ops.memory_hops import memory_hops
from memnets.ops.ntm_sequence import ntm_sequence
from memnets.ops.sam_sequence import sam_sequence

SEQUENCES = {
    "ntm_sequence": (ntm_sequence, ntm_problem),
    "dnc_sequence": (dnc_sequence, dnc_problem),
    "sam_sequence": (sam_sequence, sam_problem),
    "entity_memory": (entity_memory, test_entity_memory.problem),
    "memory_hops": (memory_hops, test_memory_hops.problem),
}
IN_CPP = {path.stem for path in Path(kernels.__path__[0]).glob("*.py")} - {"__init__", "sequence", "product_key"}
IN_CPP |= {"product_key_address", "weighted_gather"}
"""Ops with a kernel in C++; product keys have two of them."""
CALLS = {case.name: (case.function, case.arguments(torch.float64)) for case in cases() if case.sizes == Sizes()}
CALLS |= {name: (function, tuple(make())) for name, (function, make) in SEQUENCES.items()}


def derivative(function, arguments):
    """The result's, for random ones of all the arguments, each without a gradient of its own."""
    generator = torch.Generator().manual_seed(0)

    def dual(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return forward_ad.make_dual(value.detach(), torch.randn(value.shape, generator=generator, dtype=value.dtype))

    with forward_ad.dual_level():
        given = tree_map(dual, arguments)
        result = function(**given) if isinstance(given, dict) else function(*given)
        floating = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor) and part.is_floating_point()]
        return [forward_ad.unpack_dual(part).tangent for part in floating]


@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_reference_s(name):
    found = derivative(*CALLS[name])
    with use_backend("reference"):
        expected = derivative(*CALLS[name])
    assert any(tangent is not None for tangent in found)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def with_kernel(kernels):
    return [name for name in CALLS if name.split("-")[0] in kernels]


@pytest.mark.parametrize(
    ("backend", "name"),
    [("cpu", name) for name in with_kernel(IN_CPP)]
    + [("triton", name) for name in with_kernel([*kernel_names(), "memory_hops", "ntm_sequence"])],
)
def test_a_kernel_by_name_refuses(backend, name):
    with use_backend(backend), pytest.raises(BackendError, match="forward-mode derivatives can't go through it"):
        derivative(*CALLS[name])


def test_every_kernel_in_cpp_is_called():
    assert {name for name in IN_CPP if not with_kernel([name])} == set()
