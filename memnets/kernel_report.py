"""Compiles every Triton kernel ahead of time, for GPUs that needn't be there: registers, spills and shared memory."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from memnets.kernels import triton as kernels
from memnets.kernels.triton.launch import Launch, interpreting, recorded
from memnets.ops.backend import use_backend
from memnets.ops.cases import Case, cases
from memnets.ops.draw import Sizes
from memnets.ops.memory_hops import HopScheme, HopWeights, memory_hops
from memnets.ops.ntm_sequence import HeadScheme, NTMSequenceState, ntm_sequence
from memnets.ops.sequence import SequenceWeights

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SIZES = {
    "paper": Sizes(batch=16, heads=2, slots=128, word=20, time=8, k=4),
    "large": Sizes(batch=4, heads=4, slots=4096, word=64, time=8, k=8),
}
"""The NTM paper's memory, and one of sparse access."""


class SequenceCase(NamedTuple):
    """A call of the sequence kernel, for an NTM of these sizes with as many read as write heads."""

    name: str
    lstm: bool
    slots: int
    word: int
    heads: int
    hidden: int = 100
    inputs: int = 9

    def function(self, inputs: Tensor, state: NTMSequenceState, weights: SequenceWeights) -> Tensor:
        """Features; their gradient needs the whole backward pass."""
        return ntm_sequence(inputs, state, weights, HeadScheme())[0]

    def arguments(self, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Zeros by name."""
        gates, read = (4 if self.lstm else 1) * self.hidden, self.heads * self.word
        interface = 2 * self.heads * sum(HeadScheme().sizes(self.word)) + 2 * read

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype)

        read_weights, write_weights = (zeros(2, self.heads, self.slots) for _ in range(2))
        hidden, cell = (zeros(2, 1, self.hidden) if self.lstm else None for _ in range(2))
        recurrent = zeros(gates, self.hidden) if self.lstm else None
        return {
            "inputs": zeros(2, 3, self.inputs),
            "state": NTMSequenceState(
                zeros(2, self.slots, self.word),
                read_weights,
                write_weights,
                zeros(2, self.heads, self.word),
                hidden,
                cell,
            ),
            "weights": SequenceWeights(
                zeros(gates, self.inputs + read),
                recurrent,
                zeros(gates),
                None,
                None,
                zeros(interface, self.hidden),
                zeros(interface),
            ),
        }


class HopsCase(NamedTuple):
    """A call of the kernel of hops, for a Memory Network of these sizes."""

    name: str
    adjacent: bool
    sentences: int
    embedding: int
    words: int = 7
    ids: int = 200

    def function(
        self,
        story: Tensor,
        question: Tensor,
        words: Tensor,
        age_vectors: Tensor,
        update: Tensor | None,
        linear: Tensor,
    ) -> Tensor:
        """The last query."""
        scheme = HopScheme(3, self.adjacent, "centred", relu=True, attend_empty=True, most_words=self.words)
        ages = torch.ones(story.shape[:2], dtype=torch.int64)
        return memory_hops(story, question, HopWeights(words, age_vectors, update), scheme, ages, linear)

    def arguments(self, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Ones by name."""
        tables, story_tables = (4, 4) if self.adjacent else (3, 2)
        size = self.embedding
        return {
            "story": torch.ones(2, self.sentences, self.words, dtype=torch.int64),
            "question": torch.ones(2, self.words, dtype=torch.int64),
            "words": torch.ones(tables, self.ids, size, dtype=dtype),
            "age_vectors": torch.ones(story_tables, self.sentences, size, dtype=dtype),
            "update": None if self.adjacent else torch.ones(size, size, dtype=dtype),
            "linear": torch.tensor(False),
        }


SEQUENCE, HOPS = "ntm_sequence", "memory_hops"
OTHERS: dict[str, dict[str, list[SequenceCase | HopsCase]]] = {
    SEQUENCE: {
        "paper": [
            SequenceCase(f"{SEQUENCE}-lstm-paper", True, 128, 20, 1),
            SequenceCase(f"{SEQUENCE}-tanh-paper", False, 128, 20, 1),
        ],
        "large": [SequenceCase(f"{SEQUENCE}-lstm-large", True, 256, 32, 4)],
    },
    HOPS: {
        "paper": [
            HopsCase(f"{HOPS}-adjacent-paper", True, 50, 20),
            HopsCase(f"{HOPS}-layerwise-paper", False, 50, 20),
        ],
        "large": [HopsCase(f"{HOPS}-layerwise-large", False, 1000, 64)],
    },
}
"""The papers' controllers, memories and hops, and one of the largest that these kernels serve: they have no `cases`."""


class Usage(NamedTuple):
    """What a compiled kernel takes per thread (registers, bytes of spilled ones) and per block (bytes shared)."""

    registers: int
    spills: int
    shared: int


class Row(NamedTuple):
    """One kernel, compiled for one target from the launch of a case."""

    case: str
    kernel: str
    target: str
    usage: Usage


def compiled_names() -> list[str]:
    """Return all that `report` can compile."""
    return [*kernel_names(), *OTHERS]


def kernel_names() -> list[str]:
    """Return the ops of `cases` that have a Triton kernel: the custom ops its modules make known to torch."""
    for path in sorted(Path(kernels.__path__[0]).glob("*.py")):
        importlib.import_module(f"{kernels.__name__}.{path.stem}")
    known = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "memnets::" in name}
    return sorted(known & {case.op for case in cases()})


def report(ops: Iterable[str], targets: Iterable[str], sizes: Iterable[str] = tuple(SIZES)) -> Iterator[Row]:
    """Compile every kernel that the ops launch, forward and backward.

    Raises:
        RuntimeError: kernels were imported for the interpreter, which has nothing to compile.
    """
    if interpreting():
        raise RuntimeError("unset TRITON_INTERPRET: kernels for the interpreter can't be compiled")
    sizes = list(sizes)
    for case in (case for op in ops for case in _cases(op, sizes)):
        for made in _distinct(launches(case)):
            for target in targets:
                yield Row(case.name, made.kernel.fn.__name__, target, compiled(made, TARGETS[target]))


def _cases(op: str, sizes: Iterable[str]) -> Iterable[Case | SequenceCase | HopsCase]:
    if op in OTHERS:
        return [case for name in sizes for case in OTHERS[op][name]]
    return cases(op, {name: SIZES[name] for name in sizes})


def launches(case: Case | SequenceCase | HopsCase, dtype: torch.dtype = torch.float32) -> list[Launch]:
    """Return what a case launches, without running it."""
    arguments = case.arguments(dtype)
    for value in arguments.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.requires_grad_()
    with use_backend("triton"), recorded() as found:
        results = case.function(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        sum(result.sum() for result in results if result is not None and result.requires_grad).backward()
    return found


def _distinct(found: list[Launch]) -> list[Launch]:
    """Drop launches that differ in numbers alone: they run the same code."""
    return list({str((each.kernel.fn, _signature(each), each.constants)): each for each in found}.values())


def _signature(made: Launch) -> dict[str, str]:
    names = made.kernel.arg_names[: len(made.arguments)]
    types = {name: _type(value) for name, value in zip(names, made.arguments, strict=True)}
    return types | dict.fromkeys(made.constants, "constexpr")


def _type(value: Any) -> str:
    return "constexpr" if value is None else mangle_type(value)


def compiled(made: Launch, target: GPUTarget) -> Usage:
    """Compile a launch as it would be at run time: pointers aligned as torch's are."""
    constants = dict(made.constants)
    aligned = {}
    for i, (name, value) in enumerate(zip(made.kernel.arg_names, made.arguments, strict=False)):
        if value is None:
            constants[name] = None
        elif isinstance(value, Tensor):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(made.kernel, _signature(made), constants, aligned)
    options = made.options(target.backend == "cuda") | {"enable_fp_fusion": True}
    binary = triton.compile(source, target=target, options=options)
    return _of_nvidia(binary) if target.backend == "cuda" else _of_amd(binary)


def _of_nvidia(binary: Any) -> Usage:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        listing = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", listing.stdout + listing.stderr)
    if found is None:
        raise RuntimeError(f"cuobjdump tells no usage: {listing.stdout + listing.stderr}")
    return Usage(int(found[1]), int(found[2]), binary.metadata.shared)


def _of_amd(binary: Any) -> Usage:
    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", binary.asm["amdgcn"])
        if found is None:
            raise RuntimeError(f"the assembly tells no {name}")
        return int(found[1])

    spills = number("vgpr_spill_count") + number("sgpr_spill_count") + number("private_segment_fixed_size")
    return Usage(number("vgpr_count"), spills, binary.metadata.shared)
