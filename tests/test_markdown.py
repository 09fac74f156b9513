from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import DOCUMENT, line

from memnets.analysis.markdown import BEGIN, END, MarkerError, briefly, difference, render, updated
from memnets.analysis.records import write_records

ROOT = Path(__file__).resolve().parent.parent


class TestTables:
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
        lines = [
            line("one seed=1"),
            line("one_more"),
            line("two x=3"),
            line("two x=4"),
        ]
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
            "| error in %, split | x: mean ± std | chosen | published |",
            "|---|---:|---:|---:|",
            "| qa9 | 9.0 ± 1.0 |  |  |",
            "| qa10 | 10.0 ± 1.0 |  |  |",
            "| mean | 9.5 |  |  |",
            "| above 5 % | 2 |  |  |",
            "",
            "- x: `python scripts/train.py -m x` at abcdef0, 2025-01-02, cpu (A, B)",
            "<!-- end table -->",
        ]

    def test_commands_that_differ_in_what_gives_the_rows_are_one_line(self, tmp_path):
        commands = {n: f"python scripts/train.py -m task.number={n} seed={0 if n < 3 else 1}" for n in (1, 2, 3)}
        write_records(tmp_path / "t.csv", [line(f"x task.number={n}", "error", command=commands[n]) for n in commands])
        (tmp_path / "a.md").write_text("<!-- table: t by task.number -->\n<!-- end table -->\n")
        assert updated(tmp_path / "a.md", tmp_path).splitlines()[-3:-1] == [
            "- x: `python scripts/train.py -m seed=0 task.number=1,2` at abcdef0, 2025-01-02, cpu (A, B)",
            "- x: `python scripts/train.py -m seed=1 task.number=3` at abcdef0, 2025-01-02, cpu (A, B)",
        ]

    def test_a_name_without_settings_takes_every_experiment_that_begins_with_it(self, tmp_path):
        write_records(tmp_path / "t.csv", [line(name, "test/x") for name in ("reader size=1", "reader", "readers")])
        (tmp_path / "a.md").write_text("<!-- table: t reader by metric -->\n<!-- end table -->\n")
        rows = [text.split(" | ")[0] for text in updated(tmp_path / "a.md", tmp_path).splitlines()[3:5]]
        assert rows == ["| size=1", "| reader"]

    def test_the_markers_are_what_the_documents_say(self):
        assert BEGIN.fullmatch("<!-- table: foundation -->")[1] == "foundation"
        assert END == "<!-- end table -->"


class TestBriefly:
    @pytest.mark.parametrize(
        ("experiment", "told"),
        [
            ("copy model.memory={_target_: a.b.Random, _partial_: true}", "copy model.memory=Random"),
            ("copy model.memory={_target_:a.b.Random,_partial_:True} seed=1", "copy model.memory=Random seed=1"),
            ("copy addressing={_target_: a.Parts, key: null, gate: null}", "copy addressing=Parts(key=null,gate=null)"),
            (
                "copy reader={_target_: a.B, inner: {_target_: c.D, size: 3}, width: 2}",
                "copy reader=B(inner=D(size=3),width=2)",
            ),
            ("copy seed=1", "copy seed=1"),
            ("copy model.widths={}", "copy model.widths={}"),
        ],
    )
    def test_a_component_is_its_class_and_its_settings(self, experiment, told):
        assert briefly(experiment) == told

    def test_tables_tell_components_so_and_commands_whole(self, tmp_path):
        component = "model.memory={_target_: a.b.Random, _partial_: true}"
        lines = [line(f"copy {component}", command=f"python scripts/train.py -m '{component}'")]
        write_records(tmp_path / "results/copy.csv", lines)
        document = tmp_path / "README.md"
        document.write_text(f"<!-- table: copy -->\n{END}\n")
        told = updated(document, tmp_path / "results")
        assert "| copy model.memory=Random | test/bit_errors |" in told
        assert f"- copy model.memory=Random: `python scripts/train.py -m '{component}'` at" in told
