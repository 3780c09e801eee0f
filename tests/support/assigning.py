"""The decisions of the dataset stage about frames in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow_lib.frames.frame import Frame, single_reference
from workflow_lib.frames.table import frames_to_table
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.dataset.assign import category
from workflow_lib.stages.dataset.decide import decide
from workflow_lib.stages.dataset.index import labelled_frames, make_index
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.source import Source


@dataclass(frozen=True, slots=True)
class SetAside:
    """A frame that is not used, and why."""

    frame_id: str
    reason: str

    @property
    def category(self) -> str:
        """The kind of reason, without the numbers of this frame."""
        return category(self.reason)


def in_memory(frames: Sequence[Frame]) -> Source:
    """Return frames of one level as a source."""
    level = single_reference(frames, "one list of frames")
    return Source("frames in memory", frames_to_table(frames), level)


def assign(
    frames: Sequence[Frame], rule: RedoxRule, host: Host | None, settings: DatasetSettings
) -> tuple[list[Frame], list[SetAside]]:
    """Return the frames kept, with charge states and keys, and those set aside, both in order."""
    source = in_memory(frames)
    index = decide(make_index(source, rule, host, settings), source, settings)
    aside = index.rows.loc[~index.kept, ["frame_id", "reason"]]
    return (
        labelled_frames(source, index, np.flatnonzero(index.kept)),
        [SetAside(*row) for row in aside.itertuples(index=False)],
    )
