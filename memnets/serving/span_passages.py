"""A model that answers with spans of passages, as a reader of what was retrieved."""

from __future__ import annotations

from itertools import chain

from memnets.models.base import SequenceModel
from memnets.models.read_span import read_spans
from memnets.retrieval.passages import SPECIAL, SpanRules
from memnets.serving.answer import Span
from memnets.serving.reading import Found, Reading

NUM_SPANS, LEAST = 3, 0.005
"""Spans of each passage that are told: its best one, and others as far as their probability is not below this."""


class SpanPassages:
    """A model of texts (`Spec.kind`) with a head for spans: answers are copied from the passages, word for word.

    Args:
        model: the trained model, in evaluation.
        rules: how it was tested.
    """

    def __init__(self, model: SequenceModel, rules: SpanRules) -> None:
        self.model, self.rules = model, rules

    def read(self, found: Found) -> Reading:
        """Answer with the best span; a text that stands in several places has the probability of its best one."""
        if not found.entries:
            return Reading(())
        texts = [entry.text for entry in found.entries]
        read = read_spans(self.model, self.rules, found.question, texts, found.relevance, NUM_SPANS)
        spans = [[own.spans[0], *(span for span in own.spans[1:] if span.score >= LEAST)] for own in read]
        ranking: dict[str, float] = {}
        for span in sorted(chain(*spans), key=lambda span: -span.score):
            ranking.setdefault(span.text, span.score)
        answers = [[Span(span.start, span.end, span.score) for span in own] for own in spans]
        tokens = [[Span(*place, weight) for place, weight in zip(own.places, own.weights, strict=True)] for own in read]
        return Reading(tuple(ranking.items()), None, answers, tokens)

    def end(self, text: str) -> int:
        """Where the last token ends that is read beside a question of any length."""
        places = self.rules.tokenizer.tokenize(text).places
        room = self.rules.max_tokens - self.rules.max_question - SPECIAL
        return len(text) if len(places) <= room else places[room - 1][1]

    def value(self, text: str) -> int:
        """A text says no class."""
        return -1

    def note(self, text: str) -> None:
        """Any words can be copied: there is nothing to warn of."""
