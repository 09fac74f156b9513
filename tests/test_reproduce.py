"""One command behind a table: which sweeps it runs, and what it leaves."""

from __future__ import annotations

import shlex

import pytest
from tiny import script

from memnets.config import choices

SETS = [name for name in choices("sweep") if not any(name.startswith(f"{other}_") for other in choices("sweep"))]


class TestReproduce:
    @pytest.mark.parametrize("name", SETS)
    def test_every_set_lists_a_command_per_sweep(self, name, capsys):
        assert script("reproduce").main([f"set={name}", "--list"]) == 0
        commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
        sweeps = [word.partition("=")[2] for command in commands for word in command if word.startswith("sweep=")]
        assert sweeps == [sweep for sweep in sorted(choices("sweep")) if sweep == name or sweep.startswith(f"{name}_")]

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["set=nmt"], "no configs/sweep/nmt.yaml; there are"),
            ([], "set=?"),
            (["set=ntm", "jobs=x", "--list"], "jobs=x: give a whole number"),
            (["set=ntm", "jobs=0", "--list"], "jobs=0: give a whole number"),
        ],
    )
    def test_what_can_t_be_done_is_refused(self, words, told, capsys):
        assert script("reproduce").main(words) == 2
        assert told in capsys.readouterr().err

    def test_it_records_what_was_done_and_says_what_failed(self, tmp_path, monkeypatch, capsys):
        """The sweeps themselves are stood in for: one leaves a finished run, the next fails."""
        from run_folders import write_run

        reproduce, codes = script("reproduce"), iter([0, *[1] * 20])

        def sweep(command, check):
            code = next(codes)
            if code == 0:
                write_run(tmp_path / "runs")
            return type("Done", (), {"returncode": code})

        monkeypatch.setattr(reproduce.subprocess, "run", sweep)
        assert reproduce.main(["set=ntm", f"runs={tmp_path / 'runs'}", "--quick"]) == 1
        assert (tmp_path / "runs" / "ntm.csv").read_text().count("ntm_copy,") > 3
        assert (tmp_path / "runs" / "report" / "report.html").exists()
