"""A reader small enough to export in a blink: a pointer that copies from what is most relevant, hardly trained."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from memnets.config import check, compose, with_defaults
from memnets.identity import run_folder
from memnets.launch import train
from memnets.models.base import SequenceModel
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.lexical import BM25
from memnets.retrieval.passages import SpanRules
from memnets.retrieval.question import Prompt
from memnets.retrieval.selection import TopK
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.retrieval.tokenizer import HashedTokenizer, Tokenizer
from memnets.retrieval.vector_memory import VectorMemory
from memnets.serving.export import export
from memnets.serving.folder import open_folder
from memnets.serving.memory_reader import MemoryReader, Retrieval
from memnets.serving.span_passages import SpanPassages
from memnets.serving.writing_reader import WritingReader
from memnets.tasks.served import WritingRules

PEOPLE = (
    "experiment=people_qa",
    "task.num_people=12",
    "task.num_validation_people=2",
    "task.num_test_people=4",
)
SMALL = (
    "trainer.max_steps=2",
    "trainer.schedule.total_steps=2",
    "trainer.schedule.warmup_steps=1",
    "trainer.batch_size=8",
    "trainer.eval_every=2",
    "logger.progress=none",
    "runtime.pictures=false",
)
WRITTEN = ("experiment=people_generation", *PEOPLE[1:], "model.d_model=16", "task.encoder.size=8")
"""A reader that writes its answers."""

SPANS = (
    "experiment=squad_reading",
    "+task/relevance=bm25",
    "+task/selection=top_3",
    "task.relevance_weight=0.3",
    "task.test_relevances=[]",
    "task.verify_checksum=false",
    "task.window=24",
    "model.encoder.d_model=8",
    "model.encoder.num_layers=1",
    "model.encoder.num_heads=2",
    "trainer.precision=float32",
)
"""A reader of spans; `task.data_root` is to be added."""

QUESTION, FACT = "where does ada lovelace live?", "ada lovelace lives in beijing."


def small_run(folder: Path, *overrides: str) -> Path:
    """The folder of a small run, trained: of people_qa unless the overrides name another experiment."""
    experiment = [] if any(word.startswith("experiment=") for word in overrides) else list(PEOPLE)
    config = compose([*SMALL, *experiment, f"runtime.runs_dir={folder}", *overrides]).config
    check(config)
    config = with_defaults(config)
    assert train(config) == 0
    return run_folder(config)


@cache
def _kept() -> tuple[TemporaryDirectory, Path, Path]:
    kept = TemporaryDirectory()
    run = small_run(Path(kept.name) / "runs")
    export(run, Path(kept.name) / "exported")
    return kept, run, Path(kept.name) / "exported"


def the_run() -> Path:
    """The folder of one small run; not to be changed."""
    return _kept()[1]


def exported(folder: Path) -> Path:
    """An exported reader in a folder of one's own."""
    return shutil.copytree(_kept()[2], folder / "exported")


def opened(folder: Path) -> MemoryReader:
    """The reader of an exported folder of one's own."""
    return open_folder(exported(folder))


class BetweenInAndStop(SequenceModel):
    """Answers with what stands between the word "in" and the next stop: a reader of spans that needs no training."""

    accepts = frozenset({"text"})

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.words = [tokenizer.tokenize(word).tokens[0] for word in ("in", ".")]
        self.none = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, inputs, state=None):
        starts, ends = (inputs.tokens == word for word in self.words)
        return 9.0 * torch.stack([starts.roll(1, -1), ends.roll(-1, -1)], 1).flatten(2).float(), ()


class TellsTheMostRelevant(SequenceModel):
    """Writes the words of the entry with the highest score, one after the other: needs no training."""

    accepts = frozenset({"prompt"})

    def __init__(self, vocabulary: tuple[str, ...], encoder: HashedEncoder) -> None:
        super().__init__()
        self.tokens = torch.tensor([0, 0, *encoder.encode(list(vocabulary[2:])).tokens[:, 0].tolist()])
        self.none = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def places(self, inputs: Prompt) -> torch.Tensor:
        """The item that each word is followed by; beyond the last one where the answer ends, or isn't begun."""
        block, none = inputs.block, len(inputs.block.rows[0])
        best = block.rows[0, (block.scores + block.mask)[0].argmax()]
        items = ((block.rows[0] == best) & block.mask[0]).nonzero()[:, 0].tolist()
        step = (inputs.words[0] == 1).cumsum(0).cumsum(0).tolist()
        return torch.tensor([items[at - 1] if 0 < at <= len(items) else none for at in step])

    def forward(self, inputs, state=None):
        told = torch.cat([inputs.block.tokens[0], torch.zeros(1).long()])[self.places(inputs)]
        next_word = (told[:, None] == self.tokens[2:]).int().argmax(1) + 2
        return 9.0 * torch.nn.functional.one_hot(next_word.where(told > 0, 1), len(self.tokens))[None].float(), ()

    def go_on(self, inputs, where):
        written, start = torch.zeros_like(inputs.words), int(where[0].int().argmax())
        words = inputs.words[:, : start + 1]
        for at in range(start, where.shape[1]):
            written[0, at] = self(Prompt(words, inputs.block))[0][0, -1].argmax()
            words = torch.cat([words, written[:, at : at + 1]], 1)
        return written

    def word_attention(self, inputs):
        places = self.places(inputs)
        return torch.nn.functional.one_hot(places, inputs.block.rows.shape[1] + 1)[None, :, :-1].float()


WORDS = ("<pad>", "<end>", "where", "does", "ada", "ann", "live", "lives", "in", "rome", "paris", "oslo", "beijing")


def writing_reader(folder: Path | None = None) -> MemoryReader:
    """A reader that writes where people live; its memory knows where two do."""
    encoder = HashedEncoder()
    memory = SequenceMemory(encoder, 6)
    memory.write([Entry("ann/city", "ann lives in rome."), Entry("bob/city", "bob lives in old oslo.")])
    reader = WritingReader(TellsTheMostRelevant(WORDS, encoder).eval(), WORDS, WritingRules(12, 5))
    return MemoryReader(memory, Retrieval(BM25(), TopK(2)), reader, folder)


def span_reader(folder: Path | None = None, **rules: Any) -> MemoryReader:
    """A reader of spans that answers where people live; its memory knows where two do."""
    memory = VectorMemory(HashedEncoder())
    facts = {"ann lee/city": "Ann Lee lives in Rome.", "bob reed/city": "Bob Reed, whom all like, lives in Old Oslo."}
    memory.write([Entry(id, text) for id, text in facts.items()])
    tokenizer = HashedTokenizer()
    reader = SpanPassages(BetweenInAndStop(tokenizer).eval(), SpanRules(tokenizer, **rules))
    return MemoryReader(memory, Retrieval(BM25(), TopK(2)), reader, folder)
