"""The files of bAbI: read right, and refused with one clear message where they are absent, altered or broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from babi_example import TRAIN, VOCABULARY, task_in, words_of, write_babi

from memnets.tasks.babi import Babi
from memnets.tasks.babi_files import NAMES, check_answers, find_file, known_checksums, read_file
from memnets.tasks.base import DataError


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    return write_babi(tmp_path)


class TestFiles:
    def test_facts_and_questions(self, root):
        file = read_file(find_file(root, "1k", 1, "train"), check_published=False)
        assert len(file.facts) == 7
        assert file.facts[0] == ("mary", "moved", "to", "the", "bathroom")
        second, last = file.questions[1], file.questions[-1]
        assert second == (5, 0, 3, ("where", "is", "mary"), "hallway", (2,))
        assert last == (11, 4, 7, ("where", "is", "john"), "hallway", (6,))

    @pytest.mark.parametrize("layout", ["babi", "tasks_1-20_v1-2", "babi/tasks_1-20_v1-2", "."])
    def test_every_published_layout_is_found(self, tmp_path, monkeypatch, layout):
        monkeypatch.setenv("MEMNETS_DATA", str(write_babi(tmp_path, layout=layout)))
        assert Babi(verify_checksum=False).num_batches("test", 1) == 3

    def test_line_ends_of_windows_are_read(self, tmp_path):
        task = task_in(write_babi(tmp_path, train=TRAIN.replace("\n", "\r\n")))
        assert list(task.vocabulary) == VOCABULARY

    def test_a_missing_file_says_where_it_was_looked_for_and_where_it_is_published(self, root):
        with pytest.raises(DataError) as error:
            _ = task_in(root, questions="10k").spec
        for part in ("babi/en-10k/qa1_single-supporting-fact_train.txt", "tasks_1-20_v1-2/en-10k", "MEMNETS_DATA"):
            assert part in str(error.value)
        assert "https://research.facebook.com/downloads/babi/" in str(error.value)

    @pytest.mark.parametrize(
        ("content", "line", "message"),
        [
            (b"", 1, "the file is empty"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t1", 2, "does not end in a newline: truncated?"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t1\n3 Mary went.\n", 3, "no question follows: truncated?"),
            (b"1 Mary moved.\n2 Where is Mary?\n", 2, "a question needs its answer"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\n", 2, "a question needs its answer"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t1\t1\n", 2, "a question needs its answer"),
            (b"1 Mary moved.\n2 M\xe4ry went.\n", 2, "not UTF-8 (byte 0xe4)"),
            ("1 Mary moved.\n".encode("utf-16"), 1, "not UTF-8 (byte 0xff)"),
            (b"1 Mary moved.\n3 Where is Mary?\tgarden\t1\n", 2, "id 3 does not continue the story: expected 2, or 1"),
            (b"2 Mary moved.\n", 1, "id 2 does not continue the story: expected 1"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t3\n", 2, "supporting id 3 points forward"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t2\n", 2, "supporting id 2 points forward"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\t0\n", 2, "supporting id '0' is not the id of an earlier fact"),
            (b"1 Mary moved.\n2 Where is Mary?\tgarden\tx\n", 2, "supporting id 'x' is not the id of an earlier fact"),
            (b"1 A b.\n2 Where?\tc\t1\n3 Where?\tc\t2\n", 3, "supporting id '2' is not the id of an earlier fact"),
            (b"1 Where is Mary?\tgarden\t1\n", 1, "a question before any fact"),
            (b"1 A b.\n2 Where?\tc\t1\n1 Where?\tc\t1\n", 3, "a question before any fact"),
            (b"1 Mary moved.\n2 Where is Mary?\t \t1\n", 2, "the answer is ' ': expected a word"),
            (b"1 Mary moved.\n2 Where is Mary?\ta b\t1\n", 2, "the answer is 'a b': expected a word"),
            (b"1 Mary moved.\n\n2 Where is Mary?\tgarden\t1\n", 2, "expected '<id> <text>', found ''"),
            (b"Mary moved.\n", 1, "expected '<id> <text>', found 'Mary moved.'"),
            (b"1 ...\n", 1, "no words in '...'"),
        ],
    )
    def test_a_bad_file_gets_one_clear_message_with_its_line(self, tmp_path, content, line, message):
        root = write_babi(tmp_path, train=content)
        with pytest.raises(DataError) as error:
            _ = task_in(root).spec
        path = root / "babi/en/qa1_single-supporting-fact_train.txt"
        assert str(error.value).startswith(f"{path}:{line}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_test_answer_that_training_never_uses(self, tmp_path):
        root = write_babi(tmp_path, test="1 Mary moved.\n2 Where is Mary?\tgarden\t1\n3 Where?\tmary,cellar\t1\n")
        with pytest.raises(DataError, match=r"test.txt:3: answer 'mary,cellar' is out of vocabulary: 'cellar' occurs"):
            _ = task_in(root).spec

    def test_new_combinations_of_known_words_are_answers(self, tmp_path):
        root = write_babi(tmp_path, test="1 Mary moved.\n2 Where is Mary?\tgarden,bathroom\t1\n")
        check_answers(*(read_file(find_file(root, "1k", 1, part), False) for part in ("train", "test")))
        task = task_in(root)
        assert "garden,bathroom" in task.vocabulary
        assert words_of(task, task.batch("test", 0, 1, 0).targets) == "garden,bathroom"

    def test_a_file_that_is_not_the_published_one(self, root):
        with pytest.raises(DataError, match=r"checksum .* differs .*task.verify_checksum=false"):
            _ = replace(task_in(root), verify_checksum=True).spec

    def test_checksums_are_known_for_all_files_but_one_that_was_not_at_hand(self):
        files = [f"qa{n}_{name}_{part}.txt" for n, name in enumerate(NAMES, 1) for part in ("train", "test")]
        names = {f"{folder}/{file}" for folder in ("en", "en-10k") for file in files}
        assert names - set(known_checksums()) == {"en-10k/qa3_three-supporting-facts_train.txt"}
        assert set(known_checksums()) <= names
