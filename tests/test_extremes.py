"""Bad input to machines with a memory and to their sequence ops, and parameters and memories at their extremes."""

from __future__ import annotations

from functools import partial

import kernel_problems
import pytest
import sam_problems
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import dnc_problem
from test_dnc import PARTS
from test_dnc import addressing_of as dnc_addressing_of
from test_models import SPECS
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.initial_memory import ConstantMemory
from memnets.models.controller import FeedForwardController, LSTMController
from memnets.models.dnc import DNC
from memnets.models.mann import MANN
from memnets.models.ntm import NTM
from memnets.models.sam import SAM
from memnets.ops.backend import use_backend
from memnets.ops.dnc_sequence import dnc_sequence
from memnets.ops.ntm_sequence import ntm_sequence
from memnets.ops.sam_sequence import sam_sequence

SLOTS, WORD = 5, 3
MACHINES = {
    "ntm": partial(NTM, num_read_heads=2, num_write_heads=2),
    "dnc": partial(DNC, num_read_heads=2),
    "dnc_mds": partial(DNC, num_read_heads=2, addressing=dnc_addressing_of(PARTS)),
    "sam": partial(SAM, num_heads=2, top_k=2),
    "mann": partial(MANN, num_read_heads=2),
}
OPS = {
    "ntm": (ntm_sequence, kernel_problems.problem),
    "dnc": (dnc_sequence, dnc_problem),
    "sam": (sam_sequence, sam_problems.problem),
}
MEMORIES = [0.0, 1e-30, 1e-6, 1.0, 1e3]
"""Every component of the first memory; a SAM's is always 0."""

every_machine = pytest.mark.parametrize("name", MACHINES)
every_op = pytest.mark.parametrize(("op", "make"), OPS.values(), ids=OPS)
both_backends = pytest.mark.parametrize("backend", ["reference", "auto"])


def machine(name, memory=1e-6, controller=LSTMController, memory_size=SLOTS):
    made = {} if name == "sam" else {"initial_memory": partial(ConstantMemory, value=memory)}
    sizes = {"memory_size": memory_size, "word_size": WORD}
    return MACHINES[name](SPECS["vectors"], partial(controller, hidden_size=6), **sizes, **made)


@every_machine
@given(
    exponent=st.floats(-6, 3),
    memory=st.sampled_from(MEMORIES),
    inputs=st.sampled_from([0.0, 1.0, 1e3]),
    controller=st.sampled_from([LSTMController, FeedForwardController]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    backend=st.sampled_from(["reference", "auto"]),
    seed=st.integers(0, 99),
)
def test_no_nan_in_values_nor_gradients(name, exponent, memory, inputs, controller, dtype, backend, seed):
    """Parameters are normal numbers times up to 1,000."""
    torch.manual_seed(seed)
    model = machine(name, memory, controller)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter)).mul_(10**exponent)
    with use_backend(backend):
        outputs, state = model.to(dtype)((inputs * torch.randn(2, 6, 4)).to(dtype))
    outputs.float().sum().backward()
    assert outputs.isfinite().all()
    assert all(part.isfinite().all() for part in named_tensors(state).values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_machine
@both_backends
def test_autocast_keeps_the_memory_s_precision(name, backend):
    model = machine(name)
    with torch.autocast("cpu", torch.bfloat16), use_backend(backend):
        _, state = model(torch.randn(2, 3, 4))
        outputs, state = model(torch.randn(2, 3, 4), state)
    outputs.float().sum().backward()
    assert state.access.memory.dtype == torch.float32
    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_machine
@both_backends
def test_more_steps_than_slots(name, backend):
    model = machine(name)
    with use_backend(backend):
        outputs, _ = model(torch.randn(2, 4 * SLOTS, 4))
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["ntm", "dnc", "dnc_mds"])
@both_backends
def test_more_heads_than_slots(name, backend):
    """All read the one slot there is; a DNC's reads see the last write."""
    model = machine(name, memory_size=1)
    with use_backend(backend):
        _, state = model(torch.randn(2, 3, 4))
    if name == "ntm":
        assert_close(state.access.read_weights, torch.ones(2, 2, 1))
        assert_close(*state.read_vectors.unbind(1))
    else:
        assert_close(state.read_vectors, state.access.read_weights @ state.access.memory)


@every_machine
@pytest.mark.parametrize("recompute", [False, True])
@both_backends
def test_sequences_of_no_steps_are_refused(name, recompute, backend):
    model = machine(name)
    model.recompute = recompute
    with use_backend(backend), pytest.raises(ValueError, match=r"needs at least one step, but inputs \[2, 0, 4\] have"):
        model(torch.zeros(2, 0, 4))


@every_machine
def test_no_sequences_give_no_outputs(name):
    outputs, _ = machine(name)(torch.zeros(0, 3, 4))
    assert outputs.shape == (0, 3, SPECS["vectors"].output_size)


@every_op
def test_no_steps_are_refused_by_the_op(op, make):
    problem = make()
    with pytest.raises(ValueError, match="needs at least one step"):
        op(problem.inputs[:, :0], *problem[1:])


@every_op
@both_backends
def test_sequences_that_have_all_ended_leave_the_state(op, make, backend):
    problem = make()
    with use_backend(backend):
        features, state = op(*problem[:4], torch.zeros(len(problem.inputs), dtype=torch.long))
    assert not features.any()
    before, after = named_tensors(problem.state), named_tensors(state)
    for part, value in before.items():
        slots = value.shape[1] if part in ("memory", "last_access") else None  # a SAM makes room for steps to come
        assert_close(after[part][:, :slots] if slots else after[part], value)
    features.sum().backward()
    assert not any(tensor.grad.any() for tensor in problem.tensors if tensor.grad is not None)


@both_backends
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"k": 3}, "reads of a head must be at most memory_size, which is 2, not 3"),
        ({"heads": 3}, "heads must be at most memory_size, which is 2, not 3"),
        ({"held": 4}, "slots in the state must be at most memory_size, which is 2, not 4"),
        ({"threshold": -0.1}, "threshold must be at least 0, not -0.1"),
        ({"threshold": torch.nan}, "threshold must be at least 0, not nan"),
    ],
)
def test_a_sparse_memory_refuses_what_can_t_be(shape, message, backend):
    sizes = {"held": 2, "slots": 2, "heads": 1, "k": 1} | shape
    problem = sam_problems.problem(sam_problems.Shape(**sizes))
    with use_backend(backend), pytest.raises(ValueError, match=message):
        sam_sequence(*problem)


def test_sam_refuses_a_threshold_that_unused_slots_exceed():
    with pytest.raises(ValueError, match="threshold must be at least 0, not -1"):
        SAM(SPECS["vectors"], threshold=-1.0)
