"""Find labelled videos whose labels may have been counted without the frames that are damaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from clipaffect.core.container import stated_frames
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.progress import Progress
from clipaffect.core.video import read_frames
from clipaffect.dataset.summary import searched_videos
from clipaffect.dataset.tree import Tree

SHORTER = 0.05  # of a video: labels that end earlier do not end because of lost frames


@dataclass(frozen=True)
class LostFrames:
    """A video whose frames are more than those that can be decoded.

    Attributes:
        video: its name.
        frames: as the container lists them; rows are numbered by these.
        decoded: how many of them can be decoded.
        labelled: the last frame with a label.
    """

    video: str
    frames: int
    decoded: int
    labelled: int

    def note(self) -> str:
        """The finding as a sentence."""
        said = (
            f"{self.video}: {self.decoded:,} of {self.frames:,} frames can be decoded, and the "
            f"labels end at frame {self.labelled:,}."
        )
        if self.labelled == self.decoded:
            said += (
                " The labels were probably counted without the lost frames. If so, all labels "
                "after the first lost frame are shifted (see docs/recordings.md)."
            )
        return said


def lost_frames(tree: Tree, labels: Iterable[pd.DataFrame]) -> list[LostFrames]:
    """Labelled videos that extend slightly beyond their last label and cannot be decoded whole.

    Only these are decoded: labels that reach the last frame were counted with every frame.
    """
    last = pd.concat([rows[["video", "frame"]] for rows in labels]).groupby("video")["frame"].max()
    suspects = {}
    for video in searched_videos(tree):
        if labelled := int(last.get(video, 0)):
            frames = stated_frames(tree.videos[video])
            if 0 < frames - labelled <= SHORTER * frames:
                suspects[video] = frames
    found: list[LostFrames] = []
    if not suspects:
        return found
    with Progress("frames", sum(suspects.values())) as progress:
        for video, frames in suspects.items():
            decoded = 0
            for frame in read_frames(tree.videos[video]):
                decoded += frame.outcome is FrameStatus.OK
                progress.advance()
            if decoded < frames:
                found.append(LostFrames(video, frames, decoded, int(last[video])))
    return found
