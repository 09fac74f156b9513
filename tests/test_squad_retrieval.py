"""Retrieval over SQuAD: bounds that must hold, a corpus of three paragraphs, and the script."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_reproduce import script
from test_squad_files import write

from memnets.analysis.measured import read_measured
from memnets.analysis.retrievals import RETRIEVALS, RetrievalRecord, render_retrievals
from memnets.retrieval.encoder import HashedEncoder
from memnets.squad_retrieval import BY_WORDS, measure_retrieval, paragraphs_of, queries_of, relevances
from memnets.tasks.squad_files import Answer, Question, Squad

MADE_BY = {"device": "cpu (a)", "torch": "2", "command": "c", "commit": "d", "date": "2026-01-01"}
TEXTS = ("the cats sat on a red mat", "london is a city of stone", "goats eat grass in the hills")
ASKED = (("which cat", 0), ("what are cities made of", 1), ("what does a goat eat", 2), ("where is london", 1))
SQUAD = Squad(
    TEXTS, ("a", "b", "c"), tuple(Question(str(n), text, at, (Answer(0, "x"),)) for n, (text, at) in enumerate(ASKED))
)


def measured(name):
    encoder = HashedEncoder(64)
    memory, queries = paragraphs_of(SQUAD, encoder), queries_of(SQUAD, encoder)
    return measure_retrieval(name, memory, queries, "three", "hashed", MADE_BY)


@pytest.mark.parametrize("name", relevances())
def test_every_relevance_is_measured_between_its_bounds(name):
    record = measured(name)
    assert (record.entries, record.queries) == (3, 4)
    assert 0 <= record.recall_1_low <= record.recall_1 <= record.recall_1_high <= 1
    assert record.recall_5 == record.recall_20 == 1  # of three
    assert 1 / 3 <= record.mrr <= record.ndcg_10 <= 1
    assert record.encoder == ("" if name in BY_WORDS else "hashed")
    assert {"bm25", "oracle", "random"} < set(BY_WORDS)


def test_what_knows_the_answer_is_perfect_and_stems_find_more_than_words():
    assert measured("oracle").recall_1 == measured("oracle").mrr == 1
    assert measured("bm25").recall_1 == 1
    assert measured("bm25_plain").recall_1 < 1


def test_batches_change_nothing(monkeypatch):
    whole = measured("hybrid")
    monkeypatch.setattr("memnets.squad_retrieval.AT_ONCE", 3)
    parts = measured("hybrid")
    assert replace(parts, ms_per_query=0.0) == replace(whole, ms_per_query=0.0)


def test_intervals_stand_beside_what_they_bound():
    assert "| three | bm25 |  | 1.000 (1.000 to 1.000) |" in render_retrievals([measured("bm25")])


class TestScript:
    def test_measures_and_records(self, tmp_path, monkeypatch, capsys):
        monkeypatch.delenv("MEMNETS_DATA", raising=False)
        paragraphs = [{"context": text, "qas": []} for text in TEXTS]
        for number, (text, at) in enumerate(ASKED):
            answers = [{"text": TEXTS[at][:3], "answer_start": 0}]
            paragraphs[at]["qas"].append({"id": str(number), "question": text, "answers": answers})
        write(tmp_path, {"data": [{"title": "a", "paragraphs": paragraphs}]})
        monkeypatch.setattr("memnets.tasks.squad_files.known_checksums", dict)
        table = tmp_path / RETRIEVALS
        assert script("retrieval").main([f"data_root={tmp_path}", "relevance=bm25,hybrid", f"csv={table}"]) == 0
        assert [each.relevance for each in read_measured(table, RetrievalRecord)] == ["bm25", "hybrid"]
        assert "| SQuAD dev-v1.1 | hybrid | hashed |" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (["relevance=bm52"], 2, "choose from bm25"),
            (["somewhere"], 2, "no paths are taken"),
            (["data_root=/nowhere"], 1, "missing data"),
        ],
    )
    def test_refuses(self, words, code, told, monkeypatch, capsys):
        monkeypatch.delenv("MEMNETS_DATA", raising=False)
        assert script("retrieval").main(words) == code
        assert told in capsys.readouterr().err
