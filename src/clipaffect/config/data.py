"""Settings of the data set: where videos, crops and annotations lie."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from clipaffect.config.section import Section
from clipaffect.tasks import TaskName

DEMO_VIDEOS = "resources/demo/videos"


class Subset(Section):
    """A few videos of each split, for a quick look before the long run."""

    train: int = Field(
        ge=1,
        description="Videos of the training split: as few as show every class, then the first by "
        "name. More, if every class needs more.",
    )
    validation: int = Field(ge=1, description="Videos of the validation split, chosen alike.")
    frames: int | None = Field(
        None, ge=1, description="Use only the first so many frames of each video."
    )


class SplitFiles(Section):
    """One file for each split."""

    train: str = Field(description="Of the training split.")
    validation: str = Field(description="Of the validation split.")


class Data(Section):
    """Where the videos, crops and annotations are."""

    format: Literal["aff_wild2"] = Field(
        "aff_wild2", description="How the data lies on disk; see docs/data.md."
    )
    videos: str | None = Field(
        None,
        description="Folder with the videos, searched with its subfolders. Without `videos` and "
        f"`images` it is the demo's, {DEMO_VIDEOS}.",
    )
    images: tuple[str, ...] = Field(
        (),
        description="Folders that hold the organisers' crops, `<video>/00001.jpg`, at any depth. A "
        "person with crops needs no video; of folders of one name the first root's is used.",
    )
    annotations: str = Field(
        "resources/demo/annotations", description="Folder that holds the challenge's folders."
    )
    multitask: SplitFiles | None = Field(
        None,
        description="The multi-task challenge's two annotation files, instead of `annotations`.",
    )
    test: dict[TaskName, str] = Field(
        default_factory=dict,
        description="By task, the videos to predict for a submission: the organisers' sample file, "
        "or a text file with a video's name in each line.",
    )
    frame_lists: dict[TaskName, SplitFiles] = Field(
        default_factory=dict,
        description="By task, published lists of frames (a path and its label in each line) to "
        "compare with what was found.",
    )
    edition: int | None = Field(
        None,
        ge=1,
        description="Edition of the ABAW challenge that the annotations come from, if any: stated "
        "in the report, since the splits differ between editions.",
    )
    shards: int = Field(
        4, ge=1, le=4096, description="Parts the videos are dealt to; each is one job per stage."
    )
    subset: Subset | None = Field(None, description="Use a few videos only.")
    licensed: bool = Field(
        False,
        description="Whether the data's licence forbids redistribution: then the report shows no "
        "pictures of people, and `clipaffect dvc-run` keeps every output from DVC's remotes.",
    )
    may_push: bool = Field(
        False, description="Whether what is made from licensed data may go to a DVC remote."
    )

    @property
    def frame_limit(self) -> int:
        """How many first frames of each video are used; 0 for all."""
        return (self.subset.frames if self.subset else None) or 0

    @model_validator(mode="before")
    @classmethod
    def _demo(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if isinstance(values.get("images"), str):  # one root needs no list
            values = values | {"images": [values["images"]]}
        own = ("videos", "images", "annotations", "multitask")
        return values if any(values.get(key) for key in own) else values | {"videos": DEMO_VIDEOS}

    @model_validator(mode="after")
    def _something_to_see(self) -> Data:
        if not self.videos and not self.images:
            raise ValueError("needs 'videos' or 'images' beside the annotations")
        return self
