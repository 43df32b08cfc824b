"""Settings of the ``faces`` section: frames to sample, faces to accept, crops to make."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clipaffect.config.section import Section


class Quality(Section):
    """Minimum quality of a face; by default every detected face is accepted."""

    eye_distance: float = Field(
        0, ge=0, description="Minimum distance between the eyes, in pixels of the video."
    )
    sharpness: float = Field(
        0, ge=0, description="Minimum variance of the crop's Laplacian, which depends on `size`."
    )
    yaw: float = Field(90, gt=0, le=90, description="Maximum turn to either side, in degrees.")
    pitch: float = Field(90, gt=0, le=90, description="Maximum tilt up or down, in degrees.")
    visible: float = Field(
        0, ge=0, le=1, description="Minimum share of the landmarks inside the image."
    )


class Faces(Section):
    """Detection, alignment and cropping."""

    stride: int = Field(
        1, ge=1, description="Sample every `stride`-th frame of videos and folders of crops."
    )
    rate: float | None = Field(
        None,
        gt=0,
        description="Sample this many frames per second of each video (by its timestamps), instead "
        "of every `stride`-th.",
    )
    detect_every: int = Field(
        5,
        ge=1,
        description="Run the detector every this many frames. In between, known faces are tracked; "
        "if one is lost, the detector runs at once.",
    )
    smallest: int = Field(
        40,
        ge=0,
        description="Smallest face to search for, by its side in pixels; large images are searched "
        "in tiles. 0: search only the whole image (faces from 0.15 of its longer side).",
    )
    min_score: float = Field(0.5, gt=0, lt=1, description="Minimum detector score of a face.")
    min_presence: float = Field(
        0.5, gt=0, lt=1, description="Minimum face score of the landmark network."
    )
    crop: Literal["aligned", "cropped"] = Field(
        "aligned",
        description="`aligned`: map five points onto a template; `cropped`: the box with a margin.",
    )
    size: int = Field(224, ge=32, le=1024, multiple_of=8, description="Side of a crop in pixels.")
    margin: float = Field(
        0.25, ge=0, le=2, description="For `cropped`: margin around the box, relative to its side."
    )
    quality: Quality = Field(
        default_factory=Quality, description="Minimum quality; other faces get a separate status."
    )

    @model_validator(mode="after")
    def _one_sampling(self) -> Faces:
        if self.rate is not None and self.stride != 1:
            raise ValueError("give 'stride' or 'rate', not both")
        return self

    def at_rate(self, rate: float | None) -> Faces:
        """The same settings, sampled ``rate`` times per second; None keeps the sampling."""
        if rate is None:
            return self
        return Faces.model_validate(self.model_dump() | {"stride": 1, "rate": rate})
