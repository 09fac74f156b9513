"""Each kind of configuration fault has its line, its exit code, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import ROOT, TINY, script, tiny_config

from memnets.check import ConfigError, fits
from memnets.config import build, check, compose
from memnets.help import text
from memnets.overrides import GROUPS, choices

CONFIGS = ROOT / "configs"
MODELS = choices("model")


def refused(*overrides: str) -> list[str]:
    """The lines with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides).config)
    return str(caught.value).splitlines()


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "line"),
        [
            (["trainer.max_step=3"], "trainer.max_step: unknown key; did you mean trainer.max_steps?"),
            (["+trainer.max_step=3"], "trainer.max_step: unknown key; did you mean trainer.max_steps?"),
            (["++trainer.max_step=3"], "trainer.max_step: unknown key; did you mean trainer.max_steps?"),
            (["lr=0.1"], "lr: unknown key; did you mean optim.lr?"),
            (["modle=lstm"], "modle: unknown key; did you mean model?"),
            (["model.memory_siz=3"], "model.memory_siz: unknown key; did you mean model.memory_size?"),
            (["model.memory_size=big"], "model.memory_size: expected a whole number, not the text 'big'"),
            (["model.memory_size=1.5"], "model.memory_size: expected a whole number, not the number 1.5"),
            (["model.memory_size=true"], "model.memory_size: expected a whole number, not true"),
            (["trainer.compile=1"], "trainer.compile: expected true or false, not the number 1"),
            (["trainer.max_steps=null"], "trainer.max_steps: expected a whole number, not null"),
            (["trainer.max_steps=???"], "trainer.max_steps: missing: give it a value (a whole number)"),
            (["trainer.precision=half"], "trainer.precision: expected one of float32, bfloat16, not the text 'half'"),
            (["optim.lr=fast"], "optim.lr: expected a number or Tensor, not the text 'fast'"),
            (["~model"], "model: missing: choose one with model=NAME (" + ", ".join(MODELS) + ")"),
            (["~optim._target_"], "optim._target_: missing: name a class by its dotted path, not null"),
            (["~seed"], "seed: missing: give it a value (a whole number)"),
            (["model.controller.hidden=3"], "model.controller.hidden: unknown key"),
            (["model.addressing=5"], "model.addressing: expected Addressing or null, not the number 5"),
            (["model.addressing.shift.width=5"], "model.addressing.shift: a component needs _target_"),
            (["model._target_=memnets.models.ntm.NTMM"], "model._target_: memnets.models.ntm has no 'NTMM'"),
            (["model._target_=memnets.model.ntm.NTM"], "model._target_: cannot import 'memnets.model.ntm'"),
            (["model._target_=torch.optim.SGD"], "model._target_: expected a SequenceModel"),
            (["model=ntmm"], "model: there is no 'ntmm'; did you mean ntm?"),
            (["trainer"], "trainer: not an override; write key=value"),
            (["trainer.batch_size=0"], "trainer: batch_size must be at least 1, not 0"),
            (["trainer.schedule={_target_: torch.optim.SGD}"], "trainer.schedule: expected Schedule, not SGD"),
            (
                ["task=people_qa", "task.relevance={_target_: torch.optim.SGD}"],
                "task.relevance: expected Relevance, not SGD",
            ),
            (["task=people_qa", "task.encoder={_target_: torch.optim.SGD}"], "task.encoder: expected Encoder, not SGD"),
            (["task=people_qa", "task.memory={_target_: torch.optim.SGD, _partial_: true}"], "task.memory: expected "),
            (["task.max_length=0"], None),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_each_fault_has_its_line(self, overrides: list[str], line: str | None) -> None:
        if line is None:  # a constructor's own rule, found when it is built
            with pytest.raises(ConfigError, match="task: min_length and max_length must satisfy"):
                build(compose(overrides).config)
            return
        found = refused(*overrides)
        assert any(text.startswith(line) for text in found), found

    def test_all_faults_are_reported_at_once(self) -> None:
        found = refused("lr=3", "trainer.max_step=3", "model.word_size=wide", "seed=x")
        assert [line.partition(":")[0] for line in found] == ["lr", "model.word_size", "seed", "trainer.max_step"]

    def test_number_that_yaml_reads_as_text(self) -> None:
        config = compose([]).config
        config["optim"]["lr"] = "1e-3"
        with pytest.raises(ConfigError, match=r"write 1\.0e-03"):
            check(config)

    def test_experiment_without_its_package_line(self, tmp_path: Path) -> None:
        configs = tmp_path / "configs"
        (configs / "experiment").mkdir(parents=True)
        for group in ("model", "task", "optim", "sweep"):
            (configs / group).symlink_to(CONFIGS / group)
        (configs / "train.yaml").symlink_to(CONFIGS / "train.yaml")
        (configs / "experiment" / "lost.yaml").write_text("trainer:\n  max_steps: 3\n")
        with pytest.raises(ConfigError, match="must begin with '# @package _global_'"):
            check(compose(["experiment=lost"], configs).config)

    def test_a_model_that_cannot_read_the_task(self) -> None:
        if "memn2n" not in MODELS:
            pytest.fail("configs/model/memn2n.yaml is missing")
        with pytest.raises(ConfigError, match="MemN2N reads story, but the task gives vectors"):
            build(compose(["model=memn2n"]).config)

    def test_metric_of_another_task(self) -> None:
        stopping = "{_target_: memnets.training.settings.EarlyStopping, metric: bit_error}"
        with pytest.raises(
            ConfigError, match=r"early_stopping\.metric: Copy has no such metric; did you mean bit_erro"
        ):
            build(compose([f"trainer.early_stopping={stopping}"]).config)


class TestTypes:
    @pytest.mark.parametrize(
        ("value", "hint", "expected"),
        [
            (1, int, True),
            (True, int, False),
            (1.0, int, False),
            (1, float, True),
            (False, float, False),
            (None, int | None, True),
            ("1", int | None, False),
            ([1, 2], list[int], True),
            ([1, "2"], list[int], False),
            ([0.9, 0.99], tuple[float, float], True),
            ([0.9], tuple[float, float], False),
            ([1, 2, 3], tuple[int, ...], True),
            ({"a": 1}, dict[str, int], True),
            ({"a": "b"}, dict[str, int], False),
            (object(), Any, True),
            ("x", torch.Tensor, False),
        ],
    )
    def test_fits(self, value: Any, hint: Any, expected: bool) -> None:
        assert fits(value, hint) is expected


class TestCommandLine:
    def test_help_names_every_choice_and_every_closed_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert script("train").main(["--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.strip() == text().strip()
        for group in GROUPS:
            for name in choices(group):
                assert f"  {name}" in shown
        for key in ("trainer.max_steps=10000", "runtime.jobs=1", "logger.wandb=false"):
            assert key in shown

    def test_a_typo_exits_with_2_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert script("train").main(["trainer.max_step=3"]) == 2
        assert capsys.readouterr().err == "trainer.max_step: unknown key; did you mean trainer.max_steps?\n"
        assert list(tmp_path.iterdir()) == []

    def test_unknown_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert script("train").main(["--sweep"]) == 2
        assert "--sweep: no such option" in capsys.readouterr().err

    def test_a_sweep_without_its_flag(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert script("train").main(["seed=0,1"]) == 2
        assert "add -m" in capsys.readouterr().err

    def test_a_typo_in_one_point_of_a_sweep_stops_it_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert script("train").main(["-m", "seed=0,1", "model=lstm,ntm", "model.hidden_size=4"]) == 2
        told = capsys.readouterr().err
        assert told.startswith("model.hidden_size: unknown key")
        assert "[2 points, the first: seed=0 model=ntm" in told
        assert len(told.splitlines()) == 1

    def test_printing_the_configuration(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert script("train").main(["--cfg", *TINY]) == 0
        assert yaml.safe_load(capsys.readouterr().out) == tiny_config()

    def test_printing_every_point_of_a_sweep_trains_none(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert script("train").main(["-m", "--cfg", *TINY, f"runtime.runs_dir={tmp_path}", "seed=3,4"]) == 0
        first, second = yaml.safe_load_all(capsys.readouterr().out.replace("# ", "---\n# "))
        assert (first["seed"], second["seed"]) == (3, 4)
        assert not list(tmp_path.iterdir())


class TestListsOfComponents:
    """A node may hold several components: each is held against its own signature."""

    READING = ("model=span_reader", "task=squad")
    BM25 = "_target_: memnets.retrieval.lexical.BM25"

    def test_good_ones_are_accepted(self) -> None:
        check(compose([*self.READING, f"task.test_relevances=[{{{self.BM25}, k1: 2.0}}]"]).config)

    @pytest.mark.parametrize(
        ("item", "line"),
        [
            (
                f"{{{BM25}, kk1: 2.0}}",
                "task.test_relevances[0].kk1: unknown key; did you mean task.test_relevances[0].k1?",
            ),
            ("{_target_: memnets.retrieval.selection.TopK}", "task.test_relevances[0]: expected Relevance, not TopK"),
            ("{k1: 2.0}", "task.test_relevances[0]: a component needs _target_ (expected Relevance)"),
            ("5", "task.test_relevances[0]: expected Relevance, not the number 5"),
        ],
    )
    def test_faults_are_named(self, item: str, line: str) -> None:
        assert any(own.startswith(line) for own in refused(*self.READING, f"task.test_relevances=[{item}]"))
