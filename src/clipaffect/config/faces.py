"""Settings of the ``faces`` section: which frames, which faces, which crops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clipaffect.config.section import Section


class Quality(Section):
    """What a face must be to count; by default every face that is found does."""

    eye_distance: float = Field(
        0, ge=0, description="Least distance of the eyes in pixels of the video."
    )
    sharpness: float = Field(
        0, ge=0, description="Least variance of the crop's Laplacian; it depends on `size`."
    )
    yaw: float = Field(90, gt=0, le=90, description="Most degrees turned to a side.")
    pitch: float = Field(90, gt=0, le=90, description="Most degrees up or down.")
    visible: float = Field(
        0, ge=0, le=1, description="Least share of the landmarks inside the picture."
    )


class Faces(Section):
    """Detection, alignment and cropping."""

    stride: int = Field(
        1, ge=1, description="Look at every `stride`-th frame, of videos and of folders of crops."
    )
    rate: float | None = Field(
        None,
        gt=0,
        description="Look at this many frames a second of each video (by its own times), instead "
        "of `stride`.",
    )
    detect_every: int = Field(
        5,
        ge=1,
        description="Search every so many frames for new faces; between, known faces are "
        "followed, and searched for at once where one is lost.",
    )
    smallest: int = Field(
        40,
        ge=0,
        description="Side in pixels from which faces are searched for, in tiles of a large "
        "picture; 0: what is found in the whole picture (from 0.15 of its longer side).",
    )
    min_score: float = Field(0.5, gt=0, lt=1, description="Detector score a face must reach.")
    min_presence: float = Field(
        0.5, gt=0, lt=1, description="Landmark network's face score a face must reach."
    )
    crop: Literal["aligned", "cropped"] = Field(
        "aligned",
        description="`aligned`: five points on a template; `cropped`: the box with a margin.",
    )
    size: int = Field(224, ge=32, le=1024, multiple_of=8, description="Crop side in pixels.")
    margin: float = Field(
        0.25, ge=0, le=2, description="Margin around the box of a `cropped` crop, in box sides."
    )
    quality: Quality = Field(
        default_factory=Quality, description="Faces that fall short get a status of their own."
    )

    @model_validator(mode="after")
    def _one_sampling(self) -> Faces:
        if self.rate is not None and self.stride != 1:
            raise ValueError("give 'stride' or 'rate', not both")
        return self

    def at_rate(self, rate: float | None) -> Faces:
        """The same, but looked at ``rate`` times a second; None leaves the sampling alone."""
        if rate is None:
            return self
        return Faces.model_validate(self.model_dump() | {"stride": 1, "rate": rate})
