"""Texts and their tokens: read right, and refused with one clear message where they are absent, empty or broken."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from text_example import lines, task_in, text, write_text

from memnets.tasks.base import DataError
from memnets.tasks.language_modelling import LanguageModelling
from memnets.tasks.text_files import LAYOUTS, Text, cut, known_checksums, read_texts
from memnets.tasks.text_tokens import Bytes, Words

PUBLISHED = os.environ.get("MEMNETS_DATA")


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


def texts_of(train, validation="", test=""):
    contents = {"train": train, "validation": validation, "test": test}
    return {split: Text(Path(f"{split}.txt"), content.encode()) for split, content in contents.items()}


class TestFiles:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_is_found(self, tmp_path, layout):
        found = read_texts(write_text(tmp_path, "some", layout), "some", check_published=True)
        assert {split: part.content.decode() for split, part in found.items()} == {
            "train": text(200, 0), "validation": text(30, 1), "test": text(40, 2)
        }  # fmt: skip

    def test_a_path_is_below_the_data_root_or_from_here(self, tmp_path, monkeypatch):
        write_text(tmp_path / "root", "one")
        write_text(tmp_path / "here", "two")
        monkeypatch.chdir(tmp_path / "here")
        for path in ("one", "two", str(tmp_path / "here" / "two")):
            assert len(task_in(tmp_path / "root", path=path).vocabulary) == 12
        monkeypatch.setenv("MEMNETS_DATA", str(tmp_path / "root"))
        assert len(LanguageModelling(path="one").vocabulary) == 12

    def test_a_missing_folder_says_where_it_was_looked_for_and_what_to_do(self, tmp_path):
        with pytest.raises(DataError) as error:
            _ = task_in(tmp_path, path="no_such").spec
        for part in (f"{tmp_path}/no_such", str(Path("no_such").absolute()), "MEMNETS_DATA", "task.path", "wikitext"):
            assert part in str(error.value)

    def test_a_missing_part_says_which(self, tmp_path):
        (write_text(tmp_path) / "wikitext2" / "valid.txt").unlink()
        with pytest.raises(DataError) as error:
            _ = task_in(tmp_path).spec
        for layout in LAYOUTS:
            assert layout.format("valid") in str(error.value)

    @pytest.mark.parametrize("content", [b" ", b"\n \n\n"])
    def test_an_empty_file(self, tmp_path, content):
        write_text(tmp_path, test=content)
        with pytest.raises(DataError, match=r"test\.txt: the file is empty"):
            _ = task_in(tmp_path).spec

    def test_text_that_is_not_utf_8_names_its_line_and_may_be_read_as_bytes(self, tmp_path):
        write_text(tmp_path, valid=b"good\n\xe9t\xe9 \n")
        with pytest.raises(DataError, match=r"valid\.txt:2: not UTF-8 \(byte 0xe9\).*task=language_modelling_bytes"):
            _ = task_in(tmp_path).spec
        assert task_in(tmp_path, tokens=Bytes()).spec.input_size == 256

    @pytest.mark.parametrize("keep", [0, 20, 0.9])
    def test_a_truncated_archive(self, tmp_path, keep):
        path = write_text(tmp_path, layout="{}.txt.zip") / "wikitext2" / "train.txt.zip"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
        with pytest.raises(DataError, match=r"train\.txt\.zip: not a whole zip archive .*Fetch it again"):
            _ = task_in(tmp_path).spec

    def test_an_archive_of_several_files(self, tmp_path):
        path = write_text(tmp_path, layout="{}.txt.zip") / "wikitext2" / "train.txt.zip"
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("more.txt", "more")
        with pytest.raises(DataError, match=r"train\.txt\.zip: 2 files in the archive: expected one text"):
            _ = task_in(tmp_path).spec

    def test_another_wikitext2_than_the_published_is_refused_unless_asked_for(self, tmp_path):
        write_text(tmp_path, layout="wiki.{}.tokens")
        with pytest.raises(DataError, match=r"wiki\.train\.tokens: checksum .* task\.verify_checksum=false"):
            _ = task_in(tmp_path).spec
        assert len(task_in(tmp_path, verify_checksum=False).vocabulary) == 12
        assert len(known_checksums()) == 6

    @pytest.mark.skipif(PUBLISHED is None, reason="needs the real files: set MEMNETS_DATA")
    def test_wikitext_2_has_the_published_sizes(self):
        coded = Words().encode(read_texts(Path(PUBLISHED), "wikitext2"))
        assert {split: len(ids) for split, ids in coded.splits.items()} == {
            "train": 2_088_628, "validation": 217_646, "test": 245_569
        }  # fmt: skip
        assert len(coded.vocabulary) == 33_278


class TestCut:
    @given(st.integers(30, 200), st.integers(0, 3))
    def test_parts_join_to_the_whole_at_line_ends(self, count, seed):
        whole = text(count, seed).encode()
        parts = [part.content for part in cut(Text(Path("book.txt"), whole)).values()]
        assert b"".join(parts) == whole
        assert all(part.endswith(b"\n") for part in parts)
        assert abs(len(parts[0]) - 0.9 * len(whole)) <= 40
        assert abs(len(parts[1]) - 0.05 * len(whole)) <= 40

    @pytest.mark.parametrize("content", [b"a line without end", b"one line\n", b"a\n" * 2])
    def test_too_few_lines(self, content):
        with pytest.raises(DataError, match=r"book\.txt: too few lines to cut 90%, 5% .*task\.path a folder"):
            cut(Text(Path("book.txt"), content))

    def test_one_file_is_cut(self, tmp_path):
        (tmp_path / "book.txt").write_text(text(100))
        texts = task_in(tmp_path, path="book.txt", tokens=Bytes())._texts.splits
        joined = torch.cat([texts[split] for split in ("train", "validation", "test")])
        assert bytes(joined.tolist()) == text(100).encode()


class TestWords:
    def test_a_line_end_is_a_word(self):
        vocabulary, end, splits = Words().encode(texts_of("b a\n\na  a\n", "a b", "c\n"))
        assert vocabulary == ("<eos>", "<unk>", "a", "b")
        assert end == 0
        assert splits["train"].tolist() == [3, 2, 0, 0, 2, 2, 0]
        assert splits["validation"].tolist() == [2, 3, 0]
        assert splits["test"].tolist() == [1, 0], "a word of the test text alone is unknown"

    def test_the_text_s_own_unknown_is_the_same_word(self):
        vocabulary, _, splits = Words().encode(texts_of("a <unk> a\n", "b\n"))
        assert vocabulary == ("<eos>", "<unk>", "a")
        assert splits["train"].tolist() == [2, 1, 2, 0]
        assert splits["validation"].tolist() == [1, 0]

    @given(st.integers(1, 60), st.integers(3, 14), st.integers(0, 3))
    def test_the_most_frequent_are_kept(self, min_count, max_size, seed):
        counts = Counter(word for line in lines(200, seed) for word in line.split())
        vocabulary = Words(min_count, max_size).encode(texts_of(text(200, seed)))[0]
        kept = vocabulary[2:]
        left = [word for word in counts if word not in kept and counts[word] >= min_count]
        assert all(counts[word] >= min_count for word in kept)
        assert list(kept) == sorted(kept, key=lambda word: (-counts[word], word))
        assert not left or (len(vocabulary) == max_size and counts[kept[-1]] >= max(counts[word] for word in left))

    def test_other_white_space_ends_no_line(self):
        splits = Words().encode(texts_of("a\u2028b\x0bc\r\n"))[2]
        assert splits["train"].tolist() == [2, 3, 4, 0]

    @pytest.mark.parametrize(
        ("options", "message"), [((0,), "min_count must be at least 1"), ((1, 2), "max_size must")]
    )
    def test_no_word_could_be_left(self, options, message):
        with pytest.raises(ValueError, match=message):
            Words(*options)


class TestBytes:
    @given(st.binary(min_size=1, max_size=50))
    def test_ids_are_the_bytes(self, content):
        vocabulary, end, splits = Bytes().encode({"train": Text(Path("x"), content)})
        assert bytes(splits["train"].tolist()) == content
        assert len(vocabulary) == len(set(vocabulary)) == 256
        assert end == 10
        assert (vocabulary[10], vocabulary[65], vocabulary[255]) == ("\\n", "A", "\\xff")
