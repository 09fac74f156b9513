from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from run_folders import ATTENTION, ERRORS, one_group, write_run
from safetensors.numpy import save_file

from memnets.analysis.figures import RESOLUTION, curve, learning_curves, median_curve, png, save_figure
from memnets.analysis.groups import group_runs
from memnets.analysis.heatmaps import addressing
from memnets.analysis.report import draw_memory, draw_run, make_report, write_report
from memnets.analysis.runs import RunError, find_runs, read_run
from memnets.analysis.traces import Trace, read_trace, slots_in_use

ROOT = Path(__file__).resolve().parent.parent


def make_trace(length: int = 5, slots: int = 16, heads: int = 1, start: int = 3, **more) -> Trace:
    """Return what a solved copy looks like: heads that step through consecutive slots, round the end if need be."""
    random, time = np.random.default_rng(0), 2 * length + 1
    bits = random.integers(0, 2, (length, 4))
    inputs, targets, weights = np.zeros((time, 5)), np.zeros((time, 4)), np.zeros((2, time, heads, slots))
    inputs[:length, :4], inputs[length, 4], targets[length + 1 :] = bits, 1, bits
    for step in range(time):
        weights[0, step, :, (start + min(step, length)) % slots] = 1
        weights[1, step, :, (start + max(0, step - length - 1)) % slots] = 1
    needed = (array.astype(np.float32) for array in (inputs, targets, targets * 0.9, weights[1], weights[0]))
    return Trace(*needed, **more)


def arrays_of(trace: Trace) -> dict[str, np.ndarray]:
    """Return a trace as the tensors of its file."""
    arrays = {name: array for name, array in vars(trace).items() if isinstance(array, np.ndarray)}
    return arrays | {f"emitted.{name}": array for name, array in trace.emitted.items()}


def pixels(content: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(content), format="png")


class TestFigures:
    def test_learning_curves_have_their_size_and_something_on_them(self, tmp_path):
        folders = [write_run(tmp_path, seed=seed) for seed in ERRORS] + [write_run(tmp_path, name="lstm")]
        figure = learning_curves(group_runs([read_run(folder) for folder in folders]))
        path = save_figure(figure, tmp_path / "curves.png")
        shown = pixels(path.read_bytes())
        width, height = figure.get_size_inches()
        np.testing.assert_allclose(shown.shape[:2], [height * RESOLUTION, width * RESOLUTION], atol=1)
        assert shown[..., :3].std() > 0.02
        assert [path.name for path in tmp_path.glob("*.png")] == ["curves.png"]
        assert not list(tmp_path.glob(".*")), "the temporary file stayed"

    def test_each_run_is_a_thin_line_and_the_median_a_thick_one(self, tmp_path):
        group = one_group(*(write_run(tmp_path, seed=seed) for seed in ERRORS))
        axes = learning_curves([group], ["bit_errors"]).axes[0]
        thick = [line for line in axes.lines if line.get_linewidth() == 2.0]
        assert len(axes.lines) == 4
        assert len(thick) == 1
        values = np.array([curve(run, "train", "bit_errors")[1] for run in group.runs])
        np.testing.assert_array_equal(thick[0].get_ydata(), np.median(values, axis=0))
        np.testing.assert_array_equal(thick[0].get_xdata(), [1600, 3200, 4800, 6400])

    def test_a_run_that_has_ended_keeps_its_last_value_in_the_median(self):
        long, short = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0])
        x, y = median_curve([(long, np.array([8.0, 6.0, 4.0])), (short, np.array([4.0, 0.0]))])
        np.testing.assert_array_equal(x, long)
        np.testing.assert_array_equal(y, [6.0, 3.0, 2.0])

    @pytest.mark.parametrize(
        ("metric", "values", "scale"),
        [
            ("error", (1.0, 0.01), "log"),
            ("error", (1.0, 0.01, 0.0), "symlog"),
            ("error", (0.5, 0.4), "linear"),
            ("accuracy", (0.01, 1.0), "linear"),
        ],
    )
    def test_errors_over_decades_are_drawn_on_a_logarithmic_axis(self, tmp_path, metric, values, scale):
        folder = write_run(tmp_path)
        rows = [
            {"step": step, "sequences": step, "split": split, metric: value}
            for step, value in enumerate(values)
            for split in ("train", "validation")
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert learning_curves([one_group(folder)]).axes[0].get_yscale() == scale

    def test_nothing_to_draw_is_no_figure(self, tmp_path):
        folder = write_run(tmp_path)
        (folder / "metrics.jsonl").unlink()
        assert learning_curves([one_group(folder)]) is None

    def test_only_finished_runs_make_the_median(self, tmp_path):
        folders = [write_run(tmp_path, seed=seed, status="failed" if seed == 2 else "done") for seed in ERRORS]
        figure = learning_curves([one_group(*folders)], ["bit_errors"])
        (thick,) = (line for line in figure.axes[0].lines if line.get_linewidth() == 2.0)
        np.testing.assert_allclose(thick.get_ydata(), 40 / np.array([100, 200, 300, 400]) + 0.25)
        assert "median of 2 finished of 3 runs" in figure.legends[0].get_texts()[0].get_text()

    def test_global_settings_stay_as_they_were(self, monkeypatch):
        monkeypatch.setitem(matplotlib.rcParams, "font.size", 17.0)
        before = dict(matplotlib.rcParams)
        png(addressing(make_trace()))
        assert dict(matplotlib.rcParams) == before
        assert not re.search(r"\bpyplot\b", (ROOT / "memnets/analysis/figures.py").read_text())


class TestHeatMaps:
    @pytest.mark.parametrize("heads", [1, 2])
    def test_addressing_shows_every_head_over_the_same_time(self, heads):
        figure = addressing(make_trace(heads=heads))
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        named = [title for title in titles if title]
        assert len(named) == 3 + 2 * heads
        assert named[:3] == ["Inputs", "Targets", "Outputs"]
        assert named[3] == f"Write weights{', head 1' if heads > 1 else ''}: slots 2–9 of 16"
        assert {axes.get_xlim() for axes in figure.axes[: 3 + 2 * heads]} == {(-0.5, 10.5)}
        assert pixels(png(figure))[..., :3].std() > 0.1

    def test_the_weights_are_drawn_where_the_heads_were(self):
        trace = make_trace(heads=2)
        trace.read_weights[:, 1] = np.roll(trace.read_weights[:, 1], 4, axis=-1)
        panels = [axes.images[0].get_array() for axes in addressing(trace).axes[3:7]]
        shown = slice(2, 13)  # what the second read head alone touches is shown for every head
        drawn = [
            trace.write_weights[:, 0],
            trace.write_weights[:, 1],
            trace.read_weights[:, 0],
            trace.read_weights[:, 1],
        ]
        for panel, weights in zip(panels, drawn, strict=True):
            np.testing.assert_array_equal(panel, weights[:, shown].T)

    @pytest.mark.parametrize(
        ("used", "shown"),
        [
            ([3, 5], [2, 3, 4, 5, 6]),
            ([0, 1], [0, 1, 2]),
            ([8, 9], [7, 8, 9]),
            ([8, 9, 0, 1], [7, 8, 9, 0, 1, 2]),
            ([], list(range(10))),
            ([0, 2, 4, 6, 8], list(range(10))),
            (list(range(10)), list(range(10))),
        ],
    )
    def test_slots_in_use_are_one_stretch_of_the_ring(self, used, shown):
        weights = np.full((4, 1, 10), 0.001)
        weights[1, 0, used] = 0.9
        assert slots_in_use(weights).tolist() == shown

    def test_one_slot_is_a_memory_too(self):
        assert slots_in_use(np.ones((4, 1, 1))).tolist() == [0]

    def test_a_trace_is_read_as_it_was_written(self, tmp_path):
        trace = make_trace()
        save_file(arrays_of(trace), tmp_path / "trace.safetensors")
        for name, array in vars(read_trace(tmp_path / "trace.safetensors")).items():
            np.testing.assert_array_equal(array, getattr(trace, name))

    @pytest.mark.parametrize("fault", ["garbage", "missing", "rank", "time"])
    def test_a_bad_trace_is_named(self, tmp_path, fault):
        arrays = arrays_of(make_trace())
        if fault == "missing":
            del arrays["outputs"]
        if fault == "rank":
            arrays["read_weights"] = arrays["read_weights"][:, 0].copy()
        if fault == "time":
            arrays["inputs"] = arrays["inputs"][1:].copy()
        path = tmp_path / "trace.safetensors"
        save_file(arrays, path)
        if fault == "garbage":
            path.write_bytes(b"garbage")
        with pytest.raises(RunError, match=r"trace\.safetensors"):
            read_trace(path)

    def test_a_folder_without_traces_has_no_maps(self, tmp_path):
        assert draw_memory(tmp_path) == {}


class Page(HTMLParser):
    """Collects what a page refers to, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[bytes] = []
        self.open: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("src", "href", "srcset", "data", "action"):
                self.links.append(value)
            if tag == "img" and key == "src":
                self.pictures.append(base64.b64decode(value.partition("base64,")[2], validate=True))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


class TestReport:
    @pytest.fixture
    def runs(self, tmp_path):
        root = tmp_path / "runs"
        for seed in ERRORS:
            folder = write_run(root, seed=seed)
        save_file(arrays_of(make_trace()), folder / "trace.safetensors")
        other = write_run(root, name="memn2n", task={"_target_": "memnets.tasks.babi.Babi"})
        (other / "attention.json").write_text(json.dumps(ATTENTION))
        write_run(root, seed=7, status="failed", error="ValueError: <script>alert(1)</script>")
        (root / "junk").mkdir()
        return root

    def test_the_page_holds_everything_and_fetches_nothing(self, runs, tmp_path):
        path = write_report(make_report(*find_runs([runs / "*"])), tmp_path / "out")
        text = path.read_text()
        page = Page()
        page.feed(text)
        assert page.open == []
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
        assert not re.search(r"https?:|url\(|@import|<script|<link", text)
        files = {file.read_bytes() for file in (tmp_path / "out").glob("*.png")}
        assert set(page.pictures) == files
        assert len(files) == 4  # curves of two tasks, addressing, attention
        assert "<script>alert(1)</script>" in page.words
        for told in (
            "0.9 ± 1.2",
            "abcdef0",
            "experiment=ntm_copy seed=0,1,2",
            "memn2n",
            "not a run folder",
            "ntm_copy-0000000001",
            "model.memory",
        ):
            assert told in page.words, told

    def test_a_trace_that_cannot_be_drawn_is_told(self, runs, tmp_path):
        (next(runs.glob("ntm_copy-*2")) / "trace.safetensors").write_bytes(b"garbage")
        text = write_report(make_report(*find_runs([runs])), tmp_path / "out").read_text()
        assert "trace.safetensors is no trace" in text

    def test_no_finished_run_still_makes_a_page(self, tmp_path):
        folder = write_run(tmp_path / "runs", status="running")
        text = write_report(make_report(*find_runs([folder])), tmp_path / "out").read_text()
        assert "No run has finished yet" in text

    def test_a_runs_own_pictures(self, tmp_path):
        folder = write_run(tmp_path)
        save_file(arrays_of(make_trace()), folder / "trace.safetensors")
        assert [path.name for path in draw_run(folder)] == ["learning_curve.png", "addressing.png", "steps.html"]
        assert all(pixels(path.read_bytes()).std() > 0.02 for path in folder.glob("*.png"))
