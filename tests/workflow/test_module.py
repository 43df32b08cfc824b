"""The rules as a module of another workflow, with the installed package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ASSETS, ROOT, asset, micro_anywhere, snakemake

import clipaffect

HOST = f"""
module clipaffect:
    snakefile: "{ROOT}/Snakefile"
    config: config["clipaffect"]

use rule * from clipaffect

rule table_of_mine:
    input:
        "results/micro/report/metrics.json",
    output:
        "mine.txt",
    shell:
        "env > {{output}}; cat {{input}} >> /dev/null"
"""


def host(folder: Path) -> Path:
    """A folder of somebody else's workflow, which uses the rules on the demo's videos."""
    folder.mkdir(exist_ok=True)
    (folder / "Snakefile").write_text(HOST)
    config = micro_anywhere()
    config["paths"] = {"assets": str(ASSETS)}
    (folder / "config.yaml").write_text(yaml.safe_dump({"clipaffect": config}))
    return folder


def test_another_workflow_uses_the_rules(micro_run: Path, tmp_path: Path) -> None:
    asset("face-networks")
    place = host(tmp_path / "host")
    (place / "store").symlink_to(micro_run / "store")
    snakemake(place, "mine.txt", "--configfile", "config.yaml")
    ours, theirs = (
        json.loads((folder / "results/micro/report/metrics.json").read_text())["tasks"]
        for folder in (place, micro_run)
    )
    assert ours == theirs
    # The host's own jobs run as if the rules were not there.
    environment = (place / "mine.txt").read_text()
    for name in ("CLIPAFFECT_STORE", "CLIPAFFECT_ASSETS", "PYTHONPATH"):
        assert f"\n{name}=" not in environment


def test_another_version_of_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = host(tmp_path / "host")
    other = place / "other/clipaffect"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "9.9.9"\n')
    monkeypatch.setenv("PYTHONPATH", str(place / "other"))
    done = snakemake(
        place, "-n", "--configfile", "config.yaml", check=False, program=sys.executable
    )
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"from clipaffect {clipaffect.__version__}, but the package is 9.9.9" in said
    assert f"fix: pip install {ROOT}" in said


def test_the_rules_know_the_version_of_their_package() -> None:
    rules = (ROOT / "workflow/rules/common.smk").read_text()
    assert f'\nVERSION = "{clipaffect.__version__}"\n' in rules
