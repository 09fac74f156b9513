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

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.retrievals import add_retrievals, read_retrievals, render_retrievals
from memnets.analysis.rows import RecordError
from memnets.benchmark.choice import one_of
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
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        paths, values = read_arguments(words, DEFAULTS)
        if paths:
            raise UsageError(f"{paths[0]}: no paths are taken; --help tells more")
        names = [one_of("relevance", name, list(relevances())) for name in values["relevance"].split(",")]
        table = Path(values["csv"]) if values["csv"] else None
        if table:
            read_retrievals(table)  # refused now rather than after minutes
        squad = read_squad(data_root(values["data_root"] or None), values["file"])
        encoder = encoder_of("hashed" if set(names) <= set(BY_WORDS) else values["encoder"])
        memory = paragraphs_of(squad, encoder)
        queries = queries_of(squad, None if set(names) <= set(BY_WORDS) else encoder)
    except (UsageError, RecordError, DataError, EncoderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    made_by, corpus = provenance("cpu"), f"SQuAD {values['file']}"
    rows = [measure_retrieval(name, memory, queries, corpus, Path(values["encoder"]).name, made_by) for name in names]
    if table:
        add_retrievals(table, rows)
    print(render_retrievals(rows))
    return 0


def encoder_of(name: str) -> Encoder:
    return HashedEncoder(384) if name == "hashed" else CachedEncoder(PretrainedEncoder(name, max_tokens=256))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
