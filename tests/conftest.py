"""What every test runs under: shapes checked, one thread, the same seeds, and a clean global state afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything of memnets is imported: every annotated function then checks its arguments and what it returns.
# (Not the kernels: Triton and torch read the source of their functions, which must be what is called.)
ROOMS = [path.stem for path in (Path(__file__).parents[1] / "memnets").iterdir() if path.stem != "kernels"]
install_import_hook([f"memnets.{room}" for room in ROOMS], "beartype.beartype")

# Without a GPU, Triton kernels run in its interpreter; this must be known before they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# For processes that tests start; this one's threads are set before each test.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("memnets", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("memnets")


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Same seeds and one thread, whatever the test before did."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_state_stays() -> Iterator[None]:
    """Fail a test that leaves torch's default dtype or grad mode changed: the tests after it would run under them."""
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    after = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_default_dtype(before[0])
    torch.set_grad_enabled(before[1])
    assert after == before, f"the test left torch's (default dtype, grad mode) at {after}; before it they were {before}"


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every tensor made without a value holds NaN."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
