"""Settings of the ``prediction`` section: videos to answer by ``snakemake predict``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipaffect.config.section import Section


class Prediction(Section):
    """Videos to be answered by a trained model; no result of the run itself depends on it."""

    videos: tuple[str, ...] = Field(
        (), description="Videos, images, or folders of them, for `snakemake predict`."
    )
    model: str | None = Field(
        None, description="A bundle of `clipaffect export`; by default this run's own heads."
    )
    people: Literal["all", "main"] = Field(
        "all", description="Everybody, or the one whose face fills most of each video."
    )
    rate: float | None = Field(
        None, gt=0, description="Look at so many frames a second; by default as in training."
    )
    heads: bool = Field(False, description="Write the scores of every single head too.")
    pictures: bool = Field(True, description="Whether pages may show the videos and their faces.")
    shards: int = Field(4, ge=1, le=10_000, description="Jobs that the files are dealt to.")
