"""Example calls of every op, at sizes where mistakes show: what tests, benchmarks and kernels are run on.

A new op adds a row to `OPS`: its function, and by name the ways to call it. `cases()` crosses them with `SIZES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from memnets.ops import arguments as given
from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.arguments import Arguments
from memnets.ops.content_address import content_address, content_read
from memnets.ops.delta_rule import delta_rule
from memnets.ops.draw import SIZES, Draw, Sizes
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


class Op(NamedTuple):
    """An op and, by name, ways to call it; `shared` names the arguments that all rows of a batch have in common."""

    function: Callable[..., Any]
    calls: Mapping[str, Callable[[Draw], Arguments]]
    shared: tuple[str, ...] = ()


CONTENT_CALLS: dict[str, Callable[[Draw], Arguments]] = {
    "cosine": given.content,
    "dot": lambda draw: given.content(draw, similarity="dot"),
    "masked": lambda draw: given.content(draw, mask=draw.mask("batch", "slots")),
    "empty_mask": lambda draw: given.content(draw, mask=draw.mask("batch", "slots", share=0.0)),
}

OPS: dict[str, Op] = {
    "content_address": Op(content_address, CONTENT_CALLS),
    "content_read": Op(content_read, CONTENT_CALLS),
    "masked_content_address": Op(
        masked_content_address,
        {"": lambda draw: given.content(draw) | {"key_mask": draw.unit("batch", "heads", "word")}},
    ),
    "interpolate": Op(
        interpolate, {"": lambda draw: given.only("content_weights previous_weights gate", given.location(draw))}
    ),
    "circular_shift": Op(
        circular_shift,
        {
            "": lambda draw: (
                {"weights": draw.weights("batch", "heads", "slots")} | given.only("shift", given.location(draw))
            )
        },
    ),
    "sharpen": Op(
        sharpen,
        {
            "": lambda draw: (
                {"weights": draw.weights("batch", "heads", "slots")} | given.only("sharpening", given.location(draw))
            ),
            "epsilon": lambda draw: OPS["sharpen"].calls[""](draw) | {"epsilon": 0.1},
        },
    ),
    "shift_sharpen": Op(
        shift_sharpen,
        {
            "all": given.location,
            "no_gate": lambda draw: given.location(draw) | {"previous_weights": None, "gate": None},
            "unused_previous": lambda draw: given.location(draw) | {"gate": None},
            "no_content": lambda draw: given.location(draw) | {"content_weights": None, "gate": None},
            "no_shift": lambda draw: given.location(draw) | {"shift": None},
            "no_sharpening": lambda draw: given.location(draw) | {"sharpening": None},
        },
    ),
    "read": Op(read, {"": lambda draw: given.only("memory weights", given.write(draw))}),
    "erase_add": Op(erase_add, {"": given.write}),
    "read_and_write": Op(read_and_write, {"": given.access}),
    "usage_after": Op(usage_after, {"": given.usage}),
    "allocation_weights": Op(allocation_weights, {"": lambda draw: {"usage": draw.unit("batch", "slots")}}),
    "link_after": Op(
        link_after, {"": lambda draw: given.only("link precedence_weights write_weights", given.link(draw))}
    ),
    "precedence_after": Op(
        precedence_after, {"": lambda draw: given.only("precedence_weights write_weights", given.link(draw))}
    ),
    "follow_link": Op(follow_link, {"": lambda draw: given.only("link read_weights", given.link(draw))}),
    "topk_address": Op(
        topk_address,
        {
            "all_visible": given.topk_of_all,
            "some_visible": given.topk,
            "none_visible": given.topk_of_none,
            "shared_keys": lambda draw: given.topk(draw, key_heads=1),
            "decay": lambda draw: given.topk(draw) | {"decay": draw.unit("heads")},
        },
        shared=("decay",),
    ),
    "read_slots": Op(
        read_slots, {"": given.read_slots, "shared_values": lambda draw: given.read_slots(draw, key_heads=1)}
    ),
    "gather_slots": Op(
        gather_slots,
        {
            "": lambda draw: given.only("values indices", given.read_slots(draw)),
            "shared_values": lambda draw: given.only("values indices", given.read_slots(draw, key_heads=1)),
        },
    ),
    "sparse_read": Op(
        sparse_read,
        {
            "": lambda draw: given.only("memory weights indices", given.sparse(draw)),
            "one_slot_for_all": lambda draw: (
                given.only("memory weights", given.sparse(draw)) | {"indices": given.one_slot_for_all(draw)}
            ),
        },
    ),
    "sparse_write": Op(
        sparse_write,
        {
            "": given.sparse,
            "one_slot_for_all": lambda draw: given.sparse(draw) | {"indices": given.one_slot_for_all(draw)},
        },
    ),
    "sparse_content_address": Op(sparse_content_address, {"": lambda draw: given.content(draw) | {"k": draw.sizes.k}}),
    "lru_write": Op(lru_write, {"": given.lru_write}),
    "delta_rule": Op(
        delta_rule,
        {
            "": given.delta,
            "decay": lambda draw: given.delta(draw, decay=draw.negative("batch", "heads", "time")),
            "heads_share": lambda draw: given.delta(draw, 1, decay=draw.negative("batch", 1, "time")),
            "two_chunks": lambda draw: given.delta(draw, decay=draw.negative("batch", "heads", "time"), chunk_size=2),
        },
    ),
    "follow": Op(
        follow,
        {
            "": given.follow,
            "one_graph": given.follow_in_one_graph,
            "no_edge": lambda draw: given.follow(draw, share=0.0),
        },
    ),
    "propagate": Op(
        propagate, {"": given.propagate, "no_edge": lambda draw: given.propagate(draw, share=0.0)}, shared=("weights",)
    ),
    "walk": Op(
        walk,
        {
            "": given.walk,
            "one_graph": lambda draw: given.walk(draw, num_graphs=1),
            "no_edge": lambda draw: given.walk(draw, share=0.0),
        },
    ),
    "product_key_address": Op(product_key_address, {"": given.product_key}, shared=("half_keys",)),
    "weighted_gather": Op(
        weighted_gather,
        {
            "": given.gather,
            "one_slot_for_all": lambda draw: given.gather(draw) | {"indices": given.one_slot_for_all(draw)},
        },
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
