"""Link prediction in a graph of families: whose relation is missing?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from memnets.contracts import Batch, Edges, GraphQuestion, Ratio, Spec, Split, map_tensors
from memnets.files import data_root
from memnets.retrieval.graph_memory import Edge, GraphMemory
from memnets.tasks.base import NoOracleError, Task, as_tensor, epoch_indices, ratio
from memnets.tasks.family_files import FamilyFiles, read_family


@dataclass(frozen=True, kw_only=True)
class Family(Task):
    """Given one end of an edge and its relation, which is the other end?

    ```
    question   143 | niece          target 340      for the edge (143, niece, 340) of train, valid or test
               340 | niece of       target 143
    graph      facts.txt and train.txt without the edges that the batch asks about, and every edge backwards
    ```

    What Neural LP (Yang, Yang & Cohen 2017, arXiv:1702.08367) and DRUM (Sadeghian et al. 2019, arXiv:1911.00321) do:
    files, graphs and both directions are theirs. Ranks are filtered: other entities that any of the files says are
    right don't count. Ties count half, as if broken at random; both papers' code counts none, which can only be more.

    Attributes:
        data_root: folder of the data, unless MEMNETS_DATA names it.
        verify_checksum: refuse files that differ from the published ones.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("reciprocal_rank", "hits_1", "hits_10")

    data_root: str | None = None
    verify_checksum: bool = True

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
        memory = GraphMemory(self._files.entities, self._files.relations)
        memory.write(self._files.facts)
        memory.write(self._files.train)
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
        node, word, target = asked[rows].unbind(1)
        edges = self._edges
        if split == "train":
            edges = edges._replace(mask=self._without(rows // 2))
        graph = map_tensors(lambda part: part.expand(len(rows), -1), edges)
        return Batch(GraphQuestion(node, word[:, None], graph), target, torch.ones_like(target, dtype=torch.bool))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask every question once; training leaves an incomplete last batch out."""
        count = len(self._questions[split])
        return count // batch_size if split == "train" else -(-count // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over questions."""
        return F.cross_entropy(outputs[batch.mask].float(), batch.targets[batch.mask], reduction="sum")

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
        raise NoOracleError("Family has no oracle: which facts imply a relation is what there is to learn")

    @cached_property
    def _files(self) -> FamilyFiles:
        return read_family(data_root(self.data_root), self.verify_checksum)

    @cached_property
    def _edges(self) -> Edges:
        """The memory's edges, and behind them all of them backwards, by relations of their own."""
        source, relation, target, mask = self.memory.edges()
        backwards = relation + len(self._files.relations)
        pairs = ((source, target), (relation, backwards), (target, source), (mask, mask))
        return Edges(*(torch.cat(pair, dim=1) for pair in pairs))

    @cached_property
    def _questions(self) -> dict[Split, Tensor]:
        """Node, word and target of each question, an edge's two side by side."""
        files = self._files
        return {
            "train": self._asked(files.train),
            "validation": self._asked(files.valid),
            "test": self._asked(files.test),
        }

    def _asked(self, edges: Sequence[Edge]) -> Tensor:
        entities, relations = (
            {name: i for i, name in enumerate(names)} for names in (self._files.entities, self._files.relations)
        )
        rows = torch.tensor([(entities[i], 1 + relations[r], entities[j]) for i, r, j in edges])
        backwards = rows.flip(1) + torch.tensor([0, len(relations), 0])
        return torch.stack([rows, backwards], dim=1).flatten(0, 1)

    @cached_property
    def _right(self) -> dict[tuple[int, int], list[int]]:
        """All answers of any file to a node and a word."""
        files, right = self._files, dict[tuple[int, int], list[int]]()
        for edges in (files.facts, files.train, files.valid, files.test):
            for node, word, target in self._asked(edges).tolist():
                right.setdefault((node, word), []).append(target)
        return right

    def _without(self, asked: Tensor) -> Tensor:
        """Mask of all edges but the training edges `asked`, forwards and backwards."""
        mask = self._edges.mask.clone()
        places = len(self._files.facts) + asked
        mask[0, places] = False
        mask[0, places + len(self.memory)] = False
        return mask

    def _ranks(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Place of the target among entities that aren't known to be right: 1, and one for each that is better."""
        others = torch.ones_like(outputs, dtype=torch.bool)
        questions = zip(batch.inputs.node.tolist(), batch.inputs.words[:, 0].tolist(), strict=True)
        for row, question in zip(others, questions, strict=True):
            row[self._right[question]] = False
        own = outputs.gather(1, batch.targets[:, None])
        better, equal = ((compared & others).sum(1).double() for compared in (outputs > own, outputs == own))
        return 1 + better + equal / 2
