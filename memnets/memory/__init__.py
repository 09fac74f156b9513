"""In-model memory mechanisms: addressing, access, and one file per Transformer memory in `slots`."""
