"""What crosses rooms: a task's Spec and Batch, a model's inputs and state, a metric's Ratio. Nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Split = Literal["train", "validation", "test"]
Kind = Literal["vectors", "tokens", "story", "graph", "question", "text", "prompt"]


@dataclass(frozen=True)
class Spec:
    """The sizes by which a model learns its inputs and outputs: the one seam between task and model.

    Attributes:
        kind: `vectors`: inputs are floats `[batch time input_size]`. `tokens`: inputs are ids below `input_size`,
            `[batch time]`. `story`: inputs are a `Story` of word ids below `input_size`. `graph`: inputs are a
            `GraphQuestion` of word ids below `input_size`, and the classes are the graph's nodes. `question`: inputs
            are a `Question` (`memnets.retrieval.question`) of width `input_size`. `text`: inputs are `Passages`,
            `MaskedText` or a `TextPair` (`memnets.retrieval.passages`) of tokens below `input_size`. `prompt`: inputs
            are a `Prompt` (`memnets.retrieval.question`) of word ids below `input_size`.
        input_size: width of an input vector, or number of tokens or words (0 is padding in a story, graph question or
            prompt).
        output_size: width of a model's output: one logit per bit or per class.
        story_size: most sentences in a story (kind `story` only).
        sentence_size: most words in a sentence (kind `story` only).
        num_relations: kinds of edges (kind `graph` only).
        answer_tokens: the token that says each class, where what is read are tokens; else none (kind `question` only).
        has_values: whether what is read says which class it stands for (kind `question` only).
        heads: what a model is asked for (kind `text` only): a `span` of `Passages`, with outputs `[batch 2 places]`,
            the hidden `tokens` of a `MaskedText`, `[batch places input_size]`, the `class` of a `TextPair`,
            `[batch output_size]`.
        item_size: width of what is read beside a prompt (kind `prompt` only).
    """

    kind: Kind
    input_size: int
    output_size: int
    story_size: int = 0
    sentence_size: int = 0
    num_relations: int = 0
    answer_tokens: tuple[int, ...] = ()
    has_values: bool = False
    heads: tuple[Literal["span", "tokens", "class"], ...] = ()
    item_size: int = 0


class Story(NamedTuple):
    """Sentences and a question as word ids. 0 is padding; an empty sentence slot is all padding, at the end."""

    story: Int[Tensor, "batch sentences words"]
    query: Int[Tensor, "batch words"]


class Edges(NamedTuple):
    """Typed edges of a graph of each row: `relation` leads from node `source` to node `target`.

    Where the mask is False there is padding, whose ids are valid and mean nothing. Rows may share one graph's memory
    (`Tensor.expand`).
    """

    source: Int[Tensor, "batch edges"]
    relation: Int[Tensor, "batch edges"]
    target: Int[Tensor, "batch edges"]
    mask: Bool[Tensor, "batch edges"]


class GraphQuestion(NamedTuple):
    """A question about a node, in words (0 is padding, at the end), and the graph that answers it."""

    node: Int[Tensor, " batch"]
    words: Int[Tensor, "batch words"]
    edges: Edges


@dataclass(frozen=True)
class Batch:
    """What a task hands to a model and to its own loss.

    Attributes:
        inputs: as `Spec.kind` says: a tensor with batch first and time second, a `Story` or another question.
        targets: `[batch time ...]` for sequences, `[batch]` class ids for stories and questions.
        mask: where the loss counts, `[batch time]` or `[batch]`.
        groups: optional labels shaped like `mask`, by which a task reports metrics apart.
        starts: rows whose sequence begins with this batch, when consecutive batches continue one another
            (`trainer.carry_state`). None: all rows begin.
        supports: which sentences of a story, or items that were read, are true supporting facts of the question.
            None: nobody says.
    """

    inputs: Any
    targets: Tensor
    mask: Bool[Tensor, " batch *time"]
    groups: Tensor | None = None
    starts: Bool[Tensor, " batch"] | None = None
    supports: Bool[Tensor, "batch items"] | None = None

    @property
    def size(self) -> int:
        """Number of sequences."""
        return self.targets.shape[0]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, where: slice) -> Batch:
        """Return some of the sequences, stories or questions."""
        return self._map(lambda tensor: tensor[where])

    def labelled(self) -> Batch:
        """Return the places the loss counts at as rows of one step, in the order of `targets[mask]`; without inputs."""

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[self.mask][:, None]

        picked = [pick(part) for part in (self.targets, self.mask, self.groups)]
        return Batch(None, *cast(list[Tensor], picked))

    def windows(self, length: int | None) -> Iterator[Batch]:
        """Cut the batch along time into pieces of at most `length` steps; None, or what has no time, gives it whole."""
        if length is None or not isinstance(self.inputs, Tensor):
            yield self
            return
        for start in range(0, self.mask.shape[1], length):
            piece = self._map(partial(_cut_time, start=start, length=length))
            yield piece if start == 0 else replace(piece, starts=torch.zeros_like(self.mask[:, 0]))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{field.name: map_tensors(function, getattr(self, field.name)) for field in fields(self)})


class Ratio(NamedTuple):
    """A metric as a sum and the number of things summed, so that batches and processes add up exactly."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]  # type: ignore[assignment]  # a number, not tuple's method


def _cut_time(tensor: Tensor, start: int, length: int) -> Tensor:
    """Steps from `start` on; a tensor without time, such as `starts`, stays whole."""
    return tensor[:, start : start + length] if tensor.dim() > 1 else tensor


def map_tensors(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Apply `function` to every tensor of a tree of (named) tuples, lists and dicts, keeping its shape.

    Trees beside the first must have its structure; None and empty tuples pass through.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, tuple | list):
        parts = [map_tensors(function, *branches) for branches in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {key: map_tensors(function, tree[key], *(other[key] for other in others)) for key in tree}
    if tree is None:
        return None
    raise TypeError(f"a state or batch holds tensors in tuples, lists and dicts, not {type(tree).__name__}: {tree!r}")


def named_tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Flatten a tree of tensors to `{"field.0.field": tensor}`, the form in which checkpoints keep a state."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    if tree is None:
        return {}
    if isinstance(tree, dict):
        items = list(tree.items())
    else:
        items = list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    return {k: v for key, branch in items for k, v in named_tensors(branch, f"{prefix}.{key}".strip(".")).items()}


def from_named(named: dict[str, Tensor], like: Any) -> Any:
    """Return what `named_tensors` flattened, in the shape of the tree `like`."""
    names = iter(named_tensors(like))
    return map_tensors(lambda _: named[next(names)], like)


def detach(state: Any) -> Any:
    """Return the state cut off from the graph that made it (truncated back-propagation through time)."""
    return map_tensors(Tensor.detach, state)


def reset_rows(state: Any, fresh: Any, starts: Bool[Tensor, " batch"]) -> Any:
    """Return `state` with the rows marked in `starts` taken from `fresh`; every tensor has batch first."""

    def pick(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(starts.view(-1, *[1] * (old.dim() - 1)), new, old)

    return map_tensors(pick, state, fresh)
