"""External memories: what a read of them is, on disk, and given what they must refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from retrieval_example import (
    ENCODER,
    KINDS,
    PEOPLE,
    SIZE,
    as_kind,
    contents,
    entry_of,
    memory_of,
    one_row,
    queries_of,
    say,
    value_of,
)
from torch.testing import assert_close

from memnets.retrieval import folder as folder_module
from memnets.retrieval.base import EmptyMemoryError, ExternalMemory, MemoryFolderError
from memnets.retrieval.encoder import Encoded, HashedEncoder
from memnets.retrieval.entries import Entry, EntryError
from memnets.retrieval.relevance import Dense
from memnets.retrieval.selection import All, Selected, TopK
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.retrieval.vector_memory import VectorMemory

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
class TestReading:
    def test_keeps_the_contract(self, kind):
        assert isinstance(memory_of(kind), ExternalMemory)

    def test_padding_reads_as_nothing(self, kind):
        memory = memory_of(kind)
        rows, mask = torch.tensor([[3, -7, 99], [1, 0, 4]]), torch.tensor([[True, False, False], [True, True, False]])
        block = memory.read(Selected(rows, torch.full((2, 3), 0.5), mask))
        items = block.mask.view(2, 3, -1)
        assert items.any(-1).equal(mask)
        assert not block.vectors[~block.mask].any()
        assert not block.scores[~block.mask].any()
        assert block.values is not None
        assert (block.values[~block.mask] == -1).all()
        assert block.rows.view(2, 3, -1)[..., 0].equal(torch.where(mask, rows, 0))
        assert (block.scores[block.mask] == 0.5).all()

    def test_a_row_depends_on_its_query_alone(self, kind):
        memory, asked = memory_of(kind), queries_of("who lives in london", "the flute")
        both = memory.read(TopK(2).select(Dense().scores(memory, asked)))
        for number, text in enumerate(asked.texts):
            alone = memory.read(TopK(2).select(Dense().scores(memory, queries_of(text))))
            for part, own in zip(both, alone, strict=True):
                if part is not None:
                    assert_close(part[number], own[0])

    def test_values_are_what_entries_stand_for(self, kind):
        memory = memory_of(kind, PEOPLE[1:3])
        for row in (0, 1):
            block = memory.read(one_row(row))
            assert block.values.unique().tolist() == [value_of(memory, memory.entry(row))]

    def test_all_reads_a_memory_whole(self, kind):
        memory = memory_of(kind)
        memory.erase(["bob"])
        block = memory.read(All().select(Dense().scores(memory, queries_of("x"))))
        assert block.rows.unique().tolist() == [0, 2, 3, 4]

    def test_rows_of_an_older_version_are_refused(self, kind):
        memory = memory_of(kind)
        memory.erase(["max"])
        for row in (4, 5, -1):
            with pytest.raises(EntryError, match="select again"):
                memory.read(one_row(row))
        memory.erase(["ada", "bob", "eve", "ivy"])
        with pytest.raises(EmptyMemoryError, match="write entries"):
            memory.read(one_row(0))

    def test_a_read_block_stays_as_it_was(self, kind):
        memory = memory_of(kind)
        block = memory.read(one_row(0))
        before = block.vectors.clone()
        memory.replace([entry_of(kind, "ada", "quite other words")])
        assert block.vectors.equal(before)


@kinds
class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "given", "message"),
        [
            ("write", [("new", "x y z"), ("ada", "x y w")], "'ada' already: use `replace`"),
            ("write", [("new", "x y z"), ("new", "x y w")], "'new' given more than once"),
            ("write", [("new", "x y z"), ("", "x y w")], "an id is empty"),
            ("write", [("new", "x y z"), (" ", "x y w")], "an id is empty"),
            ("replace", [("ada", "x y z"), ("new", "x y w")], "doesn't hold 'new': use `write`"),
            ("replace", [("ada", "x y z"), ("ada", "x y w")], "'ada' given more than once"),
            ("write", [("new", "x y z"), ("blank", "! ? .")], "has no word to encode"),
            ("replace", [("ada", "x y z"), ("bob", "! ? .")], "has no word to encode"),
            ("erase", ["ada", "new"], "doesn't hold 'new'"),
            ("erase", ["ada", "ada"], "'ada' given more than once"),
            ("erase", [str(number) for number in range(9)], "'4' and 4 more"),
        ],
    )
    def test_nothing_is_done(self, kind, call, given, message):
        memory = memory_of(kind)
        before = contents(memory), memory.version, say(memory, "ada")
        with pytest.raises(ValueError, match=message):
            getattr(memory, call)([one if isinstance(one, str) else entry_of(kind, *one) for one in given])
        assert (contents(memory), memory.version) == before[:2]
        assert all(new.equal(old) for new, old in zip(say(memory, "ada"), before[2], strict=True))

    def test_an_encoder_that_overflows(self, kind):
        class Overflowing(HashedEncoder):
            def encode(self, texts):
                encoded = super().encode(texts)
                return encoded._replace(vectors=encoded.vectors / 0)

        memory = KINDS[kind](Overflowing(SIZE))
        with pytest.raises(ValueError, match="finite vectors of width 8"):
            memory.write([as_kind(kind, entry) for entry in PEOPLE])
        assert len(memory) == memory.num_rows == memory.version == 0

    def test_no_entries_change_nothing(self, kind):
        memory = memory_of(kind)
        before = memory.version
        memory.write([])
        memory.replace([])
        memory.erase([])
        assert memory.version == before

    def test_a_huge_text_is_cut_off(self, kind):
        memory = KINDS[kind]()
        memory.write([entry_of(kind, "huge", "word " * 1_000_000)])
        assert memory.read(one_row(0)).mask.all()


@kinds
class TestFolder:
    def saved(self, kind, folder):
        memory = memory_of(kind)
        memory.erase(["bob"])
        memory.save(folder)
        return memory

    def test_is_the_same_memory_again(self, kind, tmp_path):
        memory = self.saved(kind, tmp_path)
        loaded = type(memory).load(tmp_path, HashedEncoder(SIZE))
        assert (contents(loaded), loaded.version) == (contents(memory), memory.version)
        asked = queries_of("who lives in london")
        for part, own in zip(
            *(m.read(TopK(9).select(Dense().scores(m, asked))) for m in (loaded, memory)), strict=True
        ):
            assert (part is None and own is None) or part.equal(own)
        for one in (loaded, memory):
            one.write([entry_of(kind, "new", "a new one")])
        assert contents(loaded) == contents(memory)
        assert loaded.row("new") == memory.row("new") == 1

    def test_an_empty_memory_too(self, kind, tmp_path):
        KINDS[kind]().save(tmp_path)
        assert len(type(KINDS[kind]()).load(tmp_path, ENCODER)) == 0

    def test_any_flipped_byte_is_found(self, kind, tmp_path):
        memory = self.saved(kind, tmp_path)
        for path in list(tmp_path.iterdir()):
            whole = path.read_bytes()
            for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
                with pytest.raises(MemoryFolderError, match=r"damaged|no whole memory"):
                    type(memory).load(tmp_path, ENCODER)
            path.write_bytes(whole)
        type(memory).load(tmp_path, ENCODER)

    def test_a_missing_file_is_found(self, kind, tmp_path):
        memory = self.saved(kind, tmp_path)
        for path in list(tmp_path.iterdir()):
            whole = path.read_bytes()
            path.unlink()
            with pytest.raises(MemoryFolderError, match="no whole memory"):
                type(memory).load(tmp_path, ENCODER)
            path.write_bytes(whole)
        with pytest.raises(MemoryFolderError, match="no whole memory"):
            type(memory).load(tmp_path / "elsewhere", ENCODER)

    @pytest.mark.parametrize("encoder", [HashedEncoder(SIZE, seed=1), HashedEncoder(SIZE + 1)])
    def test_another_encoder_is_refused(self, kind, tmp_path, encoder):
        memory = self.saved(kind, tmp_path)
        with pytest.raises(MemoryFolderError, match="made with another encoder"):
            type(memory).load(tmp_path, encoder)

    def test_another_kind_is_refused(self, kind, tmp_path):
        memory = self.saved(kind, tmp_path)
        other = SequenceMemory if isinstance(memory, VectorMemory) else VectorMemory
        with pytest.raises(MemoryFolderError, match=f"holds a {type(memory).__name__}"):
            other.load(tmp_path, ENCODER)

    @pytest.mark.parametrize("step", ["write_synced", "save_file", "write_atomic"])
    def test_a_save_that_fails_leaves_the_old(self, kind, tmp_path, monkeypatch, step):
        memory = self.saved(kind, tmp_path)
        old = contents(memory)
        memory.replace([entry_of(kind, "ada", "is something else")])
        with monkeypatch.context() as patched:

            def full(first, second, *others):
                path = next(part for part in (first, second) if isinstance(part, Path))
                if step != "write_atomic":
                    path.write_bytes(b"{")
                raise OSError("No space left on device")

            patched.setattr(folder_module, step, full)
            with pytest.raises(OSError, match="No space left"):
                memory.save(tmp_path)
        assert contents(type(memory).load(tmp_path, ENCODER)) == old
        memory.save(tmp_path)
        assert contents(type(memory).load(tmp_path, ENCODER)) == contents(memory)
        assert len(list(tmp_path.iterdir())) == 3

    def test_what_was_erased_is_not_on_disk(self, kind, tmp_path):
        memory = memory_of(kind)
        memory.save(tmp_path)
        memory.erase(["bob"])
        memory.save(tmp_path)
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        if kind == "graph":  # a name keeps its number; what was told of it goes
            kept = json.dumps(json.loads(next(tmp_path.glob("facts-*")).read_text())["entries"]).encode()
        assert b"flute" not in kept
        assert b"london" in kept
        for column in memory._columns.all().values():
            assert not column[1].any()

    def test_holds_plain_json(self, kind, tmp_path):
        self.saved(kind, tmp_path)
        facts = json.loads(next(tmp_path.glob("facts-*")).read_text())
        assert facts["entries"][:2] == [list(as_kind(kind, PEOPLE[0])), None]


@pytest.mark.parametrize("kind", ["vector", "sequence"])
class TestTexts:
    def test_values_are_left_out_where_no_entry_has_one(self, kind):
        memory = memory_of(kind, PEOPLE[1:3])
        assert memory.read(one_row(1)).values is not None
        memory.erase(["bob"])
        assert memory.read(one_row(1)).values is None

    @pytest.mark.parametrize("call", ["write", "replace"])
    def test_values_are_classes(self, kind, call):
        memory = memory_of(kind, PEOPLE[:1])
        id = {"write": "new", "replace": "ada"}[call]
        with pytest.raises(EntryError, match=f"value of '{id}' is below -1"):
            getattr(memory, call)([Entry(id, "x", -2)])
        assert contents(memory) == {"ada": PEOPLE[0]}


class TestSequences:
    def test_states_of_narrower_numbers_are_kept_as_float32(self):
        class Narrow(HashedEncoder):
            def encode(self, texts):
                encoded = super().encode(texts)
                return encoded._replace(states=encoded.states.bfloat16())

        memory = SequenceMemory(Narrow(SIZE), 3)
        memory.write(PEOPLE)
        assert memory.read(one_row(0)).vectors.dtype == torch.float32

    def test_a_masked_token_inside_is_no_item(self):
        class Marked(HashedEncoder):
            def encode(self, texts):
                encoded = super().encode(texts)
                return Encoded(*encoded[:3], encoded.mask & (torch.arange(encoded.mask.shape[1]) != 1))

        memory = SequenceMemory(Marked(SIZE), 3)
        memory.write(PEOPLE[:1])
        assert memory.read(one_row(0)).mask.tolist() == [[True, False, True]]

    def test_needs_room(self):
        with pytest.raises(ValueError, match="max_tokens must be positive, not 0"):
            SequenceMemory(ENCODER, 0)


def test_a_large_corpus_is_encoded_in_parts(monkeypatch):
    from memnets.retrieval import row_memory

    entries = [Entry(str(number), f"word {number}", number % 3) for number in range(23)]
    whole = memory_of("sequence", entries)
    monkeypatch.setattr(row_memory, "ENCODED_AT_ONCE", 5)
    parts = memory_of("sequence", entries)
    assert all(parts._columns[name].equal(column) for name, column in whole._columns.all().items())


def test_growing_keeps_rows_and_is_rare():
    memory, rooms = VectorMemory(ENCODER), set()
    for number in range(200):
        memory.write([Entry(str(number), f"word {number}")])
        rooms.add(memory.vectors.data_ptr())
    assert len(rooms) <= 9
    assert_close(memory.vectors, ENCODER.encode([f"word {number}" for number in range(200)]).vectors)
