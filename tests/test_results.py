from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import DOCUMENT, ERRORS, line, write_run

from memnets.analysis.markdown import difference, documents, updated
from memnets.analysis.records import (
    COLUMNS,
    PUBLISHED,
    RecordError,
    merge,
    read_published,
    read_records,
    record,
    tables,
    write_records,
)
from memnets.analysis.runs import find_runs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


class TestWhatIsCommitted:
    """The records and documents of this repository, whatever they hold."""

    @pytest.mark.parametrize("path", documents(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
    def test_documents_show_what_the_records_hold(self, path):
        told = difference(path, updated(path, RESULTS))
        assert not told, f"run python scripts/tables.py\n{told}"

    @pytest.mark.parametrize("path", tables(RESULTS).values(), ids=lambda path: path.name)
    def test_tables_are_as_the_script_writes_them(self, path, tmp_path):
        records = read_records(path)
        assert len({record.key for record in records}) == len(records) > 0
        write_records(tmp_path / path.name, records)
        assert (tmp_path / path.name).read_text() == path.read_text()

    def test_published_figures_have_sources(self):
        assert ("memn2n_babi task.number=1", "test/error") in read_published(RESULTS / PUBLISHED)
        assert "recalled" not in (RESULTS / PUBLISHED).read_text()

    def test_records_show_the_published_figures_of_today(self):
        published = read_published(RESULTS / PUBLISHED)
        for path in tables(RESULTS).values():
            for each in read_records(path):
                assert each.published == published.get(each.key, ""), f"{path.name}: {each.key}: record it again"


class TestRecords:
    def test_the_columns_are_these(self, tmp_path):
        write_records(tmp_path / "a.csv", [line()])
        with (tmp_path / "a.csv").open(newline="") as file:
            header, row = csv.reader(file)
        told = "experiment metric seeds mean std median lower_quartile upper_quartile best selected published command"
        assert header == [*told.split(), "commit", "date", "device"] == list(COLUMNS)
        assert row[header.index("device")] == "cpu (A, B)"

    def test_what_is_written_is_read(self, tmp_path):
        records = [
            line(),
            line(metric="solved", std=None, best=None, mean=1.0, published="about 200,000"),
            line('with "quotes",\nand a line', mean=1.5e-9, std=48210.5, median=-3.0),
        ]
        write_records(tmp_path / "a.csv", records)
        assert read_records(tmp_path / "a.csv") == records
        assert read_records(tmp_path / "none.csv") == []
        nan = line(mean=float("nan"))
        write_records(tmp_path / "a.csv", [nan])
        assert str(read_records(tmp_path / "a.csv")) == str([nan])

    def test_merging_replaces_in_place_and_appends(self):
        old = [line("a"), line("b"), line("b", "solved")]
        new = [line("b", mean=2.0), line("c")]
        assert merge(old, new) == [old[0], new[0], old[2], new[1]]

    def test_recording_runs(self, tmp_path):
        for seed in ERRORS:
            write_run(tmp_path / "runs", seed=seed, dirty=seed == 2)
        published = "experiment,metric,value,source\nntm_copy,test/bit_errors,0.125,somewhere\n"
        (tmp_path / PUBLISHED).write_text(published)
        runs, _ = find_runs([tmp_path / "runs"])
        recorded = {each.metric: each for each in record(tmp_path / "t.csv", runs)}
        each = recorded["test/bit_errors"]
        assert (each.experiment, each.seeds, each.published) == ("ntm_copy", 3, "0.125")
        assert each.mean == pytest.approx(sum(ERRORS.values()) / 3)
        assert each.command == "python scripts/train.py -m experiment=ntm_copy seed=0,1,2"
        assert each.commit == "abcdef0, abcdef0-dirty"
        assert (each.date, each.device) == ("2025-01-02", "cpu (A Fine Processor)")
        assert {"solved", "sequences_to_solve", "seconds", "length_40/bit_errors"} < recorded.keys()
        assert [read.key for read in read_records(tmp_path / "t.csv")] == [each.key for each in recorded.values()]

    @pytest.mark.parametrize("pieces", [["seed=0", "seed=1,2"], ["seed=0", "'seed=range(1,3)'"]])
    def test_one_command_stands_for_sweeps_over_pieces_of_the_seeds(self, tmp_path, pieces):
        for seed in range(3):
            command = f"python scripts/train.py -m experiment=ntm_copy {pieces[min(seed, 1)]}"
            write_run(tmp_path / "runs", seed=seed, command=command)
        recorded = record(tmp_path / "t.csv", find_runs([tmp_path / "runs"])[0])
        assert recorded[0].command == "python scripts/train.py -m experiment=ntm_copy seed=0,1,2"

    def test_recording_again_replaces_its_own_lines_only(self, tmp_path):
        write_records(tmp_path / "t.csv", [line("other"), line(mean=99.0), line(metric="old")])
        write_run(tmp_path / "runs", seed=1)
        record(tmp_path / "t.csv", find_runs([tmp_path / "runs"])[0], ["test/*"])
        means = {each.key: each.mean for each in read_records(tmp_path / "t.csv")}
        other, old = ("other", "test/bit_errors"), ("ntm_copy", "old")
        assert means == {other: 0.5, ("ntm_copy", "test/bit_errors"): 0.0, old: 0.5}

    def test_a_metric_that_no_run_has_is_an_error(self, tmp_path):
        write_run(tmp_path / "runs")
        with pytest.raises(RecordError, match=r"no run has a metric named test/eror; they have .*test/bit_errors"):
            record(tmp_path / "t.csv", find_runs([tmp_path / "runs"])[0], ["test/eror"])

    def test_a_value_of_a_setting_is_chosen_with_the_restart(self, tmp_path):
        """By the loss in training, of which seed 2 of the longer one is made the least."""
        for length, seeds in ((5, (0, 1)), (9, (0, 1, 2))):
            for seed in seeds:
                task = {"_target_": "memnets.tasks.copy.Copy", "length": length}
                write_run(tmp_path / str(length), seed, task=task, command=f"train.py -m task.length={length}")
        with (tmp_path / "9" / "ntm_copy-0000000002" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 500, "sequences": 8000, "split": "train", "loss": 1e-9}\n')
        words = ["table=t", f"runs={tmp_path}/*/*", "metrics=test/bit_errors", f"results={tmp_path}"]
        assert script("record.py", *words, "over=task.length").returncode == 0
        (recorded,) = read_records(tmp_path / "t.csv")
        assert recorded.experiment == "ntm_copy task.length=chosen"
        assert (recorded.seeds, recorded.selected) == (5, ERRORS[2])
        misspelt = script("record.py", *words, "over=task.lenght")
        assert misspelt.returncode == 1
        assert "no run has a setting task.lenght: name a value of config.yaml" in misspelt.stderr

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a,b\n1,2\n", ":1: expected the columns"),
            (",".join(COLUMNS) + "\nx,m,3,abc,,1,,,1,,,c,c,d,d\n", ":2: could not convert"),
            (",".join(COLUMNS) + "\nx,m,3,,,1,,,1,,,c,c,d,d\n", ":2: mean and median"),
            (",".join(COLUMNS) + "\nx,m,3,1\n", ":2: expected 15 columns"),
            (",".join(COLUMNS) + "\nx,m,3,1,,1,,,1,,,c,c,d,d,e\n", ":2: expected 15 columns"),
        ],
    )
    def test_a_table_that_was_tampered_with_is_refused(self, tmp_path, text, told):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(RecordError) as caught:
            read_records(tmp_path / "t.csv")
        assert str(caught.value).startswith(f"{tmp_path / 't.csv'}{told}")

    @pytest.mark.parametrize("rows", ["a,m,1,\n", "a,m,1,s\na,m,2,s\n"])
    def test_published_figures_need_a_source_and_stand_once(self, tmp_path, rows):
        (tmp_path / PUBLISHED).write_text("experiment,metric,value,source\n" + rows)
        with pytest.raises(RecordError, match=r"no source|given twice"):
            read_published(tmp_path / PUBLISHED)


def script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


class TestScripts:
    def test_from_runs_to_documents(self, tmp_path):
        write_run(tmp_path / "runs", seed=0, status="failed", error="ValueError: no")
        words = ["table=t", f"runs={tmp_path / 'runs' / '*'}", f"results={tmp_path / 'results'}", "metrics=test/*"]
        done = script("record.py", *words)
        assert done.returncode == 1, "nothing was finished"
        assert "not recorded: failed at step 400 (ValueError: no)" in done.stderr
        assert not (tmp_path / "results" / "t.csv").exists()

        write_run(tmp_path / "runs", seed=1)
        done = script("record.py", *words)
        assert done.returncode == 0, done.stderr
        assert [each.key for each in read_records(tmp_path / "results" / "t.csv")] == [("ntm_copy", "test/bit_errors")]

        (tmp_path / "README.md").write_text(DOCUMENT)
        checked = script("tables.py", "--check", f"root={tmp_path}")
        assert checked.returncode == 1
        assert "-old\n+| experiment |" in checked.stdout
        assert (tmp_path / "README.md").read_text() == DOCUMENT
        assert script("tables.py", f"root={tmp_path}").returncode == 0
        assert script("tables.py", "--check", f"root={tmp_path}").returncode == 0

    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (["record.py", "--help"], 0, "usage: python scripts/record.py"),
            (["record.py"], 2, "give table=NAME"),
            (["record.py", "table=../x", "runs=y"], 2, "give table=NAME"),
            (["record.py", "table=x", "run=y"], 2, "did you mean runs?"),
            (["record.py", "table=x", "runs=/nowhere"], 1, "no such folder"),
            (["tables.py", "--help"], 0, "usage: python scripts/tables.py"),
            (["tables.py", "--chek"], 2, "did you mean --check?"),
            (["tables.py", "README.md"], 2, "no paths are taken"),
        ],
    )
    def test_exit_codes(self, words, code, told, tmp_path):
        if words[0] == "record.py":
            words = [*words, f"results={tmp_path}"]
        done = script(*words)
        assert done.returncode == code, done.stderr
        assert told in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())
