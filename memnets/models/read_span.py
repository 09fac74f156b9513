"""Ask a trained reader of spans one question about some texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memnets.models.span_reader import SpanReader
from memnets.retrieval.passages import SPECIAL, Passages, best_spans, joined, stacked
from memnets.retrieval.tokenizer import Tokenizer


class ReadSpan(NamedTuple):
    """What a passage answers.

    Attributes:
        text: the answer, `passage[start:end]`.
        score: probability, among all spans' starts and ends of all passages: passages can be compared by it.
        start: first character.
        end: the character after the last.
        weights: of each token of the passage, the mean of its probabilities to begin and to end the answer.
        places: the characters of each of these tokens.
    """

    text: str
    score: float
    start: int
    end: int
    weights: tuple[float, ...]
    places: tuple[tuple[int, int], ...]


@torch.no_grad()
def read_span(
    model: SpanReader,
    tokenizer: Tokenizer,
    question: str,
    passages: Sequence[str],
    max_tokens: int = 384,
    max_question: int = 40,
    max_answer: int = 20,
) -> list[ReadSpan]:
    """Return each passage's best span, in the order of the passages; the answer is the one with the highest score.

    Question and passages are cut as `SquadReading` does in its test.

    Raises:
        ValueError: there is no passage, or one has no token.
    """
    asked = tokenizer.tokenize(question).tokens[:max_question]
    read = [tokenizer.tokenize(passage) for passage in passages]
    if not read or not all(own.tokens for own in read):
        raise ValueError(f"read_span needs passages with words in them, not {list(passages)!r:.60}")
    room = max_tokens - len(asked) - SPECIAL
    sequences = [joined(asked, own.tokens[:room], tokenizer) for own in read]
    device, count = model.encoder.words.weight.device, len(read)
    tokens, types = (part[None].to(device) for part in stacked(sequences))
    nothing = torch.zeros(1, count, dtype=torch.long, device=device)
    inputs = Passages(tokens, types, nothing.float(), nothing[:, 0], nothing, nothing)
    was_training = model.training
    logits = model.eval()(inputs)[0]
    model.train(was_training)
    probabilities = logits.float().softmax(-1).unflatten(-1, (count, -1))[0]
    spans = [best_spans(*_alone(logits, inputs, number), max_answer)[0] for number in range(count)]
    return [
        _answer(passages[i], read[i].places[:room], probabilities[:, i, len(asked) + 2 :], span.start, span.end)
        for i, span in enumerate(spans)
    ]


def _alone(logits: Tensor, inputs: Passages, number: int) -> tuple[Tensor, Passages]:
    """Return the part of logits and inputs that is about one passage."""
    time, own = inputs.tokens.shape[-1], slice(number, number + 1)
    tokens, types, relevance, question, rows, first = inputs
    part = Passages(tokens[:, own], types[:, own], relevance[:, own], question, rows[:, own], first[:, own])
    return logits[..., number * time : (number + 1) * time], part


def _answer(text: str, places: Sequence[tuple[int, int]], probabilities: Tensor, first: int, last: int) -> ReadSpan:
    """Return the span from token `first` to `last` of a passage; probabilities `[2 tokens]` begin with its first."""
    start, end = places[first][0], places[last][1]
    weights = probabilities[:, : len(places)].mean(0).tolist()
    score = float(probabilities[0, first] * probabilities[1, last])
    return ReadSpan(text[start:end], score, start, end, tuple(weights), tuple(places))
