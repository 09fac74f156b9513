"""A reader and its memory: what is written is answered from at once and after a restart; what fails is undone."""

from __future__ import annotations

import resource
import threading

import pytest
import torch
from served import FACT, QUESTION, exported, opened

from memnets.contracts import Spec
from memnets.models.retrieval_reader import RetrievalReader
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.integration import NearestValues
from memnets.retrieval.relevance import Dense
from memnets.retrieval.selection import TopK
from memnets.retrieval.vector_memory import VectorMemory
from memnets.serving.answer import Limits, Refused, Span
from memnets.serving.class_reader import ClassReader
from memnets.serving.documents import read_documents
from memnets.serving.folder import open_folder
from memnets.serving.memory_reader import MemoryReader, Retrieval
from memnets.serving.reading import Reader, Reading


def held(reader):
    return {entry.id: entry.text for entry in reader.entries(most=10_000)[0]}


def spans(passage):
    return [passage.text[token.start : token.end] for token in passage.tokens]


class FirstWords:
    """A reader by spans: the answer is the first word of what is most relevant."""

    def read(self, found):
        words = [entry.text.split()[0] for entry in found.entries]
        return Reading(((words[0], 1.0),), None, [[Span(0, len(word), 1.0 / len(words))] for word in words])

    def end(self, text):
        return len(text)

    def value(self, text):
        return -1

    def note(self, text):
        return None


class TestWalk:
    def test_ask_write_ask_replace_erase_and_open_again(self, tmp_path):
        folder = exported(tmp_path)
        reader = open_folder(folder)
        assert QUESTION.split()[2] not in reader.ask(QUESTION).passages[0].text
        assert reader.write("ada/city", FACT) == []
        for own in (reader, open_folder(folder)):
            answer = own.ask(QUESTION)
            assert (answer.text, answer.passages[0].id, answer.passages[0].text) == ("beijing", "ada/city", FACT)
        reader.replace("ada/city", "ada lovelace lives in rome.")
        assert open_folder(folder).ask(QUESTION).text == reader.ask(QUESTION).text == "rome"
        reader.erase("ada/city")
        assert "ada" not in reader.ask(QUESTION).passages[0].text
        assert held(open_folder(folder)) == held(reader)
        assert not [path for path in folder.rglob("*.*") if b"lovelace" in path.read_bytes()]

    def test_the_vote_of_a_new_text_is_the_answer_in_it(self, tmp_path):
        reader = opened(tmp_path)
        for text, value in ((FACT, "beijing"), ("BEIJING!", "beijing"), ("rome or beijing", None), ("nothing", None)):
            reader.write(text, text)
            found = reader.memory.entry(reader.memory.row(text)).value
            assert found == (-1 if value is None else reader.reader.answers.index(value))

    def test_votes_where_every_entry_with_one_was_erased(self):
        model = RetrievalReader(Spec("question", 64, 2, has_values=True), NearestValues).eval()
        memory = VectorMemory(HashedEncoder())
        reader = MemoryReader(memory, Retrieval(Dense(), TopK(2)), ClassReader(model, ["rome", "oslo"]))
        reader.write_all([("1", "ann lives in rome"), ("2", "nobody knows")])
        assert sum(passage.attention for passage in reader.ask("where is ann").passages) == pytest.approx(1)
        reader.erase("1")
        answer = reader.ask("where is ann")
        assert [passage.attention for passage in answer.passages] == [0]
        assert sum(share for _, share in answer.ranking) == pytest.approx(1)


class TestAnswers:
    def test_weights_stand_at_their_words(self, tmp_path):
        reader = opened(tmp_path)
        reader.write("ada/city", "Ada  LOVELACE (İzmir?) lives in «beijing».")
        passage = reader.ask(QUESTION).passages[0]
        assert spans(passage) == ["Ada", "LOVELACE", "İ", "zmir", "lives", "in", "beijing"]
        assert max(passage.tokens, key=lambda token: token.weight) == passage.tokens[-1]
        assert sum(token.weight for token in passage.tokens) == pytest.approx(passage.attention)
        assert 0 < passage.attention <= 1

    def test_of_a_long_text_only_what_is_read_is_shown_and_noted(self, tmp_path):
        reader = opened(tmp_path)
        text = "ada lovelace " + "and " * 20 + "beijing"
        notes = reader.write("long", text)
        assert "read no further than" in notes[0]
        assert "no answer that the reader knows" in notes[1]
        assert len(notes) == 2
        assert len(reader.ask("ada lovelace").passages[0].tokens) == 12

    @pytest.mark.parametrize("k", [1, 3, 50])
    def test_k_passages_or_all_there_are(self, tmp_path, k):
        reader = opened(tmp_path)
        answer = reader.ask(QUESTION, k)
        assert len(answer.passages) == k
        relevance = [passage.relevance for passage in answer.passages]
        assert relevance == sorted(relevance, reverse=True)
        for id in list(held(reader))[2:]:
            reader.memory.erase([id])
        assert len(reader.ask(QUESTION, k).passages) == min(k, 2)
        assert sum(passage.attention for passage in reader.ask(QUESTION, k).passages) == pytest.approx(1)

    def test_a_reader_by_spans_fits_and_vectors_have_no_tokens(self):
        memory = VectorMemory(HashedEncoder())
        memory.write([Entry("1", "london has a bridge"), Entry("2", "rome has a dome")])
        assert isinstance(FirstWords(), Reader)
        reader = MemoryReader(memory, Retrieval(Dense(), TopK(2), 0.5), FirstWords())
        answer = reader.ask("a dome")
        assert answer.text == "rome"
        assert [passage.answers for passage in answer.passages] == [(Span(0, 4, 0.5),), (Span(0, 6, 0.5),)]
        assert all(passage.attention is None and passage.tokens == () for passage in answer.passages)
        asked = memory.encoder.encode(["a dome"]).vectors
        assert answer.passages[0].relevance == pytest.approx(float(asked @ memory.vectors[1]) / 0.5)
        reader.save()  # of a memory that lies in no folder

    def test_entries_are_searched_by_all_words(self, tmp_path):
        reader = opened(tmp_path)
        reader.write_all([("a one", "x Camel"), ("a two", "x horse")])
        assert [entry.id for entry in reader.entries("CAMEL one")[0]] == ["a one"]
        assert reader.entries("camel two") == ([], 0)
        found, count = reader.entries("x a", most=1)
        assert (len(found), count >= 2) == (1, True)


REFUSED = [
    (lambda reader: reader.ask("  "), "the question is empty", 400),
    (lambda reader: reader.ask("?!"), "has no word to encode", 400),
    (lambda reader: reader.ask("a" * 1001), "has 1,001 letters: at most 1,000", 413),
    (lambda reader: reader.ask("\ud800"), "no Unicode text", 400),
    (lambda reader: reader.ask(QUESTION, 0), "k=0: expected from 1 to 50", 400),
    (lambda reader: reader.ask(QUESTION, 51), "k=51", 400),
    (lambda reader: reader.write("", "x"), "the id is empty", 400),
    (lambda reader: reader.write("x", " "), "text of 'x' is empty", 400),
    (lambda reader: reader.write("x", "..."), "has no word to encode", 400),
    (lambda reader: reader.write("x" * 201, "x"), "the id has 201 letters", 413),
    (lambda reader: reader.write("x", "x" * 10_001), "has 10,001 letters: at most 10,000", 413),
    (lambda reader: reader.write("a\nb", "x"), "letters that can be printed, on one line", 400),
    (lambda reader: reader.write("x", "\udfff"), "no Unicode text", 400),
    (lambda reader: reader.write(next(iter(held(reader))), "x"), "in memory already; replace it", 409),
    (lambda reader: reader.write_all([("new", "x"), ("new", "y")]), "'new': given more than once", 409),
    (lambda reader: reader.write_all([("new", "x"), ("blank", "!")]), "has no word to encode", 400),
    (lambda reader: reader.write_all([]), "nothing to write", 400),
    (lambda reader: reader.write_all([(str(n), "x") for n in range(1001)]), "1,001 entries at once", 413),
    (lambda reader: reader.replace("nobody", "x"), "no entry 'nobody' in memory", 404),
    (lambda reader: reader.replace(next(iter(held(reader))), "!"), "has no word to encode", 400),
    (lambda reader: reader.erase("nobody"), "no entry 'nobody' in memory", 404),
]


class TestRefusals:
    @pytest.mark.parametrize(("call", "told", "status"), REFUSED)
    def test_nothing_is_changed(self, tmp_path, call, told, status):
        folder = exported(tmp_path)
        reader = open_folder(folder)
        before = held(reader), reader.memory.version
        with pytest.raises(Refused, match=told) as error:
            call(reader)
        assert error.value.status == status
        assert (held(reader), reader.memory.version) == before
        assert held(open_folder(folder)) == before[0]

    def test_an_empty_memory(self, tmp_path):
        folder = exported(tmp_path)
        reader = open_folder(folder)
        for id in held(reader):
            reader.memory.erase([id])
        reader.save()
        with pytest.raises(Refused, match="the memory is empty: write entries"):
            open_folder(folder).ask(QUESTION)
        reader.write("ada", FACT)
        assert reader.ask(QUESTION).text == "beijing"

    def test_more_than_the_memory_may_hold(self, tmp_path):
        reader = open_folder(exported(tmp_path), limits=Limits(entries=73))
        reader.write("one", "x")
        with pytest.raises(Refused, match="would hold more than 73 entries"):
            reader.write("two", "x")

    @pytest.mark.parametrize(
        "change",
        [
            lambda reader, id: reader.write("new", "x"),
            lambda reader, id: reader.replace(id, "other words"),
            lambda reader, id: reader.erase(id),
        ],
        ids=["write", "replace", "erase"],
    )
    def test_what_cannot_be_saved_is_undone(self, tmp_path, monkeypatch, change):
        folder = exported(tmp_path)
        reader = open_folder(folder)
        before, answer = held(reader), reader.ask(QUESTION)

        def fail(*given):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("memnets.retrieval.folder.save_file", fail)
            with pytest.raises(Refused, match=r"can't be saved, so nothing was changed: .*No space left"):
                change(reader, next(iter(before)))
        assert held(reader) == held(open_folder(folder)) == before
        assert reader.ask(QUESTION) == answer
        change(reader, next(iter(before)))
        assert held(reader) == held(open_folder(folder)) != before

    def test_a_disk_that_is_full_before_the_tensors_are_whole(self, tmp_path):
        """Not simulated: no file of this process may be larger than its facts."""
        reader = MemoryReader(VectorMemory(HashedEncoder(256)), Retrieval(Dense(), TopK(2)), FirstWords(), tmp_path)
        reader.write("1", "london has a bridge")
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, limit[1]))
        try:
            with pytest.raises(Refused, match="can't be saved, so nothing was changed") as error:
                reader.write("2", "rome has a dome")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert error.value.status == 507
        assert list(held(reader)) == ["1"]
        assert len(VectorMemory.load(tmp_path, HashedEncoder(256))) == 1


class TestDocuments:
    def test_a_paragraph_is_one(self, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_bytes("\ufeffone\ntwo\r\n \r\n\n\nthree é\n".encode())
        assert read_documents(path, Limits()) == [("notes.txt:1", "one two"), ("notes.txt:2", "three é")]

    def test_what_is_no_text_is_refused(self, tmp_path):
        path = tmp_path / "notes.txt"
        with pytest.raises(Refused, match=r"can't be read: No such file"):
            read_documents(path, Limits())
        path.write_bytes(b"caf\xe9")
        with pytest.raises(Refused, match=r"no UTF-8 text \(byte 3\): save it as UTF-8"):
            read_documents(path, Limits())
        path.write_bytes(b" \n\n ")
        with pytest.raises(Refused, match="holds no paragraph"):
            read_documents(path, Limits())

    def test_a_large_file_is_refused_unread(self, tmp_path, monkeypatch):
        path = tmp_path / "large.txt"
        with path.open("wb") as file:
            file.truncate(100 << 20)
        monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail("was read"))
        with pytest.raises(Refused, match="104,857,600 bytes: at most 16,777,216"):
            read_documents(path, Limits())


def test_calls_of_several_threads_wait_for_one_another(tmp_path):
    folder = exported(tmp_path)
    reader = open_folder(folder)
    faults = []

    def work(name):
        torch.set_num_threads(1)
        try:
            for number in range(4):
                reader.write(f"{name} {number}", f"{name} number{number} lives in beijing")
                assert reader.ask(f"where does {name} number{number} live").passages[0].id == f"{name} {number}"
                if number % 2:
                    reader.erase(f"{name} {number}")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert held(open_folder(folder)) == held(reader)
    assert reader.entries("lives beijing number")[1] == 6
