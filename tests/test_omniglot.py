"""Omniglot: the task contract on files of our own, what an episode holds, and the real data where it lies at hand."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import test_tasks
import torch
import torch.nn.functional as F
from omniglot_example import task_in, write_omniglot
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.files import data_root
from memnets.tasks.base import SPLITS, DataError
from memnets.tasks.omniglot import LAID, PIXELS, Omniglot, seen_through
from memnets.tasks.omniglot_files import ARCHIVES, find_archive, read_characters


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(request, monkeypatch):
    if "real" not in request.fixturenames:
        monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_omniglot(tmp_path_factory.mktemp("data"))


@pytest.fixture
def task(root):
    return task_in(root, eval_episodes=200)


def scores(task, split="test", size=200):
    batch = task.batch(split, 0, size, 0)
    return {name: float(total / count) for name, (total, count) in task.metrics(task.oracle(batch), batch).items()}


FREE_LABELS = [1 / free for free in range(5, 0, -1)]


class TestContract(test_tasks.TestContract):
    """Nothing tells a class's first drawing but which labels are free: there the oracle guesses."""

    def test_oracle_is_perfect(self, task):
        found = scores(task)
        assert [found[f"accuracy_{instance}"] for instance in (2, 5, 10)] == [1, 1, 1]
        assert found["accuracy_1"] == pytest.approx(np.mean(FREE_LABELS), abs=0.05)
        assert found["accuracy"] == pytest.approx((45 + 5 * found["accuracy_1"]) / 50)

    def test_oracle_has_the_least_loss(self, task):
        """The logarithm of the ways to give 5 classes their labels, and nothing else."""
        batch = task.batch("test", 0, 200, 0)
        assert_close(task.loss(task.oracle(batch), batch) / 200, torch.tensor(math.log(120)), rtol=0.001, atol=0)


class TestEpisodes:
    def test_spec(self, task, root):
        assert task.spec == Spec("vectors", 405, 5)
        assert task_in(root, num_classes=3).spec == Spec("vectors", 403, 3)
        assert math.prod(task.picture_size) == PIXELS

    def test_of_a_drawing_one_label_is_right(self, task):
        """As in the loss: the cross-entropy of what pictures show."""
        batch, outputs = task.batch("test", 0, 2, 0), torch.randn(2, 50, 5)
        shown = task.probabilities(outputs)
        assert_close(-(batch.targets * shown.log()).sum(), task.loss(outputs, batch))

    @pytest.mark.parametrize("split", SPLITS)
    def test_each_class_is_shown_ten_times(self, task, split):
        batch = task.batch(split, 0, 7, 0)
        assert batch.inputs.shape == (7, 50, 405)
        assert batch.targets.sum(1).eq(10).all()
        assert batch.targets.sum(2).eq(1).all()
        for labels, groups in zip(batch.targets.argmax(-1), batch.groups, strict=True):
            for label in range(5):
                assert groups[labels == label].tolist() == list(range(1, 11))

    def test_the_label_comes_a_step_late(self, task):
        batch = task.batch("train", 0, 7, 0)
        assert batch.inputs[:, 0, PIXELS:].eq(0).all()
        assert batch.inputs[:, 1:, PIXELS:].equal(batch.targets[:, :-1])

    @pytest.mark.parametrize("split", SPLITS)
    def test_drawings_of_a_class_are_of_one_character_of_the_split(self, root, split):
        """Found by comparing pixels with every drawing there is; no drawing comes twice."""
        characters = read_characters(root, check_published=False)
        alphabets = {"validation": ["Tagalog"], "test": ["Japanese_(katakana)", "Sanskrit"]}
        images = torch.from_numpy(characters.images)
        batch = task_in(root, max_shift=0, max_turn=0.0).batch(split, 0, 4, 0)
        for drawings, labels in zip(batch.inputs[..., :PIXELS], batch.targets.argmax(-1), strict=True):
            found = [place_of(drawing, images, turned=split == "train") for drawing in drawings]
            assert len(set(found)) == 50
            of_label = {
                (int(label), character, view) for label, (character, _, view) in zip(labels, found, strict=True)
            }
            assert len(of_label) == len({character for _, character, _ in of_label}) == 5
            names = {characters.alphabets[character] for _, character, _ in of_label}
            assert names <= set(alphabets.get(split, ["Balinese", "Greek"]))

    def test_characters_labels_turns_and_mirrors_vary(self, root):
        images = torch.from_numpy(read_characters(root, check_published=False).images)
        batch = task_in(root, max_shift=0, max_turn=0.0).batch("train", 0, 64, 0)
        firsts = [place_of(drawing, images, turned=True) for drawing in batch.inputs[:, 0, :PIXELS]]
        assert len({character for character, _, _ in firsts}) > 6
        assert {view for _, _, view in firsts} == set(range(8))
        assert set(batch.targets[:, 0].argmax(-1).tolist()) == set(range(5))

    def test_shifts_reach_as_far_as_they_may(self, root):
        """Seen against what the same random numbers show unmoved: there a whole number of pixels further."""
        still, moved = (task_in(root, max_shift=shift, max_turn=0.0)._views(generator(), LABELS) for shift in (0, 2))
        pixels = (moved - still)[..., 2] * 10
        assert_close(pixels, pixels.round())
        assert set(pixels.round().flatten().tolist()) == {-2, -1, 0, 1, 2}

    def test_turns_are_as_wide_as_they_may_be(self, root):
        still, turned = (task_in(root, max_turn=turn)._views(generator(), LABELS)[..., :2] for turn in (0.0, 15.0))
        cosines = (still * turned).sum((-1, -2)) / 2
        degrees = torch.rad2deg(cosines.clamp(max=1).acos())
        assert degrees.max() <= 15 + 1e-3
        assert degrees.max() > 14
        assert degrees.min() < 1

    @pytest.mark.parametrize("view", range(8))
    def test_a_view_is_a_quarter_turn_of_a_mirror_image_or_none(self, view):
        drawing = torch.rand(20, 20)
        assert_close(seen(drawing, LAID[view]), laid(drawing, view))

    def test_a_shift_brings_in_paper(self):
        """Two pixels to the right are seen at the left, and a pixel below them above."""
        found = seen(torch.ones(20, 20), np.eye(2), right=2, down=1)
        assert_close(found, F.pad(torch.ones(19, 18), (0, 2, 0, 1)))

    def test_only_training_drawings_are_moved(self, root):
        still, moved = task_in(root, max_shift=0, max_turn=0.0), task_in(root)
        for split in ("validation", "test"):
            assert still.batch(split, 0, 2, 0).inputs.equal(moved.batch(split, 0, 2, 0).inputs)
        assert not still.batch("train", 0, 2, 0).inputs.equal(moved.batch("train", 0, 2, 0).inputs)

    def test_splits_draw_apart(self, task):
        """Training and test have as many characters here: shared random numbers would order episodes alike."""
        assert not task.batch("train", 0, 3, 0).targets.equal(task.batch("test", 0, 3, 0).targets)

    def test_a_batch_is_a_function_of_its_arguments(self, root):
        one, other = (task_in(root).batch("train", 5, 2, 7) for _ in range(2))
        assert one.inputs.equal(other.inputs)
        assert one.targets.equal(other.targets)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_classes": 1}, "num_classes must be at least 2, not 1"),
            ({"num_examples": 9}, "num_examples must be at least 10, not 9: accuracy_10 is of the 10th"),
            ({"max_shift": -1}, "max_shift must be 0 to 19 pixels, not -1"),
            ({"max_turn": -1.0}, "max_turn must be 0 to 45 degrees, not -1.0"),
            ({"max_turn": 46.0}, "max_turn must be 0 to 45 degrees, not 46.0"),
            ({"eval_episodes": 0}, "eval_episodes must be at least 1, not 0"),
            ({"test_alphabets": ("Greek", "Tagalog")}, r"\['Tagalog'\] are among validation_alphabets and test_alph"),
        ],
    )
    def test_settings_without_meaning(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Omniglot(**fields)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_classes": 7}, "validation has 6 characters: too few for task.num_classes=7"),
            ({"num_examples": 11}, "train has 10 drawings of each character: too few for task.num_examples=11"),
            ({"test_alphabets": ("Latin",)}, "no alphabet Latin for test: there are Balinese, Greek"),
            ({"validation_alphabets": ()}, "validation has 0 characters"),
            ({"test_alphabets": ("Balinese", "Greek", "Sanskrit", "Japanese_(katakana)")}, "train has 0 characters"),
        ],
    )
    def test_files_that_do_not_suffice(self, root, fields, message):
        with pytest.raises(DataError, match=message):
            _ = task_in(root, **fields).spec


LABELS = np.tile(np.arange(5), (8, 10))


def generator():
    return np.random.default_rng(0)


def seen(drawing, square, right=0, down=0):
    view = np.concatenate([square, [[right / 10], [down / 10]]], axis=1)
    return seen_through(drawing[None, None], torch.from_numpy(view).float()[None, None])[0, 0]


def laid(drawing, view):
    """One of the eight ways to lay a square on itself, in another's words: mirrored from 4 on, then turned."""
    return torch.rot90(drawing.flip(1) if view >= 4 else drawing, view % 4)


def place_of(drawing, images, turned):
    """The one (character, drawing, view) whose image this is."""
    found = []
    for view in range(8 if turned else 1):
        laid_images = torch.stack([laid(image, view) for image in images.flatten(0, 1)]).view_as(images)
        same = (laid_images.flatten(2) - drawing).abs().amax(-1) < 1e-4
        found += [(*place, view) for place in same.nonzero().tolist()]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def real():
    """The published archives. Where MEMNETS_DATA says that data is at hand they must be there; elsewhere we skip."""
    try:
        for archive in ARCHIVES:
            find_archive(data_root(None), archive)
    except DataError:
        if os.environ.get("MEMNETS_DATA"):
            raise
        pytest.skip("Omniglot is not at hand: point MEMNETS_DATA at the folder that holds it")
    return data_root(None)


class TestRealData:
    def test_the_published_characters(self, real):
        characters = read_characters(real)
        assert characters.images.shape == (242, 20, 20, 20)
        assert len(set(characters.alphabets)) == 8
        assert 0.05 < characters.images.mean() < 0.15
        assert (characters.images.max((2, 3)) > 0.4).all(), "a drawing without ink"

    def test_pixels_tell_some_of_a_drawing(self, real):
        """The nearest earlier drawing names a third of the second and two thirds of the tenth: more must be learned."""
        found = scores(Omniglot(data_root=str(real)))
        assert 0.25 < found["accuracy_2"] < 0.45
        assert 0.55 < found["accuracy_10"] < 0.75
