"""Let a language model go on with a text: `python scripts/generate.py checkpoint=runs/NAME prompt="The cat"`.

  checkpoint=PATH   a run folder (the checkpoint that was tested) or one checkpoint folder
  prompt=TEXT       the text before; none begins a line. Words apart by blanks, as the training text has them
  num_tokens=100    tokens to add
  temperature=1.0   below 1 the likely words become likelier; 0 always takes the likeliest
  top_k=null        draw among so many of the likeliest alone
  seed=0            of the draws
  key=value         change the configuration, for example task.data_root=PATH

A word that the model doesn't know is read as <unk>, and named on standard error.
"""

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, number
from memnets.check import ConfigError
from memnets.generate import Wanted, generate_text
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError

OWN = ("checkpoint", "prompt", "num_tokens", "temperature", "top_k", "seed")


def main(arguments: list[str]) -> int:
    given = {key: value for key, _, value in (word.partition("=") for word in arguments) if key in OWN}
    if {"-h", "--help"} & set(arguments) or "checkpoint" not in given:
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        wanted = Wanted(
            Path(given["checkpoint"]),
            given.get("prompt", ""),
            number(given, "num_tokens", int, 100),
            number(given, "temperature", float, 1.0),
            number(given, "top_k", int, None),
            number(given, "seed", int, 0),
            [word for word in arguments if word.partition("=")[0] not in OWN],
        )
        generated = generate_text(wanted)
    except (ConfigError, CheckpointError, DataError, UsageError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if generated.unknown:
        print(f"not in the vocabulary, read as <unk>: {' '.join(generated.unknown)}", file=sys.stderr)
    print(generated.text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
