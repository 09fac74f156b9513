"""Link prediction in a graph of families: whose relation is missing?"""

from __future__ import annotations

from dataclasses import dataclass

from memnets.files import data_root
from memnets.tasks.family_files import read_family
from memnets.tasks.link_files import LinkFiles
from memnets.tasks.link_prediction import LinkPrediction


@dataclass(frozen=True, kw_only=True)
class Family(LinkPrediction):
    """Kinship of 3,007 people in 12 relations: the files of Neural LP (Yang, Yang & Cohen 2017, arXiv:1702.08367)."""

    @property
    def _files(self) -> LinkFiles:
        return read_family(data_root(self.data_root), self.verify_checksum)
