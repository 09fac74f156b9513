"""Time how fast a pretrained encoder reads SQuAD's paragraphs: float32 and bfloat16, sorted by length or as they come.

usage: python scripts/encoding_speed.py [encoder=sentence-transformers/all-MiniLM-L6-v2] [texts=256] [seconds=120]
                                        [threads=1] [file=dev-v1.1] [data_root=PATH] [csv=results/encoding_speed.csv]

All ways are timed in turns, with products of large matrices in both precisions as what the machine can do. Texts are
paragraphs of the file, from all of it. A table in csv gets the rows: a row takes the place of the one of its kind.

Exit codes: 0 done, 1 data, encoder or CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import sys

from memnets.analysis.arguments import read_keys, run, whole_number
from memnets.analysis.encoding_speeds import EncodingRecord, render_encodings
from memnets.analysis.measured import MeasuredTable
from memnets.analysis.rows import RecordError
from memnets.benchmark.encoding import measure_encoding
from memnets.benchmark.measure import provenance
from memnets.files import data_root
from memnets.retrieval.pretrained_encoder import EncoderError
from memnets.tasks.base import DataError
from memnets.tasks.squad_files import read_squad

DEFAULTS = {
    "encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "texts": "256",
    "seconds": "120",
    "threads": "1",
    "file": "dev-v1.1",
    "data_root": "",
    "csv": "",
}


def main(words: list[str]) -> int:
    return run(measure, words, __doc__, (RecordError, DataError, EncoderError))


def measure(words: list[str]) -> None:
    values = read_keys(words, DEFAULTS)
    count, seconds, threads = (whole_number(name, values[name]) for name in ("texts", "seconds", "threads"))
    table = MeasuredTable(values["csv"], EncodingRecord)
    paragraphs = read_squad(data_root(values["data_root"] or None), values["file"]).paragraphs
    texts = paragraphs[:: max(1, len(paragraphs) // count)][:count]
    rows = measure_encoding(values["encoder"], texts, float(seconds), threads, provenance("cpu"))
    table.add(rows)
    print(render_encodings(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
