"""The files of a data set in any format: videos, images, crops and annotated people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from clipaffect.dataset.files import CropFolders, natural_order
from clipaffect.dataset.test_list import TestList


@dataclass(frozen=True)
class Annotation:
    """One person in one video (or image) who has labels of one task.

    Attributes:
        path: of the file that holds the labels.
        task: its name.
        split: ``train``, ``validation``, or '' where splits are made.
        video: the name of the video or image.
        person: '', 'left' or 'right'.
    """

    path: Path
    task: str
    split: str
    video: str
    person: str


@dataclass(frozen=True)
class Tree:
    """The files on disk.

    Attributes:
        videos: video files by name.
        crops: folders of crops by name.
        annotations: one for each person, video and task.
        test: by task, what is to be predicted.
        images: single images by name; each is a video of one frame.
        notes: sentences for the reader of the report.
        other_files: files among the annotations that are none.
        root: that the names are relative to; None where they are looked for below folders.
        named: who is in each video or image, by ``folder_name``; None if it is not known for all.
        names_some: whether it is known for some, and groups are joined accordingly.
        joins_people: whether a group that splits keep together has several of the people.
    """

    videos: dict[str, Path]
    crops: CropFolders
    annotations: list[Annotation]
    test: dict[str, TestList] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    other_files: tuple[Path, ...] = ()
    root: Path | None = None
    named: dict[str, set[str]] | None = None
    names_some: bool = False
    joins_people: bool = False

    @property
    def unit(self) -> str:
        """What splits keep together, and intervals and tests count, for a reader."""
        if self.named is not None:
            return "groups of people" if self.joins_people else "people"
        unit = "images" if self.images else "source videos"
        if self.images and self.videos:
            unit = "source videos or images"
        return f"people, {unit}" if self.names_some else unit

    def people(self) -> dict[str, list[str]]:
        """All videos that are annotated or to be predicted, in natural order, with their people."""
        found: dict[str, set[str]] = defaultdict(set)
        for annotation in self.annotations:
            found[annotation.video].add(annotation.person)
        for listed in self.test.values():
            for video, person in listed.people():
                found[video].add(person)
        return {video: sorted(found[video]) for video in sorted(found, key=natural_order)}

    def crop_folder(self, video: str, person: str) -> Path | None:
        """The folder of a person's crops, if any."""
        return self.crops.used.get(folder_name(video, person))

    def is_missing(self, video: str, person: str) -> bool:
        """Whether a person has no crops and no video or image."""
        return (
            video not in self.videos
            and video not in self.images
            and self.crop_folder(video, person) is None
        )


def folder_name(video: str, person: str) -> str:
    """The name of a person's folder of crops, annotation file and rows in a submission."""
    return f"{video}_{person}" if person else video
