"""Pinned downloads: only what was pinned is ever used."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from clipaffect.core import assets, fetch_asset
from clipaffect.core.errors import UserError

CONTENT = b"weights"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with one small package in it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    package = folder / "tinyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("tinyweights/w.bin", CONTENT)
        info = "tinyweights-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return package


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path, **changes: str) -> None:
    values = {
        "package": "tinyweights==1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "member": hashlib.sha256(CONTENT).hexdigest(),
    } | changes
    asset = assets.Asset(
        package=values["package"],
        sha256=values["sha256"],
        megabytes=1,
        licence="CC0",
        purpose="a test",
        members={"w.bin": assets.Member(path="tinyweights/w.bin", sha256=values["member"])},
    )
    for module in (assets, fetch_asset):
        monkeypatch.setattr(module, "known_assets", lambda: {"tiny": asset})


def test_a_pinned_file_arrives(registry: Path, tmp_path: Path, monkeypatch) -> None:
    pin(monkeypatch, registry)
    manifest = fetch_asset.fetch_asset("tiny", tmp_path / "assets/tiny")
    assert json.loads(manifest.read_text())["asset"] == "tiny"
    assert assets.asset_file(tmp_path / "assets", "tiny", "w.bin").read_bytes() == CONTENT
    assert {p.name for p in manifest.parent.iterdir()} == {"manifest.json", "w.bin"}


@pytest.mark.parametrize("pinned", ["sha256", "member"])
def test_another_file_is_refused(registry: Path, tmp_path: Path, monkeypatch, pinned: str) -> None:
    pin(monkeypatch, registry, **{pinned: "0" * 64})
    with pytest.raises(UserError, match="the pinned value is 0000"):
        fetch_asset.fetch_asset("tiny", tmp_path / "tiny")
    assert not list((tmp_path / "tiny").iterdir())


def test_no_download_names_the_mend(registry: Path, tmp_path: Path, monkeypatch) -> None:
    pin(monkeypatch, registry, package="tinyweights==9.9")
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        fetch_asset.fetch_asset("tiny", tmp_path / "tiny")
    assert "check the network" in caught.value.fix


def test_a_file_that_was_changed_later_is_refused(
    registry: Path, tmp_path: Path, monkeypatch
) -> None:
    pin(monkeypatch, registry)
    fetch_asset.fetch_asset("tiny", tmp_path / "tiny")
    (tmp_path / "tiny/w.bin").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"the asset file w\.bin has sha256"):
        assets.asset_file(tmp_path, "tiny", "w.bin")
    (tmp_path / "tiny/w.bin").unlink()
    with pytest.raises(UserError, match="is missing"):
        assets.asset_file(tmp_path, "tiny", "w.bin")


def test_the_manifest_is_pinned_throughout() -> None:
    for asset in assets.known_assets().values():
        package = [] if asset.ships else [asset.sha256]
        for digest in (*package, *(member.sha256 for member in asset.members.values())):
            assert len(digest) == 64
            int(digest, 16)
        assert asset.ships or "==" in asset.package
