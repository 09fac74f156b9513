"""Train a model on a task, or every point of a sweep; `--help` tells what can be chosen."""

import os
import shlex
import signal
import sys
from pathlib import Path

import yaml

from memnets.analysis.report import draw_run
from memnets.check import ConfigError, Problem
from memnets.config import check, compose, with_defaults
from memnets.help import FLAGS, text
from memnets.identity import run_folders
from memnets.launch import train
from memnets.summary import replica_summary, summary
from memnets.sweep import Sweep, grid_points, is_point, plan, without_sweeps


def main(arguments: list[str]) -> int:
    flags = {FLAGS.get(word, word) for word in arguments if word.startswith("-")}
    overrides = [word for word in arguments if not word.startswith("-") and word != "job"]  # --cfg job, as in Hydra
    if "help" in flags:
        print(text())
        return 0
    try:
        if unknown := flags - set(FLAGS.values()):
            raise ConfigError([Problem(word, f"no such option; there are {', '.join(FLAGS)}") for word in unknown])
        run = many if "multirun" in flags else one
        return run(overrides, show="cfg" in flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def one(overrides: list[str], show: bool) -> int:
    composed = compose(without_sweeps(overrides))
    if not is_point(composed, overrides):
        raise ConfigError([Problem("", "this is a sweep: add -m to run all its points")])
    check(composed.config)
    config = with_defaults(composed.config)
    if show:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0
    code, folders = train(config, overrides), run_folders(config)
    if code == 0 and os.environ.get("RANK", "0") == "0":
        pictures = [draw_run(folder) if config["runtime"]["pictures"] else [] for folder in folders]
        print(summary(folders[0], overrides, pictures[0]) if len(folders) == 1 else replica_summary(folders))
    return code


def many(overrides: list[str], show: bool) -> int:
    composed = compose(without_sweeps(overrides))
    jobs = plan(grid_points(composed, overrides))
    if show:
        for job in jobs:
            print(f"# {shlex.join(job.overrides)}")
            one(job.overrides, show)
        return 0
    sweep = Sweep(jobs, with_defaults(composed.config)["runtime"]["jobs"], Path(__file__))
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: sweep.stop())
    return sweep.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
