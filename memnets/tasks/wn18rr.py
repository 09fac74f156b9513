"""Link prediction in WordNet: which word sense is the other end?"""

from __future__ import annotations

from dataclasses import dataclass

from memnets.files import data_root
from memnets.tasks.link_files import LinkFiles
from memnets.tasks.link_prediction import LinkPrediction
from memnets.tasks.wn18rr_files import read_wn18rr


@dataclass(frozen=True, kw_only=True)
class WN18RR(LinkPrediction):
    """Edges between 40,943 word senses in 11 relations, none the inverse of another (arXiv:1707.01476, section 5)."""

    @property
    def _files(self) -> LinkFiles:
        return read_wn18rr(data_root(self.data_root), self.verify_checksum)
