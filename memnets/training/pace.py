"""How long a run has trained, and how fast."""

from __future__ import annotations

import time


class Pace:
    """A clock that goes on from `seconds` of earlier sessions, and the speed since it was last asked.

    Args:
        seconds: trained before.
        sequences: seen before.
    """

    def __init__(self, seconds: float = 0.0, sequences: int = 0) -> None:
        now = time.monotonic()
        self._began, self._asked, self._sequences = now - seconds, now, sequences

    @property
    def seconds(self) -> float:
        """Seconds of training, over all sessions."""
        return time.monotonic() - self._began

    def since_last(self, sequences: int) -> float:
        """Sequences per second since this was last asked, of `sequences` in all."""
        now = time.monotonic()
        speed = (sequences - self._sequences) / (now - self._asked)
        self._asked, self._sequences = now, sequences
        return speed
