"""Train a model on a task, or every point of a sweep; `--help` tells what can be chosen."""

import os
import signal
import sys
from pathlib import Path

import yaml

from memnets import help as train_help
from memnets.analysis.report import draw_run
from memnets.check import ConfigError, Problem
from memnets.config import check, compose, grid_points, run_folder, with_defaults, without_sweeps
from memnets.launch import Sweep, plan, train
from memnets.summary import summary

FLAGS = {"-h": "help", "--help": "help", "-m": "multirun", "--multirun": "multirun", "-c": "cfg", "--cfg": "cfg"}


def main(arguments: list[str]) -> int:
    flags = {FLAGS[word] for word in arguments if word in FLAGS}
    overrides = [word for word in arguments if word not in FLAGS]
    if "help" in flags:
        print(train_help.text())
        return 0
    try:
        return run(overrides, flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def run(overrides: list[str], flags: set[str]) -> int:
    for word in overrides:
        if word.startswith("-"):
            raise ConfigError([Problem(word, f"no such option; there are {', '.join(sorted(FLAGS))}")])
    composed = compose(without_sweeps(overrides))
    if "multirun" not in flags:
        if composed.grid or without_sweeps(overrides) != overrides:
            raise ConfigError([Problem("", "this is a sweep: add -m to run all its points")])
        check(composed.config)
        config = with_defaults(composed.config)
        if "cfg" in flags:
            print(yaml.safe_dump(config, sort_keys=False), end="")
            return 0
        code = train(config)
        if code == 0 and os.environ.get("RANK", "0") == "0":
            finish(config, overrides)
        return code
    jobs = plan(grid_points(composed, overrides))
    sweep = Sweep(jobs, with_defaults(composed.config)["runtime"]["jobs"], Path(__file__))
    signal.signal(signal.SIGTERM, lambda *_: sweep.stop())
    return sweep.run()


def finish(config: dict, overrides: list[str]) -> None:
    folder = run_folder(config)
    pictures = draw_run(folder) if config["runtime"]["pictures"] else []
    print(summary(folder, overrides, pictures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
