"""Ask a trained reader of spans one question about some texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.models.base import SequenceModel
from memnets.retrieval.passages import SPECIAL, Passages, SpanRules, joined, span_scores, stacked


class ReadSpan(NamedTuple):
    """A part of a passage that may be the answer.

    Attributes:
        text: `passage[start:end]`.
        score: its probability among all spans, of all passages, that the rules allow.
        start: first character.
        end: the character after the last.
    """

    text: str
    score: float
    start: int
    end: int


class ReadPassage(NamedTuple):
    """What was read of a passage.

    Attributes:
        spans: its most probable ones that don't overlap, best first; never none.
        weights: of each token that was read, the probability that it is in the answer.
        places: the characters of each of these tokens.
    """

    spans: tuple[ReadSpan, ...]
    weights: tuple[float, ...]
    places: tuple[tuple[int, int], ...]


@torch.no_grad()
def read_spans(
    model: SequenceModel,
    rules: SpanRules,
    question: str,
    passages: Sequence[str],
    relevance: Sequence[float] | None = None,
    num_spans: int = 1,
) -> list[ReadPassage]:
    """Return the best spans of each passage, in the order of the passages; the answer is the one of the highest score.

    Question and passages are cut as `SquadReading` does in its test, and the answer is the one that it scores.

    Args:
        model: reads `Passages`, and gives logits of starts and ends.
        rules: those of its task.
        question: what is asked.
        passages: where the answer may be.
        relevance: of each passage; 0 if not said.
        num_spans: spans of a passage, if it has as many.

    Raises:
        ValueError: there is no passage, or one has no token.
    """
    asked = rules.tokenizer.tokenize(question).tokens[: rules.max_question]
    read = [rules.tokenizer.tokenize(passage) for passage in passages]
    if not read or not all(own.tokens for own in read):
        raise ValueError(f"read_spans needs passages with words in them, not {list(passages)!r:.60}")
    room = rules.max_tokens - len(asked) - SPECIAL
    sequences = [joined(asked, own.tokens[:room], rules.tokenizer) for own in read]
    device, count = next(model.parameters()).device, len(read)
    tokens, types = (part[None].to(device) for part in stacked(sequences))
    nothing = torch.zeros(1, count, dtype=torch.long, device=device)
    known = nothing.float() if relevance is None else torch.tensor([list(relevance)], device=device)
    inputs = Passages(tokens, types, known, nothing[:, 0], nothing, nothing)
    was_training = model.training
    logits = model.eval()(inputs)[0]
    model.train(was_training)
    scores = next(span_scores(logits, inputs, rules.max_answer, rules.relevance_weight)).cpu()
    shares = scores.flatten().log_softmax(0).view_as(scores)[:, len(asked) + 2 :, len(asked) + 2 :]
    own = zip(passages, read, shares, strict=True)
    return [_passage(text, each.places[:room], share, num_spans) for text, each, share in own]


def _passage(
    text: str, places: tuple[tuple[int, int], ...], shares: Float[Tensor, "time time"], num_spans: int
) -> ReadPassage:
    """Return a passage's best spans by log-probabilities of its spans, from a first to a last token."""
    left = shares[: len(places), : len(places)].clone()
    spans: list[ReadSpan] = []
    inside = left.exp().cumsum(0).flip(1).cumsum(1).flip(1).diagonal()  # begins here or before, ends here or after
    while len(spans) < num_spans and bool(left.max() > -torch.inf):
        first, last = divmod(int(left.argmax()), len(places))
        start, end = places[first][0], places[last][1]
        spans.append(ReadSpan(text[start:end], float(left[first, last].exp()), start, end))
        left[: last + 1, first:] = -torch.inf  # what overlaps
    return ReadPassage(tuple(spans), tuple(inside.tolist()), places)
