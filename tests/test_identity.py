"""Which settings make another run, and how a run's configuration is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny import TINY, tiny_config

from memnets.check import ConfigError
from memnets.config import compose, load, with_defaults
from memnets.identity import identity, run_folder
from memnets.sweep import grid_points, plan, without_sweeps


class TestIdentity:
    def test_naming_a_default_is_the_same_run(self) -> None:
        assert run_folder(tiny_config("model.embedding_size=64")) == run_folder(tiny_config())

    @pytest.mark.parametrize("override", ["runtime.threads=2", "runtime.jobs=2", "logger.wandb=true"])
    def test_housekeeping_is_the_same_run(self, override: str) -> None:
        assert identity(tiny_config(override)) == identity(tiny_config())

    @pytest.mark.parametrize(
        "override", ["seed=1", "optim.lr=0.5", "runtime.deterministic=true", "runtime.backend=reference"]
    )
    def test_what_changes_a_result_is_another_run(self, override: str) -> None:
        assert identity(tiny_config(override)) != identity(tiny_config())

    def test_a_resolved_configuration_is_read_back_as_itself(self, tmp_path: Path) -> None:
        config = tiny_config()
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        assert load(tmp_path / "config.yaml") == config
        assert load(tmp_path / "config.yaml", ["task.max_length=9"])["task"]["max_length"] == 9
        with pytest.raises(ConfigError, match=r"did you mean task\.max_length"):
            load(tmp_path / "config.yaml", ["task.max_lengt=9"])

    def test_a_group_within_a_part_takes_the_place_of_what_was_there(self, tmp_path: Path) -> None:
        config = with_defaults(compose(["experiment=people_qa"]).config)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        assert config["task"]["relevance"].keys() == {"_target_", "first", "second"}
        changed = load(tmp_path / "config.yaml", ["task/relevance=bm25", "task/selection=top_3", "task.selection.k=4"])
        assert changed["task"]["relevance"] == {"_target_": "memnets.retrieval.lexical.BM25"}
        assert changed["task"]["selection"]["k"] == 4
        with pytest.raises(ConfigError, match=r"there is no 'bm52'.*bm25"):
            load(tmp_path / "config.yaml", ["task/relevance=bm52"])
        for refused in ("model=lstm", "~task.relevance", "task/relevance=bm25,dense"):
            with pytest.raises(ConfigError, match="only single values and groups within a part"):
                load(tmp_path / "config.yaml", [refused])

    def test_a_sweep_is_the_product_of_its_axes(self) -> None:
        overrides = [*TINY, "seed=0,1", "optim.lr=0.1,0.2,0.3"]
        points = grid_points(compose(without_sweeps(overrides)), overrides)
        assert len(points) == 6
        assert len({tuple(point) for point in points}) == 6
        assert len(plan(points)) == 6
