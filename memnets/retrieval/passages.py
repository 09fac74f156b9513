"""What readers of text are given, and the spans they answer with.

```
tokens   [CLS] where is the harbour ? [SEP] the harbour of rome lies ... [SEP] 0 0
types      0     0    0   0    0    0   0    1     1     1   1    1       1   0 0
```
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memnets.retrieval.tokenizer import Tokenizer

SPECIAL = 3
"""Tokens around question and passage: [CLS] and two [SEP]."""

HIDDEN = -1e4
"""Logit of a place that can't be a span's: finite, and nothing beside the others even in bfloat16."""


class Passages(NamedTuple):
    """Questions, each joined to every passage that it reads. The first three are all that a reader looks at.

    Attributes:
        tokens: question and passage; 0 where there is none.
        types: 1 where a passage's token or the end after it stands, else 0.
        relevance: how relevant a passage is to its question.
        question: the question's number in its task.
        rows: the passage's number in its memory; -1 where there is none.
        first: the passage's token that comes first: long passages are cut to a window.
    """

    tokens: Int[Tensor, "batch passages time"]
    types: Int[Tensor, "batch passages time"]
    relevance: Float[Tensor, "batch passages"]
    question: Int[Tensor, " batch"]
    rows: Int[Tensor, "batch passages"]
    first: Int[Tensor, "batch passages"]

    @property
    def readable(self) -> Bool[Tensor, "batch passages time"]:
        """Where an answer may stand: tokens of passages, but for the end."""
        return (self.types == 1) & self.types.roll(-1, -1).bool()


class MaskedText(NamedTuple):
    """Texts in which some tokens are hidden or replaced, and the places that are asked for (0 fills them up)."""

    tokens: Int[Tensor, "batch time"]
    asked: Int[Tensor, "batch places"]


class TextPair(NamedTuple):
    """Pairs of texts, joined, which have a class."""

    tokens: Int[Tensor, "batch time"]
    types: Int[Tensor, "batch time"]


class SpanRules(NamedTuple):
    """How a reader of spans reads, and which spans are answers, when it is asked.

    Attributes:
        tokenizer: makes tokens of texts: that of the reader's encoder.
        max_tokens: tokens of a question and a passage together that are read.
        max_question: tokens of a question.
        max_answer: tokens of the longest span that is an answer.
        relevance_weight: how much a passage's relevance adds to the scores of its spans.
    """

    tokenizer: Tokenizer
    max_tokens: int = 384
    max_question: int = 40
    max_answer: int = 20
    relevance_weight: float = 0.0


class Span(NamedTuple):
    """The tokens `start` to `end`, both within, of the passage number `passage` of a question, and its score."""

    passage: int
    start: int
    end: int
    score: float


def joined(question: Sequence[int], passage: Sequence[int], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return tokens and types of a question and a passage as one sequence."""
    tokens = [tokenizer.start, *question, tokenizer.separator, *passage, tokenizer.separator]
    return tokens, [0] * (len(question) + 2) + [1] * (len(passage) + 1)


def stacked(sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Return tokens and types of many sequences, `[sequences time]`, with 0 where one is shorter."""
    tokens, types = (
        pad_sequence([torch.tensor(part) for part in each], batch_first=True) for each in zip(*sequences, strict=True)
    )
    return tokens, types


def best_spans(
    outputs: Float[Tensor, "batch 2 places"], inputs: Passages, max_answer: int, relevance_weight: float = 0.0
) -> list[Span]:
    """Return each question's best span: start and end logits added, in one passage, no longer than `max_answer` tokens.

    `start` and `end` count the passage's own tokens, from its beginning and not from that of its window.
    """
    lengths = (inputs.types == 0) & (inputs.tokens != 0)
    time, spans = inputs.tokens.shape[-1], []
    for row, scores in enumerate(span_scores(outputs, inputs, max_answer, relevance_weight)):
        index = int(scores.argmax())
        passage, place = divmod(index, time * time)
        before = int(inputs.first[row, passage]) - int(lengths[row, passage].sum())
        start, end = divmod(place, time)
        spans.append(Span(passage, start + before, end + before, float(scores.flatten()[index])))
    return spans


def span_scores(
    outputs: Float[Tensor, "batch 2 places"], inputs: Passages, max_answer: int, relevance_weight: float = 0.0
) -> Iterator[Float[Tensor, "passages time time"]]:
    """Yield each question's scores of all spans, from a start to an end; -inf where no answer is allowed to stand."""
    _, passages, time = inputs.tokens.shape
    logits = outputs.float().unflatten(-1, (passages, time))
    logits = logits + 0.5 * relevance_weight * inputs.relevance[:, None, :, None]
    logits = logits.masked_fill(~inputs.readable[:, None], -torch.inf)
    allowed = torch.ones(time, time, dtype=torch.bool, device=outputs.device).triu().tril(max_answer - 1)
    for starts, ends in logits:
        yield (starts[:, :, None] + ends[:, None]).masked_fill(~allowed, -torch.inf)
