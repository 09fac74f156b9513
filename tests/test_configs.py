"""Every configuration file composes, is checked, builds and takes two steps."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from babi_example import write_babi
from bert_example import write_bert
from family_example import write_family
from hydra.utils import get_class, instantiate
from omniglot_example import write_omniglot
from squad_example import write_squad
from text_example import write_text
from tiers import but_for_long
from tiny import FEW_PEOPLE, ROOT
from wn18rr_example import write_wn18rr

from memnets.check import ConfigError
from memnets.config import build, check, compose, with_defaults
from memnets.contracts import Spec
from memnets.models.base import SequenceModel
from memnets.overrides import choices
from memnets.retrieval.pretrained_encoder import ENCODERS, PretrainedEncoder
from memnets.sweep import grid_points, plan

CONFIGS = ROOT / "configs"
STANDALONE = sorted(path for group in ("model", "task") for path in (CONFIGS / group).glob("**/*.yaml"))
PARTS = [(f"task/{part}", name) for part in ("encoder", "relevance", "selection") for name in choices(f"task/{part}")]
MODELS, TASKS, EXPERIMENTS, SWEEPS = (choices(group) for group in ("model", "task", "experiment", "sweep"))


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All twenty bAbI tasks, an Omniglot, a text, a family, a WordNet and a SQuAD, tiny."""
    root = tmp_path_factory.mktemp("data")
    for number in range(1, 21):
        write_babi(root, number)
        write_babi(root, number, folder="en-10k")
    return write_squad(write_wn18rr(write_family(write_text(write_omniglot(root)))))


@pytest.fixture
def small_data(tiny_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny files, and no others."""
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return tiny_files


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    """What is composed; for all tests, so not to be changed."""
    return compose(overrides).config


def use_small_data(config: dict[str, Any], root: Path) -> None:
    """Point a task that reads files, or those it is a mixture of, at the small ones; of people, let it draw few."""
    for task in [config["task"], *(node for node in config["task"].values() if isinstance(node, dict))]:
        defaults = with_defaults({"task": task})["task"]
        if "data_root" in defaults:
            task |= {"data_root": str(root), "verify_checksum": False}
        if "num_people" in defaults:
            task |= {key: few for key, few in FEW_PEOPLE.items() if key not in task}


def two_steps(config: dict[str, Any]) -> None:
    """Build and take two optimizer steps, as the trainer does; every weight that gets a gradient is finite after."""
    experiment = build(config)
    optimizer = experiment.make_optimizer(experiment.model.parameters())
    for index in range(2):
        batch = experiment.task.batch("train", index, 2, experiment.seed)
        outputs, _ = experiment.model(batch.inputs)
        optimizer.zero_grad()
        (experiment.task.loss(outputs, batch) / batch.mask.sum()).backward()
        optimizer.step()
    assert all(weight.isfinite().all() for weight in experiment.model.parameters())


def pair(model: str, task: str, root: Path) -> dict[str, Any]:
    """The configuration of a model on a task, which reads small files."""
    accepts = class_of(model).accepts
    view = [f"task.view={'story' if 'story' in accepts else 'tokens'}"] if task == "babi" else []
    parts = {"model": composed(f"model={model}")["model"], "task": composed(f"task={task}", *view)["task"]}
    config = copy.deepcopy(composed() | parts)
    use_small_data(config, root)
    return config


def class_of(model: str) -> type[SequenceModel]:
    return get_class(composed(f"model={model}")["model"]["_target_"])  # type: ignore[return-value]


@functools.cache
def spec_of(task: str, view: str, root: Path) -> Spec:
    """What a task gives to read; built once for all models."""
    return instantiate(pair("memn2n" if view == "story" else "lstm", task, root)["task"], _convert_="all").spec


def why_refused(model: str, task: str, root: Path) -> str | None:
    """What a model that can't read a task's inputs says; None if it can."""
    reader = class_of(model)
    spec = spec_of(task, "story" if "story" in reader.accepts else "tokens", root)
    if spec.kind not in reader.accepts or set(spec.heads) - reader.can_answer:
        return r"model: .* reads "
    needs = {"reader_pointer": spec.answer_tokens, "reader_knn": spec.has_values}  # to copy, or count votes
    return None if needs.get(model, True) else r"model: .* the task's (memory gives|have) none"


def covering(points: list[list[str]], kind: Callable[[str], str] = str) -> list[list[str]]:
    """Points with a word of a kind that no point before has."""
    used: set[str] = set()
    found = []
    for point in points:
        if not used.issuperset(kinds := {kind(word) for word in point}):
            found.append(point)
            used |= kinds
    return found


def number_alike(word: str) -> str:
    """An override, whichever number it gives."""
    return re.sub(r"=[-+.\de]+$", "=number", word)


class TestEveryFile:
    @pytest.mark.parametrize("model", MODELS)
    def test_every_model_runs_a_task_that_it_reads(self, model: str, small_data: Path) -> None:
        two_steps(pair(model, next(task for task in TASKS if not why_refused(model, task, small_data)), small_data))

    @pytest.mark.parametrize("task", TASKS)
    def test_every_task_is_read_by_a_model(self, task: str, small_data: Path) -> None:
        two_steps(pair(next(model for model in MODELS if not why_refused(model, task, small_data)), task, small_data))

    @pytest.mark.parametrize("model", but_for_long(MODELS, "lstm".__eq__))
    @pytest.mark.parametrize("task", TASKS)
    def test_every_model_runs_every_task_it_reads_and_refuses_others(
        self, model: str, task: str, small_data: Path
    ) -> None:
        config = pair(model, task, small_data)
        check(config)
        refusal = why_refused(model, task, small_data)
        if refusal is None:
            two_steps(config)
        else:
            with pytest.raises(ConfigError, match=refusal):
                build(config)

    @pytest.mark.parametrize("experiment", EXPERIMENTS)
    def test_every_experiment_takes_two_steps(self, experiment: str, small_data: Path) -> None:
        config = compose([f"experiment={experiment}"]).config
        use_small_data(config, small_data)
        check(config)
        assert config["name"] == experiment, "an experiment's name is its file's"
        two_steps(config)

    @pytest.mark.parametrize(("part", "name"), PARTS)
    def test_every_choice_of_retrieval_takes_two_steps(
        self, part: str, name: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if name == "approximate":
            pytest.importorskip("faiss")
        if name == "minilm":
            write_bert(tmp_path / ENCODERS / PretrainedEncoder().name, positions=512)
            monkeypatch.setenv("MEMNETS_DATA", str(tmp_path))
        config = compose(["experiment=people_qa", f"{part}={name}"]).config
        use_small_data(config, small_data)
        check(config)
        chosen = yaml.safe_load((CONFIGS / part / f"{name}.yaml").read_text())
        assert config["task"][part.removeprefix("task/")]["_target_"] == chosen["_target_"]
        two_steps(config)

    @pytest.mark.parametrize("points", but_for_long(["some", "all"], lambda points: points == "some"))
    @pytest.mark.parametrize("sweep", SWEEPS)
    def test_points_of_every_sweep_take_two_steps(
        self, sweep: str, points: str, small_data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some: every value of each axis is composed and checked; two steps are taken with its names, and a number."""
        overrides = [f"sweep={sweep}", "seed=0"]
        grid = grid_points(compose(overrides), overrides)
        assert len(compose([f"sweep={sweep}"]).grid) > 1
        jobs = [job.overrides for job in plan(grid if points == "all" else covering(grid))]
        assert jobs
        if any("=minilm" in word for job in jobs for word in job):
            write_bert(small_data / ENCODERS / PretrainedEncoder().name, positions=512)
            monkeypatch.setenv("MEMNETS_DATA", str(small_data))
        for job in jobs if points == "all" else covering(jobs, number_alike):
            if {word.partition("=")[0] for word in job} <= {"experiment", "seed", "sweep"}:
                continue  # an experiment as its file says: the test above runs it
            config = compose(job).config
            use_small_data(config, small_data)
            two_steps(config)

    @pytest.mark.parametrize("path", STANDALONE, ids=lambda path: str(path.relative_to(CONFIGS)))
    def test_files_say_only_what_differs_from_the_default(self, path: Path) -> None:
        node = yaml.safe_load(path.read_text())
        assert "_target_" in node
        bare = {"_target_": node["_target_"]}
        kept = [k for k, v in with_defaults({"node": bare})["node"].items() if k in node and node[k] == v]
        assert kept == ["_target_"], f"{path.name} repeats defaults: {kept[1:]}"
