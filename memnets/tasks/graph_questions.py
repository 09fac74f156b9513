"""Questions that follow one, two or three relations through a graph, which is given with the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Edges, GraphQuestion, Ratio, Spec, Split, map_tensors
from memnets.retrieval.entries import Triple
from memnets.retrieval.graph_memory import GraphMemory
from memnets.tasks.base import Criterion, Task, class_loss, generator, ratio
from memnets.tasks.token_sequences import as_scores, check_least

HELD_OUT = 10
"""Every tenth question is for the test, another tenth for validation; the others are for training."""

MOST_QUESTIONS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class GraphQuestions(Task):
    """Which entity does a path of relations lead to?

    ```
    graph      e7 -r2-> e0,  e0 -r0-> e5,  ...      one target for every entity and relation
    question   e7 | r2 in other words | r0          relations in the order in which they are followed
    target     e5
    ```

    Each relation has `num_phrases` phrases, of one and of two words in turn, that no other relation has; the question
    takes any of them. A question is an entity and a path: training never meets those held out for validation and test.

    What was learned of one graph's facts is worth nothing in another: the `new_graph_...` test sets ask about a graph
    of the same entities and relations whose targets were drawn anew. There a model without that graph is at chance.

    Attributes:
        num_entities: nodes, which are the classes of the answer.
        num_relations: kinds of edges.
        num_phrases: ways to name a relation.
        max_hops: longest path. One of h relations is asked for in proportion to h.
        eval_questions: questions drawn for one evaluation.
        graph_seed: of both graphs, and of which questions are held out.
        graph: whose targets the questions are about.
        hops: validation and test ask for paths of this length only; None for all, as training does.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    solved: ClassVar[Criterion | None] = Criterion("accuracy", 0.99, "max")

    num_entities: int = 400
    num_relations: int = 8
    num_phrases: int = 3
    max_hops: int = 3
    eval_questions: int = 1024
    graph_seed: int = 0
    graph: Literal["training", "new"] = "training"
    hops: int | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "num_relations", "num_phrases", "max_hops", "eval_questions")
        check_least(self, 2, "num_entities")
        if self.num_entities * self.num_relations < HELD_OUT:
            raise ValueError(
                f"num_entities={self.num_entities} and num_relations={self.num_relations} make fewer than {HELD_OUT} "
                f"questions of one hop: too few to hold any out"
            )
        if self.num_entities * self.num_relations**self.max_hops > MOST_QUESTIONS:
            raise ValueError(
                f"num_entities={self.num_entities}, num_relations={self.num_relations} and max_hops={self.max_hops} "
                f"make more than {MOST_QUESTIONS:,} questions: too many to hold some out"
            )
        if self.hops is not None and not 1 <= self.hops <= self.max_hops:
            raise ValueError(f"hops must be 1 to max_hops={self.max_hops}, or null for all, not {self.hops}")

    @property
    def spec(self) -> Spec:
        """Words in, entities out."""
        words, entities = len(self.vocabulary), self.num_entities
        return Spec("graph", words, entities, num_relations=self.num_relations)

    @property
    def chance(self) -> dict[str, float]:
        """Any entity is as likely as another."""
        return {"accuracy": 1 / self.num_entities}

    @property
    def vocabulary(self) -> Sequence[str]:
        """Words by id, phrase by phrase: `r2.0` alone, or `r2.1` and then `r2.1'`; id 0 is padding."""
        return ("", *(word for _, phrase in self._phrases for word in phrase))

    @cached_property
    def memory(self) -> GraphMemory:
        """The graph that is asked about: batches follow when it is changed, as long as each path leads somewhere.

        The id of where a relation leads from an entity is `e7 r2`, whatever the target.
        """
        entities, relations = (
            [f"{kind}{i}" for i in range(n)] for kind, n in (("e", self.num_entities), ("r", self.num_relations))
        )
        random = np.random.default_rng([self.graph_seed, self.graph == "new"])
        memory = GraphMemory(entities=entities, relations=relations)
        targets = random.integers(0, self.num_entities, (self.num_entities, self.num_relations)).tolist()
        memory.write(
            [
                Triple(f"{source} {relation}", source, relation, entities[target])
                for source, row in zip(entities, targets, strict=True)
                for relation, target in zip(relations, row, strict=True)
            ]
        )
        return memory

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return questions drawn from those of the split."""
        random = generator(seed, split, index)
        node, path = self._draw(random, split, batch_size)
        graph = self.memory.edges()
        inputs = GraphQuestion(
            torch.from_numpy(node),
            torch.from_numpy(self._worded(random, path)),
            map_tensors(lambda part: part.expand(batch_size, -1), graph),
        )
        return Batch(inputs, torch.from_numpy(self._ends(graph, node, path)), torch.ones(batch_size, dtype=torch.bool))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask `eval_questions` or a few more."""
        return -(-self.eval_questions // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over questions."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of right answers."""
        right = outputs[batch.mask].argmax(-1) == batch.targets[batch.mask]
        return {"accuracy": ratio(right.double())}

    def oracle(self, batch: Batch) -> Tensor:
        """Read the words, and look every step of the path up among the edges of the batch."""
        ends = []
        for number, (node, words) in enumerate(
            zip(batch.inputs.node.tolist(), batch.inputs.words.tolist(), strict=True)
        ):
            triples = zip(*(part[number].tolist() for part in batch.inputs.edges[:3]), strict=True)
            facts = {(source, relation): target for source, relation, target in triples}
            for name in (self.vocabulary[word] for word in words if word):
                if not name.endswith("'"):
                    node = facts[node, int(name[1:].partition(".")[0])]
            ends.append(node)
        return as_scores(torch.tensor(ends), self.num_entities)

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself, and each number of hops in its graph and in the new one."""
        hops = range(1, self.max_hops + 1)
        own = {f"hops_{n}": replace(self, hops=n) for n in hops}
        return {"test": self, **own, **{f"new_graph_hops_{n}": replace(self, hops=n, graph="new") for n in hops}}

    def at_length(self, length: int) -> GraphQuestions:
        """Return the task with questions of `length` hops."""
        return replace(self, hops=length)

    @cached_property
    def _phrases(self) -> list[tuple[int, tuple[str, ...]]]:
        """Every relation's phrases, of one and of two words in turn."""
        return [
            (relation, (f"r{relation}.{phrase}", f"r{relation}.{phrase}'")[: 1 + phrase % 2])
            for relation in range(self.num_relations)
            for phrase in range(self.num_phrases)
        ]

    @cached_property
    def _word_ids(self) -> np.ndarray:
        """Ids of each phrase's words, `[relations + 1, phrases, 2]`, filled up with 0; the last is no relation."""
        ids = {word: i for i, word in enumerate(self.vocabulary)}
        rows = [[ids[word] for word in phrase] + [0] * (2 - len(phrase)) for _, phrase in self._phrases]
        table = np.reshape(rows, (self.num_relations, self.num_phrases, 2))
        return np.concatenate([table, np.zeros_like(table[:1])])

    def _draw(self, random: np.random.Generator, split: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and paths of a split's questions; -1 fills paths up to `max_hops`."""
        lengths = np.arange(1, self.max_hops + 1)
        hops = random.choice(lengths, count, p=lengths / lengths.sum())
        if self.hops is not None and split != "train":
            hops[:] = self.hops
        node, path = np.empty(count, dtype=np.int64), np.full((count, self.max_hops), -1)
        for length in lengths:
            rows = np.flatnonzero(hops == length)
            among = questions(self.num_entities, self.num_relations, int(length), self.graph_seed, split)
            codes = among[random.integers(0, len(among), len(rows))]
            for hop in range(length):
                codes, path[rows, hop] = np.divmod(codes, self.num_relations)
            node[rows] = codes
        return node, path

    def _worded(self, random: np.random.Generator, path: np.ndarray) -> np.ndarray:
        """Words of a path, `[batch words]`, in any of its relations' phrases; padding is last."""
        phrases = random.integers(0, self.num_phrases, path.shape)
        words = self._word_ids[path, phrases].reshape(len(path), -1)
        return np.take_along_axis(words, np.argsort(words == 0, axis=1, kind="stable"), 1)

    def _ends(self, graph: Edges, node: np.ndarray, path: np.ndarray) -> np.ndarray:
        source, relation, target = (part[0].numpy() for part in graph[:3])
        table = np.empty((self.num_entities, self.num_relations + 1), dtype=np.int64)
        table[source, relation] = target
        table[:, -1] = np.arange(self.num_entities)  # no relation leads on
        for step in path.T:
            node = table[node, step]
        return node


@lru_cache(maxsize=32)
def questions(num_entities: int, num_relations: int, hops: int, seed: int, split: Split) -> np.ndarray:
    """Questions of one length that belong to a split: entity and path as one number, whose digits are relations."""
    count = num_entities * num_relations**hops
    mixed = np.random.default_rng([seed, hops]).permutation(count)
    parts: dict[Split, slice] = {
        "test": slice(count // HELD_OUT),
        "validation": slice(count // HELD_OUT, 2 * (count // HELD_OUT)),
        "train": slice(2 * (count // HELD_OUT), None),
    }
    return mixed[parts[split]]
