"""Language modelling: the next word, or byte, of a text, read in its own order."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.files import data_root
from memnets.tasks.base import Task, generator, ratio
from memnets.tasks.text_counts import Bigrams, count_bigrams
from memnets.tasks.text_files import read_texts
from memnets.tasks.text_tokens import Tokens, TokenTexts, Words


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(Task):
    """Predicts each token of a text from those before it.

    ```
    inputs    <eos>  the  cat  sat  on        targets of a step are the inputs of the next
    targets    the   cat  sat  on   the
    ```

    Training cuts the text into as many streams as a batch has rows, which go on from batch to batch and `starts` with
    each epoch (`trainer.carry_state` lets a model remember). An epoch begins at a random place and takes the text as a
    ring, so that processes and seeds see different streams. What is left of a stream at its end is left out.

    Validation and test score every token of their text exactly once, and the first token comes after a line's end.
    Either no state is carried there, and each row gives `eval_context` tokens to read before those it scores; or, with
    `eval_streams`, they are read in order as training is, which shows what a memory of more than a row is worth.

    Attributes:
        path: folder with train, valid and test files, or one file (`text_files.py` says which names and cuts).
        tokens: what a token is, words or bytes.
        segment_length: tokens per row of a training batch.
        eval_segment_length: tokens that a row of validation or test scores. A batch's outputs are rows x (these and
            their context) x vocabulary: with a large vocabulary lower trainer.eval_batch_size.
        eval_context: tokens before them that are read only. The first row has none, and scores these too.
        eval_streams: cut the text of validation and test into so many equal streams, and let batch i be segment i of
            each, to be read with the state after segment i - 1. 1 reads the whole text from its beginning; every
            further stream begins with an empty memory. It is then the number of a batch's rows, whatever
            trainer.eval_batch_size, and there is no eval_context.
        data_root: folder below which `path` lies, unless MEMNETS_DATA names it.
        verify_checksum: refuse files of WikiText-2 that differ from the published ones.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)

    path: str = "wikitext2"
    tokens: Tokens = field(default=Words())
    segment_length: int = 64
    eval_segment_length: int = 256
    eval_context: int = 128
    eval_streams: int | None = None
    data_root: str | None = None
    verify_checksum: bool = True

    def __post_init__(self) -> None:
        for name, least in {"segment_length": 1, "eval_segment_length": 1, "eval_context": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"LanguageModelling.{name} must be at least {least}, not {getattr(self, name)}")
        if self.eval_streams is not None and self.eval_streams < 1:
            raise ValueError(f"LanguageModelling.eval_streams must be at least 1, or null, not {self.eval_streams}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Tokens by id. After a text's end rows are filled with id 0, which does not count there."""
        return self._texts.vocabulary

    @property
    def end(self) -> int:
        """Id of the token that ends a line: the one before a text's first."""
        return self._texts.end

    @property
    def spec(self) -> Spec:
        """Tokens in, logits over all tokens out."""
        return Spec("tokens", len(self.vocabulary), len(self.vocabulary))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return a segment of every stream for training, the text in order for validation and test.

        Raises:
            ValueError: the text is too short for a batch.
            IndexError: validation or test has no batch `index`.
        """
        if split == "train":
            return self._training_batch(index, batch_size, seed)
        if self.eval_streams is not None:
            return self.segment(split, index, self.eval_streams)
        rows = torch.arange(self._num_rows(split))[index * batch_size : (index + 1) * batch_size]
        if not len(rows):
            raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        return self._scored(self._texts.splits[split], rows)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches of an epoch, or of one reading of the text."""
        if split == "train":
            return self._stream_length(batch_size) // self.segment_length
        if self.eval_streams is not None:
            return self.num_segments(split, self.eval_streams)
        return -(-self._num_rows(split) // batch_size)

    def segment(self, split: Split, index: int, streams: int) -> Batch:
        """Return segment `index` of a text that is cut into equal streams and read once, in order.

        Each has `eval_segment_length` steps; what the last one lacks is filled and masked. `starts` with the first.

        Raises:
            ValueError: the text has fewer tokens than streams.
            IndexError: there is no such segment.
        """
        if not 0 <= index < self.num_segments(split, streams):
            raise IndexError(f"{split} has {self.num_segments(split, streams)} segments, none number {index}")
        text = self._texts.splits[split]
        bounds = torch.arange(streams + 1) * len(text) // streams
        places = bounds[:-1, None] + index * self.eval_segment_length + torch.arange(self.eval_segment_length)
        within = places < bounds[1:, None]
        starts = torch.full((streams,), index == 0)
        return Batch(self._before(text, places) * within, self._at(text, places) * within, within, starts=starts)

    def num_segments(self, split: Split, streams: int) -> int:
        """Return the segments of each of so many streams.

        Raises:
            ValueError: the text has fewer tokens than streams.
        """
        length = self.num_tokens(split)
        if length < streams:
            raise ValueError(f"{split} has {length} tokens, too few for {streams} streams: lower task.eval_streams")
        return -(-length // (streams * self.eval_segment_length))

    def num_tokens(self, split: Split) -> int:
        """Return the tokens of a text."""
        return len(self._texts.splits[split])

    def fingerprint(self, split: Split) -> str:
        """Hash of a text's ids and of the vocabulary that they count in."""
        words = "\n".join(self.vocabulary).encode()
        return hashlib.sha256(words + self._texts.splits[split].numpy().tobytes()).hexdigest()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over tokens."""
        targets = batch.targets.masked_fill(~batch.mask, -1)
        return F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten(), reduction="sum", ignore_index=-1)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of tokens whose logit is the largest."""
        return {"accuracy": ratio((outputs.argmax(-1) == batch.targets).double(), batch.mask)}

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """`perplexity`, exp of the mean loss, and `bits_per_token`; of bytes, bits per byte.

        The loss is a sum over a count, so these are of the whole text, whatever the batches.
        """
        return {"perplexity": perplexity(means["loss"]), "bits_per_token": means["loss"] / math.log(2)}

    def oracle(self, batch: Batch) -> Tensor:
        """Log-probabilities of bigrams counted in the training text: no text can be solved, but this can be beaten."""
        return self._bigrams.log_probabilities(batch.inputs)

    def unknown_share(self, split: Split) -> float:
        """Return the share of a text's tokens that are `<unk>`: for words only, those outside the vocabulary."""
        if "<unk>" not in self.vocabulary:
            return 0.0
        return float((self._texts.splits[split] == self.vocabulary.index("<unk>")).double().mean())

    @cached_property
    def _texts(self) -> TokenTexts:
        return load(data_root(self.data_root), self.path, self.tokens, self.verify_checksum)

    @cached_property
    def _bigrams(self) -> Bigrams:
        return count_bigrams(self._texts.splits["train"], len(self.vocabulary))

    def _training_batch(self, index: int, batch_size: int, seed: int) -> Batch:
        text, stream_length = self._texts.splits["train"], self._stream_length(batch_size)
        epoch, segment = divmod(index, self.num_batches("train", batch_size))
        first = generator(seed, "train", epoch).integers(len(text)) + segment * self.segment_length
        places = int(first) + torch.arange(batch_size)[:, None] * stream_length + torch.arange(self.segment_length)
        inputs, targets = (text[shifted % len(text)].long() for shifted in (places - 1, places))
        starts = torch.full((batch_size,), segment == 0)
        return Batch(inputs, targets, torch.ones_like(targets, dtype=torch.bool), starts=starts)

    def _stream_length(self, batch_size: int) -> int:
        """Tokens of each of `batch_size` streams."""
        length = len(self._texts.splits["train"]) // batch_size
        if length < self.segment_length:
            raise ValueError(
                f"the training text's {len(self._texts.splits['train'])} tokens make {batch_size} streams of {length}, "
                f"less than a segment: lower trainer.batch_size or task.segment_length={self.segment_length}"
            )
        return length

    def _num_rows(self, split: Split) -> int:
        return max(1, -(-(len(self._texts.splits[split]) - self.eval_context) // self.eval_segment_length))

    def _scored(self, text: Tensor, rows: Int[Tensor, " batch"]) -> Batch:
        """Rows of a text, each `eval_segment_length` further on than the one before."""
        step = torch.arange(self.eval_context + self.eval_segment_length)
        places = rows[:, None] * self.eval_segment_length + step
        within = places < len(text)
        targets = self._at(text, places) * within
        inputs = F.pad(targets, (1, -1))
        inputs[:, :1] = self._before(text, places[:, :1])
        return Batch(inputs, targets, within & ((rows == 0)[:, None] | (step >= self.eval_context)))

    def _at(self, text: Tensor, places: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """Tokens at places of a text, and at none the last."""
        return text[places.clamp(max=len(text) - 1)].long()

    def _before(self, text: Tensor, places: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """Tokens before places of a text; before its first, a line's end."""
        return torch.where(places > 0, self._at(text, (places - 1).clamp(min=0)), self._texts.end)


def perplexity(mean_loss: float) -> float:
    """Return exp of the mean loss in nats per token; infinite where that overflows."""
    return math.exp(mean_loss) if mean_loss < 700 else math.inf


@lru_cache(maxsize=4)
def load(root: Path, path: str, tokens: Tokens, check_published: bool) -> TokenTexts:
    """Return the three texts as ids; read once per process.

    Raises:
        DataError: a file is missing, empty, malformed or not the published one.
    """
    return tokens.encode(read_texts(root, path, check_published))
