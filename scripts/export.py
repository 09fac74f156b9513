"""Export a reader with its memory, to be asked and edited: `python scripts/export.py checkpoint=runs/NAME out=FOLDER`.

  checkpoint=PATH   a run folder (the checkpoint that was tested) or one checkpoint folder, of experiment=people_qa,
                    people_generation or squad_reading; of the last, trained with passages given, task/relevance=hybrid
  out=FOLDER        what is written: weights (safetensors), memory, configuration (YAML), a manifest with checksums
  overwrite=true    replace a folder that is there, and what people wrote into its memory
  key=value         change the configuration, for example task/selection=top_3 task.relevance_weight=0.5

A pretrained encoder is named, not copied: where the folder is opened, the same one must be found. Asks the new folder a
question before it takes its place. Exit codes: 0 done; 2 arguments, checkpoint, encoder or folder at fault.
"""

import sys
from pathlib import Path

from memnets.check import ConfigError
from memnets.serving.export import export
from memnets.serving.folder import FolderError
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError

OWN = ("checkpoint", "out", "overwrite")


def main(arguments: list[str]) -> int:
    given = {key: value for key, _, value in (word.partition("=") for word in arguments) if key in OWN}
    if {"-h", "--help"} & set(arguments) or not {"checkpoint", "out"} <= given.keys():
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    overrides = [word for word in arguments if word.partition("=")[0] not in OWN]
    out, overwrite = Path(given["out"]), given.get("overwrite", "false").lower()
    try:
        if overwrite not in ("true", "false"):
            raise ValueError(f"overwrite={overwrite}: expected true or false")
        said = export(Path(given["checkpoint"]), out, overrides, overwrite == "true")
    except (FolderError, ConfigError, CheckpointError, DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"exported  {out}\nasked     {said}\nask more  python scripts/ask.py folder={out} [--serve]")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
