"""The one training loop and what it stands on: checkpoints, logging, distribution, schedules."""
