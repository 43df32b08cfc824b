"""No job reads what its rule does not declare.

Each job runs in a shadow folder that holds its declared inputs alone, whatever library opens them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ASSETS, asset, micro_anywhere, result_files, snakemake, workplace

SNAKEFILE = """
include: "Snakefile"
for own in workflow.rules:
    if not own.norun:
        own.shadow_depth = "minimal"
"""


def shadow_run(micro_run: Path, folder: Path, *targets: str) -> Path:
    """The micro run made once more, every job alone with its inputs, from the same store."""
    place = workplace(folder / "run")
    shutil.copytree(micro_run / "store", place / "store")
    (place / "shadow.smk").write_text(SNAKEFILE)
    config = micro_anywhere()
    config["paths"] = {"store": str(place / "store"), "assets": str(ASSETS)}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    snakemake(place, *targets, "--snakefile", "shadow.smk", "--configfile", "config.yaml")
    return place


def test_no_job_of_a_run_reads_what_its_rule_does_not_declare(
    micro_run: Path, tmp_path: Path
) -> None:
    asset("face-networks")
    place = shadow_run(micro_run, tmp_path, "all", "model")
    evaluated = "results/micro/evaluation"
    assert result_files(place / evaluated) == result_files(micro_run / evaluated)


@pytest.mark.slow  # trains the heads of every study: some minutes
def test_nor_does_a_job_of_a_study(micro_run: Path, tmp_path: Path) -> None:
    place = shadow_run(micro_run, tmp_path, "studies")
    assert (place / "results/micro/studies/index.html").exists()
