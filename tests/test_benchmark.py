"""The benchmark: what it times and counts, the rows it prints and records, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tiny import script

from memnets.analysis.kernels import KERNELS, MEMORY, TIME, KernelRecord, render_kernels
from memnets.analysis.measured import read_measured
from memnets.benchmark import cases as cases_to_time
from memnets.benchmark import counting, stories, timing
from memnets.benchmark import measure as measuring
from memnets.benchmark.cases import OWN_SIZES, names, problem, sizes_of
from memnets.benchmark.counting import Traffic, kept_bytes, kernel_bytes, matrix_flops, unmeasured_bytes
from memnets.benchmark.steps import STEPS
from memnets.benchmark.stories import MEMN2N_SIZES, STORY_STEPS
from memnets.benchmark.table import show
from memnets.benchmark.timing import Seconds, in_turns, threads
from memnets.ops.backend import current_backend, use_backend
from memnets.ops.cases import OPS, Op, cases
from memnets.ops.draw import Sizes
from memnets.ops.erase_add import read_and_write, read_and_write_reference

FIRST = ["case", "batch", "threads", "reference_ms", "kernel_ms", "ratio", "gflops", "percent_of_peak"]
FLOAT = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    monkeypatch.setitem(timing.PEAK_SIZE, "cpu", 64)
    monkeypatch.setitem(timing.COPY_NUMBERS, "cpu", 4096)


def printed(capsys, *words):
    """The rows of a command that names its cases."""
    assert script("benchmark").main(["seconds=0.01", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def row(**changes) -> KernelRecord:
    values = dict.fromkeys(KernelRecord.__dataclass_fields__, 1.5) | dict.fromkeys(
        ["batch", "threads", "heads", "slots", "word", "time"], 2
    )
    text = {
        "case": "read",
        "kernel": "cpu",
        "device": "cpu (A(R) B Processor)",
        "torch": "2",
        "command": "c",
        "commit": "abc",
    }
    return KernelRecord(**values | text | {"date": "2025-01-02"} | changes)


class TestScript:
    def test_ends_with_one_line_per_batch(self, capsys):
        rows = printed(capsys, "case=ntm_step", "batch=1,2", "time=3")
        assert [row["batch"] for row in rows] == [1, 2]
        for row in rows:
            assert list(row)[: len(FIRST)] == FIRST
            assert row["ratio"] == pytest.approx(row["reference_ms"] / row["kernel_ms"], rel=0.01)
            assert row["percent_of_peak"] > 0
            assert row["kernel"] == "cpu"
            assert row["fewest_mb"] < row["kernel_mb"] < row["reference_mb"]
            assert 0 < row["kept_kb"] < row["reference_kept_kb"]

    def test_sizes_are_chosen(self, capsys):
        rows = printed(capsys, "case=ntm_step", "batch=1", "time=2,4", "slots=8,16")
        assert [(row["time"], row["slots"]) for row in rows] == [(2, 8), (2, 16), (4, 8), (4, 16)]
        assert [row["kept_kb"] for row in rows[:2]] < [row["kept_kb"] for row in rows[1:3]]

    def test_memory_networks_are_timed_on_three_tasks_stories(self, capsys):
        assert script("benchmark").main(["seconds=0.01", "case=memn2n_step,memn2n_ten_step"]) == 0
        out, err = capsys.readouterr()
        rows = [json.loads(line) for line in out.splitlines()]
        assert [(row["slots"], row["time"]) for row in rows] == 2 * [(each.slots, each.time) for each in MEMN2N_SIZES]
        assert {row["kernel"] for row in rows} == {"cpu"}
        for i, row in enumerate(rows):
            rate = (32 if i < 3 else 320) / row["kernel_ms"] * 1e3
            assert f"sequences per second: cpu {rate:,.0f}, reference " in err

    def test_a_sparse_memory_costs_the_same_at_any_size(self, capsys):
        """What it keeps and moves; a time would depend on the machine."""
        rows = printed(capsys, "case=sam_step", "batch=2", "time=5", "slots=1024,1048576")
        assert rows[0]["kernel"] == "cpu"
        for counted in ("reference_mb", "kernel_mb", "reference_kept_kb", "kept_kb"):
            assert rows[1][counted] == rows[0][counted]

    def test_a_long_name_of_a_device_breaks_no_word(self, capsys):
        show([row(device=f"cpu ({50 * 'long '}name, AVX512)", reference_ms=123456.7)])
        table = capsys.readouterr().out
        assert all(name in table for name in [*TIME, *MEMORY])

    def test_without_a_case_a_table_of_all(self, capsys, tmp_path):
        words = ["batch=1", "slots=8", "time=2", "seconds=0.001", f"csv={tmp_path / KERNELS}"]
        assert script("benchmark").main(words) == 0
        table = capsys.readouterr().out
        assert all(name in table for name in names())
        assert all(name in table for name in [*TIME, *MEMORY])
        rows = read_measured(tmp_path / KERNELS, KernelRecord)
        assert {row.case for row in rows} == {*STEPS, *STORY_STEPS, *OPS}
        assert {row.word for row in rows} == {sizes.word for name in names() for sizes in sizes_of(name)}
        kernels = {row.case for row in rows if row.case in OPS and row.kernel != "-"}
        assert kernels == OWN_SIZES.keys(), "Triton's interpreter is no kernel to time"

    def test_a_search_of_many_slots_is_timed_without_its_reference(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setattr(cases_to_time, "MOST_SCORES", 512 * 40)
        words = ["case=topk_address", "slots=40,41", "batch=1", "seconds=0.01", f"csv={tmp_path / KERNELS}"]
        assert script("benchmark").main(words) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        searches = [row for row in rows if row["time"] == 512]
        assert [row["reference_ms"] is None for row in searches] == [False, True]
        for row in searches:
            assert row["kernel"] == "cpu"
            assert row["kernel_ms"] > 0
            assert row["gflops"] > 0
        rows = read_measured(tmp_path / KERNELS, KernelRecord)
        assert [row.reference_mb is None for row in rows if row.time == 512] == [
            False,
            True,
        ]

    def test_torch_compile_is_a_column(self, capsys, monkeypatch):
        compiled = []
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function) or function)
        with_it, without = (printed(capsys, "case=read", "batch=1", *words)[0] for words in (["compile=true"], []))
        assert set(compiled) == {OPS["read"].function}
        assert with_it["compile_ms"] > 0
        assert with_it["compile_s"] >= 0
        assert without["compile_ms"] is without["compile_s"] is None

    @pytest.mark.parametrize(
        "word",
        ["bach=1", "case=dnc", "batch=x", "slots=0", "time=-1", "seconds=x", "compile=1", "device=tpu", "here", "csv="],
    )
    def test_refuses_what_it_doesnt_know(self, word, capsys):
        assert script("benchmark").main([word]) == 2
        assert "error: " in capsys.readouterr().err

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_refuses_a_gpu_that_isnt_there(self, capsys):
        assert script("benchmark").main(["device=cuda"]) == 2
        assert "torch finds no GPU" in capsys.readouterr().err

    def test_a_csv_of_something_else_is_left_alone(self, capsys, tmp_path):
        (tmp_path / "a.csv").write_text("a,b\n1,2\n")
        assert script("benchmark").main(["case=read", f"csv={tmp_path / 'a.csv'}"]) == 1
        assert "expected the columns" in capsys.readouterr().err
        assert (tmp_path / "a.csv").read_text() == "a,b\n1,2\n"


class TestCases:
    def test_a_new_op_needs_no_list(self, monkeypatch):
        op = Op(lambda values: values * 2, {"": lambda draw: {"values": draw.normal("batch", "slots")}})
        monkeypatch.setitem(OPS, "made_up", op)
        (made,) = (problem("made_up", sizes) for sizes in sizes_of("made_up", slots=[3], batch=[5])[:1])
        made.step()
        assert "made_up" in names()
        assert made.sizes.time == 1, "it has no such axis"
        assert made.fewest_bytes == 4 * 5 * 3 * FLOAT, "argument, result, and the gradient of either"

    def test_stories_are_as_long_as_babis(self):
        """Sentences told, and words of a sentence: 6, 16 and 38 in tasks 1 to 3, and 5."""
        told, words = [], []
        for sizes in MEMN2N_SIZES:
            torch.manual_seed(0)
            story = stories._batch(replace(sizes, batch=2000), sizes.slots)[0].story
            told.append((story != 0).any(-1).sum(1).double().mean().item())
            words.append((story != 0).sum().item() / (story != 0).any(-1).sum().item())
        assert told == pytest.approx([5.9, 15.6, 38.4], abs=0.7)
        assert words == pytest.approx([5, 5, 5], abs=0.1)

    @pytest.mark.parametrize("name", names())
    def test_runs_forward_and_backward(self, name):
        made = problem(name, replace(sizes_of(name)[0], batch=2, slots=5, time=2))
        with Traffic() as traffic:
            made.step()
        assert traffic.bytes > 0
        assert made.fewest_bytes > 0


class TestCounting:
    def test_views_and_memory_set_aside_are_free(self):
        values = torch.rand(6, 4)
        with Traffic() as traffic:
            values.t().reshape(2, 2, 6)[0].unbind(0)
            torch.ops.aten._unsafe_view(values, [24])
            torch.empty_like(values)
        assert traffic.bytes == 0

    def test_reads_and_writes(self):
        one, two = torch.rand(2, 6, 4)
        size = 24 * FLOAT
        for step, expected in [
            (lambda: one + two, 3 * size),
            (lambda: one * one, 2 * size),
            (lambda: one.add_(two), 3 * size),
            (lambda: torch.add(one, two, out=torch.empty(6, 4)), 4 * size),
            (lambda: one[:2] * 2, 2 * 8 * FLOAT),
            (lambda: torch.ones(1).expand(6, 4) + one, 2 * size + 2 * FLOAT),
            (lambda: torch._foreach_add_([one, two], 1), 4 * size),
        ]:
            with Traffic() as traffic:
                step()
            assert traffic.bytes == expected

    def test_backward_is_counted(self):
        values = torch.rand(6, requires_grad=True)
        gradient = torch.ones(6)
        with Traffic() as traffic:
            torch.autograd.grad(torch.sigmoid(values), values, gradient)
        assert traffic.bytes == (2 + 3) * 6 * FLOAT

    def test_a_kernel_on_the_cpu_counts_its_arguments_and_results(self):
        made = problem("ntm_step", Sizes(batch=2, heads=2, slots=8, word=20, time=3))
        counted = kernel_bytes(made.step, "cpu")
        assert counted is not None
        assert counted.backend == "cpu"
        # What is kept is written and read again.
        assert counted.bytes > 2 * kept_bytes(made.step, made.owned)
        assert counted.bytes < counting.reference_bytes(made.step)

    def test_a_triton_kernel_counts_its_launches(self):
        """Of read_and_write: what it's called with, and the sums over partial results afterwards."""
        sizes = Sizes(batch=2, heads=3, slots=300, word=16)
        made = problem("read_and_write", sizes)
        memory, weights, heads = 2 * 300 * 16, 2 * 3 * 300, 2 * 3 * 16
        parts = 5 * heads  # of blocks of 64 slots
        forward = 2 * memory + 2 * weights + 2 * heads + parts
        backward = 3 * memory + 4 * weights + 3 * heads + 2 * parts
        sums = 3 * (parts + heads)
        assert unmeasured_bytes(made.step) == (forward + backward + sums) * FLOAT

    def test_no_kernel_no_bytes(self):
        made = problem("interpolate", sizes_of("interpolate", batch=[2])[0])
        assert kernel_bytes(made.step, "cpu") is None

    def test_what_autograd_keeps(self):
        weight, values = torch.rand(5, 5, requires_grad=True), torch.rand(3, 5)

        def step():
            hidden = torch.sigmoid(F.linear(values, weight))
            (hidden * hidden.t().t()).sum().backward()

        assert kept_bytes(step, (weight, values)) == 15 * FLOAT, "the sigmoid's result, once"
        assert kept_bytes(step, (weight,)) == 30 * FLOAT

    def test_arithmetic_of_matrix_products(self):
        left, right = torch.rand(3, 4, requires_grad=True), torch.rand(4, 5, requires_grad=True)
        assert matrix_flops(lambda: (left @ right).sum().backward()) == 3 * 2 * 3 * 4 * 5
        assert matrix_flops(lambda: left.exp().sum()) is None

    def test_recorded_launches_can_run_too(self):
        launch = pytest.importorskip("memnets.kernels.triton.launch")
        arguments = next(cases("read_and_write")).arguments(torch.float64, DEVICE)
        expected = read_and_write_reference(**arguments)
        with use_backend("triton"), launch.recorded(run=True) as launches:
            results = read_and_write(**arguments)
        assert len(launches) == 1
        for got, want in zip(results, expected, strict=True):
            torch.testing.assert_close(got, want)


class TestTiming:
    def test_in_turns(self):
        calls = []
        times = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 0.2, "cpu")
        changes = sum(one != two for one, two in pairwise(calls))
        assert changes >= 5, "they take turns"
        assert all(0 < each.best <= each.median for each in times.values())

    def test_on_a_gpu_triton_times(self, monkeypatch):
        testing = pytest.importorskip("triton.testing")
        monkeypatch.setattr(testing, "do_bench", lambda run, warmup, rep, quantiles: [2.0, 4.0, 9.0])
        times = in_turns({"a": lambda: None}, 0.001, "cuda")
        assert times["a"] == pytest.approx((0.002, 0.004))

    def test_threads_hold_until_the_end(self):
        before = torch.get_num_threads()
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before


class TestMeasure:
    @pytest.fixture
    def made(self, monkeypatch):
        """A training step that notes the backend it runs on, in one round."""
        seen = []
        made = problem("ntm_step", Sizes(batch=2, heads=2, slots=8, word=20, time=3))
        noting = replace(made, step=lambda: (seen.append(current_backend()), made.step()))
        monkeypatch.setattr(measuring, "problem", lambda case, sizes, device: noting)
        self.turns = {}

        def once(turns, seconds, device):
            for name, run in turns.items():
                seen.clear()
                run()
                self.turns[name] = list(seen)
            return dict.fromkeys(turns, Seconds(0.5, 1.0))

        monkeypatch.setattr(measuring, "in_turns", once)
        return made

    def test_each_turn_has_its_backend(self, made):
        measuring.measure("ntm_step", made.sizes, 1, 0.0, "cpu", False, measuring.provenance("cpu"))
        assert self.turns == {"reference": ["reference"], "kernel": ["auto"], "peak": [], "copy": []}

    def test_rates_and_units(self, made):
        row = measuring.measure("ntm_step", made.sizes, 1, 0.0, "cpu", False, measuring.provenance("cpu"))
        assert (row.reference_ms, row.kernel_ms, row.kernel_median_ms, row.ratio) == (500, 500, 1000, 1)
        assert row.gflops == pytest.approx(made.flops / 0.5e9, rel=1e-3)
        assert row.percent_of_peak == pytest.approx(100 * made.flops / (2 * 64**3), rel=1e-3)
        assert row.gb_per_s == pytest.approx(made.fewest_bytes / 0.5e9, rel=1e-3)
        assert row.percent_of_copy == pytest.approx(100 * made.fewest_bytes / (8 * 4096), rel=1e-3)
        with use_backend("reference"):
            kept = kept_bytes(made.step, made.owned)
        assert row.reference_kept_kb == pytest.approx(kept / (2 * 3) / 1e3, rel=1e-3)


class TestRecords:
    def test_the_table_in_full(self):
        cpu = row(kernel_ms=None, ratio=None, kernel="-", compile_ms=1234.5)
        text = render_kernels([cpu, replace(cpu, threads=1)])
        time, memory, told = text.split("\n\n")
        assert time.splitlines()[2:] == [
            "| read | 2 | 2 | 2 | 2 | 2 | A B, 2 threads | 1.5 | 1,234 | 1.5 | - | - | 1.5 | 1.5 | 1.5 | 1.5 |",
            "| read | 2 | 2 | 2 | 2 | 2 | A B, 1 thread | 1.5 | 1,234 | 1.5 | - | - | 1.5 | 1.5 | 1.5 | 1.5 |",
        ]
        assert memory.splitlines()[2:] == ["| read | 2 | 2 | 2 | 2 | 2 | triton | 1.5 | 1.5 | 1.5 | 1.5 | 1.5 |"]
        assert "peak 1.5 GFLOP/s, copy 1.5 GB/s: `c` at abc, 2025-01-02" in told
        assert told.endswith("- GPU: not measured on a GPU")

    def test_a_gpu_that_ran_is_told(self):
        text = render_kernels([row(), row(device="A GPU", kernel="triton")])
        assert "not measured on a GPU" not in text
        assert "| A GPU |" in text
