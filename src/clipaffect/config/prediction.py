"""Settings of the ``prediction`` section: videos to process with ``snakemake predict``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipaffect.config.section import Section


class Prediction(Section):
    """Videos to process with a trained model; the run's own results do not depend on it."""

    videos: tuple[str, ...] = Field(
        (), description="Videos, images, or folders of them, to process with `snakemake predict`."
    )
    model: str | None = Field(
        None,
        description="Folder written by `clipaffect export-model`; by default this run's own heads.",
    )
    people: Literal["all", "main"] = Field(
        "all", description="Everyone, or only the person whose face fills most of each video."
    )
    rate: float | None = Field(
        None, gt=0, description="Frames to sample per second; by default as in training."
    )
    heads: bool = Field(False, description="Also write the scores of each individual head.")
    pictures: bool = Field(True, description="Show the videos and their faces on the pages.")
    landmarks: bool = Field(False, description="Also write all points of the face mesh.")
    overlay: bool = Field(
        False, description="Also write a copy of each video with the predictions drawn in."
    )
    groups: str | None = Field(
        None,
        description="A table with a column `file` and columns of your own, which are added to the "
        "tables of all frames and of people.",
    )
    shards: int = Field(4, ge=1, le=10_000, description="Jobs that the files are divided among.")
