from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import ERRORS, write_run

from memnets.analysis.markdown import BEGIN, END, MarkerError, difference, documents, render, updated
from memnets.analysis.records import (
    COLUMNS,
    PUBLISHED,
    Record,
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


def line(experiment: str = "ntm_copy", metric: str = "test/bit_errors", mean: float = 0.5, **changes) -> Record:
    values = {
        "seeds": 3,
        "std": 0.25,
        "median": 0.5,
        "lower_quartile": None,
        "upper_quartile": None,
        "best": 0.0,
        "selected": None,
        "published": "",
        "command": "python scripts/train.py -m x",
    }
    values |= {"commit": "abcdef0", "date": "2025-01-02", "device": "cpu (A, B)"}
    return Record(experiment=experiment, metric=metric, mean=mean, **(values | changes))


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


DOCUMENT = "# Title\n\n<!-- table: t -->\nold\n<!-- end table -->\n\nAfter.\n"


class TestMarkdown:
    @pytest.fixture
    def root(self, tmp_path):
        write_records(tmp_path / "results" / "t.csv", [line(published="0.001"), line("b|c", "solved", std=None)])
        (tmp_path / "docs").mkdir()
        return tmp_path

    def test_a_table_in_full(self):
        quartiles = {"lower_quartile": 0.25, "upper_quartile": 1.0}
        text = render(
            [
                line(mean=0.00423, std=0.00131, published="0.001", **quartiles),
                line("b|c", "solved", std=None, best=None),
            ]
        )
        assert text == (
            "| experiment | metric | seeds | mean ± std | median (quartiles) | best | published |\n"
            "|---|---|---:|---:|---:|---:|---:|\n"
            "| ntm_copy | test/bit_errors | 3 | 0.0042 ± 0.0013 | 0.5 (0.25 to 1) | 0 | 0.001 |\n"
            "| b\\|c | solved | 3 | 0.5 | 0.5 |  | not published |\n".replace(" not published ", "  ")
            + "\n- ntm_copy, b|c: `python scripts/train.py -m x` at abcdef0, 2025-01-02, cpu (A, B)"
        )

    def test_only_what_stands_between_markers_changes(self, root):
        (root / "README.md").write_text(DOCUMENT)
        text = updated(root / "README.md", root / "results")
        assert text.startswith("# Title\n\n<!-- table: t -->\n| experiment |")
        assert text.endswith("cpu (A, B)\n<!-- end table -->\n\nAfter.\n")
        assert "old" not in text
        assert difference(root / "README.md", text)
        (root / "README.md").write_text(text)
        assert updated(root / "README.md", root / "results") == text
        assert not difference(root / "README.md", text)

    @pytest.mark.parametrize(
        "text", ["", "no marker", "no marker\n", "    <!-- table: t -->\n", "`<!-- table: t -->`\n"]
    )
    def test_a_document_without_markers_stays(self, root, text):
        (root / "docs" / "a.md").write_text(text)
        assert updated(root / "docs" / "a.md", root / "results") == text

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a\n<!-- table: t -->\n", "a.md:2: this table has no <!-- end table -->"),
            ("<!-- end table -->\n", "a.md:1: <!-- end table --> ends no table"),
            ("<!-- table: t -->\n<!-- table: t -->\n", "a.md:2: <!-- table: t --> stands inside the table of line 1"),
            ("<!-- table: missing -->\n<!-- end table -->\n", "a.md:1: no table 'missing'"),
            ("<!-- table: t nobody -->\n<!-- end table -->\n", "t.csv is of nobody"),
        ],
    )
    def test_markers_that_make_no_sense_are_named(self, root, text, told):
        (root / "docs" / "a.md").write_text(text)
        with pytest.raises(MarkerError) as caught:
            updated(root / "docs" / "a.md", root / "results")
        assert told in str(caught.value)

    def test_a_second_word_takes_the_lines_of_one_case(self):
        lines = (ROOT / "README.md").read_text().splitlines()
        shown = lines[lines.index("<!-- table: kernels ntm_step -->") :]
        cases = {line.split(" | ")[0] for line in shown[: shown.index(END)] if line.startswith("| ")}
        assert cases == {"| case", "| ntm_step"}

    def test_several_experiments_are_taken_with_their_settings(self, tmp_path):
        lines = [line("one seed=1"), line("one_more"), line("two x=3"), line("two x=4")]
        write_records(tmp_path / "results" / "t.csv", lines)
        (tmp_path / "a.md").write_text("<!-- table: t one,two -->\n<!-- end table -->\n")
        text = updated(tmp_path / "a.md", tmp_path / "results")
        assert all(f"| {name} |" in text for name in ("one seed=1", "two x=3", "two x=4"))
        assert "one_more" not in text

    def test_by_metric_gives_each_experiment_a_row(self, tmp_path):
        names = ("reader model=a|b size=1", "reader model=c size=1")
        lines = [line(name, metric, mean=0.25, std=0.125) for name in names for metric in ("test/x", "test/y")]
        write_records(tmp_path / "t.csv", lines[:3])
        (tmp_path / "a.md").write_text("<!-- table: t by metric -->\n<!-- end table -->\n")
        assert updated(tmp_path / "a.md", tmp_path) == (
            "<!-- table: t by metric -->\n"
            "| experiment | test/x | test/y |\n|---|---:|---:|\n"
            "| model=a\\|b | 0.25 ± 0.12 | 0.25 ± 0.12 |\n| model=c | 0.25 ± 0.12 |  |\n\n"
            "- reader model=a|b size=1, reader model=c size=1: `python scripts/train.py -m x` at abcdef0, 2025-01-02, "
            "cpu (A, B)\n<!-- end table -->\n"
        )

    def test_by_split_gives_each_split_a_row_in_the_order_of_its_number(self, tmp_path):
        write_records(tmp_path / "t.csv", [line("x", f"qa{n}/error", mean=n / 100, std=0.01) for n in (10, 9)])
        (tmp_path / "a.md").write_text("<!-- table: t by split -->\n<!-- end table -->\n")
        assert updated(tmp_path / "a.md", tmp_path).splitlines()[1:] == [
            "| error in %, split | x: mean ± std | by training loss | published |",
            "|---|---:|---:|---:|",
            "| qa9 | 9.0 ± 1.0 |  |  |",
            "| qa10 | 10.0 ± 1.0 |  |  |",
            "| mean | 9.5 |  |  |",
            "| above 5 % | 2 |  |  |",
            "",
            "- x: `python scripts/train.py -m x` at abcdef0, 2025-01-02, cpu (A, B)",
            "<!-- end table -->",
        ]

    def test_a_name_without_settings_takes_every_experiment_that_begins_with_it(self, tmp_path):
        write_records(tmp_path / "t.csv", [line(name, "test/x") for name in ("reader size=1", "reader", "readers")])
        (tmp_path / "a.md").write_text("<!-- table: t reader by metric -->\n<!-- end table -->\n")
        rows = [text.split(" | ")[0] for text in updated(tmp_path / "a.md", tmp_path).splitlines()[3:5]]
        assert rows == ["| size=1", "| reader"]

    def test_the_markers_are_what_the_documents_say(self):
        assert BEGIN.fullmatch("<!-- table: foundation -->")[1] == "foundation"
        assert END == "<!-- end table -->"


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
