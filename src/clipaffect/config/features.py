"""Settings of features that are imported, or joined from several encoders."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from clipaffect.config.section import Section, folder_name


class FeatureFile(Section):
    """A file of features, and the frames that its rows belong to."""

    file: str = Field(description="HDF5 (.h5, .hdf5), NumPy (.npy) or Parquet (.parquet).")
    frames: str | None = Field(
        None,
        description="Text file with the frame of each row, in order, as `video/00001.jpg` or the "
        "path of an image; the rest of a line (a label) is ignored. A Parquet file may have the "
        "columns `image`, or `video` and `frame`, instead.",
    )
    dataset: str | None = Field(
        None, description="For HDF5: name of the data set; by default the only one in the file."
    )


class Features(Section):
    """Imported and joined features."""

    imported: dict[
        Annotated[str, AfterValidator(folder_name)],
        Annotated[tuple[FeatureFile, ...], Field(min_length=1)],
    ] = Field(
        default_factory=dict,
        alias="import",
        description="By name, feature files to use instead of an encoder: no images are needed. "
        "If `encoders` is not set as well, nothing is embedded.",
    )

    join: dict[
        Annotated[str, AfterValidator(folder_name)],
        Annotated[tuple[str, ...], Field(min_length=2)],
    ] = Field(
        default_factory=dict,
        description="By name, encoders whose features are concatenated, each scaled to a root mean "
        "square of 1. Heads can be trained on the result, or it can be compared.",
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
