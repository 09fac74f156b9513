"""What a machine did on one sequence: as the model did it, as the file holds it, as the figures draw it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hydra.utils
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from test_figures import arrays_of, make_trace
from test_models import CONFIGS, build
from torch.nn.functional import softplus
from torch.testing import assert_close

from memnets.analysis.content import emitted, kept_in_use, links, memory, part_names, usage
from memnets.analysis.runs import RunError
from memnets.analysis.stepper import page_data, steps_page, unpack
from memnets.analysis.traces import read_trace
from memnets.models.base import trace, watch
from memnets.models.controller import FeedForwardController
from memnets.models.dnc import DNC
from memnets.models.ntm import NTM
from memnets.ops.backend import use_backend
from memnets.tasks.copy import Copy
from memnets.training import trace as written
from memnets.training.trace import write_trace

TASK = Copy(num_bits=3, max_length=4, eval_sequences=4)


def small_ntm(**changed):
    torch.manual_seed(0)
    return NTM(TASK.spec, memory_size=6, word_size=5, num_read_heads=2, **changed).eval()


@dataclass(frozen=True, kw_only=True)
class PicturedCopy(Copy):
    picture_size = (1, 3)


def with_everything(**changed):
    """A trace with all that any model can show."""
    random = np.random.default_rng(0)
    time, slots = 11, 16
    parts = {
        "memory": random.normal(size=(time, slots, 6)).astype(np.float32),
        "memory_slots": np.arange(slots),
        "usage": random.random((time, slots)).astype(np.float32),
        "link": random.random((time, slots, slots)).astype(np.float32),
        "emitted": {
            "strength": random.random((time, 2)).astype(np.float32),
            "shift": random.dirichlet(np.ones(3), (time, 2)).astype(np.float32),
            "allocation_gate": random.random((time, 1)).astype(np.float32),
            "read_modes": random.dirichlet(np.ones(3), (time, 1)).astype(np.float32),
            "link_sharpening": 1 + random.random((time, 1, 2)).astype(np.float32),
        },
    }
    return make_trace(**{**parts, **changed})


class TestWatching:
    @pytest.mark.parametrize("changed", [{}, {"controller": FeedForwardController}, {"recompute": True}])
    def test_what_heads_emit_is_what_the_controller_told_them(self, changed):
        model, inputs = small_ntm(**changed), TASK.batch("test", 0, 2, 0).inputs
        with torch.no_grad():
            outputs, states, shown = watch(model, inputs)
            expected, _ = trace(model, inputs)
            before = model.initial_state(2)
            for step, state in enumerate(states):
                seen = torch.cat([inputs[:, step], before.read_vectors.flatten(1)], dim=1)
                hidden, _ = model.cell.controller(seen, before.controller)
                told = model.cell.access.interface(hidden)[:, : 3 * (5 + 6)].reshape(2, 3, 5 + 6)
                assert_close(shown["strength"][step], softplus(told[:, :, 5]))
                assert_close(shown["gate"][step], told[:, :, 6].sigmoid())
                assert_close(shown["shift"][step], told[:, :, 7:10].softmax(-1))
                assert_close(shown["sharpening"][step], 1 + softplus(told[:, :, 10]))
                before = state
        assert_close(outputs, expected)
        assert not model.cell.access._forward_pre_hooks

    def test_a_named_kernel_is_watched_all_the_same(self):
        model, inputs = small_ntm(), TASK.batch("test", 0, 1, 0).inputs
        with torch.no_grad(), use_backend("reference"):
            _, _, expected = watch(model, inputs)
        with torch.no_grad(), use_backend("cpu"):
            _, _, shown = watch(model, inputs)
        assert list(shown) == ["strength", "gate", "shift", "sharpening"]
        assert_close(shown, expected)

    def test_hooks_go_when_a_step_fails(self):
        model = small_ntm()
        with pytest.raises(RuntimeError):
            watch(model, torch.zeros(1, 3, 99))
        assert not model.cell.access._forward_pre_hooks


class TestFile:
    def test_it_holds_what_the_model_did(self, tmp_path):
        model = small_ntm()
        path = write_trace(model, TASK, tmp_path, torch.device("cpu"))
        found = read_trace(path)
        inputs = written.longest_batch(TASK).inputs
        with torch.no_grad(), use_backend("reference"):
            outputs, states = trace(model, inputs)
        np.testing.assert_array_equal(found.inputs, inputs[0])
        np.testing.assert_array_equal(found.outputs, torch.sigmoid(outputs[0]))
        for name in ("memory", "read_weights", "write_weights"):
            expected = torch.stack([getattr(state.access, name)[0] for state in states])
            np.testing.assert_array_equal(getattr(found, name), expected)
        assert found.memory_slots.tolist() == list(range(6))
        assert found.usage is None
        assert found.link is None
        assert found.pictures is None
        assert list(found.emitted) == ["strength", "gate", "shift", "sharpening"]
        assert found.head_names("gate") == ["read head 1", "read head 2", "write head"]
        assert (found.emitted["sharpening"] >= 1).all()

    def test_what_inputs_begin_with_is_a_picture_where_the_task_says_so(self, tmp_path):
        """Copy's three bits and its mark, taken for a picture of one row and three columns beside one number."""
        plain = read_trace(write_trace(small_ntm(), TASK, tmp_path, torch.device("cpu")))
        task = PicturedCopy(num_bits=3, max_length=4, eval_sequences=4)
        found = read_trace(write_trace(small_ntm(), task, tmp_path, torch.device("cpu")))
        np.testing.assert_array_equal(found.pictures, plain.inputs[:, None, :3])
        np.testing.assert_array_equal(found.inputs, plain.inputs[:, 3:])
        np.testing.assert_array_equal(unpack(page_data(found)["arrays"]["pictures"]), found.pictures)
        np.testing.assert_allclose(found.emitted["shift"].sum(-1), 1, rtol=1e-5)

    @pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
    def test_every_model_shows_what_it_can(self, config, tmp_path):
        if "vectors" not in hydra.utils.get_class(OmegaConf.load(config)._target_).accepts:
            pytest.skip("reads no vectors")
        path = write_trace(build(config, "vectors"), TASK, tmp_path, torch.device("cpu"))
        if path is not None:
            found = read_trace(path)
            assert found.memory is not None
            assert "memory" in page_data(found)["arrays"]
            assert all(draw(found) is None or draw(found).axes for draw in (memory, links, usage, emitted))

    def test_classes_become_columns(self, tmp_path):
        batch = TASK.batch("test", 0, 1, 0)
        classes = replace(batch, targets=torch.arange(batch.mask.shape[1])[None] % 3)
        found = read_trace(written._write_heads(small_ntm(), TASK, classes, tmp_path / "trace.safetensors"))
        assert found.targets.argmax(-1).tolist() == classes.targets[0].tolist()
        np.testing.assert_allclose(found.outputs.sum(-1), 1, rtol=1e-5)

    def test_a_large_memory_keeps_the_slots_that_heads_weigh_most(self, tmp_path, monkeypatch):
        model = small_ntm()
        model.cell.access.start_logits.data = 3 * model.cell.access.start_logits.data.roll(3, dims=-1)
        whole = read_trace(write_trace(model, TASK, tmp_path, torch.device("cpu")))
        monkeypatch.setattr(written, "LIMIT", whole.num_steps * 5 * 2)
        part = read_trace(write_trace(model, TASK, tmp_path, torch.device("cpu")))
        greatest = whole.heads.max(axis=(0, 1))
        assert part.memory_slots.tolist() == sorted(np.argsort(greatest)[-2:]) != [0, 1]
        np.testing.assert_array_equal(part.memory, whole.memory[:, part.memory_slots])
        np.testing.assert_array_equal(part.read_weights, whole.read_weights)

    def test_sparse_weights_become_weights_over_slots(self):
        found = {
            "read_weights": [torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.0]])],
            "read_slots": [torch.tensor([[2, 0]]), torch.tensor([[3, 1]])],
            "write_weights": [torch.tensor([[1.0]]), torch.tensor([[0.5]])],
            "write_slots": [torch.tensor([[0]]), torch.tensor([[3]])],
            "memory": [torch.ones(1, 2), torch.ones(4, 2)],
        }
        weights = written._weights(found)
        assert weights["read_weights"].tolist() == [[[0.25, 0, 0.5, 0]], [[0, 0, 0, 1.0]]]
        memory = written._content(found, weights)["memory"]
        assert memory.sum(-1).tolist() == [[2, 0, 0, 0], [2, 2, 2, 2]]

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("memory_slots", lambda array: None),
            ("memory_slots", lambda array: array + 16),
            ("memory_slots", lambda array: array - 1),
            ("memory", lambda array: array[:, 1:]),
            ("memory", lambda array: array[1:]),
            ("link", lambda array: array[:, :, 1:]),
            ("usage", lambda array: array[:, 1:]),
            ("emitted.shift", lambda array: array[1:]),
            ("emitted.shift", lambda array: array[0, 0]),
            ("read_weights", lambda array: array[:, :, :0]),
            ("inputs", lambda array: array[0, 0]),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tmp_path, name, change):
        arrays = arrays_of(with_everything())
        changed = change(arrays.pop(name))
        if changed is not None:
            arrays[name] = np.ascontiguousarray(changed)
        save_file(arrays, tmp_path / "trace.safetensors")
        with pytest.raises(RunError, match=r"trace\.safetensors.*evaluate the run again"):
            read_trace(tmp_path / "trace.safetensors")

    def test_whose_an_emitted_part_is(self):
        found = with_everything()
        heads = {name: found.head_names(name) for name in found.emitted}
        assert heads["strength"] == ["read head", "write head"]
        assert heads["allocation_gate"] == ["write head"]
        assert heads["read_modes"] == heads["link_sharpening"] == ["read head"]


class TestFigures:
    def test_memory_is_drawn_at_moments_on_one_scale(self):
        found = with_everything()
        panels = memory(found).axes[:4]
        places, slots = kept_in_use(found)
        assert [axes.get_title(loc="left") for axes in panels] == [f"after step {step}" for step in (0, 3, 7, 10)]
        assert len({axes.images[0].get_clim() for axes in panels}) == 1
        np.testing.assert_array_equal(panels[2].images[0].get_array(), found.memory[7, slots])
        assert places.tolist() == slots.tolist()

    def test_links_and_usage(self):
        found = with_everything()
        _, slots = kept_in_use(found)
        shown = links(found).axes[2].images[0].get_array()
        np.testing.assert_array_equal(shown, found.link[10][np.ix_(slots, slots)])
        np.testing.assert_array_equal(usage(found).axes[0].images[0].get_array(), found.usage[:, slots].T)

    def test_lines_for_numbers_and_maps_for_distributions(self):
        panels = {axes.get_title(loc="left"): axes for axes in emitted(with_everything()).axes}
        assert len(panels["Strength"].lines) == 2
        assert len(panels["Link sharpening"].lines) == 2
        assert panels["Allocation gate"].get_ylim() == (-0.04, 1.04)
        labels = [label.get_text() for label in panels["Shift, write head"].get_yticklabels()]
        assert labels == ["-1", "0", "+1"]
        labels = [label.get_text() for label in panels["Read modes, read head"].get_yticklabels()]
        assert labels == ["backward", "content", "forward"]

    def test_what_is_not_there_is_not_drawn(self):
        assert [draw(make_trace()) for draw in (memory, links, usage, emitted)] == [None] * 4

    def test_one_step_of_one_slot(self):
        one = with_everything()
        first = {name: array[:1] for name, array in vars(one).items() if name in ("memory", "usage", "link")}
        small = make_trace(length=0, slots=16, **first, memory_slots=one.memory_slots)
        assert small.num_steps == 1
        assert memory(small) is not None
        assert links(small) is not None
        assert "{{" not in steps_page(small)

    def test_names_of_parts(self):
        assert part_names("shift", 5) == ["-2", "-1", "0", "+1", "+2"]
        assert part_names("read_modes", 2) == ["0", "1"]


def test_a_dnc_shows_usage_and_links(tmp_path):
    torch.manual_seed(0)
    model = DNC(TASK.spec, memory_size=6, word_size=5, num_read_heads=2)
    found = read_trace(write_trace(model, TASK, tmp_path, torch.device("cpu")))
    with torch.no_grad(), use_backend("reference"):
        _, states = trace(model, written.longest_batch(TASK).inputs)
    np.testing.assert_array_equal(found.usage, torch.stack([state.access.usage[0] for state in states]))
    np.testing.assert_array_equal(found.link, torch.stack([state.access.link[0] for state in states]))
    assert found.head_names("free_gates") == ["read head 1", "read head 2"]
    assert found.head_names("write_gate") == ["write head"]
    assert found.emitted["read_modes"].shape == (found.num_steps, 2, 3)
    assert {"usage", "link", "memory"} <= page_data(found)["arrays"].keys()
