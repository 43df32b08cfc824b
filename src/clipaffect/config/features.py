"""Settings of features that no encoder makes by itself: from elsewhere, or joined."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from clipaffect.config.section import Section, folder_name


class FeatureFile(Section):
    """One file of features and the frames that its rows belong to."""

    file: str = Field(description="HDF5 (.h5, .hdf5), NumPy (.npy) or Parquet (.parquet).")
    frames: str | None = Field(
        None,
        description="Text file: the frame of each row, in order, as `video/00001.jpg` or an "
        "image's path; what follows it in the line (a label) is not read. Parquet may have the "
        "columns `image`, or `video` and `frame`, instead.",
    )
    dataset: str | None = Field(
        None, description="HDF5: which data set; by default the only one there is."
    )


class Features(Section):
    """Features from elsewhere, and joined ones."""

    imported: dict[
        Annotated[str, AfterValidator(folder_name)],
        Annotated[tuple[FeatureFile, ...], Field(min_length=1)],
    ] = Field(
        default_factory=dict,
        alias="import",
        description="By name, files of features that take the place of an encoder: no image is "
        "looked at. Without `encoders` beside them nothing is embedded at all.",
    )

    join: dict[
        Annotated[str, AfterValidator(folder_name)],
        Annotated[tuple[str, ...], Field(min_length=2)],
    ] = Field(
        default_factory=dict,
        description="By name, encoders whose features are put side by side, each scaled to a root "
        "mean square of 1: another encoder to train heads on or to compare.",
    )

    def files(self, name: str) -> list[str]:
        """Every file of an import: features, and the lists of their frames."""
        return [path for part in self.imported[name] for path in (part.file, part.frames) if path]

    @field_validator("imported", mode="before")
    @classmethod
    def _one_needs_no_list(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: [v] if isinstance(v, dict) else v for name, v in values.items()}
