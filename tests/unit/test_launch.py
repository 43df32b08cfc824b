"""What is said of a cluster before any job waits in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, only_commands

from clipaffect.core.errors import UserError
from clipaffect.ops.launch import launch, sorted_out

SINFO = """#!/bin/sh
printf 'cpu\\nlong\\n'
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a cluster with the partitions cpu and long; whoever submits fails the test."""
    only_commands(tmp_path, monkeypatch, {"sinfo": SINFO, "sbatch": "#!/bin/sh\nexit 9\n"})
    return tmp_path


def test_a_machine_without_slurm_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for words in (["--profile", str(ROOT / "profiles/slurm")], ["--executor", "slurm"]):
        with pytest.raises(UserError, match="sbatch is not on the path"):
            launch(words)


def test_a_partition_that_is_not_there_is_named_beside_those_that_are(cluster: Path) -> None:
    with pytest.raises(UserError, match="no partition gpu; available: cpu, long") as raised:
        launch(["--profile", str(ROOT / "profiles/slurm")])
    assert raised.value.where.endswith("profile.yaml: slurm_partition")
    with pytest.raises(UserError, match="no partition gpu or short"):
        launch(
            [
                "--profile",
                str(ROOT / "profiles/slurm"),
                "--default-resources",
                "slurm_partition=short",
            ]
        )


@pytest.mark.parametrize(
    ("given", "passed", "files"),
    [
        (["--configfile", "a.yaml", "all"], ["--configfile", "a.yaml", "--", "all"], ["a.yaml"]),
        (["--configfile=a.yaml", "all"], ["--configfile=a.yaml", "all"], ["a.yaml"]),
        (["--configfile", "a.yaml", "b.yaml"], None, ["a.yaml", "b.yaml"]),
        (
            ["--configfile", "a.yaml", "all", "model", "--cores", "2"],
            ["--configfile", "a.yaml", "--cores", "2", "--", "all", "model"],
            ["a.yaml"],
        ),
        (["--configfile", "no.yaml", "--cores", "2"], None, ["no.yaml"]),
        (["--cores", "2", "--configfiles", "a.yaml", "--", "all"], None, ["a.yaml"]),
        (["all"], None, []),
    ],
)
def test_a_target_behind_a_configuration_file_is_a_target(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    passed: list[str] | None,
    files: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()
    assert sorted_out(given) == (passed or given, [Path(name) for name in files])


@pytest.mark.parametrize("given", [["--configfile", "a.yaml", "all"], ["--configfile=a.yaml"]])
def test_a_wrong_configuration_is_said_before_snakemake_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("training: {epoch: 3}\n")
    with pytest.raises(UserError, match="epoch"):
        launch(given)
