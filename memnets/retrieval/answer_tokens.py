"""Which token of an encoder stands for an answer, so that it can be copied from a memory of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from memnets.retrieval.encoder import Encoder


def answer_tokens(encoder: Encoder, answers: Sequence[str]) -> tuple[int, ...]:
    """Return the token of each answer: the only one that not all answers have, as they do [CLS].

    Raises:
        ValueError: an answer is not one token of the encoder.
    """
    encoded = encoder.encode(answers)
    tokens = [set(own[mask].tolist()) for own, mask in zip(encoded.tokens, encoded.mask, strict=True)]
    common = set.intersection(*tokens)
    if several := [answer for answer, own in zip(answers, tokens, strict=True) if len(own - common) != 1]:
        raise ValueError(f"answers that are not one token of the encoder can't be copied: {', '.join(several)}")
    return tuple((own - common).pop() for own in tokens)
