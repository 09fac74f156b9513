"""Link prediction: a graph is told but for some edges; which is an edge's other end?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.contracts import Batch, Edges, GraphQuestion, Ratio, Spec, Split, map_tensors
from memnets.retrieval.graph_memory import Edge, GraphMemory, named
from memnets.tasks.base import NoOracleError, Task, as_tensor, class_loss, epoch_indices, ratio
from memnets.tasks.link_files import LinkFiles

SHARES = (0.2, 0.1)
"""Of entities for test and validation, where the split is `entity_disjoint`."""


@dataclass(frozen=True, kw_only=True)
class LinkPrediction(Task):
    """Given one end of an edge and its relation, which is the other end?

    ```
    question   143 | niece          target 340      for the edge (143, niece, 340) of train, valid or test
               340 | niece of       target 143
    graph      facts and training edges without those that the batch asks about, and every edge backwards
    ```

    What Neural LP (Yang, Yang & Cohen 2017, arXiv:1702.08367) and DRUM (Sadeghian et al. 2019, arXiv:1911.00321) do.
    Ranks are filtered: other entities that any of the files says are right don't count. Ties count half, as if broken
    at random; both papers' code counts none, which can only be more.

    With `split=entity_disjoint` a fifth of the entities are for the test and a tenth for validation, drawn once and for
    all: training neither asks nor is told any edge that touches one of them. Validation asks about, from both ends,
    what its file says of its own entities, and so does the test: of entities that no training question was about, whose
    facts and training edges are told then and only then. (An answer may be any entity.)

    Attributes:
        data_root: folder of the data, unless MEMNETS_DATA names it.
        verify_checksum: refuse files that differ from the published ones.
        split: `edges`: questions are about other edges than training's; `entity_disjoint`: about other entities.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("reciprocal_rank", "hits_1", "hits_10")

    data_root: str | None = None
    verify_checksum: bool = True
    split: Literal["edges", "entity_disjoint"] = "edges"

    def __post_init__(self) -> None:
        if self.split not in ("edges", "entity_disjoint"):
            raise ValueError(f"{type(self).__name__}.split must be edges or entity_disjoint, not {self.split!r}")

    @property
    @abstractmethod
    def _files(self) -> LinkFiles:
        """Names and edges."""

    @property
    def spec(self) -> Spec:
        """One word in, entities out; relations lead backwards, too."""
        entities, words = len(self._files.entities), len(self.vocabulary)
        return Spec("graph", words, entities, num_relations=2 * len(self._files.relations))

    @property
    def vocabulary(self) -> Sequence[str]:
        """What is asked, by id: relations forwards, then backwards; id 0 is padding."""
        relations = self._files.relations
        return ("", *relations, *(f"{relation} of" for relation in relations))

    @cached_property
    def memory(self) -> GraphMemory:
        """Facts, and then the training edges."""
        memory = GraphMemory(entities=self._files.entities, relations=self._files.relations)
        memory.write(named(self._files.facts))
        memory.write(named(self._files.train))
        return memory

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled questions for training, questions in the file's order for validation and test.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        asked = self._questions[split]
        if split == "train":
            rows = as_tensor(epoch_indices(len(asked), index, batch_size, seed))
        else:
            rows = torch.arange(len(asked))[index * batch_size : (index + 1) * batch_size]
            if not len(rows):
                raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        node, word, target, edge = asked[rows].unbind(1)
        edges = self._edges
        if split == "train":
            edges = edges._replace(mask=self._without(edge))
        graph = map_tensors(lambda part: part.expand(len(rows), -1), edges)
        return Batch(GraphQuestion(node, word[:, None], graph), target, torch.ones_like(target, dtype=torch.bool))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask every question once; training leaves an incomplete last batch out."""
        count = len(self._questions[split])
        return count // batch_size if split == "train" else -(-count // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over questions."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Mean of 1 / rank, and shares of questions whose answer is first and among the first ten."""
        ranks = self._ranks(outputs, batch)[batch.mask]
        hits = {f"hits_{k}": ratio((ranks <= k).double()) for k in (1, 10)}
        return {"reciprocal_rank": ratio(1 / ranks), **hits}

    def oracle(self, batch: Batch) -> Tensor:
        """Nobody knows which facts imply which.

        Raises:
            NoOracleError: always.
        """
        name = type(self).__name__
        raise NoOracleError(f"{name} has no oracle: which facts imply a relation is what there is to learn")

    @cached_property
    def _edges(self) -> Edges:
        """The memory's edges, and behind them all of them backwards, by relations of their own."""
        source, relation, target, mask = self.memory.edges()
        backwards = relation + len(self._files.relations)
        pairs = ((source, target), (relation, backwards), (target, source), (mask, mask))
        return Edges(*(torch.cat(pair, dim=1) for pair in pairs))

    @cached_property
    def _parts(self) -> dict[Split, Bool[Tensor, " entities"]]:
        """Which entities each split may ask about: all, or its own."""
        count = len(self._files.entities)
        if self.split == "edges":
            return dict.fromkeys(("train", "validation", "test"), torch.ones(count, dtype=torch.bool))
        mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        sizes = [round(share * count) for share in SHARES]
        numbers = mixed.split([*sizes, count - sum(sizes)])
        test, validation, train = (torch.zeros(count, dtype=torch.bool).index_fill(0, own, True) for own in numbers)
        return {"train": train, "validation": validation, "test": test}

    @cached_property
    def _told_in_training(self) -> Bool[Tensor, "one edges"]:
        """Which edges touch no entity of other splits."""
        known = self._parts["train"]
        return known[self._edges.source] & known[self._edges.target]

    @cached_property
    def _questions(self) -> dict[Split, Int[Tensor, "questions four"]]:
        """Node, word, target and number of the edge in its file, an edge's two questions side by side."""
        files, parts = self._files, self._parts
        train, validation, test = (self._asked(edges) for edges in (files.train, files.valid, files.test))
        known = parts["train"][train[:, 0]] & parts["train"][train[:, 2]]
        return {
            "train": train[known],
            "validation": validation[parts["validation"][validation[:, 0]]],
            "test": test[parts["test"][test[:, 0]]],
        }

    def _asked(self, edges: Sequence[Edge]) -> Int[Tensor, "questions four"]:
        entities, relations = (
            {name: i for i, name in enumerate(names)} for names in (self._files.entities, self._files.relations)
        )
        rows = [(entities[i], 1 + relations[r], entities[j], number) for number, (i, r, j) in enumerate(edges)]
        forwards = torch.tensor(rows).reshape(-1, 4)
        backwards = forwards[:, [2, 1, 0, 3]] + torch.tensor([0, len(relations), 0, 0])
        return torch.stack([forwards, backwards], dim=1).flatten(0, 1)

    @cached_property
    def _right(self) -> dict[tuple[int, int], list[int]]:
        """All answers of any file to a node and a word."""
        files, right = self._files, dict[tuple[int, int], list[int]]()
        for edges in (files.facts, files.train, files.valid, files.test):
            for node, word, target, _ in self._asked(edges).tolist():
                right.setdefault((node, word), []).append(target)
        return right

    def _without(self, asked: Int[Tensor, " batch"]) -> Bool[Tensor, "one edges"]:
        """Mask of all edges that training is told but the training edges `asked`, forwards and backwards."""
        mask = self._told_in_training.clone()
        places = len(self._files.facts) + asked
        mask[0, places] = False
        mask[0, places + len(self.memory)] = False
        return mask

    def _ranks(self, outputs: Float[Tensor, "batch entities"], batch: Batch) -> Float[Tensor, " batch"]:
        """Place of the target among entities that aren't known to be right: 1, and one for each that is better.

        What is no number is worse than all others: a model that has overflown must not be first.
        """
        others = torch.ones_like(outputs, dtype=torch.bool)
        questions = zip(batch.inputs.node.tolist(), batch.inputs.words[:, 0].tolist(), strict=True)
        for row, question in zip(others, questions, strict=True):
            row[self._right[question]] = False
        own = outputs.gather(1, batch.targets[:, None])
        better, equal = ((compared & others).sum(1).double() for compared in (~(outputs <= own), outputs == own))
        return 1 + better + equal / 2
