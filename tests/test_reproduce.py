"""One command behind a table: which sweeps it runs, and what it leaves."""

from __future__ import annotations

import json
import shlex
import sys

import pytest
from run_folders import write_run
from tiers import but_for_long
from tiny import ROOT, script

from memnets.analysis.runs import find_runs, flatten
from memnets.config import compose
from memnets.overrides import choices
from memnets.sweep import grid_points, plan, without_sweeps

SETS = [name for name in choices("sweep") if not any(name.startswith(f"{other}_") for other in choices("sweep"))]


class TestReproduce:
    @pytest.mark.parametrize("name", SETS)
    def test_every_set_lists_a_command_per_sweep(self, name, capsys):
        assert script("reproduce").main([f"set={name}", "--list"]) == 0
        commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
        sweeps = [word.partition("=")[2] for command in commands for word in command if word.startswith("sweep=")]
        assert sweeps == [sweep for sweep in sorted(choices("sweep")) if sweep == name or sweep.startswith(f"{name}_")]

    @pytest.mark.parametrize("name", but_for_long(SETS, lambda name: name not in ("memn2n_babi", "ntm", "people_qa")))
    def test_quick_is_one_seed_of_each_experiment(self, name, capsys):
        assert script("reproduce").main([f"set={name}", "--list", "--quick"]) == 0
        for line in capsys.readouterr().out.splitlines():
            words = shlex.split(line)[3:]
            plan(grid_points(compose(without_sweeps(words)), words))
            assert {"seed=0", "trainer.max_steps=300", "trainer.num_replicas=1"} < set(words)
            assert ("task.number=1,2,4" in words) == ("task.number" in compose([words[0]]).grid)

    def test_settings_that_are_chosen_are_those_of_experiments(self):
        for experiment, over in script("reproduce").CHOSEN_OVER.items():
            assert set(over) <= set(flatten(compose([f"experiment={experiment}"]).config))

    def test_changes_reach_every_sweep(self, capsys):
        change = "task/encoder=minilm task.num_people=200"
        assert script("reproduce").main(["set=people_qa", f"with={change}", "--list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 1
        for line in lines:
            words = shlex.split(line)
            assert set(change.split()) < set(words)
            compose(without_sweeps(words[3:]))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["set=nmt"], "no configs/sweep/nmt*.yaml; there are"),
            ([], "set=?"),
            (["set=ntm", "jobs=x", "--list"], "jobs=x: give a whole number"),
            (["set=ntm", "jobs=0", "--list"], "jobs=0: give a whole number"),
        ],
    )
    def test_what_can_t_be_done_is_refused(self, words, told, capsys):
        assert script("reproduce").main(words) == 2
        assert told in capsys.readouterr().err

    def test_it_records_what_was_done_and_says_what_failed(self, tmp_path, monkeypatch):
        """The sweeps are stood in for: one run is done, and a sweep failed."""
        reproduce = script("reproduce")
        monkeypatch.setattr(reproduce, "run_all", lambda commands: write_run(tmp_path / "runs") and 1)
        assert reproduce.main(["set=ntm", f"runs={tmp_path / 'runs'}", "--quick"]) == 1
        assert (tmp_path / "runs" / "ntm.csv").read_text().count("ntm_copy,") > 3
        assert (tmp_path / "runs" / "report" / "report.html").exists()

    def test_runs_without_a_memory_are_measured_with_those_behind_the_head_once(self, tmp_path):
        model = {"_target_": "memnets.models.memory_transformer.MemoryTransformer", "memory": None}
        plain = write_run(tmp_path, 0, "transformer_wikitext2", model=model)
        write_run(tmp_path, 1, "transformer_wikitext2", model=model | {"memory": {"_target_": "x"}})
        write_run(tmp_path, 2, "transformer_wikitext2", model=model, status="failed")
        write_run(tmp_path, 3, "ntm_copy")
        reproduce = script("reproduce")
        (command,) = reproduce.measurements_left(find_runs([tmp_path / "*"])[0], quick=False)
        assert command[1:] == [str(ROOT / "scripts/output_memory.py"), f"checkpoint={plain}", "probes=32"]
        told = {"rows": [{"memories": {"cache": {}}, "test": 5.0}]}
        (plain / "evaluations.jsonl").write_text(json.dumps({"overrides": [], "output_memory": told}) + "\n")
        assert reproduce.measurements_left(find_runs([tmp_path / "*"])[0], quick=False) == []

    @pytest.mark.parametrize(
        ("codes", "result", "run"), [([0, 0], 0, 2), ([1, 0], 1, 2), ([0, 75, 0], 75, 2), ([1, 75, 0], 1, 2)]
    )
    def test_a_failed_sweep_lets_the_next_run_and_an_interrupted_one_does_not(self, codes, result, run, tmp_path):
        leave = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch(); raise SystemExit(int(sys.argv[2]))"
        commands = [[sys.executable, "-c", leave, str(tmp_path / str(i)), str(c)] for i, c in enumerate(codes)]
        assert script("reproduce").run_all(commands) == result
        assert len(list(tmp_path.iterdir())) == run
