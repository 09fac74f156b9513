"""Measure how well relevances find the paragraph of SQuAD v1.1 that each question was asked about.

usage: python scripts/retrieval.py [relevance=bm25,dense,hybrid] [encoder=hashed] [file=dev-v1.1] [data_root=PATH]
                                   [csv=results/retrieval.csv]

relevance   of bm25 and tfidf (stems of English words), bm25_plain (words as they are), bm25_okapi (rank-bm25's),
            dense, hybrid (bm25 + dense), best_sentence (the passage's one most like the question), hybrid_sentence
            (bm25 + best_sentence), random, oracle
encoder     hashed (words as random directions, no download), a folder with a model of BERT's family, or a name of the
            hub such as sentence-transformers/all-MiniLM-L6-v2; what it encoded is kept below data_root/cache
file        of SQuAD below data_root (MEMNETS_DATA)
csv         a table to merge the rows into: a row takes the place of the one with its corpus, relevance and encoder

Recall and MRR have 95 % intervals, by bootstrap over questions. Exit codes: 0 done, 1 data, encoder or CSV can't be
read, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import one_of, read_keys, run
from memnets.analysis.measured import MeasuredTable
from memnets.analysis.retrievals import RetrievalRecord, render_retrievals
from memnets.analysis.rows import RecordError
from memnets.benchmark.measure import provenance
from memnets.files import data_root
from memnets.retrieval.cached_encoder import CachedEncoder
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.pretrained_encoder import EncoderError, PretrainedEncoder
from memnets.squad_retrieval import BY_WORDS, measure_retrieval, paragraphs_of, queries_of, relevances
from memnets.tasks.base import DataError
from memnets.tasks.squad_files import read_squad

DEFAULTS = {"relevance": "bm25,dense,hybrid", "encoder": "hashed", "file": "dev-v1.1", "data_root": "", "csv": ""}


def main(words: list[str]) -> int:
    return run(measure, words, __doc__, (RecordError, DataError, EncoderError))


def measure(words: list[str]) -> None:
    values = read_keys(words, DEFAULTS)
    names = [one_of("relevance", name, list(relevances())) for name in values["relevance"].split(",")]
    table, by_words = MeasuredTable(values["csv"], RetrievalRecord), set(names) <= set(BY_WORDS)
    squad = read_squad(data_root(values["data_root"] or None), values["file"])
    encoder = encoder_of("hashed" if by_words else values["encoder"])
    memory, queries = paragraphs_of(squad, encoder), queries_of(squad, None if by_words else encoder)
    made_by, corpus = provenance("cpu"), f"SQuAD {values['file']}"
    rows = [measure_retrieval(name, memory, queries, corpus, Path(values["encoder"]).name, made_by) for name in names]
    table.add(rows)
    print(render_retrievals(rows))


def encoder_of(name: str) -> Encoder:
    return HashedEncoder(384) if name == "hashed" else CachedEncoder(PretrainedEncoder(name, max_tokens=256))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
