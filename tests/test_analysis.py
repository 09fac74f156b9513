from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from run_folders import ERRORS, one_group, write_run

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.groups import differences, group_runs
from memnets.analysis.runs import RunError, final, find_runs, read_run

ROOT = Path(__file__).resolve().parent.parent


class TestReading:
    def test_a_finished_run(self, tmp_path):
        run = read_run(write_run(tmp_path, seed=2))
        assert (run.name, run.seed, run.done, run.cut_lines) == ("ntm_copy", 2, True, 0)
        assert len(run.rows("train")) == 4
        assert final(run) == {
            "validation/loss": 3.0**-4,
            "validation/bit_errors": 2.35,
            "test/bit_errors": 2.25,
            "length_40/bit_errors": 2.25,
        }

    def test_final_takes_the_last_row_and_null_is_nan(self, tmp_path):
        folder = write_run(tmp_path)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 500, "sequences": 8000, "split": "test", "bit_errors": None}) + "\n")
        assert np.isnan(final(read_run(folder))["test/bit_errors"])

    @pytest.mark.parametrize("ending", ['{"step": 500, "sequ', '{"step": 500}', "[", "{}"])
    def test_a_last_line_cut_by_a_kill_is_left_out_and_counted(self, tmp_path, ending):
        folder = write_run(tmp_path)
        complete = read_run(folder)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(ending)
        run = read_run(folder)
        assert run.cut_lines == 1
        assert run.metrics == complete.metrics

    def test_a_corrupt_line_before_the_last_is_named(self, tmp_path):
        folder = write_run(tmp_path)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        lines[2] = lines[2][:20]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
        with pytest.raises(RunError, match=r"metrics\.jsonl:3 is corrupt"):
            read_run(folder)

    @pytest.mark.parametrize("file", ["config.yaml", "status.json", "environment.json"])
    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "is missing"), (b"{", "can't be read"), (b"\xff\xfe", "can't be read"), (b"[1]", "must hold keys")],
    )
    def test_a_bad_file_is_named(self, tmp_path, file, content, message):
        folder = write_run(tmp_path)
        (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
        runs, problems = find_runs([folder])
        assert runs == []
        assert str(problems[0]).startswith(f"{folder}: {file} {message}")

    def test_what_is_no_run_is_reported_beside_what_is(self, tmp_path):
        good, failed = write_run(tmp_path), write_run(tmp_path, seed=1, status="failed")
        (failed / "metrics.jsonl").unlink()
        (tmp_path / "ntm_copy-junk").mkdir()
        (tmp_path / "ntm_copy-note").write_text("not a folder")
        runs, problems = find_runs([tmp_path / "ntm_copy-*", tmp_path / "nowhere"])
        assert [run.path for run in runs] == [good, failed]
        assert runs[1].metrics == ()
        told = {problem.path.name: problem.message for problem in problems}
        assert told.keys() == {"ntm_copy-junk", "ntm_copy-note", "nowhere"}
        assert "not a run folder" in told["ntm_copy-junk"]
        assert "not a folder" in told["ntm_copy-note"]
        assert "no such folder" in told["nowhere"]

    def test_a_folder_of_runs_stands_for_them_and_each_counts_once(self, tmp_path):
        folders = [write_run(tmp_path / "runs", seed=seed) for seed in range(3)]
        (tmp_path / "runs" / "report").mkdir()
        (tmp_path / "runs" / "report" / "report.html").touch()
        runs, problems = find_runs([tmp_path / "runs", folders[0], tmp_path / "runs" / "*"])
        assert [run.path for run in runs] == folders
        assert problems == []

    def test_a_run_that_was_made_anew_counts_once(self, tmp_path):
        old = write_run(tmp_path, code="0123456789.old-20250101T000000", ended="2025-01-01T00:00:00+00:00")
        new = write_run(tmp_path, code="0123456789", ended="2025-01-03T00:00:00+00:00")
        cut = write_run(tmp_path, code="9876543210", status="interrupted", ended="2025-01-04T00:00:00+00:00")
        runs, problems = find_runs([old, new, cut])
        assert [run.path for run in runs] == [new]
        assert {problem.path for problem in problems} == {old, cut}

    @pytest.mark.parametrize("code", ["0123456789", "0123456789.old-20250101T000000+0000"])
    def test_a_run_without_a_configured_name_has_its_folders(self, tmp_path, code):
        folder = write_run(tmp_path, name="ntm-copy", code=code)
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"name": None}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        assert read_run(folder).name == "ntm-copy"


class TestGrouping:
    def test_by_configuration_but_for_seed_logger_and_runtime(self, tmp_path):
        folders = [write_run(tmp_path / str(seed), seed=seed, logger={"wandb": seed == 1}) for seed in (2, 0, 1)]
        folders.append(write_run(tmp_path, name="lstm_copy"))
        lstm, ntm = group_runs([read_run(folder) for folder in folders])
        assert (lstm.label, ntm.label) == ("lstm_copy", "ntm_copy")
        assert [run.seed for run in ntm.runs] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("name", "words", "label"),
        [
            (
                "x",
                "experiment=x task.length=5,9 +model.width=1 seed=0,1 runtime.jobs=2",
                "x task.length=9 model.width=1",
            ),
            ("x", "experiment=x model=lstm optim=adam,sgd", "x model=lstm"),
            ("ntm-repeatcopy", "model=ntm task=repeat_copy", "ntm-repeatcopy"),
            ("x", "experiment=x 'task.words=[a, b", "x 'task.words=[a,"),
        ],
    )
    def test_a_label_holds_the_overrides_that_tell_experiments_apart(self, tmp_path, name, words, label):
        task = {"_target_": "memnets.tasks.copy.Copy", "length": 9}
        folder = write_run(tmp_path, name=name, command=f"python scripts/train.py -m {words}", task=task)
        assert one_group(folder).label == label

    def test_overrides_that_the_run_recorded_itself_come_first(self, tmp_path):
        folder = write_run(
            tmp_path, overrides=["experiment=x", "optim=sgd", "seed=1"], command="train.py -m optim=adam,sgd"
        )
        assert one_group(folder).label == "ntm_copy optim=sgd"

    def test_groups_of_one_label_get_their_differences(self, tmp_path):
        models = [
            {"_target_": "a.NTM", "memory_size": 8},
            {"_target_": "a.NTM", "memory_size": 16},
            {"_target_": "a.LSTM"},
        ]
        same = {"command": "python scripts/train.py -m sweep=sizes"}
        for numbers in ((0, 1), (0, 2)):
            folders = [write_run(tmp_path / str(numbers) / str(n), model=models[n], **same) for n in numbers]
            groups = group_runs([read_run(folder) for folder in folders])
            labels = {0: {"model.memory_size=8", "model.memory_size=16"}, 1: {"model=NTM", "model=LSTM"}}[
                numbers == (0, 2)
            ]
            assert {group.label for group in groups} == {f"ntm_copy {told}" for told in labels}
        assert list(differences(groups)) == ["model._target_", "model.memory_size"]

    @pytest.mark.parametrize("root", ["", "/some/where/", "../where/"])
    def test_one_command_for_all_seeds_and_nothing_of_this_machine(self, root, tmp_path):
        place = "runtime.runs_dir=/some/where logger.wandb=true runtime.device=cpu"
        folders = [
            write_run(tmp_path, seed=seed, command=f"python {root}scripts/train.py experiment=x seed={seed} {place}")
            for seed in (0, 1)
        ]
        assert one_group(*folders).command == "python scripts/train.py -m experiment=x runtime.device=cpu seed=0,1"
        assert "where" not in one_group(folders[0]).command

    def test_settings_left_to_chance_are_told_apart_by_nothing(self, tmp_path):
        train, task = "python scripts/train.py -m sweep=x model.width=1", {"_target_": "memnets.tasks.copy.Copy"}
        runs = [
            read_run(
                write_run(
                    tmp_path / str(length),
                    seed,
                    command=f"{train} task.length={length} seed={seed}",
                    task={**task, "length": length},
                )
            )
            for length in (5, 9)
            for seed in (0, 1)
        ]
        apart = [f"ntm_copy model.width=1 task.length={length}" for length in (5, 9)]
        assert [group.label for group in group_runs(runs)] == apart
        (group,) = group_runs(runs, ["task.length"])
        assert group.label == "ntm_copy model.width=1 task.length=chosen"
        assert group.runs == (runs[0], runs[2], runs[1], runs[3])
        assert "task.length" not in group.settings
        assert group.command == f"{train} task.length=5,9 seed=0,1"
        (fewer,) = group_runs(runs[:3], ["task.length"])
        assert fewer.command == f"{train} task.length=5 seed=0 (and 2 others)"


def script(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


class TestScript:
    def test_report(self, tmp_path):
        for seed in ERRORS:
            write_run(tmp_path / "runs", seed=seed)
        done = script("report.py", *(tmp_path / "runs").iterdir(), f"out={tmp_path / 'out'}")
        assert done.returncode == 0, done.stderr
        line = r"^ntm_copy +test/bit_errors +3 +0\.9 ± 1\.2 +0\.5 \([\d.]+ to [\d.]+\) +0$"
        assert re.search(line, done.stdout, re.MULTILINE)
        assert "\x1b" not in done.stdout
        assert (tmp_path / "out" / "report.html").exists()

    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (["--help"], 0, "usage: python scripts/report.py PATH"),
            ([], 2, "give at least one run folder"),
            (["runs", "oot=x"], 2, "did you mean out?"),
            (["runs", "--chekc"], 2, "--chekc is not known"),
            (["/nowhere/at-all"], 1, "no such folder"),
        ],
    )
    def test_exit_codes_of_report(self, words, code, told):
        done = script("report.py", *words)
        assert done.returncode == code
        assert told in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_importing_analysis_loads_neither_torch_nor_matplotlib(self):
        modules = ("report", "records", "markdown", "runs", "page", "heatmaps")
        imports = "; ".join(f"import memnets.analysis.{name}" for name in modules)
        code = (
            f"import sys; {imports}; sys.exit(str([m for m in ('torch', 'hydra', 'matplotlib') if m in sys.modules]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr.strip() == "[]"


class TestArguments:
    def test_paths_and_values(self):
        paths, values = read_arguments(["a/b", "out=c=d", "x/y=z", "--check"], {"out": "o", "table": ""}, ["--check"])
        assert paths == ["a/b", "x/y=z"]
        assert values == {"out": "c=d", "table": "", "--check": "yes"}

    @pytest.mark.parametrize("word", ["oot=1", "out=", "--chek", "-v"])
    def test_what_is_not_known_is_refused(self, word):
        with pytest.raises(UsageError):
            read_arguments([word], {"out": ""}, ["--check"])
