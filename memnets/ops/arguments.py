"""Arguments of each op by name, drawn at random."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memnets.ops.draw import Draw

Arguments = dict[str, Any]


def content(draw: Draw, **options: Any) -> Arguments:
    """Memory, key and strength; options are passed on."""
    memory, key = draw.normal("batch", "slots", "word"), draw.normal("batch", "heads", "word")
    return {"memory": memory, "key": key, "strength": draw.positive("batch", "heads"), **options}


def location(draw: Draw) -> Arguments:
    """Two weightings, and what moves them."""
    weights = {name: draw.weights("batch", "heads", "slots") for name in ("content_weights", "previous_weights")}
    return weights | {
        "gate": draw.unit("batch", "heads"),
        "shift": draw.weights("batch", "heads", "width"),
        "sharpening": draw.positive("batch", "heads", above=1.0),
    }


def write(draw: Draw) -> Arguments:
    """Memory, and what heads do to it."""
    return {
        "memory": draw.normal("batch", "slots", "word"),
        "weights": draw.weights("batch", "heads", "slots"),
        "erase": draw.unit("batch", "heads", "word"),
        "add": draw.normal("batch", "heads", "word"),
    }


def access(draw: Draw) -> Arguments:
    """Memory, and what read and write heads do to it."""
    arguments = write(draw)
    weights = {"write_weights": arguments.pop("weights"), "read_weights": draw.weights("batch", "heads", "slots")}
    return arguments | weights


def topk(draw: Draw, key_heads: str | int = "heads") -> Arguments:
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


def topk_of_all(draw: Draw) -> Arguments:
    """Every query sees all slots."""
    arguments = topk(draw)
    arguments["oldest"].fill_(-1)  # in place: views stay views
    arguments["newest"].fill_(draw.sizes.slots)
    return arguments


def topk_of_none(draw: Draw) -> Arguments:
    """No query sees any slot."""
    arguments = topk(draw)
    arguments["newest"].fill_(-2)
    return arguments


def read_slots(draw: Draw, key_heads: str | int = "heads") -> Arguments:
    """Values, k slots for each query, and their weights."""
    return {
        "values": draw.normal("batch", key_heads, "slots", "word"),
        "weights": draw.weights("batch", "heads", "time", "k"),
        "indices": draw.slots("batch", "heads", "time", "k"),
    }


def sparse(draw: Draw) -> Arguments:
    """Of a write, k slots for each head."""
    weights, indices = draw.weights("batch", "heads", "k"), draw.slots("batch", "heads", "k")
    return write(draw) | {"weights": weights, "indices": indices}


def lru_write(draw: Draw) -> Arguments:
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


def one_slot_for_all(draw: Draw) -> Tensor:
    """Indices by which all heads of a row choose one slot k times."""
    return draw.slots("batch", 1, 1).expand(-1, draw.sizes.heads, draw.sizes.k)


def gather(draw: Draw) -> Arguments:
    """Values that all rows have in common, k slots for each head."""
    return {"values": draw.normal("slots", "word")} | only("weights indices", sparse(draw))


def product_key(draw: Draw) -> Arguments:
    """Half keys are as wide as a word, queries twice."""
    query, half_keys = draw.normal("batch", "heads", 2, "word"), draw.normal("heads", 2, "slots", "word")
    return {"query": query.flatten(-2), "half_keys": half_keys, "k": draw.sizes.k}


def usage(draw: Draw) -> Arguments:
    """Usage, and what changed it."""
    return {
        "usage": draw.unit("batch", "slots"),
        "previous_write_weights": draw.weights("batch", "slots"),
        "previous_read_weights": draw.weights("batch", "heads", "slots"),
        "free_gates": draw.unit("batch", "heads"),
    }


def link(draw: Draw) -> Arguments:
    """Links among slots, and what follows or changes them."""
    return {
        "link": draw.unit("batch", "slots", "slots"),
        "precedence_weights": draw.weights("batch", "slots"),
        "write_weights": draw.weights("batch", "slots"),
        "read_weights": draw.weights("batch", "heads", "slots"),
    }


def delta(draw: Draw, groups: str | int = "heads", **options: Any) -> Arguments:
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


def edges(draw: Draw, share: float = 0.7) -> Arguments:
    """Nodes are slots, relations heads; twice as many edges as nodes, some of them twice, some of them padding."""
    num_edges = 2 * draw.sizes.slots
    return {
        "source": draw.slots("batch", num_edges),
        "relation": draw.below(draw.sizes.heads, "batch", num_edges),
        "target": draw.slots("batch", num_edges),
        "mask": draw.mask("batch", num_edges, share=share),
    }


def follow(draw: Draw, share: float = 0.7) -> Arguments:
    """Where walkers are, what they follow, and the graph."""
    weights = draw.weights("batch", draw.sizes.heads + 1)
    return {"nodes": draw.weights("batch", "slots"), "relation_weights": weights, **edges(draw, share)}


def follow_in_one_graph(draw: Draw) -> Arguments:
    """Rows have the first row's graph."""
    arguments = follow(draw)
    return arguments | {
        name: arguments[name][:1].expand(draw.sizes.batch, -1) for name in ("source", "relation", "target", "mask")
    }


def walk(draw: Draw, share: float = 0.7, num_graphs: int | None = None) -> Arguments:
    """Chains are as many as the words of a slot, hops as there are steps; rows may have the first row's graph."""
    sizes, graphs = draw.sizes, edges(draw, share)
    if num_graphs == 1:
        graphs = {name: part[:1].expand(sizes.batch, -1) for name, part in graphs.items()}
    weights = draw.weights("batch", sizes.word, sizes.time, sizes.heads + 1)
    return {"start": draw.slots("batch"), "relation_weights": weights, **graphs, "num_nodes": sizes.slots}


def propagate(draw: Draw, share: float = 0.7) -> Arguments:
    """States of nodes, the graph, and a matrix for each relation."""
    weights = draw.normal("heads", "word", "width")
    return {"states": draw.normal("batch", "slots", "word"), "weights": weights, **edges(draw, share)}


def only(names: str, arguments: Arguments) -> Arguments:
    """Some of the arguments, named with spaces between."""
    return {name: arguments[name] for name in names.split()}
