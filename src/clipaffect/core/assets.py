"""Fetch pinned files from packages, and refuse files that do not match their pins."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest

MANIFEST = "manifest.json"


class Member(BaseModel):
    """A file inside a package."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    sha256: str


class Asset(BaseModel):
    """A pinned package and the files wanted from it; without a package, files of this project."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    package: str = ""
    sha256: str = ""
    megabytes: int = 0
    licence: str
    purpose: str
    caution: str = ""
    members: dict[str, Member]

    @property
    def ships(self) -> bool:
        """Whether the files ship with this project, so that nothing has to be fetched."""
        return not self.package


def known_assets() -> dict[str, Asset]:
    """The asset manifest, by name."""
    text = resources.files("clipaffect.core").joinpath("assets.yaml").read_text(encoding="utf-8")
    return {name: Asset.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def _check(path: Path, expected: str, what: str) -> None:
    found = file_digest(path)
    if found != expected:
        raise UserError(
            f"{what} has sha256 {found}, but the pinned value is {expected}",
            where=path.name,
            fix="do not use this file, which differs from the pinned one, and report it",
        )


def asset_file(folder: Path, name: str, file: str) -> Path:
    """A fetched file, or one that ships, verified before use.

    Raises:
        UserError: the file is missing or was changed.
    """
    asset = known_assets()[name]
    if asset.ships:
        path = Path(str(resources.files("clipaffect"))) / asset.members[file].path
    else:
        path = folder / name / file
    if not path.is_file():
        raise UserError(
            f"the asset file {file} is missing", where=path, fix="rerun the rule fetch_asset"
        )
    _check(path, asset.members[file].sha256, f"the asset file {file}")
    return path
