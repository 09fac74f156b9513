"""An exported reader: it answers as in training, is replaced whole or not at all, and what isn't whole is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from served import PEOPLE, SMALL, exported, small_run, the_run
from tiny import script, tiny_config
from torch.testing import assert_close

from memnets.config import build, check, compose, load, with_defaults
from memnets.identity import run_folder
from memnets.launch import train
from memnets.retrieval.cached_encoder import CachedEncoder
from memnets.serving.export import export
from memnets.serving.folder import FolderError, in_use, open_folder
from memnets.tasks.people_qa import asked_facts
from memnets.training import checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model


def trained(run):
    """Task and model of a run, as training left them."""
    experiment = build(load(run / "config.yaml"))
    restore_model(checkpoint.load(find_checkpoint(run), torch.device("cpu")), experiment.model, averaged=True)
    return experiment.task, experiment.model.eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("pointer", []),
        ("cross_attention", ["trainer.ema_decay=0.5", "optim.lr=0.1"]),
        ("knn", []),
        ("closed_book", []),
    ],
)
def test_it_answers_what_the_model_does_in_its_task(tmp_path, kind, settings):
    run = small_run(tmp_path / "runs", f"model=reader_{kind}", *settings)
    export(run, tmp_path / "out")
    reader = open_folder(tmp_path / "out")
    task, model = trained(run)
    batch = task.batch("test", 0, 100, 0)
    with torch.no_grad():
        probabilities = model(batch.inputs)[0].softmax(-1)
        attention = model.attention(batch.inputs)
    by_query = {tuple(query.tolist()): row for row, query in enumerate(batch.inputs.query)}
    for fact in asked_facts(task, "test")[:6]:
        answer = reader.ask(fact.question)
        row = by_query[tuple(task.encoder.encode([fact.question]).vectors[0].tolist())]
        found = dict(answer.ranking)
        assert_close(torch.tensor([found[word] for word in reader.reader.answers]), probabilities[row])
        assert answer.text == answer.ranking[0][0]
        scores = batch.inputs.block.scores[row][batch.inputs.block.mask[row]].unique().flip(0).tolist()
        assert sorted({p.relevance for p in answer.passages}, reverse=True) == pytest.approx(scores)
        if attention is None:
            assert all(passage.attention is None for passage in answer.passages)
        else:
            assert sum(p.attention for p in answer.passages) == pytest.approx(float(attention[row].sum()), abs=1e-5)


class TestExport:
    def test_a_folder_that_is_there_is_replaced_only_when_that_is_asked_for(self, tmp_path):
        folder = exported(tmp_path)
        open_folder(folder).write("note", "a camel")
        with pytest.raises(FolderError, match="overwrite=true"):
            export(the_run(), folder)
        assert open_folder(folder).entries("camel note")[1] == 1
        export(the_run(), folder, overwrite=True)
        assert open_folder(folder).entries("camel note")[1] == 0
        assert [path.name for path in tmp_path.iterdir()] == ["exported"]

    @pytest.mark.parametrize(
        "failing",
        ["tasks.people_qa.PeopleQA.served", "serving.export.open_folder"],
        ids=["half_written", "not_answering"],
    )
    def test_one_that_fails_leaves_the_old_one_as_it_was(self, tmp_path, monkeypatch, failing):
        folder = exported(tmp_path)
        before = {path: path.read_bytes() for path in folder.rglob("*.*")}

        def fail(*given):
            raise OSError("no space left")

        monkeypatch.setattr(f"memnets.{failing}", fail)
        with pytest.raises(OSError, match="no space"):
            export(the_run(), folder, overwrite=True)
        assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
        assert [path.name for path in tmp_path.iterdir()] == ["exported"]

    def test_one_that_was_killed_between_its_moves(self, tmp_path, monkeypatch):
        folder, rename = exported(tmp_path), Path.rename

        def killed(path, target):
            if ".partial" in path.name:
                raise SystemExit
            return rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", killed)
            with pytest.raises(SystemExit):
                export(the_run(), folder, overwrite=True)
        assert not folder.exists()
        with pytest.raises(FolderError, match="overwrite=true"):
            export(the_run(), folder)
        assert open_folder(folder).entries()[1] == 72

    def test_no_other_folder_is_replaced(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(FolderError, match="no exported reader, so it is not replaced"):
            export(the_run(), tmp_path, overwrite=True)
        assert (tmp_path / "thesis.txt").exists()

    def test_what_has_no_memory_of_texts_is_refused(self, tmp_path):
        config = tiny_config(f"runtime.runs_dir={tmp_path}")
        assert train(config) == 0
        with pytest.raises(FolderError, match="its task is Copy, and only a reader of a memory of texts"):
            export(run_folder(config), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_reader_that_must_know_the_answer_is_refused(self, tmp_path):
        run = small_run(tmp_path / "runs", "task/relevance=oracle")
        with pytest.raises(FolderError, match=r"can't be asked anything: Oracle needs Queries\.gold"):
            export(run, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_what_people_ask_is_in_no_cache(self, tmp_path):
        config = compose([*SMALL, *PEOPLE, f"runtime.runs_dir={tmp_path / 'runs'}"]).config
        encoder = {"_target_": "memnets.retrieval.cached_encoder.CachedEncoder", "folder": str(tmp_path / "cache")}
        config["task"]["encoder"] = {**encoder, "encoder": config["task"]["encoder"]}
        check(config)
        config = with_defaults(config)
        assert train(config) == 0
        export(run_folder(config), tmp_path / "out")
        before = sorted((tmp_path / "cache").rglob("*"))
        reader = open_folder(tmp_path / "out")
        reader.ask("a secret question about camels?")
        assert not isinstance(reader.memory.encoder, CachedEncoder)
        assert sorted((tmp_path / "cache").rglob("*")) == before


def change_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def name_code(folder, name="os.system"):
    """Another configuration, with the checksum it has."""
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("memnets.models.retrieval_reader.RetrievalReader", name))
    sums = json.loads((folder / "manifest.json").read_text())["sha256"]
    change_manifest(folder, sha256={**sums, "config.yaml": hashlib.sha256(path.read_bytes()).hexdigest()})


class TestRefusals:
    @pytest.mark.parametrize(
        ("harm", "told"),
        [
            (lambda folder: shutil.rmtree(folder), "is no exported reader: it has no manifest.json"),
            (lambda folder: (folder / "manifest.json").unlink(), "is no exported reader"),
            (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json can't be read"),
            (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "manifest.json can't be read"),
            (lambda folder: change_manifest(folder, format=2), "has format 2, and this version of memnets reads 1"),
            (lambda folder: change_manifest(folder, score_unit=None), "is damaged: it lacks score_unit"),
            (lambda folder: change_manifest(folder, sha256={}), "is damaged: it lacks checksums"),
            (lambda folder: change_manifest(folder, answers=["a"]), "1 answers, and its model has 108"),
            (lambda folder: change_manifest(folder, encoder="0" * 64), "trained with another encoder"),
            (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
            (lambda folder: flip(folder / "model.safetensors"), "model.safetensors is damaged"),
            (lambda folder: flip(folder / "config.yaml"), "config.yaml is damaged"),
            (lambda folder: flip(next((folder / "memory").glob("facts-*"))), "is damaged"),
            (lambda folder: flip(next((folder / "memory").glob("tensors-*"))), "is damaged"),
            (lambda folder: shutil.rmtree(folder / "memory"), "is no whole memory"),
            (name_code, r"names os\.system: only classes of memnets\."),
            (lambda folder: name_code(folder, "memnets.kernels.build.subprocess.Popen"), r"names memnets\.kernels\."),
            (lambda folder: name_code(folder, "memnets.files.Path"), r"names memnets\.files\.Path: only classes"),
        ],
    )
    def test_a_folder_that_is_not_whole(self, tmp_path, harm, told):
        folder = exported(tmp_path)
        harm(folder)
        with pytest.raises(FolderError, match=told):
            open_folder(folder)

    def test_another_encoder_than_in_training(self, tmp_path):
        with pytest.raises(FolderError, match="trained with another encoder"):
            open_folder(exported(tmp_path), ["task.encoder.seed=1"])

    def test_a_memory_of_another_encoder_than_the_model_s(self, tmp_path):
        folder = exported(tmp_path)
        reader = open_folder(folder)
        reader.memory.encoder.identity = "other"
        reader.save()
        with pytest.raises(FolderError, match="was made with another encoder"):
            open_folder(folder)

    def test_a_folder_in_use(self, tmp_path):
        folder = exported(tmp_path)
        with in_use(folder):
            with pytest.raises(FolderError, match="is in use"), in_use(folder):
                raise AssertionError
            with pytest.raises(FolderError, match="is in use"):
                export(the_run(), folder, overwrite=True)
        with in_use(folder):
            pass


class TestScript:
    def test_exports(self, tmp_path, capsys):
        assert script("export").main([f"checkpoint={the_run()}", f"out={tmp_path / 'out'}"]) == 0
        assert f"exported  {tmp_path / 'out'}" in capsys.readouterr().out
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "config.yaml",
            "manifest.json",
            "memory",
            "model.safetensors",
        ]
        assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt"))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["checkpoint=nowhere", "out=x"], "no checkpoint at nowhere"),
            (["checkpoint=RUN", "out=x", "overwrite=maybe"], "overwrite=maybe: expected true or false"),
            (["checkpoint=RUN", "out=x", "task.num_peopel=3"], "num_peopel"),
        ],
    )
    def test_what_is_at_fault_is_said(self, tmp_path, monkeypatch, capsys, words, told):
        monkeypatch.chdir(tmp_path)
        assert script("export").main([word.replace("RUN", str(the_run())) for word in words]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "x").exists()

    def test_help(self, capsys):
        assert script("export").main(["--help"]) == 0
        assert script("export").main([]) == 2
        assert "out=FOLDER" in capsys.readouterr().out
