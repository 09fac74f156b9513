"""Encodings on disk: the same as without, made once, and never wrong ones."""

from __future__ import annotations

import pytest
from torch.testing import assert_close

from memnets.retrieval.cached_encoder import CachedEncoder, read_pack
from memnets.retrieval.encoder import Encoder, HashedEncoder

TEXTS = ["mary lives in paris", "ann", "the piano", "mary lives in paris"]


class Counting(HashedEncoder):
    """Notes what it is asked for."""

    def __init__(self, size=8, seed=0):
        super().__init__(size, seed)
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return super().encode(texts)


def same(one, two):
    return all(first.equal(second) for first, second in zip(one, two, strict=True))


@pytest.fixture
def make(tmp_path):
    return lambda **settings: CachedEncoder(Counting(**settings), str(tmp_path / "cache"))


def files(cached):
    return sorted(cached.folder.rglob("*.*"))


class TestCache:
    def test_gives_what_the_encoder_gives(self, make):
        for cached in (make(), make()):  # the second from disk
            assert same(cached.encode(TEXTS), HashedEncoder(8).encode(TEXTS))
            assert same(cached.encode(TEXTS[1:2]), HashedEncoder(8).encode(TEXTS[1:2]))

    def test_encodes_a_text_once(self, make):
        first, second = make(), make()
        first.encode(TEXTS)
        second.encode(["ann", "new", "the piano"])
        second.encode(["new"])
        assert first.encoder.asked == [["mary lives in paris", "ann", "the piano"]]
        assert second.encoder.asked == [["new"]]
        assert same(make().encode(["new", "ann"]), HashedEncoder(8).encode(["new", "ann"]))

    def test_keeps_encoders_apart(self, make):
        make().encode(TEXTS)
        other = make(seed=1)
        assert_close(other.encode(TEXTS).vectors, HashedEncoder(8, seed=1).encode(TEXTS).vectors, rtol=0, atol=0)
        assert len(other.encoder.asked) == 1

    def test_meets_the_contract(self, make):
        assert isinstance(make(), Encoder)
        assert (make().size, make().identity) == (8, HashedEncoder(8).identity)
        assert make().places("ann, the") == HashedEncoder(8).places("ann, the") == [(0, 3), (5, 8)]

    def test_of_nothing(self, make):
        assert make().encode([]).vectors.shape == (0, 8)

    def test_a_text_that_can_t_be_encoded_leaves_nothing(self, make):
        cached = make()
        with pytest.raises(ValueError, match="has no word to encode"):
            cached.encode(["ann", "!"])
        assert files(cached) == []
        assert same(cached.encode(["ann"]), HashedEncoder(8).encode(["ann"]))

    def test_holds_no_words(self, make):
        cached = make()
        cached.encode(["mary lives in paris"])
        assert all(b"paris" not in path.read_bytes() for path in files(cached))

    def test_default_folder_is_the_data_root_s(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MEMNETS_DATA", str(tmp_path))
        CachedEncoder(HashedEncoder(8)).encode(TEXTS)
        assert len(list((tmp_path / "cache" / "encodings").rglob("*.safetensors"))) == 1


class TestFaults:
    @pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-9] + b"\0" * 9])
    def test_a_damaged_file_is_replaced(self, make, damage):
        first = make()
        first.encode(TEXTS)
        (path,) = files(first)
        path.write_bytes(damage(path.read_bytes()))
        second = make()
        with pytest.warns(UserWarning, match=r"safetensors is damaged, so its texts are encoded anew"):
            assert same(second.encode(TEXTS), HashedEncoder(8).encode(TEXTS))
        assert files(second) == [path]
        assert read_pack(path) is not None

    def test_reads_no_file_but_those_of_texts_asked_for(self, make):
        first = make()
        first.encode(["ann"])
        other = files(first)[0]
        first.encode(["mary"])
        other.write_bytes(other.read_bytes()[:-1] + b"!")  # would be found damaged
        assert same(make().encode(["mary"]), HashedEncoder(8).encode(["mary"]))
        assert other.exists()

    def test_what_another_program_put_there_is_no_pack(self, make):
        first = make()
        first.encode(["ann"])
        stranger = files(first)[0].with_name("notes.safetensors")
        stranger.write_bytes(b"not a pack")
        with pytest.warns(UserWarning, match="damaged"):
            assert same(make().encode(["ann"]), HashedEncoder(8).encode(["ann"]))

    def test_a_file_half_written_is_not_read(self, make):
        first = make()
        first.encode(["ann"])
        path = files(first)[0]
        path.rename(path.with_name(f".{path.name}.1.partial"))
        again = make()
        again.encode(["ann"])
        assert again.encoder.asked == [["ann"]]

    def test_a_folder_that_can_t_be_written(self, tmp_path):
        (tmp_path / "cache").write_text("a file, no folder")
        cached = CachedEncoder(HashedEncoder(8), str(tmp_path / "cache"))
        with pytest.warns(UserWarning, match="encodings are not kept"):
            assert same(cached.encode(TEXTS), HashedEncoder(8).encode(TEXTS))
