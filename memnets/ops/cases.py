"""Example calls of every op, at sizes where mistakes show: what tests, benchmarks and kernels are run on.

A new op adds a row to `OPS`: its function, and by name the ways to call it. `cases()` crosses them with `SIZES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.content_address import content_address, content_read
from memnets.ops.delta_rule import delta_rule
from memnets.ops.erase_add import erase_add, read, read_and_write
from memnets.ops.graph import follow, propagate
from memnets.ops.linkage import follow_link, link_after, precedence_after
from memnets.ops.lru_write import lru_write
from memnets.ops.masked_content import masked_content_address
from memnets.ops.product_key import product_key_address, weighted_gather
from memnets.ops.read_slots import gather_slots, read_slots
from memnets.ops.shift_sharpen import circular_shift, interpolate, sharpen, shift_sharpen
from memnets.ops.sparse_access import sparse_read, sparse_write
from memnets.ops.sparse_content import sparse_content_address
from memnets.ops.topk_address import topk_address
from memnets.ops.walk import walk


@dataclass(frozen=True)
class Sizes:
    """Length of every axis an op may have; `strided` makes inputs views whose last axis is not contiguous."""

    batch: int = 2
    heads: int = 3
    slots: int = 7
    word: int = 5
    time: int = 3
    width: int = 3
    k: int = 2
    strided: bool = False


SIZES = {
    "odd": Sizes(),
    "one_of_all": Sizes(batch=1, heads=1, slots=1, word=1, time=1, width=1, k=1),
    "one_slot": Sizes(slots=1, k=1),
    "one_word": Sizes(word=1),
    "one_row": Sizes(batch=1, slots=13, word=3),
    "wide_shift": Sizes(slots=3, width=5),
    "strided": Sizes(strided=True),
}


@dataclass(frozen=True)
class Draw:
    """Random inputs of given sizes: the same values at any precision and place for the same generator seed."""

    sizes: Sizes
    generator: torch.Generator
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def normal(self, *axes: str | int) -> Tensor:
        """Normally distributed numbers along the named axes, or axes of the given length."""
        return self._place(self._normal(axes))

    def unit(self, *axes: str | int) -> Tensor:
        """Numbers between 0 and 1."""
        return self._place(self._normal(axes).sigmoid())

    def positive(self, *axes: str, above: float = 0.0) -> Tensor:
        """Numbers greater than `above`."""
        return self._place(above + self._normal(axes).exp())

    def negative(self, *axes: str | int) -> Tensor:
        """Numbers less than 0."""
        return self._place(-self._normal(axes).exp())

    def weights(self, *axes: str | int) -> Tensor:
        """Distributions along the last axis."""
        return self._place(self._normal(axes).softmax(-1))

    def mask(self, *axes: str | int, share: float = 0.6) -> Tensor:
        """True with probability `share`."""
        return self._place(torch.rand(self._shape(axes), generator=self.generator) < share)

    def slots(self, *axes: str | int) -> Tensor:
        """Indices of slots."""
        return self.below(self.sizes.slots, *axes)

    def below(self, size: int, *axes: str | int) -> Tensor:
        """Indices of `size` things."""
        return self._place(torch.randint(size, self._shape(axes), generator=self.generator))

    def stamps(self, *axes: str, empty: bool = True) -> Tensor:
        """Whole numbers below `slots`, with -1 among them if some are `empty`."""
        return self._place(torch.randint(-empty, self.sizes.slots, self._shape(axes), generator=self.generator))

    def _shape(self, axes: tuple[str | int, ...]) -> list[int]:
        return [axis if isinstance(axis, int) else getattr(self.sizes, axis) for axis in axes]

    def _normal(self, axes: tuple[str | int, ...]) -> Tensor:
        return torch.randn(self._shape(axes), generator=self.generator, dtype=torch.float64)

    def _place(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
        if not self.sizes.strided:
            return tensor
        # Every other element of a tensor twice as wide: the gaps hold what must not be read.
        gaps = torch.full_like(tensor, math.nan) if tensor.is_floating_point() else ~tensor
        return torch.stack([tensor, gaps], dim=-1)[..., 0]


Arguments = dict[str, Any]


class Op(NamedTuple):
    """An op and, by name, ways to call it; `shared` names the arguments that all rows of a batch have in common."""

    function: Callable[..., Any]
    calls: Mapping[str, Callable[[Draw], Arguments]]
    shared: tuple[str, ...] = ()


def _content(draw: Draw, **options: Any) -> Arguments:
    memory, key = draw.normal("batch", "slots", "word"), draw.normal("batch", "heads", "word")
    return {"memory": memory, "key": key, "strength": draw.positive("batch", "heads"), **options}


def _location(draw: Draw) -> Arguments:
    weights = {name: draw.weights("batch", "heads", "slots") for name in ("content_weights", "previous_weights")}
    return weights | {
        "gate": draw.unit("batch", "heads"),
        "shift": draw.weights("batch", "heads", "width"),
        "sharpening": draw.positive("batch", "heads", above=1.0),
    }


def _write(draw: Draw) -> Arguments:
    return {
        "memory": draw.normal("batch", "slots", "word"),
        "weights": draw.weights("batch", "heads", "slots"),
        "erase": draw.unit("batch", "heads", "word"),
        "add": draw.normal("batch", "heads", "word"),
    }


def _access(draw: Draw) -> Arguments:
    arguments = _write(draw)
    weights = {"write_weights": arguments.pop("weights"), "read_weights": draw.weights("batch", "heads", "slots")}
    return arguments | weights


def _topk(draw: Draw, key_heads: str | int = "heads") -> Arguments:
    """Every query sees a range of stamps of its own: many slots, few, or none."""
    return {
        "query": draw.normal("batch", "heads", "time", "word"),
        "keys": draw.normal("batch", key_heads, "slots", "word"),
        "stamps": draw.stamps("batch", "slots"),
        "oldest": draw.stamps("batch", "time", empty=False),
        "newest": draw.stamps("batch", "time", empty=False),
        "k": draw.sizes.k,
        "decay": None,
    }


def _topk_of_all(draw: Draw) -> Arguments:
    arguments = _topk(draw)
    arguments["oldest"].fill_(-1)  # in place: views stay views
    arguments["newest"].fill_(draw.sizes.slots)
    return arguments


def _topk_of_none(draw: Draw) -> Arguments:
    arguments = _topk(draw)
    arguments["newest"].fill_(-2)
    return arguments


def _read_slots(draw: Draw, key_heads: str | int = "heads") -> Arguments:
    return {
        "values": draw.normal("batch", key_heads, "slots", "word"),
        "weights": draw.weights("batch", "heads", "time", "k"),
        "indices": draw.slots("batch", "heads", "time", "k"),
    }


def _sparse(draw: Draw) -> Arguments:
    weights, indices = draw.weights("batch", "heads", "k"), draw.slots("batch", "heads", "k")
    return _write(draw) | {"weights": weights, "indices": indices}


def _lru_write(draw: Draw) -> Arguments:
    """As many heads as there are slots, if there were more."""
    heads = min(draw.sizes.heads, draw.sizes.slots)
    return {
        "memory": draw.normal("batch", "slots", "word"),
        "last_access": draw.slots("batch", "slots"),
        "read_weights": draw.weights("batch", heads, "k"),
        "read_slots": draw.slots("batch", heads, "k"),
        "interpolation_gate": draw.unit("batch", heads),
        "write_gate": draw.unit("batch", heads),
        "add": draw.normal("batch", heads, "word"),
    }


def _one_slot_for_all(draw: Draw) -> Tensor:
    """Indices by which all heads of a row choose one slot k times."""
    return draw.slots("batch", 1, 1).expand(-1, draw.sizes.heads, draw.sizes.k)


def _gather(draw: Draw) -> Arguments:
    return {"values": draw.normal("slots", "word")} | _only("weights indices", _sparse(draw))


def _product_key(draw: Draw) -> Arguments:
    """Half keys are as wide as a word, queries twice."""
    query, half_keys = draw.normal("batch", "heads", 2, "word"), draw.normal("heads", 2, "slots", "word")
    return {"query": query.flatten(-2), "half_keys": half_keys, "k": draw.sizes.k}


def _usage(draw: Draw) -> Arguments:
    return {
        "usage": draw.unit("batch", "slots"),
        "previous_write_weights": draw.weights("batch", "slots"),
        "previous_read_weights": draw.weights("batch", "heads", "slots"),
        "free_gates": draw.unit("batch", "heads"),
    }


def _link(draw: Draw) -> Arguments:
    return {
        "link": draw.unit("batch", "slots", "slots"),
        "precedence_weights": draw.weights("batch", "slots"),
        "write_weights": draw.weights("batch", "slots"),
        "read_weights": draw.weights("batch", "heads", "slots"),
    }


def _delta(draw: Draw, groups: str | int = "heads", **options: Any) -> Arguments:
    """Values are as wide as there are slots."""
    return {
        "query": draw.normal("batch", "heads", "time", "word"),
        "key": draw.normal("batch", groups, "time", "word"),
        "add": draw.normal("batch", groups, "time", "slots"),
        "erase": draw.unit("batch", groups, "time"),
        "decay": None,
        "memory": draw.normal("batch", groups, "word", "slots"),
        **options,
    }


def _edges(draw: Draw, share: float = 0.7) -> Arguments:
    """Nodes are slots, relations heads; twice as many edges as nodes, some of them twice, some of them padding."""
    num_edges = 2 * draw.sizes.slots
    return {
        "source": draw.slots("batch", num_edges),
        "relation": draw.below(draw.sizes.heads, "batch", num_edges),
        "target": draw.slots("batch", num_edges),
        "mask": draw.mask("batch", num_edges, share=share),
    }


def _follow(draw: Draw, share: float = 0.7) -> Arguments:
    weights = draw.weights("batch", draw.sizes.heads + 1)
    return {"nodes": draw.weights("batch", "slots"), "relation_weights": weights, **_edges(draw, share)}


def _follow_in_one_graph(draw: Draw) -> Arguments:
    arguments = _follow(draw)
    return arguments | {
        name: arguments[name][:1].expand(draw.sizes.batch, -1) for name in ("source", "relation", "target", "mask")
    }


def _walk(draw: Draw, share: float = 0.7, num_graphs: int | None = None) -> Arguments:
    """Chains are as many as the words of a slot, hops as there are steps; rows may have the first row's graph."""
    sizes, edges = draw.sizes, _edges(draw, share)
    if num_graphs == 1:
        edges = {name: part[:1].expand(sizes.batch, -1) for name, part in edges.items()}
    weights = draw.weights("batch", sizes.word, sizes.time, sizes.heads + 1)
    return {"start": draw.slots("batch"), "relation_weights": weights, **edges, "num_nodes": sizes.slots}


def _propagate(draw: Draw, share: float = 0.7) -> Arguments:
    weights = draw.normal("heads", "word", "width")
    return {"states": draw.normal("batch", "slots", "word"), "weights": weights, **_edges(draw, share)}


def _only(names: str, arguments: Arguments) -> Arguments:
    return {name: arguments[name] for name in names.split()}


CONTENT_CALLS: dict[str, Callable[[Draw], Arguments]] = {
    "cosine": _content,
    "dot": lambda draw: _content(draw, similarity="dot"),
    "masked": lambda draw: _content(draw, mask=draw.mask("batch", "slots")),
    "empty_mask": lambda draw: _content(draw, mask=draw.mask("batch", "slots", share=0.0)),
}

OPS: dict[str, Op] = {
    "content_address": Op(content_address, CONTENT_CALLS),
    "content_read": Op(content_read, CONTENT_CALLS),
    "masked_content_address": Op(
        masked_content_address, {"": lambda draw: _content(draw) | {"key_mask": draw.unit("batch", "heads", "word")}}
    ),
    "interpolate": Op(interpolate, {"": lambda draw: _only("content_weights previous_weights gate", _location(draw))}),
    "circular_shift": Op(
        circular_shift,
        {"": lambda draw: {"weights": draw.weights("batch", "heads", "slots")} | _only("shift", _location(draw))},
    ),
    "sharpen": Op(
        sharpen,
        {
            "": lambda draw: (
                {"weights": draw.weights("batch", "heads", "slots")} | _only("sharpening", _location(draw))
            ),
            "epsilon": lambda draw: OPS["sharpen"].calls[""](draw) | {"epsilon": 0.1},
        },
    ),
    "shift_sharpen": Op(
        shift_sharpen,
        {
            "all": _location,
            "no_gate": lambda draw: _location(draw) | {"previous_weights": None, "gate": None},
            "unused_previous": lambda draw: _location(draw) | {"gate": None},
            "no_content": lambda draw: _location(draw) | {"content_weights": None, "gate": None},
            "no_shift": lambda draw: _location(draw) | {"shift": None},
            "no_sharpening": lambda draw: _location(draw) | {"sharpening": None},
        },
    ),
    "read": Op(read, {"": lambda draw: _only("memory weights", _write(draw))}),
    "erase_add": Op(erase_add, {"": _write}),
    "read_and_write": Op(read_and_write, {"": _access}),
    "usage_after": Op(usage_after, {"": _usage}),
    "allocation_weights": Op(allocation_weights, {"": lambda draw: {"usage": draw.unit("batch", "slots")}}),
    "link_after": Op(link_after, {"": lambda draw: _only("link precedence_weights write_weights", _link(draw))}),
    "precedence_after": Op(precedence_after, {"": lambda draw: _only("precedence_weights write_weights", _link(draw))}),
    "follow_link": Op(follow_link, {"": lambda draw: _only("link read_weights", _link(draw))}),
    "topk_address": Op(
        topk_address,
        {
            "all_visible": _topk_of_all,
            "some_visible": _topk,
            "none_visible": _topk_of_none,
            "shared_keys": lambda draw: _topk(draw, key_heads=1),
            "decay": lambda draw: _topk(draw) | {"decay": draw.unit("heads")},
        },
        shared=("decay",),
    ),
    "read_slots": Op(read_slots, {"": _read_slots, "shared_values": lambda draw: _read_slots(draw, key_heads=1)}),
    "gather_slots": Op(
        gather_slots,
        {
            "": lambda draw: _only("values indices", _read_slots(draw)),
            "shared_values": lambda draw: _only("values indices", _read_slots(draw, key_heads=1)),
        },
    ),
    "sparse_read": Op(
        sparse_read,
        {
            "": lambda draw: _only("memory weights indices", _sparse(draw)),
            "one_slot_for_all": lambda draw: (
                _only("memory weights", _sparse(draw)) | {"indices": _one_slot_for_all(draw)}
            ),
        },
    ),
    "sparse_write": Op(
        sparse_write,
        {
            "": _sparse,
            "one_slot_for_all": lambda draw: _sparse(draw) | {"indices": _one_slot_for_all(draw)},
        },
    ),
    "sparse_content_address": Op(sparse_content_address, {"": lambda draw: _content(draw) | {"k": draw.sizes.k}}),
    "lru_write": Op(lru_write, {"": _lru_write}),
    "delta_rule": Op(
        delta_rule,
        {
            "": _delta,
            "decay": lambda draw: _delta(draw, decay=draw.negative("batch", "heads", "time")),
            "heads_share": lambda draw: _delta(draw, 1, decay=draw.negative("batch", 1, "time")),
            "two_chunks": lambda draw: _delta(draw, decay=draw.negative("batch", "heads", "time"), chunk_size=2),
        },
    ),
    "follow": Op(
        follow,
        {"": _follow, "one_graph": _follow_in_one_graph, "no_edge": lambda draw: _follow(draw, share=0.0)},
    ),
    "propagate": Op(
        propagate, {"": _propagate, "no_edge": lambda draw: _propagate(draw, share=0.0)}, shared=("weights",)
    ),
    "walk": Op(
        walk,
        {
            "": _walk,
            "one_graph": lambda draw: _walk(draw, num_graphs=1),
            "no_edge": lambda draw: _walk(draw, share=0.0),
        },
    ),
    "product_key_address": Op(product_key_address, {"": _product_key}, shared=("half_keys",)),
    "weighted_gather": Op(
        weighted_gather,
        {"": _gather, "one_slot_for_all": lambda draw: _gather(draw) | {"indices": _one_slot_for_all(draw)}},
        shared=("values",),
    ),
}


class Case(NamedTuple):
    """One call of an op at one set of sizes."""

    op: str
    call: str
    sizes: Sizes
    name: str

    @property
    def function(self) -> Callable[..., Any]:
        """The op."""
        return OPS[self.op].function

    def arguments(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> Arguments:
        """Inputs by name: `case.function(**case.arguments())` runs the case."""
        generator = torch.Generator().manual_seed(seed)
        return OPS[self.op].calls[self.call](Draw(self.sizes, generator, dtype, device))


def cases(op: str | None = None, sizes: Mapping[str, Sizes] = SIZES) -> Iterator[Case]:
    """Yield every way to call `op` (None: every op) at every one of `sizes`."""
    for name in OPS if op is None else [op]:
        for call in OPS[name].calls:
            for label, size in sizes.items():
                yield Case(name, call, size, "-".join(filter(None, (name, call, label))))
