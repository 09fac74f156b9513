"""The choice of backend, from the configuration down; and the build of a kernel."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from kernel_problems import Problem, Shape, kernel, problem

from memnets.config import check, compose, with_defaults
from memnets.identity import run_folder
from memnets.kernels import build
from memnets.launch import train
from memnets.ops import backend
from memnets.ops.backend import BackendError, current_backend, use_backend
from memnets.ops.erase_add import erase_add
from memnets.ops.ntm_sequence import ntm_sequence, ntm_sequence_reference
from memnets.training.run import DONE, FAILED, status_of

SMALL_NTM = (
    "model=ntm",
    "model.memory_size=4",
    "task.max_length=2",
    "task.eval_sequences=4",
    "task.test_lengths=[2]",
    "trainer.max_steps=2",
    "logger.progress=none",
)


TINY_FOR_THE_INTERPRETER = (
    "model.controller.hidden_size=3",
    "model.word_size=2",
    "trainer.batch_size=1",
    "trainer.eval_batch_size=1",
    "trainer.max_steps=1",
    "task.max_length=1",
    "task.eval_sequences=1",
    "task.test_lengths=[1]",
)


class TestBackend:
    def test_holds_until_the_end(self):
        with use_backend("reference"):
            with use_backend("cpu"):
                assert current_backend() == "cpu"
            assert current_backend() == "reference"
            with pytest.raises(ZeroDivisionError), use_backend("cpu"):
                raise ZeroDivisionError
            assert current_backend() == "reference"
        assert current_backend() == "auto"

    def test_unknown_name(self):
        unchecked = use_backend.__init__.__wrapped__  # under test, the annotation would refuse it first
        with pytest.raises(ValueError, match="one of auto, reference, cpu, triton, not 'cuda'"):
            unchecked(object.__new__(use_backend), "cuda")

    def test_a_named_backend_serves_or_says_why(self):
        given = problem()
        large = problem(Shape(batch=1, time=1, slots=700))
        with use_backend("triton"), pytest.raises(BackendError, match="memory of 700 x 6 doesn't fit the chip"):
            ntm_sequence(*large)
        with use_backend("cpu"), pytest.raises(BackendError, match="read_and_write has no kernel for it"):
            erase_add(given.state.memory, given.state.write_weights, *torch.rand(2, 3, 2, 6).double())
        elsewhere = Problem(given.inputs.to("meta"), *given[1:])
        with pytest.raises(BackendError, match="tensors are on meta, it runs on the CPU"):
            kernel(*elsewhere)
        with pytest.raises(BackendError, match="no sequence or no step"):
            kernel(given.inputs[:, :0], *given[1:])

    def test_auto_takes_the_kernel_where_it_serves(self):
        given = problem(dtype=torch.float32)
        assert ntm_sequence(*given)[0].equal(kernel(*given)[0])
        assert torch.func.vmap(lambda inputs: ntm_sequence(inputs, *given[1:])[0])(given.inputs[None]).isfinite().all()

    def test_without_a_compiler_one_warning_and_the_reference(self, no_compiler):
        given = problem()
        with pytest.warns(UserWarning, match=r"slower reference: no C\+\+ compiler"):
            features, _ = ntm_sequence(*given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ntm_sequence(*given)
        assert features.equal(ntm_sequence_reference(*given)[0])
        with pytest.raises(BackendError, match=r"no C\+\+ compiler was found: install"):
            kernel(*given)


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A machine on which nothing was built and nothing can be."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(backend, "_built", {})
    monkeypatch.setattr(backend, "_warned", set())
    monkeypatch.setattr(build, "load", build.load.__wrapped__)


class TestBuild:
    def test_processes_that_start_together_build_once(self, monkeypatch, tmp_path):
        script = tmp_path / "compiler"
        script.write_text(
            "#!/bin/sh\n"
            f"echo built >> {tmp_path}/log\nsleep 0.2\n"
            'while [ "$1" != -o ]; do shift; done\n'
            'exec g++ -shared -x c++ /dev/null -o "$2"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        threads = [threading.Thread(target=build.load.__wrapped__, args=("ntm_sequence",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "log").read_text() == "built\n"
        assert len(list((tmp_path / "memnets").glob("*.so"))) == 1

    def test_what_a_compiler_refuses_is_told(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CXX", "false")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        with pytest.raises(build.BuildError, match=r"refused ntm_sequence\.cpp"):
            build.load.__wrapped__("ntm_sequence")
        assert not list((tmp_path / "memnets").glob("*.so"))

    def test_the_name_holds_what_a_build_depends_on(self, monkeypatch):
        here = build.build_id("ntm_sequence")
        assert torch.__version__ in here
        monkeypatch.setattr(build, "_cpu", lambda: "another")
        assert build.build_id("ntm_sequence") != here


class TestConfiguration:
    @pytest.mark.parametrize("name", ["reference", "cpu", "triton", "auto"])
    def test_a_run_trains_with_it_and_leaves_nothing_behind(self, tmp_path, name):
        tiny = TINY_FOR_THE_INTERPRETER if name == "triton" else ()
        assert train(small_ntm(tmp_path, name, *tiny)) == DONE
        assert current_backend() == "auto"

    def test_a_run_whose_backend_cant_serve_fails_and_says_why(self, tmp_path):
        config = small_ntm(tmp_path, "triton", "model.memory_size=1000")
        assert train(config) == FAILED
        assert "backend 'triton' can't run ntm_sequence" in status_of(run_folder(config))["error"]


def small_ntm(folder, name, *overrides):
    config = compose([*SMALL_NTM, *overrides, f"runtime.runs_dir={folder}", f"runtime.backend={name}"]).config
    check(config)
    return with_defaults(config)
