"""A trained reader of stories, asked in words: from text to ids, and from logits to an answer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.config import build, load
from memnets.contracts import Spec, Story
from memnets.models.base import SequenceModel
from memnets.tasks.babi_files import words_in
from memnets.tasks.base import Task
from memnets.training import checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model

Sentence = tuple[str, ...]


class AskError(Exception):
    """Something that can't be asked. Its message says what is wrong, what is expected, and what to do."""


class UnknownWords(AskError):
    """Words outside the vocabulary, which a person may want to see."""


class Answer(NamedTuple):
    """What a model says to a question.

    Attributes:
        story: the sentences in its memory, oldest first.
        dropped: sentences told before those, for which it has no room.
        ranking: every answer it knows with its probability, most probable first.
        attention: the weight of each sentence in each hop; None for a model that doesn't attend to sentences.
    """

    story: tuple[Sentence, ...]
    dropped: int
    ranking: list[tuple[str, float]]
    attention: Float[Tensor, "hops sentences"] | None


@dataclass(frozen=True)
class Reader:
    """A model with the words it knows.

    Attributes:
        model: reads a `Story`.
        spec: its task's sizes.
        vocabulary: words and answers by id; id 0 is padding.
        name: of its run.
        example: a story of its task, and a question.
    """

    model: SequenceModel
    spec: Spec
    vocabulary: Sequence[str]
    name: str = ""
    example: tuple[tuple[Sentence, ...], Sentence] = ((), ())

    @property
    def words(self) -> list[str]:
        """Words a person may use; answers of several words ("milk,football") are none."""
        return [word for word in self.vocabulary if words_in(word) == (word,)]

    def read(self, text: str) -> Sentence:
        """Return the words of a sentence or question.

        Raises:
            UnknownWords: words the model doesn't know, each with its near misses.
            AskError: no words, or more of them than in any sentence of the model's task.
        """
        words = words_in(text)
        if not words:
            raise AskError(f"no words in {text.strip()!r}: expected a sentence such as 'mary went to the hallway'")
        known = set(self.words)
        unknown = [self._near(word) for word in dict.fromkeys(words) if word not in known]
        if unknown:
            raise UnknownWords(f"not in the vocabulary of {len(known)} words: {', '.join(unknown)}")
        most = self.spec.sentence_size
        if len(words) > most:
            raise AskError(f"a sentence has at most {most} words in this model's task, and this has {len(words)}")
        return words

    def ask(self, story: Sequence[Sentence], question: Sentence) -> Answer:
        """Return the answer; of a story longer than the memory the newest sentences are told.

        Raises:
            AskError: an empty story.
        """
        if not story:
            raise AskError("the story is empty: tell at least one sentence before you ask")
        told = tuple(story[-self.spec.story_size :])
        with torch.no_grad():
            inputs = self._story(told, question)
            probabilities = self.model(inputs)[0][0].double().softmax(-1).tolist()
            attention = self.model.attention(inputs)
        shown = None if attention is None else attention[0, :, : len(told)]
        ranking = sorted(zip(self.vocabulary, probabilities, strict=True), key=lambda pair: -pair[1])
        return Answer(told, len(story) - len(told), ranking, shown)

    def _story(self, told: Sequence[Sentence], question: Sentence) -> Story:
        """Return the model's inputs, a batch of one, padded as its task pads them."""
        ids = {word: number for number, word in enumerate(self.vocabulary)}
        story = torch.zeros(1, self.spec.story_size, self.spec.sentence_size, dtype=torch.long)
        query = torch.zeros(1, self.spec.sentence_size, dtype=torch.long)
        for slot, sentence in zip(story[0], told, strict=False):
            slot[: len(sentence)] = torch.tensor([ids[word] for word in sentence])
        query[0, : len(question)] = torch.tensor([ids[word] for word in question])
        return Story(story, query)

    def _near(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.words, n=3)
        return f"{word!r} (did you mean {' or '.join(near)}?)" if near else repr(word)


def read_checkpoint(path: Path, overrides: Sequence[str] = ()) -> Reader:
    """Return the reader in a run folder or one of its checkpoints, on the CPU.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
        ConfigError: an override that isn't known.
        DataError: the task's files, which hold its vocabulary, are missing.
        AskError: the model reads no stories.
    """
    found = find_checkpoint(path)
    folder = found.parent.parent
    experiment = build(load(folder / "config.yaml", overrides))
    model, spec = experiment.model, experiment.task.spec
    if spec.kind != "story":
        raise AskError(
            f"{folder.name} can't be asked: its {type(model).__name__} reads {spec.kind}, and only a model of stories "
            f"can. Train one, for example with experiment=memn2n_babi"
        )
    restore_model(checkpoint.load(found, torch.device("cpu")), model, averaged=True)
    return Reader(model.eval(), spec, experiment.task.vocabulary, folder.name, example_of(experiment.task))


def example_of(task: Task) -> tuple[tuple[Sentence, ...], Sentence]:
    """Return the longest story among a task's first few test questions, and the question."""
    stories = [task.batch("test", number, 1, 0).inputs for number in range(min(5, task.num_batches("test", 1)))]
    inputs = max(stories, key=lambda inputs: int((inputs.story != 0).sum()))
    rows = [*inputs.story[0].tolist(), *inputs.query.tolist()]
    *story, question = (tuple(task.vocabulary[word] for word in row if word) for row in rows)
    return tuple(filter(None, story)), question
