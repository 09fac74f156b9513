"""The files of Omniglot: read right, and refused with one clear message where they are absent, altered or broken."""

from __future__ import annotations

import numpy as np
import pytest
from omniglot_example import ALPHABETS, contents, png, task_in, write_omniglot, write_zip

from memnets.tasks.base import DataError
from memnets.tasks.omniglot import Omniglot
from memnets.tasks.omniglot_files import ARCHIVES, known_checksums, read_archive, read_characters

FIRST, SECOND = ARCHIVES


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


class TestFiles:
    def test_each_character_is_read_once(self, tmp_path):
        found = read_characters(write_omniglot(tmp_path), check_published=False)
        assert found.images.shape == (5 * 6, 10, 20, 20)
        assert list(dict.fromkeys(found.alphabets)) == sorted({name for names in ALPHABETS.values() for name in names})
        assert found.alphabets.count("Greek") == 6

    def test_a_pixel_is_the_share_of_ink_it_covers(self, tmp_path):
        ink = np.zeros((105, 105), bool)
        ink[:21, :42] = True  # 4 by 8 pixels of 5.25
        ink[63:84, 84:] = True
        path = write_zip(tmp_path / "some.zip", {"Greek/character01/0001_01.png": png(ink)})
        expected = np.zeros((20, 20))
        expected[:4, :8] = expected[12:16, 16:] = 1
        [[image]] = read_archive(path).values()
        assert np.abs(image - expected).max() < 0.01

    def test_part_of_a_pixel_is_grey(self, tmp_path):
        ink = np.zeros((105, 105), bool)
        ink[:, :8] = True  # the second pixel covers columns 5 to 10
        path = write_zip(tmp_path / "some.zip", {"Greek/character01/0001_01.png": png(ink)})
        [[image]] = read_archive(path).values()
        assert image[3, :3].tolist() == pytest.approx([1, 3 / 6, 0], abs=0.01)

    @pytest.mark.parametrize("layout", ["omniglot", "omniglot/python", "omniglot-master/python", "."])
    @pytest.mark.parametrize("unpacked", [False, True])
    def test_every_layout_is_found(self, tmp_path, monkeypatch, layout, unpacked):
        packed = read_characters(write_omniglot(tmp_path / "packed"), check_published=False)
        monkeypatch.setenv("MEMNETS_DATA", str(write_omniglot(tmp_path, layout, unpacked)))
        assert Omniglot(verify_checksum=False).spec.input_size == 405
        assert np.array_equal(read_characters(tmp_path, check_published=False).images, packed.images)

    def test_a_missing_archive_says_where_it_was_looked_for_and_where_it_is_published(self, tmp_path):
        write_zip(tmp_path / "omniglot" / f"{FIRST}.zip", contents(FIRST))
        with pytest.raises(DataError) as error:
            _ = task_in(tmp_path).spec
        for part in (f"omniglot/{SECOND}.zip", f"python/{SECOND}\n", "MEMNETS_DATA", "github.com/brendenlake/omniglot"):
            assert part in str(error.value)

    def test_other_archives_than_the_published_are_refused_unless_asked_for(self, tmp_path):
        write_omniglot(tmp_path)
        with pytest.raises(DataError, match=rf"{FIRST}.zip: checksum .* task.verify_checksum=false"):
            _ = Omniglot(data_root=str(tmp_path)).spec
        assert set(known_checksums()) == {f"{archive}.zip" for archive in ARCHIVES}

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
    def test_a_truncated_archive(self, tmp_path, keep):
        path = write_omniglot(tmp_path) / "omniglot" / f"{FIRST}.zip"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
        with pytest.raises(DataError, match=rf"{FIRST}.zip: not a whole zip archive .*Fetch it again"):
            _ = task_in(tmp_path).spec

    def test_an_archive_with_a_damaged_byte(self, tmp_path):
        path = write_omniglot(tmp_path) / "omniglot" / f"{FIRST}.zip"
        damaged = bytearray(path.read_bytes())
        damaged[200] ^= 0xFF
        path.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match=rf"{FIRST}.zip: not a whole zip archive"):
            _ = task_in(tmp_path).spec

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is not a picture that can be read"),
            (b"GIF89a", "is not a picture that can be read"),
            (png(np.ones((105, 105)))[:40], "is not a picture that can be read"),
            (png(np.ones((28, 105))), "is 105 x 28: expected 105 x 105"),
        ],
        ids=["empty", "another format", "truncated", "another size"],
    )
    def test_a_broken_drawing_is_named(self, tmp_path, content, message):
        write_omniglot(tmp_path)
        name = f"{FIRST}/Greek/character02/0002_03.png"
        path = write_zip(tmp_path / "omniglot" / f"{FIRST}.zip", contents(FIRST) | {name: content})
        with pytest.raises(DataError) as error:
            _ = task_in(tmp_path).spec
        assert str(error.value).startswith(f"{path}: {name} {message}")

    def test_an_archive_without_drawings(self, tmp_path):
        path = write_zip(tmp_path / "some.zip", {"readme.txt": b"nothing", "Greek/notes.png": b"no drawing"})
        with pytest.raises(DataError, match=r"some.zip: no drawings: expected <alphabet>/<character>/<drawing>.png"):
            read_archive(path)

    def test_a_lost_drawing_is_noticed(self, tmp_path):
        root = write_omniglot(tmp_path, unpacked=True)
        (root / "omniglot" / SECOND / "Sanskrit" / "character02" / "0002_03.png").unlink()
        with pytest.raises(DataError, match=r"Sanskrit/character02 has 9 drawings, the others 10: unpacked in part\?"):
            _ = task_in(root).spec
