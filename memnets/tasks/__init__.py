"""One file per task: its data, loss, metrics and a hand-coded oracle."""
